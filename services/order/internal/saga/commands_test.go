package saga_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/auth/authtest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/ordertest"
)

// refused checks code and reason of an error that came over gRPC.
func refused(t *testing.T, what string, err error, code codes.Code, reason string) {
	t.Helper()
	if status.Code(err) != code || errs.ReasonOf(rpc.FromStatus(err)) != reason {
		t.Errorf("%s: got %v (%s), want %s %s", what, err, errs.ReasonOf(rpc.FromStatus(err)), code, reason)
	}
}

func TestTheSameKeyAHundredTimesIsOneOrder(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		req := ordertest.Request()
		answers := make([][]byte, 100)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() {
				o, err := w.Orders.CreateOrder(authtest.As(t.Context(), "u1"), req)
				if err != nil {
					t.Error(err)
					return
				}
				answers[i], _ = proto.MarshalOptions{Deterministic: true}.Marshal(o)
			})
		}
		wg.Wait()
		for i, a := range answers {
			if string(a) != string(answers[0]) {
				t.Fatalf("answer %d differs", i)
			}
		}
		if n := w.Count("SELECT count(*) FROM orders"); n != 1 {
			t.Errorf("there are %d orders", n)
		}
		if n := w.Count("SELECT count(*) FROM outbox"); n != 1 {
			t.Errorf("there are %d events", n)
		}
	})
}

func TestAKeyStandsForOneRequestOfOneCaller(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		ctx := authtest.As(t.Context(), "u1")
		req := ordertest.Request()
		req.ExpectedTotal = &typev1.Money{MinorUnits: 500, CurrencyCode: "EUR"}
		first, err := w.Orders.CreateOrder(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		other := proto.CloneOf(req)
		other.Lines[0].Quantity++
		other.ExpectedTotal.MinorUnits = 750
		_, err = w.Orders.CreateOrder(ctx, other)
		refused(t, "another request", err, codes.FailedPrecondition, "IDEMPOTENCY_KEY_REUSED")

		w.Quotes.SetPrice(999)
		again, err := w.Orders.CreateOrder(ctx, req)
		if err != nil {
			t.Fatalf("after the price changed: %v", err)
		}
		equal(t, "after the price changed", first, again)
		w.Quotes.SetAway(true)
		if again, err = w.Orders.CreateOrder(ctx, req); err != nil {
			t.Fatalf("while inventory is away: %v", err)
		}
		equal(t, "while inventory is away", first, again)
		w.Quotes.SetAway(false)
		w.Quotes.SetPrice(250)

		theirs, err := w.Orders.CreateOrder(authtest.As(t.Context(), "u2"), req)
		if err != nil || theirs.GetOrderId() == first.GetOrderId() || theirs.GetUserId() != "u2" {
			t.Errorf("somebody else's key is their own: %v, %v", theirs, err)
		}
	})
}

func TestARefusedOrderMayBePlacedUnderTheSameKeyLater(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		ctx := authtest.As(t.Context(), "u1")
		req := ordertest.Request()
		w.Quotes.SetAway(true)
		_, err := w.Orders.CreateOrder(ctx, req)
		refused(t, "inventory is away", err, codes.Unavailable, "AWAY")
		w.Quotes.SetAway(false)
		if _, err := w.Orders.CreateOrder(ctx, req); err != nil {
			t.Errorf("inventory is back: %v", err)
		}
	})
}

func TestBadRequestsAreRefusedAndChangeNothing(t *testing.T) {
	const gone = "0190a0c2-7b1a-7cc3-9a3e-1f2d3c4b5a69"
	set := func(change func(*orderv1.CreateOrderRequest)) *orderv1.CreateOrderRequest {
		r := ordertest.Request()
		change(r)
		return r
	}
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		w.Quotes.Withdraw(gone)
		for name, c := range map[string]struct {
			req    *orderv1.CreateOrderRequest
			code   codes.Code
			reason string // of ours; that of the contract's rules is not ours to say
		}{
			"no key":             {set(func(r *orderv1.CreateOrderRequest) { r.RequestId = "" }), codes.InvalidArgument, ""},
			"long key":           {set(func(r *orderv1.CreateOrderRequest) { r.RequestId = strings.Repeat("k", 256) }), codes.InvalidArgument, ""},
			"key not ASCII":      {set(func(r *orderv1.CreateOrderRequest) { r.RequestId = "schlüssel" }), codes.InvalidArgument, ""},
			"no lines":           {set(func(r *orderv1.CreateOrderRequest) { r.Lines = nil }), codes.InvalidArgument, ""},
			"101 lines":          {ordertest.Request(many(101)...), codes.InvalidArgument, ""},
			"none of it":         {set(func(r *orderv1.CreateOrderRequest) { r.Lines[0].Quantity = 0 }), codes.InvalidArgument, ""},
			"less than none":     {set(func(r *orderv1.CreateOrderRequest) { r.Lines[0].Quantity = -1 }), codes.InvalidArgument, ""},
			"too many":           {set(func(r *orderv1.CreateOrderRequest) { r.Lines[0].Quantity = 1 << 30 }), codes.InvalidArgument, ""},
			"SQL for a product":  {ordertest.Request("'; DROP TABLE orders; --"), codes.InvalidArgument, ""},
			"nil UUID":           {ordertest.Request("00000000-0000-0000-0000-000000000000"), codes.InvalidArgument, ""},
			"capital UUID":       {ordertest.Request(strings.ToUpper(gone)), codes.InvalidArgument, ""},
			"card for a token":   {set(func(r *orderv1.CreateOrderRequest) { r.PaymentToken = "4242424242424242" }), codes.InvalidArgument, ""},
			"no address":         {set(func(r *orderv1.CreateOrderRequest) { r.ShipTo = nil }), codes.InvalidArgument, ""},
			"control characters": {set(func(r *orderv1.CreateOrderRequest) { r.ShipTo.Recipient = "a\x00b" }), codes.InvalidArgument, ""},
			"text turned round":  {set(func(r *orderv1.CreateOrderRequest) { r.ShipTo.Locality = "a\u202eb" }), codes.InvalidArgument, ""},
			"card in an address": {set(func(r *orderv1.CreateOrderRequest) { r.ShipTo.Recipient = "4242-4242-4242-4242" }), codes.InvalidArgument, "CARD_NUMBER"},
			"negative total": {set(func(r *orderv1.CreateOrderRequest) {
				r.ExpectedTotal = &typev1.Money{MinorUnits: -1, CurrencyCode: "EUR"}
			}), codes.InvalidArgument, ""},
			"no currency": {set(func(r *orderv1.CreateOrderRequest) {
				r.ExpectedTotal = &typev1.Money{MinorUnits: 1, CurrencyCode: "XXX"}
			}), codes.InvalidArgument, ""},
			"another total": {set(func(r *orderv1.CreateOrderRequest) {
				r.ExpectedTotal = &typev1.Money{MinorUnits: 1, CurrencyCode: "EUR"}
			}), codes.FailedPrecondition, "TOTAL_CHANGED"},
			"not for sale": {ordertest.Request(uuid.NewString(), gone), codes.InvalidArgument, "PRODUCT_NOT_FOR_SALE"},
			"too many together": {set(func(r *orderv1.CreateOrderRequest) {
				r.Lines[0].Quantity = 1000
				r.Lines = append(r.Lines, r.Lines[0])
			}), codes.InvalidArgument, "QUANTITY"},
		} {
			_, err := w.Orders.CreateOrder(authtest.As(t.Context(), "u1"), c.req)
			if status.Code(err) != c.code || (c.reason != "" && errs.ReasonOf(rpc.FromStatus(err)) != c.reason) {
				t.Errorf("%s: got %v (%s), want %s %s", name, err, errs.ReasonOf(rpc.FromStatus(err)), c.code, c.reason)
			}
			if err != nil && strings.Contains(err.Error(), "4242") {
				t.Errorf("%s: the error repeats the number: %v", name, err)
			}
		}
		_, err := w.Orders.CreateOrder(t.Context(), ordertest.Request())
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("without signing in: %v", err)
		}
		if n := w.Count("SELECT (SELECT count(*) FROM orders) + (SELECT count(*) FROM outbox) + (SELECT count(*) FROM idempotency) + (SELECT count(*) FROM waybill_entries)"); n != 0 {
			t.Errorf("%d rows were left behind", n)
		}
	})
}

func many(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = uuid.NewString()
	}
	return ids
}

func TestAnOrderMayBeCancelledInEveryStatusThatAllowsIt(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		for _, s := range order.Statuses() {
			before := w.PlaceIn("u1", s)
			req := &orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: before.GetOrderId(), Reason: "no more"}
			after, err := w.Orders.CancelOrder(authtest.As(t.Context(), "u1"), req)
			switch rule := order.RuleFor(s, order.CancelRequested); rule.Action {
			case order.Advance:
				if err != nil || after.GetStatus() != order.Cancelling || after.GetReason() != orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST ||
					after.GetReasonDetail() != "no more" || after.GetVersion() != before.GetVersion()+1 {
					t.Errorf("in %s: %v, %v", order.StatusName(s), after, err)
				}
				again, err := w.Orders.CancelOrder(authtest.As(t.Context(), "u1"), req)
				if err != nil {
					t.Errorf("in %s, repeated: %v", order.StatusName(s), err)
				}
				equal(t, "repeated", after, again)
			case order.Ignore:
				if err != nil {
					t.Errorf("in %s: %v", order.StatusName(s), err)
				}
				equal(t, "unchanged in "+order.StatusName(s), before, after)
			default:
				refused(t, "in "+order.StatusName(s), err, codes.FailedPrecondition, "ORDER_NOT_CANCELLABLE")
				equal(t, "unchanged in "+order.StatusName(s), before, w.Get(before.GetOrderId()))
			}
		}
	})
}

func TestWishesAreCheckedBeforeTheyAreGranted(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		o := w.PlaceIn("u1", order.Held)
		id, ctx := o.GetOrderId(), authtest.As(t.Context(), "u1")
		_, err := w.Orders.CancelOrder(ctx, &orderv1.CancelOrderRequest{RequestId: "1", OrderId: id, Etag: "v1"})
		refused(t, "an old etag", err, codes.Aborted, "ETAG_MISMATCH")
		_, err = w.Orders.CancelOrder(ctx, &orderv1.CancelOrderRequest{RequestId: "2", OrderId: id, Reason: "my card is 4242424242424242"})
		refused(t, "a card number", err, codes.InvalidArgument, "CARD_NUMBER")
		_, err = w.Orders.ReturnOrder(ctx, &orderv1.ReturnOrderRequest{RequestId: "3", OrderId: id})
		refused(t, "a return before dispatch", err, codes.FailedPrecondition, "ORDER_NOT_RETURNABLE")
		equal(t, "unchanged", o, w.Get(id))
		got, err := w.Orders.CancelOrder(authtest.As(t.Context(), "staff"), &orderv1.CancelOrderRequest{RequestId: "4", OrderId: id, Etag: o.GetEtag()})
		if err != nil || got.GetReason() != orderv1.OrderReason_ORDER_REASON_STAFF_REQUEST {
			t.Errorf("by the shop: %v, %v", got, err)
		}
	})
}

func TestOthersCannotReachAnOrder(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		mine := w.Place("u1").GetOrderId()
		never := uuid.NewString()
		for name, call := range map[string]func(ctx context.Context, id string) error{
			"GetOrder": func(ctx context.Context, id string) error {
				_, err := w.Orders.GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: id})
				return err
			},
			"GetWaybill": func(ctx context.Context, id string) error {
				_, err := w.Orders.GetWaybill(ctx, &orderv1.GetWaybillRequest{OrderId: id})
				return err
			},
			"CancelOrder": func(ctx context.Context, id string) error {
				_, err := w.Orders.CancelOrder(ctx, &orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: id})
				return err
			},
			"ReturnOrder": func(ctx context.Context, id string) error {
				_, err := w.Orders.ReturnOrder(ctx, &orderv1.ReturnOrderRequest{RequestId: uuid.NewString(), OrderId: id})
				return err
			},
			"WatchOrder": func(ctx context.Context, id string) error {
				s, err := w.Orders.WatchOrder(ctx, &orderv1.WatchOrderRequest{OrderId: id})
				if err == nil {
					_, err = s.Recv()
				}
				return err
			},
		} {
			ctx, cancel := context.WithTimeout(authtest.As(t.Context(), "u2"), 10*time.Second)
			foreign, absent := call(ctx, mine), call(ctx, never)
			cancel()
			refused(t, name, foreign, codes.NotFound, "ORDER_NOT_FOUND")
			refused(t, name, absent, codes.NotFound, "ORDER_NOT_FOUND")
			if a, b := strings.ReplaceAll(foreign.Error(), mine, "X"), strings.ReplaceAll(absent.Error(), never, "X"); a != b {
				t.Errorf("%s tells them apart: %q, %q", name, a, b)
			}
		}
		page, err := w.Orders.ListOrders(authtest.As(t.Context(), "u2"), &orderv1.ListOrdersRequest{})
		if err != nil || len(page.GetOrders()) != 0 {
			t.Errorf("ListOrders: %v, %v", page, err)
		}
		if w.Get(mine).GetVersion() != 1 {
			t.Error("somebody else changed the order")
		}
	})
}

func TestTwoHundredCancellationsRaceTheirSaga(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		const n = 200
		ids := make([]string, n)
		for i := range ids {
			ids[i] = w.Place("u1").GetOrderId()
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for step := range 6 {
				for _, id := range ids {
					w.Say(ordertest.Happy(id)[step])
				}
			}
		})
		for _, id := range ids {
			wg.Go(func() {
				_, err := w.Orders.CancelOrder(authtest.As(t.Context(), "u1"), &orderv1.CancelOrderRequest{RequestId: id, OrderId: id},
					grpc.WaitForReady(true))
				if code := status.Code(err); code != codes.OK && code != codes.FailedPrecondition {
					t.Error(errors.Join(errors.New("cancelling"), err))
				}
			})
		}
		wg.Wait()
		for _, id := range ids {
			// All of 1 creation, 6 events, and the cancellation if it was granted.
			o := w.AwaitVersion(id, 7)
			if s := o.GetStatus(); s == order.Cancelling {
				o = w.AwaitVersion(id, 8)
			}
			if s := o.GetStatus(); s != order.Cancelling && s != order.Dispatched {
				t.Errorf("order %s ended %s", id, order.StatusName(s))
			}
			w.Waybill(id)
		}
	})
}
