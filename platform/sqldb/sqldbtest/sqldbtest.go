// Package sqldbtest gives tests databases: a new SQLite file and a new schema on
// a real PostgreSQL for each. The server comes from WAYBILL_TEST_POSTGRES (a
// postgres:// URL), or is started from the binaries installed on this machine,
// once per test process, and ends with the process.
package sqldbtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/waybill-dev/waybill/platform/sqldb"
)

// envPostgres names the variable that holds the URL of a server to use.
const envPostgres = "WAYBILL_TEST_POSTGRES"

// ErrNoPostgres says that no PostgreSQL is installed here.
var ErrNoPostgres = errors.New("no PostgreSQL on this machine: install it, or set " + envPostgres + " to the URL of a server")

// A Migration is one set of tables for sqldb.DB.Migrate.
type Migration struct {
	Name string
	FS   fs.FS
}

// An Opener opens the database of that name and migrates it. Within one test the
// same name is the same database, so that a test can close it and open it again;
// on PostgreSQL it can also be open twice at once. Everything is closed and
// dropped when the test ends. A failure ends the test.
type Opener func(name string, migrations ...Migration) *sqldb.DB

// Each runs body as a subtest on SQLite and on PostgreSQL. Without PostgreSQL the
// second is skipped, or fails if CI is set.
func Each(t *testing.T, body func(t *testing.T, open Opener)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { body(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { body(t, Postgres(t, false)) })
}

// SQLite gives an Opener of files in a folder of the test's own.
func SQLite(tb testing.TB) Opener {
	dir := tb.TempDir()
	return func(name string, migrations ...Migration) *sqldb.DB {
		tb.Helper()
		return open(tb, sqldb.Config{URL: "sqlite://" + (&url.URL{Path: filepath.ToSlash(filepath.Join(dir, name+".db"))}).EscapedPath()}, migrations)
	}
}

// Postgres gives an Opener of schemas of the test's own; durable as in
// StartPostgres.
func Postgres(tb testing.TB, durable bool) Opener {
	tb.Helper()
	server := StartPostgres(tb, durable)
	schemas := map[string]string{}
	return func(name string, migrations ...Migration) *sqldb.DB {
		tb.Helper()
		schema, ok := schemas[name]
		if !ok {
			schema = name + "_" + suffix()
			schemas[name] = schema
			tb.Cleanup(func() { dropSchema(tb, server, schema) })
		}
		return open(tb, sqldb.Config{URL: server, Schema: schema, AllowVolatile: !durable}, migrations)
	}
}

func open(tb testing.TB, cfg sqldb.Config, migrations []Migration) *sqldb.DB {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db, err := sqldb.Open(ctx, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("closing the database: %v", err)
		}
	})
	for _, m := range migrations {
		if err := db.Migrate(ctx, m.Name, m.FS); err != nil {
			tb.Fatal(err)
		}
	}
	return db
}

func suffix() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func dropSchema(tb testing.TB, server, schema string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, server)
	if err == nil {
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "DROP SCHEMA IF EXISTS "+pgx.Identifier{schema}.Sanitize()+" CASCADE")
	}
	if err != nil {
		tb.Errorf("dropping schema %s: %v", schema, err)
	}
}

// StartPostgres gives the URL of a server that all tests of the process share.
// durable asks for one that keeps what it commits, which figures must be taken
// with; the other is faster and needs sqldb.Config.AllowVolatile. With
// WAYBILL_TEST_POSTGRES both are that server. Without PostgreSQL the test is
// skipped, or fails if CI is set.
func StartPostgres(tb testing.TB, durable bool) string {
	tb.Helper()
	if u := os.Getenv(envPostgres); u != "" {
		return u
	}
	s, err := shared(durable)
	switch {
	case errors.Is(err, ErrNoPostgres) && os.Getenv("CI") == "":
		tb.Skip(err)
	case err != nil:
		tb.Fatal(err)
	}
	return s.URL()
}

// shared starts each kind of server at its first use.
func shared(durable bool) (*Server, error) {
	if durable {
		return durableServer()
	}
	return volatileServer()
}

var (
	volatileServer = sync.OnceValues(func() (*Server, error) { return Start(false) })
	durableServer  = sync.OnceValues(func() (*Server, error) { return Start(true) })
)

// waitReady connects until the server answers.
func waitReady(url string, log func() string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, url)
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL did not start: %w\n%s", err, strings.TrimSpace(log()))
		}
	}
}
