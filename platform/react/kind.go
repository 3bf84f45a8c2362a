package react

import (
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// A Ref names one aggregate: its kind and its id.
type Ref struct {
	kind *kind
	ID   string
}

// kind is the untyped half of a Kind, as the reactor handles it.
type kind struct {
	name  string
	table *sqldb.Table

	remembered bool

	row  func(state any) []any
	scan func(s sqldb.Scanner) (id string, e *entry, err error)
}

// A Kind says how aggregates with state S are stored: one row each, in a table of
// the kind's name whose first columns are id (text, primary key), version (bumped
// by every change) and event_seq (events emitted so far), followed by the
// service's own columns.
type Kind[S any] struct{ k *kind }

// NewKind describes a kind of aggregate. Row gives the values of cols for a
// state; scan reads one row and must pass the three managed destinations first:
// s.Scan(append(meta, &own...)...).
func NewKind[S any](name string, cols []sqldb.Column, row func(S) []any, scan func(s sqldb.Scanner, meta ...any) (S, error)) *Kind[S] {
	table := &sqldb.Table{Name: name, Key: []string{"id"}, Columns: append([]sqldb.Column{
		{Name: "id", Type: sqldb.Text},
		{Name: "version", Type: sqldb.Int},
		{Name: "event_seq", Type: sqldb.Int},
	}, cols...), Version: "version"}
	return &Kind[S]{&kind{
		name:  name,
		table: table,
		row:   func(state any) []any { return row(state.(S)) },
		scan: func(s sqldb.Scanner) (string, *entry, error) {
			var id string
			e := &entry{loaded: true, stored: true}
			state, err := scan(s, &id, &e.version, &e.eventSeq)
			e.state, e.was = state, e.version
			return id, e, err
		},
	}}
}

// Remembered says that a process may go by the state that it stored last instead
// of reading the row, and gives k. It is for what many steps follow each other on.
// Two things must hold: a state is never changed in place, not even behind a
// pointer or in a slice, and whoever else writes the rows raises their version.
func (k *Kind[S]) Remembered() *Kind[S] {
	k.k.remembered = true
	return k
}

// Columns lists the table's columns in the order in which scan reads them, for
// queries of the service's own.
func (k *Kind[S]) Columns() []string {
	names := make([]string, len(k.k.table.Columns))
	for i, c := range k.k.table.Columns {
		names[i] = c.Name
	}
	return names
}

// Ref names the aggregate with this id.
func (k *Kind[S]) Ref(id string) Ref { return Ref{k.k, id} }

// Get gives the aggregate as this step sees it, and whether it exists. While
// needs are being named, an aggregate not loaded yet counts as absent; in a step,
// reading one that was not named is a fault of the step and panics.
func (k *Kind[S]) Get(v *View, id string) (S, bool) {
	var none S
	state, ok := v.get(k.Ref(id))
	if !ok {
		return none, false
	}
	return state.(S), true
}

// Put replaces the aggregate's state, or creates it. The version rises by one
// per step that puts, however often it does.
func (k *Kind[S]) Put(v *View, id string, s S) { v.put(k.Ref(id), s) }

// Version gives the version the aggregate will have when this step is stored: 0
// if it does not exist.
func (k *Kind[S]) Version(v *View, id string) int64 { return v.version(k.Ref(id)) }

// entry is one aggregate in a batch's working set.
type entry struct {
	state    any
	version  int64
	was      int64 // the version in the database; 0 if there is no row
	eventSeq int64
	loaded   bool // asked of the database
	stored   bool // the database has a row
	exists   bool // there is a state, stored or made in this batch
	dirty    bool
	recalled bool  // not read from the database, so it has to be checked there
	row      []any // of a memory that is suspicious
}
