package saga_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/paymenttest"
	"github.com/waybill-dev/waybill/services/payment/internal/simulator"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
)

func newOrder() string { return uuid.Must(uuid.NewV7()).String() }

func TestAnOrderIsAuthorizedThenCapturedThenReturned(t *testing.T) {
	both(t, func(t *testing.T, h *payments) {
		id := h.captured(simulator.TokenOK)
		if net, captures, held := h.provider.charged(id); net != price || captures != 1 || held != 0 {
			t.Errorf("the provider has %d in %d captures, %d held", net, captures, held)
		}
		h.balanced()
		h.send(paymenttest.Returned(id), 1)
		rev := await[*paymentv1.PaymentReversed](h, id, 1)
		if rev.GetRefunded().GetMinorUnits() != price || rev.GetVoided() != nil || rev.GetNoop() || rev.GetPurpose() != paymentv1.ReversalPurpose_REVERSAL_PURPOSE_RETURN {
			t.Errorf("answered %v", rev)
		}
		h.send(paymenttest.Returned(id), 1)
		if again := await[*paymentv1.PaymentReversed](h, id, 2); !proto.Equal(rev, again) {
			t.Errorf("answered %v, then %v", rev, again)
		}
		if net, _, _ := h.provider.charged(id); net != 0 {
			t.Errorf("the provider keeps %d", net)
		}
		h.in(id, payment.Refunded)
		h.balanced()
	})
}

func TestAnAuthorizedPaymentIsVoidedOnCancellation(t *testing.T) {
	both(t, func(t *testing.T, h *payments) {
		id := newOrder()
		h.send(paymenttest.Held(id), 1) // the other way round
		h.send(placed(id, simulator.TokenOK), 1)
		await[*paymentv1.PaymentAuthorized](h, id, 1)
		h.send(paymenttest.Cancelled(id), 1)
		rev := await[*paymentv1.PaymentReversed](h, id, 1)
		if rev.GetVoided().GetMinorUnits() != price || rev.GetRefunded() != nil || rev.GetNoop() {
			t.Errorf("answered %v", rev)
		}
		h.send(paymenttest.Committed(id), 1) // too late
		h.send(paymenttest.Cancelled(id), 1)
		await[*paymentv1.PaymentReversed](h, id, 2)
		if net, captures, held := h.provider.charged(id); net != 0 || captures != 0 || held != 0 {
			t.Errorf("the provider has %d in %d captures, %d held", net, captures, held)
		}
		h.balanced()
	})
}

func TestTokensLeadWhereTheyAreDocumentedTo(t *testing.T) {
	h := lite(t)
	t.Run(simulator.TokenDeclined, func(t *testing.T) {
		id := newOrder()
		h.send(placed(id, simulator.TokenDeclined), 1)
		h.send(paymenttest.Held(id), 1)
		if e := await[*paymentv1.PaymentDeclined](h, id, 1); e.GetReason() != "insufficient_funds" {
			t.Errorf("declined for %q", e.GetReason())
		}
		h.send(paymenttest.Cancelled(id), 1)
		if rev := await[*paymentv1.PaymentReversed](h, id, 1); !rev.GetNoop() {
			t.Errorf("answered %v", rev)
		}
	})
	t.Run("an unknown token", func(t *testing.T) {
		id := newOrder()
		h.send(placed(id, "tok_of_another_shop"), 1)
		h.send(paymenttest.Held(id), 1)
		if e := await[*paymentv1.PaymentDeclined](h, id, 1); e.GetReason() != "invalid_token" {
			t.Errorf("declined for %q", e.GetReason())
		}
	})
	t.Run(simulator.TokenCaptureFails, func(t *testing.T) {
		id := newOrder()
		h.send(placed(id, simulator.TokenCaptureFails), 1)
		h.send(paymenttest.Held(id), 1)
		await[*paymentv1.PaymentAuthorized](h, id, 1)
		h.send(paymenttest.Committed(id), 1)
		if e := await[*paymentv1.PaymentCaptureFailed](h, id, 1); e.GetReason() != "capture_failed" {
			t.Errorf("failed for %q", e.GetReason())
		}
		h.send(paymenttest.Cancelled(id), 1)
		if rev := await[*paymentv1.PaymentReversed](h, id, 1); rev.GetVoided().GetMinorUnits() != price {
			t.Errorf("answered %v", rev)
		}
	})
	t.Run(simulator.TokenSlow, func(t *testing.T) { h.captured(simulator.TokenSlow) })
	t.Run(simulator.TokenTimeout, func(t *testing.T) {
		id := h.captured(simulator.TokenTimeout)
		unknown := reacttest.All[*paymentv1.PaymentUnknown](h.ear.Heard(id))
		if len(unknown) != 2 || unknown[0].GetOperation() != payment.Authorize || unknown[1].GetOperation() != payment.Capture {
			t.Errorf("told %v", unknown)
		}
		if net, captures, _ := h.provider.charged(id); net != price || captures != 1 {
			t.Errorf("the provider has %d in %d captures", net, captures)
		}
	})
	h.balanced()
}

func TestALateHoldIsDeclinedWithoutAskingTheProvider(t *testing.T) {
	h := lite(t)
	id := newOrder()
	h.send(placed(id, simulator.TokenOK), 1)
	h.send(&inventoryv1.StockHeld{OrderId: id, ExpiresAt: timestamppb.New(time.Now().Add(time.Second))}, 1)
	if e := await[*paymentv1.PaymentDeclined](h, id, 1); e.GetReason() != payment.ReasonWindowClosed {
		t.Errorf("declined for %q", e.GetReason())
	}
	if len(h.provider.calls) != 0 {
		t.Errorf("the provider was asked: %v", h.provider.calls)
	}
}

func TestAnOrderCancelledBeforeItWasHeardOfIsNeverPaid(t *testing.T) {
	both(t, func(t *testing.T, h *payments) {
		id := newOrder()
		h.send(paymenttest.Cancelled(id), 1)
		rev := await[*paymentv1.PaymentReversed](h, id, 1)
		if !rev.GetNoop() || rev.GetPaymentId() != "" {
			t.Errorf("answered %v", rev)
		}
		h.send(placed(id, simulator.TokenOK), 1)
		h.send(paymenttest.Held(id), 1)
		h.until(id, func(p store.Versioned) bool { return p.ID != "" })
		h.send(paymenttest.Cancelled(id), 1)
		if again := await[*paymentv1.PaymentReversed](h, id, 2); !proto.Equal(rev, again) {
			t.Errorf("answered %v, then %v", rev, again)
		}
		if p := h.in(id, payment.Tombstoned); p.Status() != paymentv1.PaymentStatus_PAYMENT_STATUS_CANCELLED {
			t.Errorf("shown as %s", p.Status())
		}
		if _, _, held := h.provider.charged(id); held != 0 {
			t.Error("the provider holds money")
		}
	})
}

func TestARejectedOrderIsNotLeftPending(t *testing.T) {
	h := lite(t)
	id := newOrder()
	h.send(placed(id, simulator.TokenOK), 1)
	h.send(&orderv1.OrderRejected{OrderId: id}, 1)
	h.in(id, payment.Tombstoned)
}

func TestACancellationWaitsForWhatIsUnknown(t *testing.T) {
	for _, at := range []payment.Operation{payment.Authorize, payment.Capture} {
		t.Run(at.String(), func(t *testing.T) {
			h := lite(t)
			h.provider.mu.Lock()
			h.provider.unsure = true
			h.provider.mu.Unlock()
			h.provider.set(func(r payment.Request, _ int) string {
				if r.Operation == at {
					return "lost after"
				}
				return ""
			})
			id := newOrder()
			h.send(placed(id, simulator.TokenOK), 1)
			h.send(paymenttest.Held(id), 1)
			if at == payment.Capture {
				await[*paymentv1.PaymentAuthorized](h, id, 1)
				h.send(paymenttest.Committed(id), 1)
			}
			await[*paymentv1.PaymentUnknown](h, id, 1)
			h.send(paymenttest.Cancelled(id), 2)
			h.until(id, func(p store.Versioned) bool { return p.Rare.Undo.Purpose != 0 })
			h.provider.mu.Lock()
			h.provider.unsure = false
			h.provider.mu.Unlock()
			rev := await[*paymentv1.PaymentReversed](h, id, 1)
			if rev.GetNoop() || rev.GetVoided().GetMinorUnits()+rev.GetRefunded().GetMinorUnits() != price {
				t.Errorf("answered %v", rev)
			}
			if net, captures, held := h.provider.charged(id); net != 0 || captures > 1 || held != 0 {
				t.Errorf("the provider has %d in %d captures, %d held", net, captures, held)
			}
			h.balanced()
		})
	}
}

func TestAProviderThatDropsAnswersChargesNobodyTwice(t *testing.T) {
	both(t, func(t *testing.T, h *payments) {
		h.provider.set(func(r payment.Request, nth int) string {
			// By order, operation and try, so that every fault meets every operation.
			switch (int(r.OrderID[35]) + int(r.Operation) + nth) % 5 {
			case 0:
				return "lost before"
			case 1:
				return "lost after"
			case 2:
				if r.Operation == payment.Void || r.Operation == payment.Payback {
					return "refused"
				}
				return "forged"
			}
			return ""
		})
		const orders = 24
		ids := make([]string, orders)
		for i := range ids {
			ids[i] = newOrder()
			h.send(placed(ids[i], simulator.TokenOK), 2)
			h.send(paymenttest.Held(ids[i]), 2)
		}
		for i, id := range ids {
			await[*paymentv1.PaymentAuthorized](h, id, 1)
			if i%3 > 0 {
				h.send(paymenttest.Committed(id), 2)
			}
		}
		for i, id := range ids {
			if i%3 > 0 {
				await[*paymentv1.PaymentCaptured](h, id, 1)
			}
			if i%3 < 2 {
				h.send(paymenttest.Cancelled(id), 2)
			}
		}
		for i, id := range ids {
			want := price
			if i%3 < 2 {
				want = 0
				if rev := await[*paymentv1.PaymentReversed](h, id, 1); rev.GetVoided().GetMinorUnits()+rev.GetRefunded().GetMinorUnits() != price {
					t.Errorf("answered %v", rev)
				}
			}
			if net, captures, held := h.provider.charged(id); net != want || captures > 1 || held != 0 {
				t.Errorf("%s: the provider has %d in %d captures, %d held", id, net, captures, held)
			}
		}
		h.balanced()
	})
}

func TestNotificationsInEveryOrderEndAlike(t *testing.T) {
	h := lite(t)
	var ids []string
	makers := []func(id string) proto.Message{
		func(id string) proto.Message { return placed(id, simulator.TokenOK) },
		func(id string) proto.Message { return paymenttest.Held(id) },
		func(id string) proto.Message { return paymenttest.Committed(id) },
		func(id string) proto.Message { return paymenttest.Cancelled(id) },
	}
	permute(len(makers), func(order []int) {
		id := newOrder()
		ids = append(ids, id)
		for _, i := range order {
			h.send(makers[i](id), 2)
		}
	})
	if len(ids) != 24 {
		t.Fatalf("%d orders of four", len(ids))
	}
	for i, id := range ids {
		rev := await[*paymentv1.PaymentReversed](h, id, 1)
		h.until(id, func(p store.Versioned) bool { return p.State.String() != "NEW" && p.Waiting() == 0 })
		if net, captures, held := h.provider.charged(id); net != 0 || captures > 1 || held != 0 {
			t.Errorf("%d: the provider has %d in %d captures, %d held, answered %v", i, net, captures, held, rev)
		}
	}
	h.balanced()
}

// permute calls fn with every order of 0 to n-1.
func permute(n int, fn func([]int)) {
	work := make([]int, n)
	for i := range work {
		work[i] = i
	}
	var walk func(at int)
	walk = func(at int) {
		if at == n {
			fn(work)
			return
		}
		for i := at; i < n; i++ {
			work[at], work[i] = work[i], work[at]
			walk(at + 1)
			work[at], work[i] = work[i], work[at]
		}
	}
	walk(0)
}

func TestAfterLongAskingPeopleMustLookAndNothingMoreIsCharged(t *testing.T) {
	clock := &clock{base: time.Now(), started: time.Now()}
	h := lite(t, func(p *payment.Policy, c *react.Config) {
		p.GiveUp = 20 * time.Hour
		c.Now = clock.now
	})
	h.provider.set(func(payment.Request, int) string { return "lost after" })
	h.provider.mu.Lock()
	h.provider.unsure = true
	h.provider.mu.Unlock()
	id := newOrder()
	h.send(placed(id, simulator.TokenOK), 1)
	h.send(paymenttest.Held(id), 1)
	await[*paymentv1.PaymentUnknown](h, id, 1)
	clock.skip(25 * time.Hour)
	p := h.until(id, func(p store.Versioned) bool { return p.Review })
	h.provider.mu.Lock()
	defer h.provider.mu.Unlock()
	if n := h.provider.calls[p.ID+":authorize"]; n != 1 {
		t.Errorf("asked %d times to authorize", n)
	}
	if p.State != payment.AuthorizeUnknown {
		t.Errorf("it is %s", p.State)
	}
}

func TestEveryOrderOfALotIsDoneOnce(t *testing.T) {
	both(t, func(t *testing.T, h *payments) {
		const orders = 100
		ids := make([]string, orders)
		for i := range ids {
			ids[i] = newOrder()
			h.send(placed(ids[i], simulator.TokenOK), 1)
			h.send(paymenttest.Held(ids[i]), 1)
			h.send(paymenttest.Committed(ids[i]), 1)
		}
		for _, id := range ids {
			await[*paymentv1.PaymentCaptured](h, id, 1)
		}
		h.balanced()
		sums, err := h.store.Balance(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := map[payment.Account]int64{payment.ProviderReceivable: orders * price, payment.Revenue: -orders * price, payment.CustomerHold: 0, payment.Clearing: 0}
		for _, s := range sums {
			if s.Amount != want[s.Account] {
				t.Errorf("%s is %d", s.Account, s.Amount)
			}
		}
		if len(sums) != 4 {
			t.Errorf("%d accounts", len(sums))
		}
	})
}
