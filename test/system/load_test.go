package system_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
)

// fates are the ways in which the orders of a load end, so that every part of the
// saga is under way when something happens.
var fates = []struct {
	token, country string
	end            orderv1.OrderStatus
}{
	{"tok_ok", "NO", delivered},
	{"tok_declined", "NO", cancelled},
	{"tok_slow", "NO", delivered},
	{"tok_capture_fails", "NO", cancelled},
	{"tok_timeout", "NO", delivered},
	{"tok_ok", "AQ", cancelled},
}

const (
	inStock = 100_000
	cents   = 1999
)

// A load keeps placing orders over REST. An order whose fate is not known, or that
// is to be placed later, is placed again under the same key until it is accepted.
type load struct {
	f        *fleet
	customer *user
	products []*inventoryv1.Product
	gates    []*gate

	mu       sync.Mutex
	next     int
	accepted map[string]int // order to its number
	wrong    []string       // answers that no order may get
	again    int            // answers after which an order was placed again
	left     int            // orders to be accepted until enough is closed
	enough   chan struct{}
	pardon   func(a answer, err error) bool
}

// A gate is a gateway, as a load balancer knows it: whoever locks it has waited
// until no request is under way in it, and none comes before it is unlocked.
type gate struct {
	sync.RWMutex
	base string
}

// load makes a load of a new customer, on products of its own.
func (f *fleet) load() *load {
	l := &load{f: f, accepted: map[string]int{}, customer: f.customer(f.t)}
	for range 3 {
		l.products = append(l.products, f.product(f.t, euro(cents), inStock))
	}
	for _, c := range f.serves("gateway") {
		l.gates = append(l.gates, &gate{base: "http://" + c.HTTP})
	}
	return l
}

// later pardons an answer that says when to come back; nothing was done then.
func later(a answer, err error) bool {
	return err == nil && a.http == http.StatusServiceUnavailable && a.code == codes.Unavailable && a.retry > 0 && a.header.Get("Retry-After") != ""
}

// unsure pardons what a client may see when a process or the way to it is lost.
func unsure(a answer, err error) bool {
	return err != nil || a.http == http.StatusBadGateway || a.http == http.StatusServiceUnavailable || a.http == http.StatusGatewayTimeout ||
		a.code == codes.Aborted || a.code == codes.Canceled
}

// never pardons nothing.
func never(answer, error) bool { return false }

// during keeps orders coming from several hands while something is done, and then
// waits until each of them is accepted. Other answers than those pardoned fail the
// test.
func (l *load) during(pardon func(answer, error) bool, do func(more func())) {
	t := l.f.t
	t.Helper()
	l.mu.Lock()
	l.pardon, l.again = pardon, 0
	l.mu.Unlock()
	ctx, stop := context.WithCancel(t.Context())
	var hands sync.WaitGroup
	defer hands.Wait()
	defer stop()
	for range 4 {
		hands.Go(func() {
			pace := time.NewTicker(400 * time.Millisecond) // a shop's, not a flood
			defer pace.Stop()
			for ; ctx.Err() == nil; <-pace.C {
				l.mu.Lock()
				n := l.next
				l.next++
				l.mu.Unlock()
				l.place(t, n)
			}
		})
	}
	// more waits until orders are accepted that were not yet when it was called.
	more := func() {
		t.Helper()
		l.mu.Lock()
		l.left, l.enough = len(fates), make(chan struct{})
		enough := l.enough
		l.mu.Unlock()
		select {
		case <-enough:
		case <-time.After(patience):
			l.mu.Lock()
			defer l.mu.Unlock()
			t.Errorf("orders are not accepted any more; %d were, and answers were %v", len(l.accepted), l.wrong)
		}
	}
	more()
	do(more)
	more()
	stop()
	hands.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.wrong) > 0 {
		t.Errorf("%d answers that no order may get, as %s", len(l.wrong), strings.Join(l.wrong[:min(len(l.wrong), 5)], "\n"))
	}
	l.wrong = nil
}

// place places the n-th order until it is accepted.
func (l *load) place(t *testing.T, n int) {
	fate := fates[n%len(fates)]
	req := cart(l.products[n%len(l.products)], int32(1+n%3), fate.token)
	req.ShipTo = address(fate.country)
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(req)
	if err != nil {
		t.Error(err)
		return
	}
	key := newKey()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		a, err := l.post(ctx, key, string(body))
		var o orderv1.Order
		if err == nil && a.http == http.StatusOK {
			err = protojson.Unmarshal(a.body, &o)
		}
		l.mu.Lock()
		switch {
		case err == nil && a.http == http.StatusOK:
			l.accepted[o.GetOrderId()] = n
			if l.left--; l.left == 0 {
				close(l.enough)
			}
			l.mu.Unlock()
			return
		case l.pardon(a, err):
			l.again++
		default:
			l.wrong = append(l.wrong, fmt.Sprintf("order %d: %d %s %s %s %v", n, a.http, a.code, a.reason, a.text, err))
		}
		l.mu.Unlock()
		pause := time.NewTimer(min(max(a.retry, 20*time.Millisecond), time.Second)) // a client's back-off
		select {
		case <-pause.C:
		case <-ctx.Done():
			t.Errorf("order %d was not accepted within %s; the last answer was %d %s %v", n, patience, a.http, a.text, err)
			return
		}
	}
}

// post sends one request through a gateway that is not locked.
func (l *load) post(ctx context.Context, key, body string) (answer, error) {
	g := l.gates[rand.IntN(len(l.gates))]
	for !g.TryRLock() {
		g = l.gates[rand.IntN(len(l.gates))]
	}
	defer g.RUnlock()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, g.base+"/v1/orders", strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	for name, value := range map[string]string{
		"Content-Type": "application/json", "Authorization": "Bearer " + l.customer.token, "Idempotency-Key": key, "Grpc-Timeout": "30S",
	} {
		r.Header.Set(name, value)
	}
	return l.f.do(r)
}

// settled waits until all orders are over and holds against each other what was
// ordered, sold, paid and sent.
func (l *load) settled() {
	t := l.f.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	orders := orderv1.NewOrderServiceClient(l.f.conn)
	open := ""
	err := poll(ctx, func() (bool, error) {
		page, err := orders.ListOrders(l.f.admin.as(ctx), &orderv1.ListOrdersRequest{
			PageSize: 5, Filter: `NOT (status = "DELIVERED" OR status = "REJECTED" OR status = "CANCELLED")`,
		})
		if err == nil {
			open = ""
			for _, o := range page.GetOrders() {
				open += fmt.Sprintf("\n%s %s since %s", o.GetOrderId(), o.GetStatus(), o.GetUpdateTime().AsTime().Format(time.TimeOnly))
			}
		}
		return err == nil && open == "", nil
	})
	if err != nil {
		t.Fatalf("orders are not over:%s", open)
	}
	sold := map[string]int64{}
	due := map[string]int64{} // order to cents
	l.mu.Lock()
	defer l.mu.Unlock()
	count := 0
	for token, first := "", true; first || token != ""; first = false {
		page, err := orders.ListOrders(l.f.admin.as(ctx), &orderv1.ListOrdersRequest{PageSize: 100, PageToken: token})
		must(t, err)
		for _, o := range page.GetOrders() {
			count++
			n, ours := l.accepted[o.GetOrderId()]
			if want := fates[n%len(fates)].end; !ours || o.GetStatus() != want {
				t.Errorf("order %s (number %d, accepted: %t) is %s %s %q, want %s", o.GetOrderId(), n, ours, o.GetStatus(), o.GetReason(), o.GetReasonDetail(), want)
			}
			due[o.GetOrderId()] = 0
			if o.GetStatus() == delivered {
				due[o.GetOrderId()] = o.GetTotal().GetMinorUnits()
				for _, line := range o.GetLines() {
					sold[line.GetProductId()] += int64(line.GetQuantity())
				}
			}
		}
		token = page.GetNextPageToken()
	}
	if count != len(l.accepted) {
		t.Errorf("there are %d orders, and %d were accepted", count, len(l.accepted))
	}
	for _, p := range l.products {
		if s := l.f.stock(t, p.GetProductId()); s.GetHeld() != 0 || s.GetOnHand() != inStock-sold[p.GetProductId()] {
			t.Errorf("stock: %v, want %d sold of %d", s, sold[p.GetProductId()], inStock)
		}
	}
	l.paid(ctx, due)
	l.sent(ctx, due)
}

// paid fails unless exactly what is due was kept for each order.
func (l *load) paid(ctx context.Context, due map[string]int64) {
	t := l.f.t
	t.Helper()
	seen := map[string]bool{}
	for token, first := "", true; first || token != ""; first = false {
		page, err := paymentv1.NewPaymentServiceClient(l.f.conn).ListPayments(l.f.admin.as(ctx), &paymentv1.ListPaymentsRequest{PageSize: 100, PageToken: token})
		must(t, err)
		for _, p := range page.GetPayments() {
			id := p.GetOrderId()
			if kept := p.GetCaptured().GetMinorUnits() - p.GetRefunded().GetMinorUnits(); seen[id] || kept != due[id] {
				t.Errorf("%d cents were kept for order %s (seen before: %t), and %d are due: %v", kept, id, seen[id], due[id], p)
			}
			seen[id] = true
		}
		token = page.GetNextPageToken()
	}
	for id, cents := range due {
		if cents > 0 && !seen[id] {
			t.Errorf("nothing was paid for order %s", id)
		}
	}
}

// sent fails unless each order that is paid for was sent once, and no other.
func (l *load) sent(ctx context.Context, due map[string]int64) {
	t := l.f.t
	t.Helper()
	parcels := map[string]int{}
	for token, first := "", true; first || token != ""; first = false {
		page, err := shippingv1.NewShippingServiceClient(l.f.conn).ListShipments(l.f.admin.as(ctx), &shippingv1.ListShipmentsRequest{PageSize: 100, PageToken: token})
		must(t, err)
		for _, s := range page.GetShipments() {
			if s.GetStatus() == shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED {
				parcels[s.GetOrderId()]++
			}
		}
		token = page.GetNextPageToken()
	}
	for id, cents := range due {
		if want := min(cents, 1); int64(parcels[id]) != want {
			t.Errorf("%d parcels of order %s were delivered, want %d", parcels[id], id, want)
		}
	}
}
