package store

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/sqldb"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order"
)

// Audited is an order with all there is about it.
type Audited struct {
	ID      string
	Version int64
	order.Order
	Details order.Details
	Waybill []*orderv1.WaybillEntry // oldest first
}

// Audit reads all orders, by id. It is for databases that fit into memory.
func (s *Store) Audit(ctx context.Context) ([]*Audited, error) {
	byID := map[string]*Audited{}
	all, err := sqldb.All(ctx, s.db, `SELECT o.id, o.version, o.status, o.reason, o.words, o.shipment, o.payment_id, o.shipment_id, o.tracking_number,
 o.timed, o.deadline_at, o.reminders, o.saga_over_at, o.updated_at FROM orders o ORDER BY o.id`, nil, func(row sqldb.Scanner) (*Audited, error) {
		a := &Audited{}
		var o orderColumns
		err := row.Scan(append([]any{&a.ID, &a.Version}, o.dest()...)...)
		a.Order = o.order()
		byID[a.ID] = a
		return a, err
	})
	if err != nil {
		return nil, err
	}
	err = sqldb.Each(ctx, s.db, `SELECT id, user_id, created_at, total_minor, total_currency, lines, ship_to FROM order_details`, nil, func(row sqldb.Scanner) error {
		var id string
		var d detailsColumns
		if err := row.Scan(append([]any{&id}, d.dest()...)...); err != nil {
			return err
		}
		if byID[id] == nil {
			return nil // placed since
		}
		var err error
		byID[id].Details, err = d.details()
		return err
	})
	if err != nil {
		return nil, err
	}
	return all, sqldb.Each(ctx, s.db, `SELECT order_id, entry FROM waybill_entries ORDER BY order_id, sequence`, nil, func(row sqldb.Scanner) error {
		var id string
		var data []byte
		if err := row.Scan(&id, &data); err != nil || byID[id] == nil {
			return err
		}
		e := &orderv1.WaybillEntry{}
		byID[id].Waybill = append(byID[id].Waybill, e)
		return proto.Unmarshal(data, e)
	})
}
