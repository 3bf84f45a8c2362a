package system_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// postings reads what the ledger has of an order.
func (w *world) postings(t *testing.T, orderID string) []*paymentv1.LedgerPosting {
	t.Helper()
	s, err := paymentv1.NewPaymentServiceClient(w.conn).ExportLedger(w.admin.as(soon(t)), &paymentv1.ExportLedgerRequest{})
	must(t, err)
	var mine []*paymentv1.LedgerPosting
	for {
		m, err := s.Recv()
		if err != nil {
			if ofStatus(err).code == codes.Unknown { // io.EOF is no status
				return mine
			}
			t.Fatal(err)
		}
		if m.GetPosting().GetOrderId() == orderID {
			mine = append(mine, m.GetPosting())
		}
	}
}

// TestMoneyIsNotGivenTwice is D1.
func TestMoneyIsNotGivenTwice(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	throughBoth(t, func(t *testing.T, d door) {
		u, o, p := w.theirs(t)
		refund := func(who *user, amount *typev1.Money) answer {
			return try(t, d, w, who, refundPayment, &paymentv1.RefundPaymentRequest{PaymentId: o.GetPaymentId(), Amount: amount, Reason: "scratched"}, nil)
		}
		before, books := w.see(t, u, p.GetProductId()), len(w.postings(t, o.GetOrderId()))
		for name, c := range map[string]struct {
			amount *typev1.Money
			want   refusal
		}{
			"more than was taken":   {euro(2000), refusal{code: codes.FailedPrecondition, reason: "REFUND_EXCEEDS_CAPTURED"}},
			"the greatest number":   {euro(1<<63 - 1), invalid("amount.minor_units")},
			"nothing":               {euro(0), invalid("amount")},
			"less than nothing":     {euro(-1), invalid("amount")},
			"in another currency":   {&typev1.Money{MinorUnits: 1, CurrencyCode: "NOK"}, invalid("amount.currency_code")},
			"in a currency of none": {&typev1.Money{MinorUnits: 1, CurrencyCode: "XXX"}, invalid("amount.currency_code")},
		} {
			t.Run("D1 a refund of "+name, func(t *testing.T) {
				c.want.check(t, refund(w.admin, c.amount))
			})
		}
		t.Run("D1 a refund without a reason", func(t *testing.T) {
			invalid("reason").check(t, try(t, d, w, w.admin, refundPayment, &paymentv1.RefundPaymentRequest{PaymentId: o.GetPaymentId()}, nil))
		})
		t.Run("D1 a refund by the customer", func(t *testing.T) { forbidden.check(t, refund(u, euro(1))) })
		t.Run("D1 a refund of nothing there is", func(t *testing.T) {
			missing.check(t, try(t, d, w, w.admin, refundPayment, &paymentv1.RefundPaymentRequest{PaymentId: uuid.NewString(), Reason: "scratched"}, nil))
		})
		t.Run("D1 a return of what never set off", func(t *testing.T) {
			refusal{code: codes.FailedPrecondition}.check(t, try(t, d, w, u, returnOrder, &orderv1.ReturnOrderRequest{OrderId: o.GetOrderId()}, nil))
		})
		t.Run("D1 a cancellation of what was not read", func(t *testing.T) {
			refusal{code: codes.Aborted}.check(t, try(t, d, w, u, cancelOrder, &orderv1.CancelOrderRequest{OrderId: o.GetOrderId(), Etag: "of-another-time"}, nil))
		})
		before.same(t, w.see(t, u, p.GetProductId()))
		if n := len(w.postings(t, o.GetOrderId())); n != books {
			t.Errorf("the ledger had %d postings and has %d", books, n)
		}

		all := &paymentv1.RefundPaymentRequest{RequestId: newKey(), PaymentId: o.GetPaymentId(), Reason: "scratched"}
		ask(t, d, w, w.admin, refundPayment, all, &paymentv1.Payment{})
		ask(t, d, w, w.admin, refundPayment, all, &paymentv1.Payment{}) // the same wish
		w.settled(t, o.GetPaymentId(), refunded)
		books = len(w.postings(t, o.GetOrderId()))
		t.Run("D1 a second refund with another key", func(t *testing.T) {
			refusal{code: codes.FailedPrecondition, reason: "REFUND_EXCEEDS_CAPTURED"}.check(t, refund(w.admin, nil))
			refusal{code: codes.FailedPrecondition, reason: "REFUND_EXCEEDS_CAPTURED"}.check(t, refund(w.admin, euro(1)))
		})
		if n := len(w.postings(t, o.GetOrderId())); n != books {
			t.Errorf("the ledger had %d postings and has %d", books, n)
		}
		if pay := w.payment(t, o.GetPaymentId()); len(pay.GetRefunds()) != 1 || pay.GetRefunded().GetMinorUnits() != 1999 {
			t.Errorf("%v", pay)
		}
	})
}

func TestWhatWasNotPaidIsNotPaidBack(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	p := w.product(t, euro(100), 10)
	throughBoth(t, func(t *testing.T, d door) {
		u := w.customer(t)
		o := w.place(t, d, u, cart(p, 1, "tok_capture_fails"))
		o = w.until(t, u, o.GetOrderId(), is(cancelled))
		a := try(t, d, w, w.admin, refundPayment, &paymentv1.RefundPaymentRequest{PaymentId: o.GetPaymentId(), Reason: "please"}, nil)
		refusal{code: codes.FailedPrecondition, reason: "NOT_CAPTURED"}.check(t, a)
		refusal{code: codes.FailedPrecondition}.check(t, try(t, d, w, u, returnOrder, &orderv1.ReturnOrderRequest{OrderId: o.GetOrderId()}, nil))
		if sum := sumOf(w.postings(t, o.GetOrderId())); sum != 0 {
			t.Errorf("the postings add up to %d", sum)
		}
	})
}

func sumOf(postings []*paymentv1.LedgerPosting) (sum int64) {
	for _, p := range postings {
		sum += p.GetAmount().GetMinorUnits()
	}
	return sum
}

// TestScansOfTheCarrierAreLookedAt keeps parcels that nobody paid from being sent.
func TestScansOfTheCarrierAreLookedAt(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u, o, p := w.theirs(t)
	before := w.see(t, u, p.GetProductId())
	resp := w.report(t, &orderv1.Order{TrackingNumber: "WB0000000000000000"}, shippingv1.ScanKind_SCAN_KIND_PICKED_UP)
	if len(resp.GetRejected()) != 1 || resp.GetAcceptedCount() != 0 {
		t.Errorf("a parcel that there is not: %v", resp)
	}
	resp = w.report(t, o, shippingv1.ScanKind_SCAN_KIND_RETURNED)
	if len(resp.GetRejected()) != 1 {
		t.Errorf("back before it set off: %v", resp)
	}
	s, err := shippingv1.NewShippingServiceClient(w.conn).ReportScans(w.admin.as(soon(t)))
	must(t, err)
	_ = s.Send(&shippingv1.ReportScansRequest{ScanId: "x", TrackingNumber: o.GetTrackingNumber(), Kind: 99})
	_, err = s.CloseAndRecv()
	invalid("kind").check(t, ofStatus(err))
	before.same(t, w.see(t, u, p.GetProductId()))
}

// notice gives what the provider would say of the capture of an order.
func notice(o *orderv1.Order, change map[string]any) []byte {
	n := map[string]any{
		"id": uuid.NewString(), "order_id": o.GetOrderId(), "idempotency_key": "capture-" + o.GetPaymentId(), "operation": "capture", "outcome": "approved",
		"amount": o.GetTotal().GetMinorUnits(), "currency": "EUR", "reference": "sim_0011",
	}
	for k, v := range change {
		n[k] = v
	}
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // plain values
	}
	return b
}

// signature signs a body as the provider does.
func signature(body []byte, at time.Time, secrets ...string) string {
	s := fmt.Sprintf("t=%d", at.Unix())
	for _, k := range secrets {
		m := hmac.New(sha256.New, []byte(k))
		fmt.Fprintf(m, "%d.%s", at.Unix(), body)
		s += ",v1=" + hex.EncodeToString(m.Sum(nil))
	}
	return s
}

// TestNoticesOfTheProviderAreProved is D3.
func TestNoticesOfTheProviderAreProved(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u, o, p := w.theirs(t)
	before, books := w.see(t, u, p.GetProductId()), len(w.postings(t, o.GetOrderId()))
	now := time.Now()
	body := notice(o, nil)
	var loose map[string]any
	must(t, json.Unmarshal(body, &loose))
	indented, err := json.MarshalIndent(loose, "", " ")
	must(t, err)
	huge := append([]byte(`{"id":"`), append([]byte(strings.Repeat("x", 2<<20)), '"', '}')...)
	wrong, old := refusal{code: codes.Unauthenticated}, refusal{code: codes.InvalidArgument}
	throughBoth(t, func(t *testing.T, d door) {
		for name, c := range map[string]struct {
			body      []byte
			signature string
			want      refusal
		}{
			"without a signature":           {body, "", wrong},
			"with nonsense for one":         {body, "t=now,v1=zz", wrong},
			"without a time":                {body, strings.SplitN(signature(body, now, webhookSecret), ",", 2)[1], wrong},
			"signed with another secret":    {body, signature(body, now, "guess"), wrong},
			"signed with no secret":         {body, signature(body, now, ""), wrong},
			"signed for another time":       {body, strings.Replace(signature(body, now, webhookSecret), "t=", "t=1", 1), wrong},
			"older than five minutes":       {body, signature(body, now.Add(-301*time.Second), webhookSecret), old},
			"from the future":               {body, signature(body, now.Add(400*time.Second), webhookSecret), old},
			"written anew after signing":    {indented, signature(body, now, webhookSecret), wrong},
			"with one digit more":           {notice(o, map[string]any{"amount": 19990}), signature(body, now, webhookSecret), wrong},
			"signed, but no JSON":           {[]byte("hello"), signature([]byte("hello"), now, webhookSecret), old},
			"signed, but of something else": {[]byte(`{"hello":1}`), signature([]byte(`{"hello":1}`), now, webhookSecret), old},
		} {
			t.Run("D3 "+name, func(t *testing.T) {
				a, err := hook(t, d, w, c.body, c.signature)
				must(t, err)
				c.want.check(t, a)
			})
		}
		for name, c := range map[string]struct{ body, signed []byte }{
			"and again":               {body: body},
			"of an object unknown":    {body: notice(&orderv1.Order{OrderId: uuid.NewString(), Total: euro(1)}, nil)},
			"of another amount":       {body: notice(o, map[string]any{"amount": 1})},
			"of another currency":     {body: notice(o, map[string]any{"currency": "NOK"})},
			"of an operation unknown": {body: notice(o, map[string]any{"idempotency_key": "nobody-asked"})},
			"of a refusal too late":   {body: notice(o, map[string]any{"outcome": "refused", "reason": "late", "reference": ""})},
		} {
			t.Run("D3 signed, "+name, func(t *testing.T) {
				for range 2 {
					a, err := hook(t, d, w, c.body, signature(c.body, now, webhookSecret))
					must(t, err)
					if a.code != codes.OK {
						t.Errorf("%s", a.text)
					}
				}
			})
		}
		t.Run("D3 signed with the secret before", func(t *testing.T) {
			a, err := hook(t, d, w, body, signature(body, now, "guess", webhookEarlier))
			must(t, err)
			if a.code != codes.OK {
				t.Errorf("%s", a.text)
			}
		})
	})
	t.Run("D3 of two megabytes", func(t *testing.T) {
		a, err := hook(t, restDoor{}, w, huge, signature(huge, now, webhookSecret))
		must(t, err)
		refusal{code: codes.ResourceExhausted, http: http.StatusRequestEntityTooLarge}.check(t, a)
	})
	before.same(t, w.see(t, u, p.GetProductId()))
	if now := w.postings(t, o.GetOrderId()); len(now) != books || sumOf(now) != 0 {
		t.Errorf("the ledger had %d postings and has %d, which add up to %d", books, len(now), sumOf(now))
	}
}

// hook sends a notice. Over REST the body goes as it is, the signature in a header.
func hook(t *testing.T, d door, w *world, body []byte, signature string) (answer, error) {
	t.Helper()
	name := paymentv1.PaymentService_HandleProviderWebhook_FullMethodName
	if _, overREST := d.(restDoor); !overREST {
		return d.call(soon(t), w, "", name, &paymentv1.HandleProviderWebhookRequest{Body: body, Signature: signature}, &paymentv1.HandleProviderWebhookResponse{})
	}
	var h []string
	if signature != "" {
		h = []string{"Provider-Signature", signature}
	}
	return w.post(t, nil, "/v1/payments:webhook", string(body), h...), nil
}
