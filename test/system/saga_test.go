package system_test

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
)

// A play is one order on its way.
type play struct {
	*testing.T
	w        *world
	d        door
	customer *user
	product  *inventoryv1.Product
	order    *orderv1.Order
}

// A scenario is an order and how it must end.
type scenario struct {
	name     string
	at       *kind // the world it plays in; desk if nil
	token    string
	country  string
	quantity int32         // of 10 there are; 2 if 0
	act      func(p *play) // what people and carriers do

	status   orderv1.OrderStatus
	reason   orderv1.OrderReason
	orReason orderv1.OrderReason       // what it may be too when the machine was busy
	payment  []paymentv1.PaymentStatus // one of them; none: there must be no payment
	shipment shippingv1.ShipmentStatus // UNSPECIFIED: there must be none
	sold     int32                     // units gone for good
	kept     func(total int64) int64   // of the money; nil: none
}

const (
	delivered = orderv1.OrderStatus_ORDER_STATUS_DELIVERED
	returned  = orderv1.OrderStatus_ORDER_STATUS_RETURNED
	rejected  = orderv1.OrderStatus_ORDER_STATUS_REJECTED
	cancelled = orderv1.OrderStatus_ORDER_STATUS_CANCELLED

	voided   = paymentv1.PaymentStatus_PAYMENT_STATUS_VOIDED
	refunded = paymentv1.PaymentStatus_PAYMENT_STATUS_REFUNDED
	captured = paymentv1.PaymentStatus_PAYMENT_STATUS_CAPTURED
	partly   = paymentv1.PaymentStatus_PAYMENT_STATUS_PARTIALLY_REFUNDED
)

func all(total int64) int64  { return total }
func half(total int64) int64 { return total - total/2 }

type payments = []paymentv1.PaymentStatus

// deliver brings the parcel to its door.
func deliver(p *play) {
	p.order = p.w.until(p.T, p.customer, p.order.GetOrderId(), scheduled)
	p.w.scan(p.T, p.order, shippingv1.ScanKind_SCAN_KIND_PICKED_UP, shippingv1.ScanKind_SCAN_KIND_IN_TRANSIT, shippingv1.ScanKind_SCAN_KIND_DELIVERED)
	p.order = p.w.until(p.T, p.customer, p.order.GetOrderId(), is(delivered))
}

// bringBack announces a return and brings the parcel back into the house.
func bringBack(p *play) {
	ask(p.T, p.d, p.w, p.customer, orderv1.OrderService_ReturnOrder_FullMethodName, &orderv1.ReturnOrderRequest{OrderId: p.order.GetOrderId(), Reason: "does not fit"}, p.order)
	p.w.until(p.T, p.customer, p.order.GetOrderId(), is(orderv1.OrderStatus_ORDER_STATUS_RETURNING))
	for _, k := range []shippingv1.ScanKind{shippingv1.ScanKind_SCAN_KIND_RETURN_PICKED_UP, shippingv1.ScanKind_SCAN_KIND_RETURNED} {
		// Shipping hears of the return by an event; until then it takes no such scan.
		must(p.T, poll(soon(p.T), func() (bool, error) { return p.w.report(p.T, p.order, k).GetAcceptedCount() == 1, nil }))
	}
}

func (p *play) cancel(u *user) {
	ask(p.T, p.d, p.w, u, orderv1.OrderService_CancelOrder_FullMethodName, &orderv1.CancelOrderRequest{OrderId: p.order.GetOrderId(), Reason: "changed my mind"}, p.order)
}

// cancelIn lets the customer cancel as soon as the order is seen in a status.
func cancelIn(status orderv1.OrderStatus) func(*play) {
	return func(p *play) {
		p.w.until(p.T, p.customer, p.order.GetOrderId(), func(o *orderv1.Order) bool { return o.GetStatus() >= status })
		p.cancel(p.customer)
	}
}

func cancelAfter(kinds ...shippingv1.ScanKind) func(*play) {
	return func(p *play) {
		p.order = p.w.until(p.T, p.customer, p.order.GetOrderId(), scheduled)
		p.w.scan(p.T, p.order, kinds...)
		at := orderv1.OrderStatus_ORDER_STATUS_DISPATCHED
		if len(kinds) > 1 {
			at = delivered
		}
		p.w.until(p.T, p.customer, p.order.GetOrderId(), is(at))
		before := p.w.order(p.T, p.order.GetOrderId())
		a := try(p.T, p.d, p.w, p.customer, orderv1.OrderService_CancelOrder_FullMethodName, &orderv1.CancelOrderRequest{OrderId: p.order.GetOrderId()}, nil)
		refusal{code: codes.FailedPrecondition}.check(p.T, a)
		if now := p.w.order(p.T, p.order.GetOrderId()); now.GetEtag() != before.GetEtag() {
			p.Errorf("the refused cancellation changed the order from version %d to %d", before.GetVersion(), now.GetVersion())
		}
		deliverRest(p)
	}
}

func deliverRest(p *play) {
	if now := p.w.order(p.T, p.order.GetOrderId()); now.GetStatus() != delivered {
		p.w.scan(p.T, p.order, shippingv1.ScanKind_SCAN_KIND_DELIVERED)
		p.w.until(p.T, p.customer, p.order.GetOrderId(), is(delivered))
	}
}

// giveBack refunds part of what was taken, or all of it if cents gives 0.
func giveBack(cents func(total int64) int64) func(*play) {
	return func(p *play) {
		deliver(p)
		req := &paymentv1.RefundPaymentRequest{PaymentId: p.order.GetPaymentId(), Reason: "scratched in transit"}
		want := refunded
		if n := cents(p.order.GetTotal().GetMinorUnits()); n > 0 {
			req.Amount, want = euro(n), partly
		}
		ask(p.T, p.d, p.w, p.w.admin, paymentv1.PaymentService_RefundPayment_FullMethodName, req, &paymentv1.Payment{})
		p.w.settled(p.T, p.order.GetPaymentId(), want)
	}
}

func none(int64) int64 { return 0 }

// scenarios are all the ways in which an order ends.
var scenarios = []scenario{
	{name: "all goes well", token: "tok_ok", act: deliver,
		status: delivered, payment: payments{captured}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED, sold: 2, kept: all},
	{name: "the carrier moves the parcel by itself", at: shop, token: "tok_ok",
		status: delivered, payment: payments{captured}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED, sold: 2, kept: all},
	{name: "the provider is slow", at: shop, token: "tok_slow",
		status: delivered, payment: payments{captured}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED, sold: 2, kept: all},
	{name: "the provider never answers, but charges", at: shop, token: "tok_timeout",
		status: delivered, payment: payments{captured}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED, sold: 2, kept: all},
	{name: "the last unit", token: "tok_ok", quantity: 10, act: deliver,
		status: delivered, payment: payments{captured}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED, sold: 10, kept: all},
	{name: "one more than there is", token: "tok_ok", quantity: 11,
		status: rejected, reason: orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK},
	{name: "the payment is declined", token: "tok_declined",
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED, payment: payments{paymentv1.PaymentStatus_PAYMENT_STATUS_DECLINED}},
	{name: "the token is unheard of", token: "tok_nobody_knows_it",
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED, payment: payments{paymentv1.PaymentStatus_PAYMENT_STATUS_DECLINED}},
	{name: "the capture fails", token: "tok_capture_fails",
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_CAPTURE_FAILED, payment: payments{voided}},
	{name: "no carrier goes there", token: "tok_ok", country: "AQ",
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_SHIPMENT_REFUSED, payment: payments{refunded}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_REFUSED},
	{name: "the parcel is lost before it sets off", token: "tok_ok",
		act: func(p *play) {
			p.order = p.w.until(p.T, p.customer, p.order.GetOrderId(), scheduled)
			p.w.scan(p.T, p.order, shippingv1.ScanKind_SCAN_KIND_LOST)
		},
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_SHIPMENT_LOST, payment: payments{refunded}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_LOST},
	{name: "cancelled at once", token: "tok_ok", act: cancelIn(orderv1.OrderStatus_ORDER_STATUS_PLACED),
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST, payment: undone, shipment: anyShipment},
	{name: "cancelled while the provider is asked", token: "tok_slow", act: cancelIn(orderv1.OrderStatus_ORDER_STATUS_HELD),
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST, payment: undone, shipment: anyShipment},
	{name: "cancelled while the provider does not answer", token: "tok_timeout", act: cancelIn(orderv1.OrderStatus_ORDER_STATUS_HELD),
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST, payment: undone, shipment: anyShipment},
	{name: "cancelled once authorized", token: "tok_ok", act: cancelIn(orderv1.OrderStatus_ORDER_STATUS_AUTHORIZED),
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST, payment: undone, shipment: anyShipment},
	{name: "cancelled while the money is taken", token: "tok_slow", act: cancelIn(orderv1.OrderStatus_ORDER_STATUS_COMMITTED),
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST, payment: undone, shipment: anyShipment},
	{name: "cancelled once the money is taken", token: "tok_ok", act: cancelIn(orderv1.OrderStatus_ORDER_STATUS_CAPTURED),
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST, payment: undone, shipment: anyShipment},
	{name: "cancelled once the carrier is booked", token: "tok_ok", act: cancelIn(orderv1.OrderStatus_ORDER_STATUS_SCHEDULED),
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST, payment: payments{refunded}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_CANCELLED},
	{name: "cancelled by the shop", token: "tok_ok",
		act: func(p *play) {
			p.w.until(p.T, p.customer, p.order.GetOrderId(), scheduled)
			p.cancel(p.w.admin)
		},
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_STAFF_REQUEST, payment: payments{refunded}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_CANCELLED},
	{name: "to be cancelled on its way, which is refused", token: "tok_ok", act: cancelAfter(shippingv1.ScanKind_SCAN_KIND_PICKED_UP),
		status: delivered, payment: payments{captured}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED, sold: 2, kept: all},
	{name: "to be cancelled after it came, which is refused", token: "tok_ok",
		act:    cancelAfter(shippingv1.ScanKind_SCAN_KIND_PICKED_UP, shippingv1.ScanKind_SCAN_KIND_DELIVERED),
		status: delivered, payment: payments{captured}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED, sold: 2, kept: all},
	{name: "returned", token: "tok_ok", act: func(p *play) { deliver(p); bringBack(p) },
		status: returned, payment: payments{refunded}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_RETURNED},
	{name: "returned from its way", token: "tok_ok",
		act: func(p *play) {
			p.order = p.w.until(p.T, p.customer, p.order.GetOrderId(), scheduled)
			p.w.scan(p.T, p.order, shippingv1.ScanKind_SCAN_KIND_PICKED_UP)
			p.w.until(p.T, p.customer, p.order.GetOrderId(), is(orderv1.OrderStatus_ORDER_STATUS_DISPATCHED))
			bringBack(p)
		},
		status: returned, payment: payments{refunded}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_RETURNED},
	{name: "half is paid back", token: "tok_ok", act: giveBack(func(total int64) int64 { return total / 2 }),
		status: delivered, payment: payments{partly}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED, sold: 2, kept: half},
	{name: "all is paid back", token: "tok_ok", act: giveBack(none),
		status: delivered, payment: payments{refunded}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED, sold: 2},
	{name: "half is paid back, then it is returned", token: "tok_ok",
		act: func(p *play) {
			giveBack(func(total int64) int64 { return total / 2 })(p)
			bringBack(p)
		},
		status: returned, payment: payments{refunded}, shipment: shippingv1.ShipmentStatus_SHIPMENT_STATUS_RETURNED},
	{name: "the authorization takes too long", at: hasty, token: "tok_slow",
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_TIMED_OUT, payment: payments{voided}},
	{name: "the capture takes too long", at: strict, token: "tok_slow",
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_TIMED_OUT, payment: payments{refunded, voided}, shipment: anyShipment},
	// If the hold is nearly over when payment hears of it, the provider is not asked at all.
	{name: "the goods were held for less time than the provider took", at: short, token: "tok_timeout",
		status: cancelled, reason: orderv1.OrderReason_ORDER_REASON_STOCK_EXPIRED, orReason: orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED,
		payment: payments{voided, paymentv1.PaymentStatus_PAYMENT_STATUS_DECLINED}},
}

// anyShipment stands for: there is none, or nothing came of it. How far an order
// is when it is cancelled is a matter of chance; how it ends is not.
const anyShipment = shippingv1.ShipmentStatus(-1)

// undone are the ends of a payment of which nothing is kept.
var undone = payments{voided, refunded, paymentv1.PaymentStatus_PAYMENT_STATUS_CANCELLED}

// TestEveryOrderEndsAsItMust plays all scenarios through both doors, on every split,
// one after the other and beside no other test: a split is up to 35 processes.
func TestEveryOrderEndsAsItMust(t *testing.T) {
	for _, sp := range []split{oneProcess, onPostgres, threeParts, eachAlone, aloneOnPG} {
		t.Run(sp.name, func(t *testing.T) {
			begun, played := time.Now(), len(scenarios)*len(doors)
			worlds := map[string]*world{}
			for _, k := range []*kind{shop, desk, hasty, strict, short} {
				if sp.name == oneProcess.name {
					worlds[k.name] = k.get(t)
				} else {
					worlds[k.name] = sp.open(t, k.name)
				}
			}
			t.Run("order", func(t *testing.T) { // is over when all in it are
				for _, d := range doors {
					for _, s := range scenarios {
						t.Run(d.String()+" "+s.name, func(t *testing.T) {
							t.Parallel()
							w := worlds[desk.name]
							if s.at != nil {
								w = worlds[s.at.name]
							}
							s.perform(&play{T: t, w: w, d: d})
						})
					}
				}
			})
			t.Logf("%s: %d scenarios in %s", sp.name, played, time.Since(begun).Round(100*time.Millisecond))
		})
	}
}

// perform places the order, lets people act, and looks at how it ended.
func (s scenario) perform(p *play) {
	p.customer, p.product = p.w.customer(p.T), p.w.product(p.T, euro(1999), 10)
	quantity := s.quantity
	if quantity == 0 {
		quantity = 2
	}
	req := cart(p.product, quantity, s.token)
	if s.country != "" {
		req.ShipTo = address(s.country)
	}
	p.order = p.w.place(p.T, p.d, p.customer, req)
	if p.order.GetTotal().GetMinorUnits() != int64(quantity)*1999 || p.order.GetUserId() != p.customer.id {
		p.Fatalf("placed: %v", p.order)
	}
	if s.act != nil {
		s.act(p)
	}
	o := p.w.until(p.T, p.customer, p.order.GetOrderId(), is(delivered, returned, rejected, cancelled))
	if o.GetStatus() == delivered && s.status != delivered { // a return begins where a delivery ends
		o = p.w.until(p.T, p.customer, p.order.GetOrderId(), is(s.status))
	}
	reason := o.GetReason() == s.reason || s.orReason != 0 && o.GetReason() == s.orReason
	if o.GetStatus() != s.status || s.status != delivered && s.status != returned && !reason {
		p.Errorf("the order is %s %s %q, want %s %s", o.GetStatus(), o.GetReason(), o.GetReasonDetail(), s.status, s.reason)
	}
	if !o.GetSagaOver() {
		p.Error("the saga is not over")
	}
	s.money(p, o)
	s.parcel(p, o)
	if st := p.w.stock(p.T, p.product.GetProductId()); st.GetHeld() != 0 || st.GetOnHand() != 10-int64(s.sold) || st.GetAvailable() != st.GetOnHand() {
		p.Errorf("stock: %v, want %d sold of 10", st, s.sold)
	}
	s.waybill(p, o)
}

func (s scenario) money(p *play, o *orderv1.Order) {
	list := ask(p.T, p.d, p.w, p.customer, paymentv1.PaymentService_ListPayments_FullMethodName, &paymentv1.ListPaymentsRequest{}, &paymentv1.ListPaymentsResponse{})
	var pay *paymentv1.Payment
	for _, one := range list.GetPayments() {
		if one.GetOrderId() == o.GetOrderId() {
			pay = one
		}
	}
	if pay == nil || pay.GetPaymentId() == "" {
		if len(s.payment) > 0 && o.GetPaymentId() != "" {
			p.Errorf("there is no payment %s: %v", o.GetPaymentId(), list)
		}
		if s.kept != nil {
			p.Error("nothing was paid")
		}
		return
	}
	if len(s.payment) == 0 {
		if st := pay.GetStatus(); st != paymentv1.PaymentStatus_PAYMENT_STATUS_CANCELLED && st != paymentv1.PaymentStatus_PAYMENT_STATUS_PENDING {
			p.Errorf("nothing was to be asked of the provider: %v", pay)
		}
		return
	}
	fits := false
	for _, want := range s.payment {
		fits = fits || pay.GetStatus() == want
	}
	if !fits {
		p.Errorf("the payment is %s, want one of %v", pay.GetStatus(), s.payment)
	}
	var kept int64
	if s.kept != nil {
		kept = s.kept(o.GetTotal().GetMinorUnits())
	}
	if got := pay.GetCaptured().GetMinorUnits() - pay.GetRefunded().GetMinorUnits(); got != kept {
		p.Errorf("%d cents were kept, want %d", got, kept)
	}
}

func (s scenario) parcel(p *play, o *orderv1.Order) {
	if o.GetShipmentId() == "" {
		if s.shipment != anyShipment && s.shipment != shippingv1.ShipmentStatus_SHIPMENT_STATUS_UNSPECIFIED {
			p.Errorf("there is no shipment, want one that is %s", s.shipment)
		}
		return
	}
	got := ask(p.T, p.d, p.w, p.customer, shippingv1.ShippingService_GetShipment_FullMethodName, &shippingv1.GetShipmentRequest{ShipmentId: o.GetShipmentId()}, &shippingv1.Shipment{}).GetStatus()
	if s.shipment == anyShipment {
		if got != shippingv1.ShipmentStatus_SHIPMENT_STATUS_CANCELLED {
			p.Errorf("the shipment of a cancelled order is %s", got)
		}
		return
	}
	if got != s.shipment {
		p.Errorf("the shipment is %s, want %s", got, s.shipment)
	}
}

// waybill looks at the stamps: numbered without gaps, each beginning where the
// one before ended, the last at the end.
func (s scenario) waybill(p *play, o *orderv1.Order) {
	bill := ask(p.T, p.d, p.w, p.customer, orderv1.OrderService_GetWaybill_FullMethodName, &orderv1.GetWaybillRequest{OrderId: o.GetOrderId()}, &orderv1.Waybill{})
	at := orderv1.OrderStatus_ORDER_STATUS_UNSPECIFIED
	for i, e := range bill.GetEntries() {
		if e.GetSequence() != int64(i+1) || i > 0 && e.GetFromStatus() != at || e.GetService() == "" || (e.GetEventId() == "") != (e.GetService() == "order") {
			p.Errorf("stamp %d follows %s: %v", i+1, at, e)
		}
		at = e.GetToStatus()
	}
	if at != s.status || bill.GetStatus() != s.status {
		p.Errorf("the waybill ends %s %s, want %s", at, bill.GetStatus(), s.status)
	}
}
