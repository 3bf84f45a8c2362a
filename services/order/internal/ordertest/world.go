// Package ordertest runs the whole order service for tests: on a real database
// and a real broker, behind the real chain of interceptors, with hand-made
// neighbours and a clock that tests move.
package ordertest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/auth/authtest"
	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/orderd"
)

// World is the order service and what is around it.
type World struct {
	T      testing.TB
	DB     *sqldb.DB // as the service uses it
	Bus    *bus.Bus
	Orders orderv1.OrderServiceClient
	Quotes *Quotes
	Keep   func(*outbox.Event) // gets what Say publishes, if set

	open   sqldbtest.Opener
	server *rpc.Server
	unit   *app.Unit

	mu    sync.Mutex
	ahead time.Duration
}

// Each runs body on a new World on each database.
func Each(t *testing.T, body func(t *testing.T, w *World)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) { body(t, New(t, open)) })
}

// New starts the service; it is stopped when the test ends.
func New(t testing.TB, open sqldbtest.Opener, change ...func(*orderd.Config)) *World {
	t.Helper()
	w := &World{T: t, Bus: bustest.Embedded(t).Open(), Quotes: &Quotes{price: 250}, open: open}
	w.Start(change...)
	return w
}

// Start starts the service again after Stop, on what it had stored.
func (w *World) Start(change ...func(*orderd.Config)) {
	w.T.Helper()
	cfg := orderd.DefaultConfig()
	cfg.SweepEvery = 5 * time.Millisecond
	for _, c := range change {
		c(&cfg)
	}
	server, err := rpc.NewServer(rpc.Config{}, rpc.Deps{Log: slog.New(slog.DiscardHandler), Verifier: authtest.Verifier{}})
	w.fatal(err)
	inventoryv1.RegisterInventoryServiceServer(server, w.Quotes)
	unit, err := orderd.New(w.T.Context(), &app.Env{
		Log: slog.New(slog.DiscardHandler),
		Bus: w.Bus,
		Now: w.Now,
		OpenDB: func(_ context.Context, service string) (*sqldb.DB, error) {
			w.DB = w.open(service)
			return w.DB, nil
		},
		Conn: func(from, to string) grpc.ClientConnInterface {
			if from != "order" || to != "inventory" {
				w.T.Errorf("%s calls %s", from, to)
			}
			return server.ConnAs(from)
		},
	}, cfg)
	w.fatal(err)
	unit.Register(server)
	w.fatal(server.Build())
	w.fatal(unit.Start(w.T.Context()))
	w.server, w.unit = server, unit
	w.Orders = orderv1.NewOrderServiceClient(server.Conn())
	w.T.Cleanup(w.Stop) // before the database just opened is closed
}

// Replica starts a second process of the service, on the same database and
// broker. Its own clients are in Orders. It needs a database that more than one
// process may open.
func (w *World) Replica(change ...func(*orderd.Config)) *World {
	w.T.Helper()
	r := &World{T: w.T, Bus: w.Bus, Quotes: w.Quotes, open: w.open}
	r.Start(change...)
	return r
}

// Dial serves gRPC on a port of the loopback interface and gives a client that
// speaks to it.
func (w *World) Dial() orderv1.OrderServiceClient {
	w.T.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	w.fatal(err)
	go func() { _ = w.server.Serve(lis) }()
	conn, err := rpc.Dial("static:///"+lis.Addr().String(), rpc.DialConfig{})
	w.fatal(err)
	w.T.Cleanup(func() { _ = conn.Close() })
	return orderv1.NewOrderServiceClient(conn)
}

// Stop holds the waybills against the orders and stops the service. It may be
// called twice.
func (w *World) Stop() {
	if w.unit == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), reacttest.Patience)
	defer cancel()
	wrong, err := orderd.Check(ctx, w.DB)
	if err != nil || len(wrong) > 0 {
		w.T.Errorf("the waybills: %v, %v", wrong, err)
	}
	if err := errors.Join(w.server.Stop(ctx), w.unit.Stop(ctx)); err != nil {
		w.T.Errorf("stopping: %v", err)
	}
	w.unit = nil
}

func (w *World) fatal(err error) {
	w.T.Helper()
	if err != nil {
		w.T.Fatal(err)
	}
}

// Now is the service's clock.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

// Advance moves the service's clock.
func (w *World) Advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead += d
}

// Eventually waits for something that happens by itself.
func (w *World) Eventually(what string, ok func() bool) {
	w.T.Helper()
	reacttest.Until(w.T, what, ok)
}

// Request gives a request for an order with lines of the products.
func Request(products ...string) *orderv1.CreateOrderRequest {
	if len(products) == 0 {
		products = []string{uuid.NewString()}
	}
	req := &orderv1.CreateOrderRequest{
		RequestId:    uuid.NewString(),
		PaymentToken: "tok_ok",
		ShipTo:       &typev1.Address{Recipient: "Ada", Lines: []string{"Weg 1"}, Locality: "Kiel", PostalCode: "24103", RegionCode: "DE"},
	}
	for _, p := range products {
		req.Lines = append(req.Lines, &orderv1.CreateOrderLine{ProductId: p, Quantity: 2})
	}
	return req
}

// Place places an order of a customer.
func (w *World) Place(user string) *orderv1.Order {
	w.T.Helper()
	o, err := w.Orders.CreateOrder(authtest.As(w.T.Context(), user), Request())
	w.fatal(err)
	return o
}

// Say publishes events as their services would, one after the other.
func (w *World) Say(events ...proto.Message) {
	w.T.Helper()
	for _, e := range events {
		w.SayAs(uuid.NewString(), e)
	}
}

// SayAs publishes an event under an id of its own.
func (w *World) SayAs(id string, e proto.Message) {
	w.T.Helper()
	data, err := proto.Marshal(e)
	w.fatal(err)
	event := &outbox.Event{
		ID: id, Type: string(e.ProtoReflect().Descriptor().FullName()), AggregateID: aggregate(e), Cause: "cause-of-" + id,
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Payload: data, Time: w.Now().UTC().Truncate(time.Microsecond),
	}
	if w.Keep != nil {
		w.Keep(event)
	}
	producer := outbox.Producer(event.Type)
	w.fatal(w.Bus.EnsureStream(w.T.Context(), bus.Stream{Name: outbox.Stream(producer), Subjects: []string{"waybill." + producer + ".>"}}))
	msg := event.Message()
	msg.ID = uuid.NewString() // the broker is not to notice what comes twice
	_, err = w.Bus.Publish(w.T.Context(), outbox.Stream(producer), msg)
	w.fatal(err)
}

func aggregate(e proto.Message) string {
	if m, ok := e.(interface{ GetOrderId() string }); ok {
		return m.GetOrderId()
	}
	return e.(interface{ GetUserId() string }).GetUserId()
}

// Get reads an order as staff.
func (w *World) Get(id string) *orderv1.Order {
	w.T.Helper()
	o, err := w.Orders.GetOrder(authtest.As(w.T.Context(), "staff"), &orderv1.GetOrderRequest{OrderId: id})
	w.fatal(err)
	return o
}

// Await waits until an order has a status.
func (w *World) Await(id string, s order.Status) *orderv1.Order {
	w.T.Helper()
	var o *orderv1.Order
	w.Eventually("order "+id+" is "+order.StatusName(s), func() bool {
		o = w.Get(id)
		return o.GetStatus() == s
	})
	return o
}

// AwaitVersion waits until an order was changed so often.
func (w *World) AwaitVersion(id string, version int64) *orderv1.Order {
	w.T.Helper()
	var o *orderv1.Order
	w.Eventually("order "+id+" reaches its version", func() bool {
		o = w.Get(id)
		return o.GetVersion() >= version
	})
	return o
}

// Waybill reads a waybill as staff and checks that it has no gaps.
func (w *World) Waybill(id string) []*orderv1.WaybillEntry {
	w.T.Helper()
	bill, err := w.Orders.GetWaybill(authtest.As(w.T.Context(), "staff"), &orderv1.GetWaybillRequest{OrderId: id})
	w.fatal(err)
	for i, e := range bill.GetEntries() {
		if e.GetSequence() != int64(i+1) {
			w.T.Errorf("entry %d of the waybill has sequence %d", i+1, e.GetSequence())
		}
	}
	return bill.GetEntries()
}

// Events gives the names of the events the service emitted about an order.
func (w *World) Events(id string) []string {
	w.T.Helper()
	rows, err := w.DB.Query(w.T.Context(), "SELECT type FROM outbox WHERE aggregate_id = ? ORDER BY seq", id)
	w.fatal(err)
	defer rows.Close()
	var names []string
	for rows.Next() {
		var typ string
		w.fatal(rows.Scan(&typ))
		names = append(names, typ[strings.LastIndexByte(typ, '.')+1:])
	}
	w.fatal(rows.Err())
	return names
}

// Emitted reads an emitted event of a type into e and tells whether there is one.
func (w *World) Emitted(id string, e proto.Message) bool {
	w.T.Helper()
	var data []byte
	err := w.DB.QueryRow(w.T.Context(), "SELECT payload FROM outbox WHERE aggregate_id = ? AND type = ? ORDER BY seq",
		id, string(e.ProtoReflect().Descriptor().FullName())).Scan(&data)
	if errors.Is(err, sqldb.ErrNoRows) {
		return false
	}
	w.fatal(err)
	w.fatal(proto.Unmarshal(data, e))
	return true
}

// Count runs a query that gives one number.
func (w *World) Count(query string, args ...any) int64 {
	w.T.Helper()
	var n int64
	w.fatal(w.DB.QueryRow(w.T.Context(), query, args...).Scan(&n))
	return n
}

// Quotes is an inventory that only quotes: everything is for sale at one price.
type Quotes struct {
	inventoryv1.UnimplementedInventoryServiceServer

	mu      sync.Mutex
	price   int64
	missing string
	away    bool
	asked   int
}

// SetPrice changes the price of everything.
func (q *Quotes) SetPrice(minor int64) { q.mu.Lock(); defer q.mu.Unlock(); q.price = minor }

// Withdraw takes a product out of sale.
func (q *Quotes) Withdraw(product string) { q.mu.Lock(); defer q.mu.Unlock(); q.missing = product }

// SetAway makes inventory unreachable or reachable.
func (q *Quotes) SetAway(away bool) { q.mu.Lock(); defer q.mu.Unlock(); q.away = away }

// Asked gives how many quotes were asked for.
func (q *Quotes) Asked() int { q.mu.Lock(); defer q.mu.Unlock(); return q.asked }

// Quote implements inventoryv1.InventoryServiceServer.
func (q *Quotes) Quote(_ context.Context, req *inventoryv1.QuoteRequest) (*inventoryv1.QuoteResponse, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked++
	if q.away {
		return nil, errs.E(errs.Unavailable, "AWAY", "inventory is away")
	}
	resp := &inventoryv1.QuoteResponse{Available: true}
	for _, l := range req.GetLines() {
		p := &inventoryv1.PricedLine{ProductId: l.GetProductId(), Quantity: l.GetQuantity()}
		if l.GetProductId() != q.missing {
			p.ForSale, p.Available, p.Sku, p.Name = true, true, "SKU", "Thing"
			p.UnitPrice = &typev1.Money{MinorUnits: q.price, CurrencyCode: "EUR"}
		}
		resp.Lines = append(resp.Lines, p)
	}
	return resp, nil
}
