package saga_test

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/paymenttest"
	"github.com/waybill-dev/waybill/services/payment/internal/saga"
	"github.com/waybill-dev/waybill/services/payment/internal/simulator"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
)

const (
	deadline = 30 * time.Second // of a whole test; nothing waits this long unless it is broken
	price    = paymenttest.Price
)

// payments is a running payment service with everything around it played by the
// test.
type payments struct {
	t        *testing.T
	db       *sqldb.DB
	bus      *bus.Bus
	reactor  *react.Reactor
	commands *saga.Commands
	store    *store.Store
	provider *till
	ear      *reacttest.Ear // hears the events of the service
}

// till is the simulator with a book of what was asked, and faults.
type till struct {
	*simulator.Simulator
	mu     sync.Mutex
	book   map[string]payment.Request              // what was really done, by key
	calls  map[string]int                          // how often it was asked, by key
	fault  func(r payment.Request, nth int) string // "", "lost before", "lost after", "refused", "forged"
	unsure bool                                    // queries are not answered
}

func (p *till) Execute(ctx context.Context, r payment.Request) (payment.Answer, error) {
	p.mu.Lock()
	p.calls[r.Key]++
	fault := ""
	if p.fault != nil {
		fault = p.fault(r, p.calls[r.Key])
	}
	if fault != "lost before" && fault != "refused" && simulator.Outcome(r).Verdict == payment.Approved {
		p.book[r.Key] = r
	}
	p.mu.Unlock()
	switch fault {
	case "lost before", "lost after":
		return payment.Answer{}, io.ErrUnexpectedEOF
	case "refused":
		return payment.Answer{Verdict: payment.Refused, OrderID: r.OrderID, Amount: r.Amount, Reason: "try_later"}, nil
	case "forged":
		a := simulator.Outcome(r)
		a.Amount.Minor = -a.Amount.Minor
		return a, nil
	}
	return p.Simulator.Execute(ctx, r)
}

func (p *till) Query(ctx context.Context, r payment.Request) (payment.Answer, error) {
	p.mu.Lock()
	_, done := p.book[r.Key]
	unsure := p.unsure
	p.mu.Unlock()
	a, err := p.Simulator.Query(ctx, r)
	switch {
	case unsure:
		return payment.Answer{}, io.ErrUnexpectedEOF
	case err == nil && a.Verdict == payment.Approved && !done:
		return payment.Answer{Verdict: payment.NeverSeen}, nil
	}
	return a, err
}

// set gives the provider its faults.
func (p *till) set(fault func(r payment.Request, nth int) string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

// charged gives what the provider has of an order: captured less refunded, and
// how many captures there were.
func (p *till) charged(orderID string) (net int64, captures, held int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.book {
		if r.OrderID != orderID {
			continue
		}
		switch r.Operation {
		case payment.Authorize:
			held++
		case payment.Void:
			held--
		case payment.Capture:
			net, captures, held = net+r.Amount.Minor, captures+1, held-1
		case payment.Payback:
			net -= r.Amount.Minor
		}
	}
	return net, captures, held
}

func quickPolicy() payment.Policy {
	return payment.Policy{ProviderTimeout: 20 * time.Millisecond, Margin: time.Second, FirstRetry: time.Millisecond, MaxRetry: 10 * time.Millisecond, GiveUp: time.Hour}
}

func start(t *testing.T, open sqldbtest.Opener, b *bus.Bus, change ...func(*payment.Policy, *react.Config)) *payments {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	h := &payments{
		t: t, bus: b,
		db:       open("payment", sqldbtest.Migration{Name: "platform", FS: react.Migrations()}, sqldbtest.Migration{Name: "payment", FS: store.Migrations()}),
		provider: &till{Simulator: simulator.New(time.Millisecond), book: map[string]payment.Request{}, calls: map[string]int{}},
	}
	h.store = store.New(h.db)
	paymenttest.Streams(t, b)
	policy, cfg := quickPolicy(), react.Config{DB: h.db, Bus: b, Log: slog.New(slog.DiscardHandler)}
	for _, fn := range change {
		fn(&policy, &cfg)
	}
	var err error
	cfg.Machine, h.commands, err = saga.NewMachine(saga.Config{Provider: h.provider, Policy: policy, Log: cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	if h.reactor, err = react.New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := h.reactor.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if err := h.reactor.Stop(stop); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	h.ear = reacttest.Listen(t, b, "payment")
	return h
}

// send publishes an event as the service does that owns it, any number of times.
func (h *payments) send(e proto.Message, times int) {
	h.t.Helper()
	reacttest.Send(h.t, h.bus, e, times)
}

// await gives the n-th event of type E about an order, waiting for it.
func await[E proto.Message](h *payments, orderID string, n int) E {
	h.t.Helper()
	return reacttest.Await[E](h.ear, orderID, n)
}

// until polls the stored payment, where no event tells.
func (h *payments) until(orderID string, good func(store.Versioned) bool) store.Versioned {
	h.t.Helper()
	var p store.Versioned
	reacttest.Until(h.t, "payment of "+orderID+" as it should be", func() bool {
		var err error
		p, err = h.store.OfOrder(h.t.Context(), orderID)
		return err == nil && good(p)
	})
	return p
}

// in waits until the payment of an order is in a state.
func (h *payments) in(orderID string, s payment.State) store.Versioned {
	h.t.Helper()
	return h.until(orderID, func(p store.Versioned) bool { return p.State == s })
}

// balanced fails the test if the books are not.
func (h *payments) balanced() {
	h.t.Helper()
	wrong, err := h.store.Check(h.t.Context())
	if err != nil || len(wrong) > 0 {
		h.t.Errorf("the books: %v %v", wrong, err)
	}
}

// placed is the event of a new order.
func placed(orderID, token string) *orderv1.OrderPlaced {
	return paymenttest.Placed(orderID, "user-of-"+orderID, token)
}

// captured brings a new order to where the money is taken.
func (h *payments) captured(token string) string {
	h.t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	h.send(placed(id, token), 1)
	h.send(paymenttest.Held(id), 1)
	await[*paymentv1.PaymentAuthorized](h, id, 1)
	h.send(paymenttest.Committed(id), 1)
	await[*paymentv1.PaymentCaptured](h, id, 1)
	return id
}

// both runs a test on SQLite and PostgreSQL, with an embedded broker.
func both(t *testing.T, body func(t *testing.T, h *payments), change ...func(*payment.Policy, *react.Config)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		body(t, start(t, open, bustest.Embedded(t).Open(), change...))
	})
}

// lite runs a test on SQLite only, where the database makes no difference.
func lite(t *testing.T, change ...func(*payment.Policy, *react.Config)) *payments {
	return start(t, sqldbtest.SQLite(t), bustest.Embedded(t).Open(), change...)
}
