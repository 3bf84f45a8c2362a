// Package listing turns the page_size, page_token, filter and order_by of a list
// request into SQL, the same for every service.
//
// A List is declared once: which fields there are, in which columns they lie,
// what callers may do with them. Parse checks a request against it and gives a
// Page, whose SQL goes behind the WHERE of a query:
//
//	page, err := orders.Parse(listing.Query{
//		PageSize: req.GetPageSize(), PageToken: req.GetPageToken(),
//		Filter: req.GetFilter(), OrderBy: req.GetOrderBy(), Owner: auth.Owner(ctx)})
//	…
//	rows, err := db.Query(ctx, `SELECT … FROM orders WHERE `+page.SQL, page.Args...)
//	…
//	found, next := orders.Cut(page, all)
//
// Pages are found by key, not by offset, so that none is slow and rows that come
// and go meanwhile neither shift nor repeat others. Nothing a caller sends becomes
// part of the SQL text: columns come from the declaration, values are arguments.
package listing

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waybill-dev/waybill/platform/errs"
)

// How many rows a page has.
const (
	DefaultPageSize = 50
	MaxPageSize     = 100
)

// How long the parts of a request may be; the contract says the same.
const (
	maxFilter  = 1024
	maxOrderBy = 256
	maxToken   = 2048
)

// A Type is what a field holds.
type Type uint8

// The types. Rows are sorted by String, Int or Time only.
const (
	String Type = iota
	Int
	Bool
	Time
	Enum // compared by name, see Field.Values
)

// A Field is one field of a List.
type Field[T any] struct {
	// Column is an SQL expression, as a rule a column's name. Expressions that may
	// be NULL need a COALESCE: NULL is neither equal nor unequal to anything.
	Column string

	Type Type

	// Values are the names that callers know and what the column holds for them,
	// for an Enum.
	Values map[string]any

	// Sort makes the field one to sort by and gives its value in a row: a string,
	// int64 or time.Time by Type, as the column holds it. The column is NOT NULL.
	Sort func(T) any

	// OnlySort takes the field out of filters.
	OnlySort bool

	// Everything takes the field out of filters of callers who see their own
	// rows only.
	Everything bool
}

// Spec declares a List.
type Spec[T any] struct {
	// Name tells this list's page tokens from those of others, as in "orders".
	Name string

	// Fields are the fields by the names that the contract gives them.
	Fields map[string]Field[T]

	// Order is how rows are sorted unless the request says something else, as in
	// "create_time desc".
	Order string

	// Key is the text column that tells the rows apart, and KeyOf its value in a
	// row. It breaks ties.
	Key   string
	KeyOf func(T) string

	// Owner is the column that holds whose row it is. Without it rows belong to
	// nobody and Query.Owner only binds page tokens.
	Owner string
}

// A List parses list requests and cuts pages. It is safe for concurrent use.
type List[T any] struct {
	spec  Spec[T]
	order []term
}

// New makes a List. It panics when the declaration contradicts itself, which is a
// mistake in the program.
func New[T any](s Spec[T]) *List[T] {
	l := &List[T]{spec: s}
	if s.Name == "" || s.Key == "" || s.KeyOf == nil {
		panic("listing: a list needs Name, Key and KeyOf")
	}
	for name, f := range s.Fields {
		switch {
		case f.Column == "":
			panic(fmt.Sprintf("listing: field %s of %s has no column", name, s.Name))
		case (f.Type == Enum) != (len(f.Values) > 0):
			panic(fmt.Sprintf("listing: field %s of %s: enums have values and others do not", name, s.Name))
		case f.Sort != nil && (f.Type == Bool || f.Type == Enum):
			panic(fmt.Sprintf("listing: field %s of %s cannot be sorted by", name, s.Name))
		}
	}
	order, problem := l.parseOrder(s.Order)
	if problem != "" {
		panic(fmt.Sprintf("listing: order of %s: %s", s.Name, problem))
	}
	l.order = order
	return l
}

// EnumValues gives the names of a protobuf enum with their numbers, for columns
// that hold the number. Each has two names, with and without what all of them begin
// with. The zero value, which is never stored, is left out.
func EnumValues(e protoreflect.EnumDescriptor) map[string]any {
	values := map[string]any{}
	prefix := strings.TrimSuffix(string(e.Values().Get(0).Name()), "UNSPECIFIED")
	for i := range e.Values().Len() {
		if v := e.Values().Get(i); v.Number() != 0 {
			values[string(v.Name())] = int64(v.Number())
			values[strings.TrimPrefix(string(v.Name()), prefix)] = int64(v.Number())
		}
	}
	return values
}

// A Query is what a list request asks for. Owner is the user whose rows it may
// see, "" for callers who see all, as auth.Owner gives it.
type Query struct {
	PageSize  int32
	PageToken string
	Filter    string
	OrderBy   string
	Owner     string
}

// A Page is a Query in SQL.
type Page struct {
	// SQL is the rest of a SELECT after WHERE, or after WHERE … AND: conditions,
	// ORDER BY and LIMIT, with ? marks for Args. It asks for one row more than the
	// page has, to know whether there is another page.
	SQL  string
	Args []any

	size  int
	order []term
	bound [sumLen]byte
}

// term is one part of an order.
type term struct {
	column string
	typ    Type
	field  string // "" for the key
	desc   bool
}

func (t term) after() string {
	if t.desc {
		return " < ?"
	}
	return " > ?"
}

// Parse checks a request. Errors are Invalid and name every field at fault.
func (l *List[T]) Parse(q Query) (*Page, error) {
	var wrong []errs.Field
	bad := func(path, problem string) {
		wrong = append(wrong, errs.Field{Path: path, Problem: problem})
	}
	p := &Page{size: int(q.PageSize), order: l.order}
	switch {
	case q.PageSize < 0:
		bad("page_size", "must not be negative")
	case q.PageSize == 0:
		p.size = DefaultPageSize
	case q.PageSize > MaxPageSize:
		p.size = MaxPageSize
	}
	if q.OrderBy != "" {
		order, problem := l.parseOrder(q.OrderBy)
		if problem != "" {
			bad("order_by", problem)
		}
		p.order = order
	}
	var conditions []string
	if l.spec.Owner != "" && q.Owner != "" {
		conditions, p.Args = append(conditions, l.spec.Owner+" = ?"), append(p.Args, q.Owner)
	}
	if strings.TrimSpace(q.Filter) != "" {
		t := translator[T]{fields: l.spec.Fields, everything: q.Owner == ""}
		if problem := t.translate(q.Filter); problem != "" {
			bad("filter", problem)
		}
		conditions, p.Args = append(conditions, t.sql.String()), append(p.Args, t.args...)
	}
	if len(wrong) > 0 {
		return nil, invalid(wrong)
	}
	p.bound = l.bind(q)
	if q.PageToken != "" {
		last, ok := p.open(q.PageToken)
		if !ok {
			return nil, invalid([]errs.Field{{Path: "page_token",
				Problem: "is not one that was given for this filter, this order_by and this caller; begin again without it"}})
		}
		condition, args := beyond(p.order, last)
		conditions, p.Args = append(conditions, condition), append(p.Args, args...)
	}
	if len(conditions) == 0 {
		conditions = append(conditions, "1 = 1")
	}
	sorted := make([]string, len(p.order))
	for i, t := range p.order {
		sorted[i] = t.column
		if t.desc {
			sorted[i] += " DESC"
		}
	}
	p.SQL = fmt.Sprintf("%s ORDER BY %s LIMIT %d", strings.Join(conditions, " AND "), strings.Join(sorted, ", "), p.size+1)
	return p, nil
}

// Size gives how many rows the page has at most.
func (p *Page) Size() int { return p.size }

// Cut takes what the query gave and gives the rows of the page, and the token of
// the next one, "" if this is the last.
func (l *List[T]) Cut(p *Page, rows []T) (page []T, next string) {
	if len(rows) <= p.size {
		return rows, ""
	}
	rows = rows[:p.size]
	last := make([]any, len(p.order))
	for i, t := range p.order {
		if t.field == "" {
			last[i] = l.spec.KeyOf(rows[p.size-1])
		} else {
			last[i] = l.spec.Fields[t.field].Sort(rows[p.size-1])
		}
	}
	return rows, p.seal(last)
}

// bind is what a page token must fit to: the list and everything of the query
// but the size of its pages.
func (l *List[T]) bind(q Query) [sumLen]byte {
	h := sha256.New()
	for _, s := range []string{l.spec.Name, q.Owner, q.Filter, q.OrderBy} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return [sumLen]byte(h.Sum(nil))
}

func invalid(fields []errs.Field) error {
	problems := make([]string, len(fields))
	for i, f := range fields {
		problems[i] = f.Path + " " + f.Problem
	}
	return errs.E(errs.Invalid, "INVALID_LIST_REQUEST", "%s", strings.Join(problems, "; ")).WithFields(fields...)
}

// storable reports whether both databases take s as text.
func storable(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// oneOf lists names for people.
func oneOf(names []string) string {
	slices.Sort(names)
	return strings.Join(names, ", ")
}
