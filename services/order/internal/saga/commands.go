package saga

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/react"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/store"
)

// Who is the caller of a command.
type Who struct {
	UserID string
	Staff  bool // may touch everybody's orders
}

// Create places an order of who at the prices of this moment. Under the
// idempotency key of ctx it places one order, however often it is called.
func (s *Saga) Create(ctx context.Context, who Who, req *orderv1.CreateOrderRequest) (*orderv1.Order, error) {
	wanted, err := order.Wanted(req)
	if err != nil {
		return nil, err // of the request alone: it was never answered otherwise
	}
	details, refused := s.price(ctx, req, wanted)
	if refused != nil && ctx.Err() != nil {
		return nil, refused
	}
	details.UserID = who.UserID
	id := ""
	return react.Do(ctx, s.reactor,
		func(v *react.View) []react.Ref {
			if refused != nil {
				return nil
			}
			if id == "" {
				id = v.NewID()
			}
			return bothRefs(v, id)
		},
		func(v *react.View) (*orderv1.Order, error) {
			// Here, not before: a call that is repeated gets the first answer, even
			// if the price has changed since or inventory is away.
			if refused != nil {
				return nil, refused
			}
			return s.place(v, id, details, req.GetPaymentToken(), req.GetRequestId())
		})
}

func (s *Saga) price(ctx context.Context, req *orderv1.CreateOrderRequest, wanted *inventoryv1.QuoteRequest) (order.Details, error) {
	quote, err := s.cfg.Quoter.Quote(ctx, wanted)
	if err != nil {
		return order.Details{}, err
	}
	return order.Price(req, wanted, quote)
}

func (s *Saga) place(v *react.View, id string, d order.Details, paymentToken, requestID string) (*orderv1.Order, error) {
	d.CreatedAt = v.Now()
	o := s.cfg.Deadlines.New(v.Now())
	store.Details.Put(v, id, d)
	entry := order.PlacedEntry(d, requestID)
	if err := s.record(v, id, o, []proto.Message{order.PlacedEvent(id, d, paymentToken, v.Now())}, entry); err != nil {
		return nil, err
	}
	v.Committed(func() { s.metrics.placed.Add(context.Background(), 1) })
	return d.Fill(o.Proto(id, store.Orders.Version(v, id))), nil
}

// Cancel asks for an order to be undone. An order that is being undone, or was, is
// given back as it is.
func (s *Saga) Cancel(ctx context.Context, who Who, req *orderv1.CancelOrderRequest) (*orderv1.Order, error) {
	return s.wish(ctx, who, order.CancelRequested, req)
}

// Return announces that a parcel is sent back. An order that is being returned, or
// was, is given back as it is.
func (s *Saga) Return(ctx context.Context, who Who, req *orderv1.ReturnOrderRequest) (*orderv1.Order, error) {
	return s.wish(ctx, who, order.ReturnRequested, req)
}

// Retry asks again for what an order that is being undone or returned waits for,
// without waiting for its deadline.
func (s *Saga) Retry(ctx context.Context, who Who, req *orderv1.RetryOrderRequest) (*orderv1.Order, error) {
	id := req.GetOrderId()
	return react.Do(ctx, s.reactor,
		func(v *react.View) []react.Ref { return bothRefs(v, id) },
		func(v *react.View) (*orderv1.Order, error) {
			o, ok := store.Orders.Get(v, id)
			d, has := store.Details.Get(v, id)
			if !ok || !has {
				return nil, order.NotFound(id)
			}
			if err := order.CheckRetry(o); err != nil {
				return nil, err
			}
			o, err := s.apply(v, id, o, order.Input{Message: order.DeadlinePassed, Request: req.GetRequestId()})
			if err != nil {
				return nil, err
			}
			v.Committed(func() { s.cfg.Log.Info("an order was retried", "order_id", id, "user_id", who.UserID) })
			return d.Fill(o.Proto(id, store.Orders.Version(v, id))), nil
		})
}

type wish interface {
	GetRequestId() string
	GetOrderId() string
	GetReason() string
	GetEtag() string
}

func (s *Saga) wish(ctx context.Context, who Who, m order.Message, req wish) (*orderv1.Order, error) {
	if err := order.CheckWords("reason", req.GetReason()); err != nil {
		return nil, err
	}
	id := req.GetOrderId()
	return react.Do(ctx, s.reactor,
		func(v *react.View) []react.Ref { return bothRefs(v, id) },
		func(v *react.View) (*orderv1.Order, error) {
			o, ok := store.Orders.Get(v, id)
			d, has := store.Details.Get(v, id)
			if !ok || !has || (!who.Staff && d.UserID != who.UserID) {
				return nil, order.NotFound(id)
			}
			if err := order.CheckEtag(req.GetEtag(), store.Orders.Version(v, id)); err != nil {
				return nil, err
			}
			o, err := s.apply(v, id, o, order.Wish(m, who.Staff, req.GetReason(), req.GetRequestId()))
			if err != nil {
				return nil, err
			}
			if who.Staff { // people must be able to tell who of the shop it was
				v.Committed(func() {
					s.cfg.Log.Info("the shop asked for an order's end", "order_id", id, "message", m.String(), "user_id", who.UserID)
				})
			}
			return d.Fill(o.Proto(id, store.Orders.Version(v, id))), nil
		})
}
