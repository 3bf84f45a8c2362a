package system_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// TestAnOrderThatIsStuckIsSeenAndRetried stops the one service that an undoing
// needs first.
func TestAnOrderThatIsStuckIsSeenAndRetried(t *testing.T) {
	t.Parallel()
	sp := split{name: "shipping apart", processes: [][]string{{"gateway", "auth", "user", "inventory", "payment", "order"}, {"shipping"}}, external: true}
	specs, _ := sp.plan(t, "desk")
	var list []*process
	for _, s := range specs {
		cfg := s.config()
		cfg.Order.Deadline.Cancelling = 50 * time.Millisecond
		list = append(list, &process{cfg: cfg})
	}
	w, err := begin(list)
	must(t, err)
	t.Cleanup(func() { must(t, w.finish()) })
	w.admin, err = w.logIn(adminEmail, secret("admin-password"))
	must(t, err)
	must(t, w.processes[1].stop())

	u, p := w.customer(t), w.product(t, euro(500), 5)
	o := w.place(t, grpcDoor{}, u, cart(p, 1, "tok_ok"))
	w.until(t, u, o.GetOrderId(), func(o *orderv1.Order) bool { return o.GetStatus() == orderv1.OrderStatus_ORDER_STATUS_CAPTURED })
	retry := func(d door) answer {
		a, err := d.call(soon(t), w, w.admin.token, orderv1.OrderService_RetryOrder_FullMethodName,
			&orderv1.RetryOrderRequest{RequestId: newKey(), OrderId: o.GetOrderId()}, &orderv1.Order{})
		must(t, err)
		return a
	}
	throughBoth(t, func(t *testing.T, d door) {
		if a := retry(d); a.code != codes.FailedPrecondition || a.reason != "NOTHING_TO_RETRY" {
			t.Errorf("an order that goes forward: %s", a.text)
		}
	})
	_, err = orderv1.NewOrderServiceClient(w.conn).CancelOrder(w.admin.as(soon(t)), &orderv1.CancelOrderRequest{
		RequestId: newKey(), OrderId: o.GetOrderId(), Reason: "it does not move",
	})
	must(t, err)
	throughBoth(t, func(t *testing.T, d door) {
		var stuck *orderv1.StuckOrder
		must(t, poll(soon(t), func() (bool, error) {
			var resp orderv1.ListStuckOrdersResponse
			a, err := d.call(soon(t), w, w.admin.token, orderv1.OrderService_ListStuckOrders_FullMethodName, &orderv1.ListStuckOrdersRequest{}, &resp)
			if a.code != codes.OK {
				t.Fatal(a.text)
			}
			if n := len(resp.GetOrders()); n > 0 {
				stuck = resp.GetOrders()[0]
			}
			return stuck != nil, err
		}))
		if stuck.GetOrderId() != o.GetOrderId() || stuck.GetStatus() != orderv1.OrderStatus_ORDER_STATUS_CANCELLING || stuck.GetWaitsFor() != "shipping" ||
			stuck.GetWhat() == "" || stuck.GetReminders() == 0 || stuck.GetDeadline() == nil {
			t.Errorf("%v", stuck)
		}
		before := asked(t, w, o.GetOrderId())
		if a := retry(d); a.code != codes.OK {
			t.Errorf("retrying it: %s", a.text)
		}
		if after := asked(t, w, o.GetOrderId()); after <= before {
			t.Errorf("it was asked for %d times before and %d times after", before, after)
		}
	})

	must(t, w.processes[1].start(soon(t)))
	w.until(t, u, o.GetOrderId(), func(o *orderv1.Order) bool { return o.GetStatus() == orderv1.OrderStatus_ORDER_STATUS_CANCELLED })
	resp, err := orderv1.NewOrderServiceClient(w.conn).ListStuckOrders(w.admin.as(soon(t)), &orderv1.ListStuckOrdersRequest{})
	if err != nil || len(resp.GetOrders()) > 0 {
		t.Errorf("%v, %v", resp, err)
	}
	if a := retry(grpcDoor{}); a.code != codes.FailedPrecondition {
		t.Errorf("an order that is over: %s", a.text)
	}
}

// asked counts how often the undoing of an order was asked for.
func asked(t *testing.T, w *world, orderID string) (n int) {
	t.Helper()
	bill, err := orderv1.NewOrderServiceClient(w.conn).GetWaybill(w.admin.as(soon(t)), &orderv1.GetWaybillRequest{OrderId: orderID})
	must(t, err)
	for _, e := range bill.GetEntries() {
		if e.GetEvent() == "order_cancelling" {
			n++
		}
	}
	return n
}
