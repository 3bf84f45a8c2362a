package sqldb_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/platform/telemetry/telemetrytest"
)

// admin connects past sqldb.
func admin(t *testing.T, server string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server)
	must(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func openPostgres(t *testing.T, cfg sqldb.Config) *sqldb.DB {
	t.Helper()
	cfg.AllowVolatile = true
	db, err := sqldb.Open(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

func TestPostgresThatForgetsCommitsIsRefused(t *testing.T) {
	_, err := sqldb.Open(t.Context(), sqldb.Config{URL: sqldbtest.StartPostgres(t, false)})
	if errs.KindOf(err) != errs.FailedPrecondition || errs.ReasonOf(err) != "DATABASE_UNSAFE" {
		t.Errorf("Open gave %v", err)
	}
	safe := sqldbtest.StartPostgres(t, true)
	db, err := sqldb.Open(t.Context(), sqldb.Config{URL: safe})
	must(t, err)
	must(t, db.Close())
	_, err = sqldb.Open(t.Context(), sqldb.Config{URL: safe + "&options=-csynchronous_commit%3Doff"})
	if errs.ReasonOf(err) != "DATABASE_UNSAFE" || !strings.Contains(err.Error(), "synchronous_commit=off") {
		t.Errorf("Open with synchronous_commit off gave %v", err)
	}
}

func TestNoErrorNamesThePassword(t *testing.T) {
	const secret = "hunter2"
	for _, u := range []string{
		"postgres://me:" + secret + "@127.0.0.1:1/db?connect_timeout=2",
		"postgres://me:" + secret + "@[bad/db",
		"postgres://me:" + secret + "@127.0.0.1:port/db",
		"postgres://me:" + secret + "@127.0.0.1/db?sslmode=sometimes",
		"postgres://me@127.0.0.1:1/db?sslmode=disable&password=" + secret,
		"mysql://me:" + secret + "@127.0.0.1/db",
		"sqlite:///tmp/x.db?key=" + secret,
	} {
		_, err := sqldb.Open(t.Context(), sqldb.Config{URL: u, Schema: "s"})
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("Open gave %v", err)
		}
	}
}

func TestAServerThatIsAwayIsUnavailable(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, lis.Close())
	_, err = sqldb.Open(t.Context(), sqldb.Config{URL: "postgres://me@" + lis.Addr().String() + "/db"})
	if errs.KindOf(err) != errs.Unavailable || !sqldb.Unavailable(err) {
		t.Errorf("Open gave %v", err)
	}
}

func TestARoleThatMayNotCreateSchemasUsesOneThatExists(t *testing.T) {
	server := sqldbtest.StartPostgres(t, false)
	conn := admin(t, server)
	_, err := conn.Exec(t.Context(), `DROP SCHEMA IF EXISTS "made Before" CASCADE; DROP ROLE IF EXISTS humble;
CREATE ROLE humble LOGIN; CREATE SCHEMA "made Before"; GRANT ALL ON SCHEMA "made Before" TO humble`)
	must(t, err)
	t.Cleanup(func() {
		_, err := conn.Exec(context.Background(), `DROP SCHEMA "made Before" CASCADE; DROP OWNED BY humble; DROP ROLE humble`)
		must(t, err)
	})
	u, err := url.Parse(server)
	must(t, err)
	u.User = url.User("humble")
	db := openPostgres(t, sqldb.Config{URL: u.String(), Schema: "made Before"})
	must(t, db.Migrate(t.Context(), "toys", toys().FS))
	commit(t, db, func(b *sqldb.Batch) { b.Insert(entries, [][]any{{"x"}}) })
	if _, err := sqldb.Open(t.Context(), sqldb.Config{URL: u.String(), Schema: "not made", AllowVolatile: true}); err == nil {
		t.Error("a schema was made without the right to")
	}
}

func TestProcessesThatMigrateAtOnceWaitForEachOther(t *testing.T) {
	open := sqldbtest.Postgres(t, false)
	m := toys()
	var dbs []*sqldb.DB
	for range 4 {
		dbs = append(dbs, open("toys"))
	}
	var wg sync.WaitGroup
	for _, db := range dbs {
		wg.Go(func() {
			if err := db.Migrate(context.Background(), m.Name, m.FS); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestAMigrationGivesWayToThoseWhoServe crosses the locks of a migration and of a
// transaction: the transaction never loses, and the migration ends when it may.
func TestAMigrationGivesWayToThoseWhoServe(t *testing.T) {
	server := sqldbtest.StartPostgres(t, false)
	db := sqldbtest.Postgres(t, false)("toys", migration(shop1+"CREATE TABLE till (id text PRIMARY KEY, n int);"))
	var gaveWay telemetrytest.Buffer
	newer := openPostgres(t, sqldb.Config{URL: server, Schema: schemaOf(t, db), Log: slog.New(slog.NewTextHandler(&gaveWay, nil))})

	tx, err := db.Begin(t.Context())
	must(t, err)
	defer tx.Rollback()
	_, err = tx.Exec(t.Context(), "INSERT INTO till (id) VALUES ('first')")
	must(t, err)
	migrated := make(chan error, 1)
	go func() {
		migrated <- newer.Migrate(context.Background(), "toys", migration(shop1, "-- compatible: 1\nALTER TABLE shop ADD COLUMN n int;\nSELECT pg_sleep(0.1);\nALTER TABLE till ADD COLUMN m int;").FS)
	}()
	holds := "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock' AND relation = 'shop'::regclass"
	for count(t, db, holds) == 0 { // so that the transaction waits first and would be the one to notice the deadlock
		runtime.Gosched()
	}
	if _, err := tx.Exec(t.Context(), "INSERT INTO shop (id, name) VALUES ('first', '')"); err != nil {
		t.Fatalf("the transaction lost against the migration: %v", err)
	}
	for !strings.Contains(gaveWay.String(), "gives way") {
		runtime.Gosched()
	}
	must(t, tx.Commit(t.Context(), nil))
	must(t, <-migrated)
	if n := count(t, db, "SELECT count(*) FROM shop, till WHERE shop.n IS NULL AND till.m IS NULL"); n != 1 {
		t.Errorf("%d rows", n)
	}
}

func TestDeadlocksAndTimeoutsAreToldApart(t *testing.T) {
	server := sqldbtest.StartPostgres(t, false)
	open := sqldbtest.Postgres(t, false)
	db := open("toys", toys())
	schema := schemaOf(t, db)
	hasty := openPostgres(t, sqldb.Config{URL: server, Schema: schema, LockTimeout: 50 * time.Millisecond, StatementTimeout: 400 * time.Millisecond})
	rows, _ := thingsNamed(0, 2)
	commit(t, db, func(b *sqldb.Batch) { b.Insert(things, rows) })

	lock := func(db *sqldb.DB, id string) *sqldb.Tx {
		tx, err := db.Begin(t.Context())
		must(t, err)
		must(t, tx.Send(t.Context(), fillBatch(func(b *sqldb.Batch) { b.Load(things, []string{id}, true, nil) })))
		return tx
	}
	first := lock(db, "id-0000")
	defer first.Rollback()
	_, err := hasty.Exec(t.Context(), "UPDATE thing SET n = 9 WHERE id = ?", "id-0000")
	if !sqldb.Retryable(err) || errs.KindOf(err) != errs.Aborted || sqldb.Ambiguous(err) {
		t.Errorf("the lock timeout gave %v", err)
	}
	_, err = hasty.Exec(t.Context(), "SELECT pg_sleep(5)")
	if sqldb.Retryable(err) || errs.KindOf(err) != errs.DeadlineExceeded || sqldb.Ambiguous(err) {
		t.Errorf("the statement timeout gave %v", err)
	}

	second := lock(db, "id-0001")
	defer second.Rollback()
	crossed := make(chan error, 1)
	go func() {
		_, err := second.Exec(context.Background(), "UPDATE thing SET n = 1 WHERE id = ?", "id-0000")
		crossed <- err
	}()
	_, err = first.Exec(t.Context(), "UPDATE thing SET n = 1 WHERE id = ?", "id-0001")
	if err = errors.Join(err, <-crossed); !sqldb.Retryable(err) {
		t.Errorf("the deadlock gave %v", err)
	}
}

func schemaOf(t *testing.T, db *sqldb.DB) (name string) {
	t.Helper()
	must(t, db.QueryRow(t.Context(), "SELECT current_schema()").Scan(&name))
	return name
}

func TestALostConnectionIsUnavailableAndTheNextOneWorks(t *testing.T) {
	server := sqldbtest.StartPostgres(t, false)
	db := sqldbtest.Postgres(t, false)("toys", toys())
	conn := admin(t, server)
	tx, err := db.Begin(t.Context())
	must(t, err)
	defer tx.Rollback()
	var pid int
	must(t, tx.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pid))
	_, err = conn.Exec(t.Context(), "SELECT pg_terminate_backend($1, 5000)", pid)
	must(t, err)
	_, err = tx.Exec(t.Context(), "INSERT INTO entry (name) VALUES ('x')")
	if !sqldb.Unavailable(err) || errs.KindOf(err) != errs.Unavailable || sqldb.Ambiguous(err) {
		t.Errorf("the lost connection gave %v", err)
	}
	commit(t, db, func(b *sqldb.Batch) { b.Insert(entries, [][]any{{"y"}}) })
}

func TestStatementsOutliveAChangeOfTheirTable(t *testing.T) {
	db := sqldbtest.Postgres(t, false)("toys", toys())
	read := func() error {
		return tryCommit(db, func(b *sqldb.Batch) { b.Query("SELECT * FROM entry", nil, func(sqldb.Scanner) error { return nil }) })
	}
	must(t, read())
	_, err := db.Exec(t.Context(), "ALTER TABLE entry ADD COLUMN more text")
	must(t, err)
	if err := read(); err != nil && !sqldb.Unavailable(err) {
		t.Errorf("the outdated statement gave %v", err)
	}
	must(t, read())
}

// cutter is a proxy that cuts a connection when it has passed on a COMMIT.
type cutter struct {
	lis    net.Listener
	target string
	armed  atomic.Bool
	before atomic.Bool // cut before the server has seen it
}

func newCutter(t *testing.T, server string) (*cutter, string) {
	u, err := url.Parse(server)
	must(t, err)
	c := &cutter{target: filepath.Join(u.Query().Get("host"), ".s.PGSQL.5432")}
	if c.lis, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.lis.Close() })
	go func() {
		for {
			in, err := c.lis.Accept()
			if err != nil {
				return
			}
			go c.serve(in)
		}
	}()
	u.Host, u.RawQuery = c.lis.Addr().String(), "sslmode=disable"
	return c, u.String()
}

func (c *cutter) serve(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("unix", c.target)
	if err != nil {
		return
	}
	defer out.Close()
	go func() {
		defer in.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := out.Read(buf)
			if err != nil {
				return
			}
			if c.armed.Load() && strings.Contains(string(buf[:n]), "COMMIT\x00") {
				return // the server has committed, the client does not hear of it
			}
			if _, err := in.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	if !c.before.Load() {
		_, _ = io.Copy(out, in)
		return
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		if err != nil || c.armed.Load() {
			return
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return
		}
	}
}

func TestACommitThatIsCutIsAmbiguous(t *testing.T) {
	server := sqldbtest.StartPostgres(t, false)
	if strings.Contains(server, "@localhost") || !strings.Contains(server, "host=") {
		t.Skip("needs the server's socket")
	}
	db := sqldbtest.Postgres(t, false)("toys", toys())
	for _, before := range []bool{false, true} {
		c, through := newCutter(t, server)
		c.before.Store(before)
		cut := openPostgres(t, sqldb.Config{URL: through, Schema: schemaOf(t, db), MaxConns: 1})
		name := "before-" + strconv.FormatBool(before)
		must(t, cut.InTx(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error { // so that COMMIT is prepared
			_, err := tx.Exec(ctx, "INSERT INTO entry (name) VALUES (?)", "warm "+name)
			return err
		}))
		runs := 0
		err := cut.InTx(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			runs++
			_, err := tx.Exec(ctx, "INSERT INTO entry (name) VALUES (?)", name)
			c.armed.Store(true)
			return err
		})
		if !sqldb.Ambiguous(err) || !sqldb.Unavailable(err) || errs.ReasonOf(err) != "COMMIT_UNKNOWN" || runs != 1 {
			t.Errorf("the cut commit gave %v after %d runs", err, runs)
		}
		c.armed.Store(false)
		kept := count(t, db, "SELECT count(*) FROM entry WHERE name = ?", name)
		if want := 1; !before && kept != want || before && kept != 0 {
			t.Errorf("cut before the server: %v; %d rows kept", before, kept)
		}
		c.before.Store(false)
		_, err = cut.Exec(t.Context(), "INSERT INTO entry (name) VALUES (?)", name+" again")
		must(t, err)
		if before {
			continue
		}
		c.armed.Store(true)
		if err := tryCommit(cut, func(b *sqldb.Batch) {
			b.Exec("CREATE TEMP TABLE x (n int); ")
			b.Exec("SELECT 'COMMIT' || chr(1)")
			b.Insert(entries, [][]any{{name + " once"}})
		}); err != nil {
			t.Errorf("a transaction of one round trip sent COMMIT: %v", err)
		}
		c.armed.Store(false)
	}
}

func TestADeferredConstraintFailsTheCommit(t *testing.T) {
	db := sqldbtest.Postgres(t, false)("toys", migration(`
CREATE TABLE parent (id text PRIMARY KEY);
CREATE TABLE child (id text REFERENCES parent DEFERRABLE INITIALLY DEFERRED);`))
	for _, early := range []bool{false, true} {
		tx, err := db.Begin(t.Context())
		must(t, err)
		if early {
			_, err = tx.Exec(t.Context(), "INSERT INTO child VALUES ('x')")
			must(t, err)
		}
		err = tx.Commit(t.Context(), fillBatch(func(b *sqldb.Batch) { b.Exec("INSERT INTO child VALUES ('y')") }))
		if err == nil || sqldb.Ambiguous(err) {
			t.Errorf("Commit gave %v", err)
		}
		tx.Rollback()
		if n := count(t, db, "SELECT count(*) FROM child"); n != 0 {
			t.Errorf("%d rows were kept", n)
		}
	}
}
