package webhook_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/webhook"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestOnlyAFreshSignatureOfAKnownSecretIsBelieved(t *testing.T) {
	body := []byte(`{"id":"evt_1"}`)
	secrets := []string{"old secret", "new secret", ""}
	good := webhook.Sign(body, now, "old secret")
	sum := good[strings.Index(good, "v1="):]
	for _, c := range []struct {
		name, signature string
		body            []byte
		want            errs.Kind
	}{
		{"good", good, body, 0},
		{"of the second secret", webhook.Sign(body, now, "new secret"), body, 0},
		{"of both secrets", webhook.Sign(body, now, "unknown", "new secret"), body, 0},
		{"300 seconds old", webhook.Sign(body, now.Add(-300*time.Second), "old secret"), body, 0},
		{"300 seconds early", webhook.Sign(body, now.Add(300*time.Second), "old secret"), body, 0},
		{"301 seconds old", webhook.Sign(body, now.Add(-301*time.Second), "old secret"), body, errs.Invalid},
		{"301 seconds early", webhook.Sign(body, now.Add(301*time.Second), "old secret"), body, errs.Invalid},
		{"none", "", body, errs.Unauthenticated},
		{"of nobody's secret", webhook.Sign(body, now, "guess"), body, errs.Unauthenticated},
		{"of the empty secret", webhook.Sign(body, now, ""), body, errs.Unauthenticated},
		{"old and wrong", webhook.Sign(body, now.Add(-time.Hour), "guess"), body, errs.Unauthenticated},
		{"without a time", sum, body, errs.Unauthenticated},
		{"without a sum", "t=1767323045", body, errs.Unauthenticated},
		{"with another time", "t=1767323046," + sum, body, errs.Unauthenticated},
		{"of a time that overflows", "t=99999999999999999999," + sum, body, errs.Unauthenticated},
		{"not in hex", "t=1767323045,v1=zz", body, errs.Unauthenticated},
		{"cut short", good[:len(good)-2], body, errs.Unauthenticated},
		{"of another scheme", strings.Replace(good, "v1=", "v0=", 1), body, errs.Unauthenticated},
		{"of a body written anew", good, []byte(`{"id": "evt_1"}`), errs.Unauthenticated},
		{"of an empty body", good, nil, errs.Unauthenticated},
		{"behind a flood", strings.Repeat("v1="+strings.Repeat("00", 32)+",", 1000) + good, body, errs.Unauthenticated},
	} {
		err := webhook.Verify(c.body, c.signature, secrets, now)
		if (c.want == 0) != (err == nil) || errs.KindOf(err) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := webhook.Verify(body, webhook.Sign(body, now, ""), nil, now); errs.KindOf(err) != errs.Unauthenticated {
		t.Errorf("without any secret: %v", err)
	}
}

func sample() webhook.Notice {
	return webhook.Notice{
		ID: "evt_1", OrderID: "o", Key: "p:capture", Operation: payment.Capture, Verdict: payment.Approved,
		Amount: payment.Money{Minor: 5, Currency: "EUR"}, Reference: "ref",
	}
}

func TestANoticeReadIsTheNoticeWritten(t *testing.T) {
	for _, op := range []payment.Operation{payment.Authorize, payment.Capture, payment.Void, payment.Payback} {
		for _, v := range []payment.Verdict{payment.Approved, payment.Refused} {
			n := sample()
			n.Operation, n.Verdict, n.Reason = op, v, "why"
			got, err := webhook.Parse(webhook.Encode(n))
			if diff := cmp.Diff(n, got); diff != "" || err != nil {
				t.Errorf("%v, -want +got:\n%s", err, diff)
			}
		}
	}
}

func TestWhatIsNoNoticeIsInvalid(t *testing.T) {
	good := string(webhook.Encode(sample()))
	for name, body := range map[string]string{
		"nothing":              "",
		"HTML":                 "<html>",
		"cut short":            good[:len(good)-1],
		"followed by more":     good + "{}",
		"a list":               "[" + good + "]",
		"an amount as text":    strings.Replace(good, `"amount":5`, `"amount":"5"`, 1),
		"a fraction":           strings.Replace(good, `"amount":5`, `"amount":5.5`, 1),
		"an unknown operation": strings.Replace(good, `"capture"`, `"steal"`, 1),
		"an unknown outcome":   strings.Replace(good, `"approved"`, `"perhaps"`, 1),
		"no id":                strings.Replace(good, `"evt_1"`, `""`, 1),
		"an id of two lines":   strings.Replace(good, `"evt_1"`, `"evt\n1"`, 1),
		"an endless id":        strings.Replace(good, `"evt_1"`, `"`+strings.Repeat("x", 129)+`"`, 1),
		"no order":             strings.Replace(good, `"o"`, `""`, 1),
		"no key":               strings.Replace(good, `"p:capture"`, `""`, 1),
		"no currency":          strings.Replace(good, `"EUR"`, `""`, 1),
		"an endless reference": strings.Replace(good, `"ref"`, `"`+strings.Repeat("x", 129)+`"`, 1),
	} {
		if n, err := webhook.Parse([]byte(body)); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: read as %+v, %v", name, n, err)
		}
	}
}

func FuzzParseNeverTakesWhatItCannotMean(f *testing.F) {
	f.Add(webhook.Encode(sample()))
	f.Add([]byte(`{"id":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := webhook.Parse(body)
		if err != nil {
			return
		}
		if n.ID == "" || n.OrderID == "" || n.Key == "" || n.Operation == 0 || n.Verdict == payment.OutcomeUnknown || len(n.Amount.Currency) != 3 {
			t.Errorf("%q was read as %+v", body, n)
		}
	})
}
