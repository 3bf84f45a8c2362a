package shipping

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
)

// Env is what a step may use besides the shipment and the message.
type Env struct {
	Now   time.Time
	NewID func() string
}

// On gives the shipment as it is after a message, and what comes of it. It is
// pure: the same arguments give the same result but for new ids.
func (s Shipment) On(in Input, env Env) (Shipment, Outcome) {
	st := step{s: s, in: in, env: env}
	if in.Scan != nil && st.known() {
		return s, Outcome{Known: true}
	}
	st.apply(RuleFor(s.State, in.Message))
	if st.out.Changed {
		st.s.Updated = env.Now
		if st.s.Created.IsZero() {
			st.s.Created = env.Now
		}
	}
	return st.s, st.out
}

// step is one input at work.
type step struct {
	s   Shipment
	in  Input
	env Env
	out Outcome
}

func (st *step) apply(r Rule) {
	switch r {
	case Ignore:
	case Note:
		st.scan()
	case Join:
		st.join()
	case Bury:
		st.become(Cancelled)
		st.answer()
	case Close:
		st.become(Cancelled)
	case Wait:
		st.out.Changed = !st.s.Undo
		st.s.Undo = true
	case Confirm:
		st.confirm()
	case GiveUp:
		st.giveUp()
	case Recall:
		st.become(CallingOff)
		st.s.Undo = true
		st.call(CallOff)
	case Reply:
		st.reply()
	case Deny:
		st.deny()
	case Release:
		st.become(Cancelled)
		st.answer()
	case Keep:
		st.become(Scheduled) // the scan that says so makes it Dispatched
		st.s.Undo = false
		st.deny()
	case Depart:
		st.depart()
	case DepartLate:
		st.s.Undo = false
		st.deny()
		st.depart()
		if st.in.Message == ScanDelivered {
			st.arrive()
		}
	case Arrive:
		if st.s.State == Scheduled {
			st.depart()
		} else {
			st.scan()
		}
		st.arrive()
	case Lose:
		st.lose()
		st.emit(&shippingv1.ShipmentLost{OrderId: st.s.OrderID, ShipmentId: st.s.ID, AfterDispatch: st.s.LostLate, LostAt: st.seen()})
	case LoseAnswer:
		st.lose()
		st.answer()
	case Expect:
		st.expect()
	case Seek:
		if st.s.LostLate {
			st.expect()
		} else {
			st.out.Alarm = true
		}
	case TakeBack:
		st.scan()
		st.become(Returned)
		st.returned()
	case ReplyBack:
		st.returned()
	case Reject:
		st.out.Rejects = "SHIPMENT_" + st.s.State.String()
	default:
		st.out.Alarm = true
		if st.in.Scan != nil {
			st.out.Rejects = "SHIPMENT_" + st.s.State.String()
		}
	}
}

func (st *step) become(s State) {
	st.s.State = s
	st.out.Changed = true
}

func (st *step) emit(e proto.Message) { st.out.Events = append(st.out.Events, e) }

func (st *step) call(c Call) { st.out.Calls = append(st.out.Calls, c) }

// known tells whether this very scan has come before.
func (st *step) known() bool {
	return slices.ContainsFunc(st.s.Scans, func(s *shippingv1.Scan) bool { return s.GetScanId() == st.in.Scan.GetScanId() })
}

// scan keeps the scan, if there is one, and with it the last before it.
func (st *step) scan() {
	if st.in.Scan == nil {
		return
	}
	scan := proto.CloneOf(st.in.Scan)
	scan.ReportTime = timestamppb.New(st.env.Now)
	kept := st.s.Scans[max(0, len(st.s.Scans)-MaxScans+1):]
	st.s.Scans = append(slices.Clip(kept), scan)
	st.s.Scanned++
	st.out.Changed = true
}

// seen gives when the thing happened that is told.
func (st *step) seen() *timestamppb.Timestamp {
	if t := st.in.Scan.GetScanTime(); t != nil {
		return t
	}
	return timestamppb.New(st.env.Now)
}

func (st *step) join() {
	if st.in.Message == OrderPlaced {
		st.s.Placed = true
		st.s.UserID, st.s.ShipTo = st.in.UserID, st.in.ShipTo
	} else {
		st.s.Paid = true
	}
	st.out.Changed = true
	if !st.s.Placed || !st.s.Paid {
		return
	}
	st.s.ID = st.env.NewID()
	st.become(Booking)
	st.call(Book)
}

func (st *step) confirm() {
	st.s.Carrier, st.s.Tracking, st.s.BookedAt, st.s.Booked = st.in.Carrier, st.in.Number, st.env.Now, true
	st.become(Scheduled)
	st.emit(&shippingv1.ShipmentScheduled{OrderId: st.s.OrderID, ShipmentId: st.s.ID, Carrier: st.s.Carrier, TrackingNumber: st.s.Tracking})
	st.call(Track) // also when it is called off right away: the carrier may refuse that, and then nobody asks again
	if st.s.Undo {
		st.become(CallingOff)
		st.call(CallOff)
	}
}

func (st *step) giveUp() {
	st.s.Reason = st.in.Reason
	st.become(Refused)
	if st.s.Undo {
		st.answer()
		return
	}
	st.emit(&shippingv1.ShipmentRefused{OrderId: st.s.OrderID, ShipmentId: st.s.ID, Reason: st.s.Reason})
}

// answer says that nothing is on its way. It says the same each time.
func (st *step) answer() {
	st.emit(&shippingv1.ShipmentCancelled{OrderId: st.s.OrderID, ShipmentId: st.s.ID, Noop: !st.s.Booked})
}

func (st *step) reply() {
	if st.s.State == Lost && st.s.LostLate {
		st.deny()
		return
	}
	st.answer()
}

func (st *step) deny() {
	st.emit(&shippingv1.ShipmentCancelRefused{OrderId: st.s.OrderID, ShipmentId: st.s.ID, Reason: "already_dispatched"})
}

func (st *step) depart() {
	st.scan()
	st.become(Dispatched)
	st.emit(&shippingv1.ShipmentDispatched{OrderId: st.s.OrderID, ShipmentId: st.s.ID, DispatchedAt: st.seen()})
}

func (st *step) arrive() {
	st.become(Delivered)
	st.emit(&shippingv1.ShipmentDelivered{OrderId: st.s.OrderID, ShipmentId: st.s.ID, DeliveredAt: st.seen()})
}

func (st *step) expect() {
	st.become(Returning)
	st.s.ReturnAt = st.env.Now
	st.call(Track)
}

func (st *step) lose() {
	st.s.LostLate = st.s.State == Dispatched
	st.scan()
	st.become(Lost)
}

func (st *step) returned() {
	at := st.seen()
	if st.in.Scan == nil { // told again: say what was said then
		for _, s := range st.s.Scans {
			if s.GetKind() == shippingv1.ScanKind_SCAN_KIND_RETURNED {
				at = s.GetScanTime()
			}
		}
	}
	st.emit(&shippingv1.ShipmentReturned{OrderId: st.s.OrderID, ShipmentId: st.s.ID, ReturnedAt: at})
}
