package payment

import "time"

// A Message is a kind of thing that can reach a payment.
type Message uint8

// The messages: what other services say, what people ask for, and what the
// provider decided about each operation.
const (
	OrderPlaced         Message = iota // the order, its total and how it is paid
	OrderRejected                      // the goods could not be held
	StockHeld                          // the goods are held until a moment
	StockCommitted                     // the goods have left the stock for good
	CancelRequested                    // ShipmentCancelled: give everything back, the order is cancelled
	ReturnRequested                    // ShipmentReturned: give everything back, the parcel is back
	RefundRequested                    // somebody of the staff wants money paid back
	AuthorizeApproved                  // the provider set the money aside
	AuthorizeRefused                   // it will not
	AuthorizeUnanswered                // it did not answer
	AuthorizeNeverSeen                 // it does not know the request
	CaptureApproved                    // the provider took the money
	CaptureRefused                     // it will not
	CaptureUnanswered                  // it did not answer
	CaptureNeverSeen                   // it does not know the request
	VoidApproved                       // the provider set the money free
	VoidRefused                        // it will not, this time
	VoidUnanswered                     // it did not answer
	VoidNeverSeen                      // it does not know the request
	PaybackApproved                    // the provider paid money back
	PaybackRefused                     // it will not, this time
	PaybackUnanswered                  // it did not answer
	PaybackNeverSeen                   // it does not know the request
	messageCount
)

var messageNames = [messageCount]string{
	"OrderPlaced", "OrderRejected", "StockHeld", "StockCommitted", "ShipmentCancelled", "ShipmentReturned", "RefundPayment",
	"authorize approved", "authorize refused", "authorize unanswered", "authorize never seen",
	"capture approved", "capture refused", "capture unanswered", "capture never seen",
	"void approved", "void refused", "void unanswered", "void never seen",
	"refund approved", "refund refused", "refund unanswered", "refund never seen",
}

// String gives the message's name: that of the event or command, or what the
// provider decided.
func (m Message) String() string {
	if m < messageCount {
		return messageNames[m]
	}
	return "invalid"
}

// Messages lists all messages.
func Messages() []Message {
	all := make([]Message, messageCount)
	for i := range all {
		all[i] = Message(i)
	}
	return all
}

// Input is one message with what it carries; which fields count depends on the
// message.
type Input struct {
	Message Message

	UserID   string    // of OrderPlaced
	Total    Money     // of OrderPlaced
	Token    string    // of OrderPlaced
	PlacedAt time.Time // of OrderPlaced

	ExpiresAt time.Time // of StockHeld

	Amount *Money // of RefundRequested; nil is all that is left
	Reason string // of RefundRequested

	RefundID string // of the provider's answers about refunds
	Answer   Answer // of the provider's answers
}

// Outcome gives the input that the provider's answer a to request r makes.
func Outcome(r Request, a Answer) Input {
	first := [...]Message{Authorize: AuthorizeApproved, Capture: CaptureApproved, Void: VoidApproved, Payback: PaybackApproved}
	offset := [...]Message{Approved: 0, Refused: 1, OutcomeUnknown: 2, NeverSeen: 3}
	return Input{Message: first[r.Operation] + offset[a.Verdict], RefundID: r.RefundID, Answer: a}
}
