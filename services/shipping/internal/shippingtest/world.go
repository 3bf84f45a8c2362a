// Package shippingtest runs the whole shipping service for tests: on a real
// database and a real broker, behind the real chain of interceptors, with a
// carrier that fails on demand and a clock that tests move.
package shippingtest

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/auth/authtest"
	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/shipping"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
	"github.com/waybill-dev/waybill/services/shipping/shippingd"
)

// World is the shipping service and what is around it.
type World struct {
	T         testing.TB
	DB        *sqldb.DB // as the service uses it
	Bus       *bus.Bus
	Ear       *reacttest.Ear // hears what the service tells
	Carrier   *Carrier
	Shipments shippingv1.ShippingServiceClient
	Store     *store.Store

	open   sqldbtest.Opener
	server *rpc.Server
	unit   *app.Unit

	mu    sync.Mutex
	ahead time.Duration
}

// Each runs body on a new World on each database.
func Each(t *testing.T, body func(t *testing.T, w *World), change ...func(*shippingd.Config)) {
	t.Helper()
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) { body(t, New(t, open, change...)) })
}

// New starts the service; it is stopped when the test ends. Its carrier never
// scans by itself.
func New(t testing.TB, open sqldbtest.Opener, change ...func(*shippingd.Config)) *World {
	t.Helper()
	w := &World{T: t, Bus: bustest.Embedded(t).Open(), open: open}
	w.Carrier = NewCarrier(w.Now)
	reacttest.Streams(t, w.Bus, "order", "payment", "user")
	w.Start(change...)
	w.Ear = reacttest.Listen(t, w.Bus, "shipping")
	return w
}

// Start starts the service again after Stop, on what it had stored.
func (w *World) Start(change ...func(*shippingd.Config)) {
	w.T.Helper()
	cfg := shippingd.DefaultConfig()
	cfg.ScanEvery, cfg.SweepEvery, cfg.CarrierTimeout = 0, 5*time.Millisecond, time.Minute
	for _, c := range change {
		c(&cfg)
	}
	server, err := rpc.NewServer(rpc.Config{}, rpc.Deps{Log: slog.New(slog.DiscardHandler), Verifier: authtest.Verifier{}})
	w.fatal(err)
	unit, err := shippingd.NewWith(w.T.Context(), &app.Env{
		Log: slog.New(slog.DiscardHandler),
		Bus: w.Bus,
		Now: w.Now,
		OpenDB: func(_ context.Context, service string) (*sqldb.DB, error) {
			w.DB = w.open(service)
			return w.DB, nil
		},
		Conn: func(from, to string) grpc.ClientConnInterface {
			w.T.Errorf("%s calls %s", from, to)
			return nil
		},
	}, cfg, w.Carrier)
	w.fatal(err)
	unit.Register(server)
	w.fatal(server.Build())
	w.fatal(unit.Start(w.T.Context()))
	w.server, w.unit, w.Store = server, unit, store.New(w.DB)
	w.Shipments = shippingv1.NewShippingServiceClient(server.Conn())
	w.T.Cleanup(w.Stop) // before the database just opened is closed
}

// Stop stops the service. It may be called twice.
func (w *World) Stop() {
	if w.unit == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), reacttest.Patience)
	defer cancel()
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

// Now is the clock of the service and of the carrier.
func (w *World) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.ahead)
}

// Advance moves the clock.
func (w *World) Advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ahead += d
}

// Say publishes events as their services would, one after the other.
func (w *World) Say(events ...proto.Message) {
	w.T.Helper()
	for _, e := range events {
		reacttest.Send(w.T, w.Bus, e, 1)
	}
}

// NewOrder gives an order's id.
func NewOrder() string { return uuid.Must(uuid.NewV7()).String() }

// Placed gives the event of a new order that goes to a country.
func Placed(orderID, user, region string) *orderv1.OrderPlaced {
	return &orderv1.OrderPlaced{OrderId: orderID, UserId: user, PlacedAt: timestamppb.Now(), ShipTo: Address(region)}
}

// Address gives an address in a country.
func Address(region string) *typev1.Address {
	return &typev1.Address{Recipient: "Ada", Lines: []string{"Weg 1"}, Locality: "Kiel", PostalCode: "24103", RegionCode: region}
}

// Paid gives the event that an order is paid.
func Paid(orderID string) *paymentv1.PaymentCaptured {
	return &paymentv1.PaymentCaptured{OrderId: orderID}
}

// Undo gives the event that an order is to be undone.
func Undo(orderID string) *orderv1.OrderCancelling { return &orderv1.OrderCancelling{OrderId: orderID} }

// Back gives the event that a customer sends the parcel back.
func Back(orderID string) *orderv1.OrderReturnRequested {
	return &orderv1.OrderReturnRequested{OrderId: orderID}
}

// Order places and pays an order.
func (w *World) Order(user, region string) string {
	w.T.Helper()
	id := NewOrder()
	w.Say(Placed(id, user, region), Paid(id))
	return id
}

// Scheduled places and pays an order and waits until a carrier is booked.
func (w *World) Scheduled(user string) *shippingv1.ShipmentScheduled {
	w.T.Helper()
	return reacttest.Await[*shippingv1.ShipmentScheduled](w.Ear, w.Order(user, "DE"), 1)
}

// Scan gives the report of a scan that happens now.
func (w *World) Scan(tracking string, kind shippingv1.ScanKind) *shippingv1.ReportScansRequest {
	return &shippingv1.ReportScansRequest{
		ScanId: uuid.NewString(), TrackingNumber: tracking, Kind: kind, ScanTime: timestamppb.New(w.Now()), Location: "Kiel",
	}
}

// Report reports scans as staff.
func (w *World) Report(scans ...*shippingv1.ReportScansRequest) *shippingv1.ReportScansResponse {
	w.T.Helper()
	resp, err := w.ReportAs("staff", scans...)
	w.fatal(err)
	return resp
}

// ReportAs reports scans as somebody.
func (w *World) ReportAs(user string, scans ...*shippingv1.ReportScansRequest) (*shippingv1.ReportScansResponse, error) {
	ctx, cancel := context.WithTimeout(authtest.As(w.T.Context(), user), reacttest.Patience)
	defer cancel()
	stream, err := w.Shipments.ReportScans(ctx)
	if err != nil {
		return nil, err
	}
	for _, scan := range scans {
		if stream.Send(scan) != nil {
			break // the stream has ended; CloseAndRecv says why
		}
	}
	return stream.CloseAndRecv()
}

// Scanned reports a scan of each kind, and fails the test if one is not accepted.
func (w *World) Scanned(tracking string, kinds ...shippingv1.ScanKind) {
	w.T.Helper()
	for _, kind := range kinds {
		if resp := w.Report(w.Scan(tracking, kind)); resp.GetAcceptedCount() != 1 {
			w.T.Fatalf("a scan %s was not accepted: %v", kind, resp)
		}
	}
}

// Row reads the shipment of an order; false if there is none.
func (w *World) Row(orderID string) (store.Stored, bool) {
	w.T.Helper()
	s, err := w.Store.OfOrder(w.T.Context(), orderID)
	if errors.Is(err, sqldb.ErrNoRows) {
		return s, false
	}
	w.fatal(err)
	return s, true
}

// In waits until the shipment of an order is in a state.
func (w *World) In(orderID string, state shipping.State) store.Stored {
	w.T.Helper()
	var s store.Stored
	reacttest.Until(w.T, "the shipment of "+orderID+" is "+state.String(), func() bool {
		s, _ = w.Row(orderID)
		return s.State == state
	})
	return s
}
