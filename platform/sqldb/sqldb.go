// Package sqldb is the one door to SQL: PostgreSQL through pgx, SQLite through a
// pure-Go driver, with the same behaviour on both. It knows transactions whose
// BEGIN and COMMIT travel with the work (Begin, Batch), bulk forms of the few
// statements the platform repeats (Table), migrations under a lock (Migrate) and
// one set of errors.
//
// SQL is written once, with ? for parameters (?? is a literal question mark).
// Values that cross are string, []byte, bool, integers, floats, time.Time,
// json.RawMessage, pointers to these (nil is NULL), and anything with Value and
// Scan methods. A time is timestamptz on PostgreSQL and an INTEGER of Unix
// microseconds on SQLite; it comes back in UTC, cut to microseconds. A bool is
// boolean and INTEGER 0 or 1; JSON is jsonb and TEXT.
package sqldb

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
)

// A Dialect is a kind of database.
type Dialect uint8

// The dialects.
const (
	Postgres Dialect = iota + 1
	SQLite
	InMemory // of Memory; it takes the SQL that is written for PostgreSQL
)

// String gives the dialect's name, which is also the folder of its migrations.
func (d Dialect) String() string {
	switch d {
	case Postgres:
		return "postgres"
	case SQLite:
		return "sqlite"
	case InMemory:
		return "memory"
	}
	return fmt.Sprintf("dialect(%d)", uint8(d))
}

// Config says which database to open. The zero value of every field but URL is
// a good choice.
type Config struct {
	// URL is "postgres://user:password@host/database?…" as pgx and libpq know
	// it, or "sqlite:///absolute/file.db" ("sqlite://file.db" is relative). The
	// folder and the file of SQLite are made when missing, readable by their
	// owner only.
	URL string

	// Schema is the PostgreSQL schema of this service: made when missing, and
	// the whole search_path. Empty means the server's own search_path. SQLite
	// ignores it, for there each service has a file of its own.
	Schema string

	// MaxConns limits the connections: on PostgreSQL all (8 when zero), on
	// SQLite those that read (4 when zero); SQLite has one that writes.
	MaxConns int

	// StatementTimeout (10 s when zero), LockTimeout (5 s) and IdleInTxTimeout
	// (15 s) are kept by PostgreSQL for every session. On SQLite LockTimeout is
	// how long to wait for a foreign process that holds the file.
	StatementTimeout time.Duration
	LockTimeout      time.Duration
	IdleInTxTimeout  time.Duration

	// ReadOnly opens a database that exists, for reading: PostgreSQL then refuses
	// to write, and a standby will do; of SQLite nothing is made that is missing.
	ReadOnly bool

	// AllowVolatile opens a PostgreSQL that may forget commits (fsync,
	// full_page_writes or synchronous_commit off). It is for tests.
	AllowVolatile bool

	// CheckOnly opens a database that others migrate: Migrate changes nothing
	// then and only tells whether the tables are fit, and no schema is made.
	CheckOnly bool

	// Migrated, if set, hears of every successful Migrate: the version the tables
	// of name had and the one they have.
	Migrated func(name string, from, to int64)

	// Log hears of what is odd but not fatal; slog.Default when nil.
	Log *slog.Logger
}

// withDefaults gives c with its zero fields filled.
func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&c.StatementTimeout, 10*time.Second)
	def(&c.LockTimeout, 5*time.Second)
	def(&c.IdleInTxTimeout, 15*time.Second)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Migrated == nil {
		c.Migrated = func(string, int64, int64) {}
	}
	return c
}

// DB is one open database. It is safe for use by many goroutines.
type DB struct {
	dialect Dialect
	check   bool // Migrate only checks
	b       backend
	tables  sync.Map // *Table -> *tableSQL, or error
}

// backend is what a dialect brings: sessions that run batches, reads outside of
// transactions, and migrations.
type backend interface {
	// session gives a session that has not touched the database yet.
	session() session
	query(ctx context.Context, sql string, args []any) (*Rows, error)
	ping(ctx context.Context) error
	migrate(ctx context.Context, name string, fsys fs.FS) error
	close() error
}

// session is the dialect's half of a transaction. It takes its connection at
// the first run and gives it back at commit, rollback or a single autocommit.
type session interface {
	// run carries out ops. mode says whether the transaction ends with them.
	// After an error only rollback may follow.
	run(ctx context.Context, ops []op, mode runMode) error
	// query runs one statement inside the transaction and keeps its rows.
	query(ctx context.Context, sql string, args []any) (*Rows, error)
	// rollback undoes and gives the connection back; it never fails visibly,
	// since a connection that cannot roll back is closed, which rolls back.
	rollback()
}

type runMode uint8

const (
	runSend   runMode = iota // the transaction stays open
	runCommit                // COMMIT follows the last statement
	runAuto                  // one statement, a transaction of its own
)

// Open opens the database and verifies that it keeps what it commits: on
// PostgreSQL synchronous_commit, fsync and full_page_writes, on SQLite the
// library's version, WAL, synchronous=FULL, foreign keys and that no other
// process has the file. It fails with errs.Unavailable when the server cannot be
// reached and with errs.FailedPrecondition when the database is not fit. No
// error names the password of the URL.
func Open(ctx context.Context, cfg Config) (*DB, error) {
	cfg = cfg.withDefaults()
	scheme, _, ok := strings.Cut(cfg.URL, "://")
	switch {
	case ok && (scheme == "postgres" || scheme == "postgresql"):
		b, err := openPostgres(ctx, cfg)
		if err != nil {
			return nil, err
		}
		db := &DB{dialect: Postgres, check: cfg.CheckOnly, b: b}
		b.db = db
		return db, nil
	case ok && scheme == "sqlite":
		b, err := openSQLite(ctx, cfg)
		if err != nil {
			return nil, err
		}
		db := &DB{dialect: SQLite, check: cfg.CheckOnly, b: b}
		b.db = db
		return db, nil
	}
	return nil, errs.E(errs.Invalid, "DATABASE_URL", "the database URL must begin with postgres:// or sqlite://")
}

// CheckURL tells whether Open could mean anything by the URL, without a
// connection. The error is errs.Invalid and never quotes the URL, which may hold a
// password. Files that the URL names, such as certificates, have to be there.
func CheckURL(raw string) error {
	scheme, _, _ := strings.Cut(raw, "://")
	switch scheme {
	case "postgres", "postgresql":
		_, err := parsePostgres(raw)
		return err
	case "sqlite":
		_, err := sqlitePath(raw)
		return err
	}
	return errs.E(errs.Invalid, "DATABASE_URL", "the database URL must begin with postgres:// or sqlite://")
}

// Dialect tells which kind of database this is.
func (db *DB) Dialect() Dialect { return db.dialect }

// Ping makes one round trip to the database.
func (db *DB) Ping(ctx context.Context) error { return db.b.ping(ctx) }

// Close waits until transactions and rows have ended and closes every
// connection.
func (db *DB) Close() error { return db.b.close() }

// Migrate brings the tables of name up to date with the files in fsys, in its
// folder "postgres" or "sqlite" (goose's format, 00001_name.sql). The versions
// applied are kept in the table goose_<name>. Processes that migrate at the same
// time wait for each other. On PostgreSQL a migration that waits half a second
// for a lock gives way to those who use the tables and is tried again for a
// minute; then its error is Retryable. A file without a transaction begins anew then,
// so each of its statements must bear to be repeated.
//
// Each file but the first has a line "-- compatible: <version>": the oldest
// version whose program works on the tables after it. A database that is newer
// than fsys is left as it is if it says that this program works on it, and is
// refused with errs.FailedPrecondition and ReasonDatabaseNewer otherwise. With
// Config.CheckOnly nothing is changed, and tables that are older than fsys are
// refused with ReasonDatabaseOlder.
func (db *DB) Migrate(ctx context.Context, name string, fsys fs.FS) error {
	if db.check {
		return db.checkSchema(ctx, name, fsys)
	}
	return db.b.migrate(ctx, name, fsys)
}

// Query runs a reading statement and streams its rows; close them. It sees what
// is committed, outside of any transaction. On SQLite a statement that writes
// (INSERT … RETURNING) runs too, and its rows are read before Query returns.
func (db *DB) Query(ctx context.Context, sql string, args ...any) (*Rows, error) {
	return db.b.query(ctx, sql, args)
}

// QueryRow runs a statement of which only the first row matters. Errors come
// from Scan, ErrNoRows when there is none.
func (db *DB) QueryRow(ctx context.Context, sql string, args ...any) *Row {
	rows, err := db.b.query(ctx, sql, args)
	return &Row{rows: rows, err: err}
}

// Exec runs one statement in a transaction of its own and gives the number of
// rows it touched. Once it is under way the end of ctx no longer stops it. When
// the connection dies meanwhile the outcome is unknown, see Ambiguous.
func (db *DB) Exec(ctx context.Context, sql string, args ...any) (int64, error) {
	ops := []op{{kind: opExec, sql: sql, args: args}}
	s := db.b.session()
	if err := s.run(ctx, ops, runAuto); err != nil {
		s.rollback()
		return 0, err
	}
	return ops[0].affected, nil
}

// forms gives the SQL of t's bulk forms, built at the first call.
func (db *DB) forms(t *Table) (*tableSQL, error) {
	if f, ok := db.tables.Load(t); ok {
		return f.(*tableSQL), nil
	}
	f, err := newTableSQL(t, db.dialect)
	if err != nil {
		return nil, err
	}
	got, _ := db.tables.LoadOrStore(t, f)
	return got.(*tableSQL), nil
}
