package store

import (
	"context"

	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/sqldb"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
)

// products declares what callers may filter and sort products by.
var products = listing.New(listing.Spec[*Item]{
	Name:  "products",
	Key:   "p.id",
	KeyOf: func(i *Item) string { return i.ProductID },
	Order: "create_time",
	Fields: map[string]listing.Field[*Item]{
		"sku":         {Column: "p.sku", Sort: func(i *Item) any { return i.Product.SKU }},
		"name":        {Column: "p.name", Sort: func(i *Item) any { return i.Product.Name }},
		"category":    {Column: "p.category"},
		"create_time": {Column: "p.created_at", Type: listing.Time, Sort: func(i *Item) any { return i.Product.CreatedAt }},
		"status": {Column: "p.archived", Type: listing.Enum, Values: map[string]any{
			inventoryv1.ProductStatus_PRODUCT_STATUS_ACTIVE.String():   false,
			inventoryv1.ProductStatus_PRODUCT_STATUS_ARCHIVED.String(): true,
		}},
	},
})

// List gives a page of products and the token of the next one, "" if there is
// none. A query that cannot be meant fails with Invalid.
func (s *Store) List(ctx context.Context, q listing.Query) ([]*Item, string, error) {
	page, err := products.Parse(q)
	if err != nil {
		return nil, "", err
	}
	items := make([]*Item, 0, page.Size()+1)
	err = sqldb.Each(ctx, s.db, `SELECT `+itemColumns+` FROM products p JOIN stock s ON s.id = p.id WHERE `+page.SQL, page.Args, func(r sqldb.Scanner) error {
		i, err := scanItem(r)
		items = append(items, i)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	items, next := products.Cut(page, items)
	return items, next, nil
}
