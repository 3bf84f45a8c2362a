package sqldb_test

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
)

const envHold = "SQLDB_TEST_HOLD"

// TestMain lets this binary be a second process that holds a database.
func TestMain(m *testing.M) {
	path := os.Getenv(envHold)
	if path == "" {
		os.Exit(m.Run())
	}
	db, err := sqldb.Open(context.Background(), sqldb.Config{URL: "sqlite://" + path})
	if err != nil {
		panic(err)
	}
	if _, err := db.Exec(context.Background(), "CREATE TABLE IF NOT EXISTS kept (n INTEGER)"); err != nil {
		panic(err)
	}
	os.Stdout.WriteString("held\n")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n') // until killed
}

func TestASecondProcessIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b%.db")
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), envHold+"="+strings.ReplaceAll(path, "%", "%25"))
	other.Stderr = os.Stderr
	in, err := other.StdinPipe()
	must(t, err)
	defer in.Close()
	out, err := other.StdoutPipe()
	must(t, err)
	must(t, other.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "held\n" {
		t.Fatal(line, err)
	}
	cfg := sqldb.Config{URL: "sqlite://" + strings.ReplaceAll(path, "%", "%25")}
	_, err = sqldb.Open(t.Context(), cfg)
	if errs.KindOf(err) != errs.FailedPrecondition || errs.ReasonOf(err) != "DATABASE_LOCKED" ||
		!strings.Contains(err.Error(), "process "+strconv.Itoa(other.Process.Pid)) {
		t.Errorf("a second process got %v", err)
	}
	must(t, other.Process.Kill())
	_ = other.Wait()
	db, err := sqldb.Open(t.Context(), cfg) // after a crash, with a log to recover
	must(t, err)
	defer db.Close()
	if n := count(t, db, "SELECT count(*) FROM kept"); n != 0 {
		t.Errorf("%d rows", n)
	}
	if _, err := sqldb.Open(t.Context(), cfg); errs.ReasonOf(err) != "DATABASE_LOCKED" {
		t.Errorf("a second Open in one process gave %v", err)
	}
}

func TestADamagedFileIsToldSo(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	must(t, os.WriteFile(path, bytes.Repeat([]byte("no database "), 1000), 0o600))
	_, err := sqldb.Open(t.Context(), sqldb.Config{URL: "sqlite://" + path})
	if errs.ReasonOf(err) != "DATABASE_CORRUPT" || !strings.Contains(err.Error(), path) {
		t.Errorf("a file that is no database gave %v", err)
	}

	path = filepath.Join(dir, "y.db")
	cfg := sqldb.Config{URL: "sqlite://" + path}
	db, err := sqldb.Open(t.Context(), cfg)
	must(t, err)
	must(t, db.Migrate(t.Context(), "toys", toys().FS))
	rows, _ := thingsNamed(0, 2000)
	commit(t, db, func(b *sqldb.Batch) { b.Insert(things, rows) })
	must(t, db.Close())
	raw, err := os.ReadFile(path)
	must(t, err)
	for i := len(raw) / 2; i < len(raw)/2+3*4096; i++ {
		raw[i] ^= 0x5a
	}
	must(t, os.WriteFile(path, raw, 0o600))
	must(t, os.WriteFile(path+"-wal", nil, 0o600)) // as a crash leaves it
	_, err = sqldb.Open(t.Context(), cfg)
	if errs.ReasonOf(err) != "DATABASE_CORRUPT" {
		t.Errorf("a damaged file gave %v", err)
	}
}

func TestFilesAreForTheirOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "x.db")
	db, err := sqldb.Open(t.Context(), sqldb.Config{URL: "sqlite://" + path})
	must(t, err)
	defer db.Close()
	_, err = db.Exec(t.Context(), "CREATE TABLE t (n INTEGER)")
	must(t, err)
	names, err := filepath.Glob(path + "*")
	must(t, err)
	if len(names) != 4 {
		t.Errorf("files are %v", names)
	}
	for _, name := range append(names, filepath.Dir(path)) {
		info, err := os.Stat(name)
		must(t, err)
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
}

func TestSQLiteURLsAreChecked(t *testing.T) {
	for _, u := range []string{"sqlite://", "sqlite:///", "sqlite:///tmp/", "sqlite://:memory:", "sqlite:///x.db?mode=ro", "sqlite:///%zz", "sqlite", ""} {
		if _, err := sqldb.Open(t.Context(), sqldb.Config{URL: u}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q gave %v", u, err)
		}
	}
}

func TestReadersOfSQLiteCannotWrite(t *testing.T) {
	db := sqldbtest.SQLite(t)("toys", toys())
	if _, err := db.Query(t.Context(), "PRAGMA user_version = 7"); err == nil {
		t.Error("a reader wrote")
	}
	var id int
	must(t, db.QueryRow(t.Context(), "INSERT INTO entry (name) VALUES ('x') RETURNING seq").Scan(&id))
	must(t, db.QueryRow(t.Context(), "WITH x AS (SELECT 1) INSERT INTO entry (name) VALUES ('y') RETURNING seq").Scan(&id))
	if id != 2 {
		t.Errorf("id is %d", id)
	}
}

func TestSQLiteReadsGoOnWhileATransactionWrites(t *testing.T) {
	db := sqldbtest.SQLite(t)("toys", toys())
	tx, err := db.Begin(t.Context())
	must(t, err)
	defer tx.Rollback()
	_, err = tx.Exec(t.Context(), "INSERT INTO entry (name) VALUES ('x')")
	must(t, err)
	for range 20 {
		rows, err := db.Query(t.Context(), "SELECT name FROM entry")
		must(t, err)
		if rows.Next() {
			t.Fatal("a reader sees what is not committed")
		}
		must(t, rows.Err())
	}
}
