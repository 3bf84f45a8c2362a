package order

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/waybill-dev/waybill/platform/errs"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// orderIn gives a plausible order in a status.
func orderIn(s Status) Order {
	d := DefaultDeadlines()
	o := d.New(noon.Add(-time.Hour))
	o.Status = s
	o.Deadline = d.next(s, 0, noon.Add(-time.Hour))
	if SagaOver(s) {
		o.SagaOverAt = noon.Add(-time.Minute)
	}
	if s >= Scheduled && s <= Delivered {
		o.Shipment = s
	}
	return o
}

// play applies messages one after the other and gives the order and all events.
func play(t *testing.T, o Order, inputs ...Input) (Order, []proto.Message) {
	t.Helper()
	var events []proto.Message
	for _, in := range inputs {
		next, out, err := DefaultDeadlines().Apply("o", o, in, noon)
		if err != nil {
			t.Fatalf("%s in %s: %v", in.Message, StatusName(o.Status), err)
		}
		o = next
		events = append(events, out.Events...)
	}
	return o, events
}

func inputs(ms ...Message) []Input {
	all := make([]Input, len(ms))
	for i, m := range ms {
		all[i] = Input{Message: m}
	}
	return all
}

func TestTheSagaInItsWays(t *testing.T) {
	const out = orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK
	const wish = orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST
	const none = orderv1.OrderReason_ORDER_REASON_UNSPECIFIED
	happy := inputs(StockHeld, PaymentAuthorized, StockCommitted, PaymentCaptured, ShipmentScheduled)
	undo := inputs(ShipmentCancelled, PaymentReversed, StockReleased)
	ask := Input{Message: CancelRequested, Reason: wish, Words: "changed my mind"}
	join := func(parts ...[]Input) (all []Input) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	for name, c := range map[string]struct {
		in     []Input
		status Status
		reason orderv1.OrderReason
		events []proto.Message
	}{
		"all goes well": {
			join(happy, inputs(ShipmentDispatched, ShipmentDelivered)), Delivered, none,
			[]proto.Message{&orderv1.OrderCompleted{OrderId: "o"}, &orderv1.OrderDispatched{OrderId: "o"}, &orderv1.OrderDelivered{OrderId: "o"}},
		},
		"all goes well in the wrong order": {
			inputs(ShipmentScheduled, PaymentCaptured, StockCommitted, PaymentAuthorized, StockHeld), Scheduled, none,
			[]proto.Message{&orderv1.OrderCompleted{OrderId: "o"}},
		},
		"the payment overtakes the hold": {
			inputs(PaymentAuthorized, StockHeld), Authorized, none, nil,
		},
		"out of stock": {
			[]Input{{Message: StockRejected, Reason: out}}, Rejected, out,
			[]proto.Message{&orderv1.OrderRejected{OrderId: "o", Reason: out}},
		},
		"cancelled by the customer": {
			join(happy, []Input{ask}, undo), Cancelled, wish,
			[]proto.Message{
				&orderv1.OrderCompleted{OrderId: "o"},
				&orderv1.OrderCancelling{OrderId: "o", Reason: wish, Detail: "changed my mind"},
				&orderv1.OrderCancelled{OrderId: "o", Reason: wish},
			},
		},
		"waited in vain": {
			join(inputs(StockHeld, DeadlinePassed), undo), Cancelled, orderv1.OrderReason_ORDER_REASON_TIMED_OUT,
			[]proto.Message{
				&orderv1.OrderTimedOut{OrderId: "o", State: Held},
				&orderv1.OrderCancelling{OrderId: "o", Reason: orderv1.OrderReason_ORDER_REASON_TIMED_OUT, Detail: "HELD"},
				&orderv1.OrderCancelled{OrderId: "o", Reason: orderv1.OrderReason_ORDER_REASON_TIMED_OUT},
			},
		},
		"the undoing is asked for again": {
			[]Input{ask, {Message: DeadlinePassed}}, Cancelling, wish,
			[]proto.Message{
				&orderv1.OrderCancelling{OrderId: "o", Reason: wish, Detail: "changed my mind"},
				&orderv1.OrderCancelling{OrderId: "o", Reason: wish, Detail: "changed my mind"},
			},
		},
		"cancelled too late": {
			join(happy, []Input{ask}, inputs(ShipmentCancelRefused, ShipmentDispatched)), Dispatched, none,
			[]proto.Message{
				&orderv1.OrderCompleted{OrderId: "o"},
				&orderv1.OrderCancelling{OrderId: "o", Reason: wish, Detail: "changed my mind"},
				&orderv1.OrderCompleted{OrderId: "o"},
				&orderv1.OrderDispatched{OrderId: "o"},
			},
		},
		"cancelled too late, the parcel is further on than known": {
			join(happy[:4], []Input{ask}, inputs(ShipmentScheduled, ShipmentDispatched, ShipmentDelivered, ShipmentCancelRefused)), Delivered, none,
			[]proto.Message{
				&orderv1.OrderCancelling{OrderId: "o", Reason: wish, Detail: "changed my mind"},
				&orderv1.OrderCompleted{OrderId: "o"},
				&orderv1.OrderDelivered{OrderId: "o"},
			},
		},
		"sent back": {
			join(happy, inputs(ShipmentDispatched), []Input{{Message: ReturnRequested, Reason: wish, Words: "too small"}},
				inputs(ShipmentDelivered, ShipmentReturned, PaymentReversed, StockReleased)), Returned, wish,
			[]proto.Message{
				&orderv1.OrderCompleted{OrderId: "o"},
				&orderv1.OrderDispatched{OrderId: "o"},
				&orderv1.OrderReturnRequested{OrderId: "o", Reason: "too small"},
				&orderv1.OrderReturned{OrderId: "o"},
			},
		},
		"comes back although nobody announced it, in the wrong order": {
			join(happy, inputs(ShipmentDispatched, PaymentReversed, StockReleased, ShipmentReturned)), Returned, none,
			[]proto.Message{&orderv1.OrderCompleted{OrderId: "o"}, &orderv1.OrderDispatched{OrderId: "o"}, &orderv1.OrderReturned{OrderId: "o"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o, events := play(t, DefaultDeadlines().New(noon), c.in...)
			if o.Status != c.status || o.Reason != c.reason {
				t.Errorf("ended %s for %s, want %s for %s", StatusName(o.Status), ReasonName(o.Reason), StatusName(c.status), ReasonName(c.reason))
			}
			if diff := cmp.Diff(c.events, events, protocmp.Transform()); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestACancellationIsGrantedUntilTheParcelSetsOff(t *testing.T) {
	for _, s := range Statuses() {
		o, out, err := DefaultDeadlines().Apply("o", orderIn(s), Input{Message: CancelRequested}, noon)
		switch s {
		case Placed, Held, Authorized, Committed, Captured, Scheduled:
			if err != nil || o.Status != Cancelling || len(out.Events) != 1 {
				t.Errorf("in %s: %s, %v, %v", StatusName(s), StatusName(o.Status), out.Events, err)
			}
		case Cancelling, Cancelled:
			if err != nil || out.Changed() {
				t.Errorf("in %s: a second wish is no error and changes nothing, got %v, %v", StatusName(s), out, err)
			}
		default:
			if errs.KindOf(err) != errs.FailedPrecondition || errs.ReasonOf(err) != "ORDER_NOT_CANCELLABLE" {
				t.Errorf("in %s: %v", StatusName(s), err)
			}
		}
	}
}

func TestRemindersGrowUpToTheirLimit(t *testing.T) {
	d := DefaultDeadlines()
	o := orderIn(Cancelling)
	o.Reminders = 0
	var waits []time.Duration
	for range 14 {
		o, _, _ = d.Apply("o", o, Input{Message: DeadlinePassed}, noon)
		waits = append(waits, o.Deadline.Sub(noon))
	}
	for i, w := range waits {
		if want := min(d.Cancelling<<(i+1), 64*d.Cancelling); w != want {
			t.Errorf("reminder %d waits %v, want %v", i+1, w, want)
		}
	}
	o.Reminders = 1 << 40
	if o, _, _ = d.Apply("o", o, Input{Message: DeadlinePassed}, noon); o.Deadline.Sub(noon) != 64*d.Cancelling {
		t.Errorf("after very many reminders the wait is %v", o.Deadline.Sub(noon))
	}
}

func TestARepetitionThatTellsAnIdIsNoted(t *testing.T) {
	o := orderIn(Cancelling)
	o, _ = play(t, o, Input{Message: ShipmentCancelRefused})
	o, out, err := DefaultDeadlines().Apply("o", o, Input{Message: ShipmentScheduled, ShipmentID: "s", TrackingNumber: "1Z"}, noon)
	if err != nil || out.Action != Note || o.ShipmentID != "s" || o.TrackingNumber != "1Z" || o.Status != Scheduled {
		t.Errorf("got %v, %+v, %v", out, o, err)
	}
	if _, out, _ = DefaultDeadlines().Apply("o", o, Input{Message: ShipmentScheduled, ShipmentID: "s", TrackingNumber: "1Z"}, noon); out.Changed() {
		t.Errorf("the same again is %v", out)
	}
}

// Whatever comes in whatever order: an order never goes back but by Resume, never
// leaves a final status, and its saga ends with exactly one of the ends.
func TestNoSequenceOfMessagesBreaksAnOrder(t *testing.T) {
	d := DefaultDeadlines()
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		o := d.New(noon)
		var path []Message
		for range 60 {
			m := Messages()[r.IntN(len(Messages()))]
			path = append(path, m)
			before := o
			after, out, err := d.Apply("o", o, Input{Message: m}, noon)
			if err != nil {
				if after != before {
					t.Fatalf("seed %d %v: a refused wish changed the order", seed, path)
				}
				continue
			}
			o = after
			final := before.Status == Returned || before.Status == Rejected || before.Status == Cancelled
			if final && o.Status != before.Status {
				t.Fatalf("seed %d %v: left %s for %s", seed, path, StatusName(before.Status), StatusName(o.Status))
			}
			if back := before.Status <= Returned && o.Status < before.Status; back {
				t.Fatalf("seed %d %v: went back from %s to %s", seed, path, StatusName(before.Status), StatusName(o.Status))
			}
			if before.Status == Cancelling && o.Status != Cancelling && o.Status != Cancelled && out.Action != Resume {
				t.Fatalf("seed %d %v: %s left CANCELLING for %s", seed, path, m, StatusName(o.Status))
			}
			if before.Status >= Dispatched && before.Status <= Returned && o.Status == Cancelling {
				t.Fatalf("seed %d %v: cancelled a parcel on its way", seed, path)
			}
			if (o.Status == Rejected || o.Status == Cancelled || o.Status == Cancelling) && out.Action == Advance && o.Status != before.Status && len(out.Events) == 0 {
				t.Fatalf("seed %d %v: nobody was told of %s", seed, path, StatusName(o.Status))
			}
			if SagaOver(o.Status) == o.SagaOverAt.IsZero() {
				t.Fatalf("seed %d %v: in %s, saga over at %v", seed, path, StatusName(o.Status), o.SagaOverAt)
			}
		}
	}
}

// The customer cancels while the money is being taken. All of it is undone, and the
// word that it was taken comes after the word that it is undone.
func TestACaptureThatItsUndoingOvertookIsNoAlarm(t *testing.T) {
	o, _ := play(t, DefaultDeadlines().New(noon), inputs(StockHeld, PaymentAuthorized, CancelRequested, ShipmentCancelled, PaymentReversed, StockReleased)...)
	next, out, err := DefaultDeadlines().Apply("o", o, Input{Message: PaymentCaptured, PaymentID: "p"}, noon)
	if err != nil || out.Action != Note || next.Status != Cancelled {
		t.Errorf("it is a matter of %s, and the order %s: %v", out.Action, StatusName(next.Status), err)
	}
}
