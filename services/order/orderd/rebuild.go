package orderd

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/rebuild"
)

// Report is what Rebuild found and did.
type Report = rebuild.Report

// Sources lists the services from whose events orders are made, its own first.
func Sources() []string { return []string{"order", "inventory", "payment", "shipping"} }

// Rebuild folds every order anew from its events and puts the rows that GetOrder and
// ListOrders show in place of those that differ; with check it only finds them. dbs
// are the databases of the Sources, by name; all but that of order are only read.
//
// Nothing but rows of orders and order_details is ever written, and none that
// changed meanwhile, so it may run beside the services; nor are those of orders
// whose waybill and events contradict each other. It fails when a database cannot be
// read or written; the report tells what it had done by then.
func Rebuild(ctx context.Context, dbs map[string]*sqldb.DB, cfg Config, check bool) (*Report, error) {
	return rebuild.Run(ctx, rebuild.Config{DBs: dbs, Deadlines: order.Deadlines(cfg.Deadline), Check: check})
}
