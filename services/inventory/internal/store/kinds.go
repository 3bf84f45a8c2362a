// Package store keeps products, stock, holds and movements in SQL: how each is
// laid out, and the questions that are asked of them. What may happen to them is
// said in the package above.
package store

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/inventory"
)

//go:embed migrations
var migrations embed.FS

// Migrations holds the tables of this service.
func Migrations() fs.FS { return sqldb.Embedded(migrations) }

// Products are what is known of products besides their stock.
var Products = react.NewKind("products", []sqldb.Column{
	{Name: "sku", Type: sqldb.Text},
	{Name: "name", Type: sqldb.Text},
	{Name: "description", Type: sqldb.Text},
	{Name: "category", Type: sqldb.Text},
	{Name: "price", Type: sqldb.Int},
	{Name: "currency", Type: sqldb.Text},
	{Name: "archived", Type: sqldb.Bool},
	{Name: "created_at", Type: sqldb.Time},
	{Name: "updated_at", Type: sqldb.Time},
}, func(p inventory.Product) []any {
	return []any{p.SKU, p.Name, p.Description, p.Category, p.Price, p.Currency, p.Archived, p.CreatedAt, p.UpdatedAt}
}, func(s sqldb.Scanner, meta ...any) (p inventory.Product, err error) {
	err = s.Scan(append(meta, &p.SKU, &p.Name, &p.Description, &p.Category, &p.Price, &p.Currency, &p.Archived, &p.CreatedAt, &p.UpdatedAt)...)
	return p, err
})

// Stock is how many there are of a product, under the product's id. All events of
// a product are emitted by its stock, so that they are numbered in one row.
var Stock = react.NewKind("stock", []sqldb.Column{
	{Name: "on_hand", Type: sqldb.Int},
	{Name: "held", Type: sqldb.Int},
	{Name: "archived", Type: sqldb.Bool},
	{Name: "updated_at", Type: sqldb.Time},
}, func(k inventory.Stock) []any {
	return []any{k.OnHand, k.Held, k.Archived, k.UpdatedAt}
}, func(s sqldb.Scanner, meta ...any) (k inventory.Stock, err error) {
	err = s.Scan(append(meta, &k.OnHand, &k.Held, &k.Archived, &k.UpdatedAt)...)
	return k, err
}).Remembered()

// SKUs say which product has a SKU, whose id it is. They make SKUs unique.
var SKUs = react.NewKind("skus", []sqldb.Column{
	{Name: "product_id", Type: sqldb.Text},
}, func(productID string) []any {
	return []any{productID}
}, func(s sqldb.Scanner, meta ...any) (productID string, err error) {
	err = s.Scan(append(meta, &productID)...)
	return productID, err
})

// Holds are what orders hold, under the order's id.
var Holds = react.NewKind("holds", []sqldb.Column{
	{Name: "state", Type: sqldb.Text},
	{Name: "lines", Type: sqldb.Text},
	{Name: "expires_at", Type: sqldb.Time, Nullable: true},
	{Name: "updated_at", Type: sqldb.Time},
}, func(h inventory.Hold) []any {
	var expires any
	if !h.ExpiresAt.IsZero() {
		expires = h.ExpiresAt
	}
	return []any{string(h.State), encodeLines(h.Lines), expires, h.UpdatedAt}
}, scanHold).Remembered()

func scanHold(s sqldb.Scanner, meta ...any) (h inventory.Hold, err error) {
	var lines string
	var expires *time.Time
	if err := s.Scan(append(meta, &h.State, &lines, &expires, &h.UpdatedAt)...); err != nil {
		return h, err
	}
	if expires != nil {
		h.ExpiresAt = *expires
	}
	h.Lines, err = decodeLines(lines)
	return h, err
}

// Movements is the log of what changed the number in the house.
var Movements = &sqldb.Table{
	Name: "movements",
	Columns: []sqldb.Column{
		{Name: "product_id", Type: sqldb.Text},
		{Name: "delta", Type: sqldb.Int},
		{Name: "kind", Type: sqldb.Text},
		{Name: "order_id", Type: sqldb.Text},
		{Name: "reason", Type: sqldb.Text},
		{Name: "actor", Type: sqldb.Text},
		{Name: "created_at", Type: sqldb.Time},
	},
}

// Movement gives the row of a movement.
func Movement(m inventory.Movement, at time.Time) []any {
	return []any{m.ProductID, m.Delta, string(m.Kind), m.OrderID, m.Reason, m.Actor, at}
}

// encodeLines writes lines as a JSON object, which both databases can take apart
// when the books are checked.
func encodeLines(lines []inventory.Line) string {
	b := make([]byte, 0, 2+48*len(lines))
	b = append(b, '{')
	for i, l := range lines {
		if i > 0 {
			b = append(b, ',')
		}
		id, _ := json.Marshal(l.ProductID) // a string always encodes
		b = append(b, id...)
		b = append(b, ':')
		b = strconv.AppendInt(b, l.Quantity, 10)
	}
	return string(append(b, '}'))
}

func decodeLines(s string) ([]inventory.Line, error) {
	if s == "{}" {
		return nil, nil
	}
	var m map[string]int64
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		return nil, fmt.Errorf("lines of a hold: %w", err)
	}
	lines := make([]inventory.Line, 0, len(m))
	for id, n := range m {
		lines = append(lines, inventory.Line{ProductID: id, Quantity: n})
	}
	slices.SortFunc(lines, func(a, b inventory.Line) int { return strings.Compare(a.ProductID, b.ProductID) })
	return lines, nil
}
