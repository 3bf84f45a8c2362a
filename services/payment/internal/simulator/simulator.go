// Package simulator plays the payment provider. What it does depends on the
// payment token alone:
//
//	tok_ok             does what it is asked
//	tok_declined       refuses to set the money aside
//	tok_capture_fails  sets it aside, but refuses to take it
//	tok_timeout        sets aside and takes, but never says so; queries are answered
//	tok_slow           does what it is asked, after a delay
//	any other          is refused as invalid_token
//
// It keeps no books. What became of an operation is a pure function of the
// request: the same key asked twice is one operation with one reference, because
// it is computed twice and comes out the same. So it survives kill -9 of the
// process it lives in without a database, costs the hot path nothing, and a
// double charge would show as two references, that is, as two keys. Book records
// calls where a test wants to see them.
package simulator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/waybill-dev/waybill/services/payment"
)

// The tokens.
const (
	TokenOK           = "tok_ok"
	TokenDeclined     = "tok_declined"
	TokenCaptureFails = "tok_capture_fails"
	TokenTimeout      = "tok_timeout"
	TokenSlow         = "tok_slow"
)

// Simulator is a payment.Provider.
type Simulator struct {
	// SlowDelay is how long tok_slow takes.
	SlowDelay time.Duration
}

var _ payment.Provider = (*Simulator)(nil)

// DefaultSlowDelay is how long tok_slow takes unless told otherwise.
const DefaultSlowDelay = 500 * time.Millisecond

// New gives a simulator whose tok_slow takes the given time.
func New(slow time.Duration) *Simulator { return &Simulator{SlowDelay: slow} }

// Execute does what it is asked, in the way of the token.
func (s *Simulator) Execute(ctx context.Context, r payment.Request) (payment.Answer, error) {
	charges := r.Operation == payment.Authorize || r.Operation == payment.Capture
	switch {
	case r.Token == TokenTimeout && charges:
		<-ctx.Done()
		return payment.Answer{}, ctx.Err()
	case r.Token == TokenSlow && charges:
		t := time.NewTimer(s.SlowDelay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return payment.Answer{}, ctx.Err()
		}
	}
	return Outcome(r), nil
}

// Query tells what became of an operation.
func (s *Simulator) Query(_ context.Context, r payment.Request) (payment.Answer, error) {
	return Outcome(r), nil
}

// Outcome gives what becomes of a request, which is all the simulator knows.
func Outcome(r payment.Request) payment.Answer {
	a := payment.Answer{Verdict: payment.Approved, OrderID: r.OrderID, Amount: r.Amount, Reference: Reference(r)}
	refuse := func(reason string) payment.Answer {
		a.Verdict, a.Reference, a.Reason = payment.Refused, "", reason
		return a
	}
	switch r.Token {
	case TokenOK, TokenTimeout, TokenSlow:
	case TokenDeclined:
		if r.Operation == payment.Authorize {
			return refuse("insufficient_funds")
		}
	case TokenCaptureFails:
		if r.Operation == payment.Capture {
			return refuse("capture_failed")
		}
	default:
		return refuse("invalid_token")
	}
	return a
}

// Reference gives the provider's own reference of an operation: the same for
// the same key, as a provider gives that finds an operation in its books.
func Reference(r payment.Request) string {
	sum := sha256.Sum256([]byte(r.Key))
	return "sim_" + hex.EncodeToString(sum[:12])
}
