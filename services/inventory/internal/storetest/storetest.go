// Package storetest says what the inventory store must do on every database.
package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/inventory/internal/store"
)

// Open opens an inventory database with its tables and nothing in them.
func Open(open sqldbtest.Opener) *sqldb.DB {
	return open("inventory",
		sqldbtest.Migration{Name: "platform", FS: react.Migrations()},
		sqldbtest.Migration{Name: "inventory", FS: store.Migrations()})
}

// noon is when everything in this suite begins; to the microsecond, which is
// what databases keep.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

// Product gives an item with its number in everything that tells items apart.
func Product(n int, onHand, held int64) *store.Item {
	return &store.Item{
		ProductID: fmt.Sprintf("018f0000-0000-7000-8000-%012d", n), Version: 3, StockVersion: 7,
		Product: inventory.Product{
			SKU: fmt.Sprintf("SKU-%03d", n), Name: fmt.Sprintf("Name %d", n), Description: "It's \"good\"\nand wide — 幅", Category: fmt.Sprintf("cat/%d", n%3),
			Price: 100 + int64(n), Currency: "EUR", CreatedAt: noon.Add(time.Duration(n) * time.Minute), UpdatedAt: noon,
		},
		Stock: inventory.Stock{OnHand: onHand, Held: held, UpdatedAt: noon},
	}
}

// Insert stores items as the service would, with a movement for what is on hand.
func Insert(t testing.TB, db *sqldb.DB, items ...*store.Item) {
	t.Helper()
	for _, i := range items {
		p, s := i.Product, i.Stock
		exec(t, db, `INSERT INTO products (id, version, event_seq, sku, name, description, category, price, currency, archived, created_at, updated_at)
			VALUES (?, ?, 0, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			i.ProductID, i.Version, p.SKU, p.Name, p.Description, p.Category, p.Price, p.Currency, p.Archived, p.CreatedAt, p.UpdatedAt)
		exec(t, db, `INSERT INTO skus (id, version, event_seq, product_id) VALUES (?, 1, 0, ?)`, p.SKU, i.ProductID)
		exec(t, db, `INSERT INTO stock (id, version, event_seq, on_hand, held, archived, updated_at) VALUES (?, ?, 1, ?, ?, ?, ?)`,
			i.ProductID, i.StockVersion, s.OnHand, s.Held, s.Archived, s.UpdatedAt)
		if s.OnHand > 0 {
			move(t, db, i.ProductID, s.OnHand, inventory.Received, "")
		}
	}
}

func move(t testing.TB, db *sqldb.DB, product string, delta int64, kind inventory.MovementKind, order string) {
	t.Helper()
	exec(t, db, `INSERT INTO movements (product_id, delta, kind, order_id, reason, actor, created_at) VALUES (?, ?, ?, ?, '', '', ?)`, product, delta, string(kind), order, noon)
}

func hold(t testing.TB, db *sqldb.DB, order string, state inventory.State, lines string, expires any) {
	t.Helper()
	exec(t, db, `INSERT INTO holds (id, version, event_seq, state, lines, expires_at, updated_at) VALUES (?, 1, 1, ?, ?, ?, ?)`, order, string(state), lines, expires, noon)
}

func exec(t testing.TB, db *sqldb.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(context.Background(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// Run runs the suite on the databases that open gives.
func Run(t *testing.T, open sqldbtest.Opener) {
	db := Open(open)
	for _, c := range []struct {
		name string
		body func(t *testing.T, db *sqldb.DB, s *store.Store)
	}{
		{"items come back as they were stored", itemsComeBack},
		{"reads at the same time get each their own", readsTogether},
		{"a read that is given up leaves the others alone", readGivenUp},
		{"pages follow each other without gap or repetition", pages},
		{"filters and orders are those of the contract", filters},
		{"holds are due by the clock, oldest first", dueHolds},
		{"the books are found wrong wherever they are", books},
		{"the database refuses stock that cannot be", constraints},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, table := range []string{"products", "skus", "stock", "holds", "movements"} {
				exec(t, db, "DELETE FROM "+table)
			}
			c.body(t, db, store.New(db))
		})
	}
}

func itemsComeBack(t *testing.T, db *sqldb.DB, s *store.Store) {
	a, b := Product(1, 10, 4), Product(2, 0, 0)
	b.Product.Archived, b.Stock.Archived = true, true
	Insert(t, db, a, b)
	got, err := s.Items(t.Context(), a.ProductID, "nowhere", b.ProductID, a.ProductID, "with,comma", `with"quote`)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]*store.Item{a.ProductID: a, b.ProductID: b}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func readsTogether(t *testing.T, db *sqldb.DB, s *store.Store) {
	var items []*store.Item
	for n := range 20 {
		items = append(items, Product(n, int64(n), 0))
	}
	Insert(t, db, items...)
	var wg sync.WaitGroup
	for reader := range 300 {
		wg.Go(func() {
			mine := []*store.Item{items[reader%20], items[(reader*7+3)%20]}
			got, err := s.Items(t.Context(), mine[0].ProductID, fmt.Sprint("nowhere", reader), mine[1].ProductID)
			if err != nil {
				t.Error(err)
				return
			}
			for _, i := range mine {
				if diff := cmp.Diff(i, got[i.ProductID]); diff != "" {
					t.Error(diff)
				}
			}
			if _, there := got[fmt.Sprint("nowhere", reader)]; there {
				t.Error("found what does not exist")
			}
		})
	}
	wg.Wait()
}

func readGivenUp(t *testing.T, db *sqldb.DB, s *store.Store) {
	a := Product(1, 1, 0)
	Insert(t, db, a)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Items(gone, a.ProductID); err != nil && errs.KindOf(err) != errs.Canceled {
		t.Errorf("got %v", err)
	}
	if got, err := s.Items(t.Context(), a.ProductID); err != nil || got[a.ProductID] == nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func pages(t *testing.T, db *sqldb.DB, s *store.Store) {
	var want []string
	for n := range 7 {
		i := Product(n, 1, 0)
		if n > 3 {
			i.Product.CreatedAt = Product(3, 0, 0).Product.CreatedAt // ties
		}
		Insert(t, db, i)
		want = append(want, i.Product.SKU)
	}
	for _, order := range []string{"", "create_time", "sku", "name desc", "create_time desc, sku"} {
		var got []string
		token := ""
		for page := 0; ; page++ {
			items, next, err := s.List(t.Context(), listing.Query{PageSize: 2, PageToken: token, OrderBy: order, Owner: "u"})
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range items {
				got = append(got, i.Product.SKU)
			}
			if token = next; token == "" {
				break
			}
		}
		if strings.HasPrefix(order, "name desc") {
			slices.Reverse(got)
		}
		if order == "create_time desc, sku" {
			slices.Sort(got)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("order_by %q (-want +got):\n%s", order, diff)
		}
	}
	_, token, err := s.List(t.Context(), listing.Query{PageSize: 2, Owner: "u"})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []listing.Query{
		{PageToken: token, Owner: "v"}, {PageToken: token, Owner: "u", OrderBy: "sku"}, {PageToken: token, Owner: "u", Filter: `sku = "x"`}, {PageToken: token + "x", Owner: "u"},
		{PageSize: -1}, {OrderBy: "price"}, {Filter: "price > 3"}, {Filter: `sku = `},
	} {
		if _, _, err := s.List(t.Context(), q); errs.KindOf(err) != errs.Invalid || err == nil {
			t.Errorf("%+v gave %v", q, err)
		}
	}
}

func filters(t *testing.T, db *sqldb.DB, s *store.Store) {
	for n := range 6 {
		i := Product(n, 1, 0)
		i.Product.Archived = n == 5
		Insert(t, db, i)
	}
	for filter, want := range map[string]string{
		`category = "cat/1"`: "SKU-001 SKU-004",
		`category = "cat/2" AND status = PRODUCT_STATUS_ACTIVE`: "SKU-002",
		`status = PRODUCT_STATUS_ARCHIVED`:                      "SKU-005",
		`sku = "SKU-003" OR name = "Name 1"`:                    "SKU-001 SKU-003",
		`create_time > "2026-03-01T12:04:00.5Z"`:                "SKU-005",
		`sku = "'; DROP TABLE products; --"`:                    "",
	} {
		items, _, err := s.List(t.Context(), listing.Query{Filter: filter, OrderBy: "sku"})
		if err != nil {
			t.Errorf("%s: %v", filter, err)
			continue
		}
		var got []string
		for _, i := range items {
			got = append(got, i.Product.SKU)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", filter, got, want)
		}
	}
}

func dueHolds(t *testing.T, db *sqldb.DB, s *store.Store) {
	for order, minutes := range map[string]int{"o1": -1, "o2": 0, "o3": 1, "o4": -2} {
		hold(t, db, order, inventory.Held, `{"p":1}`, noon.Add(time.Duration(minutes)*time.Minute))
	}
	hold(t, db, "sold", inventory.Committed, `{"p":1}`, noon.Add(-time.Hour))
	hold(t, db, "never", inventory.Tombstoned, `{}`, nil)
	for limit, want := range map[int]string{10: "o4 o1 o2", 2: "o4 o1"} {
		got, err := s.DueHolds(t.Context(), noon, limit)
		if err != nil || strings.Join(got, " ") != want {
			t.Errorf("limit %d: got %v, %v, want %s", limit, got, err, want)
		}
	}
	h, ok, err := s.Hold(t.Context(), "o1")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	if diff := cmp.Diff(inventory.Hold{State: inventory.Held, Lines: []inventory.Line{{ProductID: "p", Quantity: 1}}, ExpiresAt: noon.Add(-time.Minute), UpdatedAt: noon}, h); diff != "" {
		t.Error(diff)
	}
	if _, ok, err := s.Hold(t.Context(), "nobody"); ok || err != nil {
		t.Error(ok, err)
	}
}

func books(t *testing.T, db *sqldb.DB, s *store.Store) {
	a, b := Product(1, 10, 4), Product(2, 5, 0)
	Insert(t, db, a, b)
	hold(t, db, "o1", inventory.Held, fmt.Sprintf(`{%q:3}`, a.ProductID), noon)
	hold(t, db, "o2", inventory.Held, fmt.Sprintf(`{%q:1}`, a.ProductID), noon)
	hold(t, db, "o3", inventory.Released, fmt.Sprintf(`{%q:9,%q:9}`, a.ProductID, b.ProductID), noon)
	check := func(want ...string) {
		t.Helper()
		got, err := s.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !slices.ContainsFunc(got, func(g string) bool { return strings.Contains(g, w) }) {
				t.Errorf("not found: %q in %q", w, got)
			}
		}
		if len(got) != len(want) {
			t.Errorf("got %d violations, want %d: %q", len(got), len(want), got)
		}
	}
	check()
	// A sale that is booked properly.
	hold(t, db, "o4", inventory.Committed, fmt.Sprintf(`{%q:2}`, b.ProductID), noon)
	move(t, db, b.ProductID, -2, inventory.Sold, "o4")
	exec(t, db, `UPDATE stock SET on_hand = 3 WHERE id = ?`, b.ProductID)
	check()
	// And one that came back.
	hold(t, db, "o5", inventory.RestockedHold, fmt.Sprintf(`{%q:2}`, b.ProductID), noon)
	move(t, db, b.ProductID, -2, inventory.Sold, "o5")
	move(t, db, b.ProductID, 2, inventory.Restocked, "o5")
	check()

	exec(t, db, `UPDATE stock SET on_hand = 4 WHERE id = ?`, b.ProductID)
	check("has 4 on hand, but its movements add up to 3")
	exec(t, db, `UPDATE stock SET on_hand = 3, held = 1 WHERE id = ?`, b.ProductID)
	check("has 1 held, but the holds add up to 0")
	exec(t, db, `UPDATE stock SET held = 0 WHERE id = ?`, b.ProductID)
	exec(t, db, `UPDATE holds SET state = 'EXPIRED' WHERE id = 'o4'`)
	check("order o4 took 2")
	exec(t, db, `UPDATE holds SET state = 'COMMITTED' WHERE id IN ('o4', 'o5')`)
	check("order o5 took 0")
	exec(t, db, `UPDATE holds SET state = 'RESTOCKED' WHERE id = 'o5'`)
	exec(t, db, `DELETE FROM stock WHERE id = ?`, a.ProductID)
	check("has no stock")
}

func constraints(t *testing.T, db *sqldb.DB, _ *store.Store) {
	Insert(t, db, Product(1, 10, 4), Product(2, 1, 0))
	for _, query := range []string{
		`UPDATE stock SET held = 11`,
		`UPDATE stock SET held = -1`,
		`UPDATE stock SET on_hand = 3, held = 4`,
		`UPDATE stock SET on_hand = -1, held = -1`,
		`UPDATE products SET sku = 'SKU-001'`,
		`UPDATE products SET price = -1`,
		`INSERT INTO holds (id, version, event_seq, state, lines, updated_at) SELECT 'o', 1, 1, 'LOST', '{}', updated_at FROM stock`,
		`INSERT INTO movements (product_id, delta, kind, order_id, reason, actor, created_at) SELECT id, 0, 'SOLD', '', '', '', updated_at FROM stock`,
	} {
		if _, err := db.Exec(t.Context(), query); err == nil {
			t.Errorf("was taken: %s", query)
		}
	}
}
