package sqldb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	lite "modernc.org/sqlite"
)

// migrateUp brings the tables of name up to date through a database/sql handle
// that nobody else uses for it meanwhile.
func migrateUp(ctx context.Context, db *sql.DB, d Dialect, name string, fsys fs.FS, done func(name string, from, to int64)) error {
	s, err := readSchema(name, d, fsys)
	if err != nil {
		return err
	}
	wrap := func(err error) error { return fmt.Errorf("migrations of %s: %w", name, err) }
	have, oldest, err := s.state(d, func(q string) (n int64, err error) {
		err = db.QueryRowContext(ctx, q).Scan(&n)
		return n, err
	})
	if err != nil {
		return wrap(err)
	}
	target := s.target()
	if have > target {
		if err := s.fits(have, oldest); err != nil {
			return err
		}
		done(name, have, have)
		return nil
	}
	if have < target || oldest == 0 {
		if err := s.declare(ctx, db); err != nil {
			return wrap(err)
		}
	}
	if have < target {
		if err := up(ctx, db, d, s); err != nil {
			return wrap(err)
		}
	}
	done(name, have, target)
	return nil
}

func up(ctx context.Context, db *sql.DB, d Dialect, s *schema) error {
	dialect := goose.DialectPostgres
	if d == SQLite {
		dialect = goose.DialectSQLite3
	}
	p, err := goose.NewProvider(dialect, db, s.dir, goose.WithTableName(s.versionTable()), goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return err
	}
	_, err = p.Up(ctx)
	return err
}

// migrateLockTimeout is less than PostgreSQL's deadlock_timeout, so that of a
// migration and those who serve it is the migration that gives way, before it
// blocks everybody behind it.
const migrateLockTimeout = 500 * time.Millisecond

// migratePatience is how long a migration that lost a race is tried again.
const migratePatience = time.Minute

// migrate uses connections of its own, without a statement timeout.
func (p *postgres) migrate(ctx context.Context, name string, fsys fs.FS) error {
	cc := p.pool.Config().ConnConfig.Copy()
	cc.RuntimeParams["statement_timeout"] = "0"
	cc.RuntimeParams["lock_timeout"] = milliseconds(min(migrateLockTimeout, p.cfg.LockTimeout))
	cc.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	cc.DefaultQueryExecMode = pgx.QueryExecModeExec // tables change under prepared statements
	db := stdlib.OpenDB(*cc)
	defer db.Close()
	unlock, err := advisoryLock(ctx, db, p.cfg.Schema+"/"+name)
	if err != nil {
		return classifyPostgres(err)
	}
	defer unlock()
	patience := time.After(migratePatience)
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 3*time.Second) {
		err := classifyPostgres(migrateUp(ctx, db, Postgres, name, fsys, p.cfg.Migrated))
		if !Retryable(err) {
			return err
		}
		p.cfg.Log.Info("the migration gives way to those who use the tables and tries again", "tables", name, "error", err)
		select {
		case <-time.After(wait):
		case <-patience:
			return err
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// advisoryLock takes a session lock. It asks again and again instead of waiting
// in the server, where the waiting statement would hold a snapshot that CREATE
// INDEX CONCURRENTLY of the lock's holder waits for.
func advisoryLock(ctx context.Context, db *sql.DB, name string) (unlock func(), err error) {
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	h := fnv.New64a()
	h.Write([]byte("waybill migration " + name))
	id := int64(h.Sum64())
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var ok bool
		if err := conn.QueryRowContext(ctx, "SELECT pg_try_advisory_lock($1)", id).Scan(&ok); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		if ok {
			// The session ends with the handle, and the lock with it.
			return func() { _ = conn.Close() }, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), conn.Close())
		}
	}
}

// migrate holds the writer, so it is alone in the process; the lock on the file
// keeps other processes out.
func (b *sqlite) migrate(ctx context.Context, name string, fsys fs.FS) error {
	w, err := b.take(ctx, b.write)
	if err != nil {
		return err
	}
	defer func() { b.write <- w }()
	connector, err := lite.NewConnector(b.dsn(false))
	if err != nil {
		return err
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	db.SetMaxOpenConns(1)
	return b.classify(migrateUp(ctx, db, SQLite, name, fsys, b.cfg.Migrated))
}
