package paymentd

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
)

// Money is what was taken for an order and what is left of it after refunds, also
// those that are under way, in minor units.
type Money = store.Money

// ReadMoney reads from the ledger what was taken for the orders, at most 512;
// those for which nothing ever was are absent.
func ReadMoney(ctx context.Context, db *sqldb.DB, orderIDs []string) (map[string]Money, error) {
	return store.New(db).Money(ctx, orderIDs)
}

// Orders reads up to limit ids of orders that payment has heard of, after one.
func Orders(ctx context.Context, db *sqldb.DB, after string, limit int) ([]string, error) {
	return store.New(db).Orders(ctx, after, limit)
}
