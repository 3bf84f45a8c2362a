package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waybill-dev/waybill/internal/rest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
)

const (
	delivered = orderv1.OrderStatus_ORDER_STATUS_DELIVERED
	rejected  = orderv1.OrderStatus_ORDER_STATUS_REJECTED
	cancelled = orderv1.OrderStatus_ORDER_STATUS_CANCELLED
)

// TestEveryOrderEndsAsItShould has all outcomes, each paid with the token that
// brings it about.
func TestEveryOrderEndsAsItShould(t *testing.T) {
	d := open(t)
	admin, customer := d.admin(t), d.customer(t)
	product := d.products(t, admin, 1, 100)[0]
	for name, c := range map[string]struct {
		token, country string
		quantity       int32
		cancel         bool
		status         orderv1.OrderStatus
		reason         orderv1.OrderReason
	}{
		"all goes well":             {token: "tok_ok", status: delivered},
		"the provider is slow":      {token: "tok_slow", status: delivered},
		"the provider is silent":    {token: "tok_timeout", status: delivered},
		"out of stock":              {token: "tok_ok", quantity: 101, status: rejected, reason: orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK},
		"declined":                  {token: "tok_declined", status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED},
		"the capture fails":         {token: "tok_capture_fails", status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_CAPTURE_FAILED},
		"the carrier refuses":       {token: "tok_ok", country: "AQ", status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_SHIPMENT_REFUSED},
		"the customer changes mind": {token: "tok_slow", cancel: true, status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			country, quantity := c.country, c.quantity
			if country == "" {
				country = "NO"
			}
			if quantity == 0 {
				quantity = 1
			}
			o := customer.place(t, basket(product, quantity, c.token, country))
			if c.cancel {
				if err := customer.rest(t).Do(t.Context(), http.MethodPost, "/v1/orders/"+o.GetOrderId()+":cancel", "cancel-"+o.GetOrderId(), &orderv1.CancelOrderRequest{Reason: "changed my mind"}, o); err != nil {
					t.Fatal(err)
				}
			}
			end := customer.end(t, o.GetOrderId())
			if end.GetStatus() != c.status || end.GetReason() != c.reason {
				t.Errorf("the order is %s %s, want %s %s", end.GetStatus(), end.GetReason(), c.status, c.reason)
			}
			var w orderv1.Waybill
			if err := customer.rest(t).Do(t.Context(), http.MethodGet, "/v1/orders/"+o.GetOrderId()+"/waybill", "", nil, &w); err != nil {
				t.Fatal(err)
			}
			if n := len(w.GetEntries()); n == 0 || w.GetEntries()[n-1].GetToStatus() != c.status {
				t.Errorf("its waybill ends with %v", w.GetEntries())
			}
		})
	}
}

func TestTheSameRequestIsTheSameOrder(t *testing.T) {
	d := open(t)
	customer := d.customer(t)
	product := d.products(t, d.admin(t), 1, 10)[0]
	req := basket(product, 1, "tok_ok", "NO")
	key := req.GetRequestId()
	first := customer.place(t, req)
	req.RequestId = key
	if again := customer.place(t, req); again.GetOrderId() != first.GetOrderId() {
		t.Errorf("the key %s made %s and %s", key, first.GetOrderId(), again.GetOrderId())
	}
}

// TestAStreamOfServerSentEventsGoesOnWhereItBrokeOff reads one event at a time,
// each over a connection of its own.
func TestAStreamOfServerSentEventsGoesOnWhereItBrokeOff(t *testing.T) {
	d := open(t)
	customer := d.customer(t)
	product := d.products(t, d.admin(t), 1, 10)[0]
	o := customer.place(t, basket(product, 1, "tok_ok", "NO"))
	var last string
	var statuses []string
	for range 20 {
		var seen orderv1.WatchOrderResponse
		id, err := customer.rest(t).Follow(t.Context(), "/v1/orders/"+o.GetOrderId()+":watch", last, func(e rest.Event) (bool, error) {
			return false, protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(e.Data, &seen)
		})
		if err != nil {
			t.Fatal(err)
		}
		if id == last {
			t.Fatalf("after %v nothing came", statuses)
		}
		last = id
		statuses = append(statuses, strings.TrimPrefix(seen.GetOrder().GetStatus().String(), "ORDER_STATUS_"))
		if terminal(seen.GetOrder().GetStatus()) {
			break
		}
	}
	want := "PLACED HELD AUTHORIZED COMMITTED CAPTURED SCHEDULED DISPATCHED DELIVERED"
	at := 0 // events that follow each other at once may come as one
	for _, s := range statuses {
		i := strings.Index(want[at:], s)
		if i < 0 {
			t.Fatalf("the events were %v, want some of %s, in this order", statuses, want)
		}
		at += i
	}
	if statuses[len(statuses)-1] != "DELIVERED" {
		t.Errorf("the last event was %s", statuses[len(statuses)-1])
	}
}

// grpcurl calls the gateway as people do who have no generated code.
func grpcurl(t *testing.T, d *door, token, data string, args ...string) string {
	t.Helper()
	line := []string{filepath.Join(root(), ".tmp", "bin", "grpcurl"), "-plaintext"}
	if token != "" {
		line = append(line, "-H", "authorization: Bearer "+token)
	}
	if data != "" {
		line = append(line, "-d", data)
	}
	out, err := command(t.Context(), append(append(line, d.grpc), args...)...)
	if err != nil {
		t.Fatalf("grpcurl %v: %v\n%s", args, err, out)
	}
	return out
}

func TestGrpcurlFindsEverythingByReflection(t *testing.T) {
	d := open(t)
	list := grpcurl(t, d, "", "", "list")
	for _, s := range []string{"auth", "user", "inventory", "order", "payment", "shipping"} {
		name := fmt.Sprintf("waybill.%s.v1.%sService", s, strings.ToUpper(s[:1])+s[1:])
		if !strings.Contains(list, name) {
			t.Errorf("%s is not listed:\n%s", name, list)
			continue
		}
		if methods := grpcurl(t, d, "", "", "describe", name); !strings.Contains(methods, "rpc ") {
			t.Errorf("%s has no methods:\n%s", name, methods)
		}
	}
	customer := d.customer(t)
	product := d.products(t, d.admin(t), 1, 10)[0]
	token, err := customer.bearer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data, err := protojson.Marshal(basket(product, 1, "tok_ok", "NO"))
	if err != nil {
		t.Fatal(err)
	}
	var o struct{ OrderID string }
	if err := json.Unmarshal([]byte(grpcurl(t, d, token, string(data), "waybill.order.v1.OrderService/CreateOrder")), &o); err != nil {
		t.Fatal(err)
	}
	stream := grpcurl(t, d, token, fmt.Sprintf(`{"order_id": %q}`, o.OrderID), "waybill.order.v1.OrderService/WatchOrder")
	if !strings.Contains(stream, "ORDER_STATUS_DELIVERED") {
		t.Errorf("the stream ended with\n%s", stream)
	}
	health := grpcurl(t, d, "", "", "grpc.health.v1.Health/Check")
	if !strings.Contains(health, "SERVING") {
		t.Errorf("health: %s", health)
	}
}

// TestStreamsOfAllKindsPassTheGateway watches two orders on one stream both ways,
// a stock on one that comes, and exports the ledger; d.products has imported over
// one that goes.
func TestStreamsOfAllKindsPassTheGateway(t *testing.T) {
	d := open(t)
	admin, customer := d.admin(t), d.customer(t)
	product := d.products(t, admin, 1, 10)[0]

	stock, err := inventoryv1.NewInventoryServiceClient(d.conn).WatchStock(admin.as(t), &inventoryv1.WatchStockRequest{ProductIds: []string{product.GetProductId()}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stock.Recv(); err != nil {
		t.Fatalf("the stock as it is: %v", err)
	}
	both, err := orderv1.NewOrderServiceClient(d.conn).WatchOrders(customer.as(t))
	if err != nil {
		t.Fatal(err)
	}
	open := map[string]bool{}
	for range 2 {
		o := customer.place(t, basket(product, 1, "tok_ok", "NO"))
		open[o.GetOrderId()] = true
		if err := both.Send(&orderv1.WatchOrdersRequest{Command: &orderv1.WatchOrdersRequest_Add{Add: &orderv1.AddOrders{OrderIds: []string{o.GetOrderId()}}}}); err != nil {
			t.Fatal(err)
		}
	}
	for len(open) > 0 {
		m, err := both.Recv()
		if err != nil {
			t.Fatalf("%d orders have not ended: %v", len(open), err)
		}
		if m.GetOrder().GetStatus() == delivered {
			delete(open, m.GetOrderId())
		}
	}
	if _, err := stock.Recv(); err != nil {
		t.Errorf("the stock that two orders changed: %v", err)
	}
	ledger, err := paymentv1.NewPaymentServiceClient(d.conn).ExportLedger(admin.as(t), &paymentv1.ExportLedgerRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := ledger.Recv(); err != nil {
		t.Errorf("the ledger gives %v: %v", m, err)
	}
}
