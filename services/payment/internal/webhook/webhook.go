// Package webhook reads the notices that the payment provider sends by itself.
// They are signed; nothing of them is believed, or even parsed, before the
// signature over the bytes as they came was found good.
package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/services/payment"
)

// Tolerance is how far the time of a signature may be from now.
const Tolerance = 300 * time.Second

// MaxBody is how long a notice may be, in bytes.
const MaxBody = 64 << 10

// Notice is one notice of the provider: what became of an operation.
type Notice struct {
	ID        string
	OrderID   string
	Key       string // under which the operation was asked for
	Operation payment.Operation
	Verdict   payment.Verdict
	Amount    payment.Money
	Reference string
	Reason    string
}

// Answer gives the notice in the form of an answer to the operation.
func (n Notice) Answer() payment.Answer {
	return payment.Answer{Verdict: n.Verdict, OrderID: n.OrderID, Amount: n.Amount, Reference: n.Reference, Reason: n.Reason}
}

// body is a notice as it is sent.
type body struct {
	ID        string `json:"id"`
	OrderID   string `json:"order_id"`
	Key       string `json:"idempotency_key"`
	Operation string `json:"operation"` // authorize, capture, void, refund
	Outcome   string `json:"outcome"`   // approved, refused
	Amount    int64  `json:"amount"`    // in minor units
	Currency  string `json:"currency"`
	Reference string `json:"reference"`
	Reason    string `json:"reason,omitempty"`
}

// Sign gives the Provider-Signature header for a body sent at t. Providers sign
// with every secret that is valid while one replaces another.
func Sign(body []byte, t time.Time, secrets ...string) string {
	unix := strconv.FormatInt(t.Unix(), 10)
	parts := []string{"t=" + unix}
	for _, s := range secrets {
		parts = append(parts, "v1="+hex.EncodeToString(mac(s, unix, body)))
	}
	return strings.Join(parts, ",")
}

func mac(secret, unix string, body []byte) []byte {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(unix))
	h.Write([]byte{'.'})
	h.Write(body)
	return h.Sum(nil)
}

// Verify checks the signature over the bytes of a notice. A missing or wrong one
// is errs.Unauthenticated; a good one whose time is more than Tolerance from now
// is errs.Invalid, for it may be a replay.
func Verify(body []byte, signature string, secrets []string, now time.Time) error {
	unix, sums := split(signature)
	sent, err := strconv.ParseInt(unix, 10, 64)
	if err != nil || len(sums) == 0 {
		return errs.E(errs.Unauthenticated, "SIGNATURE_MISSING", "the header Provider-Signature must be t=<unix seconds>,v1=<hex>")
	}
	good := false
	for _, secret := range secrets {
		if secret == "" {
			continue // an empty secret would be everybody's
		}
		want := mac(secret, unix, body)
		for _, sum := range sums {
			if hmac.Equal(sum, want) {
				good = true
			}
		}
	}
	if !good {
		return errs.E(errs.Unauthenticated, "SIGNATURE_WRONG", "the signature is not one of this body under a secret known here")
	}
	if d := now.Sub(time.Unix(sent, 0)); d > Tolerance || d < -Tolerance {
		return errs.E(errs.Invalid, "SIGNATURE_TIME", "the signature's time is more than %s from now; check the clocks, or send the notice anew", Tolerance)
	}
	return nil
}

// maxSums bounds the work that one header can ask for.
const maxSums = 8

func split(signature string) (unix string, sums [][]byte) {
	for part := range strings.SplitSeq(signature, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		switch name {
		case "t":
			unix = value
		case "v1":
			if sum, err := hex.DecodeString(value); err == nil && len(sum) == sha256.Size && len(sums) < maxSums {
				sums = append(sums, sum)
			}
		}
	}
	return unix, sums
}

// Parse reads a notice whose signature was verified. What is not one is
// errs.Invalid.
func Parse(raw []byte) (Notice, error) {
	var b body
	d := json.NewDecoder(bytes.NewReader(raw))
	if err := d.Decode(&b); err != nil {
		return Notice{}, invalid("it is no JSON object of a notice")
	}
	if _, err := d.Token(); err != io.EOF {
		return Notice{}, invalid("something follows the JSON object")
	}
	n := Notice{
		ID: b.ID, OrderID: b.OrderID, Key: b.Key, Amount: payment.Money{Minor: b.Amount, Currency: b.Currency},
		Reference: b.Reference, Reason: b.Reason,
	}
	switch b.Operation {
	case "authorize":
		n.Operation = payment.Authorize
	case "capture":
		n.Operation = payment.Capture
	case "void":
		n.Operation = payment.Void
	case "refund":
		n.Operation = payment.Payback
	default:
		return Notice{}, invalid("operation must be authorize, capture, void or refund")
	}
	switch b.Outcome {
	case "approved":
		n.Verdict = payment.Approved
	case "refused":
		n.Verdict = payment.Refused
	default:
		return Notice{}, invalid("outcome must be approved or refused")
	}
	for name, s := range map[string]string{"id": b.ID, "order_id": b.OrderID, "idempotency_key": b.Key} {
		if !usable(s) {
			return Notice{}, invalid(name + " must be 1 to 128 printable ASCII characters")
		}
	}
	if len(b.Currency) != 3 {
		return Notice{}, invalid("currency must be a code of three letters")
	}
	if len(b.Reference) > 128 || len(b.Reason) > 128 {
		return Notice{}, invalid("reference and reason have at most 128 characters")
	}
	return n, nil
}

func invalid(what string) error { return errs.E(errs.Invalid, "NOTICE_MALFORMED", "%s", what) }

func usable(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		if s[i] < '!' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Encode gives the bytes that the provider sends for a notice. It is for the
// simulator and for tests.
func Encode(n Notice) []byte {
	operations := map[payment.Operation]string{payment.Authorize: "authorize", payment.Capture: "capture", payment.Void: "void", payment.Payback: "refund"}
	outcomes := map[payment.Verdict]string{payment.Approved: "approved", payment.Refused: "refused"}
	data, err := json.Marshal(body{
		ID: n.ID, OrderID: n.OrderID, Key: n.Key, Operation: operations[n.Operation], Outcome: outcomes[n.Verdict],
		Amount: n.Amount.Minor, Currency: n.Amount.Currency, Reference: n.Reference, Reason: n.Reason,
	})
	if err != nil {
		panic(err) // strings and numbers always can
	}
	return data
}
