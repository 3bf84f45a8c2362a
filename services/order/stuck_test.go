package order_test

import (
	"testing"

	"github.com/waybill-dev/waybill/platform/errs"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order"
)

func TestEveryOrderThatHasADeadlineWaitsForSomebody(t *testing.T) {
	for _, s := range order.Statuses() {
		waits := order.RuleFor(s, order.DeadlinePassed).Action != order.Ignore
		service, what := order.WaitsFor(s, nil)
		if waits != (service != "") || waits != (what != "") {
			t.Errorf("%s has a deadline: %t, waits for %q %q", order.StatusName(s), waits, service, what)
		}
		err := order.CheckRetry(order.Order{Status: s})
		if can := s == order.Cancelling || s == order.Returning; can != (err == nil) {
			t.Errorf("%s can be retried: %v", order.StatusName(s), err)
		} else if !can && (errs.KindOf(err) != errs.FailedPrecondition || errs.ReasonOf(err) != "NOTHING_TO_RETRY") {
			t.Errorf("%s: %v", order.StatusName(s), err)
		}
	}
}

func TestTheWaybillTellsHowFarAnUndoingHasCome(t *testing.T) {
	entries := func(ms ...order.Message) (all []*orderv1.WaybillEntry) {
		for _, m := range ms {
			all = append(all, &orderv1.WaybillEntry{Event: m.Event()})
		}
		return all
	}
	for _, c := range []struct {
		status  order.Status
		entries []*orderv1.WaybillEntry
		want    string
	}{
		{order.Cancelling, entries(order.StockHeld, order.CancelRequested), "shipping"},
		{order.Cancelling, entries(order.CancelRequested, order.ShipmentCancelled), "payment"},
		{order.Cancelling, entries(order.CancelRequested, order.PaymentReversed, order.ShipmentCancelled), "inventory"},
		{order.Returning, entries(order.ShipmentDelivered, order.ReturnRequested), "shipping"},
		{order.Returning, entries(order.ShipmentReturned), "payment"},
		{order.Returning, entries(order.ShipmentReturned, order.PaymentReversed), "inventory"},
	} {
		if got, _ := order.WaitsFor(c.status, c.entries); got != c.want {
			t.Errorf("%s with %v waits for %s, want %s", order.StatusName(c.status), c.entries, got, c.want)
		}
	}
}
