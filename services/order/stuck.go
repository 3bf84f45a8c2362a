package order

import (
	"fmt"
	"slices"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// CheckRetry fails with FailedPrecondition unless the order waits for something
// that can be asked for again. The error says what may be done instead.
func CheckRetry(o Order) error {
	if RuleFor(o.Status, DeadlinePassed).Action == Remind {
		return nil
	}
	return errs.E(errs.FailedPrecondition, "NOTHING_TO_RETRY", "the order is %s%s", StatusName(o.Status), instead(o)).WithMeta("status", StatusName(o.Status))
}

// instead tells what becomes of an order that cannot be asked for again, and what
// may be done about it.
func instead(o Order) string {
	if service, what := WaitsFor(o.Status, nil); service != "" {
		return fmt.Sprintf(" and waits for %s %s, which is tried until it is done or given up: have what %s, or order, gave up about it tried again (RedriveDeadLetters), "+
			"or cancel it (CancelOrder); at %s it is undone by itself", service, what, service, o.Deadline.UTC().Format(time.RFC3339))
	}
	switch o.Status {
	case Scheduled:
		return " and waits for the carrier to fetch the parcel; until then it may be cancelled (CancelOrder)"
	case Dispatched:
		return ": its parcel is on its way, and may be sent back (ReturnOrder)"
	case Delivered:
		return " and waits for nothing; it may be sent back (ReturnOrder)"
	}
	return " and waits for nothing: it has ended"
}

// WaitsFor tells whose turn it is with an order in s, and what they are to do; ""
// when it is nobody's. The entries of its waybill tell how far an undoing has come.
func WaitsFor(s Status, entries []*orderv1.WaybillEntry) (service, what string) {
	switch s {
	case Placed:
		return "inventory", "to hold the stock"
	case Held:
		return "payment", "to authorize the payment"
	case Authorized:
		return "inventory", "to commit the stock"
	case Committed:
		return "payment", "to capture the payment"
	case Captured:
		return "shipping", "to book a carrier"
	case Cancelling, Returning:
	default:
		return "", ""
	}
	heard := func(m Message) bool {
		return slices.ContainsFunc(entries, func(e *orderv1.WaybillEntry) bool { return e.GetEvent() == m.Event() })
	}
	switch {
	case heard(PaymentReversed):
		return "inventory", "to take the stock back"
	case s == Cancelling && heard(ShipmentCancelled), s == Returning && heard(ShipmentReturned):
		return "payment", "to give the money back"
	case s == Cancelling:
		return "shipping", "to call the parcel off"
	}
	return "shipping", "to get the parcel back"
}
