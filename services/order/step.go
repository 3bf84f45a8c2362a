package order

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// Deadlines says how long an order may stay in a status. In PLACED to CAPTURED it
// is undone after that time. An undoing or a return that takes longer is asked
// for again, each time after twice the time, up to 64 times the first.
type Deadlines struct {
	Placed     time.Duration
	Held       time.Duration
	Authorized time.Duration
	Committed  time.Duration
	Captured   time.Duration
	Cancelling time.Duration
	Returning  time.Duration
}

const (
	maxDeadline  = 365 * 24 * time.Hour
	maxDoublings = 6
)

// DefaultDeadlines gives deadlines far above what a working system needs, so that
// only what is stuck is undone.
func DefaultDeadlines() Deadlines {
	return Deadlines{
		Placed:     5 * time.Minute,
		Held:       15 * time.Minute,
		Authorized: 5 * time.Minute,
		Committed:  15 * time.Minute,
		Captured:   15 * time.Minute,
		Cancelling: 30 * time.Second,
		Returning:  24 * time.Hour,
	}
}

// Validate fails unless every deadline is positive and at most maxDeadline.
func (d Deadlines) Validate() error {
	for _, f := range []struct {
		name string
		d    time.Duration
	}{
		{"placed", d.Placed}, {"held", d.Held}, {"authorized", d.Authorized}, {"committed", d.Committed}, {"captured", d.Captured},
		{"cancelling", d.Cancelling}, {"returning", d.Returning},
	} {
		if f.d <= 0 || f.d > maxDeadline {
			return errs.E(errs.Invalid, "DEADLINE", "the deadline %s must be positive and at most %s", f.name, maxDeadline)
		}
	}
	return nil
}

// next gives when an order that is in s from now on, reminded n times, is due.
func (d Deadlines) next(s Status, n int64, now time.Time) time.Time {
	var wait time.Duration
	switch s {
	case Placed:
		wait = d.Placed
	case Held:
		wait = d.Held
	case Authorized:
		wait = d.Authorized
	case Committed:
		wait = d.Committed
	case Captured:
		wait = d.Captured
	case Cancelling:
		wait = d.Cancelling << min(n, maxDoublings)
	case Returning:
		wait = d.Returning << min(n, maxDoublings)
	default:
		return time.Time{}
	}
	return now.Add(wait)
}

// New gives an order that is placed now.
func (d Deadlines) New(now time.Time) Order {
	return Order{Status: Placed, Deadline: d.next(Placed, 0, now), UpdatedAt: now}
}

// Outcome is what a message came to.
type Outcome struct {
	Action Action
	From   Status
	To     Status
	Detail string          // for the waybill
	Events []proto.Message // to be emitted, in this order
}

// Changed reports whether the order is to be stored with an entry on its waybill.
func (o Outcome) Changed() bool { return o.Action != Ignore }

// Apply gives the order after a message. The order's id is only put into the
// events. The error is FailedPrecondition when a wish is refused and Internal for
// a pair that is not in the table; then nothing is to be stored.
func (d Deadlines) Apply(id string, o Order, in Input, now time.Time) (Order, Outcome, error) {
	rule := RuleFor(o.Status, in.Message)
	out := Outcome{Action: rule.Action, From: o.Status, To: o.Status, Detail: in.Detail}
	if rule.Action == Ignore && o.learn(in) != o {
		// Where it is the order came by another way; this one still tells more.
		rule.Action, out.Action = Note, Note
	}
	switch rule.Action {
	case Ignore:
		return o, out, nil
	case Refuse:
		return o, out, refusal(o, in.Message)
	case Alarm:
		out.Detail = "unexpected; " + in.Detail
		if in.Detail == "" {
			out.Detail = "unexpected"
		}
		o.UpdatedAt = now
		return o, out, nil
	case Note:
		o = o.learn(in)
		if in.Message == UserErased && wished(o.Reason) {
			o.Words = "" // they are the user's own
		}
	case Remind:
		o.Reminders++
		o.Deadline = d.next(o.Status, o.Reminders, now)
		out.Detail = "asked again"
		out.Events = o.request(id)
	case Advance:
		out.To = rule.To
		if in.Message == DeadlinePassed {
			in.Reason = orderv1.OrderReason_ORDER_REASON_TIMED_OUT
			in.Words = StatusName(o.Status)
			out.Detail = "waited too long in " + in.Words
			out.Events = append(out.Events, &orderv1.OrderTimedOut{OrderId: id, State: o.Status})
		}
		o = o.learn(in)
		o = d.enter(id, o, rule.To, in, now, &out)
	case Resume:
		o = o.learn(in)
		out.To = max(rule.To, o.Shipment)
		o = d.enter(id, o, out.To, in, now, &out)
	default:
		return o, out, errs.E(errs.Internal, "", "no rule for %s in %s", in.Message, StatusName(o.Status))
	}
	o.UpdatedAt = now
	return o, out, nil
}

// wished reports whether the words that go with a reason are somebody's own.
func wished(r orderv1.OrderReason) bool {
	return r == orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST || r == orderv1.OrderReason_ORDER_REASON_STAFF_REQUEST
}

// learn keeps what a message tells, whether or not it moves the order.
func (o Order) learn(in Input) Order {
	keep := func(field *string, value string) {
		if value != "" {
			*field = value
		}
	}
	keep(&o.PaymentID, in.PaymentID)
	keep(&o.ShipmentID, in.ShipmentID)
	keep(&o.TrackingNumber, in.TrackingNumber)
	switch in.Message {
	case ShipmentScheduled:
		o.Shipment = max(o.Shipment, Scheduled)
	case ShipmentDispatched:
		o.Shipment = max(o.Shipment, Dispatched)
	case ShipmentDelivered:
		o.Shipment = max(o.Shipment, Delivered)
	}
	return o
}

// enter moves the order to another status.
func (d Deadlines) enter(id string, o Order, s Status, in Input, now time.Time, out *Outcome) Order {
	was := o
	o.Status = s
	o.Reminders = 0
	o.Deadline = d.next(s, 0, now)
	switch s {
	case Rejected, Cancelling:
		o.Reason, o.Words = in.Reason, in.Words
	case Returning:
		o.Reason, o.Words = in.Reason, in.Words
	case Cancelled, Returned:
		// As it was.
	default:
		o.Reason, o.Words = orderv1.OrderReason_ORDER_REASON_UNSPECIFIED, ""
	}
	switch {
	case !SagaOver(s):
		o.SagaOverAt = time.Time{}
	case was.SagaOverAt.IsZero():
		o.SagaOverAt = now
		if s != Rejected && s != Cancelled {
			out.Events = append(out.Events, &orderv1.OrderCompleted{OrderId: id})
		}
	}
	switch s {
	case Rejected:
		out.Events = append(out.Events, &orderv1.OrderRejected{OrderId: id, Reason: o.Reason})
	case Cancelling:
		out.Events = append(out.Events, o.request(id)...)
	case Cancelled:
		out.Events = append(out.Events, &orderv1.OrderCancelled{OrderId: id, Reason: o.Reason})
	case Dispatched:
		out.Events = append(out.Events, &orderv1.OrderDispatched{OrderId: id, ShipmentId: o.ShipmentID})
	case Delivered:
		out.Events = append(out.Events, &orderv1.OrderDelivered{OrderId: id, ShipmentId: o.ShipmentID})
	case Returning:
		// A parcel that is back already needs no request; should the rest of the
		// chain be stuck, the reminder asks.
		if in.Message == ReturnRequested {
			out.Events = append(out.Events, o.request(id)...)
		}
	case Returned:
		out.Events = append(out.Events, &orderv1.OrderReturned{OrderId: id})
	}
	return o
}

// request gives the event that asks the others to undo, or to take the parcel back.
func (o Order) request(id string) []proto.Message {
	switch o.Status {
	case Cancelling:
		return []proto.Message{&orderv1.OrderCancelling{OrderId: id, Reason: o.Reason, Detail: o.Words}}
	case Returning:
		return []proto.Message{&orderv1.OrderReturnRequested{OrderId: id, Reason: o.Words}}
	}
	return nil
}

// refusal says why a wish cannot be granted.
func refusal(o Order, m Message) error {
	var reason, text string
	switch {
	case m == CancelRequested && o.Status == Rejected:
		reason, text = "ORDER_NOT_CANCELLABLE", "the order was rejected; nothing was charged and there is nothing to cancel"
	case m == CancelRequested && (o.Status == Returning || o.Status == Returned):
		reason, text = "ORDER_NOT_CANCELLABLE", "the order is being returned, or was; it cannot be cancelled as well"
	case m == CancelRequested:
		reason, text = "ORDER_NOT_CANCELLABLE", "the parcel is on its way and cannot be called off; use ReturnOrder"
	case o.Status < Dispatched:
		reason, text = "ORDER_NOT_RETURNABLE", "the parcel has not set off yet; use CancelOrder"
	default:
		reason, text = "ORDER_NOT_RETURNABLE", "there is no parcel that could be sent back"
	}
	return errs.E(errs.FailedPrecondition, reason, "%s", text).WithMeta("status", StatusName(o.Status))
}
