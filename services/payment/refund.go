package payment

import (
	"github.com/waybill-dev/waybill/platform/errs"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
)

// Reasons of the refunds that undo an order.
const (
	reasonCancelled = "order_cancelled"
	reasonReturned  = "parcel_returned"
)

// refund takes the command to pay money back.
func (s *step) refund() error {
	left := s.p.Left()
	amount := left
	if a := s.in.Amount; a != nil {
		if a.Currency != s.p.Amount.Currency {
			return errs.E(errs.Invalid, "CURRENCY_MISMATCH", "the payment is in %s; it cannot be paid back in %s", s.p.Amount.Currency, a.Currency).
				WithFields(errs.Field{Path: "amount.currency_code", Problem: "must be " + s.p.Amount.Currency})
		}
		if a.Minor <= 0 {
			return errs.E(errs.Invalid, "AMOUNT_NOT_POSITIVE", "a refund is more than nothing").
				WithFields(errs.Field{Path: "amount.minor_units", Problem: "must be more than 0"})
		}
		amount = a.Minor
	}
	if amount > left || left == 0 {
		return errs.E(errs.FailedPrecondition, "REFUND_EXCEEDS_CAPTURED", "of what was taken only %d %s (minor units) can still be paid back", left, s.p.Amount.Currency)
	}
	if len(s.p.Rare.Refunds) >= MaxRefunds {
		return errs.E(errs.FailedPrecondition, "TOO_MANY_REFUNDS", "a payment can have %d refunds, and this one has; pay the rest back in one outside of the system", MaxRefunds)
	}
	s.addRefund(amount, s.in.Reason, false)
	s.settle()
	return nil
}

// addRefund books a refund and asks the provider for it.
func (s *step) addRefund(amount int64, reason string, reversal bool) {
	r := Refund{
		ID:       s.env.NewID(),
		Number:   int64(len(s.p.Rare.Refunds)) + 1,
		Amount:   amount,
		Reason:   reason,
		Reversal: reversal,
		Created:  s.env.Now,
	}
	s.p.Rare.Refunds = append(s.p.Rare.Refunds, r)
	s.book(BookRefund, r.Number, amount, "")
	s.out.Calls = append(s.out.Calls, Call{Request: s.p.request(Payback, &r)})
}

// giveBack takes the wish to undo when money was taken.
func (s *step) giveBack() {
	if s.p.Rare.Undo.Done {
		s.reply()
		return
	}
	s.wish()
	s.giveRest()
}

// giveRest pays back what is left for the wish to undo.
func (s *step) giveRest() {
	if left := s.p.Left(); left > 0 {
		reason := reasonCancelled
		if s.p.Rare.Undo.Purpose == paymentv1.ReversalPurpose_REVERSAL_PURPOSE_RETURN {
			reason = reasonReturned
		}
		s.addRefund(left, reason, true)
	}
	s.settle()
}

// payBack notes that the provider has paid back a refund.
func (s *step) payBack() {
	i := s.p.refund(s.in.RefundID)
	if i < 0 {
		s.out.Rule, s.out.Alarm = Alarm, "the provider paid back a refund that nobody asked for"
		return
	}
	r := &s.p.Rare.Refunds[i]
	if r.State == RefundDone {
		s.out.Rule = Ignore
		return
	}
	r.State, r.Trouble = RefundDone, Trouble{}
	s.book(BookPayback, r.Number, r.Amount, s.in.Answer.Reference)
	if !r.Reversal {
		s.emit(&paymentv1.PaymentRefunded{
			OrderId: s.p.OrderID, PaymentId: s.p.ID, RefundId: r.ID,
			Amount: Money{r.Amount, s.p.Amount.Currency}.Proto(), TotalRefunded: Money{s.p.Refunded(), s.p.Amount.Currency}.Proto(),
		})
	}
	s.settle()
}

// settle finds the state after a change of refunds, and answers the wish to undo
// when none is under way any more.
func (s *step) settle() {
	s.out.Changed = true
	under, _ := s.p.pending()
	if under > 0 {
		s.p.State = Refunding
		return
	}
	s.settleIn(Captured)
	if refunded := s.p.Refunded(); refunded > 0 && refunded == s.p.Amount.Minor {
		s.settleIn(Refunded)
	}
	if s.wished() && !s.p.Rare.Undo.Done {
		var undone int64
		for _, r := range s.p.Rare.Refunds {
			if r.Reversal {
				undone += r.Amount
			}
		}
		s.finish(0, undone)
	}
}
