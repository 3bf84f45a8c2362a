package payment

import paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"

// A Booking is a kind of entry in the ledger.
type Booking uint8

// The bookings. Their numbers are stored.
const (
	BookAuthorize Booking = iota + 1 // money set aside
	BookCapture                      // money taken
	BookVoid                         // money set free
	BookRefund                       // money owed to the customer
	BookPayback                      // money paid back
)

// String gives the booking's name, as it stands in transaction ids.
func (b Booking) String() string {
	names := [...]string{"invalid", "authorize", "capture", "void", "refund", "payback"}
	if int(b) < len(names) {
		return names[b]
	}
	return names[0]
}

// Operation gives the operation a booking is about.
func (b Booking) Operation() Operation {
	switch b {
	case BookAuthorize:
		return Authorize
	case BookCapture:
		return Capture
	case BookVoid:
		return Void
	case BookRefund, BookPayback:
		return Payback
	}
	return 0
}

// Account is an account of the ledger, in the words of the contract.
type Account = paymentv1.LedgerAccount

// The accounts.
const (
	CustomerHold       = paymentv1.LedgerAccount_LEDGER_ACCOUNT_CUSTOMER_HOLD
	Clearing           = paymentv1.LedgerAccount_LEDGER_ACCOUNT_CLEARING
	ProviderReceivable = paymentv1.LedgerAccount_LEDGER_ACCOUNT_PROVIDER_RECEIVABLE
	Revenue            = paymentv1.LedgerAccount_LEDGER_ACCOUNT_REVENUE
	RefundPayable      = paymentv1.LedgerAccount_LEDGER_ACCOUNT_REFUND_PAYABLE
)

// Entry is one booking: postings that add up to zero. An order has at most one
// entry per booking and number, and the store holds it to that.
type Entry struct {
	Booking   Booking
	Number    int64 // of the refund; 0 for the rest
	Postings  []Posting
	Reference string // the provider's reference of what was settled, if anything
}

// Posting is one line of an entry: positive is a debit, negative a credit.
type Posting struct {
	Account Account
	Amount  int64
}

// book gives the entry of a booking over amount.
func book(b Booking, number, amount int64, reference string) Entry {
	e := Entry{Booking: b, Number: number, Reference: reference}
	switch b {
	case BookAuthorize:
		e.Postings = []Posting{{CustomerHold, amount}, {Clearing, -amount}}
	case BookVoid:
		e.Postings = []Posting{{CustomerHold, -amount}, {Clearing, amount}}
	case BookCapture:
		e.Postings = []Posting{{CustomerHold, -amount}, {Clearing, amount}, {ProviderReceivable, amount}, {Revenue, -amount}}
	case BookRefund:
		e.Postings = []Posting{{Revenue, amount}, {RefundPayable, -amount}}
	case BookPayback:
		e.Postings = []Posting{{RefundPayable, amount}, {ProviderReceivable, -amount}}
	}
	return e
}
