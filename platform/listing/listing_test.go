package listing

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
)

// thing is a row of every type.
type thing struct {
	id, owner, name string
	size            int64
	open            bool
	state           int64
	made            time.Time
}

var things = New(Spec[thing]{
	Name: "things",
	Fields: map[string]Field[thing]{
		"name":        {Column: "name", Type: String, Sort: func(t thing) any { return t.name }},
		"size":        {Column: "size", Type: Int, Sort: func(t thing) any { return t.size }},
		"open":        {Column: "open", Type: Bool},
		"status":      {Column: "state", Type: Enum, Values: map[string]any{"NEW": int64(1), "DONE": int64(2)}},
		"create_time": {Column: "made_at", Type: Time, Sort: func(t thing) any { return t.made }},
		"owner_id":    {Column: "owner", Type: String, Everything: true},
		"rank":        {Column: "size", Type: Int, OnlySort: true, Sort: func(t thing) any { return t.size }},
		"note":        {Column: "COALESCE(note, '')", Type: String},
	},
	Order: "create_time desc",
	Key:   "id", KeyOf: func(t thing) string { return t.id },
	Owner: "owner",
})

func migration() sqldbtest.Migration {
	return sqldbtest.Migration{Name: "things", FS: fstest.MapFS{
		"postgres/00001_things.sql": {Data: []byte(`-- +goose Up
CREATE TABLE things (id text COLLATE "C" PRIMARY KEY, owner text NOT NULL, name text COLLATE "C" NOT NULL, size bigint NOT NULL,
    open boolean NOT NULL, state smallint NOT NULL, made_at timestamptz NOT NULL, note text);`)},
		"sqlite/00001_things.sql": {Data: []byte(`-- +goose Up
CREATE TABLE things (id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL,
    open INTEGER NOT NULL, state INTEGER NOT NULL, made_at INTEGER NOT NULL, note TEXT) STRICT;`)},
	}}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// fill stores 60 things in which every value but the id repeats.
func fill(t *testing.T, db *sqldb.DB) []thing {
	t.Helper()
	names := []string{"Anvil", "anvil", "100% wool", "a_b", "it's", "Öl", `back\slash`}
	var all []thing
	for i := range 60 {
		th := thing{
			id: fmt.Sprintf("%03d", (i*37)%60), owner: []string{"ann", "bob", "ann"}[i%3], name: names[i%len(names)], size: int64(i % 5),
			open: i%2 == 0, state: int64(1 + i%2), made: epoch.Add(time.Duration(i%7) * time.Hour).Add(time.Microsecond),
		}
		all = append(all, th)
		if _, err := db.Exec(t.Context(), `INSERT INTO things (id, owner, name, size, open, state, made_at) VALUES (?, ?, ?, ?, ?, ?, ?)`,
			th.id, th.owner, th.name, th.size, th.open, th.state, th.made); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func read(ctx context.Context, db *sqldb.DB, p *Page) ([]thing, error) {
	rows, err := db.Query(ctx, `SELECT id, owner, name, size, open, state, made_at FROM things WHERE `+p.SQL, p.Args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.SQL, err)
	}
	defer rows.Close()
	var all []thing
	for rows.Next() {
		var th thing
		if err := rows.Scan(&th.id, &th.owner, &th.name, &th.size, &th.open, &th.state, &th.made); err != nil {
			return nil, err
		}
		all = append(all, th)
	}
	return all, rows.Err()
}

// list walks all pages.
func list(t *testing.T, db *sqldb.DB, q Query) []string {
	t.Helper()
	var ids []string
	for range 100 {
		p, err := things.Parse(q)
		if err != nil {
			t.Fatal(err)
		}
		rows, err := read(t.Context(), db, p)
		if err != nil {
			t.Fatal(err)
		}
		page, next := things.Cut(p, rows)
		if len(page) > p.Size() {
			t.Fatalf("a page has %d rows, more than %d", len(page), p.Size())
		}
		for _, th := range page {
			ids = append(ids, th.id)
		}
		if next == "" {
			return ids
		}
		q.PageToken = next
	}
	t.Fatal("the pages have no end")
	return nil
}

func TestFiltersPickTheSameRowsOnBothDatabases(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("listing", migration())
		all := fill(t, db)
		for _, c := range []struct {
			filter string
			want   func(thing) bool
		}{
			{``, func(thing) bool { return true }},
			{`   `, func(thing) bool { return true }},
			{`name = "Anvil"`, func(th thing) bool { return th.name == "Anvil" }},
			{`name = Anvil`, func(th thing) bool { return th.name == "Anvil" }},
			{`name != 'Anvil'`, func(th thing) bool { return th.name != "Anvil" }},
			{`name:"ANV"`, func(th thing) bool { return strings.EqualFold(th.name, "anvil") }},
			{`name:"%"`, func(th thing) bool { return strings.Contains(th.name, "%") }},
			{`name:"_"`, func(th thing) bool { return strings.Contains(th.name, "_") }},
			{`name:"\\"`, func(th thing) bool { return strings.Contains(th.name, `\`) }},
			{`name = "it's"`, func(th thing) bool { return th.name == "it's" }},
			{`name = "Öl"`, func(th thing) bool { return th.name == "Öl" }},
			{`name >= "a" AND name < "b"`, func(th thing) bool { return th.name >= "a" && th.name < "b" }},
			{`size = 3`, func(th thing) bool { return th.size == 3 }},
			{`size>1 AND size<=3`, func(th thing) bool { return th.size > 1 && th.size <= 3 }},
			{`size > -1`, func(thing) bool { return true }},
			{`size = 0x2`, func(th thing) bool { return th.size == 2 }},
			{`size = 1 OR size = 2 AND open = true`, func(th thing) bool { return (th.size == 1 || th.size == 2) && th.open }}, // OR binds tighter, AIP-160
			{`NOT (size = 1 OR size = 2)`, func(th thing) bool { return th.size != 1 && th.size != 2 }},
			{`-open = true`, func(th thing) bool { return !th.open }},
			{`open = false`, func(th thing) bool { return !th.open }},
			{`status = NEW`, func(th thing) bool { return th.state == 1 }},
			{`status != "NEW"`, func(th thing) bool { return th.state == 2 }},
			{`create_time > "2026-01-01T03:00:00Z"`, func(th thing) bool { return th.made.After(epoch.Add(3 * time.Hour)) }},
			{`create_time <= timestamp("2026-01-01T04:00:00.000001+01:00")`, func(th thing) bool { return !th.made.After(epoch.Add(3*time.Hour + time.Microsecond)) }},
			{`create_time > "0001-01-01T00:00:00Z" AND create_time < "9999-12-31T23:59:59Z"`, func(thing) bool { return true }},
			{`owner_id = "bob"`, func(th thing) bool { return th.owner == "bob" }},
			{`note = ""`, func(thing) bool { return true }},
			{`((((size = 1))))`, func(th thing) bool { return th.size == 1 }},
			{strings.Repeat("NOT (", 150) + "size = 1" + strings.Repeat(")", 150), func(th thing) bool { return th.size == 1 }},
			{strings.Repeat("size = 1 AND ", 77) + "size = 1", func(th thing) bool { return th.size == 1 }},
			// What would be SQL stays a value.
			{`name = "x' OR '1'='1"`, func(thing) bool { return false }},
			{`name = "'; DROP TABLE things; --"`, func(thing) bool { return false }},
			{`name = "?" OR name = "$1"`, func(thing) bool { return false }},
			{`name:"' OR 1=1 --"`, func(thing) bool { return false }},
		} {
			t.Run(c.filter, func(t *testing.T) {
				got := list(t, db, Query{Filter: c.filter, PageSize: 7, OrderBy: "create_time"})
				var want []string
				for _, th := range slices.SortedFunc(slices.Values(all), func(a, b thing) int { return cmp.Or(a.made.Compare(b.made), cmp.Compare(a.id, b.id)) }) {
					if c.want(th) {
						want = append(want, th.id)
					}
				}
				if diff := gocmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
			})
		}
		if got := list(t, db, Query{}); len(got) != len(all) {
			t.Errorf("%d of %d rows are left", len(got), len(all))
		}
	})
}

func TestEveryOrderGivesEachRowOnceAndInPlace(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("listing", migration())
		all := fill(t, db)
		byID := func(a, b thing) int { return cmp.Compare(a.id, b.id) }
		for _, c := range []struct {
			order string
			less  func(a, b thing) int
		}{
			{"", func(a, b thing) int { return cmp.Or(b.made.Compare(a.made), byID(b, a)) }},
			{"create_time", func(a, b thing) int { return cmp.Or(a.made.Compare(b.made), byID(a, b)) }},
			{"name", func(a, b thing) int { return cmp.Or(cmp.Compare(a.name, b.name), byID(a, b)) }},
			{"name desc", func(a, b thing) int { return cmp.Or(cmp.Compare(b.name, a.name), byID(b, a)) }},
			{"size, name desc", func(a, b thing) int {
				return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(b.name, a.name), byID(b, a))
			}},
			{"size desc,create_time asc , name desc", func(a, b thing) int {
				return cmp.Or(cmp.Compare(b.size, a.size), a.made.Compare(b.made), cmp.Compare(b.name, a.name), byID(b, a))
			}},
			{"rank", func(a, b thing) int { return cmp.Or(cmp.Compare(a.size, b.size), byID(a, b)) }},
		} {
			t.Run(c.order, func(t *testing.T) {
				var want []string
				for _, th := range slices.SortedFunc(slices.Values(all), c.less) {
					want = append(want, th.id)
				}
				for _, size := range []int32{1, 4, 59, 60, 61} {
					if diff := gocmp.Diff(want, list(t, db, Query{OrderBy: c.order, PageSize: size})); diff != "" {
						t.Errorf("pages of %d: %s", size, diff)
					}
				}
			})
		}
	})
}

func TestCallersSeeOnlyTheirOwnRows(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("listing", migration())
		fill(t, db)
		for _, filter := range []string{``, `name != "" OR name = ""`, `NOT (name = "nothing")`} {
			if got := list(t, db, Query{Owner: "bob", Filter: filter, PageSize: 3}); len(got) != 20 {
				t.Errorf("bob sees %d rows with filter %s, has 20", len(got), filter)
			}
		}
		if got := list(t, db, Query{Owner: "nobody"}); len(got) != 0 {
			t.Errorf("nobody sees %d rows", len(got))
		}
	})
	_, err := things.Parse(Query{Owner: "bob", Filter: `owner_id = "ann"`})
	wantField(t, err, "filter", `names the field "owner_id"`)
	if strings.Contains(err.Error(), "create_time, name, note, open, owner_id") {
		t.Error("the answer offers a field that the caller may not use")
	}
}

func wantField(t *testing.T, err error, path, text string) {
	t.Helper()
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Invalid {
		t.Fatalf("got %v, want an invalid request", err)
	}
	for _, f := range e.Fields {
		if f.Path == path && strings.Contains(f.Problem, text) {
			return
		}
	}
	t.Fatalf("no field %s with %q in %v", path, text, e.Fields)
}

func TestBadRequestsNameTheFieldAndWhatToMend(t *testing.T) {
	for _, c := range []struct {
		name  string
		query Query
		path  string
		text  string
	}{
		{"negative size", Query{PageSize: -1}, "page_size", "negative"},
		{"unknown field", Query{Filter: `colour = "red"`}, "filter", "there are: create_time, name, note, open, owner_id, size, status"},
		{"column that is no field", Query{Filter: `made_at = "x"`}, "filter", "made_at"},
		{"field only sorted by", Query{Filter: `rank = 1`}, "filter", "rank"},
		{"member", Query{Filter: `a.b.c = 1`}, "filter", "on the left"},
		{"quoted field", Query{Filter: `"name" = "x"`}, "filter", "on the left"},
		{"value on the left", Query{Filter: `1 = 1`}, "filter", "on the left"},
		{"field on both sides", Query{Filter: `size = size`}, "filter", "whole number"},
		{"bare word", Query{Filter: `anvil`}, "filter", "comparisons"},
		{"bare text", Query{Filter: `"anvil"`}, "filter", "comparisons"},
		{"words in a row", Query{Filter: `size = 1 size = 2`}, "filter", "AND or OR"},
		{"text for a number", Query{Filter: `size = "1"`}, "filter", "whole number"},
		{"fraction", Query{Filter: `size = 1.5`}, "filter", "whole number"},
		{"number beyond 64 bits", Query{Filter: `size = 9223372036854775808`}, "filter", ""},
		{"number for text", Query{Filter: `name = 1`}, "filter", "quotes"},
		{"unknown name of an enum", Query{Filter: `status = OPEN`}, "filter", "DONE, NEW"},
		{"number for an enum", Query{Filter: `status = 1`}, "filter", "DONE, NEW"},
		{"order of an enum", Query{Filter: `status > NEW`}, "filter", "= and != only"},
		{"order of a bool", Query{Filter: `open < true`}, "filter", "= and != only"},
		{"text for a bool", Query{Filter: `open = "true"`}, "filter", "true or false"},
		{"day for a time", Query{Filter: `create_time > "2026-01-01"`}, "filter", "2026-01-31T12:00:00Z"},
		{"number for a time", Query{Filter: `create_time > 5`}, "filter", "2026-01-31T12:00:00Z"},
		{"the year 0", Query{Filter: `create_time > "0000-01-01T00:00:00Z"`}, "filter", "2026-01-31T12:00:00Z"},
		{"timestamp of nothing", Query{Filter: `create_time > timestamp()`}, "filter", "2026-01-31T12:00:00Z"},
		{"part of a number", Query{Filter: `size:1`}, "filter", "use ="},
		{"presence", Query{Filter: `create_time:*`}, "filter", "use ="},
		{"function", Query{Filter: `sleep(10)`}, "filter", "no functions"},
		{"function on the left", Query{Filter: `lower(name) = "x"`}, "filter", "on the left"},
		{"function on the right", Query{Filter: `name = lower("x")`}, "filter", "quotes"},
		{"function that is a keyword", Query{Filter: `AND(size = 1)`}, "filter", ""},
		{"condition on the right", Query{Filter: `size = (size = 1)`}, "filter", "whole number"},
		{"missing value", Query{Filter: `size =`}, "filter", ""},
		{"missing side", Query{Filter: `size = 1 AND`}, "filter", "cannot be read"},
		{"parenthesis not closed", Query{Filter: `(size = 1`}, "filter", ""},
		{"quote not closed", Query{Filter: `name = "x`}, "filter", "unterminated"},
		{"comment", Query{Filter: `size = 1 -- x`}, "filter", ""},
		{"semicolon", Query{Filter: `size = 1; DROP TABLE things`}, "filter", ""},
		{"NUL", Query{Filter: "name = \"a\x00b\""}, "filter", "NUL"},
		{"escaped NUL", Query{Filter: `name = "a\000b"`}, "filter", ""},
		{"no UTF-8", Query{Filter: "name = \"\xff\""}, "filter", "UTF-8"},
		{"escaped surrogate", Query{Filter: `name = "\ud800"`}, "filter", ""},
		{"too long", Query{Filter: strings.Repeat("x", 1025)}, "filter", "1024"},
		{"order of an unknown field", Query{OrderBy: "colour"}, "order_by", "there are: create_time, name, rank, size"},
		{"order of a field that cannot", Query{OrderBy: "open"}, "order_by", "open"},
		{"order twice", Query{OrderBy: "size,size desc"}, "order_by", "twice"},
		{"order with SQL", Query{OrderBy: "name; DROP TABLE things"}, "order_by", "divided by commas"},
		{"order with a function", Query{OrderBy: "(SELECT 1)"}, "order_by", "divided by commas"},
		{"order with a wrong direction", Query{OrderBy: "name DESC"}, "order_by", "divided by commas"},
		{"order with an empty part", Query{OrderBy: "name,,size"}, "order_by", "divided by commas"},
		{"order too long", Query{OrderBy: strings.Repeat("name,", 60)}, "order_by", "256"},
		{"junk token", Query{PageToken: "junk"}, "page_token", "begin again"},
		{"token of other letters", Query{PageToken: "?page=2"}, "page_token", "begin again"},
		{"token too long", Query{PageToken: strings.Repeat("A", 4096)}, "page_token", "begin again"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := things.Parse(c.query)
			wantField(t, err, c.path, c.text)
		})
	}
	_, err := things.Parse(Query{PageSize: -1, Filter: "x", OrderBy: "x"})
	for _, path := range []string{"page_size", "filter", "order_by"} {
		wantField(t, err, path, "")
	}
}

func TestPageSizesHaveADefaultAndABound(t *testing.T) {
	for size, want := range map[int32]int{0: 50, 1: 1, 99: 99, 100: 100, 101: 100, 1 << 30: 100} {
		p, err := things.Parse(Query{PageSize: size})
		if err != nil || p.Size() != want || !strings.HasSuffix(p.SQL, fmt.Sprintf("LIMIT %d", want+1)) {
			t.Errorf("page_size %d gives %d (%v), want %d", size, p.Size(), err, want)
		}
	}
}

func TestATokenIsGoodOnlyForWhatItWasGiven(t *testing.T) {
	q := Query{Owner: "ann", Filter: `size > 1`, OrderBy: "size, name desc", PageSize: 1}
	p, err := things.Parse(q)
	if err != nil {
		t.Fatal(err)
	}
	_, q.PageToken = things.Cut(p, []thing{{id: "1", name: "a", size: 2}, {id: "2"}})
	if _, err := things.Parse(q); err != nil {
		t.Fatal(err)
	}
	other := q
	other.PageSize = 30
	if _, err := things.Parse(other); err != nil {
		t.Errorf("another page size: %v", err)
	}
	for name, change := range map[string]func(*Query){
		"another caller":  func(q *Query) { q.Owner = "bob" },
		"staff":           func(q *Query) { q.Owner = "" },
		"another filter":  func(q *Query) { q.Filter = `size > 2` },
		"no filter":       func(q *Query) { q.Filter = "" },
		"another order":   func(q *Query) { q.OrderBy = "size desc, name desc" },
		"no order":        func(q *Query) { q.OrderBy = "" },
		"a letter more":   func(q *Query) { q.PageToken += "A" },
		"padding":         func(q *Query) { q.PageToken += "=" },
		"a letter less":   func(q *Query) { q.PageToken = q.PageToken[:len(q.PageToken)-1] },
		"a line break":    func(q *Query) { q.PageToken += "\n" },
		"the values only": func(q *Query) { q.PageToken = q.PageToken[22:] },
	} {
		t.Run(name, func(t *testing.T) {
			other := q
			change(&other)
			_, err := things.Parse(other)
			wantField(t, err, "page_token", "begin again")
		})
	}
	raw, _ := base64.RawURLEncoding.DecodeString(q.PageToken)
	for i := range raw {
		for bit := range 8 {
			changed := slices.Clone(raw)
			changed[i] ^= 1 << bit
			other := q
			other.PageToken = base64.RawURLEncoding.EncodeToString(changed)
			if _, err := things.Parse(other); err == nil {
				t.Fatalf("bit %d of byte %d may be changed", bit, i)
			}
		}
	}
	same := New(Spec[thing]{Name: "others", Fields: things.spec.Fields, Key: "id", KeyOf: things.spec.KeyOf, Owner: "owner"})
	if _, err := same.Parse(q); err == nil {
		t.Error("the token is good for another list")
	}
}

// A token with the right checksum can be made by who reads this source. It must
// not do more than a good one.
func TestForgedTokensWithGoodChecksumsAreHarmless(t *testing.T) {
	p, err := things.Parse(Query{Owner: "ann", OrderBy: "create_time"})
	if err != nil {
		t.Fatal(err)
	}
	for _, values := range []string{``, `null`, `[]`, `["1"]`, `["1","2","3"]`, `["x","1"]`, `["9223372036854775807","1"]`, `["1",2]`, `["1","\u0000"]`, `["1","2"] `, `["1","2"]x`, `{"0":"1"}`} {
		sum := p.sum([]byte(values))
		if last, ok := p.open(tokens.EncodeToString(append(sum[:], values...))); ok && values != `["1","2"] ` {
			t.Errorf("%s was taken as %v", values, last)
		}
	}
}

func TestDeclarationsThatContradictThemselvesPanic(t *testing.T) {
	id := func(t thing) string { return t.id }
	for name, spec := range map[string]Spec[thing]{
		"no name":             {Key: "id", KeyOf: id},
		"no key":              {Name: "x"},
		"no column":           {Name: "x", Key: "id", KeyOf: id, Fields: map[string]Field[thing]{"a": {}}},
		"enum without values": {Name: "x", Key: "id", KeyOf: id, Fields: map[string]Field[thing]{"a": {Column: "a", Type: Enum}}},
		"sorted by a bool":    {Name: "x", Key: "id", KeyOf: id, Fields: map[string]Field[thing]{"a": {Column: "a", Type: Bool, Sort: func(thing) any { return 1 }}}},
		"unknown order":       {Name: "x", Key: "id", KeyOf: id, Order: "b"},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("it was taken")
				}
			}()
			New(spec)
		})
	}
}

func FuzzRequestsAreRefusedOrRun(f *testing.F) {
	for _, s := range []string{
		``, `name = "x"`, `NOT (size > -3 AND open = true)`, `status = NEW OR status = DONE`, `create_time < timestamp("2026-01-01T00:00:00Z")`,
		`name:"%'\\"`, `-size = 1`, `((name = 'a'))`, `a(b(c(d(`, "name = \"\x00\"", `name = "\x41\u00e9\U0001F600"`, `size = 0xFF`,
	} {
		f.Add(s, "name desc", "")
	}
	f.Add(`size = 1`, "size, name desc", "AAAA")
	db := sqldbtest.SQLite(f)("fuzz", migration())
	f.Fuzz(func(t *testing.T, filter, order, token string) {
		p, err := things.Parse(Query{Filter: filter, OrderBy: order, PageToken: token, Owner: "ann"})
		if err != nil {
			if errs.KindOf(err) != errs.Invalid {
				t.Fatal(err)
			}
			return
		}
		if n := strings.Count(p.SQL, "?"); n != len(p.Args) {
			t.Fatalf("%d marks for %d arguments in %s", n, len(p.Args), p.SQL)
		}
		if _, err := read(t.Context(), db, p); err != nil {
			t.Fatal(err)
		}
	})
}
