package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
)

// The suite, second part: transactions, races, migrations and the end of things.

func TestReadsSeeTheirOwnTransactionOnly(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		tx, err := db.Begin(ctx)
		must(t, err)
		defer tx.Rollback()
		n, err := tx.Exec(ctx, "INSERT INTO entry (name) VALUES (?), (?)", "a", "b")
		if err != nil || n != 2 {
			t.Fatal(n, err)
		}
		rows, err := tx.Query(ctx, "SELECT name FROM entry ORDER BY name")
		must(t, err)
		for rows.Next() { // other statements may follow meanwhile
			var name string
			must(t, rows.Scan(&name))
			_, err := tx.Exec(ctx, "UPDATE entry SET name = ? WHERE name = ?", name+name, name)
			must(t, err)
		}
		must(t, rows.Err())
		if n := count(t, db, "SELECT count(*) FROM entry"); n != 0 {
			t.Errorf("others see %d rows before the commit", n)
		}
		var names string
		must(t, tx.QueryRow(ctx, "SELECT min(name) || max(name) FROM entry").Scan(&names))
		if names != "aabb" {
			t.Errorf("the transaction sees %s", names)
		}
		must(t, tx.Commit(ctx, nil))
		if n := count(t, db, "SELECT count(*) FROM entry"); n != 2 {
			t.Errorf("others see %d rows after the commit", n)
		}
		if err := tx.Send(ctx, nil); !errors.Is(err, sqldb.ErrTxDone) {
			t.Errorf("Send after Commit gave %v", err)
		}
	})
}

func TestAFailedSendIsUndoneAndEndsTheTransaction(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		for range 10 { // more often than there are connections
			tx, err := db.Begin(ctx)
			must(t, err)
			must(t, tx.Send(ctx, fillBatch(func(b *sqldb.Batch) { b.Insert(things, [][]any{thing("a", 1)}) })))
			if err := tx.Send(ctx, fillBatch(func(b *sqldb.Batch) { b.Exec("UPDATE nothing SET n = 1") })); err == nil {
				t.Fatal("an unknown table was updated")
			}
			for name, err := range map[string]error{"Send": tx.Send(ctx, nil), "Commit": tx.Commit(ctx, nil)} {
				if !errors.Is(err, sqldb.ErrTxDone) {
					t.Errorf("%s after an error gave %v", name, err)
				}
			}
			if _, err := tx.Exec(ctx, "SELECT 1"); !errors.Is(err, sqldb.ErrTxDone) {
				t.Errorf("Exec after an error gave %v", err)
			}
			if _, err := db.Exec(ctx, "UPDATE nothing SET n = 1"); err == nil {
				t.Fatal("an unknown table was updated")
			}
			tx.Rollback()
			tx.Rollback()
		}
		if n := count(t, db, "SELECT count(*) FROM thing"); n != 0 {
			t.Errorf("%d rows were kept", n)
		}
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, [][]any{thing("a", 1)}) })
	})
}

func TestCallbackErrorsUndoASendButNotACommit(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		mine := errors.New("mine")
		rows, _ := thingsNamed(0, 40)
		calls := 0
		batch := fillBatch(func(b *sqldb.Batch) {
			b.InsertNew(things, rows, func(sqldb.Scanner) error { calls++; return mine })
			b.Exec("UPDATE thing SET n = -1 WHERE id = ?", "id-0000")
		})
		tx, err := db.Begin(ctx)
		must(t, err)
		if err := tx.Send(ctx, batch); !errors.Is(err, mine) || calls != 1 {
			t.Errorf("Send gave %v after %d calls", err, calls)
		}
		if n := count(t, db, "SELECT count(*) FROM thing"); n != 0 {
			t.Errorf("%d rows were kept", n)
		}
		for _, early := range []bool{false, true} {
			tx, err = db.Begin(ctx)
			must(t, err)
			if early {
				_, err = tx.Exec(ctx, "DELETE FROM thing")
				must(t, err)
			}
			if err := tx.Commit(ctx, batch); !errors.Is(err, mine) || !errors.Is(err, sqldb.ErrCommitted) {
				t.Errorf("Commit gave %v", err)
			}
			tx.Rollback()
			if n := count(t, db, "SELECT count(*) FROM thing WHERE n >= 0"); n != 39 {
				t.Errorf("%d rows were kept", n)
			}
		}
	})
}

func TestAnEmptyTransactionCostsNothing(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		tx, err := db.Begin(t.Context())
		must(t, err)
		must(t, tx.Send(t.Context(), nil))
		must(t, tx.Send(t.Context(), fillBatch(func(b *sqldb.Batch) { b.Insert(things, nil); b.Load(things, nil, true, nil) })))
		must(t, tx.Commit(t.Context(), new(sqldb.Batch)))
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := db.Begin(canceled); errs.KindOf(err) != errs.Canceled {
			t.Errorf("Begin after the end gave %v", err)
		}
	})
}

func TestTwoTransactionsOnOneKeyFollowEachOther(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, [][]any{thing("a", 0), thing("b", 0)}) })
		add := func(keys ...string) error {
			return db.InTx(context.Background(), func(ctx context.Context, tx *sqldb.Tx) error {
				var rows [][]any
				var b sqldb.Batch
				b.Load(things, keys, true, func(s sqldb.Scanner) error {
					var f full
					err := f.scan(s)
					f.N++
					rows = append(rows, f.row())
					return err
				})
				if err := tx.Send(ctx, &b); err != nil {
					return err
				}
				return tx.Send(ctx, fillBatch(func(b *sqldb.Batch) { slices.Reverse(rows); b.Update(things, rows) }))
			})
		}
		const workers, times = 6, 15
		var wg sync.WaitGroup
		for i := range workers {
			wg.Go(func() {
				keys := []string{"a", "b"}
				if i%2 == 0 {
					slices.Reverse(keys)
				}
				for range times {
					if err := add(keys...); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for _, f := range load(t, db, "a", "b") {
			if f.N != workers*times {
				t.Errorf("%s is %d", f.ID, f.N)
			}
		}
	})
}

func TestInTxRepeatsLostRacesOnly(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		runs := 0
		attempt := func(fail func() error) error {
			runs = 0
			return db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
				runs++
				if _, err := tx.Exec(ctx, "INSERT INTO entry (name) VALUES (?)", "x"); err != nil {
					return err
				}
				return fail()
			})
		}
		race := fmt.Errorf("wrapped: %w", sqldb.ErrSerialization)
		if err := attempt(func() error { return race }); !sqldb.Retryable(err) || runs != 5 {
			t.Errorf("a race every time gave %v after %d runs", err, runs)
		}
		if err := attempt(func() error { return errors.New("other") }); err == nil || runs != 1 {
			t.Errorf("another error gave %v after %d runs", err, runs)
		}
		func() {
			defer func() { _ = recover() }()
			_ = attempt(func() error { panic("out") })
		}()
		must(t, attempt(func() error {
			if runs < 3 {
				return race
			}
			return nil
		}))
		if n := count(t, db, "SELECT count(*) FROM entry"); n != 1 || runs != 3 {
			t.Errorf("%d rows after %d runs", n, runs)
		}
	})
}

func TestDatabasesNewerThanTheProgramAreRefused(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		one, two := "CREATE TABLE one (id text PRIMARY KEY);", "CREATE TABLE two (id text PRIMARY KEY);"
		db := open("toys", migration(one, two), migration(one, two))
		err := db.Migrate(t.Context(), "toys", migration(one).FS)
		if errs.KindOf(err) != errs.FailedPrecondition || errs.ReasonOf(err) != "DATABASE_NEWER" || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("an older program got %v", err)
		}
		if _, err := db.Exec(t.Context(), "INSERT INTO two VALUES ('x')"); err != nil {
			t.Error(err)
		}
		must(t, db.Migrate(t.Context(), "others", migration("CREATE TABLE three (id text PRIMARY KEY);").FS))
	})
}

func TestAFailedMigrationLeavesNothing(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("toys")
		one, bad := "CREATE TABLE one (id text PRIMARY KEY);", "CREATE TABLE two (id text PRIMARY KEY); SELECT nonsense;"
		if err := db.Migrate(t.Context(), "toys", migration(one, bad).FS); err == nil {
			t.Fatal("nonsense was applied")
		}
		must(t, db.Migrate(t.Context(), "toys", migration(one, "CREATE TABLE two (id text PRIMARY KEY);").FS))
		if err := db.Migrate(t.Context(), "toys", fs.FS(fstest.MapFS{})); err == nil {
			t.Error("a folder without migrations was applied")
		}
	})
}

func TestAContextThatEndedStopsStatements(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		tx, err := db.Begin(ctx)
		must(t, err)
		_, err = tx.Exec(ctx, "INSERT INTO entry (name) VALUES ('x')")
		must(t, err)
		cancel()
		if err := tx.Commit(ctx, fillBatch(func(b *sqldb.Batch) { b.Exec("DELETE FROM thing") })); errs.KindOf(err) != errs.Canceled || sqldb.Ambiguous(err) {
			t.Errorf("Commit gave %v", err)
		}
		if _, err := db.Query(ctx, "SELECT 1"); errs.KindOf(err) != errs.Canceled {
			t.Errorf("Query gave %v", err)
		}
		if n := count(t, db, "SELECT count(*) FROM entry"); n != 0 {
			t.Errorf("%d rows were kept", n)
		}
	})
}

func TestAClosedDatabaseIsUnavailable(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("toys", toys())
		must(t, db.Ping(t.Context()))
		must(t, db.Close())
		for name, err := range map[string]error{
			"Ping":   db.Ping(t.Context()),
			"Query":  db.QueryRow(t.Context(), "SELECT 1").Scan(nil),
			"Commit": tryCommit(db, func(b *sqldb.Batch) { b.Insert(entries, [][]any{{"x"}}) }),
		} {
			if !sqldb.Unavailable(err) || errs.KindOf(err) != errs.Unavailable || sqldb.Ambiguous(err) {
				t.Errorf("%s gave %v", name, err)
			}
		}
		again := open("toys", toys())
		must(t, again.Ping(t.Context()))
	})
}

func TestManyDifferentStatementsDoNotPileUp(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		tx, err := db.Begin(t.Context())
		must(t, err)
		defer tx.Rollback()
		for i := range 1200 {
			var n int
			must(t, tx.QueryRow(t.Context(), fmt.Sprintf("SELECT %d + 0*length(?)", i), "x").Scan(&n))
			if n != i {
				t.Fatalf("statement %d gave %d", i, n)
			}
		}
	})
}
