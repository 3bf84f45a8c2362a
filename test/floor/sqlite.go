package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net/url"
	"path/filepath"
	"strings"
	"sync"

	lite "modernc.org/sqlite"
)

var sqliteTables = []string{
	"create table inbox (event_id blob primary key) without rowid",
	"create table outbox (seq integer primary key autoincrement, event_id blob not null, subject text not null, saga_id blob not null, payload blob not null)",
	"create table state (id blob primary key, status text not null, version integer not null) without rowid",
}

// sqlite is a file with one connection, below database/sql, which would cost as much
// as a small statement.
type sqlite struct {
	mu                            sync.Mutex // guards all
	conn                          driver.Conn
	err                           error // the first; it ends the run
	begin, commit, rows           *bulk
	note, load, save, say, remove *bulk
	index                         index
}

func openSQLite(dir, name string) (*sqlite, error) {
	q := url.Values{"_pragma": {"journal_mode(WAL)", "synchronous(FULL)", "wal_autocheckpoint(4000)", "cache_size(-8192)"}}
	conn, err := new(lite.Driver).Open("file:" + filepath.Join(dir, name+".db") + "?" + q.Encode())
	if err != nil {
		return nil, err
	}
	s := &sqlite{conn: conn}
	for _, table := range sqliteTables {
		s.run(s.bulk(table, "", ""), 1, nil, nil)
	}
	s.begin = s.bulk("begin immediate", "", "")
	s.commit = s.bulk("commit", "", "")
	s.rows = s.bulk(countRows, "", "")
	s.note = s.bulk("insert into inbox values ", "(?)", " on conflict do nothing returning event_id")
	s.load = s.bulk("select id, status, version from state where id in (", "?", ")")
	s.save = s.bulk("insert into state values ", "(?,?,?)", " on conflict (id) do update set status = excluded.status, version = excluded.version")
	s.say = s.bulk("insert into outbox (event_id, subject, saga_id, payload) values ", "(?,?,?,?)", " returning seq")
	s.remove = s.bulk("delete from outbox where seq in (", "?", ")")
	if s.err != nil {
		s.close()
		return nil, s.err
	}
	return s, nil
}

func (s *sqlite) close() { _ = s.conn.Close() }

func (s *sqlite) transact(batch []message, decide func([]*message) []event) ([]event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := &s.index
	x.reset(batch)
	s.run(s.begin, 1, nil, nil)
	s.run(s.note, len(batch), func(i int) { s.note.bind(batch[i].event[:]) },
		func(row []driver.Value) { x.noted(row[0].([]byte)) })
	s.run(s.load, len(batch), func(i int) { s.load.bind(batch[i].saga[:]) },
		func(row []driver.Value) { x.stored(row[0].([]byte), row[1].(string), row[2].(int64)) })

	events := decide(x.fresh)

	s.run(s.save, len(x.fresh), func(i int) {
		m := x.fresh[i]
		s.save.bind(m.saga[:], m.status, m.version)
	}, nil)
	n := 0
	s.run(s.say, len(events), func(i int) {
		e := &events[i]
		s.say.bind(e.id[:], e.subject, e.saga[:], e.payload)
	}, func(row []driver.Value) {
		events[n].seq = row[0].(int64)
		n++
	})
	s.run(s.commit, 1, nil, nil)
	return events, s.err
}

func (s *sqlite) forget(seqs []int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synchronous("normal")
	s.run(s.begin, 1, nil, nil)
	s.run(s.remove, len(seqs), func(i int) { s.remove.bind(seqs[i]) }, nil)
	s.run(s.commit, 1, nil, nil)
	s.synchronous("full")
	return s.err
}

// synchronous says whether commits wait for the disk. SQLite carries out this pragma
// when it is prepared, so it cannot be kept as a statement.
func (s *sqlite) synchronous(level string) {
	if s.err == nil {
		_, s.err = s.conn.(driver.ExecerContext).ExecContext(context.Background(), "pragma synchronous = "+level, nil)
	}
}

func (s *sqlite) count(status string, version int64) (c counts, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.run(s.rows, 1, func(int) { s.rows.bind(status, version) }, func(row []driver.Value) {
		c = counts{row[0].(int64), row[1].(int64), row[2].(int64), row[3].(int64)}
	})
	return c, s.err
}

// sizes are the numbers of rows that statements are prepared for: beyond 64 nothing is
// gained, and without 8 small batches would go row by row.
var sizes = [...]int{64, 8, 1}

// A bulk is a statement for any number of rows.
type bulk struct {
	stmts [len(sizes)]driver.Stmt
	args  []driver.NamedValue
}

func (b *bulk) bind(values ...driver.Value) {
	for _, v := range values {
		b.args = append(b.args, driver.NamedValue{Ordinal: len(b.args) + 1, Value: v})
	}
}

// bulk prepares a statement that has row between head and tail once for every row.
func (s *sqlite) bulk(head, row, tail string) *bulk {
	b := &bulk{}
	for i, n := range sizes {
		if s.err == nil && (row != "" || n == 1) {
			b.stmts[i], s.err = s.conn.Prepare(head + strings.TrimSuffix(strings.Repeat(row+",", n), ",") + tail)
		}
	}
	return b
}

// run carries out a statement for n rows, unless something has failed before.
func (s *sqlite) run(b *bulk, n int, bind func(i int), read func(row []driver.Value)) {
	done := 0
	for i, size := range sizes {
		for s.err == nil && b.stmts[i] != nil && n-done >= size {
			b.args = b.args[:0]
			for row := done; bind != nil && row < done+size; row++ {
				bind(row)
			}
			s.err = query(b.stmts[i], b.args, read)
			done += size
		}
	}
}

func query(stmt driver.Stmt, args []driver.NamedValue, read func(row []driver.Value)) (err error) {
	if read == nil {
		_, err = stmt.(driver.StmtExecContext).ExecContext(context.Background(), args)
		return err
	}
	rows, err := stmt.(driver.StmtQueryContext).QueryContext(context.Background(), args)
	if err != nil {
		return err
	}
	values := make([]driver.Value, len(rows.Columns()))
	for err = rows.Next(values); err == nil; err = rows.Next(values) {
		read(values)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, rows.Close())
}
