package sqldb

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// byKey gives rows ordered by key, so that transactions take locks in the same
// order and cannot deadlock, and whether the keys differ from one another. rows
// itself stays as it is; checkRows has seen to its shape.
func byKey(rows [][]any, key []int) (sorted [][]any, unique bool) {
	order := func(a, b []any) int {
		for _, i := range key {
			if c := compare(a[i], b[i]); c != 0 {
				return c
			}
		}
		return 0
	}
	if !slices.IsSortedFunc(rows, order) {
		rows = slices.Clone(rows)
		slices.SortStableFunc(rows, order)
	}
	for i := 1; i < len(rows); i++ {
		if order(rows[i-1], rows[i]) == 0 {
			return rows, false
		}
	}
	return rows, true
}

// compare orders two values of one column.
func compare(a, b any) int {
	if x, ok := a.(string); ok {
		if y, ok := b.(string); ok {
			return strings.Compare(x, y)
		}
	}
	x, errX := plain(a)
	y, errY := plain(b)
	if errX != nil || errY != nil {
		return 0
	}
	switch x := x.(type) {
	case string:
		if y, ok := y.(string); ok {
			return strings.Compare(x, y)
		}
	case int64:
		if y, ok := y.(int64); ok {
			return cmp.Compare(x, y)
		}
	case []byte:
		if y, ok := y.([]byte); ok {
			return bytes.Compare(x, y)
		}
	case time.Time:
		if y, ok := y.(time.Time); ok {
			return cmp.Compare(x.UnixMicro(), y.UnixMicro())
		}
	case bool:
		if y, ok := y.(bool); ok {
			return cmp.Compare(b2i(x), b2i(y))
		}
	}
	return 0
}

// width gives how many values a row of o has.
func (o *op) width() int {
	if o.kind == opUpdateAt {
		return len(o.table.Columns) + 1
	}
	return len(o.table.Columns)
}

// checkRows tells whether each row has a value for each column of its table.
func checkRows(o *op) error {
	for _, row := range o.rows {
		if len(row) != o.width() {
			return fmt.Errorf("sqldb: table %s wants %d values, but a row has %d", o.table.Name, o.width(), len(row))
		}
	}
	return nil
}

// prepared gives the rows of a bulk form in the order in which to send them, and
// refuses what cannot work.
func (f *tableSQL) prepared(o *op) ([][]any, error) {
	if err := checkRows(o); err != nil {
		return nil, err
	}
	updates := o.kind == opUpdate || o.kind == opUpdateAt
	if o.kind != opInsertNew && !updates {
		return o.rows, nil // the order of rows is the order of their ids
	}
	rows, unique := byKey(o.rows, f.key)
	if updates && !unique {
		return nil, fmt.Errorf("%w: table %s: a key is given twice", ErrMissing, f.t.Name)
	}
	return rows, nil
}
