package e2e_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/waybill-dev/waybill/internal/rest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// A door is how people outside of the cluster reach the shop: the gateway's node
// ports, which stay the same whichever pods there are.
type door struct {
	base, grpc string
	web        *http.Client
	conn       *grpc.ClientConn
}

// open finds the door.
func open(t *testing.T) *door {
	t.Helper()
	d, err := find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.web.CloseIdleConnections()
		_ = d.conn.Close()
	})
	return d
}

func find(ctx context.Context) (*door, error) {
	host, err := kubectl(ctx, "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, host)
	}
	ports, err := kubectl(ctx, "-n", shop, "get", "service", "waybill-gateway", "-o", `jsonpath={.spec.ports[?(@.name=="http")].nodePort} {.spec.ports[?(@.name=="grpc")].nodePort}`)
	if err != nil {
		return nil, fmt.Errorf("%w\n%s", err, ports)
	}
	p := strings.Fields(ports)
	if len(p) != 2 {
		return nil, fmt.Errorf("the gateway's Service has the node ports %q", ports)
	}
	d := &door{
		base: "http://" + net.JoinHostPort(host, p[0]), grpc: net.JoinHostPort(host, p[1]),
		web: &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	d.conn, err = grpc.NewClient(d.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return d, err
}

// A user is somebody who is signed in, for as long as the tests need it.
type user struct {
	d               *door
	email, password string

	mu    sync.Mutex
	renew time.Time // when to log in again
	token string
}

// bearer gives a token that is good, a new one when the old one is about to end.
func (u *user) bearer(ctx context.Context) (string, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Now().Before(u.renew) {
		return u.token, nil
	}
	in, err := authv1.NewAuthServiceClient(u.d.conn).LogIn(ctx, &authv1.LogInRequest{Email: u.email, Password: u.password})
	if err != nil {
		return "", fmt.Errorf("log %s in: %w", u.email, err)
	}
	u.take(in.GetTokens())
	return u.token, nil
}

func (u *user) take(t *authv1.Tokens) {
	u.token = t.GetAccessToken()
	u.renew = time.Now().Add(time.Until(t.GetAccessExpireTime().AsTime()) / 2)
}

// as gives a context for gRPC calls in the user's name.
func (u *user) as(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	token, err := u.bearer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// rest gives a client of the REST interface in the user's name.
func (u *user) rest(t *testing.T) *rest.Client {
	t.Helper()
	token, err := u.bearer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &rest.Client{Base: u.d.base, Token: token, HTTP: u.d.web}
}

// customer opens an account over REST.
func (d *door) customer(t *testing.T) *user {
	t.Helper()
	u := &user{d: d, email: "c-" + uuid.NewString() + "@example.com", password: uuid.NewString()}
	var up authv1.SignUpResponse
	c := &rest.Client{Base: d.base, HTTP: d.web}
	if err := c.Do(t.Context(), http.MethodPost, "/v1/auth/signup", "", &authv1.SignUpRequest{Email: u.email, Password: u.password, DisplayName: "Kim Customer"}, &up); err != nil {
		t.Fatalf("sign up: %v", err)
	}
	u.take(up.GetTokens())
	return u
}

// admin is the administrator whose password the chart made.
func (d *door) admin(t *testing.T) *user {
	t.Helper()
	data := kube(t, "get", "secret", "waybill-secrets", "-o", "jsonpath={.data.admin-password}")
	password, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		t.Fatal(err)
	}
	return &user{d: d, email: "admin@example.com", password: string(password)}
}

// products puts new things on the shelves, over one client stream, and gives them
// as customers find them.
func (d *door) products(t *testing.T, admin *user, n int, stock int64) []*inventoryv1.Product {
	t.Helper()
	client := inventoryv1.NewInventoryServiceClient(d.conn)
	stream, err := client.ImportProducts(admin.as(t))
	if err != nil {
		t.Fatal(err)
	}
	run := "E2E-" + strings.ToUpper(uuid.NewString()[:8])
	for i := range n {
		if err := stream.Send(&inventoryv1.ImportProductsRequest{
			LineNumber: int32(i + 1), Sku: fmt.Sprintf("%s-%03d", run, i), Name: "Mug " + strconv.Itoa(i),
			Price: &typev1.Money{MinorUnits: int64(1000 + i), CurrencyCode: "EUR"}, InitialStock: stock,
		}); err != nil {
			break // CloseAndRecv says why
		}
	}
	done, err := stream.CloseAndRecv()
	if err != nil || int(done.GetImportedCount()) != n {
		t.Fatalf("%d of %d products were imported: %v", done.GetImportedCount(), n, err)
	}
	page, err := client.ListProducts(admin.as(t), &inventoryv1.ListProductsRequest{PageSize: int32(n), Filter: fmt.Sprintf("sku >= %q AND sku <= %q", run+"-", run+"-999")})
	if err != nil || len(page.GetProducts()) != n {
		t.Fatalf("%d of %d products are listed: %v", len(page.GetProducts()), n, err)
	}
	return page.GetProducts()
}

// basket is an order of one thing.
func basket(p *inventoryv1.Product, quantity int32, token, country string) *orderv1.CreateOrderRequest {
	return &orderv1.CreateOrderRequest{
		RequestId:    uuid.NewString(),
		Lines:        []*orderv1.CreateOrderLine{{ProductId: p.GetProductId(), Quantity: quantity}},
		PaymentToken: token,
		ShipTo:       &typev1.Address{Recipient: "Kim Customer", Lines: []string{"12 Harbour Street"}, Locality: "Bergen", PostalCode: "5003", RegionCode: country},
	}
}

// place places an order over REST.
func (u *user) place(t *testing.T, req *orderv1.CreateOrderRequest) *orderv1.Order {
	t.Helper()
	key := req.GetRequestId()
	req.RequestId = ""
	var o orderv1.Order
	if err := u.rest(t).Do(t.Context(), http.MethodPost, "/v1/orders", key, req, &o); err != nil {
		t.Fatalf("place an order: %v", err)
	}
	return &o
}

// end follows an order until nothing more happens to it.
func (u *user) end(t *testing.T, id string) *orderv1.Order {
	t.Helper()
	return u.until(t, id, func(o *orderv1.Order) bool { return terminal(o.GetStatus()) })
}

// until follows an order over gRPC until it is as wanted. A stream may end when
// pods do; the next one goes on.
func (u *user) until(t *testing.T, id string, wanted func(*orderv1.Order) bool) *orderv1.Order {
	t.Helper()
	client := orderv1.NewOrderServiceClient(u.d.conn)
	ctx := u.as(t)
	var last *orderv1.Order
	for {
		err := func() error {
			s, err := client.WatchOrder(ctx, &orderv1.WatchOrderRequest{OrderId: id})
			if err != nil {
				return err
			}
			for {
				m, err := s.Recv()
				if err != nil {
					return err
				}
				if last = m.GetOrder(); wanted(last) {
					return nil
				}
			}
		}()
		switch {
		case err == nil:
			return last
		case ctx.Err() != nil || terminal(last.GetStatus()):
			t.Fatalf("order %s never came to be what the test waits for; it is %s: %v", id, last.GetStatus(), errors.Join(err, ctx.Err()))
		}
	}
}

func terminal(s orderv1.OrderStatus) bool {
	switch s {
	case orderv1.OrderStatus_ORDER_STATUS_DELIVERED, orderv1.OrderStatus_ORDER_STATUS_RETURNED,
		orderv1.OrderStatus_ORDER_STATUS_REJECTED, orderv1.OrderStatus_ORDER_STATUS_CANCELLED:
		return true
	}
	return false
}
