package orderd

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order/internal/store"
)

// Page reads up to limit orders with ids after one, by id, with their status and
// total only, for those who hold the books of the services against each other.
func Page(ctx context.Context, db *sqldb.DB, after string, limit int) ([]*orderv1.Order, error) {
	return store.New(db).Page(ctx, after, limit)
}

// Worth reads the same of the given orders, at most 512; what does not exist is absent.
func Worth(ctx context.Context, db *sqldb.DB, ids []string) ([]*orderv1.Order, error) {
	return store.New(db).Worth(ctx, ids)
}
