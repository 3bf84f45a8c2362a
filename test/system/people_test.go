package system_test

import (
	"context"
	"fmt"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
)

// A user is somebody who is signed in.
type user struct {
	id, email, password     string
	token, refresh, session string
}

func (u *user) take(t *authv1.Tokens) *user {
	u.token, u.refresh, u.session = t.GetAccessToken(), t.GetRefreshToken(), t.GetSessionId()
	remember(u.refresh)
	return u
}

// as gives a context of gRPC calls in somebody's name.
func (u *user) as(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+u.token)
}

// logIn signs somebody in who has an account.
func (w *world) logIn(email, password string) (*user, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	in, err := authv1.NewAuthServiceClient(w.conn).LogIn(ctx, &authv1.LogInRequest{Email: email, Password: password})
	if err != nil {
		return nil, fmt.Errorf("log %s in: %w", email, err)
	}
	return (&user{id: in.GetUserId(), email: email, password: password}).take(in.GetTokens()), nil
}

// customer opens an account.
func (w *world) customer(t *testing.T) *user {
	t.Helper()
	u := &user{email: "c-" + uuid.NewString() + "@example.com", password: secret("password-of-a-customer")}
	up, err := authv1.NewAuthServiceClient(w.conn).SignUp(soon(t), &authv1.SignUpRequest{Email: u.email, Password: u.password, DisplayName: "Kim Customer"})
	must(t, err)
	u.id = up.GetUserId()
	return u.take(up.GetTokens())
}

// staff opens an account and gives it the role; the role comes with the next log-in.
func (w *world) staff(t *testing.T) *user {
	t.Helper()
	u := w.customer(t)
	_, err := authv1.NewAuthServiceClient(w.conn).SetUserRole(w.admin.as(soon(t)), &authv1.SetUserRoleRequest{UserId: u.id, Role: optionsv1.Role_ROLE_STAFF})
	must(t, err)
	again, err := w.logIn(u.email, u.password)
	must(t, err)
	return again
}

func euro(cents int64) *typev1.Money { return &typev1.Money{MinorUnits: cents, CurrencyCode: "EUR"} }

// product puts something new on the shelves.
func (w *world) product(t *testing.T, price *typev1.Money, stock int64) *inventoryv1.Product {
	t.Helper()
	p, err := inventoryv1.NewInventoryServiceClient(w.conn).CreateProduct(w.admin.as(soon(t)), &inventoryv1.CreateProductRequest{
		RequestId: newKey(), Sku: "S-" + uuid.NewString(), Name: "A thing", Category: "things", Price: price, InitialStock: stock,
	})
	must(t, err)
	return p
}

// stock gives the numbers of a product.
func (w *world) stock(t *testing.T, productID string) *inventoryv1.Stock {
	t.Helper()
	got, err := inventoryv1.NewInventoryServiceClient(w.conn).BatchGetStock(w.admin.as(soon(t)), &inventoryv1.BatchGetStockRequest{ProductIds: []string{productID}})
	must(t, err)
	return got.GetStocks()[0]
}

func address(country string) *typev1.Address {
	return &typev1.Address{Recipient: "Kim Customer", Lines: []string{"12 Harbour Street"}, Locality: "Bergen", PostalCode: "5003", RegionCode: country}
}

// cart gives a request for some of a product, to be paid with a token.
func cart(p *inventoryv1.Product, quantity int32, token string) *orderv1.CreateOrderRequest {
	return &orderv1.CreateOrderRequest{
		Lines:        []*orderv1.CreateOrderLine{{ProductId: p.GetProductId(), Quantity: quantity}},
		PaymentToken: token, ShipTo: address("NO"),
	}
}

// place orders something.
func (w *world) place(t *testing.T, d door, u *user, req *orderv1.CreateOrderRequest) *orderv1.Order {
	t.Helper()
	return ask(t, d, w, u, orderv1.OrderService_CreateOrder_FullMethodName, req, &orderv1.Order{})
}

// order reads an order as the shop sees it.
func (w *world) order(t *testing.T, id string) *orderv1.Order {
	t.Helper()
	o, err := orderv1.NewOrderServiceClient(w.conn).GetOrder(w.admin.as(soon(t)), &orderv1.GetOrderRequest{OrderId: id})
	must(t, err)
	return o
}

// payment reads a payment as the shop sees it.
func (w *world) payment(t *testing.T, id string) *paymentv1.Payment {
	t.Helper()
	p, err := paymentv1.NewPaymentServiceClient(w.conn).GetPayment(w.admin.as(soon(t)), &paymentv1.GetPaymentRequest{PaymentId: id})
	must(t, err)
	return p
}

// until follows an order until it is as wanted, and gives it as it was then.
func (w *world) until(t *testing.T, u *user, orderID string, wanted func(*orderv1.Order) bool) *orderv1.Order {
	t.Helper()
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	s, err := orderv1.NewOrderServiceClient(w.conn).WatchOrder(u.as(ctx), &orderv1.WatchOrderRequest{OrderId: orderID})
	must(t, err)
	var last *orderv1.Order
	for {
		m, err := s.Recv()
		if err != nil {
			t.Fatalf("order %s never came to be what the test waits for; it is %s: %v", orderID, last.GetStatus(), err)
		}
		if last = m.GetOrder(); wanted(last) {
			return last
		}
	}
}

// is tells whether an order is in one of the statuses.
func is(list ...orderv1.OrderStatus) func(*orderv1.Order) bool {
	return func(o *orderv1.Order) bool {
		for _, s := range list {
			if o.GetStatus() == s {
				return true
			}
		}
		return false
	}
}

var scheduled = is(orderv1.OrderStatus_ORDER_STATUS_SCHEDULED)

func sagaOver(o *orderv1.Order) bool { return o.GetSagaOver() }

// scan tells what the carrier saw of the parcel of an order.
func (w *world) scan(t *testing.T, o *orderv1.Order, kinds ...shippingv1.ScanKind) {
	t.Helper()
	resp := w.report(t, o, kinds...)
	if int(resp.GetAcceptedCount()) != len(kinds) {
		t.Fatalf("scans %v of order %s: %v", kinds, o.GetOrderId(), resp)
	}
}

var trackingNumber = regexp.MustCompile(`^WB[0-9A-F]{16}$`)

func (w *world) report(t *testing.T, o *orderv1.Order, kinds ...shippingv1.ScanKind) *shippingv1.ReportScansResponse {
	t.Helper()
	if !trackingNumber.MatchString(o.GetTrackingNumber()) {
		t.Fatalf("the parcel has no good number: %v", o)
	}
	s, err := shippingv1.NewShippingServiceClient(w.conn).ReportScans(w.admin.as(soon(t)))
	must(t, err)
	for _, k := range kinds {
		must(t, s.Send(&shippingv1.ReportScansRequest{
			ScanId: uuid.NewString(), TrackingNumber: o.GetTrackingNumber(), Kind: k, ScanTime: timestamppb.Now(), Location: "Bergen hub",
		}))
	}
	resp, err := s.CloseAndRecv()
	must(t, err)
	return resp
}

// A view is everything that somebody could see of what is theirs, and of some
// products. Two of them tell whether a request in between changed anything.
type view []proto.Message

func (w *world) see(t *testing.T, u *user, products ...string) view {
	t.Helper()
	ctx := u.as(soon(t))
	var v view
	add := func(m proto.Message, err error) {
		t.Helper()
		must(t, err)
		v = append(v, m)
	}
	orders, err := orderv1.NewOrderServiceClient(w.conn).ListOrders(ctx, &orderv1.ListOrdersRequest{PageSize: 100})
	add(orders, err)
	payments, err := paymentv1.NewPaymentServiceClient(w.conn).ListPayments(ctx, &paymentv1.ListPaymentsRequest{PageSize: 100})
	add(payments, err)
	shipments, err := shippingv1.NewShippingServiceClient(w.conn).ListShipments(ctx, &shippingv1.ListShipmentsRequest{PageSize: 100})
	add(shipments, err)
	sessions, err := authv1.NewAuthServiceClient(w.conn).ListSessions(ctx, &authv1.ListSessionsRequest{PageSize: 100})
	add(sessions, err)
	must(t, poll(ctx, func() (bool, error) { // the profile follows the account by an event
		var p *userv1.User
		p, err = userv1.NewUserServiceClient(w.conn).GetUser(ctx, &userv1.GetUserRequest{UserId: u.id})
		if c := status.Code(err); c == codes.NotFound || c == codes.Unavailable {
			return false, nil
		}
		v = append(v, p)
		return true, err
	}))
	for _, id := range products {
		p, err := inventoryv1.NewInventoryServiceClient(w.conn).GetProduct(ctx, &inventoryv1.GetProductRequest{ProductId: id})
		add(p, err)
		v = append(v, w.stock(t, id))
	}
	return v
}

// same fails if anything changed between two views.
func (v view) same(t *testing.T, now view) {
	t.Helper()
	if diff := cmp.Diff([]proto.Message(v), []proto.Message(now), protocmp.Transform()); diff != "" {
		t.Errorf("a request that was refused changed something:\n%s", diff)
	}
}

// settled waits until a payment is in a status: nobody tells when a refund is done.
func (w *world) settled(t *testing.T, paymentID string, want paymentv1.PaymentStatus) *paymentv1.Payment {
	t.Helper()
	var p *paymentv1.Payment
	if err := poll(soon(t), func() (bool, error) {
		p = w.payment(t, paymentID)
		return p.GetStatus() == want, nil
	}); err != nil {
		t.Fatalf("payment %s is %s, not %s", paymentID, p.GetStatus(), want)
	}
	return p
}
