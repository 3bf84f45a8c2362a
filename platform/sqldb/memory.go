package sqldb

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
)

// A Memory is a database that lives in the memory of this process and is gone
// with it. It is for simulations: it is fast, it does nothing by itself, and
// whoever runs it decides what goes wrong. It behaves like PostgreSQL at READ
// COMMITTED: a transaction sees what is committed and what it wrote itself, locks
// the rows it loads, and what it inserted is in the way of others until it ends.
// Who would have to wait for a lock gets ErrSerialization instead, as after a
// lock timeout.
//
// It knows the bulk forms of Batch, and of SQL what memsql.go says. Tables come
// into being when they are first written, without constraints but their key.
// It is safe for concurrent use, though not meant for it.
type Memory struct {
	// Hook is called at the moments of a transaction that matter, outside of the
	// database's own lock, so it may run other transactions. An error at Loaded or
	// Written ends the transaction and is what the caller gets. One at Kept, when
	// all is committed, is given to the caller nevertheless. A panic leaves the
	// transaction as it is at that moment.
	Hook func(m Moment) error

	// Locks switched off lets transactions write what others have locked.
	NoLocks bool

	// Versions switched off lets UpdateAt and Expect take any version.
	NoVersions bool

	// Forgetful names a table whose INSERTs take every row for new.
	Forgetful string

	// Reading, if there is one, gives a row as Batch.Load shall see it; it must not
	// change the one it gets.
	Reading func(t *Table, row []any) []any

	mu     sync.Mutex
	tables map[string]*memTable
	held   map[memLock]*memSession
	stmts  map[string]*memStmt
}

// A Moment is a point in a transaction.
type Moment uint8

// The moments.
const (
	Loaded  Moment = iota + 1 // statements were run and more will come
	Written                   // the last statements were run, COMMIT comes next
	Kept                      // it is committed
)

// NewMemory gives an empty database.
func NewMemory() *Memory {
	return &Memory{tables: map[string]*memTable{}, held: map[memLock]*memSession{}, stmts: map[string]*memStmt{}}
}

// Open gives a handle. There may be any number; closing one does nothing, so what
// was committed is there for the next, as after a crash of a process.
func (m *Memory) Open() *DB { return &DB{dialect: InMemory, b: memBackend{m}} }

// Count gives the number of committed rows of a table.
func (m *Memory) Count(table string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tables[table]; t != nil {
		return t.live
	}
	return 0
}

// Tail calls fn with the column that the database made and the rows of a table from
// a position on, in the order in which they were committed, and gives the position
// of the next. It is for tables of which nothing is deleted.
func (m *Memory) Tail(table string, from int, fn func(seq int64, row Scanner) error) (int, error) {
	m.mu.Lock()
	t := m.tables[table]
	var rows []*memRow
	if t != nil {
		rows = slices.Clone(t.rows[min(from, len(t.rows)):])
	}
	m.mu.Unlock()
	for _, r := range rows {
		if err := fn(r.seq, valueRow(r.vals)); err != nil {
			return from, err
		}
		from++
	}
	return from, nil
}

// memTable is one table: its rows in the order of their insertion, those deleted
// as nil, and where each key is.
type memTable struct {
	name string
	key  []int
	cols map[string]int
	rows []*memRow
	at   map[string]int
	live int
	next int64 // of the column seq that the database makes
}

type memRow struct {
	key  string
	vals []any
	seq  int64
}

type memLock struct{ table, key string }

func (m *Memory) table(t *Table) *memTable {
	if got := m.tables[t.Name]; got != nil {
		return got
	}
	mt := &memTable{name: t.Name, cols: map[string]int{}, at: map[string]int{}}
	for i, c := range t.Columns {
		mt.cols[c.Name] = i
	}
	for _, k := range t.Key {
		mt.key = append(mt.key, mt.cols[k])
	}
	m.tables[t.Name] = mt
	return mt
}

// put inserts or replaces a committed row.
func (t *memTable) put(r *memRow) {
	if len(t.key) > 0 {
		if i, ok := t.at[r.key]; ok {
			t.rows[i] = r
			return
		}
		t.at[r.key] = len(t.rows)
	}
	t.rows = append(t.rows, r)
	t.live++
}

func (t *memTable) drop(key string) {
	i, ok := t.at[key]
	if !ok {
		return
	}
	t.rows[i] = nil
	delete(t.at, key)
	t.live--
	if len(t.rows) < 64 || t.live*2 > len(t.rows) {
		return
	}
	t.rows = slices.DeleteFunc(t.rows, func(r *memRow) bool { return r == nil })
	for i, r := range t.rows {
		t.at[r.key] = i
	}
}

func (t *memTable) row(values []any) (*memRow, error) {
	r := &memRow{vals: make([]any, len(values))}
	for i, v := range values {
		p, err := plain(v)
		if err != nil {
			return nil, err
		}
		r.vals[i] = p
	}
	r.key = t.keyOf(r.vals)
	return r, nil
}

func (t *memTable) keyOf(vals []any) string {
	switch len(t.key) {
	case 0:
		return ""
	case 1:
		if s, ok := vals[t.key[0]].(string); ok {
			return s
		}
	}
	var b strings.Builder
	for _, i := range t.key {
		fmt.Fprintf(&b, "%v\x00", vals[i])
	}
	return b.String()
}

// value gives a column of a row; seq is the one that the database makes.
func (t *memTable) value(r *memRow, col string) (any, bool) {
	if i, ok := t.cols[col]; ok {
		return r.vals[i], true
	}
	return r.seq, col == "seq"
}

type memBackend struct{ m *Memory }

func (b memBackend) session() session { return &memSession{m: b.m} }

func (b memBackend) query(_ context.Context, sql string, args []any) (*Rows, error) {
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	rows, err := (&memSession{m: b.m}).selectRows(sql, args)
	if err != nil {
		return nil, err
	}
	return &Rows{src: &memRows{rows: rows}}, nil
}

func (b memBackend) ping(context.Context) error                   { return nil }
func (b memBackend) migrate(context.Context, string, fs.FS) error { return nil }
func (b memBackend) close() error                                 { return nil }

// memSession is one transaction: what it wrote, over what is committed.
type memSession struct {
	m     *Memory
	wrote []memWrite
	mine  map[memLock]*memRow // by key, the last of what it wrote; nil is deleted
	locks []memLock
	ended bool
}

type memWrite struct {
	t   *memTable
	key string
	row *memRow // nil deletes
}

// run implements session.
func (s *memSession) run(_ context.Context, ops []op, mode runMode) error {
	if err := s.apply(ops); err != nil {
		return err
	}
	if mode == runSend {
		return s.hook(Loaded)
	}
	if err := s.hook(Written); err != nil {
		return err
	}
	s.commit()
	return s.hook(Kept)
}

func (s *memSession) hook(m Moment) error {
	if s.m.Hook == nil {
		return nil
	}
	return s.m.Hook(m)
}

func (s *memSession) apply(ops []op) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for i := range ops {
		if ops[i].empty() {
			continue
		}
		if err := s.one(&ops[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *memSession) commit() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for _, w := range s.wrote {
		if w.row == nil {
			w.t.drop(w.key)
		} else {
			w.t.put(w.row)
		}
	}
	s.end()
}

func (s *memSession) end() {
	for _, l := range s.locks {
		if s.m.held[l] == s {
			delete(s.m.held, l)
		}
	}
	s.wrote, s.mine, s.locks, s.ended = nil, nil, nil, true
}

// rollback implements session.
func (s *memSession) rollback() {
	if s.ended {
		return
	}
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.end()
}

// query implements session.
func (s *memSession) query(_ context.Context, sql string, args []any) (*Rows, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	rows, err := s.selectRows(sql, args)
	if err != nil {
		return nil, err
	}
	return &Rows{src: &memRows{rows: rows}}, nil
}

func (s *memSession) one(o *op) error {
	switch o.kind {
	case opInsert, opInsertNew, opInsertReturning:
		return s.insert(o)
	case opUpdate, opUpdateAt:
		return s.update(o)
	case opExpect:
		return s.expect(o)
	case opLoad:
		return s.load(o)
	case opDelete, opDeleteAll:
		return s.delete(o)
	case opExec:
		n, err := s.exec(o.sql, o.args)
		o.affected = n
		return err
	case opQuery:
		rows, err := s.selectRows(o.sql, o.args)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := o.fn(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// lock takes a row for this transaction, or tells that another has it.
func (s *memSession) lock(t *memTable, key string) error {
	l := memLock{t.name, key}
	switch holder := s.m.held[l]; {
	case s.m.NoLocks || holder == s:
		return nil
	case holder != nil:
		return conflict(fmt.Errorf("%s %q is locked by another transaction", t.name, key))
	}
	s.m.held[l] = s
	s.locks = append(s.locks, l)
	return nil
}

// see gives the row as this transaction sees it.
func (s *memSession) see(t *memTable, key string) *memRow {
	if r, ok := s.mine[memLock{t.name, key}]; ok {
		return r
	}
	if i, ok := t.at[key]; ok {
		return t.rows[i]
	}
	return nil
}

func (s *memSession) write(t *memTable, key string, r *memRow) {
	s.wrote = append(s.wrote, memWrite{t, key, r})
	if len(t.key) > 0 {
		if s.mine == nil {
			s.mine = map[memLock]*memRow{}
		}
		s.mine[memLock{t.name, key}] = r
	}
}

func (s *memSession) insert(o *op) error {
	t := s.m.table(o.table)
	for _, values := range o.rows {
		r, err := t.row(values)
		if err != nil {
			return err
		}
		if len(t.key) > 0 {
			if err := s.lock(t, r.key); err != nil {
				return err
			}
			if s.see(t, r.key) != nil {
				switch {
				case s.m.Forgetful == t.name:
				case o.kind == opInsertNew:
					continue
				default:
					return duplicate(fmt.Errorf("%s %q", t.name, r.key))
				}
			}
		}
		t.next++
		r.seq = t.next
		s.write(t, r.key, r)
		if o.fn == nil {
			continue
		}
		cols := o.cols
		if o.kind == opInsertNew {
			cols = o.table.Key
		}
		out := make(valueRow, len(cols))
		for i, c := range cols {
			out[i], _ = t.value(r, c)
		}
		if err := o.fn(out); err != nil {
			return err
		}
	}
	return nil
}

func (s *memSession) update(o *op) error {
	t := s.m.table(o.table)
	for _, values := range o.rows {
		r, err := t.row(values[:len(o.table.Columns)])
		if err != nil {
			return err
		}
		if err := s.lock(t, r.key); err != nil {
			return err
		}
		old := s.see(t, r.key)
		if old == nil || o.kind == opUpdateAt && !s.m.NoVersions && t.version(old, o.table) != values[len(o.table.Columns)] {
			return fmt.Errorf("%w: %s %q", ErrMissing, t.name, r.key)
		}
		r.seq = old.seq
		s.write(t, r.key, r)
	}
	return nil
}

func (s *memSession) expect(o *op) error {
	t := s.m.table(o.table)
	for i, key := range o.keys {
		r := s.see(t, key)
		if r != nil {
			if err := s.lock(t, key); err != nil {
				return err
			}
		}
		if t.version(r, o.table) != o.versions[i] && !s.m.NoVersions {
			return fmt.Errorf("%w: %s %q", ErrMissing, t.name, key)
		}
	}
	return nil
}

// version gives the version of a row, 0 if there is none.
func (t *memTable) version(r *memRow, of *Table) int64 {
	if r == nil {
		return 0
	}
	v, _ := t.value(r, of.Version)
	n, _ := v.(int64)
	return n
}

func (s *memSession) load(o *op) error {
	t := s.m.table(o.table)
	keys := slices.Clone(o.keys)
	slices.Sort(keys)
	for _, key := range slices.Compact(keys) {
		r := s.see(t, key)
		if r == nil {
			continue
		}
		if o.lock {
			if err := s.lock(t, key); err != nil {
				return err
			}
		}
		vals := r.vals
		if s.m.Reading != nil {
			vals = s.m.Reading(o.table, vals)
		}
		if err := o.fn(valueRow(vals)); err != nil {
			return err
		}
	}
	return nil
}

func (s *memSession) delete(o *op) error {
	t := s.m.table(o.table)
	for _, key := range o.keys {
		if s.see(t, key) == nil {
			if o.kind == opDeleteAll {
				return fmt.Errorf("%w: %s %q", ErrMissing, t.name, key)
			}
			continue
		}
		if err := s.lock(t, key); err != nil {
			return err
		}
		s.write(t, key, nil)
		if o.fn == nil {
			continue
		}
		if err := o.fn(valueRow{key}); err != nil {
			return err
		}
	}
	return nil
}

// memRows are rows that were read.
type memRows struct {
	rows []valueRow
	now  valueRow
}

func (r *memRows) next() (bool, error) {
	if len(r.rows) == 0 {
		return false, nil
	}
	r.now, r.rows = r.rows[0], r.rows[1:]
	return true, nil
}

// Scan implements Scanner.
func (r *memRows) Scan(dest ...any) error { return r.now.Scan(dest...) }

func (r *memRows) close() error { return nil }
