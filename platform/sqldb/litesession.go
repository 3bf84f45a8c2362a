package sqldb

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	lite "modernc.org/sqlite"
)

// multiRows are the numbers of rows of the multi-row INSERTs, largest first; what
// is left goes row by row. Measured in one transaction: 128 rows take half the
// time of a loop with 64 at a time, 64 do as well as 128, and 8 still save a
// third. An UPDATE of many rows halves its time at 64 and gains nothing at 8. A
// SELECT or DELETE by keys from a JSON array beats a loop from two keys on.
var multiRows = [...]int{64, 8}

// liteSession is one transaction on SQLite. It holds the only writer from its
// first run to its end. Statements run without the context's help, since each is
// short and interrupting one would roll everything back; the context is looked
// at between them.
type liteSession struct {
	b     *sqlite
	conn  *liteConn
	begun bool
}

func (s *liteSession) run(ctx context.Context, ops []op, mode runMode) error {
	if !s.begun && !slices.ContainsFunc(ops, func(o op) bool { return !o.empty() }) {
		return nil
	}
	if err := s.begin(ctx, mode); err != nil {
		return err
	}
	var callback error
	for i := range ops {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.op(ctx, &ops[i], &callback); err != nil {
			return err
		}
		if callback != nil && mode == runSend {
			return callback
		}
	}
	if mode == runSend {
		return nil
	}
	if s.begun {
		if _, err := s.conn.exec(context.Background(), "COMMIT", nil); err != nil {
			var le *lite.Error
			if errors.As(err, &le) && le.Code()&0xff == liteIOErr {
				return unknown(err) // a failed fsync may have written
			}
			return err
		}
	}
	s.b.trim(s.conn)
	s.release()
	if callback != nil {
		return committed(callback)
	}
	return nil
}

// begin takes the writer and begins, unless that is done.
func (s *liteSession) begin(ctx context.Context, mode runMode) error {
	if s.conn == nil {
		c, err := s.b.take(ctx, s.b.write)
		if err != nil {
			return err
		}
		s.conn = c
	}
	if s.begun || mode == runAuto {
		return nil
	}
	if _, err := s.conn.exec(context.Background(), "BEGIN IMMEDIATE", nil); err != nil {
		return err
	}
	s.begun = true
	return nil
}

func (s *liteSession) query(ctx context.Context, sql string, args []any) (*Rows, error) {
	if err := s.begin(ctx, runSend); err != nil {
		return nil, err
	}
	rows, err := s.conn.query(ctx, sql, args)
	if err != nil {
		return nil, err
	}
	kept, err := rows.keep()
	if err != nil {
		return nil, err
	}
	return &Rows{src: kept}, nil
}

func (s *liteSession) release() {
	if s.conn != nil {
		s.b.write <- s.conn
		s.conn, s.begun = nil, false
	}
}

func (s *liteSession) rollback() {
	if s.conn == nil {
		return
	}
	if s.begun {
		_, err := s.conn.exec(context.Background(), "ROLLBACK", nil)
		// SQLite rolls back by itself after some errors, a full disk for one.
		if err != nil && !strings.Contains(err.Error(), "no transaction is active") {
			_ = s.conn.close()
			s.b.write <- nil
			s.conn, s.begun = nil, false
			return
		}
	}
	s.release()
}

// op carries out one statement.
func (s *liteSession) op(ctx context.Context, o *op, callback *error) (err error) {
	switch {
	case o.empty():
		return nil
	case o.kind == opExec:
		args, err := s.conn.bindAll(o.args)
		if err != nil {
			return err
		}
		o.affected, err = s.conn.exec(context.WithoutCancel(ctx), o.sql, args)
		return err
	case o.kind == opQuery:
		rows, err := s.conn.query(context.WithoutCancel(ctx), o.sql, o.args)
		if err != nil {
			return err
		}
		return rows.each(o.fn, callback)
	}
	f, err := s.b.db.forms(o.table)
	if err == nil {
		err = s.bulk(f, o, callback)
	}
	if err != nil {
		return fmt.Errorf("table %s: %w", o.table.Name, err)
	}
	return nil
}

// bulk carries out one bulk form.
func (s *liteSession) bulk(f *tableSQL, o *op, callback *error) error {
	switch o.kind {
	case opLoad:
		return s.load(f, o, callback)
	case opDelete:
		return s.delete(f, o, callback)
	case opDeleteAll:
		return s.deleteAll(f, o)
	case opExpect:
		return s.expect(f, o)
	case opUpdate:
		if err := f.needUpdate(); err != nil {
			return err
		}
	case opUpdateAt:
		if err := f.needVersion(); err != nil {
			return err
		}
	case opInsertNew:
		if err := f.needKey(); err != nil {
			return err
		}
	}
	rows, err := f.prepared(o)
	if err != nil {
		return err
	}
	switch o.kind {
	case opUpdate:
		return s.update(f, rows, f.update, f.updateMax, f.order)
	case opUpdateAt:
		return s.update(f, rows, f.updateAt, f.updateAtMax, append(f.order[:len(f.order):len(f.order)], len(f.t.Columns)))
	case opInsertReturning:
		return s.insertReturning(f, rows, o, callback)
	case opInsertNew:
		return s.insertNew(f, rows, o.fn, callback)
	}
	return s.insert(f, rows)
}

// bindRow adds the values of row to the arguments, in the order of idx, or of
// the columns if idx is nil.
func (s *liteSession) bindRow(t *Table, row []any, idx []int) error {
	for i := range row {
		if idx != nil {
			i = idx[i]
		}
		v, err := columnValue(t, t.column(i), row[i])
		if err != nil {
			return err
		}
		s.conn.bind(liteValue(v))
	}
	return nil
}

// chunk gives the number of rows of the next INSERT and its form: an index into
// multiRows, or -1 for the single row.
func chunk(left int) (n, form int) {
	for i, n := range multiRows {
		if left >= n {
			return n, i
		}
	}
	return 1, -1
}

// bindRows binds the next rows and gives the INSERT that takes them.
func (s *liteSession) bindRows(f *tableSQL, rows [][]any) (n, form int, err error) {
	n, form = chunk(len(rows))
	s.conn.args = s.conn.args[:0]
	for _, row := range rows[:n] {
		if err := s.bindRow(f.t, row, nil); err != nil {
			return 0, 0, err
		}
	}
	return n, form, nil
}

func (s *liteSession) insert(f *tableSQL, rows [][]any) error {
	for len(rows) > 0 {
		n, form, err := s.bindRows(f, rows)
		if err != nil {
			return err
		}
		sql := f.insert
		if form >= 0 {
			sql = f.multi[form].insert
		}
		if _, err := s.conn.exec(context.Background(), sql, s.conn.args); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func (s *liteSession) insertNew(f *tableSQL, rows [][]any, fn func(Scanner) error, callback *error) error {
	for len(rows) > 0 {
		n, form, err := s.bindRows(f, rows)
		if err != nil {
			return err
		}
		if form < 0 {
			affected, err := s.conn.exec(context.Background(), f.insertNew, s.conn.args)
			if err != nil {
				return err
			}
			if affected == 1 && fn != nil && *callback == nil {
				key := make(valueRow, len(f.key))
				for i, k := range f.key {
					key[i] = s.conn.args[k].Value
				}
				*callback = fn(key)
			}
		} else {
			got, err := s.conn.queryBound(context.Background(), f.multi[form].insertNew, s.conn.args)
			if err != nil {
				return err
			}
			if err := got.each(fn, callback); err != nil {
				return err
			}
		}
		rows = rows[n:]
	}
	return nil
}

// insertReturning takes several rows at once if the table has a key: SQLite
// returns them in the order given, but does not promise it, so the key comes back
// too and is compared.
func (s *liteSession) insertReturning(f *tableSQL, rows [][]any, o *op, callback *error) error {
	for len(rows) > 0 {
		if len(f.key) == 0 {
			s.conn.args = s.conn.args[:0]
			if err := s.bindRow(f.t, rows[0], nil); err != nil {
				return err
			}
			if err := s.returning(f.insertReturning(o.cols), o.fn, callback); err != nil {
				return err
			}
			rows = rows[1:]
			continue
		}
		n, form, err := s.bindRows(f, rows)
		if err != nil {
			return err
		}
		sql, fn := f.insertReturning(o.cols), o.fn
		var disorder error
		if form >= 0 {
			sql, fn = f.insertReturningMany(form, o.cols), s.inOrder(f, o, &disorder)
		}
		if err := s.returning(sql, fn, callback); err != nil {
			return err
		}
		if disorder != nil {
			return disorder
		}
		rows = rows[n:]
	}
	return nil
}

// returning runs an INSERT with the arguments bound.
func (s *liteSession) returning(sql string, fn func(Scanner) error, callback *error) error {
	got, err := s.conn.queryBound(context.Background(), sql, s.conn.args)
	if err != nil {
		return err
	}
	return got.each(fn, callback)
}

// inOrder gives a callback that shows o's own the columns it wants, after
// comparing the key behind them with the row it should be of.
func (s *liteSession) inOrder(f *tableSQL, o *op, disorder *error) func(Scanner) error {
	args, width := s.conn.args, len(f.t.Columns)
	return func(sc Scanner) error {
		values := sc.(*liteRows).values
		for i, k := range f.key {
			if compare(values[len(o.cols)+i], args[k].Value) != 0 {
				*disorder = errors.New("sqldb: SQLite returned the new rows in another order")
				return *disorder
			}
		}
		args = args[width:]
		if o.fn == nil {
			return nil
		}
		return o.fn(liteValues(values[:len(o.cols)]))
	}
}

// liteValues is a row of values from the driver.
type liteValues []driver.Value

// Scan implements Scanner.
func (v liteValues) Scan(dest ...any) error { return scanValues(v, dest) }

func (s *liteSession) update(f *tableSQL, rows [][]any, one, many string, columns []int) error {
	for len(rows) > 0 {
		n, sql, order := 1, one, columns
		if len(rows) >= multiRows[0] {
			n, sql, order = multiRows[0], many, nil
		}
		s.conn.args = s.conn.args[:0]
		for _, row := range rows[:n] {
			if err := s.bindRow(f.t, row, order); err != nil {
				return err
			}
		}
		affected, err := s.conn.exec(context.Background(), sql, s.conn.args)
		if err != nil {
			return err
		}
		if affected != int64(n) {
			return ErrMissing
		}
		rows = rows[n:]
	}
	return nil
}

// bindKeys binds keys and gives the statement that takes them, one or many.
func (s *liteSession) bindKeys(keys []string, one, many string) (string, error) {
	s.conn.args = s.conn.args[:0]
	if len(keys) == 1 {
		s.conn.bind(keys[0])
		return one, nil
	}
	list, err := json.Marshal(keys)
	if err != nil {
		return "", err
	}
	s.conn.bind(string(list))
	return many, nil
}

func (s *liteSession) load(f *tableSQL, o *op, callback *error) error {
	if err := f.needTextKey(); err != nil {
		return err
	}
	sql, err := s.bindKeys(o.keys, f.loadOne, f.load)
	if err != nil {
		return err
	}
	rows, err := s.conn.queryBound(context.Background(), sql, s.conn.args)
	if err != nil {
		return err
	}
	return rows.each(o.fn, callback)
}

func (s *liteSession) delete(f *tableSQL, o *op, callback *error) error {
	if err := f.needTextKey(); err != nil {
		return err
	}
	sql, err := s.bindKeys(o.keys, f.deleteOne, f.delete)
	if err != nil {
		return err
	}
	if len(o.keys) == 1 {
		n, err := s.conn.exec(context.Background(), sql, s.conn.args)
		if n > 0 && o.fn != nil && *callback == nil {
			*callback = o.fn(valueRow{o.keys[0]})
		}
		return err
	}
	rows, err := s.conn.queryBound(context.Background(), sql, s.conn.args)
	if err != nil {
		return err
	}
	return rows.each(o.fn, callback)
}

func (s *liteSession) deleteAll(f *tableSQL, o *op) error {
	if err := f.needTextKey(); err != nil {
		return err
	}
	for _, key := range o.keys {
		s.conn.args = s.conn.args[:0]
		s.conn.bind(key)
		if n, err := s.conn.exec(context.Background(), f.deleteOne, s.conn.args); err != nil {
			return err
		} else if n == 0 {
			return ErrMissing
		}
	}
	return nil
}

func (s *liteSession) expect(f *tableSQL, o *op) error {
	if err := errors.Join(f.needTextKey(), f.needVersion()); err != nil {
		return err
	}
	for i, key := range o.keys {
		s.conn.args = s.conn.args[:0]
		s.conn.bind(key)
		rows, err := s.conn.queryBound(context.Background(), f.expect, s.conn.args)
		if err != nil {
			return err
		}
		var version int64
		var failed error
		if err := rows.each(func(sc Scanner) error { return sc.Scan(&version) }, &failed); err != nil || failed != nil {
			return errors.Join(err, failed)
		}
		if version != o.versions[i] {
			return ErrMissing
		}
	}
	return nil
}
