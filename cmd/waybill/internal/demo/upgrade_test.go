package demo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"github.com/waybill-dev/waybill/cmd/waybill/internal/demo"
	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/platform/telemetry"
	"github.com/waybill-dev/waybill/services/inventory/csvimport"
	"github.com/waybill-dev/waybill/test/data"
)

// next is what the migrations of a next release may be: every table that is there
// gets a column and an index, and there is a table more.
const next = `-- compatible: %d
-- +goose Up
-- +goose StatementBegin
DO $$
DECLARE name text;
BEGIN
	FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename NOT LIKE 'goose%' AND tablename NOT LIKE 'compatible%' LOOP
		EXECUTE format('ALTER TABLE %I ADD COLUMN IF NOT EXISTS of_next_release text DEFAULT ''nothing''', name);
		EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON %I (of_next_release)', name || '_next', name);
	END LOOP;
END $$;
-- +goose StatementEnd
CREATE TABLE IF NOT EXISTS next_release (id text PRIMARY KEY);
`

// TestThisReleaseServesOnTheTablesOfTheNext migrates all databases as a next
// release would, while this one plays the demo's orders; afterwards it starts on
// the new tables, as a process that is moved during the upgrade does, and plays
// them again.
func TestThisReleaseServesOnTheTablesOfTheNext(t *testing.T) {
	server := sqldbtest.StartPostgres(t, true)
	database := newDatabase(t, server)
	cfg := node.DefaultConfig()
	cfg.Data, cfg.DB, cfg.DBConns = t.TempDir(), []string{database}, 4
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.AdminAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Admin.Email, cfg.Admin.Password = "admin@example.com", telemetry.Secret(password("the administrator"))
	cfg.Log.Level = slog.LevelError
	cfg.Auth.HashMemory, cfg.Auth.HashTime = 64, 1
	cfg.Payment.ProviderTimeout, cfg.Shipping.ScanEvery = 300*time.Millisecond, 100*time.Millisecond

	migrated := make(chan error, 1)
	serveAndPlay(t, cfg, func(done, _ int) {
		if done == 60 { // of 204
			go func() { migrated <- migrateAsNext(t, database) }()
		}
	})
	if err := <-migrated; err != nil {
		t.Fatal(err)
	}
	for _, how := range []string{node.MigrateAuto, node.MigrateOff} {
		cfg.Migrate = how
		serveAndPlay(t, cfg, nil)
	}
	kept := map[string]bool{}
	err := node.Migrate(t.Context(), cfg, node.MigrateOptions{Done: func(service, tables string, from, to int64) {
		kept[service+"/"+tables] = from == to && from > 1
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) != 12 {
		t.Errorf("%d sets of tables: %v", len(kept), kept)
	}
	for set, good := range kept {
		if !good {
			t.Errorf("%s was not left as the next release made it", set)
		}
	}
}

func newDatabase(t *testing.T, server string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	name := "upgrade_" + uuid.NewString()[:8]
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := conn.Exec(context.Background(), "DROP DATABASE "+name+" WITH (FORCE)")
		if err := errors.Join(err, conn.Close(context.Background())); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}

// serveAndPlay runs a process, plays the demo on it and stops it.
func serveAndPlay(t *testing.T, cfg node.Config, progress func(done, total int)) {
	t.Helper()
	n, err := node.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	select {
	case <-n.Started():
	case err := <-ended:
		t.Fatalf("did not start: %v", err)
	}
	conn, err := rpc.Dial("static:///"+n.GRPCAddr(), rpc.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	products, err := csvimport.Parse(bytes.NewReader(data.Products))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range products { // each time others
		p.Sku = uuid.NewString()[:8] + p.GetSku()
	}
	var out bytes.Buffer
	err = demo.Run(t.Context(), demo.Config{
		Base: n.HTTPURL(), Conn: conn, AdminEmail: cfg.Admin.Email, AdminPassword: cfg.Admin.Password.Reveal(),
		Products: products, Customers: 12, Scale: 1, Out: &out, Check: n.Check, Progress: progress,
	})
	if err != nil {
		t.Errorf("%v\n%s", err, out.String())
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// migrateAsNext does what the next release's "waybill migrate" would.
func migrateAsNext(t *testing.T, database string) error {
	for _, service := range []string{"auth", "user", "inventory", "payment", "shipping", "order"} {
		db, err := sqldb.Open(t.Context(), sqldb.Config{URL: database, Schema: service})
		if err != nil {
			return err
		}
		for tables, dir := range map[string]string{"platform": "platform/react", service: "services/" + service + "/internal/store"} {
			files, err := withNext(os.DirFS(filepath.Join("../../../..", dir, "migrations")))
			if err != nil {
				return errors.Join(err, db.Close())
			}
			if err := db.Migrate(t.Context(), tables, files); err != nil {
				return errors.Join(err, db.Close())
			}
		}
		if err := db.Close(); err != nil {
			return err
		}
	}
	return nil
}

// withNext adds the next release's migration to those that were released.
func withNext(released fs.FS) (fs.FS, error) {
	names, err := fs.Glob(released, "postgres/*.sql")
	if err != nil {
		return nil, err
	}
	files := fstest.MapFS{}
	for _, name := range names {
		text, err := fs.ReadFile(released, name)
		if err != nil {
			return nil, err
		}
		files[name] = &fstest.MapFile{Data: text}
	}
	last, err := goose.NumericComponent(slices.Max(names))
	if err != nil {
		return nil, err
	}
	text := strings.Replace(next, "%d", strconv.FormatInt(last, 10), 1)
	files[fmt.Sprintf("postgres/%05d_next.sql", last+1)] = &fstest.MapFile{Data: []byte(text)}
	return files, nil
}
