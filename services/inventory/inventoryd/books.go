package inventoryd

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/inventory/internal/store"
)

// HoldStates reads the states of the holds of orders, at most 512; those that
// inventory has not heard of are absent.
func HoldStates(ctx context.Context, db *sqldb.DB, orderIDs []string) (map[string]inventory.State, error) {
	return store.New(db).HoldStates(ctx, orderIDs)
}
