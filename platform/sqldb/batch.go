package sqldb

// A Scanner gives the columns of one row. Its values are good only until the
// callback that got it returns.
type Scanner interface {
	// Scan copies the columns into dest, one pointer per column; nil skips one.
	Scan(dest ...any) error
}

type opKind uint8

const (
	opInsert opKind = iota
	opInsertNew
	opInsertReturning
	opUpdate
	opUpdateAt
	opExpect
	opLoad
	opDelete
	opDeleteAll
	opExec
	opQuery
)

// op is one queued statement.
type op struct {
	kind     opKind
	lock     bool
	table    *Table
	rows     [][]any
	keys     []string
	versions []int64 // of opExpect, one per key
	cols     []string
	sql      string
	args     []any
	fn       func(Scanner) error
	affected int64
}

// empty reports whether the statement has nothing to do and is left out.
func (o *op) empty() bool {
	switch o.kind {
	case opInsert, opInsertNew, opInsertReturning, opUpdate, opUpdateAt:
		return len(o.rows) == 0
	case opLoad, opDelete, opDeleteAll, opExpect:
		return len(o.keys) == 0
	}
	return false
}

// A Batch queues statements for Tx.Send and Tx.Commit, which run them in order
// and in one round trip. Callbacks are called while results arrive; they must
// not use the transaction. The first error ends the batch, and rows and keys
// must stay unchanged until then. The zero Batch is empty and ready.
type Batch struct{ ops []op }

// Len gives the number of queued statements.
func (b *Batch) Len() int { return len(b.ops) }

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	clear(b.ops)
	b.ops = b.ops[:0]
}

// all gives the statements; a nil batch has none.
func (b *Batch) all() []op {
	if b == nil {
		return nil
	}
	return b.ops
}

// Insert queues an INSERT of full rows, in the order of t.Columns. A key that
// exists fails the batch with ErrDuplicate.
func (b *Batch) Insert(t *Table, rows [][]any) {
	b.ops = append(b.ops, op{kind: opInsert, table: t, rows: rows})
}

// InsertNew queues an INSERT that leaves out the rows whose key exists. fn, which
// may be nil, gets the key columns of each row really inserted, in no particular
// order. Another unique index that is violated still fails with ErrDuplicate.
func (b *Batch) InsertNew(t *Table, rows [][]any, fn func(Scanner) error) {
	b.ops = append(b.ops, op{kind: opInsertNew, table: t, rows: rows, fn: fn})
}

// InsertReturning queues an INSERT; fn gets cols of each row, in the order of
// rows. It is how ids made by the database come back.
func (b *Batch) InsertReturning(t *Table, rows [][]any, cols []string, fn func(Scanner) error) {
	b.ops = append(b.ops, op{kind: opInsertReturning, table: t, rows: rows, cols: cols, fn: fn})
}

// Update queues an UPDATE of full rows, matched by key. A row that does not
// exist, or a key given twice, fails the batch with ErrMissing.
func (b *Batch) Update(t *Table, rows [][]any) {
	b.ops = append(b.ops, op{kind: opUpdate, table: t, rows: rows})
}

// UpdateAt is Update of rows that nobody has changed since they were read: each row
// is followed by one more value, the t.Version it had then. One that has another
// by now, or is gone, fails the batch with ErrMissing.
func (b *Batch) UpdateAt(t *Table, rows [][]any) {
	b.ops = append(b.ops, op{kind: opUpdateAt, table: t, rows: rows})
}

// Expect fails the batch with ErrMissing unless each row has the version given for
// its key, a key of one text column; 0 stands for no row. Rows that are there stay
// as they are until the transaction ends, as with Load.
func (b *Batch) Expect(t *Table, keys []string, versions []int64) {
	b.ops = append(b.ops, op{kind: opExpect, table: t, keys: keys, versions: versions})
}

// Load queues a SELECT by a key of one text column. fn gets all columns of each
// row that exists, ordered by key bytes. lock keeps others from changing the
// rows until the transaction ends (FOR UPDATE; on SQLite a transaction is alone
// anyway). Rows are locked in the order of their keys, so that transactions
// which load what they need with one Load cannot deadlock.
func (b *Batch) Load(t *Table, keys []string, lock bool, fn func(Scanner) error) {
	b.ops = append(b.ops, op{kind: opLoad, table: t, keys: keys, lock: lock, fn: fn})
}

// DeleteReturning queues a DELETE by a key of one text column; fn, which may be
// nil, gets the key of each row deleted.
func (b *Batch) DeleteReturning(t *Table, keys []string, fn func(Scanner) error) {
	b.ops = append(b.ops, op{kind: opDelete, table: t, keys: keys, fn: fn})
}

// DeleteAll queues a DELETE by a key of one text column. A row that does not exist
// fails the batch with ErrMissing.
func (b *Batch) DeleteAll(t *Table, keys []string) {
	b.ops = append(b.ops, op{kind: opDeleteAll, table: t, keys: keys})
}

// Exec queues a statement of the caller's own.
func (b *Batch) Exec(sql string, args ...any) {
	b.ops = append(b.ops, op{kind: opExec, sql: sql, args: args})
}

// Query queues a statement of the caller's own; fn gets each row.
func (b *Batch) Query(sql string, args []any, fn func(Scanner) error) {
	b.ops = append(b.ops, op{kind: opQuery, sql: sql, args: args, fn: fn})
}
