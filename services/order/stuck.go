package order

import (
	"slices"

	"github.com/waybill-dev/waybill/platform/errs"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// CheckRetry fails with FailedPrecondition unless the order waits for something
// that can be asked for again.
func CheckRetry(o Order) error {
	if RuleFor(o.Status, DeadlinePassed).Action == Remind {
		return nil
	}
	if Terminal(o.Status) || SagaOver(o.Status) {
		return errs.E(errs.FailedPrecondition, "NOTHING_TO_RETRY", "the order is %s and waits for nothing", StatusName(o.Status)).WithMeta("status", StatusName(o.Status))
	}
	service, what := WaitsFor(o.Status, nil)
	return errs.E(errs.FailedPrecondition, "NOTHING_TO_RETRY",
		"the order is %s and waits for %s %s; look at the dead letters of %s, or cancel the order: it is undone by itself when its deadline passes",
		StatusName(o.Status), service, what, service).WithMeta("status", StatusName(o.Status))
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
