package process_test

import (
	"database/sql"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // to change a database behind the product's back
)

func TestAnOccupiedPortIsNamedWithTheFlagThatChangesIt(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	taken := lis.Addr().String()
	for _, flag := range []string{"--http-addr", "--grpc-addr", "--admin-addr"} {
		t.Run(flag, func(t *testing.T) {
			args := []string{"serve", "--data", t.TempDir()}
			for _, f := range []string{"--http-addr", "--grpc-addr", "--admin-addr"} {
				addr := "127.0.0.1:0"
				if f == flag {
					addr = taken
				}
				args = append(args, f, addr)
			}
			run(t, nil, "", args...).refused(t, 1, taken, "in use", flag)
		})
	}
}

func TestADataDirectoryBelongsToOneProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := serve(t, nil, "--data", dir)
	second := launch(t, nil, "--data", dir)
	if code := second.exit(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if text := second.log.text(); !strings.Contains(text, dir) || !strings.Contains(text, "in use by another process") {
		t.Errorf("the error does not say which directory is in use:\n%s", text)
	}
	// Without a broker of its own, the databases are what the two would share.
	third := launch(t, nil, "--data", dir, "--nats", "nats://127.0.0.1:1")
	if code := third.exit(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	if text := third.log.text(); !strings.Contains(text, "auth.db is in use by process") {
		t.Errorf("the error does not say which database is in use:\n%s", text)
	}
	if status, body := first.readiness(); status != 200 {
		t.Errorf("the first process is not ready any more: %s", body)
	}
}

func TestADamagedDatabaseIsNamedAndNotTouched(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]string{
		"not a database": strings.Repeat("this is no database\n", 400),
		"a torn page":    "",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			file := filepath.Join(dir, "order.db")
			if damage == "" {
				if r := run(t, nil, "", "migrate", "--data", dir); r.code != 0 {
					t.Fatal(r.errOut)
				}
				whole, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				for i := 100; i < 4096; i++ { // the first page holds the list of tables
					whole[i] = 0xA5
				}
				damage = string(whole)
			}
			if err := os.WriteFile(file, []byte(damage), 0o600); err != nil {
				t.Fatal(err)
			}
			s := launch(t, nil, "--data", dir)
			if code := s.exit(); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			if text := s.log.text(); !strings.Contains(text, "order.db is damaged") || !strings.Contains(text, "restore a backup") {
				t.Errorf("the error does not say which file is damaged and what to do:\n%s", text)
			}
			if after, err := os.ReadFile(file); err != nil || string(after) != damage {
				t.Errorf("the damaged file was changed (%v)", err)
			}
		})
	}
}

func TestADatabaseOfANewerVersionIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if r := run(t, nil, "", "migrate", "--data", dir); r.code != 0 {
		t.Fatal(r.errOut)
	}
	db, err := sql.Open("sqlite", filepath.Join(dir, "payment.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), "INSERT INTO goose_payment (version_id, is_applied) VALUES (999, 1)")
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"serve", "migrate"} {
		run(t, nil, "", command, "--data", dir, "--http-addr=127.0.0.1:0", "--grpc-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0").
			refused(t, 1, "payment", "version 999", "run the newer program")
	}
}

func TestAWrongConfigurationNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	file := func(text string) string {
		path := filepath.Join(t.TempDir(), "waybill.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		env   string
		args  []string
		code  int
		words []string
	}{
		"unknown key in a file":       {args: []string{"--config", file("grpc_adr: x\n")}, code: 1, words: []string{"waybill.yaml", "grpc_adr", "did you mean grpc_addr?"}},
		"wrong type in a file":        {args: []string{"--config", file("batch_size: many\n")}, code: 1, words: []string{"batch_size", "whole number"}},
		"no YAML":                     {args: []string{"--config", file("a: [\n")}, code: 1, words: []string{"no valid YAML"}},
		"no file":                     {args: []string{"--config", "missing.yaml"}, code: 1, words: []string{"missing.yaml"}},
		"unknown variable":            {env: "WAYBILL_GRPC_ADRR=:1", code: 1, words: []string{"WAYBILL_GRPC_ADRR", "did you mean WAYBILL_GRPC_ADDR?"}},
		"wrong type in a variable":    {env: "WAYBILL_DB_CONNS=many", code: 1, words: []string{"WAYBILL_DB_CONNS", "many"}},
		"unknown flag":                {args: []string{"--grcp-addr=:1"}, code: 2, words: []string{"--grcp-addr", "--help"}},
		"wrong type in a flag":        {args: []string{"--stop-timeout=soon"}, code: 2, words: []string{"--stop-timeout", "soon"}},
		"stray argument":              {args: []string{"everything"}, code: 2, words: []string{"everything"}},
		"unknown service":             {args: []string{"--services=orders"}, code: 1, words: []string{"services", "orders", "order"}},
		"upstream without a target":   {args: []string{"--upstream=order"}, code: 1, words: []string{"upstream", "name=target"}},
		"a database of another kind":  {args: []string{"--db=mysql://x"}, code: 1, words: []string{"db", "postgres://"}},
		"out of bounds":               {args: []string{"--batch-size=0"}, code: 1, words: []string{"batch_size", "1 to 1024"}},
		"out of a service's bounds":   {args: []string{"--auth-access-ttl=1h"}, code: 1, words: []string{"access_ttl", "5 to 10 minutes"}},
		"unknown log format":          {env: "WAYBILL_LOG_FORMAT=xml", code: 1, words: []string{"xml", "text"}},
		"an admin without a password": {args: []string{"--admin-email=a@example.com"}, code: 1, words: []string{"password"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"serve", "--data", t.TempDir(), "--http-addr=127.0.0.1:0", "--grpc-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0"}, c.args...)
			env := environment(t.TempDir())
			if c.env != "" {
				env = append(env, c.env)
			}
			run(t, env, "", args...).refused(t, c.code, c.words...)
		})
	}
}
