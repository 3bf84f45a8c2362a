package order

import (
	"strings"
	"testing"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
)

// One in ten of the all-digit numbers that carriers give has the check digit of a
// card, and some others pass for an IBAN.
func TestANumberOfACarrierIsKeptWhateverItLooksLike(t *testing.T) {
	t.Parallel()
	for _, number := range []string{"WB00000000000000AB", "799999999990", "378282246310005", "GB82WEST12345698765432", "1Z999AA10123456784"} {
		in, ok := Read(&shippingv1.ShipmentScheduled{ShipmentId: "s", Carrier: "Parcels", TrackingNumber: number})
		if !ok || in.TrackingNumber != number || in.Detail != "Parcels "+number {
			t.Errorf("%s: %+v", number, in)
		}
	}
	in, _ := Read(&shippingv1.ShipmentScheduled{Carrier: "card 4242 4242 4242 4242", TrackingNumber: "no number: 4242 4242 4242 4242"})
	if strings.Contains(in.Detail+in.TrackingNumber, "4242") {
		t.Errorf("a text with a card number is kept: %+v", in)
	}
}

func TestShortagesNameTheirProductsWhateverTheirIdsLookLike(t *testing.T) {
	t.Parallel()
	id := "42424242-4242-4242-8000-00000000000a"
	in, ok := Read(&inventoryv1.StockRejected{Shortages: []*inventoryv1.Shortage{{ProductId: id, Requested: 2, Available: 1}}})
	if !ok || in.Detail != id+": 2 wanted, 1 available" {
		t.Errorf("%+v", in)
	}
}
