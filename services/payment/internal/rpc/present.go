package rpc

import (
	"strconv"

	"google.golang.org/protobuf/types/known/timestamppb"

	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
)

// present gives a payment in the form of the contract.
func present(p payment.Payment, version int64) *paymentv1.Payment {
	money := func(minor int64) payment.Money { return payment.Money{Minor: minor, Currency: p.Amount.Currency} }
	out := &paymentv1.Payment{
		PaymentId:        p.ID,
		OrderId:          p.OrderID,
		UserId:           p.UserID,
		Status:           p.Status(),
		Amount:           p.Amount.Proto(),
		Captured:         money(p.Captured()).Proto(),
		Refunded:         money(p.Refunded()).Proto(),
		PendingOperation: p.Waiting(),
		FailureReason:    p.Reason,
		CreateTime:       timestamppb.New(p.Created),
		UpdateTime:       timestamppb.New(p.Updated),
		Version:          version,
		Etag:             strconv.FormatInt(version, 10),
	}
	for _, r := range p.Rare.Refunds {
		status := paymentv1.RefundStatus_REFUND_STATUS_PENDING
		if r.State == payment.RefundDone {
			status = paymentv1.RefundStatus_REFUND_STATUS_DONE
		}
		out.Refunds = append(out.Refunds, &paymentv1.Refund{
			RefundId: r.ID, Amount: money(r.Amount).Proto(), Reason: r.Reason, Status: status, CreateTime: timestamppb.New(r.Created),
		})
	}
	return out
}

func presentPosting(l store.Posting) *paymentv1.LedgerPosting {
	return &paymentv1.LedgerPosting{
		Sequence:      l.Seq,
		TransactionId: l.TransactionID(),
		OrderId:       l.OrderID,
		PaymentId:     l.PaymentID,
		Operation:     l.Booking.Operation(),
		Account:       l.Account,
		Amount:        l.Amount.Proto(),
		PostTime:      timestamppb.New(l.Created),
	}
}
