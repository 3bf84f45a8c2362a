// Package rpc serves payment's part of the contract: it translates and calls.
package rpc

import (
	"context"
	"log/slog"
	"time"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/cardscan"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/saga"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
	"github.com/waybill-dev/waybill/services/payment/internal/webhook"
)

// Server implements PaymentService. All fields are required.
type Server struct {
	paymentv1.UnimplementedPaymentServiceServer

	Store    *store.Store
	Reactor  *react.Reactor
	Commands *saga.Commands
	Secrets  []string // of the provider's notices; more than one while they are exchanged
	Now      func() time.Time
	Log      *slog.Logger
}

var _ paymentv1.PaymentServiceServer = (*Server)(nil)

// GetPayment reads one payment; other people's do not exist.
func (s *Server) GetPayment(ctx context.Context, req *paymentv1.GetPaymentRequest) (*paymentv1.Payment, error) {
	p, err := s.Store.Get(ctx, req.GetPaymentId(), auth.Owner(ctx))
	if err != nil {
		return nil, err
	}
	return present(p.Payment, p.Version), nil
}

// ListPayments lists payments; customers see their own.
func (s *Server) ListPayments(ctx context.Context, req *paymentv1.ListPaymentsRequest) (*paymentv1.ListPaymentsResponse, error) {
	found, next, err := s.Store.List(ctx, listing.Query{
		PageSize: req.GetPageSize(), PageToken: req.GetPageToken(), Filter: req.GetFilter(), OrderBy: req.GetOrderBy(), Owner: auth.Owner(ctx),
	})
	if err != nil {
		return nil, err
	}
	out := &paymentv1.ListPaymentsResponse{Payments: make([]*paymentv1.Payment, len(found)), NextPageToken: next}
	for i, p := range found {
		out.Payments[i] = present(p.Payment, p.Version)
	}
	return out, nil
}

// RefundPayment pays money back. What was found by its payment id is changed by
// its order id, which is what everything else knows it by.
func (s *Server) RefundPayment(ctx context.Context, req *paymentv1.RefundPaymentRequest) (*paymentv1.Payment, error) {
	if cardscan.Found(req.GetReason()) {
		return nil, errs.E(errs.Invalid, "CARD_DATA", "reason holds what looks like a card or account number; such numbers are not taken anywhere").
			WithFields(errs.Field{Path: "reason", Problem: "must hold no card or account number"})
	}
	p, err := s.Store.Get(ctx, req.GetPaymentId(), auth.Owner(ctx))
	if err != nil {
		return nil, err
	}
	var amount *payment.Money
	if a := req.GetAmount(); a != nil {
		amount = &payment.Money{Minor: a.GetMinorUnits(), Currency: a.GetCurrencyCode()}
	}
	return s.Commands.Refund(ctx, s.Reactor, p.OrderID, amount, req.GetReason(), present)
}

// HandleProviderWebhook takes a notice of the provider.
func (s *Server) HandleProviderWebhook(ctx context.Context, req *paymentv1.HandleProviderWebhookRequest) (*paymentv1.HandleProviderWebhookResponse, error) {
	if len(req.GetBody()) > webhook.MaxBody {
		return nil, errs.E(errs.Invalid, "NOTICE_TOO_LARGE", "a notice has at most %d bytes", webhook.MaxBody)
	}
	if err := webhook.Verify(req.GetBody(), req.GetSignature(), s.Secrets, s.Now()); err != nil {
		return nil, err
	}
	n, err := webhook.Parse(req.GetBody())
	if err != nil {
		return nil, err
	}
	return s.Commands.Notice(ctx, s.Reactor, n)
}
