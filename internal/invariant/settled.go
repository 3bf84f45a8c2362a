package invariant

import (
	"fmt"
	"slices"

	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/orderd"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/shipping"
)

// Money tells what is wrong with the money of an order in a status of which total
// is the price, taken what was ever captured and kept what is left of it after all
// refunds; "" if nothing is. It knows statuses in which the saga is over.
func Money(s order.Status, total, taken, kept int64) string {
	switch s {
	case order.Scheduled, order.Dispatched, order.Delivered:
		switch {
		case taken != total:
			return fmt.Sprintf("%d were taken of its %d", taken, total)
		case kept < 0:
			return fmt.Sprintf("%d more were paid back than taken", -kept)
		}
	case order.Rejected:
		if taken != 0 {
			return fmt.Sprintf("%d were taken", taken)
		}
	case order.Cancelled, order.Returned:
		if kept != 0 {
			return fmt.Sprintf("%d of its money are kept", kept)
		}
	default: // on its way
	}
	return ""
}

// Stock tells what is wrong with the hold of an order in a status, "" if nothing is.
func Stock(s order.Status, hold inventory.State) string {
	var good []inventory.State
	switch s {
	case order.Scheduled, order.Dispatched, order.Delivered:
		good = []inventory.State{inventory.Committed}
	case order.Rejected:
		good = []inventory.State{inventory.Rejected}
	case order.Cancelled:
		good = []inventory.State{inventory.Rejected, inventory.Expired, inventory.Released, inventory.RestockedHold, inventory.Tombstoned}
	case order.Returned:
		good = []inventory.State{inventory.RestockedHold}
	default:
		return ""
	}
	switch {
	case slices.Contains(good, hold):
		return ""
	case hold == inventory.None:
		return "inventory has not heard of it"
	}
	return fmt.Sprintf("its stock is %s", hold)
}

// Parcel tells what is wrong with the parcel of an order in a status, "" if nothing is.
func Parcel(s order.Status, p shipping.Shipment) string {
	var good []shipping.State
	switch s {
	case order.Rejected:
		good = []shipping.State{shipping.Cancelled}
	case order.Cancelled:
		good = []shipping.State{shipping.Cancelled, shipping.Refused, shipping.Lost}
	case order.Dispatched:
		good = []shipping.State{shipping.Dispatched, shipping.Lost}
	case order.Delivered:
		good = []shipping.State{shipping.Delivered}
	case order.Returned:
		good = []shipping.State{shipping.Returned}
	default:
		return ""
	}
	late := s == order.Cancelled && p.State == shipping.Lost && p.LostLate
	if slices.Contains(good, p.State) && !late {
		return ""
	}
	return fmt.Sprintf("its parcel is %s", p.State)
}

// over: the order has ended, and everybody agrees how.
func (c *check) over(o *orderd.Audited) {
	shipment := c.Shipments[o.ID]
	lost := o.Status == order.Dispatched && shipment.State == shipping.Lost // people have to decide
	if !order.Terminal(o.Status) && !lost {
		c.say("not over", o.ID, "is %s, for %s; hold %s, payment %s, parcel %s", order.StatusName(o.Status), order.ReasonName(o.Reason),
			c.Inventory.Holds[o.ID].State, c.Payment.Payments[o.ID].State, shipment.State)
		return
	}
	p := c.Payment.Payments[o.ID]
	total := o.Details.Total.GetMinorUnits()
	if text := Money(o.Status, total, p.Captured(), p.Captured()-p.Refunded()); text != "" {
		c.say("money", o.ID, "is %s, but %s", order.StatusName(o.Status), text)
	}
	if p.ID != "" && (p.Amount.Minor != total || p.Amount.Currency != o.Details.Total.GetCurrencyCode()) {
		c.say("money", o.ID, "costs %d, its payment is of %d", total, p.Amount.Minor)
	}
	if p.Waiting() != 0 || p.Review || p.State == payment.New || p.State == payment.Authorized || p.State == payment.CaptureFailed {
		c.say("money", o.ID, "is %s, but its payment is %s", order.StatusName(o.Status), p.State)
	}
	hold := c.Inventory.Holds[o.ID]
	if text := Stock(o.Status, hold.State); text != "" {
		c.say("stock", o.ID, "is %s, but %s", order.StatusName(o.Status), text)
	}
	if hold.State == inventory.Committed && !sameLines(o, hold) {
		c.say("stock", o.ID, "got other goods than it asked for")
	}
	if text := Parcel(o.Status, shipment); text != "" {
		c.say("parcel", o.ID, "is %s, but %s", order.StatusName(o.Status), text)
	}
}

func sameLines(o *orderd.Audited, h inventory.Hold) bool {
	want, err := inventory.Merge(o.Details.Lines)
	return err == nil && slices.Equal(want, h.Lines)
}
