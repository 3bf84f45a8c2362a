// Package saga is the payment service's part in the choreography: which events it
// hears, what it asks of the provider and which commands it takes. It decides
// nothing itself; payment.Payment.On does.
package saga

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
)

// Config is what the machine stands on. Meter may be nil.
type Config struct {
	Provider payment.Provider
	Policy   payment.Policy
	Log      *slog.Logger
	Meter    metric.Meter
}

// machine holds what the steps share; it has no state.
type machine struct {
	cfg    Config
	alarms metric.Int64Counter
}

// NewMachine gives the machine of the payment service.
func NewMachine(cfg Config) (*react.Machine, *Commands, error) {
	if cfg.Meter == nil {
		cfg.Meter = noop.Meter{}
	}
	alarms, err := cfg.Meter.Int64Counter("waybill.payment.alarms", metric.WithDescription("payments that people must look at"))
	if err != nil {
		return nil, nil, fmt.Errorf("payment: %w", err)
	}
	h := &machine{cfg: cfg, alarms: alarms}
	m := react.NewMachine("payment")

	react.On(m, about[*orderv1.OrderPlaced], func(v *react.View, e *orderv1.OrderPlaced) error {
		return h.take(v, e.GetOrderId(), payment.Input{
			Message: payment.OrderPlaced, UserID: e.GetUserId(), Token: e.GetPaymentToken(),
			Total:    payment.Money{Minor: e.GetTotal().GetMinorUnits(), Currency: e.GetTotal().GetCurrencyCode()},
			PlacedAt: e.GetPlacedAt().AsTime(),
		})
	})
	react.On(m, about[*orderv1.OrderRejected], func(v *react.View, e *orderv1.OrderRejected) error {
		return h.take(v, e.GetOrderId(), payment.Input{Message: payment.OrderRejected})
	})
	react.On(m, about[*inventoryv1.StockHeld], func(v *react.View, e *inventoryv1.StockHeld) error {
		in := payment.Input{Message: payment.StockHeld}
		if e.GetExpiresAt() != nil {
			in.ExpiresAt = e.GetExpiresAt().AsTime()
		}
		return h.take(v, e.GetOrderId(), in)
	})
	react.On(m, about[*inventoryv1.StockCommitted], func(v *react.View, e *inventoryv1.StockCommitted) error {
		return h.take(v, e.GetOrderId(), payment.Input{Message: payment.StockCommitted})
	})
	react.On(m, about[*shippingv1.ShipmentCancelled], func(v *react.View, e *shippingv1.ShipmentCancelled) error {
		return h.take(v, e.GetOrderId(), payment.Input{Message: payment.CancelRequested})
	})
	react.On(m, about[*shippingv1.ShipmentReturned], func(v *react.View, e *shippingv1.ShipmentReturned) error {
		return h.take(v, e.GetOrderId(), payment.Input{Message: payment.ReturnRequested})
	})

	for _, op := range []payment.Operation{payment.Authorize, payment.Capture, payment.Void, payment.Payback} {
		react.OnEffect(m, effectOf(op), h.execute, ofRequest, h.fold)
	}
	react.OnEffect(m, queryEffect, h.query, ofRequest, h.fold)
	return m, &Commands{machine: h}, nil
}

// about names the payment an event is about.
func about[E interface{ GetOrderId() string }](_ *react.View, e E) []react.Ref {
	return []react.Ref{store.Payments.Ref(e.GetOrderId())}
}

func ofRequest(_ *react.View, r payment.Request) []react.Ref {
	return []react.Ref{store.Payments.Ref(r.OrderID)}
}

const queryEffect = "query"

func effectOf(op payment.Operation) string {
	switch op {
	case payment.Authorize:
		return "authorize"
	case payment.Capture:
		return "capture"
	case payment.Void:
		return "void"
	}
	return "refund"
}

// take gives one input to the payment of an order and keeps what comes of it.
func (h *machine) take(v *react.View, orderID string, in payment.Input) error {
	_, err := h.apply(v, orderID, in)
	return err
}

func (h *machine) apply(v *react.View, orderID string, in payment.Input) (payment.Payment, error) {
	if orderID == "" {
		return payment.Payment{}, errs.E(errs.Invalid, "NO_ORDER", "%s names no order", in.Message)
	}
	p, ok := store.Payments.Get(v, orderID)
	if !ok {
		p = payment.Payment{OrderID: orderID}
	}
	next, out, err := p.On(in, payment.Env{Now: v.Now(), NewID: v.NewID, Policy: h.cfg.Policy})
	if err != nil {
		return p, err
	}
	ref := store.Payments.Ref(orderID)
	if out.Changed {
		store.Payments.Put(v, orderID, next)
	}
	for _, e := range out.Entries {
		for _, row := range store.PostingRows(orderID, next.Amount.Currency, e, v.Now()) {
			v.Append(store.Postings, row...)
		}
	}
	for _, e := range out.Events {
		v.Emit(ref, e)
	}
	for _, c := range out.Calls {
		kind, key := effectOf(c.Request.Operation), c.Request.IdempotencyKey()
		if c.Query {
			kind = queryEffect
		}
		v.Effect(kind, ref, c.Request, react.Key(key), react.After(c.After))
	}
	if out.Alarm != "" {
		h.alarm(v, next, in.Message, out.Alarm)
	}
	return next, nil
}

// alarm calls people, once it is stored.
func (h *machine) alarm(v *react.View, p payment.Payment, m payment.Message, what string) {
	trace := v.TraceID()
	v.Committed(func() {
		h.alarms.Add(context.Background(), 1, metric.WithAttributes(attribute.String("state", p.State.String())))
		h.cfg.Log.Error("payment needs people", "order_id", p.OrderID, "payment_id", p.ID, "state", p.State.String(), "message", m.String(), "what", what, "trace_id", trace)
	})
}

// execute asks the provider for an operation. Whatever goes wrong, the outcome
// is unknown; only when this process is stopping the call is left to the next.
func (h *machine) execute(ctx context.Context, call react.Call, r payment.Request) (payment.Answer, error) {
	return h.ask(ctx, call, r, h.cfg.Provider.Execute)
}

// query asks the provider what became of an operation.
func (h *machine) query(ctx context.Context, call react.Call, r payment.Request) (payment.Answer, error) {
	return h.ask(ctx, call, r, h.cfg.Provider.Query)
}

func (h *machine) ask(ctx context.Context, call react.Call, r payment.Request, do func(context.Context, payment.Request) (payment.Answer, error)) (payment.Answer, error) {
	r.Key = call.Key
	limited, cancel := context.WithTimeout(ctx, h.cfg.Policy.ProviderTimeout)
	defer cancel()
	a, err := do(limited, r)
	if ctx.Err() != nil {
		return payment.Answer{}, ctx.Err()
	}
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, context.DeadlineExceeded) {
			level = slog.LevelDebug // counted by its event; a slow provider must not flood the log
		}
		h.cfg.Log.Log(ctx, level, "the provider gave no answer", "operation", effectOf(r.Operation), "order_id", r.OrderID, "attempt", call.Attempt, "error", err)
		return payment.Answer{}, nil
	}
	a, wrong := payment.Check(r, a)
	if wrong != "" {
		h.cfg.Log.Error("the provider's answer does not fit the request and is not trusted", "operation", effectOf(r.Operation), "order_id", r.OrderID, "wrong", wrong)
	}
	return a, nil
}

// fold takes the provider's answer.
func (h *machine) fold(v *react.View, r payment.Request, a payment.Answer) error {
	return h.take(v, r.OrderID, payment.Outcome(r, a))
}
