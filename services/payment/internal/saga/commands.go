package saga

import (
	"context"

	"github.com/waybill-dev/waybill/platform/react"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
	"github.com/waybill-dev/waybill/services/payment/internal/webhook"
)

// Commands are what callers may ask of payments.
type Commands struct{ machine *machine }

// Refund pays money back: amount, or all that is left when it is nil. It answers
// with what present makes of the payment once the refund is written down. It
// fails with errs.FailedPrecondition when nothing was taken, or less than amount
// is left.
func (c *Commands) Refund(ctx context.Context, r *react.Reactor, orderID string, amount *payment.Money, reason string,
	present func(payment.Payment, int64) *paymentv1.Payment,
) (*paymentv1.Payment, error) {
	ref := store.Payments.Ref(orderID)
	return react.Do(ctx, r,
		func(*react.View) []react.Ref { return []react.Ref{ref} },
		func(v *react.View) (*paymentv1.Payment, error) {
			p, err := c.machine.apply(v, orderID, payment.Input{Message: payment.RefundRequested, Amount: amount, Reason: reason})
			if err != nil {
				return nil, err
			}
			return present(p, store.Payments.Version(v, orderID)), nil
		})
}

// Notice takes a notice of the provider whose signature was verified. A notice
// seen before, one about a payment or an operation that is not known, and one
// that says nothing new change nothing. One whose amount or currency is not what
// was asked for is put into quarantine and people are called.
func (c *Commands) Notice(ctx context.Context, r *react.Reactor, n webhook.Notice) (*paymentv1.HandleProviderWebhookResponse, error) {
	return react.Do(ctx, r,
		func(*react.View) []react.Ref {
			return []react.Ref{store.Notices.Ref(n.ID), store.Payments.Ref(n.OrderID)}
		},
		func(v *react.View) (*paymentv1.HandleProviderWebhookResponse, error) {
			return new(paymentv1.HandleProviderWebhookResponse), c.notice(v, n)
		})
}

func (c *Commands) notice(v *react.View, n webhook.Notice) error {
	if _, seen := store.Notices.Get(v, n.ID); seen {
		return nil
	}
	p, ok := store.Payments.Get(v, n.OrderID)
	if !ok {
		return nil // of another shop, or of another life of this database
	}
	asked, ok := p.Asked(n.Operation, n.Key)
	if !ok {
		return nil
	}
	store.Notices.Put(v, n.ID, store.Notice{OrderID: n.OrderID, Created: v.Now()})
	answer, wrong := payment.Check(asked, n.Answer())
	if wrong != "" {
		v.Append(store.Quarantine, n.ID, n.OrderID, effectOf(n.Operation), wrong, n.Amount.Minor, n.Amount.Currency, n.Reference, v.Now())
		c.machine.alarm(v, p, payment.Outcome(asked, answer).Message, "notice "+n.ID+" of the provider is in quarantine: "+wrong)
		return nil
	}
	if answer.Verdict == payment.Refused && (n.Operation == payment.Void || n.Operation == payment.Payback) {
		return nil // the call's own answer leads to the repetition; two of them would double it
	}
	return c.machine.take(v, n.OrderID, payment.Outcome(asked, answer))
}
