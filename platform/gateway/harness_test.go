package gateway

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/rpc"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// stub is a server of three services that remembers what reached it.
type stub struct {
	orderv1.UnimplementedOrderServiceServer
	inventoryv1.UnimplementedInventoryServiceServer
	paymentv1.UnimplementedPaymentServiceServer

	err   error // what every unary call answers, if it is set
	watch func(*orderv1.WatchOrderRequest, grpc.ServerStreamingServer[orderv1.WatchOrderResponse]) error
	slow  bool   // unary calls wait for their deadline
	block func() // called by every unary call
	ip    func(context.Context)

	mu       sync.Mutex
	requests []proto.Message
	metadata []metadata.MD
}

// seen keeps a request and gives what is to be answered.
func (s *stub) seen(ctx context.Context, in proto.Message) error {
	md, _ := metadata.FromIncomingContext(ctx)
	s.mu.Lock()
	s.requests, s.metadata = append(s.requests, proto.Clone(in)), append(s.metadata, md.Copy())
	s.mu.Unlock()
	if s.ip != nil {
		s.ip(ctx)
	}
	if s.block != nil {
		s.block()
	}
	if s.slow {
		<-ctx.Done()
		return rpc.Status(ctx.Err(), "").Err()
	}
	if s.err != nil {
		return rpc.Status(s.err, "").Err()
	}
	return nil
}

// reached gives the requests so far and forgets them.
func (s *stub) reached() ([]proto.Message, []metadata.MD) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, m := s.requests, s.metadata
	s.requests, s.metadata = nil, nil
	return r, m
}

func (s *stub) CreateOrder(ctx context.Context, in *orderv1.CreateOrderRequest) (*orderv1.Order, error) {
	return &orderv1.Order{OrderId: orderID, Total: &typev1.Money{CurrencyCode: "EUR"}}, s.seen(ctx, in)
}

func (s *stub) GetOrder(ctx context.Context, in *orderv1.GetOrderRequest) (*orderv1.Order, error) {
	_ = grpc.SetHeader(ctx, metadata.Pairs("etag", "v1", "x-internal", "secret"))
	return &orderv1.Order{OrderId: in.GetOrderId()}, s.seen(ctx, in)
}

func (s *stub) ListOrders(ctx context.Context, in *orderv1.ListOrdersRequest) (*orderv1.ListOrdersResponse, error) {
	return &orderv1.ListOrdersResponse{}, s.seen(ctx, in)
}

func (s *stub) CancelOrder(ctx context.Context, in *orderv1.CancelOrderRequest) (*orderv1.Order, error) {
	return &orderv1.Order{OrderId: in.GetOrderId()}, s.seen(ctx, in)
}

func (s *stub) WatchOrder(in *orderv1.WatchOrderRequest, out grpc.ServerStreamingServer[orderv1.WatchOrderResponse]) error {
	return s.watch(in, out)
}

func (s *stub) GetProduct(ctx context.Context, in *inventoryv1.GetProductRequest) (*inventoryv1.Product, error) {
	return product(in.GetProductId()), s.seen(ctx, in)
}

func (s *stub) UpdateProduct(ctx context.Context, in *inventoryv1.UpdateProductRequest) (*inventoryv1.Product, error) {
	return product(in.GetProductId()), s.seen(ctx, in)
}

func (s *stub) AdjustStock(ctx context.Context, in *inventoryv1.AdjustStockRequest) (*inventoryv1.Stock, error) {
	return &inventoryv1.Stock{}, s.seen(ctx, in)
}

func (s *stub) BatchGetStock(ctx context.Context, in *inventoryv1.BatchGetStockRequest) (*inventoryv1.BatchGetStockResponse, error) {
	return &inventoryv1.BatchGetStockResponse{}, s.seen(ctx, in)
}

func (s *stub) HandleProviderWebhook(ctx context.Context, in *paymentv1.HandleProviderWebhookRequest) (*paymentv1.HandleProviderWebhookResponse, error) {
	return &paymentv1.HandleProviderWebhookResponse{}, s.seen(ctx, in)
}

const (
	orderID   = "0197a1f0-0000-7000-8000-000000000001"
	productID = "0197a1f0-0000-7000-8000-000000000002"
)

func product(id string) *inventoryv1.Product {
	return &inventoryv1.Product{ProductId: id, Sku: "SKU-1", Name: "A chair", Price: &typev1.Money{CurrencyCode: "EUR", MinorUnits: 4900}}
}

// register adds the stub to a server.
func (s *stub) register(r grpc.ServiceRegistrar) {
	orderv1.RegisterOrderServiceServer(r, s)
	inventoryv1.RegisterInventoryServiceServer(r, s)
	paymentv1.RegisterPaymentServiceServer(r, s)
}

// inProcess gives a channel to the stub in this process.
func (s *stub) inProcess(testing.TB) grpc.ClientConnInterface {
	ch := &inprocgrpc.Channel{}
	s.register(ch)
	return ch
}

// overTCP gives a channel to the stub over the network.
func (s *stub) overTCP(t testing.TB) grpc.ClientConnInterface {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	s.register(srv)
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(lis) })
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(); srv.Stop(); wg.Wait() })
	return conn
}

// services offers the stub as REST over a channel.
func services(conn grpc.ClientConnInterface) []Service {
	return []Service{{"waybill.order.v1.OrderService", conn}, {"waybill.inventory.v1.InventoryService", conn}, {"waybill.payment.v1.PaymentService", conn}}
}

// world is a gateway behind a real HTTP server, before a stub.
type world struct {
	*stub
	gateway *Gateway
	server  *http.Server
	url     string
	addr    string
	client  *http.Client
}

// newWorld starts one; change may alter the configuration of gateway and server.
func newWorld(t testing.TB, connect func(*stub, testing.TB) grpc.ClientConnInterface, change func(*Config, *ServerConfig)) *world {
	t.Helper()
	w := &world{stub: &stub{}}
	cfg, scfg := Config{Services: services(connect(w.stub, t))}, ServerConfig{}
	if change != nil {
		change(&cfg, &scfg)
	}
	g, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewUnstartedServer(nil)
	ts.Config = NewHTTPServer(scfg, g, nil)
	ts.Start()
	t.Cleanup(ts.Close)
	w.gateway, w.server = g, ts.Config
	w.url, w.addr, w.client = ts.URL, ts.Listener.Addr().String(), ts.Client()
	return w
}

// eachWay runs a test with the services in this process and over TCP: nobody may be able to tell.
func eachWay(t *testing.T, change func(*Config, *ServerConfig), test func(*testing.T, *world)) {
	t.Run("in process", func(t *testing.T) { test(t, newWorld(t, (*stub).inProcess, change)) })
	t.Run("over TCP", func(t *testing.T) { test(t, newWorld(t, (*stub).overTCP, change)) })
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

// reason gives the reason of an error's answer.
func (a answer) reason() string {
	var b struct {
		Details []struct {
			Type   string `json:"@type"`
			Reason string `json:"reason"`
		} `json:"details"`
	}
	_ = json.Unmarshal([]byte(a.body), &b)
	for _, d := range b.Details {
		if d.Reason != "" {
			return d.Reason
		}
	}
	return ""
}

// do sends a request; headers are "Name: value".
func (w *world) do(t testing.TB, method, path, body string, headers ...string) answer {
	t.Helper()
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, w.url+path, r)
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		if strings.EqualFold(k, "Content-Type") {
			req.Header.Del(k)
		}
		if v != "-" {
			req.Header.Add(k, v)
		}
	}
	resp, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}
