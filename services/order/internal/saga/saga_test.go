package saga_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/waybill-dev/waybill/platform/auth/authtest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/ordertest"
)

func equal(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestAnOrderGoesAllTheWay(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		req := ordertest.Request()
		placed, err := w.Orders.CreateOrder(authtest.As(t.Context(), "u1"), req)
		if err != nil {
			t.Fatal(err)
		}
		id := placed.GetOrderId()
		if placed.GetStatus() != order.Placed || placed.GetVersion() != 1 || placed.GetTotal().GetMinorUnits() != 500 || placed.GetUserId() != "u1" {
			t.Errorf("the answer is %v", placed)
		}
		equal(t, "what is read is what was answered", placed, w.Get(id))

		var event orderv1.OrderPlaced
		if !w.Emitted(id, &event) {
			t.Fatal("OrderPlaced was not emitted")
		}
		equal(t, "OrderPlaced", &orderv1.OrderPlaced{
			OrderId: id, UserId: "u1", Lines: placed.GetLines(), Total: placed.GetTotal(), PaymentToken: "tok_ok", ShipTo: req.GetShipTo(), PlacedAt: placed.GetCreateTime(),
		}, &event)

		scheduled := w.SayEach(id, ordertest.Happy(id)[:5]...)
		if !scheduled.GetSagaOver() || scheduled.GetSagaOverTime() == nil || scheduled.GetTrackingNumber() != "1Z" ||
			scheduled.GetPaymentId() != ordertest.PaymentID || scheduled.GetShipmentId() != ordertest.ShipmentID {
			t.Errorf("scheduled: %v", scheduled)
		}
		delivered := w.SayEach(id, ordertest.Happy(id)[5:]...)
		if delivered.GetStatus() != order.Delivered || !proto.Equal(delivered.GetSagaOverTime(), scheduled.GetSagaOverTime()) {
			t.Errorf("delivered: %v", delivered)
		}
		equal(t, "events", []string{"OrderPlaced", "OrderCompleted", "OrderDispatched", "OrderDelivered"}, w.Events(id))

		bill := w.Waybill(id)
		var steps []string
		for _, e := range bill {
			steps = append(steps, e.GetService()+" "+e.GetEvent()+" "+order.StatusName(e.GetFromStatus())+" "+order.StatusName(e.GetToStatus()))
		}
		equal(t, "waybill", []string{
			"order order_placed UNSPECIFIED PLACED",
			"inventory stock_held PLACED HELD",
			"payment payment_authorized HELD AUTHORIZED",
			"inventory stock_committed AUTHORIZED COMMITTED",
			"payment payment_captured COMMITTED CAPTURED",
			"shipping shipment_scheduled CAPTURED SCHEDULED",
			"shipping shipment_dispatched SCHEDULED DISPATCHED",
			"shipping shipment_delivered DISPATCHED DELIVERED",
		}, steps)
		if e := bill[0]; e.GetCauseId() != req.GetRequestId() || e.GetDetail() != "1 product, 5.00 EUR" {
			t.Errorf("the first entry: %v", e)
		}
		if e := bill[2]; e.GetTraceId() != "0af7651916cd43dd8448eb211c80319c" || e.GetCauseId() != "cause-of-"+e.GetEventId() || e.GetDetail() != "5.00 EUR set aside" {
			t.Errorf("an entry of another service: %v", e)
		}
	})
}

func TestAnEventDeliveredAgainIsNoticedOnce(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		o := w.Place("u1")
		id := o.GetOrderId()
		same := uuid.NewString()
		for range 5 {
			w.SayAs(same, &paymentv1.PaymentRefunded{OrderId: id, PaymentId: ordertest.PaymentID})
		}
		w.SayEach(id, &inventoryv1.StockHeld{OrderId: id})
		w.Await(id, order.Held)
		w.Eventually("the refund is noted", func() bool { return w.Get(id).GetVersion() >= 3 })
		if n := len(w.Waybill(id)); n != 3 {
			t.Errorf("the waybill has %d entries, want 3", n)
		}
	})
}

func TestEveryFailureIsUndone(t *testing.T) {
	cases := map[string]struct {
		in     order.Status
		event  func(id string) proto.Message
		reason orderv1.OrderReason
		detail string
	}{
		"stock expired": {order.Authorized, func(id string) proto.Message { return &inventoryv1.StockExpired{OrderId: id} },
			orderv1.OrderReason_ORDER_REASON_STOCK_EXPIRED, ""},
		"payment declined": {order.Held, func(id string) proto.Message {
			return &paymentv1.PaymentDeclined{OrderId: id, PaymentId: ordertest.PaymentID, Reason: "insufficient_funds"}
		}, orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED, "insufficient_funds"},
		"capture failed": {order.Committed, func(id string) proto.Message {
			return &paymentv1.PaymentCaptureFailed{OrderId: id, PaymentId: ordertest.PaymentID, Reason: "card_expired"}
		}, orderv1.OrderReason_ORDER_REASON_CAPTURE_FAILED, "card_expired"},
		"shipment refused": {order.Captured, func(id string) proto.Message {
			return &shippingv1.ShipmentRefused{OrderId: id, ShipmentId: ordertest.ShipmentID, Reason: "address_not_served"}
		}, orderv1.OrderReason_ORDER_REASON_SHIPMENT_REFUSED, "address_not_served"},
		"lost before dispatch": {order.Scheduled, func(id string) proto.Message {
			return &shippingv1.ShipmentLost{OrderId: id, ShipmentId: ordertest.ShipmentID}
		}, orderv1.OrderReason_ORDER_REASON_SHIPMENT_LOST, ""},
	}
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				id := w.PlaceIn("u1", c.in).GetOrderId()
				o := w.SayEach(id, c.event(id))
				if o.GetStatus() != order.Cancelling || o.GetReason() != c.reason || o.GetReasonDetail() != c.detail || o.GetSagaOver() {
					t.Errorf("got %v", o)
				}
				var asked orderv1.OrderCancelling
				if !w.Emitted(id, &asked) || asked.GetReason() != c.reason || asked.GetDetail() != c.detail {
					t.Errorf("OrderCancelling is %v", &asked)
				}
				o = w.SayEach(id, ordertest.Undo(id)...)
				if o.GetStatus() != order.Cancelled || o.GetReason() != c.reason || !o.GetSagaOver() || o.GetSagaOverTime() == nil {
					t.Errorf("in the end: %v", o)
				}
				var told orderv1.OrderCancelled
				if !w.Emitted(id, &told) || told.GetReason() != c.reason {
					t.Errorf("OrderCancelled is %v", &told)
				}
			})
		}
	})
}

func TestWhatCannotBeHadIsRejected(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		id := w.Place("u1").GetOrderId()
		o := w.SayEach(id, &inventoryv1.StockRejected{OrderId: id, Reason: inventoryv1.StockRejection_STOCK_REJECTION_SHORTAGE,
			Shortages: []*inventoryv1.Shortage{{ProductId: "p", Requested: 2, Available: 1}}})
		if o.GetStatus() != order.Rejected || o.GetReason() != orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK || o.GetReasonDetail() != "p: 2 wanted, 1 available" {
			t.Errorf("got %v", o)
		}
		equal(t, "events", []string{"OrderPlaced", "OrderRejected"}, w.Events(id))
	})
}

func TestACancellationThatCameTooLateIsTakenBack(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		id := w.PlaceIn("u1", order.Scheduled).GetOrderId()
		o, err := w.Orders.CancelOrder(authtest.As(t.Context(), "u1"), &orderv1.CancelOrderRequest{RequestId: "r", OrderId: id, Reason: "no more"})
		if err != nil || o.GetStatus() != order.Cancelling || o.GetSagaOver() {
			t.Fatalf("got %v, %v", o, err)
		}
		o = w.SayEach(id, &shippingv1.ShipmentCancelRefused{OrderId: id, ShipmentId: ordertest.ShipmentID, Reason: "already_dispatched"})
		if o.GetStatus() != order.Scheduled || o.GetReason() != 0 || !o.GetSagaOver() {
			t.Errorf("taken back: %v", o)
		}
		w.SayEach(id, ordertest.Happy(id)[5:]...)
		w.Await(id, order.Delivered)
	})
}

func TestAReturnEndsWhenAllIsBack(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		id := w.PlaceIn("u1", order.Delivered).GetOrderId()
		o, err := w.Orders.ReturnOrder(authtest.As(t.Context(), "u1"), &orderv1.ReturnOrderRequest{RequestId: "r", OrderId: id, Reason: "too small"})
		if err != nil || o.GetStatus() != order.Returning || o.GetReasonDetail() != "too small" {
			t.Fatalf("got %v, %v", o, err)
		}
		again, err := w.Orders.ReturnOrder(authtest.As(t.Context(), "u1"), &orderv1.ReturnOrderRequest{RequestId: "r2", OrderId: id})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "a second wish changes nothing", o, again)
		o = w.SayEach(id, ordertest.BackHome(id)...)
		if o.GetStatus() != order.Returned {
			t.Errorf("in the end: %v", o)
		}
		events := w.Events(id)
		equal(t, "events", []string{"OrderReturnRequested", "OrderReturned"}, events[len(events)-2:])
	})
}

func TestAnOrderThatWaitsTooLongIsUndoneAndRemindedOf(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		id := w.PlaceIn("u1", order.Held).GetOrderId()
		w.Advance(16 * time.Minute)
		o := w.Await(id, order.Cancelling)
		if o.GetReason() != orderv1.OrderReason_ORDER_REASON_TIMED_OUT || o.GetReasonDetail() != "HELD" {
			t.Errorf("got %v", o)
		}
		equal(t, "events", []string{"OrderPlaced", "OrderTimedOut", "OrderCancelling"}, w.Events(id))
		w.Advance(31 * time.Second)
		w.AwaitVersion(id, o.GetVersion()+1)
		equal(t, "asked again", []string{"OrderPlaced", "OrderTimedOut", "OrderCancelling", "OrderCancelling"}, w.Events(id))
		bill := w.Waybill(id)
		if e := bill[len(bill)-1]; e.GetEvent() != "order_cancelling" || e.GetDetail() != "asked again" {
			t.Errorf("the reminder's entry: %v", e)
		}
		w.SayEach(id, ordertest.Undo(id)...)
		w.Await(id, order.Cancelled)
	})
}

func TestWhatMustNotHappenIsNotedAndChangesNothing(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		before := w.PlaceIn("u1", order.Rejected)
		id := before.GetOrderId()
		after := w.SayEach(id, &paymentv1.PaymentCaptured{OrderId: id, PaymentId: "another", Amount: &typev1.Money{MinorUnits: 500, CurrencyCode: "EUR"}})
		if after.GetStatus() != order.Rejected || after.GetPaymentId() != before.GetPaymentId() {
			t.Errorf("got %v", after)
		}
		bill := w.Waybill(id)
		if e := bill[len(bill)-1]; e.GetDetail() != "unexpected; 5.00 EUR taken" || e.GetToStatus() != order.Rejected {
			t.Errorf("the entry: %v", e)
		}
	})
}

func TestAnEventAboutNoOrderBecomesADeadLetter(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		w.Say(&inventoryv1.StockHeld{OrderId: uuid.NewString()})
		w.Eventually("it is a dead letter", func() bool {
			return w.Count("SELECT count(*) FROM dead_letters WHERE reason = 'ORDER_NOT_FOUND'") == 1
		})
	})
}

func TestNothingIsLostWhileTheServiceIsDown(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		id := w.PlaceIn("u1", order.Held).GetOrderId()
		w.Stop()
		w.Say(ordertest.Happy(id)[1:6]...)
		w.Start()
		if o := w.AwaitVersion(id, 7); o.GetStatus() != order.Dispatched || o.GetVersion() != 7 {
			t.Errorf("got %v", o)
		}
		if n := len(w.Waybill(id)); n != 7 {
			t.Errorf("the waybill has %d entries, want 7", n)
		}
	})
}

func TestErasedUsersLeaveNoAddressBehind(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		ended := w.PlaceIn("u1", order.Cancelled).GetOrderId()
		running := w.PlaceIn("u1", order.Captured).GetOrderId()
		other := w.PlaceIn("u2", order.Delivered).GetOrderId()
		w.Say(&userv1.UserErased{UserId: "u1"})
		w.Eventually("the erasure is noted", func() bool { return w.Count("SELECT count(*) FROM erasures") == 1 })
		w.SayEach(running, ordertest.Happy(running)[4:]...)

		w.Stop() // sweeps over erasures are rare; the first comes at the start
		w.Start()
		for _, id := range []string{ended, running} {
			w.Eventually("the address is gone", func() bool { return w.Get(id).GetShipTo() == nil })
			bill := w.Waybill(id)
			if e := bill[len(bill)-1]; e.GetEvent() != "user_erased" || e.GetService() != "user" {
				t.Errorf("the entry: %v", e)
			}
		}
		for id, kept := range map[string]bool{ended: false, running: false, other: true} {
			w.Eventually("the event that held the address is clean, if it is to be", func() bool {
				var e orderv1.OrderPlaced
				return w.Emitted(id, &e) && (e.GetShipTo() != nil) == kept
			})
		}
		if w.Get(other).GetShipTo() == nil {
			t.Error("somebody else's address is gone, too")
		}
		w.Stop()
		w.Advance(2 * time.Hour)
		w.Start()
		w.Eventually("the erasure is closed", func() bool {
			return w.Count("SELECT count(*) FROM erasures WHERE open") == 0
		})
	})
}

// Everything that can happen, all at once and in any order, to many orders: each
// ends in some status with a waybill without gaps, and the emitted events are
// numbered without gaps, too.
func TestAFloodOfEventsInAnyOrderLeavesNoGaps(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		const orders = 30
		var ids []string
		var flood [][]proto.Message
		for range orders {
			id := w.Place("u1").GetOrderId()
			ids = append(ids, id)
			flood = append(flood, slices.Concat(ordertest.Happy(id), []proto.Message{
				&paymentv1.PaymentDeclined{OrderId: id, PaymentId: ordertest.PaymentID}, &inventoryv1.StockExpired{OrderId: id},
			}))
		}
		for k := range flood[0] {
			for i := range flood {
				events := flood[i]
				w.Say(events[(k*(i%7+1)+i)%len(events)])
			}
		}
		last := w.Place("u1").GetOrderId()
		w.SayEach(last, ordertest.Happy(last)...)
		for _, id := range ids {
			w.Eventually("all is handled", func() bool {
				return w.Count("SELECT count(*) FROM inbox") >= int64(orders*2)
			})
			bill := w.Waybill(id)
			if got := w.Get(id); got.GetVersion() < int64(len(bill)) || got.GetStatus() == 0 {
				t.Errorf("order %v with %d entries", got, len(bill))
			}
		}
		gaps := w.Count(`SELECT count(*) FROM (SELECT aggregate_id FROM outbox GROUP BY aggregate_id HAVING max(version) <> count(*)) g`)
		if gaps != 0 {
			t.Errorf("the events of %d orders have gaps", gaps)
		}
	})
}
