package sqldb

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"strings"
	"time"
)

// liteConn is one connection to SQLite and its prepared statements. It is used
// by one goroutine at a time.
type liteConn struct {
	b     *sqlite
	c     driver.Conn
	stmts map[string]*liteStmt
	clock uint64
	args  []driver.NamedValue // memory for arguments
}

// liteStmt is one prepared statement.
type liteStmt struct {
	stmt driver.Stmt
	used uint64
}

func newLiteConn(b *sqlite, c driver.Conn) *liteConn {
	return &liteConn{b: b, c: c, stmts: map[string]*liteStmt{}}
}

func (c *liteConn) close() error {
	for _, s := range c.stmts {
		_ = s.stmt.Close()
	}
	return c.c.Close()
}

// prepare gives the statement, prepared at its first use.
func (c *liteConn) prepare(sql string) (driver.Stmt, error) {
	c.clock++
	if s := c.stmts[sql]; s != nil {
		s.used = c.clock
		return s.stmt, nil
	}
	if len(c.stmts) >= maxStatements {
		c.evict()
	}
	// The driver keeps a statement ready only if nothing follows it.
	stmt, err := c.c.Prepare(strings.TrimRight(sql, "; \t\r\n"))
	if err != nil {
		return nil, c.b.classify(err)
	}
	c.stmts[sql] = &liteStmt{stmt: stmt, used: c.clock}
	return stmt, nil
}

func (c *liteConn) evict() {
	var oldest string
	for sql, s := range c.stmts {
		if oldest == "" || s.used < c.stmts[oldest].used {
			oldest = sql
		}
	}
	_ = c.stmts[oldest].stmt.Close()
	delete(c.stmts, oldest)
}

// liteValue gives v as SQLite stores it.
func liteValue(v any) driver.Value {
	switch x := v.(type) {
	case bool:
		return b2i(x)
	case time.Time:
		return x.UnixMicro()
	}
	return v
}

// bindAll turns arguments into what the driver takes.
func (c *liteConn) bindAll(args []any) ([]driver.NamedValue, error) {
	c.args = c.args[:0]
	for _, a := range args {
		v, err := plain(a)
		if err != nil {
			return nil, err
		}
		c.bind(liteValue(v))
	}
	return c.args, nil
}

// bind adds one argument.
func (c *liteConn) bind(v driver.Value) {
	c.args = append(c.args, driver.NamedValue{Ordinal: len(c.args) + 1, Value: v})
}

// exec runs a statement with the arguments bound and gives the number of rows it
// touched.
func (c *liteConn) exec(ctx context.Context, sql string, args []driver.NamedValue) (int64, error) {
	stmt, err := c.prepare(sql)
	if err != nil {
		return 0, err
	}
	res, err := stmt.(driver.StmtExecContext).ExecContext(ctx, args)
	if err != nil {
		return 0, c.b.classify(err)
	}
	return res.RowsAffected()
}

// query starts a statement with rows.
func (c *liteConn) query(ctx context.Context, sql string, args []any) (*liteRows, error) {
	bound, err := c.bindAll(args)
	if err != nil {
		return nil, err
	}
	return c.queryBound(ctx, sql, bound)
}

func (c *liteConn) queryBound(ctx context.Context, sql string, args []driver.NamedValue) (*liteRows, error) {
	stmt, err := c.prepare(sql)
	if err != nil {
		return nil, err
	}
	rows, err := stmt.(driver.StmtQueryContext).QueryContext(ctx, args)
	if err != nil {
		return nil, c.b.classify(err)
	}
	return &liteRows{b: c.b, rows: rows, values: make([]driver.Value, len(rows.Columns()))}, nil
}

// one runs a statement and scans its first row.
func (c *liteConn) one(ctx context.Context, sql string, dest ...any) error {
	rows, err := c.query(ctx, sql, nil)
	if err != nil {
		return err
	}
	defer func() { _ = rows.close() }() // what it had to say, next said
	ok, err := rows.next()
	if err != nil {
		return err
	}
	if !ok {
		return ErrNoRows
	}
	return rows.Scan(dest...)
}

// liteRows are rows that are being computed.
type liteRows struct {
	b      *sqlite
	rows   driver.Rows
	values []driver.Value
}

// Scan implements Scanner.
func (r *liteRows) Scan(dest ...any) error { return scanValues(r.values, dest) }

func scanValues(values []driver.Value, dest []any) error {
	if err := scanCount(len(values), len(dest)); err != nil {
		return err
	}
	for i, d := range dest {
		c := valueCell(values[i])
		if err := c.assign(d); err != nil {
			return scanError(i, err)
		}
	}
	return nil
}

func (r *liteRows) next() (bool, error) {
	switch err := r.rows.Next(r.values); {
	case err == nil:
		return true, nil
	case errors.Is(err, io.EOF):
		return false, nil
	default:
		return false, r.b.classify(err)
	}
}

func (r *liteRows) close() error { return r.b.classify(r.rows.Close()) }

// each calls fn for every row and closes the rows. After an error of fn, which
// it keeps in callback, the rest is computed but not shown.
func (r *liteRows) each(fn func(Scanner) error, callback *error) error {
	for {
		ok, err := r.next()
		if err != nil || !ok {
			return errors.Join(err, r.close())
		}
		if fn != nil && *callback == nil {
			*callback = fn(r)
		}
	}
}

// liteLive are rows of a query outside of transactions; the connection goes back
// when they end.
type liteLive struct {
	rows *liteRows
	c    *liteConn
	give func()
}

// Scan implements Scanner.
func (r *liteLive) Scan(dest ...any) error { return r.rows.Scan(dest...) }

func (r *liteLive) next() (bool, error) { return r.rows.next() }

func (r *liteLive) close() error {
	err := r.rows.close()
	r.give()
	return err
}

// keep reads all rows into memory and ends the query.
func (r *liteLive) keep() (*liteKept, error) {
	kept, err := r.rows.keep()
	r.give()
	return kept, err
}

func (r *liteRows) keep() (*liteKept, error) {
	kept := &liteKept{}
	for {
		ok, err := r.next()
		if err != nil || !ok {
			return kept, errors.Join(err, r.close())
		}
		kept.rows = append(kept.rows, append([]driver.Value(nil), r.values...))
	}
}

// liteKept are rows kept in memory.
type liteKept struct {
	rows   [][]driver.Value
	values []driver.Value
}

// Scan implements Scanner.
func (r *liteKept) Scan(dest ...any) error { return scanValues(r.values, dest) }

func (r *liteKept) next() (bool, error) {
	if len(r.rows) == 0 {
		return false, nil
	}
	r.values, r.rows = r.rows[0], r.rows[1:]
	return true, nil
}

func (r *liteKept) close() error { return nil }
