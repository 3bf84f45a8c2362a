// Package payment decides what may happen to the money of an order: when it is
// set aside, when it is taken, and how all of it goes back. It knows no database,
// no transport and no provider; what it asks of a provider it states as an
// interface.
//
// Everything that can reach a payment is an Input, and Payment.On is the one pure
// function that takes it. Which rule applies in which state is a total table.
package payment

import (
	"slices"
	"time"

	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// A State says where a payment stands. docs/saga-payment.md draws the graph.
type State uint8

// The states. Their numbers are stored: add new ones at the end.
const (
	New              State = iota // waits for the order and for the goods to be held
	Authorizing                   // the provider was asked to set the money aside
	AuthorizeUnknown              // it did not answer
	Authorized                    // the money is set aside
	Declined                      // it could not be; final unless undone, which changes nothing
	Capturing                     // the provider was asked to take the money
	CaptureUnknown                // it did not answer
	Captured                      // the money is taken; perhaps some of it was paid back
	CaptureFailed                 // it could not be taken; it is set free when the undoing comes
	Voiding                       // the provider was asked to set the money free
	VoidUnknown                   // it did not answer
	Voided                        // the money was set free; final
	Refunding                     // money was taken and some is being paid back
	Refunded                      // everything taken was paid back; final
	Tombstoned                    // undone before anything was asked of the provider; final
	stateCount
)

var stateNames = [stateCount]string{
	"NEW", "AUTHORIZING", "AUTHORIZE_UNKNOWN", "AUTHORIZED", "DECLINED", "CAPTURING", "CAPTURE_UNKNOWN", "CAPTURED",
	"CAPTURE_FAILED", "VOIDING", "VOID_UNKNOWN", "VOIDED", "REFUNDING", "REFUNDED", "TOMBSTONED",
}

// String gives the state's name in capitals.
func (s State) String() string {
	if s < stateCount {
		return stateNames[s]
	}
	return "INVALID"
}

// States lists all states.
func States() []State {
	all := make([]State, stateCount)
	for i := range all {
		all[i] = State(i)
	}
	return all
}

// Money is an amount in the smallest unit of one currency.
type Money struct {
	Minor    int64  `json:"minor"`
	Currency string `json:"currency"`
}

// Proto gives m in the form of the contract.
func (m Money) Proto() *typev1.Money {
	return &typev1.Money{MinorUnits: m.Minor, CurrencyCode: m.Currency}
}

// Seen notes which of its inputs a payment has had; they come in any order.
type Seen uint8

// The inputs that are joined.
const (
	SeenPlaced    Seen = 1 << iota // OrderPlaced
	SeenHeld                       // StockHeld
	SeenCommitted                  // StockCommitted
)

// Has reports whether all of want was seen.
func (s Seen) Has(want Seen) bool { return s&want == want }

// Payment is the money side of one order. It is a value: On gives the next one
// and leaves this as it is.
type Payment struct {
	OrderID   string
	ID        string // "" until OrderPlaced was seen
	UserID    string
	State     State
	Seen      Seen
	Amount    Money
	Token     string    // how the customer pays, as the provider gave it out
	HeldUntil time.Time // the goods are held until then
	Reason    string    // why it was declined or could not be captured, by the provider's code
	Reference string    // the provider's own reference of the authorization
	Review    bool      // nobody knows after long asking; people must look
	Created   time.Time // when the order was placed
	Updated   time.Time
	Rare      Rare
}

// Rare is what only payments have that took another way than the usual one. It
// is stored apart, so that usual ones stay small.
type Rare struct {
	Undo    Undo     `json:"undo,omitzero"`
	Trouble Trouble  `json:"trouble,omitzero"` // of the operation under way
	Refunds []Refund `json:"refunds,omitempty"`
}

// IsZero reports whether there is nothing to store.
func (r Rare) IsZero() bool {
	return r.Undo == (Undo{}) && r.Trouble == (Trouble{}) && len(r.Refunds) == 0
}

// Undo is the wish to give everything back, and what came of it.
type Undo struct {
	Purpose  paymentv1.ReversalPurpose `json:"purpose,omitempty"`  // of the first wish; 0 when there was none
	Both     bool                      `json:"both,omitempty"`     // the other purpose was wished for while the first was under way
	Done     bool                      `json:"done,omitempty"`     // and answered
	Named    bool                      `json:"named,omitempty"`    // the answer names the payment
	Voided   int64                     `json:"voided,omitempty"`   // set free by it
	Refunded int64                     `json:"refunded,omitempty"` // paid back by it
}

// Trouble is how long and how often an operation was tried in vain.
type Trouble struct {
	Since time.Time `json:"since,omitzero"`
	Tries int       `json:"tries,omitempty"`
}

// A RefundState says where one refund stands.
type RefundState uint8

// The states of refunds.
const (
	RefundPending RefundState = iota // the provider was asked
	RefundUnknown                    // it did not answer
	RefundDone                       // paid back
)

// Refund is money paid back, or on its way.
type Refund struct {
	ID       string      `json:"id"`
	Number   int64       `json:"number"` // from 1, within the payment
	Amount   int64       `json:"amount"`
	Reason   string      `json:"reason"`
	State    RefundState `json:"state,omitempty"`
	Reversal bool        `json:"reversal,omitempty"` // part of undoing the order, not somebody's wish
	Trouble  Trouble     `json:"trouble,omitzero"`
	Created  time.Time   `json:"created"`
}

// Captured gives what was taken, before refunds.
func (p Payment) Captured() int64 {
	switch p.State {
	case Captured, Refunding, Refunded:
		return p.Amount.Minor
	}
	return 0
}

// Refunded gives what was paid back and confirmed.
func (p Payment) Refunded() int64 {
	var sum int64
	for _, r := range p.Rare.Refunds {
		if r.State == RefundDone {
			sum += r.Amount
		}
	}
	return sum
}

// pending gives how many refunds are not confirmed, and their sum.
func (p Payment) pending() (n int, sum int64) {
	for _, r := range p.Rare.Refunds {
		if r.State != RefundDone {
			n++
			sum += r.Amount
		}
	}
	return n, sum
}

// Left gives what can still be paid back.
func (p Payment) Left() int64 {
	_, pending := p.pending()
	return p.Captured() - p.Refunded() - pending
}

// Status gives the status that callers of the API see.
func (p Payment) Status() paymentv1.PaymentStatus {
	//exhaustive:enforce
	switch p.State {
	case Authorizing:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_AUTHORIZING
	case Authorized:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_AUTHORIZED
	case AuthorizeUnknown, CaptureUnknown, VoidUnknown:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_UNKNOWN
	case Declined:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_DECLINED
	case Capturing:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_CAPTURING
	case Captured:
		if p.Refunded() > 0 {
			return paymentv1.PaymentStatus_PAYMENT_STATUS_PARTIALLY_REFUNDED
		}
		return paymentv1.PaymentStatus_PAYMENT_STATUS_CAPTURED
	case CaptureFailed:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_CAPTURE_FAILED
	case Voiding:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_VOIDING
	case Voided:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_VOIDED
	case Refunding:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_REFUNDING
	case Refunded:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_REFUNDED
	case Tombstoned:
		return paymentv1.PaymentStatus_PAYMENT_STATUS_CANCELLED
	case New:
	}
	return paymentv1.PaymentStatus_PAYMENT_STATUS_PENDING
}

// Waiting gives the operation whose outcome is awaited, or none.
func (p Payment) Waiting() Operation {
	switch p.State {
	case Authorizing, AuthorizeUnknown:
		return Authorize
	case Capturing, CaptureUnknown:
		return Capture
	case Voiding, VoidUnknown:
		return Void
	case Refunding:
		return Payback
	}
	return 0
}

// Over reports whether nothing is set aside and nothing is under way, so that
// the clearing account must be zero for the order.
func (p Payment) Over() bool {
	switch p.State {
	case Declined, Captured, Voided, Refunding, Refunded, Tombstoned:
		return true
	}
	return false
}

// refund gives the index of a refund, or -1.
func (p Payment) refund(id string) int {
	return slices.IndexFunc(p.Rare.Refunds, func(r Refund) bool { return r.ID == id })
}
