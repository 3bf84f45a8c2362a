package saga_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/idempotency"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/platform/watch"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/inventory/internal/saga"
	"github.com/waybill-dev/waybill/services/inventory/internal/store"
	"github.com/waybill-dev/waybill/services/inventory/internal/storetest"
)

const patience = 20 * time.Second

// world is the service on a database and an embedded broker, as others see it:
// their events go in, its events come out.
type world struct {
	t        *testing.T
	db       *sqldb.DB
	bus      *bus.Bus
	store    *store.Store
	commands *saga.Commands
	ctx      context.Context // of a member of staff

	mu    sync.Mutex
	now   time.Time
	heard map[string][]proto.Message // by aggregate
	came  chan struct{}              // closed and made anew when something is heard
	moved []watch.Change
}

// each runs body on both databases.
func each(t *testing.T, body func(t *testing.T, w *world)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		w := newWorld(t, open)
		body(t, w)
		w.balance()
	})
}

func newWorld(t *testing.T, open sqldbtest.Opener) *world {
	t.Helper()
	w := &world{
		t: t, db: storetest.Open(open), now: time.Now().UTC().Truncate(time.Second), heard: map[string][]proto.Message{}, came: make(chan struct{}),
		ctx: auth.WithCaller(t.Context(), auth.Caller{UserID: "sam", Role: auth.Staff}),
	}
	w.store = store.New(w.db)
	log := slog.New(slog.DiscardHandler)
	b, err := bus.Open(t.Context(), bustest.Config(t), log)
	if err != nil {
		t.Fatal(err)
	}
	w.bus = b
	t.Cleanup(func() { w.end("bus", b.Close) })
	for _, name := range []string{"order", "payment"} {
		w.must(b.EnsureStream(t.Context(), bus.Stream{Name: outbox.Stream(name), Subjects: []string{"waybill." + name + ".>"}}))
	}
	cfg := saga.Config{HoldTTL: 10 * time.Minute, SweepEvery: 10 * time.Millisecond, Changed: w.changed}
	w.commands = saga.NewCommands(w.run(w.db, cfg), newID, cfg)
	sub, err := b.Consume(t.Context(), bus.Consumer{Stream: outbox.Stream("inventory"), Durable: "test"}, reacttest.Singly(t, w.hear))
	w.must(err)
	t.Cleanup(func() { w.end("listener", sub.Stop) })
	return w
}

// run starts the service on db, which more than one may share.
func (w *world) run(db *sqldb.DB, cfg saga.Config) *react.Reactor {
	w.t.Helper()
	m, err := saga.Machine(store.New(db), cfg)
	w.must(err)
	r, err := react.New(react.Config{Machine: m, DB: db, Bus: w.bus, Log: slog.New(slog.DiscardHandler), Now: w.clock})
	w.must(err)
	w.must(r.Start(w.t.Context()))
	w.t.Cleanup(func() { w.end("reactor", r.Stop) })
	return r
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// end stops something when the test's own context has ended.
func (w *world) end(what string, stop func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := stop(ctx); err != nil {
		w.t.Errorf("stopping the %s: %v", what, err)
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) changed(c watch.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.moved = append(w.moved, c)
}

func (w *world) hear(d *bus.Delivery) {
	e := reacttest.Event(w.t, d)
	if e == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	id := d.Header(outbox.HeaderSubject)
	w.heard[id] = append(w.heard[id], e)
	close(w.came)
	w.came = make(chan struct{})
	_ = d.Ack()
}

// publish puts an event of another service into its stream, as its relay would.
func (w *world) publish(id, aggregate string, e proto.Message) {
	w.t.Helper()
	w.must(w.tryPublish(id, aggregate, e))
}

func (w *world) tryPublish(id, aggregate string, e proto.Message) error {
	typ := string(e.ProtoReflect().Descriptor().FullName())
	data, err := proto.Marshal(e)
	if err != nil {
		return err
	}
	_, err = w.bus.Publish(w.t.Context(), outbox.Stream(outbox.Producer(typ)), bus.Msg{
		ID: newID(), Subject: outbox.Subject(typ, aggregate), Data: data,
		Header: map[string]string{outbox.HeaderID: id, outbox.HeaderType: typ, outbox.HeaderSubject: aggregate, outbox.HeaderHops: "1", outbox.HeaderVersion: "1"},
	})
	return err
}

func placed(order string, lines ...inventory.Line) *orderv1.OrderPlaced {
	e := &orderv1.OrderPlaced{OrderId: order}
	for _, l := range lines {
		e.Lines = append(e.Lines, &orderv1.OrderLine{ProductId: l.ProductID, Quantity: int32(l.Quantity)})
	}
	return e
}

func (w *world) place(order string, lines ...inventory.Line) {
	w.t.Helper()
	w.publish(newID(), order, placed(order, lines...))
}

func (w *world) authorize(order string) {
	w.t.Helper()
	w.publish(newID(), order, &paymentv1.PaymentAuthorized{OrderId: order, PaymentId: newID()})
}

func (w *world) reverse(order string) {
	w.t.Helper()
	w.publish(newID(), order, &paymentv1.PaymentReversed{OrderId: order})
}

// events waits until n events of an aggregate were heard and gives all.
func (w *world) events(aggregate string, n int) []proto.Message {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		got, came := w.heard[aggregate], w.came
		w.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-came:
		case <-deadline:
			w.t.Fatalf("%s: heard %d events, want %d: %v", aggregate, len(got), n, got)
		}
	}
}

// heardAll holds what was heard of an aggregate, in this order, against want.
func (w *world) heardAll(aggregate string, want ...proto.Message) {
	w.t.Helper()
	got := w.events(aggregate, len(want))
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		w.t.Errorf("events of %s (-want +got):\n%s", aggregate, diff)
	}
}

// product adds a product with stock and gives its id.
func (w *world) product(stock int64) string {
	w.t.Helper()
	id := newID()
	p, err := w.commands.Create(w.keyed(id), &inventoryv1.CreateProductRequest{
		RequestId: id, Sku: "SKU-" + id, Name: "Thing", Category: "things", Price: &typev1.Money{MinorUnits: 1250, CurrencyCode: "EUR"}, InitialStock: stock,
	})
	w.must(err)
	return p.GetProductId()
}

// keyed gives a context with an idempotency key, as the chain around the service
// makes it.
func (w *world) keyed(key string) context.Context {
	return idempotency.NewContext(w.ctx, idempotency.Key{Caller: "sam", Method: "/test", Value: key, Fingerprint: []byte(key)})
}

func (w *world) stock(product string) inventory.Stock {
	w.t.Helper()
	items, err := w.store.Items(w.t.Context(), product)
	w.must(err)
	if items[product] == nil {
		w.t.Fatalf("no product %s", product)
	}
	return items[product].Stock
}

// has checks how many there are of a product.
func (w *world) has(product string, onHand, held int64) {
	w.t.Helper()
	if s := w.stock(product); s.OnHand != onHand || s.Held != held {
		w.t.Errorf("%d on hand and %d held, want %d and %d", s.OnHand, s.Held, onHand, held)
	}
}

func (w *world) balance() {
	w.t.Helper()
	bad, err := w.store.Check(w.t.Context())
	w.must(err)
	for _, b := range bad {
		w.t.Error(b)
	}
}

func (w *world) count(query string, args ...any) int64 {
	w.t.Helper()
	var n int64
	w.must(w.db.QueryRow(w.t.Context(), query, args...).Scan(&n))
	return n
}

// eventually waits for what the service brings about without an event.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("never happened: %s", what)
		}
	}
}

func order() string { return newID() }
