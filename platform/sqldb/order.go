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

// checkRows tells whether each row has a value for each column of t.
func checkRows(t *Table, rows [][]any) error {
	for _, row := range rows {
		if len(row) != len(t.Columns) {
			return fmt.Errorf("sqldb: table %s has %d columns, but a row has %d values", t.Name, len(t.Columns), len(row))
		}
	}
	return nil
}

// prepared gives the rows of a bulk form in the order in which to send them, and
// refuses what cannot work.
func (f *tableSQL) prepared(o *op) ([][]any, error) {
	if err := checkRows(f.t, o.rows); err != nil {
		return nil, err
	}
	if o.kind != opInsertNew && o.kind != opUpdate {
		return o.rows, nil // the order of rows is the order of their ids
	}
	rows, unique := byKey(o.rows, f.key)
	if o.kind == opUpdate && !unique {
		return nil, fmt.Errorf("%w: table %s: a key is given twice", ErrMissing, f.t.Name)
	}
	return rows, nil
}
