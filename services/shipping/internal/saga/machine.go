// Package saga is the shipping service's part in the choreography: which events
// it hears, what it asks of the carrier and which commands it takes. It decides
// nothing itself; shipping.Shipment.On does.
package saga

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/watch"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/shipping"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
)

// Config is what the machine stands on. Publish and Meter may be nil.
type Config struct {
	Carrier   shipping.Carrier
	Store     *store.Store
	ScanEvery time.Duration        // how often the carrier is asked where a parcel is; 0 is never
	Publish   func([]watch.Change) // tells those who watch
	Log       *slog.Logger
	Meter     metric.Meter
}

// machine holds what the steps share; it has no state.
type machine struct {
	cfg    Config
	alarms metric.Int64Counter
}

// The kinds of calls to the carrier.
const (
	bookEffect    = "book"
	callOffEffect = "call_off"
	trackEffect   = "track"
)

// NewMachine gives the machine of the shipping service.
func NewMachine(cfg Config) (*react.Machine, *Commands, error) {
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	if cfg.Publish == nil {
		cfg.Publish = func([]watch.Change) {}
	}
	alarms, err := cfg.Meter.Int64Counter("waybill.shipping.alarms", metric.WithDescription("messages that contradict what is known of a shipment"))
	if err != nil {
		return nil, nil, fmt.Errorf("shipping: %w", err)
	}
	h := &machine{cfg: cfg, alarms: alarms}
	m := react.NewMachine("shipping")

	react.On(m, about[*orderv1.OrderPlaced], func(v *react.View, e *orderv1.OrderPlaced) error {
		return h.take(v, e.GetOrderId(), shipping.Input{Message: shipping.OrderPlaced, UserID: e.GetUserId(), ShipTo: e.GetShipTo()})
	})
	react.On(m, about[*paymentv1.PaymentCaptured], func(v *react.View, e *paymentv1.PaymentCaptured) error {
		return h.take(v, e.GetOrderId(), shipping.Input{Message: shipping.PaymentCaptured})
	})
	react.On(m, about[*orderv1.OrderCancelling], func(v *react.View, e *orderv1.OrderCancelling) error {
		return h.take(v, e.GetOrderId(), shipping.Input{Message: shipping.OrderCancelling})
	})
	react.On(m, about[*orderv1.OrderReturnRequested], func(v *react.View, e *orderv1.OrderReturnRequested) error {
		return h.take(v, e.GetOrderId(), shipping.Input{Message: shipping.ReturnRequested})
	})
	react.On(m, nothing[*userv1.UserErased], func(v *react.View, e *userv1.UserErased) error {
		v.Append(store.Erasures, e.GetUserId(), v.Now())
		return nil
	})
	react.Every(m, react.Sweep{
		Name: "erase addresses", Every: 10 * time.Second, Due: cfg.Store.DueErasures,
		Needs: func(_ *react.View, id string) []react.Ref { return []react.Ref{store.Shipments.Ref(id)} },
		Step: func(v *react.View, id string) error {
			s, ok := store.Shipments.Get(v, id)
			if ok && s.State.Final() {
				s.ShipTo = nil
				store.Shipments.Put(v, id, s)
			}
			return nil
		},
	})

	react.OnEffect(m, bookEffect, h.book, ofRequest, func(v *react.View, r shipping.Request, b shipping.Answer) error {
		if b.Accepted {
			return h.take(v, r.OrderID, shipping.Input{Message: shipping.BookingAccepted, Carrier: b.Carrier, Number: b.Tracking})
		}
		return h.take(v, r.OrderID, shipping.Input{Message: shipping.BookingRefused, Reason: b.Reason})
	})
	react.OnEffect(m, callOffEffect, h.callOff, ofRequest, func(v *react.View, r shipping.Request, done bool) error {
		if done {
			return h.take(v, r.OrderID, shipping.Input{Message: shipping.CallOffDone})
		}
		return h.take(v, r.OrderID, shipping.Input{Message: shipping.CallOffRefused})
	})
	react.OnEffect(m, trackEffect, h.track, ofRequest, h.tracked)
	return m, &Commands{machine: h}, nil
}

// about names the shipment an event is about.
func about[E interface{ GetOrderId() string }](_ *react.View, e E) []react.Ref {
	return []react.Ref{store.Shipments.Ref(e.GetOrderId())}
}

func nothing[E any](*react.View, E) []react.Ref { return nil }

func ofRequest(_ *react.View, r shipping.Request) []react.Ref {
	return []react.Ref{store.Shipments.Ref(r.OrderID)}
}

func (h *machine) take(v *react.View, orderID string, in shipping.Input) error {
	_, err := h.apply(v, orderID, in)
	return err
}

// apply gives one input to the shipment of an order and keeps what comes of it.
func (h *machine) apply(v *react.View, orderID string, in shipping.Input) (shipping.Outcome, error) {
	if orderID == "" {
		return shipping.Outcome{}, errs.E(errs.Invalid, "NO_ORDER", "%s names no order", in.Message)
	}
	s, ok := store.Shipments.Get(v, orderID)
	if !ok {
		s = shipping.Shipment{OrderID: orderID}
	}
	next, out := s.On(in, shipping.Env{Now: v.Now(), NewID: v.NewID})
	if out.Alarm {
		h.alarms.Add(context.Background(), 1, metric.WithAttributes(attribute.String("state", s.State.String()), attribute.String("message", in.Message.String())))
		h.cfg.Log.Error("a message contradicts what is known of a shipment", "order_id", orderID, "state", s.State, "message", in.Message, "trace_id", v.TraceID())
	}
	ref := store.Shipments.Ref(orderID)
	if out.Changed {
		store.Shipments.Put(v, orderID, next)
		if next.ID != "" {
			version := store.Shipments.Version(v, orderID)
			v.Committed(func() { h.cfg.Publish([]watch.Change{{Key: next.ID, Version: version}}) })
		}
	}
	for _, e := range out.Events {
		v.Emit(ref, e)
	}
	for _, c := range out.Calls {
		h.ask(v, next, c)
	}
	return out, nil
}

// ask records a call to the carrier.
func (h *machine) ask(v *react.View, s shipping.Shipment, c shipping.Call) {
	ref := store.Shipments.Ref(s.OrderID)
	r := shipping.Request{OrderID: s.OrderID, ShipmentID: s.ID, Tracking: s.Tracking, BookedAt: s.BookedAt, ReturnAt: s.ReturnAt}
	switch c {
	case shipping.Book:
		r.RegionCode = s.ShipTo.GetRegionCode()
		v.Effect(bookEffect, ref, r, react.Key("book:"+s.ID))
	case shipping.CallOff:
		v.Effect(callOffEffect, ref, r, react.Key("call-off:"+s.ID))
	case shipping.Track:
		if h.cfg.ScanEvery > 0 {
			v.Effect(trackEffect, ref, r, react.After(h.cfg.ScanEvery))
		}
	}
}

func (h *machine) book(ctx context.Context, call react.Call, r shipping.Request) (shipping.Answer, error) {
	return h.cfg.Carrier.Book(ctx, call.Key, r)
}

func (h *machine) callOff(ctx context.Context, call react.Call, r shipping.Request) (bool, error) {
	return h.cfg.Carrier.CallOff(ctx, call.Key, r)
}

func (h *machine) track(ctx context.Context, _ react.Call, r shipping.Request) ([]*shippingv1.Scan, error) {
	return h.cfg.Carrier.Track(ctx, r)
}

// tracked folds in what the carrier has seen, and asks again later as long as
// the parcel moves.
func (h *machine) tracked(v *react.View, r shipping.Request, scans []*shippingv1.Scan) error {
	for _, scan := range scans {
		message, ok := shipping.OfScan(scan.GetKind())
		if !ok {
			continue
		}
		if err := h.take(v, r.OrderID, shipping.Input{Message: message, Scan: scan}); err != nil {
			return err
		}
	}
	s, ok := store.Shipments.Get(v, r.OrderID)
	if ok && !s.State.Final() && s.ReturnAt.Equal(r.ReturnAt) { // a return is followed by a call of its own
		h.ask(v, s, shipping.Track)
	}
	return nil
}
