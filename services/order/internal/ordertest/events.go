package ordertest

import (
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/auth/authtest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/order"
)

// PaymentID and ShipmentID are those of all orders in tests.
const (
	PaymentID  = "0190a0c2-7b1a-7cc3-9a3e-000000000001"
	ShipmentID = "0190a0c2-7b1a-7cc3-9a3e-000000000002"
)

var amount = &typev1.Money{MinorUnits: 500, CurrencyCode: "EUR"}

// Happy gives the events that bring an order to DELIVERED, in order: the n-th one
// brings it from the n-th status to the next.
func Happy(id string) []proto.Message {
	return []proto.Message{
		&inventoryv1.StockHeld{OrderId: id},
		&paymentv1.PaymentAuthorized{OrderId: id, PaymentId: PaymentID, Amount: amount},
		&inventoryv1.StockCommitted{OrderId: id},
		&paymentv1.PaymentCaptured{OrderId: id, PaymentId: PaymentID, Amount: amount},
		&shippingv1.ShipmentScheduled{OrderId: id, ShipmentId: ShipmentID, Carrier: "Post", TrackingNumber: "1Z"},
		&shippingv1.ShipmentDispatched{OrderId: id, ShipmentId: ShipmentID},
		&shippingv1.ShipmentDelivered{OrderId: id, ShipmentId: ShipmentID},
	}
}

// Undo gives the events with which the others answer that all is undone.
func Undo(id string) []proto.Message {
	return []proto.Message{
		&shippingv1.ShipmentCancelled{OrderId: id, Noop: true},
		&paymentv1.PaymentReversed{OrderId: id, PaymentId: PaymentID, Voided: amount, Purpose: paymentv1.ReversalPurpose_REVERSAL_PURPOSE_CANCEL},
		&inventoryv1.StockReleased{OrderId: id},
	}
}

// BackHome gives the events with which a return ends.
func BackHome(id string) []proto.Message {
	return []proto.Message{
		&shippingv1.ShipmentReturned{OrderId: id, ShipmentId: ShipmentID},
		&paymentv1.PaymentReversed{OrderId: id, PaymentId: PaymentID, Refunded: amount, Purpose: paymentv1.ReversalPurpose_REVERSAL_PURPOSE_RETURN},
		&inventoryv1.StockReleased{OrderId: id, Restocked: true},
	}
}

// SayEach publishes events and waits after each until the order has noticed it.
func (w *World) SayEach(id string, events ...proto.Message) *orderv1.Order {
	w.T.Helper()
	o := w.Get(id)
	for _, e := range events {
		before := o.GetVersion()
		w.Say(e)
		o = w.AwaitVersion(id, before+1)
	}
	return o
}

// PlaceIn gives an order of a customer in a status.
func (w *World) PlaceIn(user string, s order.Status) *orderv1.Order {
	w.T.Helper()
	o := w.Place(user)
	id := o.GetOrderId()
	cancel := func() {
		w.T.Helper()
		_, err := w.Orders.CancelOrder(authtest.As(w.T.Context(), user), &orderv1.CancelOrderRequest{RequestId: "cancel " + id, OrderId: id})
		w.fatal(err)
	}
	switch {
	case s == order.Placed:
	case s <= order.Delivered:
		w.SayEach(id, Happy(id)[:s-order.Placed]...)
	case s == order.Rejected:
		w.SayEach(id, &inventoryv1.StockRejected{OrderId: id})
	case s == order.Cancelling:
		cancel()
	case s == order.Cancelled:
		cancel()
		w.SayEach(id, Undo(id)...)
	default:
		w.SayEach(id, Happy(id)[:5]...)
		w.SayEach(id, Happy(id)[5])
		_, err := w.Orders.ReturnOrder(authtest.As(w.T.Context(), user), &orderv1.ReturnOrderRequest{RequestId: "return " + id, OrderId: id})
		w.fatal(err)
		if s == order.Returned {
			w.SayEach(id, BackHome(id)...)
		}
	}
	return w.Await(id, s)
}
