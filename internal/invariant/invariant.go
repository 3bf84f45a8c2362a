// Package invariant says what must be true of the data of all services: of each at
// any time, and between them once an order is over. The simulator, the tests that
// crash and `waybill check` ask the same questions.
package invariant

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/waybill-dev/waybill/platform/sqldb"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/inventory/inventoryd"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/orderd"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/paymentd"
	"github.com/waybill-dev/waybill/services/shipping"
	"github.com/waybill-dev/waybill/services/shipping/shippingd"
)

// A Violation is one thing that is not as it must be.
type Violation struct {
	Rule  string `json:"rule"`            // which invariant, in one or two words
	Order string `json:"order,omitempty"` // the order it is about, if it is about one
	Text  string `json:"text"`
}

// String gives the violation as one line.
func (v Violation) String() string {
	if v.Order == "" {
		return v.Rule + ": " + v.Text
	}
	return v.Rule + ": order " + v.Order + " " + v.Text
}

// Books are the data of the services. They must be read at one moment, or when
// nothing moves.
type Books struct {
	Orders    []*orderd.Audited
	Inventory *inventoryd.Audited
	Payment   *paymentd.Audited
	Shipments map[string]shipping.Shipment
}

// Read reads all books, from the databases by the names of their services.
func Read(ctx context.Context, db func(service string) *sqldb.DB) (*Books, error) {
	b := &Books{}
	var err error
	if b.Orders, err = orderd.Audit(ctx, db("order")); err != nil {
		return nil, fmt.Errorf("order: %w", err)
	}
	if b.Inventory, err = inventoryd.Audit(ctx, db("inventory")); err != nil {
		return nil, fmt.Errorf("inventory: %w", err)
	}
	if b.Payment, err = paymentd.Audit(ctx, db("payment")); err != nil {
		return nil, fmt.Errorf("payment: %w", err)
	}
	if b.Shipments, err = shippingd.Audit(ctx, db("shipping")); err != nil {
		return nil, fmt.Errorf("shipping: %w", err)
	}
	return b, nil
}

// check gathers violations.
type check struct {
	*Books
	found []Violation
}

func (c *check) say(rule, orderID, format string, a ...any) {
	c.found = append(c.found, Violation{rule, orderID, fmt.Sprintf(format, a...)})
}

// Always gives what is wrong although it must be right at every moment, in a fixed
// order.
func (b *Books) Always() []Violation {
	c := &check{Books: b}
	c.waybills()
	c.stock()
	c.money()
	return c.sorted()
}

// Settled gives what is wrong between the services although nothing moves any
// more: every order is over, and its end agrees with the money kept, the stock
// sold and the parcel.
func (b *Books) Settled() []Violation {
	c := &check{Books: b}
	known := map[string]bool{}
	for _, o := range b.Orders {
		known[o.ID] = true
		c.over(o)
	}
	for id := range b.Payment.Payments {
		if !known[id] {
			c.say("orders", id, "is known to payment, but not to order")
		}
	}
	for id := range b.Inventory.Holds {
		if !known[id] {
			c.say("orders", id, "is known to inventory, but not to order")
		}
	}
	return c.sorted()
}

func (c *check) sorted() []Violation {
	slices.SortFunc(c.found, func(a, b Violation) int {
		return cmp.Or(cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Order, b.Order), cmp.Compare(a.Text, b.Text))
	})
	return c.found
}

func (c *check) waybills() {
	for _, o := range c.Orders {
		c.found = append(c.found, Waybill(o.ID, o.Status, o.Version, o.Waybill)...)
	}
}

// Waybill gives what is wrong with the waybill of an order that is in a status and
// was changed version times: every change is on it once, each goes on where the one
// before it ended, and the last says where the order is.
func Waybill(orderID string, s order.Status, version int64, entries []*orderv1.WaybillEntry) []Violation {
	c := &check{}
	if n := int64(len(entries)); n != version {
		c.say("waybill", orderID, "was changed %d times, its waybill has %d entries", version, n)
		return c.found
	}
	from := order.Status(0)
	heard := map[string]bool{}
	for i, e := range entries {
		if id := e.GetEventId(); id != "" && heard[id] {
			c.say("handled twice", orderID, "has event %s (%s) twice on its waybill", id, e.GetEvent())
		}
		heard[e.GetEventId()] = true
		if e.GetSequence() != int64(i)+1 || i > 0 && e.GetFromStatus() != from {
			c.say("waybill", orderID, "has an entry %d out of order: %s from %s", i+1, e.GetEvent(), order.StatusName(e.GetFromStatus()))
		}
		from = e.GetToStatus()
	}
	if from != s {
		c.say("waybill", orderID, "is %s, its waybill ends with %s", order.StatusName(s), order.StatusName(from))
	}
	return c.found
}

// Overdue gives the orders whose deadline had passed at a moment, and nobody saw it.
func (b *Books) Overdue(at time.Time) []Violation {
	c := &check{Books: b}
	for _, o := range b.Orders {
		if !o.Deadline.IsZero() && o.Deadline.Before(at) {
			c.say("overdue", o.ID, "is still %s, which it should have left by %s", order.StatusName(o.Status), o.Deadline.Format(time.TimeOnly))
		}
	}
	return c.sorted()
}

// stock: movements make what is on hand, live holds what is held, and what an order
// took is what its hold says.
func (c *check) stock() {
	moved, live := map[string]int64{}, map[string]int64{}
	type sale struct{ order, product string }
	sold := map[sale]int64{}
	for _, m := range c.Inventory.Movements {
		moved[m.ProductID] += m.Delta
		if m.OrderID != "" {
			sold[sale{m.OrderID, m.ProductID}] -= m.Delta
		}
	}
	for id, h := range c.Inventory.Holds {
		for _, l := range h.Lines {
			if h.State == inventory.Held {
				live[l.ProductID] += l.Quantity
			}
			if h.State == inventory.Committed {
				sold[sale{id, l.ProductID}] -= l.Quantity
			}
		}
	}
	for s, off := range sold {
		if off != 0 {
			c.say("stock", s.order, "took %d more of product %s than its hold says", off, s.product)
		}
	}
	for id, s := range c.Inventory.Stock {
		if s.OnHand != moved[id] {
			c.say("stock", "", "product %s has %d on hand, its movements add up to %d", id, s.OnHand, moved[id])
		}
		if s.Held != live[id] {
			c.say("stock", "", "product %s has %d held, its holds add up to %d", id, s.Held, live[id])
		}
		if s.Held < 0 || s.Held > s.OnHand {
			c.say("oversold", "", "product %s has %d held of %d on hand", id, s.Held, s.OnHand)
		}
	}
}

// account sums one order's postings.
type account struct{ all, clearing, receivable, revenue, owed, captures, taken int64 }

func (c *check) accounts() map[string]*account {
	of := map[string]*account{}
	for _, p := range c.Payment.Postings {
		a := of[p.OrderID]
		if a == nil {
			a = &account{}
			of[p.OrderID] = a
		}
		a.all += p.Amount.Minor
		switch p.Account {
		case payment.Clearing:
			a.clearing += p.Amount.Minor
		case payment.ProviderReceivable:
			a.receivable += p.Amount.Minor
		case payment.Revenue:
			a.revenue -= p.Amount.Minor
			if p.Booking == payment.BookCapture {
				a.captures++
				a.taken -= p.Amount.Minor
			}
		case payment.RefundPayable:
			a.owed -= p.Amount.Minor
		default: // the customer's, which clearing mirrors
		}
	}
	return of
}

// money: the ledger balances, nothing is taken twice, nothing is paid back that was
// not taken, and payments say what the ledger says.
func (c *check) money() {
	accounts := c.accounts()
	for id, a := range accounts {
		p, ok := c.Payment.Payments[id]
		switch {
		case !ok:
			c.say("ledger", id, "has postings but no payment")
			continue
		case a.all != 0:
			c.say("ledger", id, "has postings that add up to %d", a.all)
		case p.Over() && a.clearing != 0:
			c.say("clearing", id, "has a payment that is %s, and %d in clearing", p.State, a.clearing)
		}
		if a.captures > 1 {
			c.say("captured twice", id, "was captured %d times", a.captures)
		}
		if a.revenue < 0 {
			c.say("refunds", id, "was paid back %d more than taken", -a.revenue)
		}
		if a.taken != p.Captured() {
			c.say("ledger", id, "has a payment of %d taken, the ledger says %d", p.Captured(), a.taken)
		}
		if a.owed != 0 && p.State != payment.Refunding {
			c.say("refunds", id, "is owed %d though no refund is under way", a.owed)
		}
	}
	for id, p := range c.Payment.Payments {
		if p.Captured() != 0 && accounts[id] == nil {
			c.say("ledger", id, "has a payment of %d taken that the ledger does not know", p.Captured())
		}
		if p.Refunded() > p.Captured() {
			c.say("refunds", id, "was paid back %d of %d taken", p.Refunded(), p.Captured())
		}
	}
}
