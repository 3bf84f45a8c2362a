package store

import (
	"context"

	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/sqldb"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// List reads one page of orders and the token of the next, "" on the last page.
// Errors about the query are Invalid.
func (s *Store) List(ctx context.Context, q listing.Query) ([]*orderv1.Order, string, error) {
	page, err := list.Parse(q)
	if err != nil {
		return nil, "", err
	}
	rows, err := sqldb.All(ctx, s.db, selectOrders+" WHERE "+page.SQL, page.Args, scanWhole)
	if err != nil {
		return nil, "", err
	}
	rows, next := list.Cut(page, rows)
	return rows, next, nil
}

var list = listing.New(listing.Spec[*orderv1.Order]{
	Name: "orders",
	Fields: map[string]listing.Field[*orderv1.Order]{
		"status":    {Column: "o.status", Type: listing.Enum, Values: listing.EnumValues(orderv1.OrderStatus(0).Descriptor())},
		"reason":    {Column: "o.reason", Type: listing.Enum, Values: listing.EnumValues(orderv1.OrderReason(0).Descriptor())},
		"saga_over": {Column: "(o.saga_over_at IS NOT NULL)", Type: listing.Bool},
		"user_id":   {Column: "d.user_id", Type: listing.String, Everything: true},
		"create_time": {
			Column: "d.created_at", Type: listing.Time,
			Sort: func(o *orderv1.Order) any { return o.GetCreateTime().AsTime() },
		},
		"update_time": {
			Column: "o.updated_at", Type: listing.Time,
			Sort: func(o *orderv1.Order) any { return o.GetUpdateTime().AsTime() },
		},
	},
	Order: "create_time desc",
	Key:   "d.id",
	KeyOf: (*orderv1.Order).GetOrderId,
	Owner: "d.user_id",
})
