package store

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/sqldb"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order"
)

// overdue is how long after its deadline an order is stuck: the sweep that acts on
// deadlines should have come by.
const overdue = 15 * time.Second

// Stuck reads one page of the orders that wait for longer than they should, and the
// token of the next, "" on the last page. Errors about the query are Invalid.
func (s *Store) Stuck(ctx context.Context, now time.Time, q listing.Query) ([]*orderv1.StuckOrder, string, error) {
	page, err := stuckList.Parse(q)
	if err != nil {
		return nil, "", err
	}
	rows, err := sqldb.All(ctx, s.db, `SELECT id, status, deadline_at, reminders, updated_at FROM orders
 WHERE timed AND (reminders > 0 OR deadline_at <= ?) AND `+page.SQL, append([]any{now.Add(-overdue)}, page.Args...), scanStuck)
	if err != nil {
		return nil, "", err
	}
	rows, next := stuckList.Cut(page, rows)
	for _, o := range rows {
		entries, err := s.Entries(ctx, o.GetOrderId(), 0)
		if err != nil {
			return nil, "", err
		}
		o.WaitsFor, o.What = order.WaitsFor(o.GetStatus(), entries)
	}
	return rows, next, nil
}

func scanStuck(row sqldb.Scanner) (*orderv1.StuckOrder, error) {
	o := &orderv1.StuckOrder{}
	var status int64
	var deadline, updated time.Time
	err := row.Scan(&o.OrderId, &status, &deadline, &o.Reminders, &updated)
	o.Status, o.Deadline, o.UpdateTime = order.Status(status), timestamppb.New(deadline), timestamppb.New(updated)
	return o, err
}

var stuckList = listing.New(listing.Spec[*orderv1.StuckOrder]{
	Name: "stuck_orders",
	Fields: map[string]listing.Field[*orderv1.StuckOrder]{
		"update_time": {Column: "updated_at", Type: listing.Time, Sort: func(o *orderv1.StuckOrder) any { return o.GetUpdateTime().AsTime() }},
	},
	Order: "update_time",
	Key:   "id",
	KeyOf: (*orderv1.StuckOrder).GetOrderId,
})
