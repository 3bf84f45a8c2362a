package simulator_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/simulator"
)

func request(op payment.Operation, token string) payment.Request {
	r := payment.Request{Operation: op, OrderID: "o", PaymentID: "p", RefundID: "r", Amount: payment.Money{Minor: 5, Currency: "EUR"}, Token: token}
	r.Key = r.IdempotencyKey()
	return r
}

func TestTheSameKeyIsTheSameOperationInEveryProcess(t *testing.T) {
	for _, op := range []payment.Operation{payment.Authorize, payment.Capture, payment.Void, payment.Payback} {
		r := request(op, simulator.TokenOK)
		first, err := simulator.New(0).Execute(t.Context(), r)
		if err != nil || first.Verdict != payment.Approved || first.Reference == "" {
			t.Fatalf("%+v, %v", first, err)
		}
		again, _ := simulator.New(time.Hour).Execute(t.Context(), r)
		asked, _ := simulator.New(0).Query(t.Context(), r)
		if again != first || asked != first {
			t.Errorf("%+v, then %+v, and asked %+v", first, again, asked)
		}
		if _, wrong := payment.Check(r, first); wrong != "" {
			t.Errorf("its own answer is not trusted: %s", wrong)
		}
	}
}

func TestTokensDecideWhatHappens(t *testing.T) {
	for _, c := range []struct {
		token   string
		op      payment.Operation
		verdict payment.Verdict
		reason  string
	}{
		{simulator.TokenDeclined, payment.Authorize, payment.Refused, "insufficient_funds"},
		{simulator.TokenCaptureFails, payment.Authorize, payment.Approved, ""},
		{simulator.TokenCaptureFails, payment.Capture, payment.Refused, "capture_failed"},
		{simulator.TokenCaptureFails, payment.Void, payment.Approved, ""},
		{simulator.TokenTimeout, payment.Void, payment.Approved, ""},
		{simulator.TokenTimeout, payment.Payback, payment.Approved, ""},
		{simulator.TokenSlow, payment.Authorize, payment.Approved, ""},
		{"tok_unheard_of", payment.Authorize, payment.Refused, "invalid_token"},
	} {
		a, err := simulator.New(0).Execute(t.Context(), request(c.op, c.token))
		if err != nil || a.Verdict != c.verdict || a.Reason != c.reason {
			t.Errorf("%s, %s: %+v, %v", c.token, c.op, a, err)
		}
	}
}

func TestATimeoutActsAndNeverAnswers(t *testing.T) {
	s := simulator.New(0)
	for _, op := range []payment.Operation{payment.Authorize, payment.Capture} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		r := request(op, simulator.TokenTimeout)
		go func() { _, err := s.Execute(ctx, r); done <- err }()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s answered: %v", op, err)
		}
		if a, err := s.Query(t.Context(), r); err != nil || a.Verdict != payment.Approved {
			t.Errorf("asked for %s: %+v, %v", op, a, err)
		}
	}
}

func TestASlowAnswerEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := simulator.New(time.Hour).Execute(ctx, request(payment.Authorize, simulator.TokenSlow)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
