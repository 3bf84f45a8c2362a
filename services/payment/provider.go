package payment

import (
	"context"

	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
)

// Operation is something asked of a provider, in the words of the contract.
type Operation = paymentv1.PaymentOperation

// The operations.
const (
	Authorize = paymentv1.PaymentOperation_PAYMENT_OPERATION_AUTHORIZE // set money aside
	Capture   = paymentv1.PaymentOperation_PAYMENT_OPERATION_CAPTURE   // take what is set aside
	Void      = paymentv1.PaymentOperation_PAYMENT_OPERATION_VOID      // set it free
	Payback   = paymentv1.PaymentOperation_PAYMENT_OPERATION_REFUND    // pay back what was taken
)

// A Provider moves the money. Both methods may be called any number of times
// with the same Request.Key and must then mean the same one operation. An error,
// a deadline and an answer that does not fit the request all mean the same to
// the caller: the outcome is unknown.
type Provider interface {
	// Execute asks for the operation.
	Execute(ctx context.Context, r Request) (Answer, error)
	// Query asks what became of an operation, without asking for it again.
	Query(ctx context.Context, r Request) (Answer, error)
}

// Request is one operation asked of the provider. It is recorded with the state
// that wants it, so a repetition after a crash is the same to the letter.
type Request struct {
	Operation Operation `json:"op"`
	Key       string    `json:"-"` // idempotency key, given by the platform
	OrderID   string    `json:"order"`
	PaymentID string    `json:"payment"`
	RefundID  string    `json:"refund,omitempty"`
	Amount    Money     `json:"amount"`
	Token     string    `json:"token"`
	Reference string    `json:"ref,omitempty"` // of the authorization, for what follows it
}

// IdempotencyKey gives the key under which the provider knows the operation. A
// payment has one authorization, one capture and one void; refunds have an id.
func (r Request) IdempotencyKey() string {
	switch r.Operation {
	case Authorize:
		return r.PaymentID + ":authorize"
	case Capture:
		return r.PaymentID + ":capture"
	case Void:
		return r.PaymentID + ":void"
	}
	return r.PaymentID + ":refund:" + r.RefundID
}

// A Verdict is what the provider says has become of an operation.
type Verdict uint8

// The verdicts. The zero value is the careful one.
const (
	OutcomeUnknown Verdict = iota // nobody can tell
	Approved                      // done
	Refused                       // decided against, for good; nothing was done
	NeverSeen                     // of Query only: no operation has this key
)

// Answer is the provider's answer. It repeats what it is about, so that an answer
// to something else is noticed.
type Answer struct {
	Verdict   Verdict
	OrderID   string
	Amount    Money
	Reference string // the provider's own reference of the operation
	Reason    string // its code for a refusal
}

const (
	maxReference = 128
	maxReason    = 64
)

// Check gives the answer if it can be trusted as one to r, else an answer of
// OutcomeUnknown and what was wrong with it. A wrong order, amount or currency
// and references no provider would give are never acted upon.
func Check(r Request, a Answer) (Answer, string) {
	distrust := func(what string) (Answer, string) { return Answer{Verdict: OutcomeUnknown}, what }
	switch {
	case a.Verdict == OutcomeUnknown:
		return Answer{}, ""
	case a.Verdict == NeverSeen:
		return Answer{Verdict: NeverSeen}, ""
	case a.Verdict > NeverSeen:
		return distrust("an unknown verdict")
	case a.OrderID != r.OrderID:
		return distrust("another order")
	case a.Amount.Minor < 0:
		return distrust("a negative amount")
	case a.Amount != r.Amount:
		return distrust("another amount")
	case a.Verdict == Approved && !printable(a.Reference, maxReference):
		return distrust("no usable reference")
	case a.Verdict == Refused && !printable(a.Reason, maxReason):
		return distrust("no usable reason")
	}
	return a, ""
}

// printable reports whether s is 1 to limit printable ASCII characters.
func printable(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Asked gives what was, or will be, asked of the provider under a key, and
// whether the key belongs to this payment and operation.
func (p Payment) Asked(op Operation, key string) (Request, bool) {
	if p.ID == "" {
		return Request{}, false
	}
	if op != Payback {
		r := p.request(op, nil)
		return r, r.IdempotencyKey() == key
	}
	for i := range p.Rare.Refunds {
		if r := p.request(op, &p.Rare.Refunds[i]); r.IdempotencyKey() == key {
			return r, true
		}
	}
	return Request{}, false
}
