package orderd

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/order/internal/store"
)

// Audited is an order with all there is about it.
type Audited = store.Audited

// Audit reads all orders, by id. It is for databases that fit into memory, and
// not one moment: order and waybill of one that changes meanwhile may differ.
func Audit(ctx context.Context, db *sqldb.DB) ([]*Audited, error) { return store.New(db).Audit(ctx) }
