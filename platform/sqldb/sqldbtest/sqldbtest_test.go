//go:build unix

package sqldbtest_test

import (
	"bufio"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
)

const envStart = "SQLDBTEST_START"

// TestMain lets this binary be a process that dies while it has a server.
func TestMain(m *testing.M) {
	if os.Getenv(envStart) == "" {
		os.Exit(m.Run())
	}
	s, err := sqldbtest.Start(false)
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString(s.URL() + "\n")
	_, _ = io.Copy(io.Discard, os.Stdin) // until killed
}

// folder takes the server's folder out of its URL.
func folder(t *testing.T, server string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("host")
}

func TestAServerThatIsStoppedLeavesNothing(t *testing.T) {
	s, err := sqldbtest.Start(true)
	if errors.Is(err, sqldbtest.ErrNoPostgres) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, s.URL())
	if _, err := os.Stat(dir + "/.s.PGSQL.5432"); err != nil {
		t.Error(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
}

func TestAServerEndsWithItsProcess(t *testing.T) {
	if s, err := sqldbtest.Start(false); errors.Is(err, sqldbtest.ErrNoPostgres) {
		t.Skip(err)
	} else if err == nil {
		_ = s.Stop()
	}
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), envStart+"=1")
	other.Stderr = os.Stderr
	in, err := other.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	dir := folder(t, strings.TrimSpace(line))
	if err := other.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = other.Wait()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); ; <-tick.C {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is still there", dir)
		}
	}
}

func TestOneNameIsOneDatabase(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("shop")
		if _, err := db.Exec(t.Context(), "CREATE TABLE kept (n int)"); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		var n int
		if err := open("shop").QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&n); err != nil {
			t.Error(err)
		}
		if err := open("other").QueryRow(t.Context(), "SELECT count(*) FROM kept").Scan(&n); err == nil {
			t.Error("another name is the same database")
		}
	})
}
