package order

import "fmt"

// Action is what a message does to an order.
type Action uint8

// The actions. Zero is none of them: a pair without an action is a mistake that
// a test finds.
const (
	Advance Action = iota + 1 // the order moves on to another status
	Resume                    // a cancellation came too late: the order goes on where its parcel is
	Remind                    // what was asked for is asked for again
	Note                      // the order stays where it is; the waybill gets an entry
	Ignore                    // nothing new: not even an entry
	Refuse                    // the wish is refused, the caller learns why
	Alarm                     // cannot happen; noted on the waybill, logged and counted
)

// String gives the action's name, as in "advance".
func (a Action) String() string {
	switch a {
	case Advance:
		return "advance"
	case Resume:
		return "resume"
	case Remind:
		return "remind"
	case Note:
		return "note"
	case Ignore:
		return "ignore"
	case Refuse:
		return "refuse"
	case Alarm:
		return "alarm"
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// Rule is what one message does to an order in one status.
type Rule struct {
	Action Action
	To     Status // of Advance; the least of Resume
}

// RuleFor gives the rule for a pair.
func RuleFor(s Status, m Message) Rule {
	if s <= 0 || int(s) >= numStatuses || int(m) >= numMessages {
		return Rule{}
	}
	return rules[m][s]
}

type row = [numStatuses]Rule

var (
	note   = Rule{Action: Note}
	ignore = Rule{Action: Ignore}
	refuse = Rule{Action: Refuse}
	alarm  = Rule{Action: Alarm}
	remind = Rule{Action: Remind}
)

func to(s Status) Rule { return Rule{Action: Advance, To: s} }

// rules is the whole table. It follows five principles:
//
// A fact that moves the order on wins over the facts before it, for those may
// come late: payment_authorized moves a PLACED order to AUTHORIZED, and
// stock_held, when it comes, is noted.
//
// A repetition of the fact that brought the order where it is says nothing new.
//
// While an order is cancelled, whatever still comes in is noted and no more: the
// participants keep a tombstone and undo in their own turn.
//
// What the participants promise never to do together (hold and reject, capture
// and release, dispatch and cancel) is an alarm.
//
// A rejected order has no history with anybody but inventory, so everything else
// is an alarm there.
//
// The columns are the statuses in the order of the contract.
var rules = [numMessages]row{
	StockHeld: {
		Placed: to(Held), Held: ignore, Authorized: note, Committed: note, Captured: note,
		Scheduled: note, Dispatched: note, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	StockRejected: {
		Placed: to(Rejected), Held: alarm, Authorized: alarm, Committed: alarm, Captured: alarm,
		Scheduled: alarm, Dispatched: alarm, Delivered: alarm, Returning: alarm, Returned: alarm,
		Rejected: ignore, Cancelling: note, Cancelled: note,
	},
	StockCommitted: {
		Placed: to(Committed), Held: to(Committed), Authorized: to(Committed), Committed: ignore, Captured: note,
		Scheduled: note, Dispatched: note, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	StockExpired: {
		Placed: to(Cancelling), Held: to(Cancelling), Authorized: to(Cancelling), Committed: alarm, Captured: alarm,
		Scheduled: alarm, Dispatched: alarm, Delivered: alarm, Returning: alarm, Returned: alarm,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	// The last answer of both undo chains. A parcel that nobody announced comes
	// back, too: then it overtakes ShipmentReturned in DISPATCHED and DELIVERED.
	StockReleased: {
		Placed: alarm, Held: alarm, Authorized: alarm, Committed: alarm, Captured: alarm,
		Scheduled: alarm, Dispatched: to(Returned), Delivered: to(Returned), Returning: to(Returned), Returned: ignore,
		Rejected: alarm, Cancelling: to(Cancelled), Cancelled: ignore,
	},
	PaymentAuthorized: {
		Placed: to(Authorized), Held: to(Authorized), Authorized: ignore, Committed: note, Captured: note,
		Scheduled: note, Dispatched: note, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	PaymentDeclined: {
		Placed: to(Cancelling), Held: to(Cancelling), Authorized: alarm, Committed: alarm, Captured: alarm,
		Scheduled: alarm, Dispatched: alarm, Delivered: alarm, Returning: alarm, Returned: alarm,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	PaymentUnknown: {
		Placed: note, Held: note, Authorized: note, Committed: note, Captured: note,
		Scheduled: note, Dispatched: note, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	PaymentCaptured: {
		Placed: to(Captured), Held: to(Captured), Authorized: to(Captured), Committed: to(Captured), Captured: ignore,
		Scheduled: note, Dispatched: note, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: note, // captured and paid back, and overtaken by both
	},
	PaymentCaptureFailed: {
		Placed: to(Cancelling), Held: to(Cancelling), Authorized: to(Cancelling), Committed: to(Cancelling), Captured: alarm,
		Scheduled: alarm, Dispatched: alarm, Delivered: alarm, Returning: alarm, Returned: alarm,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	PaymentRefunded: {
		Placed: note, Held: note, Authorized: note, Committed: note, Captured: note,
		Scheduled: note, Dispatched: note, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	PaymentReversed: {
		Placed: alarm, Held: alarm, Authorized: alarm, Committed: alarm, Captured: alarm,
		Scheduled: alarm, Dispatched: note, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	ShipmentScheduled: {
		Placed: to(Scheduled), Held: to(Scheduled), Authorized: to(Scheduled), Committed: to(Scheduled), Captured: to(Scheduled),
		Scheduled: ignore, Dispatched: note, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	ShipmentRefused: {
		Placed: to(Cancelling), Held: to(Cancelling), Authorized: to(Cancelling), Committed: to(Cancelling), Captured: to(Cancelling),
		Scheduled: alarm, Dispatched: alarm, Delivered: alarm, Returning: alarm, Returned: alarm,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	ShipmentDispatched: {
		Placed: to(Dispatched), Held: to(Dispatched), Authorized: to(Dispatched), Committed: to(Dispatched), Captured: to(Dispatched),
		Scheduled: to(Dispatched), Dispatched: ignore, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: alarm,
	},
	ShipmentDelivered: {
		Placed: to(Delivered), Held: to(Delivered), Authorized: to(Delivered), Committed: to(Delivered), Captured: to(Delivered),
		Scheduled: to(Delivered), Dispatched: to(Delivered), Delivered: ignore, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: alarm,
	},
	ShipmentLost: {
		Placed: to(Cancelling), Held: to(Cancelling), Authorized: to(Cancelling), Committed: to(Cancelling), Captured: to(Cancelling),
		Scheduled: to(Cancelling), Dispatched: alarm, Delivered: alarm, Returning: alarm, Returned: alarm,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	ShipmentLostOnTheWay: {
		Placed: note, Held: note, Authorized: note, Committed: note, Captured: note,
		Scheduled: note, Dispatched: note, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: alarm,
	},
	ShipmentCancelled: {
		Placed: alarm, Held: alarm, Authorized: alarm, Committed: alarm, Captured: alarm,
		Scheduled: alarm, Dispatched: alarm, Delivered: alarm, Returning: alarm, Returned: alarm,
		Rejected: alarm, Cancelling: note, Cancelled: note,
	},
	ShipmentCancelRefused: {
		Placed: alarm, Held: alarm, Authorized: alarm, Committed: alarm, Captured: alarm,
		Scheduled: note, Dispatched: note, Delivered: note, Returning: note, Returned: note,
		Rejected: alarm, Cancelling: {Action: Resume, To: Scheduled}, Cancelled: alarm,
	},
	// A parcel may come back although nobody announced it.
	ShipmentReturned: {
		Placed: alarm, Held: alarm, Authorized: alarm, Committed: alarm, Captured: alarm,
		Scheduled: to(Returning), Dispatched: to(Returning), Delivered: to(Returning), Returning: note, Returned: note,
		Rejected: alarm, Cancelling: note, Cancelled: alarm,
	},
	DeadlinePassed: {
		Placed: to(Cancelling), Held: to(Cancelling), Authorized: to(Cancelling), Committed: to(Cancelling), Captured: to(Cancelling),
		Scheduled: ignore, Dispatched: ignore, Delivered: ignore, Returning: remind, Returned: ignore,
		Rejected: ignore, Cancelling: remind, Cancelled: ignore,
	},
	CancelRequested: {
		Placed: to(Cancelling), Held: to(Cancelling), Authorized: to(Cancelling), Committed: to(Cancelling), Captured: to(Cancelling),
		Scheduled: to(Cancelling), Dispatched: refuse, Delivered: refuse, Returning: refuse, Returned: refuse,
		Rejected: refuse, Cancelling: ignore, Cancelled: ignore,
	},
	ReturnRequested: {
		Placed: refuse, Held: refuse, Authorized: refuse, Committed: refuse, Captured: refuse,
		Scheduled: refuse, Dispatched: to(Returning), Delivered: to(Returning), Returning: ignore, Returned: ignore,
		Rejected: refuse, Cancelling: refuse, Cancelled: refuse,
	},
	// An order that still runs needs its address; its turn comes when it ends.
	UserErased: {
		Placed: ignore, Held: ignore, Authorized: ignore, Committed: ignore, Captured: ignore,
		Scheduled: ignore, Dispatched: ignore, Delivered: note, Returning: ignore, Returned: note,
		Rejected: note, Cancelling: ignore, Cancelled: note,
	},
}
