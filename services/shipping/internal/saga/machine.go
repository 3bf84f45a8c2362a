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
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/shipping"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
)

const (
	// DefaultPatience is how long one answer of the carrier may take.
	DefaultPatience = 10 * time.Second

	// DefaultSweepEvery is how often erased users are looked after.
	DefaultSweepEvery = time.Minute

	// eraseGrace is how long after an erasure a user's last access token may
	// still place orders, with room to spare.
	eraseGrace = time.Hour
)

// Config is what the machine stands on. Carrier, Store and Log are required.
type Config struct {
	Carrier    shipping.Carrier
	Store      *store.Store
	Log        *slog.Logger
	ScanEvery  time.Duration      // how often the carrier is asked where a parcel is; 0 is never
	Patience   time.Duration      // default DefaultPatience
	SweepEvery time.Duration      // default DefaultSweepEvery
	Changed    func(watch.Change) // tells those who watch, without waiting; nil: nobody does
	Meter      metric.Meter       // nil: nothing is counted
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
	if cfg.Changed == nil {
		cfg.Changed = func(watch.Change) {}
	}
	if cfg.Patience <= 0 {
		cfg.Patience = DefaultPatience
	}
	if cfg.SweepEvery <= 0 {
		cfg.SweepEvery = DefaultSweepEvery
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
	react.On(m, about[*orderv1.OrderRejected], func(v *react.View, e *orderv1.OrderRejected) error {
		return h.take(v, e.GetOrderId(), shipping.Input{Message: shipping.OrderRejected})
	})
	react.On(m, about[*orderv1.OrderReturnRequested], func(v *react.View, e *orderv1.OrderReturnRequested) error {
		return h.take(v, e.GetOrderId(), shipping.Input{Message: shipping.ReturnRequested})
	})
	h.eraseUsers(m)

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
	ref := store.Shipments.Ref(orderID)
	if out.Changed {
		h.put(v, next)
	}
	for _, e := range out.Events {
		v.Emit(ref, e)
	}
	for _, c := range out.Calls {
		h.ask(v, next, c)
	}
	if out.Alarm {
		h.alarm(v, s, in.Message)
	}
	return out, nil
}

// alarm calls people, once the step is stored.
func (h *machine) alarm(v *react.View, s shipping.Shipment, m shipping.Message) {
	trace := v.TraceID()
	v.Committed(func() {
		h.alarms.Add(context.Background(), 1, metric.WithAttributes(attribute.String("state", s.State.String()), attribute.String("message", m.String())))
		h.cfg.Log.Error("a message contradicts what is known of a shipment", "order_id", s.OrderID, "shipment_id", s.ID,
			"state", s.State.String(), "message", m.String(), "trace_id", trace)
	})
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

// book asks the carrier to fetch a parcel. An answer that cannot be meant is none.
func (h *machine) book(ctx context.Context, call react.Call, r shipping.Request) (shipping.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Patience)
	defer cancel()
	a, err := h.cfg.Carrier.Book(ctx, call.Key, r, func(ctx context.Context) (*typev1.Address, error) { return h.cfg.Store.Address(ctx, r.OrderID) })
	if err != nil {
		return a, err
	}
	return a, a.Check()
}

func (h *machine) callOff(ctx context.Context, call react.Call, r shipping.Request) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Patience)
	defer cancel()
	return h.cfg.Carrier.CallOff(ctx, call.Key, r)
}

func (h *machine) track(ctx context.Context, _ react.Call, r shipping.Request) ([]*shippingv1.Scan, error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.Patience)
	defer cancel()
	return h.cfg.Carrier.Track(ctx, r)
}

// tracked folds in what the carrier has seen, and asks again later as long as
// the parcel moves.
func (h *machine) tracked(v *react.View, r shipping.Request, scans []*shippingv1.Scan) error {
	for _, scan := range scans {
		message, ok := shipping.OfScan(scan.GetKind())
		if !ok || scan.GetScanId() == "" {
			continue // a kind that a later contract knows, or nothing to tell a repetition by
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
