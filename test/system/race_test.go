package system_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/internal/rest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
)

// TestTheLastUnitHasOneBuyer is D2: 200 at once want the last one.
func TestTheLastUnitHasOneBuyer(t *testing.T) {
	t.Parallel()
	w := shop.get(t)
	for _, d := range doors {
		t.Run(d.String(), func(t *testing.T) {
			t.Parallel()
			p := w.product(t, euro(4999), 1)
			buyers := make([]*user, 20)
			for i := range buyers {
				buyers[i] = w.customer(t)
			}
			ctx := soon(t)
			placed := make([]*orderv1.Order, 200)
			var all sync.WaitGroup
			for i := range placed {
				all.Go(func() {
					placed[i] = &orderv1.Order{}
					if a, err := insist(ctx, d, w, buyers[i%len(buyers)].token, createOrder, keyed(cart(p, 1, "tok_ok")), placed[i]); err != nil || a.code != codes.OK {
						t.Errorf("buyer %d: %d %s %s, %v", i, a.http, a.code, a.text, err)
					}
				})
			}
			all.Wait()
			if t.Failed() {
				return
			}
			won, lost := 0, 0
			for i, o := range placed {
				switch end := w.until(t, buyers[i%len(buyers)], o.GetOrderId(), sagaOver); {
				case end.GetStatus() >= orderv1.OrderStatus_ORDER_STATUS_SCHEDULED && end.GetStatus() <= delivered:
					won++
				case end.GetStatus() == rejected && end.GetReason() == orderv1.OrderReason_ORDER_REASON_OUT_OF_STOCK:
					lost++
				default:
					t.Errorf("order %s ends %s %s", end.GetOrderId(), end.GetStatus(), end.GetReason())
				}
			}
			if won != 1 || lost != 199 {
				t.Errorf("%d got it and %d did not, want 1 and 199", won, lost)
			}
			if s := w.stock(t, p.GetProductId()); s.GetOnHand() != 0 || s.GetHeld() != 0 || s.GetAvailable() != 0 {
				t.Errorf("%v", s)
			}
		})
	}
}

// TestARequestMadeAHundredTimesIsOneRequest is C9 with docs/adr/0006: those who
// come while the first is at work wait for its answer and get that one.
func TestARequestMadeAHundredTimesIsOneRequest(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	throughBoth(t, func(t *testing.T, d door) {
		u, p := w.customer(t), w.product(t, euro(100), 500)
		req := cart(p, 1, "tok_ok")
		req.RequestId = newKey()
		ctx := soon(t)
		answers := make([]answer, 100)
		var all sync.WaitGroup
		for i := range answers {
			all.Go(func() {
				a, err := insist(ctx, d, w, u.token, createOrder, req, &orderv1.Order{})
				if err != nil {
					t.Error(err)
				}
				answers[i] = a
			})
		}
		all.Wait()
		for i, a := range answers {
			if a.code != codes.OK || !bytes.Equal(a.body, answers[0].body) {
				t.Errorf("answer %d: %s %s\n%q\nfirst:\n%q", i, a.code, a.text, a.body, answers[0].body)
			}
		}
		list := ask(t, d, w, u, listOrders, &orderv1.ListOrdersRequest{}, &orderv1.ListOrdersResponse{})
		if len(list.GetOrders()) != 1 {
			t.Fatalf("there are %d orders", len(list.GetOrders()))
		}
		w.until(t, u, list.GetOrders()[0].GetOrderId(), scheduled)
		if s := w.stock(t, p.GetProductId()); s.GetOnHand() != 499 {
			t.Errorf("%v", s)
		}
		other := proto.CloneOf(req)
		other.Lines[0].Quantity = 3
		refusal{code: codes.FailedPrecondition, reason: "IDEMPOTENCY_KEY_REUSED", http: http.StatusUnprocessableEntity}.check(t, try(t, d, w, u, createOrder, other, nil))
	})
	t.Run("through both doors", func(t *testing.T) {
		u, p := w.customer(t), w.product(t, euro(100), 5)
		req := cart(p, 1, "tok_ok")
		req.RequestId = newKey()
		if a, b := w.place(t, grpcDoor{}, u, req), w.place(t, restDoor{}, u, req); !proto.Equal(a, b) {
			t.Errorf("over gRPC %v, over REST %v", a, b)
		}
	})
}

// TestDifferentRequestsUnderOneKeyAtOnceAreOneOrder lets them race.
func TestDifferentRequestsUnderOneKeyAtOnceAreOneOrder(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u, p := w.customer(t), w.product(t, euro(100), 500)
	key := newKey()
	ctx := soon(t)
	var all sync.WaitGroup
	var count struct {
		sync.Mutex
		ok, reused int
	}
	for i := range 40 {
		all.Go(func() {
			req := cart(p, int32(1+i), "tok_ok")
			req.RequestId = key
			a, err := insist(ctx, doors[i%2], w, u.token, createOrder, req, &orderv1.Order{})
			count.Lock()
			defer count.Unlock()
			switch {
			case err == nil && a.code == codes.OK:
				count.ok++
			case err == nil && a.reason == "IDEMPOTENCY_KEY_REUSED":
				count.reused++
			default:
				t.Errorf("%s, %v", a.text, err)
			}
		})
	}
	all.Wait()
	if count.ok != 1 || count.reused != 39 {
		t.Errorf("%d were done and %d refused, want 1 and 39", count.ok, count.reused)
	}
}

// TestEventsThatAreCutGoOnWithoutAGap follows an order over SSE and is cut after
// each event; the next connection says where the last one ended.
func TestEventsThatAreCutGoOnWithoutAGap(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u, p := w.customer(t), w.product(t, euro(100), 5)
	o := w.place(t, restDoor{}, u, cart(p, 1, "tok_slow"))
	path := "/v1/orders/" + o.GetOrderId() + ":watch"
	ctx := soon(t)
	lastID, cuts, sent := "", 0, false
	var seen []int64
	for status := orderv1.OrderStatus(0); status != delivered; cuts++ {
		var err error
		lastID, err = w.rest(u).Follow(ctx, path, lastID, func(e rest.Event) (bool, error) {
			var m orderv1.WatchOrderResponse
			if err := protojson.Unmarshal(e.Data, &m); err != nil {
				return false, err
			}
			if m.GetResumeToken() != e.ID {
				return false, fmt.Errorf("event %s says it resumes with %s", e.ID, m.GetResumeToken())
			}
			if n := m.GetEntry().GetSequence(); n > 0 {
				seen = append(seen, n)
			} else if len(seen) == 0 {
				seen = append(seen, m.GetOrder().GetVersion()) // where the story begins
			}
			status = max(m.GetEntry().GetToStatus(), status) // the order in the message may be further
			if m.GetEntry() == nil {
				status = m.GetOrder().GetStatus()
			}
			return false, nil // and the connection is cut
		})
		must(t, err)
		if status == orderv1.OrderStatus_ORDER_STATUS_SCHEDULED && !sent {
			sent = true
			w.scan(t, w.order(t, o.GetOrderId()), shippingv1.ScanKind_SCAN_KIND_PICKED_UP, shippingv1.ScanKind_SCAN_KIND_DELIVERED)
		}
	}
	for i, n := range seen {
		if n != seen[0]+int64(i) {
			t.Fatalf("the events are %v", seen)
		}
	}
	bill := ask(t, restDoor{}, w, u, getWaybill, &orderv1.GetWaybillRequest{OrderId: o.GetOrderId()}, &orderv1.Waybill{})
	if cuts < 5 || seen[len(seen)-1] != int64(len(bill.GetEntries())) {
		t.Errorf("after %d cuts the events are %v, and the waybill has %d entries", cuts, seen, len(bill.GetEntries()))
	}
	for name, id := range map[string]string{"that is none": "abc", "beyond the end": "9999", "negative": "-1"} {
		t.Run("an event id "+name, func(t *testing.T) {
			invalid("resume_token").check(t, w.send(t, u, http.MethodGet, path, "", "Accept", "text/event-stream", "Last-Event-ID", id))
		})
	}
}

// TestWhoeverHearsOfAChangeCanReadIt asks for each order right after every event of
// it, while other streams on it are opened and cut all the time.
func TestWhoeverHearsOfAChangeCanReadIt(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u, p := w.customer(t), w.product(t, euro(100), 1000)
	orders := orderv1.NewOrderServiceClient(w.conn)
	ctx := u.as(soon(t))
	var all sync.WaitGroup
	for range 40 {
		all.Go(func() {
			o, err := orders.CreateOrder(ctx, keyed(cart(p, 1, "tok_ok")).(*orderv1.CreateOrderRequest))
			if err != nil {
				t.Error(err)
				return
			}
			token := ""
			for status := o.GetStatus(); status != orderv1.OrderStatus_ORDER_STATUS_SCHEDULED; {
				short, cut := context.WithCancel(ctx)
				s, err := orders.WatchOrder(short, &orderv1.WatchOrderRequest{OrderId: o.GetOrderId(), ResumeToken: token})
				var m *orderv1.WatchOrderResponse
				if err == nil {
					m, err = s.Recv()
				}
				cut()
				if err != nil {
					t.Errorf("watch: %v", err)
					return
				}
				token, status = m.GetResumeToken(), m.GetOrder().GetStatus()
				now, err := orders.GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: o.GetOrderId()})
				if err != nil || now.GetVersion() < m.GetOrder().GetVersion() || now.GetVersion() < m.GetEntry().GetSequence() {
					t.Errorf("after hearing %v one reads %v, %v", m, now, err)
				}
			}
		})
	}
	all.Wait()
}

func TestOneStreamWatchesOrdersThatComeAndGo(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u, p := w.customer(t), w.product(t, euro(100), 50)
	other := w.place(t, grpcDoor{}, w.customer(t), cart(p, 1, "tok_ok"))
	var placed []*orderv1.Order
	for range 3 {
		o := w.place(t, grpcDoor{}, u, cart(p, 1, "tok_ok"))
		placed = append(placed, w.until(t, u, o.GetOrderId(), scheduled))
	}
	s, err := orderv1.NewOrderServiceClient(w.conn).WatchOrders(u.as(soon(t)))
	must(t, err)
	add := func(ids ...string) {
		must(t, s.Send(&orderv1.WatchOrdersRequest{Command: &orderv1.WatchOrdersRequest_Add{Add: &orderv1.AddOrders{OrderIds: ids}}}))
	}
	next := func() *orderv1.WatchOrdersResponse {
		m, err := s.Recv()
		must(t, err)
		return m
	}
	add(placed[0].GetOrderId(), placed[1].GetOrderId())
	for range 2 {
		if m := next(); m.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_SCHEDULED || m.GetError() != nil {
			t.Errorf("first sight: %v", m)
		}
	}
	add(other.GetOrderId()) // which is not theirs
	if m := next(); m.GetOrderId() != other.GetOrderId() || codes.Code(m.GetError().GetCode()) != codes.NotFound || m.GetOrder() != nil {
		t.Errorf("somebody else's: %v", m)
	}
	must(t, s.Send(&orderv1.WatchOrdersRequest{Command: &orderv1.WatchOrdersRequest_Drop{Drop: &orderv1.DropOrders{OrderIds: []string{placed[0].GetOrderId()}}}}))
	add(placed[2].GetOrderId()) // its first sight tells that the drop was read
	if m := next(); m.GetOrderId() != placed[2].GetOrderId() {
		t.Errorf("first sight: %v", m)
	}
	for _, o := range placed {
		w.scan(t, o, shippingv1.ScanKind_SCAN_KIND_PICKED_UP, shippingv1.ScanKind_SCAN_KIND_DELIVERED)
	}
	last := map[string]int64{}
	for ended := 0; ended < 2; {
		m := next()
		if m.GetOrderId() == placed[0].GetOrderId() {
			t.Fatalf("an order that was dropped: %v", m)
		}
		if before, ok := last[m.GetOrderId()]; ok && m.GetEntry().GetSequence() != before+1 {
			t.Errorf("after entry %d comes %v", before, m)
		}
		last[m.GetOrderId()] = m.GetEntry().GetSequence()
		if m.GetOrder().GetStatus() == delivered {
			ended++
		}
	}
	must(t, s.CloseSend())
	if m, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream goes on: %v, %v", m, err)
	}
	bad, err := orderv1.NewOrderServiceClient(w.conn).WatchOrders(u.as(soon(t)))
	must(t, err)
	must(t, bad.Send(&orderv1.WatchOrdersRequest{}))
	_, err = bad.Recv()
	invalid("command").check(t, ofStatus(err))
}

// TestThereAreCallsOfEveryKind makes one of each over TCP; over REST there are those
// that a browser can make.
func TestThereAreCallsOfEveryKind(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	inventory, pay := inventoryv1.NewInventoryServiceClient(w.conn), paymentv1.NewPaymentServiceClient(w.conn)
	ctx := w.admin.as(soon(t))
	t.Run("unary", func(t *testing.T) {
		p := w.product(t, euro(5), 1)
		throughBoth(t, func(t *testing.T, d door) {
			got := ask(t, d, w, nil, getProduct, &inventoryv1.GetProductRequest{ProductId: p.GetProductId()}, &inventoryv1.Product{})
			if got.GetSku() != p.GetSku() {
				t.Errorf("%v", got)
			}
		})
	})
	t.Run("client stream", func(t *testing.T) {
		in, err := inventory.ImportProducts(ctx)
		must(t, err)
		for i := range 50 {
			must(t, in.Send(&inventoryv1.ImportProductsRequest{LineNumber: int32(i + 2), Sku: fmt.Sprintf("I-%s", uuid.NewString()), Name: "Imported", Price: euro(1), InitialStock: 3}))
		}
		got, err := in.CloseAndRecv()
		must(t, err)
		if got.GetImportedCount() != 50 {
			t.Errorf("%v", got)
		}
		bad, err := inventory.ImportProducts(ctx)
		must(t, err)
		sku := "B-" + uuid.NewString()
		must(t, bad.Send(&inventoryv1.ImportProductsRequest{LineNumber: 2, Sku: sku, Name: "Good", Price: euro(1)}))
		_ = bad.Send(&inventoryv1.ImportProductsRequest{LineNumber: 3, Sku: "not good", Name: "Bad", Price: euro(1)})
		_, err = bad.CloseAndRecv()
		invalid("line 3, column sku").check(t, ofStatus(err))
		list := ask(t, grpcDoor{}, w, nil, inventoryv1.InventoryService_ListProducts_FullMethodName, &inventoryv1.ListProductsRequest{Filter: `sku = "` + sku + `"`}, &inventoryv1.ListProductsResponse{})
		if len(list.GetProducts()) != 0 {
			t.Error("a line of an import that failed was taken")
		}
	})
	t.Run("server stream", func(t *testing.T) {
		p := w.product(t, euro(5), 7)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		watch, err := inventory.WatchStock(ctx, &inventoryv1.WatchStockRequest{ProductIds: []string{p.GetProductId()}})
		must(t, err)
		first, err := watch.Recv()
		must(t, err)
		ask(t, restDoor{}, w, w.admin, adjustStock, &inventoryv1.AdjustStockRequest{ProductId: p.GetProductId(), Delta: -2, Reason: "broken"}, &inventoryv1.Stock{})
		second, err := watch.Recv()
		must(t, err)
		if first.GetAvailable() != 7 || second.GetAvailable() != 5 || second.GetVersion() <= first.GetVersion() {
			t.Errorf("%v, then %v", first, second)
		}
	})
	t.Run("both ways", func(t *testing.T) {
		_, o, _ := w.theirs(t)
		s, err := pay.Reconcile(ctx)
		must(t, err)
		now := timestamppb.Now()
		must(t, s.Send(&paymentv1.ReconcileRequest{Content: &paymentv1.ReconcileRequest_Period{Period: &paymentv1.SettlementPeriod{StartTime: timestamppb.New(now.AsTime().AddDate(0, 0, -1)), EndTime: timestamppb.New(now.AsTime().AddDate(0, 0, 1))}}}))
		must(t, s.Send(&paymentv1.ReconcileRequest{Content: &paymentv1.ReconcileRequest_Line{Line: &paymentv1.SettlementLine{
			LineNumber: 1, ProviderReference: "nobody-knows-it", Operation: paymentv1.PaymentOperation_PAYMENT_OPERATION_CAPTURE, Amount: euro(1),
		}}}))
		must(t, s.CloseSend())
		unknown, absent := false, false
		for {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			must(t, err)
			unknown = unknown || m.GetLineNumber() == 1 && m.GetVerdict() == paymentv1.ReconcileVerdict_RECONCILE_VERDICT_UNKNOWN_REFERENCE
			absent = absent || m.GetOrderId() == o.GetOrderId() && m.GetVerdict() == paymentv1.ReconcileVerdict_RECONCILE_VERDICT_MISSING
		}
		if !unknown || !absent {
			t.Errorf("the line that nobody knows: %v, the payment that is missing: %v", unknown, absent)
		}
	})
	t.Run("over REST line by line and as events", func(t *testing.T) {
		_, o, _ := w.theirs(t)
		lines := w.send(t, w.admin, http.MethodGet, "/v1/ledger:export", "")
		if lines.http != http.StatusOK || !bytes.Contains(lines.body, []byte(o.GetOrderId())) {
			t.Errorf("%d %s", lines.http, lines.text)
		}
		n := 0
		_, err := w.rest(w.admin).Follow(soon(t), "/v1/ledger:export", "", func(rest.Event) (bool, error) { n++; return true, nil })
		if err != nil || n == 0 {
			t.Errorf("%d events, %v", n, err)
		}
	})
}
