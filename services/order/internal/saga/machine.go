// Package saga is the order service's part in the choreography: what it hears
// (machine.go), what it is asked (commands.go), and the one way in which a step
// is recorded (record.go). It decides nothing itself; package order does.
package saga

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/watch"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/store"
)

const (
	// DefaultSweepEvery is how often deadlines are looked at.
	DefaultSweepEvery = 2 * time.Second

	eraseEvery = time.Minute
	// eraseGrace is how long after an erasure a user's last access token may
	// still place orders, with room to spare.
	eraseGrace = time.Hour
)

// Quoter prices lines, as the inventory service does.
type Quoter interface {
	Quote(ctx context.Context, req *inventoryv1.QuoteRequest) (*inventoryv1.QuoteResponse, error)
}

// Config is what a Saga needs. Log, DB, Store and Quoter are required.
type Config struct {
	Log        *slog.Logger
	DB         *sqldb.DB // holds the events to clean when a user is erased
	Store      *store.Store
	Quoter     Quoter
	Hub        *watch.Hub      // nil: nobody watches
	Meter      metric.Meter    // nil: nothing is counted
	Deadlines  order.Deadlines // default order.DefaultDeadlines
	SweepEvery time.Duration   // default DefaultSweepEvery
}

// Saga is the order service's machine and its commands.
type Saga struct {
	cfg     Config
	machine *react.Machine
	metrics *metrics
	reactor *react.Reactor
}

// New makes a Saga. Give its Machine to react.New and the reactor to Bind before
// the first command.
func New(cfg Config) (*Saga, error) {
	if cfg.Deadlines == (order.Deadlines{}) {
		cfg.Deadlines = order.DefaultDeadlines()
	}
	if err := cfg.Deadlines.Validate(); err != nil {
		return nil, err
	}
	if cfg.SweepEvery <= 0 {
		cfg.SweepEvery = DefaultSweepEvery
	}
	m, err := newMetrics(cfg.Meter)
	if err != nil {
		return nil, err
	}
	s := &Saga{cfg: cfg, machine: react.NewMachine("order"), metrics: m}
	react.Redacting(s.machine, cfg.DB)
	s.hear()
	s.watchClock()
	s.eraseUsers()
	return s, nil
}

// Machine gives what the service reacts to.
func (s *Saga) Machine() *react.Machine { return s.machine }

// Bind says which reactor runs the commands.
func (s *Saga) Bind(r *react.Reactor) { s.reactor = r }

// hear registers every event of the table.
func (s *Saga) hear() {
	on[*inventoryv1.StockHeld](s)
	on[*inventoryv1.StockRejected](s)
	on[*inventoryv1.StockCommitted](s)
	on[*inventoryv1.StockExpired](s)
	on[*inventoryv1.StockReleased](s)
	on[*paymentv1.PaymentAuthorized](s)
	on[*paymentv1.PaymentDeclined](s)
	on[*paymentv1.PaymentUnknown](s)
	on[*paymentv1.PaymentCaptured](s)
	on[*paymentv1.PaymentCaptureFailed](s)
	on[*paymentv1.PaymentRefunded](s)
	on[*paymentv1.PaymentReversed](s)
	on[*shippingv1.ShipmentScheduled](s)
	on[*shippingv1.ShipmentRefused](s)
	on[*shippingv1.ShipmentDispatched](s)
	on[*shippingv1.ShipmentDelivered](s)
	on[*shippingv1.ShipmentLost](s)
	on[*shippingv1.ShipmentCancelled](s)
	on[*shippingv1.ShipmentCancelRefused](s)
	on[*shippingv1.ShipmentReturned](s)
}

// aboutOrder is an event that names its order.
type aboutOrder interface {
	proto.Message
	GetOrderId() string
}

func on[E aboutOrder](s *Saga) {
	react.On(s.machine,
		func(_ *react.View, e E) []react.Ref { return []react.Ref{store.Orders.Ref(e.GetOrderId())} },
		func(v *react.View, e E) error {
			in, ok := order.Read(e)
			if !ok {
				return errs.E(errs.Unimplemented, "UNKNOWN_EVENT", "the order service has no message for %s", e.ProtoReflect().Descriptor().FullName())
			}
			return s.handle(v, e.GetOrderId(), in)
		})
}

// handle applies a message to an order that has to exist: nobody can speak of an
// order before it was placed.
func (s *Saga) handle(v *react.View, id string, in order.Input) error {
	o, ok := store.Orders.Get(v, id)
	if !ok {
		return order.NotFound(id)
	}
	_, err := s.apply(v, id, o, in)
	return err
}

// watchClock registers the sweep over deadlines.
func (s *Saga) watchClock() {
	react.Every(s.machine, react.Sweep{
		Name:  "deadlines",
		Every: s.cfg.SweepEvery,
		Due:   s.cfg.Store.Due,
		Needs: func(_ *react.View, id string) []react.Ref { return []react.Ref{store.Orders.Ref(id)} },
		Step: func(v *react.View, id string) error {
			o, ok := store.Orders.Get(v, id)
			if !ok || o.Deadline.IsZero() || o.Deadline.After(v.Now()) {
				return nil // it moved on meanwhile, or another replica saw it first
			}
			_, err := s.apply(v, id, o, order.Input{Message: order.DeadlinePassed})
			return err
		},
	})
}

// eraseUsers registers what happens when a user is erased. The event only leaves
// a note that it has to be done; sweeps do it, order by order, and for orders that
// still run once they have ended.
func (s *Saga) eraseUsers() {
	react.On(s.machine,
		func(_ *react.View, e *userv1.UserErased) []react.Ref {
			return []react.Ref{store.Erasures.Ref(e.GetUserId())}
		},
		func(v *react.View, e *userv1.UserErased) error {
			if e.GetUserId() == "" {
				return errs.E(errs.Invalid, "MALFORMED_EVENT", "a user without an id was erased")
			}
			store.Erasures.Put(v, e.GetUserId(), store.Erasure{ErasedAt: v.Now(), Open: true})
			return nil
		})
	react.Every(s.machine, react.Sweep{
		Name:  "erase addresses",
		Every: eraseEvery,
		Due: func(ctx context.Context, _ time.Time, limit int) ([]string, error) {
			return s.cfg.Store.ToErase(ctx, limit)
		},
		Needs: bothRefs,
		Step:  s.erase,
	})
	react.Every(s.machine, react.Sweep{
		Name:  "close erasures",
		Every: eraseEvery,
		Due: func(ctx context.Context, now time.Time, limit int) ([]string, error) {
			return s.cfg.Store.Erased(ctx, now.Add(-eraseGrace), limit)
		},
		Needs: func(_ *react.View, id string) []react.Ref { return []react.Ref{store.Erasures.Ref(id)} },
		Step: func(v *react.View, id string) error {
			if e, ok := store.Erasures.Get(v, id); ok && e.Open {
				e.Open = false
				store.Erasures.Put(v, id, e)
			}
			return nil
		},
	})
}

func bothRefs(_ *react.View, id string) []react.Ref {
	return []react.Ref{store.Orders.Ref(id), store.Details.Ref(id)}
}

// erase blanks what is personal in one order.
func (s *Saga) erase(v *react.View, id string) error {
	o, ok := store.Orders.Get(v, id)
	d, has := store.Details.Get(v, id)
	if !ok || !has || d.ShipTo == nil || !order.Terminal(o.Status) {
		return nil
	}
	d.ShipTo = nil
	store.Details.Put(v, id, d)
	react.Redact(v, store.Orders.Ref(id)) // the events about it hold the address too
	_, err := s.apply(v, id, o, order.Input{Message: order.UserErased, Detail: "the address was erased"})
	return err
}
