package listing

import (
	"fmt"
	"strings"

	"go.einride.tech/aip/ordering"
)

// parseOrder gives the terms of an order_by, ending with the key, or what is
// wrong with it.
func (l *List[T]) parseOrder(orderBy string) ([]term, string) {
	if len(orderBy) > maxOrderBy {
		return nil, fmt.Sprintf("must have at most %d characters", maxOrderBy)
	}
	var parsed ordering.OrderBy
	if err := parsed.UnmarshalString(orderBy); err != nil {
		return nil, `must be field names with " desc" after those to turn round, divided by commas`
	}
	var order []term
	seen := map[string]bool{}
	for _, p := range parsed.Fields {
		f, ok := l.spec.Fields[p.Path]
		if !ok || f.Sort == nil {
			return nil, fmt.Sprintf("cannot sort by %.50q; there are: %s", p.Path, l.sortable())
		}
		if seen[p.Path] {
			return nil, fmt.Sprintf("names %s twice", p.Path)
		}
		seen[p.Path] = true
		order = append(order, term{column: f.Column, typ: f.Type, field: p.Path, desc: p.Desc})
		if f.Column == l.spec.Key {
			return order, "" // what follows the key never decides
		}
	}
	key := term{column: l.spec.Key, typ: String}
	if len(order) > 0 {
		key.desc = order[len(order)-1].desc // the direction in which one index serves both
	}
	return append(order, key), ""
}

func (l *List[T]) sortable() string {
	var names []string
	for name, f := range l.spec.Fields {
		if f.Sort != nil {
			names = append(names, name)
		}
	}
	return oneOf(names)
}

// beyond gives the condition for rows after the one with these values.
func beyond(order []term, last []any) (string, []any) {
	same := true
	for _, t := range order {
		same = same && t.desc == order[0].desc
	}
	if same { // rows compare like words; an index can begin right there
		columns := make([]string, len(order))
		for i, t := range order {
			columns[i] = t.column
		}
		op := " > ("
		if order[0].desc {
			op = " < ("
		}
		return "(" + strings.Join(columns, ", ") + ")" + op + strings.Repeat("?, ", len(order)-1) + "?)", last
	}
	var (
		b    strings.Builder
		args []any
	)
	for i, t := range order {
		if i > 0 {
			b.WriteString(" OR ")
		}
		b.WriteString("(")
		for j, before := range order[:i] {
			b.WriteString(before.column + " = ? AND ")
			args = append(args, last[j])
		}
		b.WriteString(t.column + t.after() + ")")
		args = append(args, last[i])
	}
	return "(" + b.String() + ")", args
}
