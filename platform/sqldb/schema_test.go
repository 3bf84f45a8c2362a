package sqldb_test

import (
	"context"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
)

// The versions of a shop's tables: the second adds a column, the third a table,
// the fourth takes away what only the first still reads.
const (
	shop1 = "CREATE TABLE shop (id text PRIMARY KEY, name text NOT NULL, town text);"
	shop2 = "-- compatible: 1\nALTER TABLE shop ADD COLUMN street text;\nCREATE INDEX shop_street ON shop (street);"
	shop3 = "-- compatible: 1\nCREATE TABLE till (id text PRIMARY KEY);"
	shop4 = "-- compatible: 2\nALTER TABLE shop DROP COLUMN town;"
)

var shops = &sqldb.Table{Name: "shop", Key: []string{"id"}, Columns: []sqldb.Column{{Name: "id", Type: sqldb.Text}, {Name: "name", Type: sqldb.Text}, {Name: "town", Type: sqldb.Text}}}

func wantReason(t *testing.T, err error, reason, text string) {
	t.Helper()
	if errs.KindOf(err) != errs.FailedPrecondition || errs.ReasonOf(err) != reason || !strings.Contains(err.Error(), text) {
		t.Errorf("error %v, want FailedPrecondition %s with %q", err, reason, text)
	}
}

func TestAnOlderProgramWorksOnNewerTablesThatSaySo(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		old := open("toys", migration(shop1))
		put := func(id string) {
			t.Helper()
			commit(t, old, func(b *sqldb.Batch) { b.Insert(shops, [][]any{{id, "n", "t"}}) })
			var town string
			must(t, old.QueryRow(t.Context(), "SELECT town FROM shop WHERE id = ?", id).Scan(&town))
		}
		put("before")
		must(t, old.Migrate(t.Context(), "toys", migration(shop1, shop2, shop3).FS)) // as the newer program does, beside the older
		put("after")
		must(t, old.Close())

		old = open("toys", migration(shop1)) // and the older starts again
		put("again")
		if n := count(t, old, "SELECT count(*) FROM shop"); n != 3 {
			t.Errorf("%d rows", n)
		}
		must(t, old.Migrate(t.Context(), "toys", migration(shop1, shop2, shop3, shop4).FS))
		wantReason(t, old.Migrate(t.Context(), "toys", migration(shop1).FS), sqldb.ReasonDatabaseNewer, "version 4")
		must(t, old.Migrate(t.Context(), "toys", migration(shop1, shop2).FS))
		must(t, old.Migrate(t.Context(), "toys", migration(shop1, shop2, shop3).FS))
	})
}

func TestTablesWhoseCompatibilityIsNotKnownAreRefused(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("toys", migration(shop1, shop2, shop3))
		_, err := db.Exec(t.Context(), "DELETE FROM compatible_toys WHERE version = 3")
		must(t, err)
		wantReason(t, db.Migrate(t.Context(), "toys", migration(shop1).FS), sqldb.ReasonDatabaseNewer, "version 3")
		_, err = db.Exec(t.Context(), "DROP TABLE compatible_toys")
		must(t, err)
		wantReason(t, db.Migrate(t.Context(), "toys", migration(shop1).FS), sqldb.ReasonDatabaseNewer, "version 3")
		must(t, db.Migrate(t.Context(), "toys", migration(shop1, shop2, shop3).FS)) // which knows, and says it
		must(t, db.Migrate(t.Context(), "toys", migration(shop1).FS))
	})
}

func TestAMigrationThatDoesNotSayWhoWorksOnItIsNotApplied(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("toys", migration(shop1))
		for name, second := range map[string]string{
			"silent":   "-- +goose Up\nSELECT 1;",
			"zero":     "-- compatible: 0\n-- +goose Up\nSELECT 1;",
			"ahead":    "-- compatible: 3\n-- +goose Up\nSELECT 1;",
			"no count": "-- compatible: the last\n-- +goose Up\nSELECT 1;",
		} {
			first := fstest.MapFile{Data: []byte("-- +goose Up\n" + shop1)}
			files := fstest.MapFS{"postgres/00001_a.sql": &first, "sqlite/00001_a.sql": &first}
			files["postgres/00002_b.sql"] = &fstest.MapFile{Data: []byte(second)}
			files["sqlite/00002_b.sql"] = files["postgres/00002_b.sql"]
			if err := db.Migrate(t.Context(), "toys", files); errs.ReasonOf(err) != sqldb.ReasonMigrations {
				t.Errorf("%s: %v", name, err)
			}
		}
		must(t, db.Migrate(t.Context(), "toys", migration(shop1).FS))
	})
}

func TestMigrationsCanBeLeftToOthers(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		path := t.TempDir() + "/shop.db"
		testCheckOnly(t, func(check bool, heard func(string, int64, int64)) (*sqldb.DB, error) {
			return sqldb.Open(t.Context(), sqldb.Config{URL: "sqlite://" + path, CheckOnly: check, Migrated: heard})
		})
	})
	t.Run("postgres", func(t *testing.T) {
		server := sqldbtest.StartPostgres(t, false)
		conn := admin(t, server)
		drop := func() {
			_, err := conn.Exec(context.Background(), `DROP SCHEMA IF EXISTS "left to others" CASCADE`)
			must(t, err)
		}
		drop()
		t.Cleanup(drop)
		testCheckOnly(t, func(check bool, heard func(string, int64, int64)) (*sqldb.DB, error) {
			return sqldb.Open(t.Context(), sqldb.Config{URL: server, Schema: "left to others", AllowVolatile: true, CheckOnly: check, Migrated: heard})
		})
	})
}

func testCheckOnly(t *testing.T, open func(check bool, heard func(string, int64, int64)) (*sqldb.DB, error)) {
	check := func(migrations sqldbtest.Migration) error {
		db, err := open(true, nil)
		if err != nil {
			return err
		}
		defer db.Close()
		return db.Migrate(t.Context(), "toys", migrations.FS)
	}
	wantReason(t, check(migration(shop1)), sqldb.ReasonDatabaseOlder, "")
	var from, to int64 = -1, -1
	migrate := func(up ...string) {
		t.Helper()
		db, err := open(false, func(_ string, a, b int64) { from, to = a, b })
		must(t, err)
		must(t, db.Migrate(t.Context(), "toys", migration(up...).FS))
		must(t, db.Close())
	}
	migrate(shop1)
	if from != 0 || to != 1 {
		t.Errorf("went from %d to %d", from, to)
	}
	must(t, check(migration(shop1)))
	wantReason(t, check(migration(shop1, shop2)), sqldb.ReasonDatabaseOlder, "version 1")
	migrate(shop1, shop2, shop3, shop4)
	if from != 1 || to != 4 {
		t.Errorf("went from %d to %d", from, to)
	}
	must(t, check(migration(shop1, shop2)))
	wantReason(t, check(migration(shop1)), sqldb.ReasonDatabaseNewer, "version 4")
}

func TestTenProcessesMigrateSeveralSchemasAtOnce(t *testing.T) {
	server := sqldbtest.StartPostgres(t, false)
	conn := admin(t, server)
	schemas := []string{"at once a", "at once b", "at once c"}
	drop := func() {
		for _, s := range schemas {
			_, err := conn.Exec(context.Background(), `DROP SCHEMA IF EXISTS "`+s+`" CASCADE`)
			must(t, err)
		}
	}
	drop()
	t.Cleanup(drop)
	var mu sync.Mutex
	applied := map[string]int{}
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for _, s := range schemas {
				db, err := sqldb.Open(t.Context(), sqldb.Config{URL: server, Schema: s, AllowVolatile: true, MaxConns: 1, Migrated: func(name string, from, to int64) {
					mu.Lock()
					defer mu.Unlock()
					if from != to {
						applied[s+" "+name]++
					}
				}})
				if err != nil {
					t.Error(err)
					return
				}
				for _, name := range []string{"platform", "toys"} {
					if err := db.Migrate(t.Context(), name, migration("CREATE TABLE "+name+"_a (id text);", "CREATE TABLE "+name+"_b (id text);").FS); err != nil {
						t.Error(err)
					}
				}
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, s := range schemas {
		for _, name := range []string{"platform", "toys"} {
			if n := applied[s+" "+name]; n != 1 {
				t.Errorf("%s of %s was migrated %d times", name, s, n)
			}
		}
	}
}
