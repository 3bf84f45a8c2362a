package paymentd

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
)

// Audited is all that payment knows of money.
type Audited = store.Audited

// Posting is one line of the ledger.
type Posting = store.Posting

// Audit reads all payments and the ledger. It is for databases that fit into
// memory, and not one moment.
func Audit(ctx context.Context, db *sqldb.DB) (*Audited, error) { return store.New(db).Audit(ctx) }
