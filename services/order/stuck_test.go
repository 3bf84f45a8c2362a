package order_test

import (
	"strings"
	"testing"
	"time"

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

func TestAnOrderThatCannotBeRetriedSaysWhatCanBeDone(t *testing.T) {
	deadline := time.Date(2026, 11, 23, 12, 5, 0, 0, time.UTC)
	for s, words := range map[order.Status][]string{
		order.Placed:     {"inventory to hold the stock", "RedriveDeadLetters", "CancelOrder", "2026-11-23T12:05:00Z"},
		order.Held:       {"payment to authorize", "RedriveDeadLetters", "CancelOrder", "2026-11-23T12:05:00Z"},
		order.Authorized: {"inventory to commit", "RedriveDeadLetters", "CancelOrder", "2026-11-23T12:05:00Z"},
		order.Committed:  {"payment to capture", "RedriveDeadLetters", "CancelOrder", "2026-11-23T12:05:00Z"},
		order.Captured:   {"shipping to book", "RedriveDeadLetters", "CancelOrder", "2026-11-23T12:05:00Z"},
		order.Scheduled:  {"carrier to fetch", "CancelOrder"},
		order.Dispatched: {"on its way", "ReturnOrder"},
		order.Delivered:  {"ReturnOrder"},
		order.Returned:   {"has ended"},
		order.Rejected:   {"has ended"},
		order.Cancelled:  {"has ended"},
	} {
		err := order.CheckRetry(order.Order{Status: s, Deadline: deadline})
		for _, w := range append(words, order.StatusName(s)) {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: the error does not say %q: %v", order.StatusName(s), w, err)
			}
		}
		cancel, back := order.RuleFor(s, order.CancelRequested).Action == order.Advance, order.RuleFor(s, order.ReturnRequested).Action == order.Advance
		if err != nil && (strings.Contains(err.Error(), "CancelOrder") != cancel || strings.Contains(err.Error(), "ReturnOrder") != back) {
			t.Errorf("%s can be cancelled: %t, sent back: %t; the error says %v", order.StatusName(s), cancel, back, err)
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
