package order

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// Proto gives the changing part of an order as the contract has it; Fill adds the
// rest.
func (o Order) Proto(id string, version int64) *orderv1.Order {
	return &orderv1.Order{
		OrderId:        id,
		Status:         o.Status,
		SagaOver:       SagaOver(o.Status),
		Reason:         o.Reason,
		ReasonDetail:   o.Words,
		PaymentId:      o.PaymentID,
		ShipmentId:     o.ShipmentID,
		TrackingNumber: o.TrackingNumber,
		UpdateTime:     timestamp(o.UpdatedAt),
		SagaOverTime:   timestamp(o.SagaOverAt),
		Version:        version,
		Etag:           Etag(version),
	}
}

// Fill adds the details to an order and gives it back. They are shared, not copied.
func (d Details) Fill(o *orderv1.Order) *orderv1.Order {
	o.UserId = d.UserID
	o.Lines = d.Lines
	o.Total = d.Total
	o.ShipTo = d.ShipTo
	o.CreateTime = timestamp(d.CreatedAt)
	return o
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
