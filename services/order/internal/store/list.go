package store

import (
	"context"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

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
	var rows []*orderv1.Order
	if err := s.each(ctx, selectOrders+" WHERE "+page.SQL, page.Args, func(row sqldb.Scanner) error {
		o, err := scanWhole(row)
		rows = append(rows, o)
		return err
	}); err != nil {
		return nil, "", err
	}
	rows, next := list.Cut(page, rows)
	return rows, next, nil
}

var list = listing.New(listing.Spec[*orderv1.Order]{
	Name: "orders",
	Fields: map[string]listing.Field[*orderv1.Order]{
		"status":    {Column: "o.status", Type: listing.Enum, Values: shortAndLong(orderv1.OrderStatus(0).Descriptor(), "ORDER_STATUS_")},
		"reason":    {Column: "o.reason", Type: listing.Enum, Values: shortAndLong(orderv1.OrderReason(0).Descriptor(), "ORDER_REASON_")},
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

// shortAndLong gives the values of an enum by their names with and without the
// prefix.
func shortAndLong(e protoreflect.EnumDescriptor, prefix string) map[string]any {
	values := listing.EnumValues(e)
	for name, v := range values {
		values[strings.TrimPrefix(name, prefix)] = v
	}
	return values
}
