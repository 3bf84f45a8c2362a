package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

const postgresTables = `
drop schema if exists %[1]s cascade;
create schema %[1]s;
create table inbox (event_id uuid primary key);
create table outbox (seq bigint generated always as identity primary key, event_id uuid not null, subject text not null, saga_id uuid not null, payload bytea not null);
create table state (id uuid primary key, status text not null, version bigint not null) with (fillfactor = 50)`

const countRows = `select (select count(*) from inbox), (select count(*) from outbox), (select count(*) from state),
	(select count(*) from state where status = $1 and version = $2)`

// postgres is a schema, with one connection for transactions that must last and one
// for those that need not.
type postgres struct {
	work                                 *session
	begin, note, load, save, say, commit *pgconn.StatementDescription
	index                                index

	mu             sync.Mutex // guards what follows
	lazy           *session
	remove, counts *pgconn.StatementDescription
}

func openPostgres(ctx context.Context, url, schema string) (*postgres, error) {
	work, err := connect(ctx, url, schema, "on")
	if err != nil {
		return nil, err
	}
	if _, err = work.conn.Exec(ctx, fmt.Sprintf(postgresTables, schema)).ReadAll(); err != nil {
		return nil, errors.Join(err, work.conn.Close(ctx))
	}
	lazy, err := connect(ctx, url, schema, "off")
	if err != nil {
		return nil, errors.Join(err, work.conn.Close(ctx))
	}
	prepare := func(s *session, name, sql string) *pgconn.StatementDescription {
		stmt, failed := s.conn.Prepare(ctx, name, sql, nil)
		err = errors.Join(err, failed)
		return stmt
	}
	p := &postgres{
		work:  work,
		begin: prepare(work, "begin", "begin"),
		note:  prepare(work, "note", "insert into inbox select unnest($1::uuid[]) on conflict do nothing returning event_id"),
		load:  prepare(work, "load", "select id, status, version from state where id = any($1::uuid[]) for update"),
		save: prepare(work, "save", `insert into state select * from unnest($1::uuid[], $2::text[], $3::bigint[])
			on conflict (id) do update set status = excluded.status, version = excluded.version`),
		say: prepare(work, "say", `insert into outbox (event_id, subject, saga_id, payload)
			select * from unnest($1::uuid[], $2::text[], $3::uuid[], $4::bytea[]) returning seq`),
		commit: prepare(work, "commit", "commit"),
		lazy:   lazy,
		remove: prepare(lazy, "remove", "delete from outbox where seq = any($1::bigint[])"),
		counts: prepare(lazy, "counts", countRows),
	}
	work.pipe, lazy.pipe = work.conn.StartPipeline(context.Background()), lazy.conn.StartPipeline(context.Background())
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// close drops the schema: vacuum would clean it up while something else is measured.
func (p *postgres) close() {
	ctx := context.Background()
	_, _ = p.lazy.pipe.Close(), p.work.pipe.Close() // the connections are thrown away
	_ = p.lazy.conn.Close(ctx)
	_, _ = p.work.conn.Exec(ctx, "drop schema if exists "+p.work.schema+" cascade").ReadAll()
	_ = p.work.conn.Close(ctx)
}

func (p *postgres) transact(batch []message, decide func([]*message) []event) ([]event, error) {
	s, x := p.work, &p.index
	x.reset(batch)
	s.send(p.begin)
	s.send(p.note, array(s, pgtype.UUIDOID, batch, func(m *message) []byte { return m.event[:] }))
	s.send(p.load, array(s, pgtype.UUIDOID, batch, func(m *message) []byte { return m.saga[:] }))
	err := s.trip(nil,
		func(row [][]byte) { x.noted(row[0]) },
		func(row [][]byte) { x.stored(row[0], string(row[1]), number(row[2])) })
	if err != nil {
		return nil, err
	}

	events := decide(x.fresh)

	s.send(p.save,
		array(s, pgtype.UUIDOID, x.fresh, func(m **message) []byte { return (*m).saga[:] }),
		array(s, pgtype.TextOID, x.fresh, func(m **message) string { return (*m).status }),
		array(s, pgtype.Int8OID, x.fresh, func(m **message) []byte { return s.number((*m).version) }))
	s.send(p.say,
		array(s, pgtype.UUIDOID, events, func(e *event) []byte { return e.id[:] }),
		array(s, pgtype.TextOID, events, func(e *event) string { return e.subject }),
		array(s, pgtype.UUIDOID, events, func(e *event) []byte { return e.saga[:] }),
		array(s, pgtype.ByteaOID, events, func(e *event) []byte { return e.payload }))
	s.send(p.commit)
	n := 0
	err = s.trip(nil, func(row [][]byte) {
		events[n].seq = number(row[0])
		n++
	}, nil)
	return events, err
}

func (p *postgres) forget(seqs []int64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lazy.send(p.remove, array(p.lazy, pgtype.Int8OID, seqs, func(n *int64) []byte { return p.lazy.number(*n) }))
	return p.lazy.trip(nil)
}

func (p *postgres) count(status string, version int64) (c counts, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lazy.send(p.counts, []byte(status), p.lazy.number(version))
	err = p.lazy.trip(func(row [][]byte) {
		c = counts{number(row[0]), number(row[1]), number(row[2]), number(row[3])}
	})
	return c, err
}

// A session is a connection in pipeline mode, in which one trip sends many statements.
// It encodes arguments by itself: the shape asks for five types, and a type map would
// allocate for every value.
type session struct {
	schema string
	conn   *pgconn.PgConn
	pipe   *pgconn.Pipeline
	buf    []byte // arguments of the statement that is sent next
	num    [8]byte
}

func connect(ctx context.Context, url, schema, synchronousCommit string) (*session, error) {
	cfg, err := pgconn.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	maps.Copy(cfg.RuntimeParams, map[string]string{
		"search_path": schema, "synchronous_commit": synchronousCommit, "client_min_messages": "warning",
		// Plans are made once, while the tables are empty, and must not be for empty tables.
		"plan_cache_mode": "force_generic_plan", "enable_seqscan": "off",
	})
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &session{schema: schema, conn: conn}, nil
}

var binaryFormat = []int16{1}

func (s *session) send(stmt *pgconn.StatementDescription, args ...[]byte) {
	s.pipe.SendQueryStatement(stmt, args, binaryFormat, binaryFormat)
	s.buf = s.buf[:0]
}

// trip ends a round trip and reads the rows of its statements.
func (s *session) trip(read ...func(row [][]byte)) error {
	if err := s.pipe.Sync(); err != nil {
		return err
	}
	for _, each := range read {
		got, err := s.pipe.GetResults()
		if err != nil {
			return err
		}
		rows, ok := got.(*pgconn.ResultReader)
		if !ok {
			return fmt.Errorf("the pipeline gave a %T", got)
		}
		for rows.NextRow() {
			if each != nil {
				each(rows.Values())
			}
		}
		if _, err := rows.Close(); err != nil {
			return err
		}
	}
	_, err := s.pipe.GetResults() // of Sync
	return err
}

func number(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

func (s *session) number(n int64) []byte {
	binary.BigEndian.PutUint64(s.num[:], uint64(n))
	return s.num[:]
}

// array writes an array in PostgreSQL's binary format. Earlier arrays of the same
// statement stay where they are, even if the buffer moves.
func array[E any, V []byte | string](s *session, oid uint32, items []E, value func(*E) V) []byte {
	start := len(s.buf)
	for _, word := range [...]uint32{1, 0, oid, uint32(len(items)), 1} { // dimensions, NULLs, type, length, first index
		s.buf = binary.BigEndian.AppendUint32(s.buf, word)
	}
	for i := range items {
		v := value(&items[i])
		s.buf = binary.BigEndian.AppendUint32(s.buf, uint32(len(v)))
		s.buf = append(s.buf, v...)
	}
	return s.buf[start:]
}
