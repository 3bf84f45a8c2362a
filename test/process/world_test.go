package process_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/internal/rest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// settings gives the environment of a server with an administrator.
func settings(t *testing.T, extra ...string) []string {
	t.Helper()
	return environment(t.TempDir(), append([]string{"WAYBILL_ADMIN_EMAIL=" + adminEmail, "WAYBILL_ADMIN_PASSWORD=" + adminPassword}, extra...)...)
}

// dial connects to a server's gRPC interface until the test ends.
func (s *server) dial() *grpc.ClientConn {
	s.t.Helper()
	conn, err := rpc.Dial("static:///"+s.grpc, rpc.DialConfig{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// people are those in whose names a test acts. Their tokens outlive the server.
type people struct {
	admin    string // access tokens
	customer string
	products []*inventoryv1.Product
}

// open logs the administrator in, puts products on the shelves and signs a
// customer up.
func (s *server) open() *people {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	conn := s.dial()
	auth := authv1.NewAuthServiceClient(conn)
	in, err := auth.LogIn(ctx, &authv1.LogInRequest{Email: adminEmail, Password: adminPassword})
	if err != nil {
		s.t.Fatal(err)
	}
	p := &people{admin: in.GetTokens().GetAccessToken()}
	up, err := auth.SignUp(ctx, &authv1.SignUpRequest{Email: uuid.NewString() + "@example.com", Password: uuid.NewString(), DisplayName: "Ann Lee"})
	if err != nil {
		s.t.Fatal(err)
	}
	p.customer = up.GetTokens().GetAccessToken()
	stream, err := inventoryv1.NewInventoryServiceClient(conn).ImportProducts(as(ctx, p.admin))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range 10 {
		if err := stream.Send(&inventoryv1.ImportProductsRequest{
			LineNumber: int32(i + 2), Sku: fmt.Sprintf("TEST-%d", i), Name: fmt.Sprintf("Thing %d", i),
			Price: &typev1.Money{MinorUnits: int64(1000 + i), CurrencyCode: "EUR"}, InitialStock: 100_000,
		}); err != nil {
			break // CloseAndRecv says why
		}
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		s.t.Fatal(err)
	}
	page, err := inventoryv1.NewInventoryServiceClient(conn).ListProducts(ctx, &inventoryv1.ListProductsRequest{PageSize: 100})
	if err != nil {
		s.t.Fatal(err)
	}
	p.products = page.GetProducts()
	return p
}

// as gives a context for calls in somebody's name.
func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// fates are the ways in which test orders end, so that every part of the saga is
// under way when something breaks.
var fates = []struct{ token, region string }{
	{"tok_ok", "NO"}, {"tok_ok", "NO"}, {"tok_declined", "NO"}, {"tok_ok", "NO"}, {"tok_capture_fails", "NO"}, {"tok_ok", "AQ"},
}

// request makes the n-th order. The same key is the same order.
func (p *people) request(n int, key string) *orderv1.CreateOrderRequest {
	fate := fates[n%len(fates)]
	return &orderv1.CreateOrderRequest{
		RequestId: key, PaymentToken: fate.token,
		Lines:  []*orderv1.CreateOrderLine{{ProductId: p.products[n%len(p.products)].GetProductId(), Quantity: int32(1 + n%3)}},
		ShipTo: &typev1.Address{Recipient: "Ann Lee", Lines: []string{"12 Harbour Street"}, Locality: "Bergen", PostalCode: "5003", RegionCode: fate.region},
	}
}

// place places an order over gRPC.
func (s *server) place(conn grpc.ClientConnInterface, p *people, n int, key string) (*orderv1.Order, error) {
	ctx, cancel := context.WithTimeout(as(s.t.Context(), p.customer), patience)
	defer cancel()
	o, err := orderv1.NewOrderServiceClient(conn).CreateOrder(ctx, p.request(n, key))
	return o, rpc.FromStatus(err)
}

// placeREST places an order over REST.
func (s *server) placeREST(p *people, n int, key string) (*orderv1.Order, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	req := p.request(n, "")
	o := &orderv1.Order{}
	c := rest.Client{Base: s.rest, Token: p.customer, HTTP: http.DefaultClient}
	return o, c.Do(ctx, http.MethodPost, "/v1/orders", key, req, o)
}

// awaitOver waits until the sagas of all these orders are over, on as few streams
// as may follow so many.
func (s *server) awaitOver(p *people, orders []string, within time.Duration) {
	s.t.Helper()
	if most := 10_000; len(orders) > most {
		s.awaitOver(p, orders[most:], within)
		orders = orders[:most]
	}
	ctx, cancel := context.WithTimeout(as(s.t.Context(), p.admin), within)
	defer cancel()
	stream, err := orderv1.NewOrderServiceClient(s.dial()).WatchOrders(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	for some := range slices.Chunk(orders, 500) {
		add := &orderv1.WatchOrdersRequest{Command: &orderv1.WatchOrdersRequest_Add{Add: &orderv1.AddOrders{OrderIds: some, OnlySagaOver: true}}}
		if err := stream.Send(add); err != nil {
			s.t.Fatal(err)
		}
	}
	left := map[string]bool{}
	for _, id := range orders {
		left[id] = true
	}
	for len(left) > 0 {
		msg, err := stream.Recv()
		if err != nil {
			for id := range left {
				o, getErr := orderv1.NewOrderServiceClient(s.dial()).GetOrder(as(s.t.Context(), p.admin), &orderv1.GetOrderRequest{OrderId: id})
				s.t.Logf("order %s: %s since %s (%v)", id, o.GetStatus(), o.GetUpdateTime().AsTime(), getErr)
			}
			s.t.Fatalf("%d of %d orders are not over: %v", len(left), len(orders), err)
		}
		if msg.GetError() != nil {
			s.t.Fatalf("order %s: %v", msg.GetOrderId(), msg.GetError())
		}
		if msg.GetOrder().GetSagaOver() {
			delete(left, msg.GetOrderId())
		}
	}
}

// balance holds the books of a stopped server against each other.
func balance(t *testing.T, db []string, data string) {
	t.Helper()
	cfg := node.DefaultConfig()
	cfg.DB, cfg.Data = db, data
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.AdminAddr = "", "", ""
	cfg.Services = []string{"inventory", "payment"}
	cfg.NATS = "nats://127.0.0.1:1" // nothing is to be published
	if len(db) == 0 {
		if _, err := filepath.Glob(filepath.Join(data, "*.db")); err != nil {
			t.Fatal(err)
		}
	}
	n, err := node.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close(context.WithoutCancel(t.Context()))
	wrong, err := n.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range wrong {
		t.Error(w)
	}
}

// unsure tells whether an error leaves open if the order was placed, or says that
// it may be placed later: nothing else may happen to a good order.
func unsure(err error) bool {
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.DeadlineExceeded, errs.Canceled, errs.Aborted:
		return true
	default:
		return false
	}
}
