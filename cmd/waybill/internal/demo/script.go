package demo

import (
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// A scene is one order and how it should end.
type scene struct {
	outcome  string // as the table names it
	status   orderv1.OrderStatus
	reason   orderv1.OrderReason
	token    string
	region   string
	scarce   bool // orders what is sold out
	cancel   bool // cancelled right after it was placed
	sendBack bool // returned after delivery
	refund   bool // half is paid back after delivery
}

// acts lists the scenes and how often each is played.
var acts = []struct {
	times int
	scene scene
}{
	{96, scene{outcome: "delivered", status: orderv1.OrderStatus_ORDER_STATUS_DELIVERED, token: "tok_ok"}},
	{8, scene{outcome: "delivered, provider slow", status: orderv1.OrderStatus_ORDER_STATUS_DELIVERED, token: "tok_slow"}},
	{8, scene{outcome: "delivered, provider never answered", status: orderv1.OrderStatus_ORDER_STATUS_DELIVERED, token: "tok_timeout"}},
	{8, scene{outcome: "delivered, half refunded", status: orderv1.OrderStatus_ORDER_STATUS_DELIVERED, token: "tok_ok", refund: true}},
	{12, scene{outcome: "returned", status: orderv1.OrderStatus_ORDER_STATUS_RETURNED,
		reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST, token: "tok_ok", sendBack: true}},
	{20, scene{outcome: "rejected, out of stock", status: orderv1.OrderStatus_ORDER_STATUS_REJECTED,
		reason: orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK, token: "tok_ok", scarce: true}},
	{16, scene{outcome: "cancelled, payment declined", status: orderv1.OrderStatus_ORDER_STATUS_CANCELLED,
		reason: orderv1.OrderReason_ORDER_REASON_PAYMENT_DECLINED, token: "tok_declined"}},
	{12, scene{outcome: "cancelled, capture failed", status: orderv1.OrderStatus_ORDER_STATUS_CANCELLED,
		reason: orderv1.OrderReason_ORDER_REASON_CAPTURE_FAILED, token: "tok_capture_fails"}},
	{12, scene{outcome: "cancelled, carrier refused", status: orderv1.OrderStatus_ORDER_STATUS_CANCELLED,
		reason: orderv1.OrderReason_ORDER_REASON_SHIPMENT_REFUSED, token: "tok_ok", region: "AQ"}},
	{12, scene{outcome: "cancelled by the customer", status: orderv1.OrderStatus_ORDER_STATUS_CANCELLED,
		reason: orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST, token: "tok_slow", cancel: true}},
}

// script gives all scenes, well mixed and always in the same order.
func script() []scene {
	left := make([]int, len(acts))
	total := 0
	for i, a := range acts {
		left[i] = a.times
		total += a.times
	}
	scenes := make([]scene, 0, total)
	for n := 0; len(scenes) < total; n++ {
		i := n % len(acts)
		// Those with many times get several turns per round.
		for turns := max(acts[i].times/8, 1); turns > 0 && left[i] > 0; turns-- {
			scenes = append(scenes, acts[i].scene)
			left[i]--
		}
	}
	return scenes
}

var cities = []struct{ locality, postal, region string }{
	{"Bergen", "5003", "NO"}, {"Utrecht", "3511", "NL"}, {"Graz", "8010", "AT"}, {"Porto", "4000-322", "PT"}, {"Leeds", "LS1 4AP", "GB"},
}

func (s scene) request(d *demo, n int) *orderv1.CreateOrderRequest {
	city := cities[n%len(cities)]
	if s.region != "" {
		city.locality, city.postal, city.region = "McMurdo Station", "96599", s.region
	}
	req := &orderv1.CreateOrderRequest{
		PaymentToken: s.token,
		ShipTo: &typev1.Address{
			Recipient: "Customer", Lines: []string{"12 Harbour Street"}, Locality: city.locality, PostalCode: city.postal, RegionCode: city.region,
		},
	}
	if s.scarce {
		req.Lines = []*orderv1.CreateOrderLine{{ProductId: d.scarce.GetProductId(), Quantity: 1}}
		return req
	}
	for i := range 1 + n%3 {
		p := d.products[(n*7+i*13)%len(d.products)]
		req.Lines = append(req.Lines, &orderv1.CreateOrderLine{ProductId: p.GetProductId(), Quantity: int32(1 + (n+i)%2)})
	}
	return req
}
