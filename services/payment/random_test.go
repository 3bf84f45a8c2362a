package payment_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
)

// books is what the test itself counts while it plays.
type books struct {
	accounts map[payment.Account]int64
	entries  map[[2]int64]int
	reversed map[paymentv1.ReversalPurpose]*paymentv1.PaymentReversed
	net      int64 // captured less paid back, by the provider's word
}

// game plays one payment against a provider that answers late, twice, never or
// wrongly, and against messages in any order.
type game struct {
	t       *testing.T
	r       *rand.Rand
	w       *world
	p       payment.Payment
	b       books
	pending []payment.Call
	done    map[string]payment.Answer // the provider's own memory, by key
}

func (g *game) take(in payment.Input) {
	next, out, err := g.p.On(in, g.w.env())
	if err != nil {
		if k := errs.KindOf(err); k != errs.FailedPrecondition && k != errs.Invalid {
			g.t.Fatalf("%s in %s: %v", in.Message, g.p.State, err)
		}
		return
	}
	held(g.t, g.p, next, out)
	g.p = next
	g.pending = append(g.pending, out.Calls...)
	for _, e := range out.Entries {
		g.b.entries[[2]int64{int64(e.Booking), e.Number}]++
		for _, l := range e.Postings {
			g.b.accounts[l.Account] += l.Amount
		}
	}
	for _, e := range out.Events {
		if rev, ok := e.(*paymentv1.PaymentReversed); ok {
			if before := g.b.reversed[rev.Purpose]; before != nil && !proto.Equal(before, rev) {
				g.t.Fatalf("answered %v, then %v", before, rev)
			}
			g.b.reversed[rev.Purpose] = rev
		}
	}
}

// provide answers one of the calls under way as a provider may.
func (g *game) provide() {
	if len(g.pending) == 0 {
		return
	}
	i := g.r.IntN(len(g.pending))
	c := g.pending[i]
	g.pending = append(g.pending[:i:i], g.pending[i+1:]...)
	key := c.Request.IdempotencyKey()
	answer, known := g.done[key]
	switch {
	case c.Query && !known:
		answer = payment.Answer{Verdict: payment.NeverSeen}
	case !c.Query && !known:
		roll := g.r.IntN(10)
		if roll == 0 {
			break // lost on the way there
		}
		answer = payment.Answer{Verdict: payment.Approved, OrderID: orderID, Amount: c.Request.Amount, Reference: key}
		if roll < 3 {
			answer = payment.Answer{Verdict: payment.Refused, OrderID: orderID, Amount: c.Request.Amount, Reason: "no"}
		}
		final := answer.Verdict == payment.Approved || c.Request.Operation == payment.Authorize || c.Request.Operation == payment.Capture
		if final {
			g.done[key] = answer
		}
		if answer.Verdict == payment.Approved {
			switch c.Request.Operation {
			case payment.Capture:
				g.b.net += c.Request.Amount.Minor
			case payment.Payback:
				g.b.net -= c.Request.Amount.Minor
			}
		}
	}
	if g.r.IntN(4) == 0 {
		answer = payment.Answer{} // lost on the way back
	}
	answer, _ = payment.Check(c.Request, answer)
	g.take(payment.Outcome(c.Request, answer))
	if g.r.IntN(3) == 0 && answer.Verdict == payment.Approved {
		g.take(payment.Outcome(c.Request, answer)) // a notice says it again
	}
}

func (g *game) balanced() {
	var sum int64
	for _, v := range g.b.accounts {
		sum += v
	}
	if sum != 0 {
		g.t.Fatalf("the ledger is out of balance: %v", g.b.accounts)
	}
	for k, n := range g.b.entries {
		if n > 1 {
			g.t.Fatalf("entry %v was booked %d times", k, n)
		}
	}
	if g.p.Over() && g.b.accounts[payment.Clearing] != 0 {
		g.t.Fatalf("%s, and clearing is %d", g.p.State, g.b.accounts[payment.Clearing])
	}
	if g.b.net < 0 {
		g.t.Fatal("more was paid back than taken")
	}
}

func TestRandomLivesKeepTheBooksBalanced(t *testing.T) {
	events := []payment.Message{
		payment.OrderPlaced, payment.StockHeld, payment.StockCommitted, payment.CancelRequested, payment.ReturnRequested,
		payment.RefundRequested, payment.RefundRequested, payment.OrderPlaced, payment.StockHeld, payment.StockCommitted,
	}
	reached := map[payment.State]int{}
	for seed := range uint64(4000) {
		r := rand.New(rand.NewPCG(seed, 7))
		g := &game{t: t, r: r, w: &world{now: epoch}, p: payment.Payment{OrderID: orderID}, done: map[string]payment.Answer{}}
		g.b = books{accounts: map[payment.Account]int64{}, entries: map[[2]int64]int{}, reversed: map[paymentv1.ReversalPurpose]*paymentv1.PaymentReversed{}}
		undo := seed%3 == 0
		for range 40 {
			g.w.now = g.w.now.Add(time.Duration(r.IntN(1000)) * time.Millisecond)
			if r.IntN(2) == 0 {
				g.provide()
			} else {
				m := events[r.IntN(len(events))]
				wish := m == payment.CancelRequested || m == payment.ReturnRequested
				// Inventory commits only what payment authorized.
				early := m == payment.StockCommitted && g.p.State < payment.Authorized
				if (!wish || undo && r.IntN(4) == 0) && !early {
					in := input(g.p, m, g.w.now)
					if m == payment.RefundRequested && r.IntN(3) > 0 {
						in.Amount = &payment.Money{Minor: 1 + r.Int64N(total/3), Currency: "EUR"}
					}
					g.take(in)
				}
			}
			g.balanced()
			reached[g.p.State]++
		}
		if undo {
			g.finishUndone()
		}
	}
	for _, s := range payment.States() {
		if reached[s] == 0 {
			t.Errorf("%s was never reached", s)
		}
	}
}

// finishUndone asks for everything back and plays until nothing is under way.
func (g *game) finishUndone() {
	g.take(payment.Input{Message: payment.CancelRequested})
	for range 2000 {
		if len(g.pending) == 0 {
			break
		}
		g.w.now = g.w.now.Add(time.Millisecond)
		g.provide()
		g.balanced()
	}
	g.take(payment.Input{Message: payment.CancelRequested})
	if len(g.pending) > 0 || g.p.Waiting() != 0 {
		g.t.Fatalf("%s, with %d calls under way", g.p.State, len(g.pending))
	}
	rev := g.b.reversed[paymentv1.ReversalPurpose_REVERSAL_PURPOSE_CANCEL]
	if rev == nil {
		g.t.Fatalf("%s, and the wish to undo was not answered", g.p.State)
	}
	if g.b.net != 0 {
		g.t.Fatalf("undone, and the customer is charged %d", g.b.net)
	}
	for account, sum := range g.b.accounts {
		if sum != 0 {
			g.t.Fatalf("undone, and %s is %d", account, sum)
		}
	}
	if len(g.p.Rare.Refunds) == 0 && g.p.State == payment.Refunded {
		g.t.Fatal("refunded without a refund")
	}
}

func TestInputsInAnyOrderEndAlike(t *testing.T) {
	inputs := []payment.Message{payment.OrderPlaced, payment.StockHeld, payment.StockCommitted, payment.CancelRequested}
	permute(inputs, func(order []payment.Message) {
		w := &world{now: epoch}
		g := &game{t: t, r: rand.New(rand.NewPCG(1, 1)), w: w, p: payment.Payment{OrderID: orderID}, done: map[string]payment.Answer{}}
		g.b = books{accounts: map[payment.Account]int64{}, entries: map[[2]int64]int{}, reversed: map[paymentv1.ReversalPurpose]*paymentv1.PaymentReversed{}}
		for _, m := range order {
			g.take(input(g.p, m, w.now))
			g.take(input(g.p, m, w.now)) // everything comes twice
		}
		for range 100 {
			g.provide()
		}
		g.finishUndone()
		switch g.p.State {
		case payment.Voided, payment.Refunded, payment.Tombstoned, payment.Declined:
		default:
			t.Errorf("%v ends in %s", order, g.p.State)
		}
	})
	// Without the cancellation the three end in the same taken payment.
	permute(inputs[:3], func(order []payment.Message) {
		w := &world{now: epoch}
		p := payment.Payment{OrderID: orderID}
		var calls []payment.Call
		for _, m := range order {
			next, out, err := p.On(input(p, m, w.now), w.env())
			if err != nil {
				t.Fatal(err)
			}
			p, calls = next, append(calls, out.Calls...)
		}
		for len(calls) > 0 {
			r := calls[0].Request
			calls = calls[1:]
			next, out, err := p.On(payment.Outcome(r, payment.Answer{Verdict: payment.Approved, OrderID: orderID, Amount: r.Amount, Reference: "x"}), w.env())
			if err != nil {
				t.Fatal(err)
			}
			p, calls = next, append(calls, out.Calls...)
		}
		if p.State != payment.Captured {
			t.Errorf("%v ends in %s", order, p.State)
		}
	})
}

// permute calls fn with every order of list.
func permute[T any](list []T, fn func([]T)) {
	var walk func(n int)
	work := append([]T(nil), list...)
	walk = func(n int) {
		if n == len(work) {
			fn(work)
			return
		}
		for i := n; i < len(work); i++ {
			work[n], work[i] = work[i], work[n]
			walk(n + 1)
			work[n], work[i] = work[i], work[n]
		}
	}
	walk(0)
}

func TestAnAnswerThatDoesNotFitTheRequestIsUnknown(t *testing.T) {
	r := payment.Request{Operation: payment.Capture, OrderID: orderID, PaymentID: "p", Amount: payment.Money{Minor: total, Currency: "EUR"}}
	good := payment.Answer{Verdict: payment.Approved, OrderID: orderID, Amount: r.Amount, Reference: "ref"}
	if a, wrong := payment.Check(r, good); wrong != "" || a != good {
		t.Fatalf("a good answer became %+v: %s", a, wrong)
	}
	for name, spoil := range map[string]func(*payment.Answer){
		"another order":      func(a *payment.Answer) { a.OrderID = userID },
		"another amount":     func(a *payment.Answer) { a.Amount.Minor++ },
		"a negative amount":  func(a *payment.Answer) { a.Amount.Minor = -1 },
		"another currency":   func(a *payment.Answer) { a.Amount.Currency = "USD" },
		"no reference":       func(a *payment.Answer) { a.Reference = "" },
		"a huge reference":   func(a *payment.Answer) { a.Reference = string(make([]byte, 1<<20)) },
		"HTML":               func(a *payment.Answer) { a.Reference = "<html>\n</html>" },
		"a verdict unheard":  func(a *payment.Answer) { a.Verdict = 99 },
		"a reasonless no":    func(a *payment.Answer) { a.Verdict = payment.Refused },
		"an unbounded no":    func(a *payment.Answer) { a.Verdict, a.Reason = payment.Refused, string(make([]byte, 1<<16)) },
		"a no for more":      func(a *payment.Answer) { a.Verdict, a.Reason, a.Amount.Minor = payment.Refused, "no", total+1 },
		"a yes to something": func(a *payment.Answer) { *a = payment.Answer{Verdict: payment.Approved, Reference: "x"} },
	} {
		a := good
		spoil(&a)
		if got, wrong := payment.Check(r, a); got != (payment.Answer{}) || wrong == "" {
			t.Errorf("%s: taken as %+v", name, got)
		}
	}
}
