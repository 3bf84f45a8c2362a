package payment

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
)

// ReasonWindowClosed is why a payment is declined without asking the provider:
// its answer might have come after the goods had gone back.
const ReasonWindowClosed = "window_closed"

// MaxRefunds is how many refunds one payment may have.
const MaxRefunds = 100

func (s *step) emit(e proto.Message) { s.out.Events = append(s.out.Events, e) }

func (s *step) book(b Booking, number, amount int64, reference string) {
	s.out.Entries = append(s.out.Entries, book(b, number, amount, reference))
}

// request gives what is asked of the provider for an operation; r is the refund
// it is about, if it is one.
func (p Payment) request(op Operation, r *Refund) Request {
	q := Request{Operation: op, OrderID: p.OrderID, PaymentID: p.ID, Amount: p.Amount, Token: p.Token, Reference: p.Reference}
	if r != nil {
		q.RefundID, q.Amount.Minor = r.ID, r.Amount
	}
	return q
}

// ask moves to a state and asks the provider for an operation, once.
func (s *step) ask(to State, op Operation) {
	s.p.State, s.p.Rare.Trouble, s.out.Changed = to, Trouble{}, true
	s.out.Calls = append(s.out.Calls, Call{Request: s.p.request(op, nil)})
}

// settleIn moves to a state in which no outcome is awaited.
func (s *step) settleIn(to State) {
	s.p.State, s.p.Rare.Trouble, s.p.Review, s.out.Changed = to, Trouble{}, false, true
}

func (s *step) note(what Seen) {
	if s.p.Seen.Has(what) {
		return
	}
	s.p.Seen |= what
	s.out.Changed = true
}

// join notes one of the two inputs that a payment begins with.
func (s *step) join() error {
	if s.in.Message == OrderPlaced {
		if s.p.Seen.Has(SeenPlaced) {
			return nil
		}
		if err := s.describe(); err != nil {
			return err
		}
	} else {
		if s.p.Seen.Has(SeenHeld) {
			return nil
		}
		if s.in.ExpiresAt.IsZero() {
			return errs.E(errs.Invalid, "NO_EXPIRY", "the goods are held, but it is not said until when")
		}
		s.note(SeenHeld)
		s.p.HeldUntil = s.in.ExpiresAt
		if s.p.Created.IsZero() {
			s.p.Created = s.env.Now
		}
	}
	if !s.p.Seen.Has(SeenPlaced | SeenHeld) {
		return nil
	}
	latest := s.env.Now.Add(s.env.Policy.ProviderTimeout + s.env.Policy.Margin)
	if !latest.Before(s.p.HeldUntil) {
		s.decline(ReasonWindowClosed)
		return nil
	}
	s.ask(Authorizing, Authorize)
	return nil
}

// describe notes what the order says.
func (s *step) describe() error {
	if s.p.Seen.Has(SeenPlaced) {
		return nil
	}
	in := s.in
	switch {
	case in.UserID == "":
		return errs.E(errs.Invalid, "NO_USER", "the order says nobody who pays")
	case in.Token == "":
		return errs.E(errs.Invalid, "NO_TOKEN", "the order does not say how it is paid")
	case len(in.Total.Currency) != 3 || in.Total.Minor < 0:
		return errs.E(errs.Invalid, "BAD_TOTAL", "the order's total is no amount of money")
	}
	s.note(SeenPlaced)
	s.p.ID, s.p.UserID, s.p.Amount, s.p.Token, s.p.Created = s.env.NewID(), in.UserID, in.Total, in.Token, in.PlacedAt
	if s.p.Created.IsZero() {
		s.p.Created = s.env.Now
	}
	return nil
}

// bury ends a payment of which the provider has heard nothing.
func (s *step) bury() {
	s.settleIn(Tombstoned)
	if s.p.Created.IsZero() {
		s.p.Created = s.env.Now
	}
	if s.in.Message == OrderRejected {
		return // nobody waits for an answer
	}
	s.wish()
	s.finish(0, 0)
}

// purpose gives what the undoing that is asked for is for.
func (s *step) purpose() paymentv1.ReversalPurpose {
	if s.in.Message == ReturnRequested {
		return paymentv1.ReversalPurpose_REVERSAL_PURPOSE_RETURN
	}
	return paymentv1.ReversalPurpose_REVERSAL_PURPOSE_CANCEL
}

// wish notes that everything is to be given back.
func (s *step) wish() {
	u := &s.p.Rare.Undo
	switch {
	case u.Purpose == 0:
		u.Purpose = s.purpose()
		s.out.Changed = true
	case u.Purpose != s.purpose() && !u.Both:
		u.Both = true
		s.out.Changed = true
	}
}

func (s *step) wished() bool { return s.p.Rare.Undo.Purpose != 0 }

// finish answers the wish to undo: once for each purpose.
func (s *step) finish(voided, refunded int64) {
	u := &s.p.Rare.Undo
	u.Done, u.Voided, u.Refunded, u.Named = true, voided, refunded, s.p.ID != ""
	s.out.Changed = true
	s.emit(s.p.Reversed(u.Purpose))
	if u.Both {
		s.emit(s.p.Reversed(3 - u.Purpose))
	}
}

// reply answers a wish when there is nothing left to undo.
func (s *step) reply() {
	if !s.wished() {
		s.wish()
		s.finish(0, 0)
		return
	}
	s.emit(s.p.Reversed(s.purpose()))
}

// Reversed gives the answer to a wish to undo. It is the same however often it
// is given; the undoing counts for the purpose that was named first.
func (p Payment) Reversed(purpose paymentv1.ReversalPurpose) *paymentv1.PaymentReversed {
	u := p.Rare.Undo
	e := &paymentv1.PaymentReversed{OrderId: p.OrderID, Purpose: purpose, Noop: true}
	if u.Named {
		e.PaymentId = p.ID
	}
	if purpose != u.Purpose {
		return e
	}
	if u.Voided > 0 {
		e.Voided, e.Noop = Money{u.Voided, p.Amount.Currency}.Proto(), false
	}
	if u.Refunded > 0 {
		e.Refunded, e.Noop = Money{u.Refunded, p.Amount.Currency}.Proto(), false
	}
	return e
}

func (s *step) holdMoney() {
	s.settleIn(Authorized)
	s.p.Reference = s.in.Answer.Reference
	s.book(BookAuthorize, 0, s.p.Amount.Minor, "")
	if s.wished() {
		s.ask(Voiding, Void)
		return
	}
	s.emit(&paymentv1.PaymentAuthorized{OrderId: s.p.OrderID, PaymentId: s.p.ID, Amount: s.p.Amount.Proto()})
	if s.p.Seen.Has(SeenCommitted) {
		s.ask(Capturing, Capture)
	}
}

func (s *step) decline(reason string) {
	s.settleIn(Declined)
	s.p.Reason = reason
	if s.wished() {
		s.finish(0, 0)
		return
	}
	s.emit(&paymentv1.PaymentDeclined{OrderId: s.p.OrderID, PaymentId: s.p.ID, Reason: reason})
}

func (s *step) keepMoney() {
	s.settleIn(Captured)
	s.book(BookCapture, 0, s.p.Amount.Minor, s.in.Answer.Reference)
	if s.wished() {
		s.giveRest()
		return
	}
	s.emit(&paymentv1.PaymentCaptured{OrderId: s.p.OrderID, PaymentId: s.p.ID, Amount: s.p.Amount.Proto()})
}

func (s *step) failCapture() {
	s.settleIn(CaptureFailed)
	s.p.Reason = s.in.Answer.Reason
	if s.wished() {
		s.ask(Voiding, Void)
		return
	}
	s.emit(&paymentv1.PaymentCaptureFailed{OrderId: s.p.OrderID, PaymentId: s.p.ID, Reason: s.p.Reason})
}

func (s *step) freeMoney() {
	s.settleIn(Voided)
	s.book(BookVoid, 0, s.p.Amount.Minor, "")
	s.finish(s.p.Amount.Minor, 0)
}

// doubt notes that an operation was not answered. That is told once for each
// operation.
func (s *step) doubt() {
	s.out.Changed = true
	told := &paymentv1.PaymentUnknown{OrderId: s.p.OrderID, PaymentId: s.p.ID, Operation: s.p.Waiting()}
	if s.p.State == Refunding {
		i := s.p.refund(s.in.RefundID)
		if i < 0 || s.p.Rare.Refunds[i].State == RefundDone {
			s.out.Changed, s.out.Rule = false, Ignore
			return
		}
		r := &s.p.Rare.Refunds[i]
		if r.State == RefundPending {
			r.State, r.Trouble = RefundUnknown, Trouble{Since: s.env.Now}
			s.emit(told)
		}
		s.askAgain(&r.Trouble, s.p.request(Payback, r))
		return
	}
	s.p.State++ // each awaiting state is followed by its unknown one
	s.p.Rare.Trouble = Trouble{Since: s.env.Now}
	s.emit(told)
	s.askAgain(&s.p.Rare.Trouble, s.p.request(s.p.Waiting(), nil))
}

// askAgain has the outcome queried later, as long as the provider can be
// expected to know the key.
func (s *step) askAgain(t *Trouble, r Request) {
	s.out.Changed = true
	if s.env.Now.Sub(t.Since) >= s.env.Policy.GiveUp {
		s.review(r.Operation, "the provider has not said what became of it")
		return
	}
	s.out.Calls = append(s.out.Calls, Call{Request: r, Query: true, After: s.backoff(t)})
}

// sendAgain repeats an operation with its key: one that never reached the
// provider, or one that it refused but that must succeed in the end.
func (s *step) sendAgain() {
	t, r := &s.p.Rare.Trouble, s.p.request(s.p.Waiting(), nil)
	if s.p.State == Refunding {
		i := s.p.refund(s.in.RefundID)
		if i < 0 || s.p.Rare.Refunds[i].State == RefundDone {
			s.out.Rule = Ignore
			return
		}
		t, r = &s.p.Rare.Refunds[i].Trouble, s.p.request(Payback, &s.p.Rare.Refunds[i])
	}
	s.out.Changed = true
	if t.Since.IsZero() {
		t.Since = s.env.Now
	}
	if s.env.Now.Sub(t.Since) >= s.env.Policy.GiveUp {
		refused := s.in.Answer.Verdict == Refused
		if !s.p.Review {
			s.review(r.Operation, "the provider keeps refusing or does not know it")
		}
		if !refused {
			return // it may only have forgotten the key, and would do it twice
		}
	}
	s.out.Calls = append(s.out.Calls, Call{Request: r, After: s.backoff(t)})
}

func (s *step) review(op Operation, what string) {
	s.p.Review = true
	s.out.Alarm = op.String() + " needs a look by people: " + what
}

// backoff counts one more try and gives the wait before it.
func (s *step) backoff(t *Trouble) time.Duration {
	wait := s.env.Policy.FirstRetry << min(t.Tries, 20)
	t.Tries++
	return min(wait, s.env.Policy.MaxRetry)
}
