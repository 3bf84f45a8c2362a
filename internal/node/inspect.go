package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/waybill-dev/waybill/internal/invariant"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/inventory/inventoryd"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/orderd"
	"github.com/waybill-dev/waybill/services/payment/paymentd"
)

const (
	inspectPage    = 500              // orders that are held against the other services at once
	inspectTimeout = 10 * time.Minute // for one statement: some go over everything there is
	inspectAgain   = 5                // times that an order is looked at again that seems wrong, for it may be on its way
	inspectPause   = 200 * time.Millisecond
)

// Findings are what Inspect found.
type Findings struct {
	Orders map[string]int `json:"orders"` // how many there are of each status
	Open   int            `json:"open"`   // of them are not over
	Wrong  []string       `json:"wrong"`  // one line for each thing that does not add up, with its order
}

// Inspect reads the databases of the services that cfg names, which must exist, and
// tells what does not add up: within each, with the events that it said and keeps,
// and between them, where order, payment and inventory must agree about money and
// stock of every order whose saga is over.
// It changes nothing and may run beside serving processes on Postgres; a SQLite file
// belongs to the process that serves from it. It fails when a database cannot be read.
func Inspect(ctx context.Context, cfg Config) (_ *Findings, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dbs := map[string]*sqldb.DB{}
	defer func() {
		for _, db := range dbs {
			err = errors.Join(err, db.Close())
		}
	}()
	for _, name := range cfg.run() {
		if migrations(name) == nil {
			continue // it keeps nothing
		}
		dsn, schema := cfg.database(name)
		db, err := sqldb.Open(ctx, sqldb.Config{URL: dsn, Schema: schema, ReadOnly: true, StatementTimeout: inspectTimeout, MaxConns: 2})
		if err != nil {
			return nil, fmt.Errorf("open the database of %s: %w", name, err)
		}
		dbs[name] = db
	}
	if len(dbs) == 0 {
		return nil, errs.E(errs.Invalid, "NOTHING_TO_CHECK", "--services names no service that keeps anything")
	}
	f := &Findings{Orders: map[string]int{}, Wrong: []string{}}
	for name, db := range dbs {
		wrong, err := books(ctx, name, db)
		if err != nil {
			return nil, fmt.Errorf("check the books of %s: %w", name, err)
		}
		for _, w := range wrong {
			f.Wrong = append(f.Wrong, name+": "+w)
		}
	}
	slices.Sort(f.Wrong)
	if dbs["order"] == nil {
		return f, nil
	}
	if err := f.compare(ctx, dbs); err != nil {
		return nil, fmt.Errorf("hold the services against each other: %w", err)
	}
	return f, nil
}

// books tells what does not add up within a service.
func books(ctx context.Context, name string, db *sqldb.DB) ([]string, error) {
	missing, err := outbox.Check(ctx, db, time.Now())
	if err != nil {
		return nil, err
	}
	var wrong []string
	switch name {
	case "order":
		wrong, err = orderd.Check(ctx, db)
	case "payment":
		wrong, err = paymentd.Check(ctx, db)
	case "inventory":
		wrong, err = inventoryd.Check(ctx, db)
	}
	return append(wrong, missing...), err
}

// compare goes through all orders.
func (f *Findings) compare(ctx context.Context, dbs map[string]*sqldb.DB) error {
	for after := ""; ; {
		orders, err := orderd.Page(ctx, dbs["order"], after, inspectPage)
		if err != nil {
			return err
		}
		if len(orders) == 0 {
			break
		}
		after = orders[len(orders)-1].GetOrderId()
		for _, o := range orders {
			f.Orders[order.StatusName(o.GetStatus())]++
			if !order.Terminal(o.GetStatus()) {
				f.Open++
			}
		}
		if err := f.settle(ctx, dbs, orders); err != nil {
			return err
		}
	}
	if dbs["payment"] == nil {
		return nil
	}
	return f.strangers(ctx, dbs)
}

// settle compares some orders, and again those that seem wrong: what is read here
// was not read at one moment.
func (f *Findings) settle(ctx context.Context, dbs map[string]*sqldb.DB, orders []*orderv1.Order) error {
	for round := 0; ; round++ {
		wrong, again, err := disagreements(ctx, dbs, orders)
		if err != nil {
			return err
		}
		if len(wrong) == 0 || round == inspectAgain {
			f.Wrong = append(f.Wrong, wrong...)
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(inspectPause):
		}
		if orders, err = orderd.Worth(ctx, dbs["order"], again); err != nil {
			return err
		}
	}
}

// disagreements gives a line for each thing on which the services do not agree, and
// the orders these are about.
func disagreements(ctx context.Context, dbs map[string]*sqldb.DB, orders []*orderv1.Order) (wrong, about []string, err error) {
	ids := make([]string, len(orders))
	for i, o := range orders {
		ids[i] = o.GetOrderId()
	}
	var money map[string]paymentd.Money
	var holds map[string]inventory.State
	if db := dbs["payment"]; db != nil {
		if money, err = paymentd.ReadMoney(ctx, db, ids); err != nil {
			return nil, nil, err
		}
	}
	if db := dbs["inventory"]; db != nil {
		if holds, err = inventoryd.HoldStates(ctx, db, ids); err != nil {
			return nil, nil, err
		}
	}
	for _, o := range orders {
		var lines []string
		if money != nil {
			m, total := money[o.GetOrderId()], o.GetTotal()
			if text := invariant.Money(o.GetStatus(), total.GetMinorUnits(), m.Taken, m.Kept); text != "" {
				lines = append(lines, text)
			}
			if m.Taken != 0 && m.Currency != total.GetCurrencyCode() {
				lines = append(lines, fmt.Sprintf("it was paid in %s and costs %s", m.Currency, total.GetCurrencyCode()))
			}
		}
		if holds != nil {
			if text := invariant.Stock(o.GetStatus(), holds[o.GetOrderId()]); text != "" {
				lines = append(lines, text)
			}
		}
		if len(lines) > 0 {
			about = append(about, o.GetOrderId())
		}
		for _, l := range lines {
			wrong = append(wrong, fmt.Sprintf("order %s is %s, but %s", o.GetOrderId(), order.StatusName(o.GetStatus()), l))
		}
	}
	return wrong, about, nil
}

// strangers looks for payments of orders that do not exist.
func (f *Findings) strangers(ctx context.Context, dbs map[string]*sqldb.DB) error {
	for after := ""; ; {
		ids, err := paymentd.Orders(ctx, dbs["payment"], after, inspectPage)
		if err != nil || len(ids) == 0 {
			return err
		}
		after = ids[len(ids)-1]
		known, err := orderd.Worth(ctx, dbs["order"], ids)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if !slices.ContainsFunc(known, func(o *orderv1.Order) bool { return o.GetOrderId() == id }) {
				f.Wrong = append(f.Wrong, fmt.Sprintf("order %s is known to payment, but not to order", id))
			}
		}
	}
}
