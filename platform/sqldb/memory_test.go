package sqldb_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/sqldb"
)

var wares = &sqldb.Table{Name: "wares", Key: []string{"id"}, Columns: []sqldb.Column{
	{Name: "id", Type: sqldb.Text}, {Name: "n", Type: sqldb.Int}, {Name: "data", Type: sqldb.Bytes},
	{Name: "at", Type: sqldb.Time, Nullable: true}, {Name: "on_sale", Type: sqldb.Bool},
}, Version: "n"}

var notes = &sqldb.Table{Name: "notes", Columns: []sqldb.Column{{Name: "thing", Type: sqldb.Text}, {Name: "words", Type: sqldb.Text}}}

// both opens the same tables in memory and on SQLite.
func both(t *testing.T) []*sqldb.DB {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Config{URL: "sqlite://" + t.TempDir() + "/x.db"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for _, sql := range []string{
		`CREATE TABLE wares (id TEXT PRIMARY KEY, n INTEGER NOT NULL, data BLOB NOT NULL, at INTEGER, on_sale INTEGER NOT NULL)`,
		`CREATE TABLE notes (seq INTEGER PRIMARY KEY AUTOINCREMENT, thing TEXT NOT NULL, words TEXT NOT NULL)`,
	} {
		if _, err := db.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return []*sqldb.DB{sqldb.NewMemory().Open(), db}
}

// script does the same random wares on a database each time and says all that
// was seen.
func script(t *testing.T, db *sqldb.DB, seed uint64) []string {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	ctx := t.Context()
	var log []string
	say := func(format string, a ...any) { log = append(log, fmt.Sprintf(format, a...)) }
	id := func() string { return fmt.Sprintf("t%02d", rnd.IntN(20)) }
	row := func(id string) []any {
		var at any
		if rnd.IntN(2) == 0 {
			at = time.UnixMicro(rnd.Int64N(1e12)).UTC()
		}
		return []any{id, rnd.Int64N(9), []byte(id), at, rnd.IntN(2) == 0}
	}
	for range 60 {
		tx, err := db.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var b sqldb.Batch
		for range 1 + rnd.IntN(3) {
			switch rnd.IntN(10) {
			case 0:
				b.Insert(wares, [][]any{row(id())})
			case 1:
				var fresh []string
				b.InsertNew(wares, [][]any{row(id()), row(id())}, func(s sqldb.Scanner) error {
					got, err := sqldb.Only[string](s)
					fresh = append(fresh, got)
					return err
				})
				defer func() { slices.Sort(fresh); say("new %v", fresh) }()
			case 2:
				b.Update(wares, [][]any{row(id())})
			case 3:
				b.DeleteReturning(wares, []string{id()}, func(s sqldb.Scanner) error { got, err := sqldb.Only[string](s); say("gone %s", got); return err })
			case 4:
				b.Load(wares, []string{id(), id(), id()}, true, func(s sqldb.Scanner) error {
					var id string
					var n int64
					var data []byte
					var at *time.Time
					var on bool
					err := s.Scan(&id, &n, &data, &at, &on)
					say("have %s %d %s %v %v", id, n, data, at, on)
					return err
				})
			case 5:
				b.InsertReturning(notes, [][]any{{id(), "first"}, {id(), "second"}}, []string{"seq", "words"}, func(s sqldb.Scanner) error {
					var seq int64
					var words string
					err := s.Scan(&seq, &words)
					say("noted %s", words)
					return err
				})
			case 6:
				b.Exec(`DELETE FROM wares WHERE id = ?`, id())
			case 7:
				b.UpdateAt(wares, [][]any{append(row(id()), rnd.Int64N(9))})
			case 8:
				b.Expect(wares, []string{id(), id()}, []int64{rnd.Int64N(9), 0})
			case 9:
				b.DeleteAll(wares, []string{id()})
			}
		}
		if rnd.IntN(3) == 0 {
			err = tx.Send(ctx, &b)
			tx.Rollback()
			say("undone %v %v", errors.Is(err, sqldb.ErrDuplicate), errors.Is(err, sqldb.ErrMissing))
			continue
		}
		err = tx.Commit(ctx, &b)
		say("done %v %v %v", err == nil, errors.Is(err, sqldb.ErrDuplicate), errors.Is(err, sqldb.ErrMissing))
	}
	for _, q := range []struct {
		sql  string
		args []any
	}{
		{`SELECT id FROM wares ORDER BY id`, nil},
		{`SELECT id FROM wares WHERE on_sale AND at <= ? ORDER BY n, id LIMIT ?`, []any{time.UnixMicro(5e11), 3}},
		{`SELECT t.id FROM wares t JOIN notes n ON n.thing = t.id WHERE t.n > 3 AND n.words = 'first' ORDER BY t.id`, nil},
		{`SELECT id FROM wares WHERE (? = '' OR id = ?) AND at IS NOT NULL ORDER BY id`, []any{"", ""}},
		{`SELECT id FROM wares WHERE id IN (?, ?) AND id || '' <> 't01' ORDER BY id`, []any{"t01", "t02"}},
	} {
		got, err := sqldb.All(ctx, db, q.sql, q.args, sqldb.Only[string])
		if err != nil {
			t.Fatalf("%s: %v", q.sql, err)
		}
		say("%s: %v", q.sql, got)
	}
	n, err := db.Exec(ctx, `UPDATE wares SET n = ?, at = ? WHERE n < 4`, int64(7), nil)
	say("updated %d %v", n, err)
	var count int64
	err = db.QueryRow(ctx, `SELECT count(*) FROM wares WHERE n = 7`).Scan(&count)
	say("count %d %v", count, err)
	return log
}

func TestADatabaseInMemoryDoesWhatSQLiteDoes(t *testing.T) {
	for seed := range uint64(30) {
		dbs := both(t)
		if diff := cmp.Diff(script(t, dbs[1], seed), script(t, dbs[0], seed)); diff != "" {
			t.Fatalf("seed %d, -sqlite +memory:\n%s", seed, diff)
		}
	}
}

func TestTransactionsInMemoryAreInEachOthersWay(t *testing.T) {
	m := sqldb.NewMemory()
	db, ctx := m.Open(), context.Background()
	insert := func(id string) (*sqldb.Tx, error) {
		tx, _ := db.Begin(ctx)
		var b sqldb.Batch
		b.InsertNew(wares, [][]any{{id, 1, []byte{}, nil, false}}, nil)
		return tx, tx.Send(ctx, &b)
	}
	first, err := insert("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := insert("a"); !sqldb.Retryable(err) {
		t.Errorf("the same key: %v, want a lost race", err)
	}
	if n := m.Count("wares"); n != 0 {
		t.Errorf("%d rows are seen before the commit", n)
	}
	if err := first.Commit(ctx, nil); err != nil {
		t.Fatal(err)
	}
	load := func() (*sqldb.Tx, error) {
		tx, _ := db.Begin(ctx)
		var b sqldb.Batch
		b.Load(wares, []string{"a"}, true, func(sqldb.Scanner) error { return nil })
		return tx, tx.Send(ctx, &b)
	}
	holder, err := load()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := load(); !sqldb.Retryable(err) {
		t.Errorf("a locked row: %v, want a lost race", err)
	}
	holder.Rollback()
	if tx, err := load(); err != nil {
		t.Errorf("after the end of the other: %v", err)
	} else {
		tx.Rollback()
	}
}

func TestHooksSeeTheMomentsOfATransaction(t *testing.T) {
	m := sqldb.NewMemory()
	db, ctx := m.Open(), context.Background()
	fail := sqldb.Moment(0)
	m.Hook = func(at sqldb.Moment) error {
		if at == fail {
			return sqldb.ErrUnavailable
		}
		return nil
	}
	for _, c := range []struct {
		at   sqldb.Moment
		rows int
	}{{sqldb.Written, 0}, {sqldb.Kept, 1}} {
		fail = c.at
		tx, _ := db.Begin(ctx)
		var b sqldb.Batch
		b.Insert(wares, [][]any{{"x", 1, []byte{}, nil, false}})
		if err := tx.Commit(ctx, &b); !sqldb.Unavailable(err) {
			t.Errorf("at %d: %v", c.at, err)
		}
		if n := m.Count("wares"); n != c.rows {
			t.Errorf("after a failure at %d there are %d rows, want %d", c.at, n, c.rows)
		}
	}
}

func TestWhatMemoryDoesNotUnderstandIsAnError(t *testing.T) {
	db := sqldb.NewMemory().Open()
	for _, sql := range []string{"SELECT sum(n) FROM wares", "INSERT INTO wares VALUES (1)", "SELECT id FROM wares GROUP BY id", "SELECT"} {
		if _, err := db.Query(t.Context(), sql); err == nil || !strings.Contains(err.Error(), "does not understand") {
			t.Errorf("%s: %v", sql, err)
		}
	}
}
