// Package saga is inventory's part in the choreography: which events it hears,
// which step each one leads to, and what callers may order. It decides nothing
// itself; that is done by the package services/inventory.
package saga

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/watch"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/inventory/internal/store"
)

// Name is the service's name: in streams, subjects and the names of consumers.
const Name = "inventory"

// Config says how the steps behave.
type Config struct {
	HoldTTL    time.Duration // how long stock is held for an order that is not paid
	SweepEvery time.Duration // how often to look for holds whose time is over

	// Changed hears of stock that changed, after the commit. May be nil.
	Changed func(watch.Change)

	Meter metric.Meter // may be nil
}

// Machine gives all that inventory reacts to.
func Machine(s *store.Store, cfg Config) (*react.Machine, error) {
	m := react.NewMachine(Name)
	count, err := counter(cfg.Meter)
	if err != nil {
		return nil, err
	}
	h := &steps{cfg: cfg, wants: newHints(4096), count: count}

	react.On(m, func(_ *react.View, e *orderv1.OrderPlaced) []react.Ref {
		refs := make([]react.Ref, 0, 1+len(e.GetLines()))
		refs = append(refs, store.Holds.Ref(e.GetOrderId()))
		for _, l := range e.GetLines() {
			refs = append(refs, store.Stock.Ref(l.GetProductId()))
		}
		return refs
	}, func(v *react.View, e *orderv1.OrderPlaced) error {
		lines, err := inventory.Merge(e.GetLines())
		if err != nil {
			return err
		}
		return h.decide(v, inventory.Request{OrderID: e.GetOrderId(), Input: inventory.OrderPlaced, Lines: lines, TTL: cfg.HoldTTL})
	})

	react.On(m, func(v *react.View, e *paymentv1.PaymentAuthorized) []react.Ref {
		return h.held(v, e.GetOrderId())
	}, func(v *react.View, e *paymentv1.PaymentAuthorized) error {
		return h.decide(v, inventory.Request{OrderID: e.GetOrderId(), Input: inventory.PaymentAuthorized})
	})

	react.On(m, func(v *react.View, e *paymentv1.PaymentReversed) []react.Ref {
		return h.held(v, e.GetOrderId())
	}, func(v *react.View, e *paymentv1.PaymentReversed) error {
		return h.decide(v, inventory.Request{OrderID: e.GetOrderId(), Input: inventory.PaymentReversed})
	})

	react.Every(m, react.Sweep{
		Name:  "expire holds",
		Every: cfg.SweepEvery,
		Due:   s.DueHolds,
		Needs: h.held,
		Step: func(v *react.View, orderID string) error {
			return h.decide(v, inventory.Request{OrderID: orderID, Input: inventory.Due})
		},
	})
	return m, nil
}

// counter gives a function that counts the states holds come to.
func counter(m metric.Meter) (func(inventory.State), error) {
	if m == nil {
		m = noop.Meter{}
	}
	c, err := m.Int64Counter("waybill.inventory.holds", metric.WithDescription("holds that came to a state"), metric.WithUnit("{hold}"))
	if err != nil {
		return nil, err
	}
	by := map[inventory.State]metric.AddOption{}
	for _, s := range inventory.States() {
		by[s] = metric.WithAttributeSet(attribute.NewSet(attribute.String("state", string(s))))
	}
	return func(s inventory.State) { c.Add(context.Background(), 1, by[s]) }, nil
}

// steps are the steps of holds.
type steps struct {
	cfg   Config
	wants *hints
	count func(inventory.State)
}

// held names a hold and, once it is loaded, the stock of what it holds. If this
// process placed the hold it knows before, and everything is loaded at once.
func (h *steps) held(v *react.View, orderID string) []react.Ref {
	refs := []react.Ref{store.Holds.Ref(orderID)}
	hold, ok := store.Holds.Get(v, orderID)
	if !ok {
		for _, id := range h.wants.get(orderID) {
			refs = append(refs, store.Stock.Ref(id))
		}
		return refs
	}
	if hold.State == inventory.Held || hold.State == inventory.Committed {
		for _, l := range hold.Lines {
			refs = append(refs, store.Stock.Ref(l.ProductID))
		}
	}
	return refs
}

// decide has the decision made and leaves what came of it in v.
func (h *steps) decide(v *react.View, r inventory.Request) error {
	r.Now = v.Now()
	hold, _ := store.Holds.Get(v, r.OrderID)
	d, err := inventory.Decide(hold, r, func(id string) (inventory.Stock, bool) { return store.Stock.Get(v, id) })
	if err != nil {
		return err
	}
	if d.Changed {
		store.Holds.Put(v, r.OrderID, d.Hold)
	}
	for _, s := range d.Stock {
		h.put(v, s.ProductID, s.Stock)
	}
	for _, m := range d.Movements {
		v.Append(store.Movements, store.Movement(m, r.Now)...)
	}
	for _, e := range d.Events {
		v.Emit(store.Holds.Ref(r.OrderID), e)
	}
	if d.Changed {
		v.Committed(func() {
			h.count(d.Hold.State)
			if d.Hold.State == inventory.Held {
				h.wants.put(r.OrderID, d.Hold.Lines)
			}
		})
	}
	return nil
}

// put stores a product's stock and tells those who watch it.
func (h *steps) put(v *react.View, productID string, s inventory.Stock) {
	store.Stock.Put(v, productID, s)
	announce(v, h.cfg.Changed, productID, s)
}

func announce(v *react.View, changed func(watch.Change), productID string, s inventory.Stock) {
	if changed == nil {
		return
	}
	c := watch.Change{Key: productID, Version: store.Stock.Version(v, productID), Data: EncodeChange(s)}
	v.Committed(func() { changed(c) })
}
