package contract_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	"github.com/waybill-dev/waybill/services/auth/authd"
	"github.com/waybill-dev/waybill/services/inventory/inventoryd"
	"github.com/waybill-dev/waybill/services/order/orderd"
	"github.com/waybill-dev/waybill/services/payment/paymentd"
	"github.com/waybill-dev/waybill/services/shipping/shippingd"
	"github.com/waybill-dev/waybill/services/user/userd"
)

// A message is one event as its stream holds it.
type message struct {
	Stream  string            `json:"stream"`
	Subject string            `json:"subject"`
	Headers map[string]string `json:"headers"`
	Data    []byte            `json:"data"`
}

// A stage has all services, as they are put together for real, each on a fresh
// database. Their reactors are driven by hand and time stands still but for wait, so
// that the same scenes always go the same way.
//
// With a past, an event that was recorded travels as it was recorded, and not as the
// service that says it now would encode it.
type stage struct {
	t       *testing.T
	now     time.Time
	given   uint64   // ids and traces so far
	wanted  []string // the next ids
	actors  []*actor
	bank    *bank
	carrier *carrier

	travels []message // not delivered yet
	said    []message // all, in the order of their commits
	numbers map[string]int
	past    map[string]message
	used    map[string]bool
}

// An actor is one service.
type actor struct {
	*stage
	name   string
	db     *sqldb.DB
	drive  *react.Driver
	server any
	calls  []*effect.Call
}

// curtain is when every play begins.
var curtain = time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)

func newStage(t *testing.T, past []message) *stage {
	t.Helper()
	s := &stage{t: t, now: curtain, numbers: map[string]int{}, past: map[string]message{}, used: map[string]bool{}}
	s.bank, s.carrier = &bank{}, newCarrier(s)
	for _, m := range past {
		s.past[s.key(m)] = m
	}
	clear(s.numbers)
	open := sqldbtest.SQLite(t)
	for _, name := range []string{"auth", "user", "inventory", "payment", "shipping", "order"} {
		a := &actor{stage: s, name: name}
		s.actors = append(s.actors, a)
		unit, err := a.build(t.Context(), func(_ context.Context, service string) (*sqldb.DB, error) {
			a.db = open(service)
			return a.db, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		unit.Register(a)
	}
	s.sweep() // makes the keys of auth
	return s
}

// build puts the service together as a process does.
func (a *actor) build(ctx context.Context, open func(context.Context, string) (*sqldb.DB, error)) (*app.Unit, error) {
	env := &app.Env{
		Log: slog.New(alarms{a}), OpenDB: open, Now: func() time.Time { return a.now }, NewID: a.newID, Owner: "stage",
		Conn: func(_, to string) grpc.ClientConnInterface { return line{a.stage, to} },
		NewReactor: func(cfg react.Config) (_ *react.Reactor, err error) {
			var r *react.Reactor
			a.drive, r, err = react.NewDriver(cfg, a.committed)
			return r, err
		},
	}
	switch a.name {
	case "auth":
		cfg := authd.DefaultConfig()
		cfg.HashMemory, cfg.HashTime = 64, 1
		return authd.New(ctx, env, cfg)
	case "user":
		return userd.New(ctx, env, userd.DefaultConfig())
	case "inventory":
		cfg := inventoryd.DefaultConfig()
		cfg.HoldTTL = 10 * time.Minute // less than an order may wait for its payment
		return inventoryd.New(ctx, env, cfg)
	case "payment":
		return paymentd.NewWith(ctx, env, paymentd.DefaultConfig(), a.bank)
	case "shipping":
		cfg := shippingd.DefaultConfig()
		cfg.ScanEvery = 20 * time.Second
		return shippingd.NewWith(ctx, env, cfg, a.carrier)
	}
	return orderd.New(ctx, env, orderd.DefaultConfig())
}

// RegisterService implements grpc.ServiceRegistrar.
func (a *actor) RegisterService(_ *grpc.ServiceDesc, impl any) { a.server = impl }

// committed takes what a batch left: its events to the others, its calls to the outside.
func (a *actor) committed(events []*outbox.Event, calls []*effect.Call) {
	for _, e := range events {
		b := e.Message()
		m := message{Stream: outbox.Stream(a.name), Subject: b.Subject, Headers: b.Header, Data: b.Data}
		a.said = append(a.said, m)
		key := a.key(m)
		if recorded, ok := a.past[key]; ok {
			m = recorded
			a.used[key] = true
		}
		a.travels = append(a.travels, m)
	}
	a.calls = append(a.calls, calls...)
}

// key tells which of the events of its aggregate a message is. Whoever signs up gets an
// id by chance, so an account goes by its address until then.
func (s *stage) key(m message) string {
	key := m.Headers[outbox.HeaderType] + " " + m.Headers[outbox.HeaderSubject]
	var e authv1.UserRegistered
	if m.Headers[outbox.HeaderType] == string(e.ProtoReflect().Descriptor().FullName()) && proto.Unmarshal(m.Data, &e) == nil {
		key = m.Headers[outbox.HeaderType] + " " + e.GetEmail()
	}
	s.numbers[key]++
	return fmt.Sprint(key, " ", s.numbers[key])
}

// newID gives a UUID of version 7, the same in every run.
func (s *stage) newID() string {
	if len(s.wanted) > 0 {
		id := s.wanted[0]
		s.wanted = s.wanted[1:]
		return id
	}
	s.given++
	return idOf(fmt.Sprint("id ", s.given), s.now)
}

// idOf gives the UUID of something with a name.
func idOf(name string, at time.Time) string {
	u := sha256.Sum256([]byte(name))
	for i := range 6 {
		u[i] = byte(at.UnixMilli() >> (40 - 8*i))
	}
	u[6], u[8] = 0x70|u[6]&0x0f, 0x80|u[8]&0x3f
	h := hex.EncodeToString(u[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// actor gives the service of a name.
func (s *stage) actor(name string) *actor {
	return s.actors[slices.IndexFunc(s.actors, func(a *actor) bool { return a.name == name })]
}

// do carries out one command of a service in somebody's name.
func (s *stage) do(service, user string, role auth.Role, fn func(ctx context.Context, server any) error) {
	s.t.Helper()
	a := s.actor(service)
	s.given++
	ctx := auth.WithCaller(s.t.Context(), auth.Caller{UserID: user, Role: role})
	ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1: byte(s.given >> 8), 15: byte(s.given)}, SpanID: trace.SpanID{7: 1}, TraceFlags: trace.FlagsSampled,
	}))
	var err error
	a.drive.Command(func() { err = fn(ctx, a.server) })
	a.drive.Run(1)
	if err != nil {
		s.t.Fatalf("%s refuses: %v", service, err)
	}
}

// settle goes on until nothing moves any more: batches, calls that are due, messages.
func (s *stage) settle() {
	for busy := true; busy; {
		busy = false
		for _, a := range s.actors {
			if a.drive.Waiting() > 0 {
				a.drive.Run(1 << 20)
				busy = true
			}
			busy = a.call() || busy
		}
		travels := s.travels
		s.travels = nil
		for _, m := range travels {
			s.deliver(m)
			busy = true
		}
	}
}

// call makes the calls that are due; one that has no answer is made again later.
func (a *actor) call() (busy bool) {
	calls := a.calls
	a.calls = nil
	for _, c := range calls {
		if c.RunAt.After(a.now) {
			a.calls = append(a.calls, c)
			continue
		}
		c.Attempt++
		result, err := a.drive.Perform(a.t.Context(), c)
		if err != nil {
			c.RunAt = a.now.Add(20 * time.Second)
			a.calls = append(a.calls, c)
			continue
		}
		a.drive.Fold(c, result, func(err error) {
			if err != nil {
				a.t.Errorf("%s cannot take the answer to %s: %v", a.name, c.Kind, err)
			}
		})
		busy = true
	}
	return busy
}

// deliver hands a message to all who hear it, who have to handle it at once.
func (s *stage) deliver(m message) {
	for _, a := range s.actors {
		if outbox.Stream(a.name) == m.Stream {
			if _, err := a.db.Exec(s.t.Context(), `DELETE FROM outbox_pending`); err != nil {
				s.t.Fatal(err)
			}
		}
		if !slices.Contains(a.drive.Hears(), m.Headers[outbox.HeaderType]) {
			continue
		}
		msg := bus.Msg{ID: m.Headers[outbox.HeaderID], Subject: m.Subject, Header: m.Headers, Data: m.Data}
		a.drive.Deliver(bus.NewDelivery(msg, m.Stream, 1, 1, s.now, func(how bus.End, _ time.Duration) error {
			if how != bus.Acked {
				s.t.Errorf("%s does not handle %s of %s", a.name, m.Headers[outbox.HeaderType], m.Headers[outbox.HeaderSubject])
			}
			return nil
		}))
		a.drive.Run(1)
	}
}

// wait lets time pass, with all that it brings.
func (s *stage) wait(d time.Duration) {
	s.settle()
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(20 * time.Second)
		s.sweep()
	}
}

func (s *stage) sweep() {
	for _, a := range s.actors {
		for _, sweep := range a.drive.Sweeps() {
			if _, err := a.drive.Due(s.t.Context(), sweep); err != nil {
				s.t.Errorf("%s: %v", sweep.Name, err)
			}
		}
	}
	s.settle()
}

// end delivers what was recorded and is not said any more, for it may still lie in a
// stream, and looks for what could not be handled.
func (s *stage) end(past []message) {
	s.t.Helper()
	clear(s.numbers)
	for _, m := range past {
		if key := s.key(m); !s.used[key] {
			s.t.Logf("is not said any more: %s", key)
			s.deliver(m)
		}
	}
	s.settle()
	for _, a := range s.actors {
		err := sqldb.Each(s.t.Context(), a.db, `SELECT type, aggregate_id, reason, detail FROM dead_letters`, nil, func(row sqldb.Scanner) error {
			var typ, about, reason, detail string
			err := row.Scan(&typ, &about, &reason, &detail)
			s.t.Errorf("a dead letter of %s: %s of %s: %s %s", a.name, typ, about, reason, detail)
			return err
		})
		if err != nil {
			s.t.Error(err)
		}
		for _, c := range a.calls {
			if c.Attempt > 0 {
				s.t.Errorf("%s has no answer to %s of %s", a.name, c.Kind, c.AggregateID)
			}
		}
	}
}

// alarms is a log in which an error fails the test: a service logs one only when
// something happened that must not.
type alarms struct{ a *actor }

// Enabled implements slog.Handler.
func (alarms) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }

// Handle implements slog.Handler.
func (x alarms) Handle(_ context.Context, r slog.Record) error {
	x.a.t.Errorf("%s raises an alarm: %s", x.a.name, r.Message)
	r.Attrs(func(at slog.Attr) bool { x.a.t.Log(at); return true })
	return nil
}

// WithAttrs implements slog.Handler.
func (x alarms) WithAttrs([]slog.Attr) slog.Handler { return x }

// WithGroup implements slog.Handler.
func (x alarms) WithGroup(string) slog.Handler { return x }

// A line is the channel from one service to another.
type line struct {
	s  *stage
	to string
}

// Invoke implements grpc.ClientConnInterface: there is one call between services.
func (l line) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	req, ok := args.(*inventoryv1.QuoteRequest)
	if !ok {
		return fmt.Errorf("nobody calls %s here", method)
	}
	resp, err := l.s.actor(l.to).server.(inventoryv1.InventoryServiceServer).Quote(ctx, req)
	if err == nil {
		proto.Merge(reply.(proto.Message), resp)
	}
	return err
}

// NewStream implements grpc.ClientConnInterface.
func (line) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, fmt.Errorf("there are no streams between services here")
}
