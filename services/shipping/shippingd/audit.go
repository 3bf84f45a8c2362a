package shippingd

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/shipping"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
)

// Audit reads all shipments, by order. It is for databases that fit into memory.
func Audit(ctx context.Context, db *sqldb.DB) (map[string]shipping.Shipment, error) {
	return store.New(db).Audit(ctx)
}
