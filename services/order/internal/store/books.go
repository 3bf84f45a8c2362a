package store

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// Page gives up to limit orders with ids after one, by id: what each is worth and
// how far it has come, and no more.
func (s *Store) Page(ctx context.Context, after string, limit int) ([]*orderv1.Order, error) {
	return sqldb.All(ctx, s.db, `SELECT o.id, o.status, d.total_minor, d.total_currency
 FROM orders o JOIN order_details d ON d.id = o.id WHERE o.id > ? ORDER BY o.id LIMIT ?`, []any{after, limit}, scanWorth)
}

// Worth gives what Page does, of these orders.
func (s *Store) Worth(ctx context.Context, ids []string) ([]*orderv1.Order, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	marks, args := sqldb.In(ids)
	return sqldb.All(ctx, s.db, `SELECT o.id, o.status, d.total_minor, d.total_currency
 FROM orders o JOIN order_details d ON d.id = o.id WHERE o.id IN (`+marks+`) ORDER BY o.id`, args, scanWorth)
}

func scanWorth(row sqldb.Scanner) (*orderv1.Order, error) {
	o := &orderv1.Order{Total: &typev1.Money{}}
	var status int64
	err := row.Scan(&o.OrderId, &status, &o.Total.MinorUnits, &o.Total.CurrencyCode)
	o.Status = orderv1.OrderStatus(status)
	return o, err
}
