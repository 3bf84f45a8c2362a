package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/inventory"
)

// An Item is a product with its stock, as one statement saw them.
type Item struct {
	ProductID    string
	Version      int64 // of Product
	Product      inventory.Product
	StockVersion int64
	Stock        inventory.Stock
}

// Store asks questions of the database. It is safe for concurrent use.
type Store struct {
	db    *sqldb.DB
	items *lookup
}

// New gives a Store on db, which has the tables of Migrations.
func New(db *sqldb.DB) *Store {
	s := &Store{db: db}
	s.items = &lookup{query: s.readItems}
	return s
}

// itemColumns are what scanItem reads, of products p and stock s.
const itemColumns = `p.id, p.version, p.sku, p.name, p.description, p.category, p.price, p.currency, p.archived, p.created_at, p.updated_at,
	s.version, s.on_hand, s.held, s.archived, s.updated_at`

func scanItem(r sqldb.Scanner) (*Item, error) {
	i := &Item{}
	p, k := &i.Product, &i.Stock
	err := r.Scan(&i.ProductID, &i.Version, &p.SKU, &p.Name, &p.Description, &p.Category, &p.Price, &p.Currency, &p.Archived, &p.CreatedAt, &p.UpdatedAt,
		&i.StockVersion, &k.OnHand, &k.Held, &k.Archived, &k.UpdatedAt)
	return i, err
}

// Items reads products with their stock, by id; those that do not exist are
// absent. What is given was read after the call began. Calls at the same time
// share one statement, so that a thousand small reads cost little more than one.
func (s *Store) Items(ctx context.Context, ids ...string) (map[string]*Item, error) {
	return s.items.get(ctx, ids)
}

// readItems is one statement for any number of ids, so that it is planned once.
func (s *Store) readItems(ctx context.Context, ids []string, found func(*Item)) error {
	query := `SELECT ` + itemColumns + ` FROM products p JOIN stock s ON s.id = p.id WHERE p.id = ANY(string_to_array(?, ','))`
	arg := strings.Join(ids, ",")
	if s.db.Dialect() == sqldb.SQLite {
		query = `SELECT ` + itemColumns + ` FROM json_each(?) j CROSS JOIN products p ON p.id = j.value CROSS JOIN stock s ON s.id = p.id`
		list, err := json.Marshal(ids)
		if err != nil {
			return err
		}
		arg = string(list)
	}
	return sqldb.Each(ctx, s.db, query, []any{arg}, func(r sqldb.Scanner) error {
		i, err := scanItem(r)
		if err == nil {
			found(i)
		}
		return err
	})
}

// DueHolds gives the orders whose holds were due at now, those due longest first.
func (s *Store) DueHolds(ctx context.Context, now time.Time, limit int) ([]string, error) {
	var ids []string
	err := sqldb.Each(ctx, s.db, `SELECT id FROM holds WHERE state = 'HELD' AND expires_at <= ? ORDER BY expires_at LIMIT ?`, []any{now, limit}, func(r sqldb.Scanner) error {
		var id string
		err := r.Scan(&id)
		ids = append(ids, id)
		return err
	})
	return ids, err
}

// Hold reads what an order holds; false if inventory has not heard of the order.
func (s *Store) Hold(ctx context.Context, orderID string) (h inventory.Hold, ok bool, err error) {
	err = sqldb.Each(ctx, s.db, `SELECT state, lines, expires_at, updated_at FROM holds WHERE id = ?`, []any{orderID}, func(r sqldb.Scanner) error {
		ok = true
		h, err = scanHold(r)
		return err
	})
	return h, ok, err
}

// Check holds the books against each other, in one statement and so at one
// moment: per product the movements add up to what is on hand, and the live holds
// to what is held; per sold order the movements are what its hold says, and an
// order that is not sold has taken nothing. It gives one line per violation.
func (s *Store) Check(ctx context.Context) ([]string, error) {
	lines := `SELECT h.id AS order_id, h.state, l.key AS product_id, CAST(l.value AS bigint) AS quantity FROM holds h, jsonb_each_text(CAST(h.lines AS jsonb)) l`
	if s.db.Dialect() == sqldb.SQLite {
		lines = `SELECT h.id AS order_id, h.state, l.key AS product_id, l.value AS quantity FROM holds h, json_each(h.lines) l`
	}
	// Sums over everything that bears on a product, or on a product of an order,
	// and no joins: it takes one pass however many there are.
	query := `
WITH lines AS (` + lines + `),
     books AS (
    SELECT id, 1 AS stocked, on_hand, held, 0 AS moved, 0 AS live FROM stock
    UNION ALL SELECT product_id, 0, 0, 0, delta, 0 FROM movements
    UNION ALL SELECT product_id, 0, 0, 0, 0, quantity FROM lines WHERE state = 'HELD'
    UNION ALL SELECT id, 0, 0, 0, 0, 0 FROM products),
     sales AS (
    SELECT order_id, product_id, -delta AS sold, 0 AS due FROM movements WHERE kind IN ('SOLD', 'RESTOCKED')
    UNION ALL SELECT order_id, product_id, 0, quantity FROM lines WHERE state = 'COMMITTED')
SELECT '' AS order_id, id, sum(stocked), sum(on_hand), sum(moved), sum(held), sum(live)
  FROM books GROUP BY id HAVING sum(stocked) <> 1 OR sum(on_hand) <> sum(moved) OR sum(held) <> sum(live)
UNION ALL
SELECT order_id, product_id, 1, sum(sold), sum(due), 0, 0
  FROM sales GROUP BY order_id, product_id HAVING sum(sold) <> sum(due)`
	var bad []string
	note := func(format string, a ...any) { bad = append(bad, fmt.Sprintf(format, a...)) }
	err := sqldb.Each(ctx, s.db, query, nil, func(r sqldb.Scanner) error {
		var order, product string
		var stocked, onHand, moved, held, live int64
		if err := r.Scan(&order, &product, &stocked, &onHand, &moved, &held, &live); err != nil {
			return err
		}
		switch {
		case order != "":
			note("order %s took %d of product %s out of the stock, but its hold says %d", order, onHand, product, moved)
			return nil
		case stocked == 0:
			note("product %s has no stock", product)
			return nil
		}
		if onHand != moved {
			note("product %s has %d on hand, but its movements add up to %d", product, onHand, moved)
		}
		if held != live {
			note("product %s has %d held, but the holds add up to %d", product, held, live)
		}
		return nil
	})
	return bad, err
}
