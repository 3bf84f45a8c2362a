package payment_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const (
	orderID = "0192aaaa-0000-7000-8000-000000000001"
	userID  = "0192bbbb-0000-7000-8000-000000000001"
	total   = int64(12_345)
)

// world gives ids that count and a clock that is set by hand.
type world struct {
	now time.Time
	ids int
}

func (w *world) env() payment.Env {
	return payment.Env{Now: w.now, Policy: payment.DefaultPolicy(), NewID: func() string {
		w.ids++
		return fmt.Sprintf("0192cccc-0000-7000-8000-%012d", w.ids)
	}}
}

// input gives a usual input of a kind for p.
func input(p payment.Payment, m payment.Message, now time.Time) payment.Input {
	in := payment.Input{Message: m}
	amount := payment.Money{Minor: total, Currency: "EUR"}
	switch m {
	case payment.OrderPlaced:
		in.UserID, in.Token, in.PlacedAt, in.Total = userID, "tok_ok", now, amount
	case payment.StockHeld:
		in.ExpiresAt = now.Add(10 * time.Minute)
	case payment.RefundRequested:
		in.Reason = "broken on arrival"
	}
	answer := payment.Answer{OrderID: orderID, Amount: amount}
	switch m {
	case payment.AuthorizeApproved, payment.CaptureApproved, payment.VoidApproved, payment.PaybackApproved:
		answer.Verdict, answer.Reference = payment.Approved, "ref-"+m.String()
	case payment.AuthorizeRefused, payment.CaptureRefused, payment.VoidRefused, payment.PaybackRefused:
		answer.Verdict, answer.Reason = payment.Refused, "no_"+m.String()[:4]
	case payment.AuthorizeNeverSeen, payment.CaptureNeverSeen, payment.VoidNeverSeen, payment.PaybackNeverSeen:
		answer.Verdict = payment.NeverSeen
	case payment.AuthorizeUnanswered, payment.CaptureUnanswered, payment.VoidUnanswered, payment.PaybackUnanswered:
		answer = payment.Answer{}
	}
	in.Answer = answer
	for _, r := range p.Rare.Refunds {
		if r.State != payment.RefundDone {
			in.RefundID = r.ID
			in.Answer.Amount.Minor = r.Amount
			break
		}
	}
	return in
}

// routes lead to every state, by messages that really happen.
func routes() map[payment.State][]payment.Message {
	held := []payment.Message{payment.OrderPlaced, payment.StockHeld}
	authorized := append(slices.Clone(held), payment.AuthorizeApproved)
	capturing := append(slices.Clone(authorized), payment.StockCommitted)
	captured := append(slices.Clone(capturing), payment.CaptureApproved)
	with := func(base []payment.Message, more ...payment.Message) []payment.Message {
		return append(slices.Clone(base), more...)
	}
	return map[payment.State][]payment.Message{
		payment.New:              {payment.OrderPlaced},
		payment.Authorizing:      held,
		payment.AuthorizeUnknown: with(held, payment.AuthorizeUnanswered),
		payment.Authorized:       authorized,
		payment.Declined:         with(held, payment.AuthorizeRefused),
		payment.Capturing:        capturing,
		payment.CaptureUnknown:   with(capturing, payment.CaptureUnanswered),
		payment.Captured:         captured,
		payment.CaptureFailed:    with(capturing, payment.CaptureRefused),
		payment.Voiding:          with(authorized, payment.CancelRequested),
		payment.VoidUnknown:      with(authorized, payment.CancelRequested, payment.VoidUnanswered),
		payment.Voided:           with(authorized, payment.CancelRequested, payment.VoidApproved),
		payment.Refunding:        with(captured, payment.RefundRequested),
		payment.Refunded:         with(captured, payment.RefundRequested, payment.PaybackApproved),
		payment.Tombstoned:       {payment.CancelRequested},
	}
}

// reach gives a payment in a state.
func reach(t *testing.T, w *world, s payment.State) payment.Payment {
	t.Helper()
	p := payment.Payment{OrderID: orderID}
	for _, m := range routes()[s] {
		next, _, err := p.On(input(p, m, w.now), w.env())
		if err != nil {
			t.Fatalf("%s on the way to %s: %v", m, s, err)
		}
		p = next
	}
	if p.State != s {
		t.Fatalf("the route to %s ends in %s", s, p.State)
	}
	return p
}

func TestEveryStateHasARuleForEveryMessage(t *testing.T) {
	if len(routes()) != len(payment.States()) {
		t.Fatalf("there are routes to %d of %d states", len(routes()), len(payment.States()))
	}
	pairs := 0
	for _, s := range payment.States() {
		for _, m := range payment.Messages() {
			pairs++
			t.Run(s.String()+"/"+m.String(), func(t *testing.T) {
				w := &world{now: epoch}
				p := reach(t, w, s)
				rule := payment.RuleFor(s, m)
				if rule.String() == "" {
					t.Fatal("no rule")
				}
				w.now = w.now.Add(time.Second)
				next, out, err := p.On(input(p, m, w.now), w.env())
				if err != nil {
					if m != payment.RefundRequested || errs.KindOf(err) != errs.FailedPrecondition {
						t.Fatalf("fails: %v", err)
					}
					return
				}
				held(t, p, next, out)
			})
		}
	}
	t.Logf("%d pairs", pairs)
}

// held looks whether one step keeps what every step must keep.
func held(t *testing.T, p, next payment.Payment, out payment.Result) {
	t.Helper()
	switch out.Rule {
	case payment.Ignore:
		if out.Changed || len(out.Events)+len(out.Calls)+len(out.Entries) > 0 || out.Alarm != "" {
			t.Errorf("ignored, and yet it left %+v", out)
		}
	case payment.Alarm:
		if out.Changed || len(out.Events)+len(out.Calls)+len(out.Entries) > 0 || out.Alarm == "" {
			t.Errorf("alarmed, and yet it left %+v", out)
		}
	}
	for _, e := range out.Entries {
		var sum int64
		for _, l := range e.Postings {
			sum += l.Amount
		}
		if sum != 0 || len(e.Postings) < 2 {
			t.Errorf("entry %s is not balanced: %+v", e.Booking, e.Postings)
		}
	}
	if !out.Changed && next.State != p.State {
		t.Errorf("the state changed to %s unsaid", next.State)
	}
	reversed := 0
	for _, e := range out.Events {
		if _, ok := e.(*paymentv1.PaymentReversed); ok {
			reversed++
		}
		if e.ProtoReflect().Get(e.ProtoReflect().Descriptor().Fields().ByName("order_id")).String() != orderID {
			t.Errorf("%T names another order", e)
		}
	}
	if reversed > 2 {
		t.Errorf("answered %d times", reversed)
	}
	if next.Waiting() != 0 && p.Waiting() == 0 && len(out.Calls) == 0 {
		t.Errorf("%s waits for an answer to nothing", next.State)
	}
	if next.Left() < 0 {
		t.Errorf("more was paid back than taken")
	}
}

func TestAStateOrMessageOfALaterBuildAlarms(t *testing.T) {
	if got := payment.RuleFor(200, payment.OrderPlaced); got != payment.Alarm {
		t.Errorf("unknown state: %s", got)
	}
	if got := payment.RuleFor(payment.New, 200); got != payment.Alarm {
		t.Errorf("unknown message: %s", got)
	}
}

func TestAWishToUndoIsAnsweredAlikeHoweverOftenItComes(t *testing.T) {
	for _, s := range []payment.State{payment.Tombstoned, payment.Voided, payment.Declined, payment.Refunded} {
		t.Run(s.String(), func(t *testing.T) {
			w := &world{now: epoch}
			p := reach(t, w, s)
			var first proto.Message
			for range 3 {
				next, out, err := p.On(payment.Input{Message: payment.CancelRequested}, w.env())
				if err != nil || len(out.Events) != 1 {
					t.Fatalf("%d events, %v", len(out.Events), err)
				}
				if first == nil {
					first = out.Events[0]
				}
				if !proto.Equal(first, out.Events[0]) {
					t.Errorf("answered %v, then %v", first, out.Events[0])
				}
				p = next
				// A late order must not change the answer.
				if p, _, err = p.On(input(p, payment.OrderPlaced, w.now), w.env()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestACommandThatCannotBeSaysWhy(t *testing.T) {
	cases := map[string]struct {
		state  payment.State
		amount *payment.Money
		kind   errs.Kind
		reason string
	}{
		"nothing was taken yet":  {payment.Authorized, nil, errs.FailedPrecondition, "NOT_CAPTURED"},
		"it was declined":        {payment.Declined, nil, errs.FailedPrecondition, "NOT_CAPTURED"},
		"it is being taken":      {payment.CaptureUnknown, nil, errs.FailedPrecondition, "NOT_CAPTURED"},
		"more than was taken":    {payment.Captured, &payment.Money{Minor: total + 1, Currency: "EUR"}, errs.FailedPrecondition, "REFUND_EXCEEDS_CAPTURED"},
		"all is on its way back": {payment.Refunding, nil, errs.FailedPrecondition, "REFUND_EXCEEDS_CAPTURED"},
		"all is paid back":       {payment.Refunded, &payment.Money{Minor: 1, Currency: "EUR"}, errs.FailedPrecondition, "REFUND_EXCEEDS_CAPTURED"},
		"another currency":       {payment.Captured, &payment.Money{Minor: 1, Currency: "USD"}, errs.Invalid, "CURRENCY_MISMATCH"},
		"a negative amount":      {payment.Captured, &payment.Money{Minor: -1, Currency: "EUR"}, errs.Invalid, "AMOUNT_NOT_POSITIVE"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			w := &world{now: epoch}
			p := reach(t, w, c.state)
			_, _, err := p.On(payment.Input{Message: payment.RefundRequested, Amount: c.amount}, w.env())
			var e *errs.Error
			if !errors.As(err, &e) || e.Kind != c.kind || e.Reason != c.reason {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAnOrderWithoutTheNeedfulIsInvalid(t *testing.T) {
	w := &world{now: epoch}
	good := input(payment.Payment{}, payment.OrderPlaced, w.now)
	for name, spoil := range map[string]func(*payment.Input){
		"no user":            func(in *payment.Input) { in.UserID = "" },
		"no token":           func(in *payment.Input) { in.Token = "" },
		"no currency":        func(in *payment.Input) { in.Total.Currency = "" },
		"a negative total":   func(in *payment.Input) { in.Total.Minor = -1 },
		"held without limit": func(in *payment.Input) { in.Message = payment.StockHeld },
	} {
		in := good
		spoil(&in)
		if _, _, err := (payment.Payment{OrderID: orderID}).On(in, w.env()); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheProviderIsAskedOnlyIfTheGoodsAreHeldLongEnough(t *testing.T) {
	policy := payment.DefaultPolicy()
	need := policy.ProviderTimeout + policy.Margin
	for _, c := range []struct {
		left time.Duration
		want payment.State
	}{{-time.Hour, payment.Declined}, {need, payment.Declined}, {need + time.Microsecond, payment.Authorizing}} {
		w := &world{now: epoch}
		p := payment.Payment{OrderID: orderID}
		p, _, _ = p.On(input(p, payment.OrderPlaced, w.now), w.env())
		p, out, err := p.On(payment.Input{Message: payment.StockHeld, ExpiresAt: w.now.Add(c.left)}, w.env())
		if err != nil || p.State != c.want {
			t.Errorf("held for %s: %s, %v", c.left, p.State, err)
		}
		if c.want == payment.Declined && (len(out.Calls) > 0 || p.Reason != payment.ReasonWindowClosed) {
			t.Errorf("held for %s: asked %v, reason %q", c.left, out.Calls, p.Reason)
		}
	}
}

func TestWhatStaysUnknownIsAskedForWithGrowingDelayAndThenGivenToPeople(t *testing.T) {
	for _, s := range []payment.State{payment.AuthorizeUnknown, payment.CaptureUnknown, payment.VoidUnknown, payment.Refunding} {
		t.Run(s.String(), func(t *testing.T) {
			w := &world{now: epoch}
			p := reach(t, w, s)
			unanswered := payment.Outcome(payment.Request{Operation: p.Waiting()}, payment.Answer{}).Message
			last, tries, told := time.Duration(0), 0, 0
			for !p.Review {
				next, out, err := p.On(input(p, unanswered, w.now), w.env())
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range out.Events {
					if _, ok := e.(*paymentv1.PaymentUnknown); ok {
						told++
					}
				}
				p = next
				if p.Review {
					if out.Alarm == "" || len(out.Calls) > 0 {
						t.Errorf("given to people without an alarm, or still calling: %+v", out)
					}
					break
				}
				if len(out.Calls) != 1 || !out.Calls[0].Query || out.Calls[0].After < last || out.Calls[0].After > payment.DefaultPolicy().MaxRetry {
					t.Fatalf("after %s: %+v", last, out.Calls)
				}
				last, tries = out.Calls[0].After, tries+1
				w.now = w.now.Add(last)
			}
			if told > 1 || tries < 100 {
				t.Errorf("told %d times, tried %d times", told, tries)
			}
			if passed := w.now.Sub(epoch); passed < 20*time.Hour || passed > 21*time.Hour {
				t.Errorf("given up after %s", passed)
			}
		})
	}
}
