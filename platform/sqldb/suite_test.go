package sqldb_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
)

// The suite: one behaviour on both databases.

var things = &sqldb.Table{Name: "thing", Key: []string{"id"}, Columns: []sqldb.Column{
	{Name: "id", Type: sqldb.Text}, {Name: "n", Type: sqldb.Int}, {Name: "data", Type: sqldb.Bytes, Nullable: true},
	{Name: "at", Type: sqldb.Time, Nullable: true}, {Name: "ok", Type: sqldb.Bool}, {Name: "doc", Type: sqldb.JSON, Nullable: true},
	{Name: "Odd \"name", Type: sqldb.Text, Nullable: true},
}, Version: "n"}

var entries = &sqldb.Table{Name: "entry", Columns: []sqldb.Column{{Name: "name", Type: sqldb.Text}}}

var pairs = &sqldb.Table{Name: "pair", Key: []string{"a", "b"}, Columns: []sqldb.Column{
	{Name: "b", Type: sqldb.Int}, {Name: "v", Type: sqldb.Text}, {Name: "a", Type: sqldb.Text},
}}

func migration(up ...string) sqldbtest.Migration {
	out := fstest.MapFS{}
	for i, sql := range up {
		lite := strings.NewReplacer("bytea", "BLOB", "timestamptz", "INTEGER", "boolean", "INTEGER", "jsonb", "TEXT",
			"bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY", "INTEGER PRIMARY KEY AUTOINCREMENT").Replace(sql)
		name, head := fmt.Sprintf("%05d_step.sql", i+1), "-- +goose Up\n"
		if i > 0 && !strings.Contains(sql, "-- compatible:") {
			head = fmt.Sprintf("-- compatible: %d\n", i+1) + head
		}
		out["postgres/"+name] = &fstest.MapFile{Data: []byte(head + sql)}
		out["sqlite/"+name] = &fstest.MapFile{Data: []byte(head + lite)}
	}
	return sqldbtest.Migration{Name: "toys", FS: out}
}

func toys() sqldbtest.Migration {
	return migration(`
CREATE TABLE thing (id text PRIMARY KEY, n bigint NOT NULL, data bytea, at timestamptz, ok boolean NOT NULL, doc jsonb, "Odd ""name" text);
CREATE TABLE entry (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE);
CREATE TABLE pair (a text NOT NULL, b bigint NOT NULL, v text NOT NULL, PRIMARY KEY (a, b));`)
}

func each(t *testing.T, body func(t *testing.T, db *sqldb.DB)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) { body(t, open("toys", toys())) })
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// thing is a row with little in it.
func thing(id string, n int) []any { return []any{id, n, nil, nil, true, nil, nil} }

func thingsNamed(from, to int) (rows [][]any, ids []string) {
	for i := from; i < to; i++ {
		ids = append(ids, fmt.Sprintf("id-%04d", i))
		rows = append(rows, thing(ids[len(ids)-1], i))
	}
	return rows, ids
}

func commit(t *testing.T, db *sqldb.DB, fill func(b *sqldb.Batch)) {
	t.Helper()
	must(t, tryCommit(db, fill))
}

func tryCommit(db *sqldb.DB, fill func(b *sqldb.Batch)) error {
	ctx := context.Background()
	tx, err := db.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var b sqldb.Batch
	fill(&b)
	return tx.Commit(ctx, &b)
}

func count(t *testing.T, db *sqldb.DB, sql string, args ...any) (n int) {
	t.Helper()
	must(t, db.QueryRow(t.Context(), sql, args...).Scan(&n))
	return n
}

// full is every column of a thing.
type full struct {
	ID   string
	N    int64
	Data []byte
	At   *time.Time
	OK   bool
	Doc  json.RawMessage
	Odd  *string
}

func (f *full) scan(s sqldb.Scanner) error {
	return s.Scan(&f.ID, &f.N, &f.Data, &f.At, &f.OK, &f.Doc, &f.Odd)
}

func (f *full) row() []any { return []any{f.ID, f.N, f.Data, f.At, f.OK, f.Doc, f.Odd} }

func load(t *testing.T, db *sqldb.DB, ids ...string) (out []full) {
	t.Helper()
	commit(t, db, func(b *sqldb.Batch) {
		b.Load(things, ids, true, func(s sqldb.Scanner) error {
			var f full
			defer func() { out = append(out, f) }()
			return f.scan(s)
		})
	})
	return out
}

func TestBulkRowsComeBackAsTheyWent(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		at := time.Date(2026, 2, 28, 23, 59, 59, 123456000, time.UTC)
		old := time.Date(1812, 1, 1, 0, 0, 0, 1000, time.UTC)
		odd := `O'Brien "ß" ?`
		want := []full{
			{ID: "a", N: -1 << 63, Data: []byte{0, 255}, At: &at, OK: true, Doc: json.RawMessage(`{"a": 1}`), Odd: &odd},
			{ID: "b", N: 1<<63 - 1, Data: []byte{}, At: &old},
			{ID: "c"},
		}
		rows := [][]any{want[0].row(), want[1].row(), want[2].row()}
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, rows) })
		if diff := cmp.Diff(want, load(t, db, "c", "a", "b", "missing", "a")); diff != "" {
			t.Error(diff)
		}
		for i := range want {
			want[i].N = int64(i)
			want[i].Data, want[i].At, want[i].Doc, want[i].Odd = want[2-i].Data, want[2-i].At, want[2-i].Doc, want[2-i].Odd
		}
		commit(t, db, func(b *sqldb.Batch) { b.Update(things, [][]any{want[2].row(), want[0].row(), want[1].row()}) })
		if diff := cmp.Diff(want, load(t, db, "a", "b", "c")); diff != "" {
			t.Error(diff)
		}
	})
}

func TestManyRowsAreUpdatedEachOnItsOwn(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		rows, ids := thingsNamed(0, 200)
		var wide [][]any
		for i := range 200 {
			wide = append(wide, []any{i % 7, "old", fmt.Sprint(i)})
		}
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, rows); b.Insert(pairs, wide) })
		for i := range rows {
			rows[i][1], rows[i][3], rows[i][6] = 1000+i, time.UnixMicro(int64(i)), "odd "+ids[i]
			wide[i] = []any{i % 7, "new " + fmt.Sprint(i), fmt.Sprint(i)}
		}
		slices.Reverse(rows)
		commit(t, db, func(b *sqldb.Batch) { b.Update(things, rows); b.Update(pairs, wide) })
		got := load(t, db, ids...)
		for i, f := range got {
			if f.ID != ids[i] || f.N != int64(1000+i) || f.At.UnixMicro() != int64(i) || *f.Odd != "odd "+f.ID {
				t.Errorf("row %d is %+v", i, f)
			}
		}
		if n := count(t, db, "SELECT count(*) FROM pair WHERE v = 'new ' || a"); len(got) != 200 || n != 200 {
			t.Errorf("%d and %d rows were updated", len(got), n)
		}
		rows[150] = thing("none", 0)
		if err := tryCommit(db, func(b *sqldb.Batch) { b.Update(things, rows) }); !errors.Is(err, sqldb.ErrMissing) {
			t.Errorf("a missing row among many gave %v", err)
		}
	})
}

func TestEachNewKeyIsToldToOneOfManyTransactions(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		const workers, keys = 6, 90
		var mu sync.Mutex
		seen := map[string]int{}
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				for from := 0; from < keys; from += 30 {
					rows, _ := thingsNamed(from, from+30)
					if w%2 == 0 {
						slices.Reverse(rows) // a deadlock, if locks were taken in this order
					}
					err := tryCommit(db, func(b *sqldb.Batch) {
						b.InsertNew(things, rows, func(s sqldb.Scanner) error {
							mu.Lock()
							defer mu.Unlock()
							var id string
							err := s.Scan(&id)
							seen[id]++
							return err
						})
					})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s was new %d times", id, n)
			}
		}
		if len(seen) != keys {
			t.Errorf("%d keys", len(seen))
		}
	})
}

func TestArgumentsAndColumnsConvert(t *testing.T) {
	type word string
	each(t, func(t *testing.T, db *sqldb.DB) {
		ctx := t.Context()
		zone := time.FixedZone("", 5400)
		at := time.Date(2026, 7, 1, 12, 0, 0, 999999999, zone)
		text, number := "x", int64(7)
		n, err := db.Exec(ctx, `INSERT INTO thing VALUES (?, ?, ?, ?, ?, ?, ?)`, word("k"), int32(5), []byte("raw"), at, false, json.RawMessage(`[1,2]`), &text)
		if err != nil || n != 1 {
			t.Fatal(n, err)
		}
		_, err = db.Exec(ctx, `UPDATE thing SET n = n + ? WHERE id = ? AND at <= ? AND ok = ?`, &number, "k", &at, false)
		must(t, err)
		var got struct {
			id     word
			n      uint32
			n64    *int64
			data   []byte
			at     time.Time
			ok     bool
			doc    []byte
			odd    string
			none   *string
			nobody *time.Time
		}
		err = db.QueryRow(ctx, `SELECT id, n, n, data, at, ok, doc, "Odd ""name", NULL, NULL FROM thing -- why?`).
			Scan(&got.id, &got.n, &got.n64, &got.data, &got.at, &got.ok, &got.doc, &got.odd, &got.none, &got.nobody)
		must(t, err)
		if got.id != "k" || got.n != 12 || *got.n64 != 12 || string(got.data) != "raw" || got.ok || got.odd != "x" || got.none != nil || got.nobody != nil {
			t.Errorf("got %+v", got)
		}
		if !got.at.Equal(at.Truncate(time.Microsecond)) || got.at.Location() != time.UTC {
			t.Errorf("time %v became %v", at, got.at)
		}
		var doc []int
		if must(t, json.Unmarshal(got.doc, &doc)); !slices.Equal(doc, []int{1, 2}) {
			t.Errorf("doc is %s", got.doc)
		}
		if sum := count(t, db, "SELECT sum(n) FROM thing"); sum != 12 {
			t.Errorf("sum is %d", sum)
		}
		_, err = db.Exec(ctx, `UPDATE thing SET "Odd ""name" = ?, at = ?, data = ?`, (*string)(nil), nil, []byte(nil))
		must(t, err)
		if n := count(t, db, `SELECT count(*) FROM thing WHERE "Odd ""name" IS NULL AND at IS NULL AND data IS NULL`); n != 1 {
			t.Error("nil did not become NULL")
		}
	})
}

func TestScanRefusesWhatDoesNotFit(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, [][]any{thing("a", 1000)}) })
		var s string
		var small int8
		var when time.Time
		for name, err := range map[string]error{
			"NULL into a string": db.QueryRow(t.Context(), `SELECT doc FROM thing`).Scan(&s),
			"text into a time":   db.QueryRow(t.Context(), `SELECT id FROM thing`).Scan(&when),
			"1000 into an int8":  db.QueryRow(t.Context(), `SELECT n FROM thing`).Scan(&small),
			"too few pointers":   db.QueryRow(t.Context(), `SELECT id, n FROM thing`).Scan(&s),
		} {
			if err == nil {
				t.Errorf("%s was taken", name)
			}
		}
		if err := db.QueryRow(t.Context(), `SELECT id FROM thing WHERE id = ?`, "none").Scan(&s); !errors.Is(err, sqldb.ErrNoRows) {
			t.Errorf("no row gave %v", err)
		}
	})
}

func TestRowsOfTheWrongShapeAreRefused(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		for name, row := range map[string][]any{
			"short": {"a", 1}, "NULL": {"a", nil, nil, nil, true, nil, nil}, "type": {"a", "one", nil, nil, true, nil, nil},
			"unknown": {"a", struct{}{}, nil, nil, true, nil, nil},
		} {
			if err := tryCommit(db, func(b *sqldb.Batch) { b.Insert(things, [][]any{row}) }); err == nil {
				t.Errorf("a row of the wrong %s was taken", name)
			}
		}
		for name, fill := range map[string]func(b *sqldb.Batch){
			"load without text key":  func(b *sqldb.Batch) { b.Load(pairs, []string{"a"}, false, nil) },
			"update without key":     func(b *sqldb.Batch) { b.Update(entries, [][]any{{"a"}}) },
			"insert new without key": func(b *sqldb.Batch) { b.InsertNew(entries, [][]any{{"a"}}, nil) },
			"unknown key": func(b *sqldb.Batch) {
				b.Insert(&sqldb.Table{Name: "t", Key: []string{"x"}, Columns: entries.Columns}, [][]any{{"a"}})
			},
			"arguments": func(b *sqldb.Batch) { b.Exec("DELETE FROM entry WHERE name = ?") },
		} {
			if err := tryCommit(db, fill); err == nil {
				t.Errorf("%s was taken", name)
			}
		}
		if n := count(t, db, "SELECT count(*) FROM thing"); n != 0 {
			t.Errorf("%d rows were kept", n)
		}
	})
}

func TestInsertNewTellsOnlyTheNewKeys(t *testing.T) {
	for _, size := range []int{1, 20, 300} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			each(t, func(t *testing.T, db *sqldb.DB) {
				half, ids := thingsNamed(0, (size+1)/2)
				all, _ := thingsNamed(0, size)
				commit(t, db, func(b *sqldb.Batch) { b.InsertNew(things, half, nil) })
				slices.Reverse(all)
				all = append(all, all[0]) // twice in one batch
				var got []string
				commit(t, db, func(b *sqldb.Batch) {
					b.InsertNew(things, all, func(s sqldb.Scanner) error {
						got = append(got, "")
						return s.Scan(&got[len(got)-1])
					})
				})
				_, want := thingsNamed(len(ids), size)
				slices.Sort(got)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
				if n := count(t, db, "SELECT count(*) FROM thing"); n != size {
					t.Errorf("%d rows", n)
				}
			})
		})
	}
}

func TestInsertNewKnowsKeysOfSeveralColumns(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		insert := func(rows ...[]any) (got []string) {
			commit(t, db, func(b *sqldb.Batch) {
				b.InsertNew(pairs, rows, func(s sqldb.Scanner) error {
					var a string
					var n int
					err := s.Scan(&a, &n)
					got = append(got, fmt.Sprint(a, n))
					return err
				})
			})
			return got
		}
		insert([]any{1, "v", "a"})
		if diff := cmp.Diff([]string{"a2", "b1"}, insert([]any{2, "v", "a"}, []any{1, "v", "a"}, []any{1, "v", "b"})); diff != "" {
			t.Error(diff)
		}
		commit(t, db, func(b *sqldb.Batch) { b.Update(pairs, [][]any{{2, "w", "a"}}) })
		if n := count(t, db, "SELECT count(*) FROM pair WHERE v = 'w' AND a = 'a' AND b = 2"); n != 1 {
			t.Error("the update missed its row")
		}
	})
}

func TestInsertReturningKeepsTheOrderOfRows(t *testing.T) {
	keyed := &sqldb.Table{Name: entries.Name, Key: []string{"name"}, Columns: entries.Columns}
	for name, table := range map[string]*sqldb.Table{"without key": entries, "with key": keyed} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, db *sqldb.DB) {
				var rows [][]any
				for i := range 503 {
					rows = append(rows, []any{fmt.Sprint((i * 7919) % 503)})
				}
				var ids []int64
				commit(t, db, func(b *sqldb.Batch) {
					i := 0
					b.InsertReturning(table, rows, []string{"seq", "name"}, func(s sqldb.Scanner) error {
						var id int64
						var name string
						err := s.Scan(&id, &name)
						if name != rows[i][0] {
							t.Errorf("row %d is %s", i, name)
						}
						ids, i = append(ids, id), i+1
						return err
					})
				})
				if len(ids) != len(rows) || !slices.IsSorted(ids) {
					t.Errorf("ids are %v", ids)
				}
			})
		})
	}
}

func TestADuplicateFailsTheWholeTransaction(t *testing.T) {
	for _, size := range []int{1, 20, 200} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			each(t, func(t *testing.T, db *sqldb.DB) {
				rows, _ := thingsNamed(0, size)
				commit(t, db, func(b *sqldb.Batch) { b.Insert(things, rows[size-1:]) })
				for _, fill := range []func(b *sqldb.Batch){
					func(b *sqldb.Batch) { b.Insert(entries, [][]any{{"x"}}); b.Insert(things, rows) },
					func(b *sqldb.Batch) {
						b.Insert(entries, [][]any{{"x"}})
						b.InsertReturning(things, rows, []string{"id"}, nil)
					},
					func(b *sqldb.Batch) { b.Insert(entries, [][]any{{"x"}, {"x"}}) },
				} {
					if err := tryCommit(db, fill); !errors.Is(err, sqldb.ErrDuplicate) || sqldb.Ambiguous(err) {
						t.Errorf("a duplicate gave %v", err)
					}
				}
				if n := count(t, db, "SELECT (SELECT count(*) FROM thing) + (SELECT count(*) FROM entry)"); n != 1 {
					t.Errorf("%d rows were kept", n)
				}
			})
		})
	}
}

func TestUpdatingAMissingRowKeepsNothing(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, [][]any{thing("a", 1), thing("b", 1)}) })
		for name, rows := range map[string][][]any{
			"missing": {thing("a", 2), thing("none", 2)}, "twice": {thing("a", 2), thing("a", 3)},
		} {
			for _, early := range []bool{true, false} {
				tx, err := db.Begin(t.Context())
				must(t, err)
				var b sqldb.Batch
				if early {
					must(t, tx.Send(t.Context(), fillBatch(func(b *sqldb.Batch) { b.Insert(entries, [][]any{{"x"}}) })))
				}
				b.Update(things, rows)
				if err := tx.Commit(t.Context(), &b); !errors.Is(err, sqldb.ErrMissing) || sqldb.Ambiguous(err) {
					t.Errorf("%s: %v", name, err)
				}
				tx.Rollback()
			}
		}
		if n := count(t, db, "SELECT count(*) FROM thing WHERE n <> 1") + count(t, db, "SELECT count(*) FROM entry"); n != 0 {
			t.Errorf("%d changes were kept", n)
		}
	})
}

// at gives rows for UpdateAt: what is to be written, and the version it replaces.
func at(version int, rows ...[]any) (out [][]any) {
	for _, row := range rows {
		out = append(out, append(slices.Clone(row), int64(version)))
	}
	return out
}

func TestUpdateAtReplacesOnlyTheVersionThatWasRead(t *testing.T) {
	for _, size := range []int{1, 2, 65, 200} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			each(t, func(t *testing.T, db *sqldb.DB) {
				var first, second, third [][]any
				for i := range size {
					id := fmt.Sprintf("id-%04d", (i*7)%size)
					first, second, third = append(first, thing(id, 1)), append(second, thing(id, 2)), append(third, thing(id, 3))
				}
				commit(t, db, func(b *sqldb.Batch) { b.Insert(things, first) })
				commit(t, db, func(b *sqldb.Batch) { b.UpdateAt(things, at(1, second...)) })
				if n := count(t, db, "SELECT count(*) FROM thing WHERE n = 2"); n != size {
					t.Errorf("%d of %d rows were updated", n, size)
				}
				stale := slices.Concat(at(2, third[1:]...), at(1, third[0]))
				missing := slices.Concat(at(2, third...), at(2, thing("none", 3)))
				twice := slices.Concat(at(2, third...), at(2, third[0]))
				for name, rows := range map[string][][]any{"stale": stale, "missing": missing, "twice": twice} {
					if err := tryCommit(db, func(b *sqldb.Batch) { b.UpdateAt(things, rows) }); !errors.Is(err, sqldb.ErrMissing) || sqldb.Ambiguous(err) {
						t.Errorf("%s: %v", name, err)
					}
				}
				if n := count(t, db, "SELECT count(*) FROM thing WHERE n <> 2"); n != 0 {
					t.Errorf("%d rows were changed by a batch that failed", n)
				}
				if err := tryCommit(db, func(b *sqldb.Batch) { b.UpdateAt(things, [][]any{thing("a", 1)}) }); err == nil || errors.Is(err, sqldb.ErrMissing) {
					t.Errorf("a row without the version it replaces: %v", err)
				}
				if err := tryCommit(db, func(b *sqldb.Batch) { b.UpdateAt(pairs, [][]any{{1, "v", "a", 1}}) }); err == nil || errors.Is(err, sqldb.ErrMissing) {
					t.Errorf("a table without a version: %v", err)
				}
			})
		})
	}
}

func TestExpectFailsWhenARowIsNotAsItWas(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, [][]any{thing("a", 1), thing("b", 2)}) })
		for name, c := range map[string]struct {
			keys     []string
			versions []int64
			ok       bool
		}{
			"all as they were": {[]string{"b", "none", "a"}, []int64{2, 0, 1}, true},
			"nothing expected": {nil, nil, true},
			"changed":          {[]string{"a", "b"}, []int64{1, 1}, false},
			"gone":             {[]string{"a", "none"}, []int64{1, 1}, false},
			"there after all":  {[]string{"a", "b"}, []int64{1, 0}, false},
		} {
			err := tryCommit(db, func(b *sqldb.Batch) {
				b.Insert(entries, [][]any{{name}})
				b.Expect(things, c.keys, c.versions)
			})
			if kept := count(t, db, "SELECT count(*) FROM entry WHERE name = ?", name) == 1; kept != c.ok || c.ok != (err == nil) || !c.ok && !errors.Is(err, sqldb.ErrMissing) {
				t.Errorf("%s: %v, kept %v", name, err, kept)
			}
		}
	})
}

func TestDeleteAllDeletesAllOrNothing(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, [][]any{thing("a", 1), thing("b", 1), thing("c", 1)}) })
		if err := tryCommit(db, func(b *sqldb.Batch) { b.DeleteAll(things, []string{"a", "none"}) }); !errors.Is(err, sqldb.ErrMissing) {
			t.Errorf("with one that is not there: %v", err)
		}
		commit(t, db, func(b *sqldb.Batch) { b.DeleteAll(things, []string{"c", "b"}); b.DeleteAll(things, nil) })
		if diff := cmp.Diff([]string{"a"}, idsOf(load(t, db, "a", "b", "c"))); diff != "" {
			t.Error(diff)
		}
	})
}

func TestUpdateAtWaitsForWhoeverIsAtTheRowAndSeesWhatItLeft(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, [][]any{thing("a", 0)}) })
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for done := 0; done < 25; {
					var n int64
					if err := db.QueryRow(t.Context(), "SELECT n FROM thing WHERE id = 'a'").Scan(&n); err != nil {
						t.Error(err)
						return
					}
					switch err := tryCommit(db, func(b *sqldb.Batch) { b.UpdateAt(things, at(int(n), thing("a", int(n)+1))) }); {
					case err == nil:
						done++
					case !errors.Is(err, sqldb.ErrMissing) && !sqldb.Retryable(err):
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		if n := count(t, db, "SELECT n FROM thing"); n != 200 {
			t.Errorf("%d of 200 changes are left", n)
		}
	})
}

func fillBatch(fill func(b *sqldb.Batch)) *sqldb.Batch {
	b := new(sqldb.Batch)
	fill(b)
	return b
}

func TestDeleteReturningTellsTheDeletedKeys(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, [][]any{thing("a", 1), thing("b", 1), thing("c", 1)}) })
		var got []string
		commit(t, db, func(b *sqldb.Batch) {
			b.DeleteReturning(things, []string{"c", "none", "a", "c"}, func(s sqldb.Scanner) error {
				got = append(got, "")
				return s.Scan(&got[len(got)-1])
			})
			b.DeleteReturning(things, nil, nil)
		})
		slices.Sort(got)
		if diff := cmp.Diff([]string{"a", "c"}, got); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]string{"b"}, idsOf(load(t, db, "a", "b", "c"))); diff != "" {
			t.Error(diff)
		}
	})
}

func idsOf(fs []full) (out []string) {
	for _, f := range fs {
		out = append(out, f.ID)
	}
	return out
}

func TestLoadSortsByBytes(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		ids := []string{"b", "A", "a", "ä", "B", "_", "10", "9", ""}
		var rows [][]any
		for _, id := range ids {
			rows = append(rows, thing(id, 0))
		}
		commit(t, db, func(b *sqldb.Batch) { b.Insert(things, rows) })
		if diff := cmp.Diff(slices.Sorted(slices.Values(ids)), idsOf(load(t, db, ids...))); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBatchesMixStatementsOfTheirOwn(t *testing.T) {
	each(t, func(t *testing.T, db *sqldb.DB) {
		var got []string
		commit(t, db, func(b *sqldb.Batch) {
			b.Insert(things, [][]any{thing("a", 1), thing("b", 2)})
			b.Exec("UPDATE thing SET n = n * ? WHERE n >= ?", 10, 2)
			b.Query("SELECT id, n FROM thing WHERE n > ? ORDER BY id", []any{0}, func(s sqldb.Scanner) error {
				var id string
				var n int
				err := s.Scan(&id, &n)
				got = append(got, fmt.Sprint(id, n))
				return err
			})
			if b.Len() != 3 {
				t.Errorf("%d statements", b.Len())
			}
		})
		if diff := cmp.Diff([]string{"a1", "b20"}, got); diff != "" {
			t.Error(diff)
		}
	})
}
