package sim

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/inventory/inventoryd"
	"github.com/waybill-dev/waybill/services/payment"
)

// bank is the payment provider. It keeps books of its own, in which money is moved
// once per key, and looks at nothing but the key: who asks for the same under
// another key gets it twice.
type bank struct {
	w    *world
	done map[string]payment.Answer // by key
	log  map[string][]operation    // by order
	told map[string]bool           // keys whose outcome a call has answered

	leaves, comesBack time.Time // in some worlds nobody is there for minutes
}

// operation is one movement of money.
type operation struct {
	kind   payment.Operation
	key    string
	amount int64
}

var _ payment.Provider = (*bank)(nil)

var errNoAnswer = errors.New("no answer")

func newBank(w *world) *bank {
	b := &bank{w: w, done: map[string]payment.Answer{}, log: map[string][]operation{}, told: map[string]bool{}}
	if w.rates.provider && w.plan.IntN(3) == 0 {
		b.leaves = epoch.Add(time.Duration(w.plan.Int64N(int64(arrival))))
		b.comesBack = b.leaves.Add(3*time.Minute + time.Duration(w.plan.Int64N(int64(3*time.Minute))))
	}
	return b
}

// away tells whether nobody is there.
func (b *bank) away() bool {
	if b.w.healed || b.w.now.Before(b.leaves) || !b.w.now.Before(b.comesBack) {
		return false
	}
	b.w.count("provider was away")
	return true
}

// Execute implements payment.Provider.
func (b *bank) Execute(_ context.Context, r payment.Request) (payment.Answer, error) {
	w := b.w
	if w.opt.Mutant == RandomKey {
		r.Key += "#" + strconv.Itoa(w.fate.IntN(1<<30))
	}
	if _, again := b.done[r.Key]; again && r.Operation == payment.Capture {
		w.count("capture asked for again")
	}
	w.lasts = w.between(30*time.Millisecond, 400*time.Millisecond)
	if !w.rates.provider {
		return b.tell(r, b.do(r)), nil
	}
	switch x := w.fate.Float64(); {
	case w.healed:
	case b.away():
		return payment.Answer{}, errNoAnswer
	case x < .10:
		w.count("provider did it and did not say so")
		b.do(r)
		w.lasts = 2 * time.Second
		return payment.Answer{}, context.DeadlineExceeded
	case x < .20:
		w.count("provider did not get it")
		w.lasts = 2 * time.Second
		return payment.Answer{}, errNoAnswer
	case x < .25:
		w.count("provider does it late")
		w.after(w.between(2*time.Second, 4*time.Minute), func() { b.do(r) })
		w.lasts = 2 * time.Second
		return payment.Answer{}, context.DeadlineExceeded
	case x < .28:
		w.count("provider answered nonsense")
		a := b.do(r)
		a.Amount.Minor++
		return a, nil
	case x < .31 && (r.Operation == payment.Void || r.Operation == payment.Payback):
		if _, again := b.done[r.Key]; !again {
			w.count("provider refused to give back, this time")
			return payment.Answer{Verdict: payment.Refused, OrderID: r.OrderID, Amount: r.Amount, Reason: "try_later"}, nil
		}
	}
	return b.tell(r, b.do(r)), nil
}

// Query implements payment.Provider.
func (b *bank) Query(_ context.Context, r payment.Request) (payment.Answer, error) {
	w := b.w
	w.lasts = w.between(30*time.Millisecond, 400*time.Millisecond)
	if w.rates.provider && (b.away() || w.chance(.15)) {
		return payment.Answer{}, errNoAnswer
	}
	a, ok := b.done[r.Key]
	if !ok {
		w.count("provider has never seen it")
		return payment.Answer{Verdict: payment.NeverSeen}, nil
	}
	return b.tell(r, a), nil
}

func (b *bank) tell(r payment.Request, a payment.Answer) payment.Answer {
	b.told[r.Key] = true
	return a
}

// do moves the money, once per key.
func (b *bank) do(r payment.Request) payment.Answer {
	w := b.w
	if a, again := b.done[r.Key]; again {
		return a
	}
	a := payment.Answer{Verdict: payment.Approved, OrderID: r.OrderID, Amount: r.Amount, Reference: fmt.Sprintf("ref%d", len(b.done)+1)}
	if w.rates.provider && (r.Operation == payment.Authorize && w.plan.IntN(20) == 0 || r.Operation == payment.Capture && w.plan.IntN(30) == 0) {
		w.count("provider refused " + strings.ToLower(strings.TrimPrefix(r.Operation.String(), "PAYMENT_OPERATION_")))
		a.Verdict, a.Reference, a.Reason = payment.Refused, "", "no_funds"
	} else {
		b.log[r.OrderID] = append(b.log[r.OrderID], operation{r.Operation, r.Key, r.Amount.Minor})
	}
	b.done[r.Key] = a
	w.note("bank", r.Key, strconv.Itoa(int(a.Verdict)))
	b.watch(r, a)
	if w.rates.provider && w.fate.IntN(5) == 0 {
		for range 1 + w.fate.IntN(3) {
			b.notify(r, a, 3)
		}
	}
	return a
}

// watch holds each movement against what it must never be.
func (b *bank) watch(r payment.Request, a payment.Answer) {
	w := b.w
	if a.Verdict != payment.Approved {
		return
	}
	var seen [8]int
	var paid, back int64
	for _, o := range b.log[r.OrderID] {
		seen[o.kind]++
		switch o.kind {
		case payment.Capture:
			paid += o.amount
		case payment.Payback:
			back += o.amount
		default: // moves nothing
		}
	}
	for _, op := range []payment.Operation{payment.Authorize, payment.Capture, payment.Void} {
		if seen[op] > 1 {
			w.violated("charged twice", r.OrderID, "has %d times %s at the provider", seen[op], op)
		}
	}
	if seen[payment.Capture] > 0 && seen[payment.Void] > 0 {
		w.violated("money", r.OrderID, "was captured and voided at the provider")
	}
	if seen[payment.Capture] > seen[payment.Authorize] {
		w.violated("money", r.OrderID, "was captured and not authorized")
	}
	if back > paid {
		w.violated("refunds", r.OrderID, "was paid back %d of %d by the provider", back, paid)
	}
	if r.Operation == payment.Capture {
		books, err := inventoryd.Audit(context.Background(), w.service("inventory").mem.Open())
		if err != nil {
			w.violated("simulator", "", "%v", err)
			return
		}
		if h := books.Holds[r.OrderID]; h.State != inventory.Committed && h.State != inventory.RestockedHold {
			w.violated("captured too early", r.OrderID, "is captured while its stock is %q", string(h.State))
		}
	}
}

// notify has the provider tell by itself what became of an operation.
func (b *bank) notify(r payment.Request, a payment.Answer, tries int) {
	w := b.w
	n := len(b.told)
	w.after(w.between(5*time.Millisecond, 3*time.Minute), func() {
		p := w.pick(w.service("payment"))
		if p == nil || tries == 0 {
			return
		}
		op := map[payment.Operation]string{payment.Authorize: "authorize", payment.Capture: "capture", payment.Void: "void", payment.Payback: "refund"}[r.Operation]
		outcome := "approved"
		if a.Verdict == payment.Refused {
			outcome = "refused"
		}
		body, err := json.Marshal(map[string]any{
			"id": "notice-" + r.Key, "order_id": r.OrderID, "idempotency_key": r.Key, "operation": op, "outcome": outcome,
			"amount": a.Amount.Minor, "currency": a.Amount.Currency, "reference": a.Reference, "reason": a.Reason,
		})
		if err != nil {
			w.violated("simulator", "", "%v", err)
		}
		unix := strconv.FormatInt(w.now.Unix(), 10)
		mac := hmac.New(sha256.New, []byte(notices))
		fmt.Fprintf(mac, "%s.%s", unix, body)
		req := &paymentv1.HandleProviderWebhookRequest{Body: body, Signature: "t=" + unix + ",v1=" + hex.EncodeToString(mac.Sum(nil))}
		w.count("notice of the provider")
		if !b.told[r.Key] {
			w.count("notice before the answer")
		}
		p.command("notice "+r.Key+strconv.Itoa(n), func(ctx context.Context) error {
			_, err := p.server.(paymentv1.PaymentServiceServer).HandleProviderWebhook(ctx, req)
			return err
		}, func(err error) {
			if err != nil {
				b.notify(r, a, tries-1)
			}
		})
	})
}

// balance gives what the provider took and paid back for an order.
func (b *bank) balance(order string) (taken, back int64) {
	for _, o := range b.log[order] {
		switch o.kind {
		case payment.Capture:
			taken += o.amount
		case payment.Payback:
			back += o.amount
		default: // moves nothing
		}
	}
	return taken, back
}

// open tells whether money is set aside for an order and neither taken nor freed.
func (b *bank) open(order string) bool {
	has := func(op payment.Operation) bool {
		return slices.ContainsFunc(b.log[order], func(o operation) bool { return o.kind == op })
	}
	return has(payment.Authorize) && !has(payment.Capture) && !has(payment.Void)
}
