// Package paymenttest plays the other services for tests of payment: it
// publishes their events as they do.
package paymenttest

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// Price is what every order costs, in cents of EUR.
const Price = int64(4200)

// Streams makes the streams of the services that payment listens to.
func Streams(tb testing.TB, b *bus.Bus) {
	tb.Helper()
	reacttest.Streams(tb, b, "order", "inventory", "shipping")
}

// Placed gives the event of a new order of a user.
func Placed(orderID, userID, token string) *orderv1.OrderPlaced {
	return &orderv1.OrderPlaced{
		OrderId: orderID, UserId: userID, PaymentToken: token,
		Total: &typev1.Money{MinorUnits: Price, CurrencyCode: "EUR"}, PlacedAt: timestamppb.Now(),
	}
}

// Held gives the event that the goods are held for an hour.
func Held(orderID string) *inventoryv1.StockHeld {
	return &inventoryv1.StockHeld{OrderId: orderID, ExpiresAt: timestamppb.New(time.Now().Add(time.Hour))}
}

// Committed gives the event that the goods have left the stock.
func Committed(orderID string) *inventoryv1.StockCommitted {
	return &inventoryv1.StockCommitted{OrderId: orderID}
}

// Cancelled gives the event that asks to undo because the order is cancelled.
func Cancelled(orderID string) *shippingv1.ShipmentCancelled {
	return &shippingv1.ShipmentCancelled{OrderId: orderID, Noop: true}
}

// Returned gives the event that asks to undo because the parcel is back.
func Returned(orderID string) *shippingv1.ShipmentReturned {
	return &shippingv1.ShipmentReturned{OrderId: orderID}
}
