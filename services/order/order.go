// Package order decides what may happen to an order. Every message the service
// hears and every wish of a customer is one Input; a total table says for each
// status what it does, and Apply does it on values. The package knows no
// database, no broker and no transport; the rooms under internal/ provide them.
package order

import (
	"fmt"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// Status says how far an order has come. PLACED to RETURNED are in the order in
// which they are reached, so that the greater one is further on.
type Status = orderv1.OrderStatus

// The statuses, by short names.
const (
	Placed     = orderv1.OrderStatus_ORDER_STATUS_PLACED
	Held       = orderv1.OrderStatus_ORDER_STATUS_HELD
	Authorized = orderv1.OrderStatus_ORDER_STATUS_AUTHORIZED
	Committed  = orderv1.OrderStatus_ORDER_STATUS_COMMITTED
	Captured   = orderv1.OrderStatus_ORDER_STATUS_CAPTURED
	Scheduled  = orderv1.OrderStatus_ORDER_STATUS_SCHEDULED
	Dispatched = orderv1.OrderStatus_ORDER_STATUS_DISPATCHED
	Delivered  = orderv1.OrderStatus_ORDER_STATUS_DELIVERED
	Returning  = orderv1.OrderStatus_ORDER_STATUS_RETURNING
	Returned   = orderv1.OrderStatus_ORDER_STATUS_RETURNED
	Rejected   = orderv1.OrderStatus_ORDER_STATUS_REJECTED
	Cancelling = orderv1.OrderStatus_ORDER_STATUS_CANCELLING
	Cancelled  = orderv1.OrderStatus_ORDER_STATUS_CANCELLED
)

// numStatuses counts them, the unspecified one included.
const numStatuses = int(Cancelled) + 1

// Statuses lists every status an order can have.
func Statuses() []Status {
	all := make([]Status, 0, numStatuses-1)
	for s := Placed; s <= Cancelled; s++ {
		all = append(all, s)
	}
	return all
}

// StatusName gives a status without its prefix, as in "HELD".
func StatusName(s Status) string { return strings.TrimPrefix(s.String(), "ORDER_STATUS_") }

// ReasonName gives a reason without its prefix, as in "OUT_OF_STOCK".
func ReasonName(r orderv1.OrderReason) string { return strings.TrimPrefix(r.String(), "ORDER_REASON_") }

// Terminal reports whether nothing more happens to an order by itself. A
// delivered order may still be sent back.
func Terminal(s Status) bool {
	return s == Delivered || s == Returned || s == Rejected || s == Cancelled
}

// SagaOver reports whether the saga is over: the carrier is booked, or all that
// was done is undone. Delivery and return come later, from the carrier's scans.
func SagaOver(s Status) bool {
	return s >= Scheduled && s != Cancelling
}

// Order is the part of an order that changes. It is a value: a step makes a new
// one.
type Order struct {
	Status Status
	Reason orderv1.OrderReason // why it is rejected, cancelled or returned
	Words  string              // more about the reason

	// Shipment is how far the parcel is known to have come, as a status: zero,
	// Scheduled, Dispatched or Delivered. It differs from Status while the
	// order is being cancelled.
	Shipment Status

	PaymentID      string
	ShipmentID     string
	TrackingNumber string

	Deadline   time.Time // when the status takes too long; zero if it may take for ever
	Reminders  int64     // how often an undoing was asked for again
	SagaOverAt time.Time // zero while the saga runs
	UpdatedAt  time.Time
}

// Details is the part of an order that stays as it was placed, until its owner is
// erased. Steps of the saga do not need it.
type Details struct {
	UserID    string
	Lines     []*orderv1.OrderLine
	Total     *typev1.Money
	ShipTo    *typev1.Address // nil once its owner is erased
	CreatedAt time.Time
}

// Etag gives the tag of a version of an order.
func Etag(version int64) string { return fmt.Sprintf("v%d", version) }

// CheckEtag fails with reason ETAG_MISMATCH unless tag is empty or that of version.
func CheckEtag(tag string, version int64) error {
	if tag == "" || tag == Etag(version) {
		return nil
	}
	return errs.E(errs.Aborted, "ETAG_MISMATCH", "the order has changed since you read it; read it again").WithMeta("etag", Etag(version))
}

// NotFound is the answer for an order that does not exist and for one of
// somebody else, so that they cannot be told apart.
func NotFound(id string) error {
	return errs.E(errs.NotFound, "ORDER_NOT_FOUND", "there is no order %s", id)
}
