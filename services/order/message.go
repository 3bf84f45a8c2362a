package order

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/cardscan"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
)

// Message is a kind of thing that can happen to an order.
type Message uint8

// The messages. Those up to ShipmentReturned are events of other services, the
// rest comes from the clock, from people, and from the user service.
const (
	StockHeld Message = iota + 1
	StockRejected
	StockCommitted
	StockExpired
	StockReleased
	PaymentAuthorized
	PaymentDeclined
	PaymentUnknown
	PaymentCaptured
	PaymentCaptureFailed
	PaymentRefunded
	PaymentReversed
	ShipmentScheduled
	ShipmentRefused
	ShipmentDispatched
	ShipmentDelivered
	ShipmentLost
	ShipmentLostOnTheWay
	ShipmentCancelled
	ShipmentCancelRefused
	ShipmentReturned
	DeadlinePassed
	CancelRequested
	ReturnRequested
	UserErased

	numMessages = int(UserErased) + 1
)

var messageNames = [numMessages]struct{ name, service, event string }{
	StockHeld:             {"StockHeld", "inventory", "stock_held"},
	StockRejected:         {"StockRejected", "inventory", "stock_rejected"},
	StockCommitted:        {"StockCommitted", "inventory", "stock_committed"},
	StockExpired:          {"StockExpired", "inventory", "stock_expired"},
	StockReleased:         {"StockReleased", "inventory", "stock_released"},
	PaymentAuthorized:     {"PaymentAuthorized", "payment", "payment_authorized"},
	PaymentDeclined:       {"PaymentDeclined", "payment", "payment_declined"},
	PaymentUnknown:        {"PaymentUnknown", "payment", "payment_unknown"},
	PaymentCaptured:       {"PaymentCaptured", "payment", "payment_captured"},
	PaymentCaptureFailed:  {"PaymentCaptureFailed", "payment", "payment_capture_failed"},
	PaymentRefunded:       {"PaymentRefunded", "payment", "payment_refunded"},
	PaymentReversed:       {"PaymentReversed", "payment", "payment_reversed"},
	ShipmentScheduled:     {"ShipmentScheduled", "shipping", "shipment_scheduled"},
	ShipmentRefused:       {"ShipmentRefused", "shipping", "shipment_refused"},
	ShipmentDispatched:    {"ShipmentDispatched", "shipping", "shipment_dispatched"},
	ShipmentDelivered:     {"ShipmentDelivered", "shipping", "shipment_delivered"},
	ShipmentLost:          {"ShipmentLost", "shipping", "shipment_lost"},
	ShipmentLostOnTheWay:  {"ShipmentLost (on the way)", "shipping", "shipment_lost"},
	ShipmentCancelled:     {"ShipmentCancelled", "shipping", "shipment_cancelled"},
	ShipmentCancelRefused: {"ShipmentCancelRefused", "shipping", "shipment_cancel_refused"},
	ShipmentReturned:      {"ShipmentReturned", "shipping", "shipment_returned"},
	DeadlinePassed:        {"deadline passed", "order", "order_timed_out"},
	CancelRequested:       {"CancelOrder", "order", "order_cancelling"},
	ReturnRequested:       {"ReturnOrder", "order", "order_return_requested"},
	UserErased:            {"UserErased", "user", "user_erased"},
}

// Messages lists every message.
func Messages() []Message {
	all := make([]Message, 0, numMessages-1)
	for m := StockHeld; m <= UserErased; m++ {
		all = append(all, m)
	}
	return all
}

// String gives the message's name as it stands in the table.
func (m Message) String() string {
	if int(m) < numMessages && m != 0 {
		return messageNames[m].name
	}
	return fmt.Sprintf("message(%d)", uint8(m))
}

// Service gives the service that the message comes from.
func (m Message) Service() string { return messageNames[m].service }

// Event gives the name the message has on the waybill.
func (m Message) Event() string { return messageNames[m].event }

// Wish gives the Input of a cancellation or a return that somebody asks for, in
// their own words; staff tells whether it is the shop that wants it, request is
// the key of the request.
func Wish(m Message, staff bool, words, request string) Input {
	in := Input{Message: m, Request: request, Reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST, Words: words, Detail: "asked for by the customer"}
	if staff {
		in.Reason, in.Detail = orderv1.OrderReason_ORDER_REASON_STAFF_REQUEST, "asked for by the shop"
	}
	return in
}

// Input is one message and what an order keeps of it.
type Input struct {
	Message Message
	Reason  orderv1.OrderReason // why, if the order is undone by it
	Words   string              // more about the reason
	Detail  string              // for the waybill
	Request string              // key of the request behind it, if it is a wish

	PaymentID      string
	ShipmentID     string
	TrackingNumber string
}

// Read gives an event of another service as an Input, and false for a type that
// is none of the messages. ShipmentLost is two messages, for before and after
// the carrier fetched the parcel.
func Read(event proto.Message) (Input, bool) {
	switch e := event.(type) {
	case *inventoryv1.StockHeld:
		return Input{Message: StockHeld, Detail: "held until " + clock(e.GetExpiresAt())}, true
	case *inventoryv1.StockRejected:
		return Input{Message: StockRejected, Reason: rejection(e.GetReason()), Words: shortages(e), Detail: shortages(e)}, true
	case *inventoryv1.StockCommitted:
		return Input{Message: StockCommitted}, true
	case *inventoryv1.StockExpired:
		return Input{Message: StockExpired, Reason: orderv1.OrderReason_ORDER_REASON_STOCK_EXPIRED, Detail: "expired at " + clock(e.GetExpiredAt())}, true
	case *inventoryv1.StockReleased:
		return Input{Message: StockReleased, Detail: released(e)}, true
	case *paymentv1.PaymentAuthorized:
		return Input{Message: PaymentAuthorized, PaymentID: e.GetPaymentId(), Detail: Amount(e.GetAmount()) + " set aside"}, true
	case *paymentv1.PaymentDeclined:
		why := clean(e.GetReason())
		return Input{Message: PaymentDeclined, PaymentID: e.GetPaymentId(), Reason: orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED, Words: why, Detail: why}, true
	case *paymentv1.PaymentUnknown:
		op := strings.ToLower(strings.TrimPrefix(e.GetOperation().String(), "PAYMENT_OPERATION_"))
		return Input{Message: PaymentUnknown, PaymentID: e.GetPaymentId(), Detail: "no answer to " + op + " yet"}, true
	case *paymentv1.PaymentCaptured:
		return Input{Message: PaymentCaptured, PaymentID: e.GetPaymentId(), Detail: Amount(e.GetAmount()) + " taken"}, true
	case *paymentv1.PaymentCaptureFailed:
		why := clean(e.GetReason())
		return Input{Message: PaymentCaptureFailed, PaymentID: e.GetPaymentId(), Reason: orderv1.OrderReason_ORDER_REASON_CAPTURE_FAILED, Words: why, Detail: why}, true
	case *paymentv1.PaymentRefunded:
		return Input{Message: PaymentRefunded, PaymentID: e.GetPaymentId(),
			Detail: Amount(e.GetAmount()) + " paid back, " + Amount(e.GetTotalRefunded()) + " in all"}, true
	case *paymentv1.PaymentReversed:
		return Input{Message: PaymentReversed, PaymentID: e.GetPaymentId(), Detail: reversed(e)}, true
	}
	return readShipping(event)
}

func readShipping(event proto.Message) (Input, bool) {
	switch e := event.(type) {
	case *shippingv1.ShipmentScheduled:
		number := tracking(e.GetTrackingNumber())
		return Input{Message: ShipmentScheduled, ShipmentID: e.GetShipmentId(), TrackingNumber: number, Detail: clean(e.GetCarrier()) + " " + number}, true
	case *shippingv1.ShipmentRefused:
		why := clean(e.GetReason())
		return Input{Message: ShipmentRefused, ShipmentID: e.GetShipmentId(), Reason: orderv1.OrderReason_ORDER_REASON_SHIPMENT_REFUSED, Words: why, Detail: why}, true
	case *shippingv1.ShipmentDispatched:
		return Input{Message: ShipmentDispatched, ShipmentID: e.GetShipmentId(), Detail: "fetched at " + clock(e.GetDispatchedAt())}, true
	case *shippingv1.ShipmentDelivered:
		return Input{Message: ShipmentDelivered, ShipmentID: e.GetShipmentId(), Detail: "handed over at " + clock(e.GetDeliveredAt())}, true
	case *shippingv1.ShipmentLost:
		if e.GetAfterDispatch() {
			return Input{Message: ShipmentLostOnTheWay, ShipmentID: e.GetShipmentId(), Detail: "lost on its way, people have to decide"}, true
		}
		return Input{Message: ShipmentLost, ShipmentID: e.GetShipmentId(), Reason: orderv1.OrderReason_ORDER_REASON_SHIPMENT_LOST, Detail: "lost before it set off"}, true
	case *shippingv1.ShipmentCancelled:
		detail := "the carrier was called off"
		if e.GetNoop() {
			detail = "nothing to call off"
		}
		return Input{Message: ShipmentCancelled, ShipmentID: e.GetShipmentId(), Detail: detail}, true
	case *shippingv1.ShipmentCancelRefused:
		return Input{Message: ShipmentCancelRefused, ShipmentID: e.GetShipmentId(), Detail: "cannot be cancelled any more: " + clean(e.GetReason())}, true
	case *shippingv1.ShipmentReturned:
		return Input{Message: ShipmentReturned, ShipmentID: e.GetShipmentId(), Detail: "back at " + clock(e.GetReturnedAt())}, true
	}
	return Input{}, false
}

func rejection(r inventoryv1.StockRejection) orderv1.OrderReason {
	if r == inventoryv1.StockRejection_STOCK_REJECTION_NOT_FOR_SALE {
		return orderv1.OrderReason_ORDER_REASON_NOT_FOR_SALE
	}
	return orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK
}

func shortages(e *inventoryv1.StockRejected) string {
	var b strings.Builder
	for i, s := range e.GetShortages() {
		if i == 3 {
			fmt.Fprintf(&b, " and %d more", len(e.GetShortages())-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s: %d wanted, %d available", s.GetProductId(), s.GetRequested(), s.GetAvailable())
	}
	return b.String() // our own ids and numbers, among which one may look like a card's
}

func released(e *inventoryv1.StockReleased) string {
	switch {
	case e.GetNoop():
		return "nothing was held"
	case e.GetRestocked():
		return "put back into stock"
	}
	return "no longer held"
}

func reversed(e *paymentv1.PaymentReversed) string {
	var did []string
	if e.GetVoided().GetMinorUnits() != 0 {
		did = append(did, Amount(e.GetVoided())+" set free")
	}
	if e.GetRefunded().GetMinorUnits() != 0 {
		did = append(did, Amount(e.GetRefunded())+" paid back")
	}
	if len(did) == 0 {
		return "nothing was charged"
	}
	return strings.Join(did, ", ")
}

func clock(t *timestamppb.Timestamp) string {
	if t == nil {
		return "an unknown time"
	}
	return t.AsTime().Truncate(time.Second).Format(time.RFC3339)
}

var trackingForm = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)

// tracking makes a carrier's number fit to be kept. One that has the form the
// contract wants is kept as it is: of the numbers that carriers give, one in ten
// would pass for a card's.
func tracking(number string) string {
	if trackingForm.MatchString(number) {
		return number
	}
	return clean(number)
}

// maxText is how many bytes of other people's words an order keeps.
const maxText = 300

// clean makes text from outside fit to be kept and shown: one line, not long, and
// no card number that somebody's system sent along.
func clean(text string) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "")))
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	if cardscan.Found(text) {
		return "(withheld)"
	}
	return text
}
