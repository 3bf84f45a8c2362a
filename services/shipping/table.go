package shipping

import shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"

// A Message is one kind of thing a shipment hears.
type Message uint8

// The messages.
const (
	OrderPlaced     Message = iota // there is an order
	PaymentCaptured                // and it is paid
	OrderCancelling                // everything done for it is to be undone
	OrderRejected                  // it will never be paid
	ReturnRequested                // the customer sends the parcel back
	BookingAccepted                // a carrier will come
	BookingRefused                 // none will
	CallOffDone                    // the carrier will not come
	CallOffRefused                 // too late, the parcel is on its way
	ScanPickedUp
	ScanInTransit
	ScanDelivered
	ScanLost
	ScanReturnPickedUp
	ScanReturned

	messageCount
)

var messageNames = [...]string{
	"OrderPlaced", "PaymentCaptured", "OrderCancelling", "OrderRejected", "OrderReturnRequested", "booking accepted", "booking refused",
	"call-off done", "call-off refused", "scan: picked up", "scan: in transit", "scan: delivered", "scan: lost", "scan: return picked up", "scan: returned",
}

// String gives the message's name.
func (m Message) String() string {
	if m < messageCount {
		return messageNames[m]
	}
	return "unknown"
}

// OfScan gives the message that a kind of scan is; false for kinds that there are not.
func OfScan(k shippingv1.ScanKind) (Message, bool) {
	switch k {
	case shippingv1.ScanKind_SCAN_KIND_PICKED_UP:
		return ScanPickedUp, true
	case shippingv1.ScanKind_SCAN_KIND_IN_TRANSIT:
		return ScanInTransit, true
	case shippingv1.ScanKind_SCAN_KIND_DELIVERED:
		return ScanDelivered, true
	case shippingv1.ScanKind_SCAN_KIND_LOST:
		return ScanLost, true
	case shippingv1.ScanKind_SCAN_KIND_RETURN_PICKED_UP:
		return ScanReturnPickedUp, true
	case shippingv1.ScanKind_SCAN_KIND_RETURNED:
		return ScanReturned, true
	default:
		return 0, false
	}
}

// A Rule is what a shipment does about a message.
type Rule uint8

// The rules. Zero is no rule: a hole in the table, which a test refuses.
const (
	noRule     Rule = iota
	Ignore          // late or repeated; everything stays
	Alarm           // it contradicts what is known; everything stays and people are called
	Join            // note it; when the order is known and paid, book a carrier
	Bury            // nothing was booked and nothing will be; answer
	Close           // nothing was booked and nothing will be; nobody asks
	Wait            // note the wish; it is granted when the carrier has answered
	Confirm         // the carrier comes; tell, or call it off if that is wished
	GiveUp          // no carrier comes; tell, or answer the wish to undo
	Recall          // call the carrier off
	Reply           // nothing is on its way: answer, as before if it was answered
	Deny            // it is on its way: answer that it cannot be called off
	Release         // it will not be fetched; answer
	Keep            // it is on its way after all: answer that it cannot be called off
	Depart          // it is on its way; tell
	DepartLate      // it is on its way although it was to be called off; tell both
	Arrive          // it has arrived; tell, also that it had departed if that was missed
	Lose            // it will not arrive; tell
	LoseAnswer      // it was lost before it was fetched; answer the wish to undo
	Note            // note the scan
	Expect          // expect it back
	Seek            // it was lost on its way and may still be found: expect it back; lost before, it is an alarm
	TakeBack        // it is back; tell
	ReplyBack       // it is back; tell again
	Reject          // a scan that cannot be of this parcel now
)

var ruleNames = [...]string{
	"", "ignore", "alarm", "join", "bury", "close", "wait", "confirm", "give up", "recall", "reply", "deny", "release", "keep", "depart", "depart late",
	"arrive", "lose", "lose, answer", "note", "expect", "seek", "take back", "reply", "reject",
}

// String gives the rule's name in lower case.
func (r Rule) String() string { return ruleNames[r] }

// RuleFor gives the rule for a message in a state. There is one for every pair.
func RuleFor(s State, m Message) Rule {
	if s >= stateCount || m >= messageCount {
		return Alarm
	}
	return table[s][m]
}

// table is total. The carrier's answers are ignored where none is awaited: they
// are then those of a call that was repeated.
var table = [stateCount][messageCount]Rule{
	New: {
		OrderPlaced: Join, PaymentCaptured: Join, OrderCancelling: Bury, OrderRejected: Close, ReturnRequested: Alarm,
		BookingAccepted: Alarm, BookingRefused: Alarm, CallOffDone: Alarm, CallOffRefused: Alarm,
		ScanPickedUp: Reject, ScanInTransit: Reject, ScanDelivered: Reject, ScanLost: Reject, ScanReturnPickedUp: Reject, ScanReturned: Reject,
	},
	Booking: {
		OrderPlaced: Ignore, PaymentCaptured: Ignore, OrderCancelling: Wait, OrderRejected: Alarm, ReturnRequested: Alarm,
		BookingAccepted: Confirm, BookingRefused: GiveUp, CallOffDone: Alarm, CallOffRefused: Alarm,
		ScanPickedUp: Reject, ScanInTransit: Reject, ScanDelivered: Reject, ScanLost: Reject, ScanReturnPickedUp: Reject, ScanReturned: Reject,
	},
	Scheduled: {
		OrderPlaced: Ignore, PaymentCaptured: Ignore, OrderCancelling: Recall, OrderRejected: Alarm, ReturnRequested: Alarm,
		BookingAccepted: Ignore, BookingRefused: Alarm, CallOffDone: Alarm, CallOffRefused: Ignore,
		ScanPickedUp: Depart, ScanInTransit: Depart, ScanDelivered: Arrive, ScanLost: Lose, ScanReturnPickedUp: Reject, ScanReturned: Reject,
	},
	CallingOff: {
		OrderPlaced: Ignore, PaymentCaptured: Ignore, OrderCancelling: Ignore, OrderRejected: Alarm, ReturnRequested: Alarm,
		BookingAccepted: Ignore, BookingRefused: Alarm, CallOffDone: Release, CallOffRefused: Keep,
		ScanPickedUp: DepartLate, ScanInTransit: DepartLate, ScanDelivered: DepartLate, ScanLost: LoseAnswer, ScanReturnPickedUp: Reject, ScanReturned: Reject,
	},
	Dispatched: {
		OrderPlaced: Ignore, PaymentCaptured: Ignore, OrderCancelling: Deny, OrderRejected: Alarm, ReturnRequested: Expect,
		BookingAccepted: Ignore, BookingRefused: Alarm, CallOffDone: Alarm, CallOffRefused: Ignore,
		ScanPickedUp: Note, ScanInTransit: Note, ScanDelivered: Arrive, ScanLost: Lose, ScanReturnPickedUp: Reject, ScanReturned: Reject,
	},
	Delivered: {
		OrderPlaced: Ignore, PaymentCaptured: Ignore, OrderCancelling: Deny, OrderRejected: Alarm, ReturnRequested: Expect,
		BookingAccepted: Ignore, BookingRefused: Alarm, CallOffDone: Alarm, CallOffRefused: Ignore,
		ScanPickedUp: Note, ScanInTransit: Note, ScanDelivered: Note, ScanLost: Reject, ScanReturnPickedUp: Reject, ScanReturned: Reject,
	},
	Returning: {
		OrderPlaced: Ignore, PaymentCaptured: Ignore, OrderCancelling: Deny, OrderRejected: Alarm, ReturnRequested: Ignore,
		BookingAccepted: Ignore, BookingRefused: Alarm, CallOffDone: Alarm, CallOffRefused: Ignore,
		ScanPickedUp: Note, ScanInTransit: Note, ScanDelivered: Note, ScanLost: Note, ScanReturnPickedUp: Note, ScanReturned: TakeBack,
	},
	Returned: {
		OrderPlaced: Ignore, PaymentCaptured: Ignore, OrderCancelling: Deny, OrderRejected: Alarm, ReturnRequested: ReplyBack,
		BookingAccepted: Ignore, BookingRefused: Alarm, CallOffDone: Alarm, CallOffRefused: Ignore,
		ScanPickedUp: Note, ScanInTransit: Note, ScanDelivered: Note, ScanLost: Reject, ScanReturnPickedUp: Note, ScanReturned: Note,
	},
	Refused: {
		OrderPlaced: Ignore, PaymentCaptured: Ignore, OrderCancelling: Reply, OrderRejected: Alarm, ReturnRequested: Alarm,
		BookingAccepted: Alarm, BookingRefused: Ignore, CallOffDone: Ignore, CallOffRefused: Alarm,
		ScanPickedUp: Reject, ScanInTransit: Reject, ScanDelivered: Reject, ScanLost: Reject, ScanReturnPickedUp: Reject, ScanReturned: Reject,
	},
	Cancelled: {
		OrderPlaced: Ignore, PaymentCaptured: Ignore, OrderCancelling: Reply, OrderRejected: Ignore, ReturnRequested: Alarm,
		BookingAccepted: Ignore, BookingRefused: Ignore, CallOffDone: Ignore, CallOffRefused: Alarm,
		ScanPickedUp: Reject, ScanInTransit: Reject, ScanDelivered: Reject, ScanLost: Reject, ScanReturnPickedUp: Reject, ScanReturned: Reject,
	},
	Lost: {
		OrderPlaced: Ignore, PaymentCaptured: Ignore, OrderCancelling: Reply, OrderRejected: Alarm, ReturnRequested: Seek,
		BookingAccepted: Ignore, BookingRefused: Alarm, CallOffDone: Ignore, CallOffRefused: Ignore,
		ScanPickedUp: Note, ScanInTransit: Note, ScanDelivered: Note, ScanLost: Note, ScanReturnPickedUp: Reject, ScanReturned: Reject,
	},
}
