package inventoryd

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/inventory/internal/store"
)

// Audited is all that inventory knows of stock.
type Audited = store.Audited

// Audit reads the stock of all products. It is for databases that fit into
// memory, and not one moment.
func Audit(ctx context.Context, db *sqldb.DB) (*Audited, error) { return store.New(db).Audit(ctx) }
