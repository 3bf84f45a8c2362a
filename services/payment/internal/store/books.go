package store

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/payment"
)

// Money is what was taken for an order and what is left of it after refunds, also
// those that are under way, in minor units.
type Money struct {
	Taken, Kept int64
	Currency    string
}

// Money reads from the ledger what was taken for the orders; those for which
// nothing ever was are absent.
func (s *Store) Money(ctx context.Context, orderIDs []string) (map[string]Money, error) {
	found := make(map[string]Money, len(orderIDs))
	if len(orderIDs) == 0 {
		return found, nil
	}
	marks, in := sqldb.In(orderIDs)
	args := append([]any{int64(payment.BookCapture), int64(payment.Revenue)}, in...)
	err := sqldb.Each(ctx, s.db, `SELECT order_id, currency, CAST(-sum(amount) AS bigint), CAST(-sum(CASE WHEN booking = ? THEN amount ELSE 0 END) AS bigint)
 FROM postings WHERE account = ? AND order_id IN (`+marks+`) GROUP BY order_id, currency`, args, func(row sqldb.Scanner) error {
		var id string
		var m Money
		err := row.Scan(&id, &m.Currency, &m.Kept, &m.Taken)
		found[id] = m
		return err
	})
	return found, err
}

// Orders gives up to limit orders with ids after one that payment has heard of, by id.
func (s *Store) Orders(ctx context.Context, after string, limit int) ([]string, error) {
	return sqldb.All(ctx, s.db, `SELECT id FROM payments WHERE id > ? ORDER BY id LIMIT ?`, []any{after, limit}, sqldb.Only[string])
}
