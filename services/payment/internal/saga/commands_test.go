package saga_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/paymenttest"
	"github.com/waybill-dev/waybill/services/payment/internal/simulator"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
	"github.com/waybill-dev/waybill/services/payment/internal/webhook"
)

func shown(p payment.Payment, version int64) *paymentv1.Payment {
	return &paymentv1.Payment{PaymentId: p.ID, Version: version}
}

func euros(minor int64) *payment.Money { return &payment.Money{Minor: minor, Currency: "EUR"} }

func TestRefundsInParallelNeverExceedWhatWasTaken(t *testing.T) {
	both(t, func(t *testing.T, h *payments) {
		id := h.captured(simulator.TokenOK)
		const part = price / 8
		var wg sync.WaitGroup
		var mu sync.Mutex
		done, refused := 0, 0
		for range 40 {
			wg.Go(func() {
				_, err := h.commands.Refund(t.Context(), h.reactor, id, euros(part), "damaged", shown)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					done++
				case errs.ReasonOf(err) == "REFUND_EXCEEDS_CAPTURED" && errs.KindOf(err) == errs.FailedPrecondition:
					refused++
				default:
					t.Errorf("refund: %v", err)
				}
			})
		}
		wg.Wait()
		if done != 8 || refused != 32 {
			t.Errorf("%d done, %d refused", done, refused)
		}
		last := await[*paymentv1.PaymentRefunded](h, id, 8)
		if last.GetTotalRefunded().GetMinorUnits() != price || last.GetAmount().GetMinorUnits() != part {
			t.Errorf("told %v", last)
		}
		if net, _, _ := h.provider.charged(id); net != 0 {
			t.Errorf("the provider keeps %d", net)
		}
		h.send(paymenttest.Cancelled(id), 1)
		if rev := await[*paymentv1.PaymentReversed](h, id, 1); !rev.GetNoop() {
			t.Errorf("answered %v", rev)
		}
		h.balanced()
	})
}

func TestAReversalRefundsWhatRefundsHaveLeft(t *testing.T) {
	h := lite(t)
	id := h.captured(simulator.TokenOK)
	h.provider.set(func(r payment.Request, nth int) string {
		if r.Operation == payment.Payback && nth < 4 {
			return []string{"", "refused", "lost before", "lost after"}[nth]
		}
		return ""
	})
	if _, err := h.commands.Refund(t.Context(), h.reactor, id, euros(1000), "late", shown); err != nil {
		t.Fatal(err)
	}
	h.send(paymenttest.Returned(id), 2)
	rev := await[*paymentv1.PaymentReversed](h, id, 1)
	if rev.GetRefunded().GetMinorUnits() != price-1000 {
		t.Errorf("answered %v", rev)
	}
	if e := await[*paymentv1.PaymentRefunded](h, id, 1); e.GetAmount().GetMinorUnits() != 1000 {
		t.Errorf("told %v", e)
	}
	if net, _, _ := h.provider.charged(id); net != 0 {
		t.Errorf("the provider keeps %d", net)
	}
	h.balanced()
}

func TestRefundsThatCannotBeAreRefused(t *testing.T) {
	h := lite(t)
	id := newOrder()
	h.send(placed(id, simulator.TokenOK), 1)
	h.send(paymenttest.Held(id), 1)
	await[*paymentv1.PaymentAuthorized](h, id, 1)
	for name, c := range map[string]struct {
		order  string
		amount *payment.Money
		reason string
	}{
		"before the capture": {id, nil, "NOT_CAPTURED"},
		"of no payment":      {newOrder(), nil, "NOT_CAPTURED"},
		"more than taken":    {h.captured(simulator.TokenOK), euros(price + 1), "REFUND_EXCEEDS_CAPTURED"},
	} {
		_, err := h.commands.Refund(t.Context(), h.reactor, c.order, c.amount, "x", shown)
		var e *errs.Error
		if !errors.As(err, &e) || e.Kind != errs.FailedPrecondition || e.Reason != c.reason {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.balanced()
}

// notice gives the notice that the provider sends of an operation.
func notice(r payment.Request) webhook.Notice {
	r.Key = r.IdempotencyKey()
	a := simulator.Outcome(r)
	return webhook.Notice{
		ID: "evt_" + uuid.NewString(), OrderID: r.OrderID, Key: r.Key, Operation: r.Operation,
		Verdict: a.Verdict, Amount: a.Amount, Reference: a.Reference, Reason: a.Reason,
	}
}

func TestNoticesResolveWhatIsUnknown(t *testing.T) {
	h := lite(t, func(p *payment.Policy, _ *react.Config) { p.FirstRetry, p.MaxRetry = time.Hour, time.Hour })
	h.provider.set(func(payment.Request, int) string { return "lost after" })
	id := newOrder()
	h.send(placed(id, simulator.TokenOK), 1)
	h.send(paymenttest.Held(id), 1)
	await[*paymentv1.PaymentUnknown](h, id, 1)
	p := h.in(id, payment.AuthorizeUnknown)
	request := func(op payment.Operation) payment.Request {
		return payment.Request{Operation: op, OrderID: id, PaymentID: p.ID, Amount: p.Amount, Token: p.Token}
	}
	tell := func(n webhook.Notice) {
		t.Helper()
		for range 2 { // every notice comes twice
			if _, err := h.commands.Notice(t.Context(), h.reactor, n); err != nil {
				t.Fatal(err)
			}
		}
	}
	tell(notice(request(payment.Authorize)))
	await[*paymentv1.PaymentAuthorized](h, id, 1)
	h.send(paymenttest.Committed(id), 1)
	await[*paymentv1.PaymentUnknown](h, id, 2)
	h.in(id, payment.CaptureUnknown)
	tell(notice(request(payment.Capture)))
	await[*paymentv1.PaymentCaptured](h, id, 1)
	tell(notice(request(payment.Authorize))) // under another id
	h.in(id, payment.Captured)
	h.balanced()
}

func TestNoticesInEveryOrderEndAlike(t *testing.T) {
	h := lite(t)
	var states []payment.State
	permute(4, func(order []int) {
		id := h.captured(simulator.TokenOK)
		p := h.in(id, payment.Captured)
		if _, err := h.commands.Refund(t.Context(), h.reactor, id, nil, "x", shown); err != nil {
			t.Fatal(err)
		}
		p = h.until(id, func(p store.Versioned) bool { return len(p.Rare.Refunds) == 1 })
		of := func(op payment.Operation) payment.Request {
			return payment.Request{Operation: op, OrderID: id, PaymentID: p.ID, Amount: p.Amount, Token: p.Token}
		}
		refund := of(payment.Payback)
		refund.RefundID = p.Rare.Refunds[0].ID
		declined := notice(refund)
		declined.Verdict, declined.Reason = payment.Refused, "try_later"
		all := []webhook.Notice{notice(of(payment.Authorize)), notice(of(payment.Capture)), notice(refund), declined}
		for _, i := range order {
			if _, err := h.commands.Notice(t.Context(), h.reactor, all[i]); err != nil {
				t.Fatal(err)
			}
		}
		await[*paymentv1.PaymentRefunded](h, id, 1)
		states = append(states, h.in(id, payment.Refunded).State)
		if net, captures, _ := h.provider.charged(id); net != 0 || captures != 1 {
			t.Errorf("%v: the provider has %d in %d captures", order, net, captures)
		}
	})
	if len(states) != 24 {
		t.Errorf("%d orders of four", len(states))
	}
	h.balanced()
}

func TestNoticesThatDoNotFitChangeNothing(t *testing.T) {
	both(t, func(t *testing.T, h *payments) {
		id := h.captured(simulator.TokenOK)
		p := h.in(id, payment.Captured)
		good := payment.Request{Operation: payment.Capture, OrderID: id, PaymentID: p.ID, Amount: p.Amount, Token: p.Token}
		cases := map[string]struct {
			spoil       func(*webhook.Notice)
			quarantined bool
		}{
			"an amount that differs":    {func(n *webhook.Notice) { n.Amount.Minor++ }, true},
			"a currency that differs":   {func(n *webhook.Notice) { n.Amount.Currency = "USD" }, true},
			"a negative amount":         {func(n *webhook.Notice) { n.Amount.Minor = -n.Amount.Minor }, true},
			"an order nobody knows":     {func(n *webhook.Notice) { n.OrderID = newOrder() }, false},
			"a key nobody knows":        {func(n *webhook.Notice) { n.Key = "other" }, false},
			"the key of something else": {func(n *webhook.Notice) { n.Operation = payment.Void }, false},
		}
		quarantined := 0
		for name, c := range cases {
			n := notice(good)
			c.spoil(&n)
			for range 2 {
				if _, err := h.commands.Notice(t.Context(), h.reactor, n); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			if c.quarantined {
				quarantined++
			}
		}
		after := h.in(id, payment.Captured)
		if after.Version != p.Version {
			t.Errorf("the payment was changed: version %d, then %d", p.Version, after.Version)
		}
		var rows int
		if err := h.db.QueryRow(t.Context(), `SELECT count(*) FROM webhook_quarantine`).Scan(&rows); err != nil || rows != quarantined {
			t.Errorf("%d in quarantine, want %d: %v", rows, quarantined, err)
		}
		h.balanced()
	})
}

func TestWhatWasBegunIsFinishedByTheNextProcess(t *testing.T) {
	open, b := sqldbtest.SQLite(t), bustest.Embedded(t).Open()
	first := start(t, open, b, func(p *payment.Policy, _ *react.Config) { p.ProviderTimeout, p.Margin = 10*time.Minute, 0 })
	asked := make(chan struct{}, 1)
	first.provider.set(func(payment.Request, int) string { asked <- struct{}{}; return "" })
	id := newOrder()
	first.send(placed(id, simulator.TokenTimeout), 1)
	first.send(paymenttest.Held(id), 1)
	<-asked // the provider has acted and will not answer
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if err := first.reactor.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if p := first.in(id, payment.Authorizing); p.Seen.Has(payment.SeenCommitted) {
		t.Error("committed before it was authorized")
	}
	if err := first.db.Close(); err != nil {
		t.Fatal(err)
	}

	second := start(t, open, b)
	second.provider.mu.Lock()
	second.provider.book = first.provider.book
	second.provider.mu.Unlock()
	await[*paymentv1.PaymentAuthorized](second, id, 1)
	second.send(paymenttest.Committed(id), 1)
	await[*paymentv1.PaymentCaptured](second, id, 1)
	if net, captures, held := second.provider.charged(id); net != price || captures != 1 || held != 0 {
		t.Errorf("the provider has %d in %d captures, %d held", net, captures, held)
	}
	second.balanced()
}
