package sqldb

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	lite "modernc.org/sqlite"

	"github.com/waybill-dev/waybill/platform/errs"
)

// minSQLite is the first version without the bug that could corrupt a database
// in WAL mode when two connections wrote and checkpointed at once.
const minSQLite = "3.51.3"

// sqlite is the backend for SQLite: one connection that writes, so that writers
// queue here and not in busy loops, and a few that only read. It talks to the
// driver below database/sql, which would cost half as much again as a small
// statement.
type sqlite struct {
	db    *DB
	cfg   Config
	path  string
	lock  *fileLock
	write chan *liteConn // holds the one writer when it is free
	read  chan *liteConn // holds the free readers; nil for one not opened yet

	closing   sync.Once
	closed    chan struct{}
	lastCheck time.Time // of the log's size; owned by the holder of the writer
	logLimit  int64
	logEvery  time.Duration
}

func openSQLite(ctx context.Context, cfg Config) (_ *sqlite, err error) {
	path, err := sqlitePath(cfg.URL)
	if err != nil {
		return nil, err
	}
	if cfg.ReadOnly {
		if _, err := os.Stat(path); err != nil {
			return nil, errs.Wrap(err, errs.NotFound, "NO_DATABASE", "there is no database %s", path)
		}
	} else if err := makeFile(path); err != nil {
		return nil, errs.Wrap(err, errs.FailedPrecondition, "DATABASE_FILE", "the database file %s cannot be made", path)
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, lockError(path, err)
	}
	b := &sqlite{cfg: cfg, path: path, lock: lock, closed: make(chan struct{}), write: make(chan *liteConn, 1),
		logLimit: logLimit, logEvery: logCheckEvery}
	readers := cfg.MaxConns
	if readers <= 0 {
		readers = 4
	}
	b.read = make(chan *liteConn, readers)
	defer func() {
		if err != nil {
			_ = b.lock.release()
		}
	}()
	_, statErr := os.Stat(path + "-wal")
	crashed := statErr == nil // a clean end removes the log
	w, err := b.connect(false)
	if err != nil {
		return nil, err
	}
	if err := b.verify(ctx, w, crashed); err != nil {
		_ = w.close()
		return nil, err
	}
	b.write <- w
	for range readers {
		b.read <- nil
	}
	return b, nil
}

// sqlitePath takes the path out of a sqlite:// URL.
func sqlitePath(raw string) (string, error) {
	rest := strings.TrimPrefix(raw, "sqlite://")
	path, err := url.PathUnescape(rest)
	if err != nil || path == "" || strings.ContainsAny(rest, "?#") || strings.HasSuffix(path, "/") || strings.HasPrefix(path, ":") {
		return "", errs.E(errs.Invalid, "DATABASE_URL", "the database URL must be sqlite:///folder/file.db, without options")
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", errs.Wrap(err, errs.Invalid, "DATABASE_URL", "the database URL has no usable path")
	}
	return path, nil
}

// makeFile makes the file and its folder for their owner only; what the log
// and the index beside it may be read by follows from the file.
func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func lockError(path string, err error) error {
	var held *lockedError
	if !errors.As(err, &held) {
		return errs.Wrap(err, errs.FailedPrecondition, "DATABASE_FILE", "the lock file of the database %s cannot be used", path)
	}
	by := "another process"
	if held.pid != "" {
		by = "process " + held.pid
	}
	return errs.E(errs.FailedPrecondition, "DATABASE_LOCKED",
		"the database %s is in use by %s; SQLite serves one process, so stop that one first or use PostgreSQL", path, by)
}

// dsn names the file and the settings of a connection to the driver. What is
// deleted is overwritten (secure_delete), because erasing a person means that.
func (b *sqlite) dsn(reader bool) string {
	q := url.Values{"_txlock": {"immediate"}, "_dqs": {"0"}}
	for _, p := range []string{
		"busy_timeout(" + strconv.FormatInt(b.cfg.LockTimeout.Milliseconds(), 10) + ")",
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)", "secure_delete(1)", "temp_store(MEMORY)",
		"wal_autocheckpoint(" + strconv.Itoa(checkpointPages) + ")", "journal_size_limit(" + strconv.Itoa(logKeep) + ")",
	} {
		q.Add("_pragma", p)
	}
	// Each connection has a cache of its own, which costs about twice what is said
	// here, and there are several to a service. The operating system's is there, too:
	// larger ones brought nothing with 100,000 orders (docs/performance.md).
	if reader {
		q.Add("_pragma", "query_only(1)")
		q.Add("_pragma", "cache_size(-512)")
	} else {
		q.Add("_pragma", "cache_size(-3072)")
	}
	return "file:" + (&url.URL{Path: b.path}).EscapedPath() + "?" + q.Encode()
}

func (b *sqlite) connect(reader bool) (*liteConn, error) {
	c, err := new(lite.Driver).Open(b.dsn(reader))
	if err != nil {
		return nil, b.classify(err)
	}
	return newLiteConn(b, c), nil
}

// verify reads back what was asked for, since a driver that does not know a
// setting ignores it, and looks for damage.
func (b *sqlite) verify(ctx context.Context, c *liteConn, crashed bool) error {
	var version string
	if err := c.one(ctx, "SELECT sqlite_version()", &version); err != nil {
		return err
	}
	if versionLess(version, minSQLite) {
		return errs.E(errs.FailedPrecondition, "DATABASE_UNSAFE", "SQLite %s is too old, %s is needed", version, minSQLite)
	}
	for _, s := range []struct{ pragma, want string }{
		{"journal_mode", "wal"}, {"synchronous", "2"}, {"foreign_keys", "1"}, {"secure_delete", "1"},
		{"busy_timeout", strconv.FormatInt(b.cfg.LockTimeout.Milliseconds(), 10)},
	} {
		var got string
		if err := c.one(ctx, "PRAGMA "+s.pragma, &got); err != nil {
			return err
		}
		if got != s.want {
			return errs.E(errs.FailedPrecondition, "DATABASE_UNSAFE", "SQLite runs with %s=%s, not %s, on %s", s.pragma, got, s.want, b.path)
		}
	}
	var n int64
	if err := c.one(ctx, "SELECT count(*) FROM sqlite_schema", &n); err != nil {
		return err
	}
	if !crashed || sizeOf(b.path) > quickCheckLimit {
		return nil
	}
	var state string
	if err := c.one(ctx, "PRAGMA quick_check(1)", &state); err != nil {
		return err
	}
	if state != "ok" {
		return b.corrupt(errors.New(state))
	}
	return nil
}

// versionLess compares dotted numbers.
func versionLess(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range y {
		var m, n int
		if i < len(x) {
			m, _ = strconv.Atoi(x[i])
		}
		n, _ = strconv.Atoi(y[i])
		if m != n {
			return m < n
		}
	}
	return false
}

func (b *sqlite) session() session { return &liteSession{b: b} }

// take waits for a connection of the pool.
func (b *sqlite) take(ctx context.Context, pool chan *liteConn) (*liteConn, error) {
	select {
	case <-b.closed:
		return nil, unavailable(errClosed)
	default:
	}
	select {
	case c := <-pool:
		if c != nil {
			return c, nil
		}
		c, err := b.connect(pool == b.read)
		if err != nil {
			pool <- nil
			return nil, err
		}
		return c, nil
	case <-b.closed:
		return nil, unavailable(errClosed)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

var errClosed = errors.New("the database is closed")

// query reads on a reader, or runs a writing statement with rows on the writer.
func (b *sqlite) query(ctx context.Context, sql string, args []any) (*Rows, error) {
	pool := b.read
	if !reads(sql) {
		pool = b.write
	}
	c, err := b.take(ctx, pool)
	if err != nil {
		return nil, err
	}
	rows, err := c.query(ctx, sql, args)
	if err != nil {
		pool <- c
		return nil, err
	}
	live := &liteLive{rows: rows, c: c, give: func() { pool <- c }}
	if pool == b.read {
		return &Rows{src: live}, nil
	}
	kept, err := live.keep()
	if err != nil {
		return nil, err
	}
	return &Rows{src: kept}, nil
}

func (b *sqlite) ping(ctx context.Context) error {
	rows, err := b.query(ctx, "SELECT 1", nil)
	if err != nil {
		return err
	}
	rows.Close()
	return rows.Err()
}

func (b *sqlite) close() (err error) {
	b.closing.Do(func() {
		close(b.closed)
		for range cap(b.read) {
			if c := <-b.read; c != nil {
				err = errors.Join(err, c.close())
			}
		}
		if c := <-b.write; c != nil { // the last to go: it empties the log
			err = errors.Join(err, c.close())
		}
		err = errors.Join(err, b.lock.release())
	})
	return err
}

const (
	checkpointPages = 4000      // pages of log after which a commit copies it into the file
	logKeep         = 64 << 20  // bytes of log that are kept for use again
	logLimit        = 256 << 20 // bytes of log after which readers are waited for
	quickCheckLimit = 256 << 20 // bytes of a database that is looked through after a crash
	logCheckEvery   = 10 * time.Second
)

// trim empties a log that has grown too long because there was always a reader
// in it. The holder of the writer calls it after a commit.
func (b *sqlite) trim(c *liteConn) {
	now := time.Now()
	if now.Sub(b.lastCheck) < b.logEvery {
		return
	}
	b.lastCheck = now
	if info, err := os.Stat(b.path + "-wal"); err != nil || info.Size() < b.logLimit {
		return
	}
	ctx := context.Background()
	var ignore any
	_ = c.one(ctx, "PRAGMA busy_timeout(250)", &ignore)
	var busy, frames, moved int64
	err := c.one(ctx, "PRAGMA wal_checkpoint(TRUNCATE)", &busy, &frames, &moved)
	_ = c.one(ctx, "PRAGMA busy_timeout("+strconv.FormatInt(b.cfg.LockTimeout.Milliseconds(), 10)+")", &ignore)
	if err != nil || busy != 0 {
		b.cfg.Log.Warn("the log of the database stays long, because it is always being read", "file", b.path, "error", err)
	}
}

// SQLite's result codes that matter here.
const (
	liteBusy, liteLocked, liteInterrupt, liteIOErr, liteCorrupt      = 5, 6, 9, 10, 11
	liteFull, liteCantOpen, liteNotADB, liteReadOnly                 = 13, 14, 26, 8
	liteConstraintPrimary, liteConstraintUnique, liteConstraintRowID = 1555, 2067, 2579
)

// classify turns an error of the driver into one of this package.
func (b *sqlite) classify(err error) error {
	var le *lite.Error
	if err == nil || !errors.As(err, &le) {
		if errors.Is(err, driver.ErrBadConn) {
			return unavailable(err)
		}
		return err
	}
	switch le.Code() {
	case liteConstraintPrimary, liteConstraintUnique, liteConstraintRowID:
		return duplicate(err)
	}
	switch le.Code() & 0xff {
	case liteBusy, liteLocked:
		return conflict(err)
	case liteIOErr, liteFull, liteCantOpen, liteReadOnly:
		return unavailable(err)
	case liteCorrupt, liteNotADB:
		return b.corrupt(err)
	case liteInterrupt:
		return fmt.Errorf("%w: %w", context.Canceled, err)
	}
	return err
}

func (b *sqlite) corrupt(err error) error {
	return errs.Wrap(err, errs.FailedPrecondition, "DATABASE_CORRUPT",
		"the file %s is damaged or not an SQLite database; move it away and restore a backup", b.path)
}

// sizeOf gives a file's size: 0 if it cannot be had, as of one that is not there.
func sizeOf(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}
