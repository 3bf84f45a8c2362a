package sqldb

import (
	"context"
	"os"
	"strings"
	"testing"
)

func TestMarksBecomeNumbersOutsideOfQuotesOnly(t *testing.T) {
	for in, want := range map[string]string{
		"SELECT 1":                          "SELECT 1",
		"SELECT ?, ?":                       "SELECT $1, $2",
		"SELECT '?', \"a?\", ?":             "SELECT '?', \"a?\", $1",
		"SELECT 'it''s ?', ?":               "SELECT 'it''s ?', $1",
		"SELECT ? -- why?\n, ?":             "SELECT $1 -- why?\n, $2",
		"SELECT /* ? */ ?":                  "SELECT /* ? */ $1",
		"SELECT $tag$ ? $x$ $tag$, ?":       "SELECT $tag$ ? $x$ $tag$, $1",
		"SELECT doc ?? 'a' AND n = ?":       "SELECT doc ? 'a' AND n = $1",
		"SELECT '? open":                    "SELECT '? open",
		"SELECT $1, ?":                      "SELECT $1, $1",
		"SELECT ?::text || $$?$$ || ?::int": "SELECT $1::text || $$?$$ || $2::int",
	} {
		if got := numbered(in); got != want {
			t.Errorf("%q became %q, not %q", in, got, want)
		}
	}
}

func FuzzMarksBecomeNumbers(f *testing.F) {
	f.Add("SELECT ?, '?' -- ?\n/* ? */ $a$ ? $a$ \"?\"")
	f.Fuzz(func(t *testing.T, sql string) {
		got := numbered(sql)
		if !strings.Contains(sql, "?") && got != sql {
			t.Errorf("%q became %q", sql, got)
		}
		reads(sql) // must not run away
	})
}

func TestStatementsThatOnlyReadAreKnown(t *testing.T) {
	for sql, want := range map[string]bool{
		"SELECT 1": true, " -- a comment\n select 1": true, "(SELECT 1)": true, "VALUES (1)": true, "pragma user_version": true,
		"WITH x AS (SELECT 1) SELECT 'insert' FROM x": true, "WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x": false,
		"INSERT INTO t VALUES (1) RETURNING id": false, "UPDATE t SET a = 1": false, "": false, "DELETE FROM t": false,
	} {
		if got := reads(sql); got != want {
			t.Errorf("%q: %v", sql, got)
		}
	}
}

func TestVersionsAreComparedByNumbers(t *testing.T) {
	for v, old := range map[string]bool{"3.51.3": false, "3.51.2": true, "3.53.0": false, "3.9.9": true, "4.0": false, "3.51": true, "3.51.10": false} {
		if got := versionLess(v, minSQLite); got != old {
			t.Errorf("%s: %v", v, got)
		}
	}
}

func TestALogThatGrewTooLongIsEmptied(t *testing.T) {
	ctx := t.Context()
	path := t.TempDir() + "/x.db"
	db, err := Open(ctx, Config{URL: "sqlite://" + path})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	b := db.b.(*sqlite)
	b.logEvery, b.logLimit = 0, 1<<60
	exec := func(sql string) {
		if _, err := db.Exec(ctx, sql); err != nil {
			t.Fatal(err)
		}
	}
	size := func() int64 {
		info, err := os.Stat(path + "-wal")
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	exec("CREATE TABLE t (b BLOB)")
	exec("INSERT INTO t VALUES (zeroblob(1000000))")
	if size() < 1000000 {
		t.Fatalf("the log has %d bytes", size())
	}
	rows, err := db.Query(ctx, "SELECT 1 FROM t")
	if err != nil || !rows.Next() {
		t.Fatal(err)
	}
	b.logLimit = 1000000
	exec("INSERT INTO t VALUES (1)") // a reader is in the way
	if size() == 0 {
		t.Error("the log went away under a reader")
	}
	rows.Close()
	exec("INSERT INTO t VALUES (2)")
	if size() != 0 {
		t.Errorf("the log still has %d bytes", size())
	}
	var timeout int
	w := <-b.write
	defer func() { b.write <- w }()
	if err := w.one(context.Background(), "PRAGMA busy_timeout", &timeout); err != nil || timeout != 5000 {
		t.Errorf("the busy timeout is %d: %v", timeout, err)
	}
}
