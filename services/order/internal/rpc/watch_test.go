package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/auth/authtest"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/ordertest"
	"github.com/waybill-dev/waybill/services/order/orderd"
)

// soon bounds what a test waits for on a stream.
func soon(t *testing.T, user string) context.Context {
	ctx, cancel := context.WithTimeout(authtest.As(t.Context(), user), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

type receiver[M any] interface{ Recv() (M, error) }

func must[M any](t *testing.T, s receiver[M]) M {
	t.Helper()
	m, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func ended[M any](t *testing.T, s receiver[M]) {
	t.Helper()
	if m, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Fatalf("the stream did not end: %v, %v", m, err)
	}
}

func TestAWatcherSeesEveryEntryOnceAndInOrder(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		placed := w.Place("u1")
		id := placed.GetOrderId()
		s, err := w.Orders.WatchOrder(soon(t, "u1"), &orderv1.WatchOrderRequest{OrderId: id})
		if err != nil {
			t.Fatal(err)
		}
		first := must(t, s)
		if first.GetEntry() != nil || !proto.Equal(first.GetOrder(), placed) || first.GetResumeToken() != "1" {
			t.Errorf("the first message: %v", first)
		}
		// One by one: the streams of several services may overtake each other, and
		// what comes after the end of the order is not sent any more.
		w.SayEach(id, ordertest.Happy(id)...)
		bill := []*orderv1.WaybillEntry{}
		for range 7 {
			m := must(t, s)
			bill = append(bill, m.GetEntry())
			o := m.GetOrder()
			if m.GetResumeToken() != fmt.Sprint(m.GetEntry().GetSequence()) || o.GetVersion() < m.GetEntry().GetSequence() ||
				o.GetUserId() != "u1" || len(o.GetLines()) != 1 || o.GetShipTo() == nil || o.GetTotal() == nil || o.GetCreateTime() == nil {
				t.Errorf("message: %v", m)
			}
		}
		ended(t, s)
		for i, e := range w.Waybill(id)[1:] {
			if !proto.Equal(e, bill[i]) {
				t.Errorf("entry %d: sent %v, stored %v", i+2, bill[i], e)
			}
		}
	})
}

// The line is cut after every message.
func TestAStreamResumesWithoutGapOrDouble(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		id := w.Place("u1").GetOrderId()
		read := func(token string, during func()) *orderv1.WatchOrderResponse {
			ctx, cancel := context.WithCancel(soon(t, "u1"))
			defer cancel()
			s, err := w.Orders.WatchOrder(ctx, &orderv1.WatchOrderRequest{OrderId: id, ResumeToken: token})
			if err != nil {
				t.Fatal(err)
			}
			during()
			return must(t, s)
		}
		token := read("", func() {}).GetResumeToken()
		for i, e := range ordertest.Happy(id) {
			say := func() { w.Say(e) }
			if i%2 == 0 { // once before the stream begins, once while it does
				say()
				say = func() {}
			}
			m := read(token, say)
			if m.GetEntry().GetSequence() != int64(i+2) {
				t.Fatalf("after %s came %v", token, m)
			}
			token = m.GetResumeToken()
		}
		s, err := w.Orders.WatchOrder(soon(t, "u1"), &orderv1.WatchOrderRequest{OrderId: id, ResumeToken: token})
		if err != nil {
			t.Fatal(err)
		}
		ended(t, s)
	})
}

func TestAResumedStreamBeginsWithWhatWasMissed(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		id := w.PlaceIn("u1", order.Delivered).GetOrderId()
		for after := range int64(9) {
			s, err := w.Orders.WatchOrder(soon(t, "u1"), &orderv1.WatchOrderRequest{OrderId: id, ResumeToken: fmt.Sprint(after)})
			if err != nil {
				t.Fatal(err)
			}
			for n := after + 1; n <= 8; n++ {
				if m := must(t, s); m.GetEntry().GetSequence() != n || m.GetOrder().GetStatus() != order.Delivered {
					t.Errorf("after %d: %v", after, m)
				}
			}
			ended(t, s)
		}
		for _, token := range []string{"9", "-1", "x", "01", " 1", "9223372036854775808"} {
			s, err := w.Orders.WatchOrder(soon(t, "u1"), &orderv1.WatchOrderRequest{OrderId: id, ResumeToken: token})
			if err == nil {
				_, err = s.Recv()
			}
			if status.Code(err) != codes.InvalidArgument {
				t.Errorf("token %q: %v", token, err)
			}
		}
	})
}

func TestAFinishedOrderIsShownAndTheStreamEnds(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		for _, s := range []order.Status{order.Delivered, order.Rejected, order.Cancelled, order.Returned} {
			o := w.PlaceIn("u1", s)
			stream, err := w.Orders.WatchOrder(soon(t, "u1"), &orderv1.WatchOrderRequest{OrderId: o.GetOrderId()})
			if err != nil {
				t.Fatal(err)
			}
			if m := must(t, stream); !proto.Equal(m.GetOrder(), o) || m.GetEntry() != nil {
				t.Errorf("%s: %v", order.StatusName(s), m)
			}
			ended(t, stream)
		}
	})
}

func TestStreamsEndWhenTheServiceStops(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		id := w.Place("u1").GetOrderId()
		s, err := w.Orders.WatchOrder(soon(t, "u1"), &orderv1.WatchOrderRequest{OrderId: id})
		if err != nil {
			t.Fatal(err)
		}
		must(t, s)
		w.Stop()
		if _, err := s.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("got %v", err)
		}
	})
}

func watchOrders(t *testing.T, w *ordertest.World, user string) orderv1.OrderService_WatchOrdersClient {
	t.Helper()
	s, err := w.Orders.WatchOrders(soon(t, user))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func add(t *testing.T, s orderv1.OrderService_WatchOrdersClient, only bool, ids ...string) {
	t.Helper()
	if err := s.Send(&orderv1.WatchOrdersRequest{Command: &orderv1.WatchOrdersRequest_Add{Add: &orderv1.AddOrders{OrderIds: ids, OnlySagaOver: only}}}); err != nil {
		t.Fatal(err)
	}
}

func drop(t *testing.T, s orderv1.OrderService_WatchOrdersClient, ids ...string) {
	t.Helper()
	if err := s.Send(&orderv1.WatchOrdersRequest{Command: &orderv1.WatchOrdersRequest_Drop{Drop: &orderv1.DropOrders{OrderIds: ids}}}); err != nil {
		t.Fatal(err)
	}
}

func TestManyOrdersAreFollowedOnOneStream(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		a, b, over := w.Place("u1").GetOrderId(), w.Place("u1").GetOrderId(), w.PlaceIn("u1", order.Rejected).GetOrderId()
		foreign, never := w.Place("u2").GetOrderId(), uuid.NewString()
		s := watchOrders(t, w, "u1")
		add(t, s, false, a, foreign, over, never)
		seen := map[string]*orderv1.WatchOrdersResponse{}
		for range 4 {
			m := must(t, s)
			seen[m.GetOrderId()] = m
		}
		for _, id := range []string{foreign, never} {
			if m := seen[id]; m.GetError().GetCode() != int32(codes.NotFound) || m.GetOrder() != nil {
				t.Errorf("what is not theirs: %v", m)
			}
		}
		if seen[a].GetOrder().GetStatus() != order.Placed || seen[over].GetOrder().GetStatus() != order.Rejected {
			t.Errorf("seen %v", seen)
		}
		add(t, s, false, b, a)
		if m := must(t, s); m.GetOrderId() != b || m.GetEntry() != nil {
			t.Errorf("b begins with %v", m)
		}
		sequence := map[string]int64{a: 1, b: 1}
		w.SayEach(a, ordertest.Happy(a)[:3]...)
		w.SayEach(b, ordertest.Happy(b)[:3]...)
		for range 6 {
			m := must(t, s)
			id := m.GetOrderId()
			if sequence[id]++; m.GetEntry().GetSequence() != sequence[id] || m.GetResumeToken() != fmt.Sprint(sequence[id]) || len(m.GetOrder().GetLines()) != 1 {
				t.Errorf("message %v, want sequence %d", m, sequence[id])
			}
		}
		drop(t, s, b, never)
		add(t, s, false, over) // once it is answered, b has been dropped
		if m := must(t, s); m.GetOrderId() != over {
			t.Errorf("got %v", m)
		}
		w.SayEach(b, ordertest.Happy(b)[3])
		w.SayEach(a, ordertest.Happy(a)[3:]...)
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for n := int64(5); n <= 8; n++ {
			if m := must(t, s); m.GetOrderId() != a || m.GetEntry().GetSequence() != n {
				t.Errorf("got %v, want entry %d of a", m, n)
			}
		}
		ended(t, s) // a is delivered, and nobody will add more
	})
}

func TestTheEndOfASagaIsToldOncePerOrder(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		const n = 100
		s := watchOrders(t, w, "u1")
		ends := map[string]order.Status{}
		done := make(chan error, 1)
		told := map[string]*orderv1.WatchOrdersResponse{}
		go func() {
			for range n {
				m, err := s.Recv()
				if err != nil || told[m.GetOrderId()] != nil {
					done <- errors.Join(errors.New("a message too many or too few"), err)
					return
				}
				told[m.GetOrderId()] = m
			}
			done <- nil
		}()
		for i := range n {
			id := w.Place("u1").GetOrderId()
			ends[id] = order.Scheduled
			if i%2 == 0 {
				w.Say(ordertest.Happy(id)[:5]...) // may be over before it is watched
				add(t, s, true, id)
				continue
			}
			add(t, s, true, id)
			ends[id] = order.Cancelled
			w.Say(append(ordertest.Happy(id)[:1], &paymentv1.PaymentDeclined{OrderId: id, PaymentId: ordertest.PaymentID})...)
			w.Await(id, order.Cancelling)
			w.Say(ordertest.Undo(id)...)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for id, want := range ends {
			m := told[id]
			if o := m.GetOrder(); o.GetStatus() != want || !o.GetSagaOver() || o.GetSagaOverTime() == nil || len(o.GetLines()) != 1 || m.GetEntry() != nil {
				t.Errorf("told %v, want %s", m, order.StatusName(want))
			}
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		ended(t, s)
	})
}

func TestAStreamFollowsABoundedNumberOfOrders(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		w := ordertest.New(t, open, func(c *orderd.Config) { c.MaxWatched = 2 })
		a, b, c := w.Place("u1").GetOrderId(), w.Place("u1").GetOrderId(), w.Place("u1").GetOrderId()
		s := watchOrders(t, w, "u1")
		add(t, s, false, a, b, c)
		seen := map[string]*orderv1.WatchOrdersResponse{}
		for range 3 {
			m := must(t, s)
			seen[m.GetOrderId()] = m
		}
		if seen[a].GetError() != nil || seen[b].GetError() != nil || seen[c].GetError().GetCode() != int32(codes.ResourceExhausted) {
			t.Errorf("seen %v", seen)
		}
		drop(t, s, a)
		add(t, s, true, uuid.NewString())
		must(t, s) // what does not exist takes no room
		add(t, s, false, c)
		if m := must(t, s); m.GetOrderId() != c || m.GetError() != nil {
			t.Errorf("after one was dropped: %v", m)
		}
		if err := s.Send(&orderv1.WatchOrdersRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("an empty wish: %v", err)
		}
	})
}

func TestAThousandOrdersMayBeAddedAtOnce(t *testing.T) {
	ordertest.Each(t, func(t *testing.T, w *ordertest.World) {
		var ids []string
		for range 999 {
			ids = append(ids, uuid.NewString())
		}
		mine := w.Place("u1").GetOrderId()
		s := watchOrders(t, w, "u1")
		add(t, s, false, append(ids, mine)...)
		for range ids {
			if m := must(t, s); m.GetError().GetCode() != int32(codes.NotFound) {
				t.Fatalf("got %v", m)
			}
		}
		if m := must(t, s); m.GetOrderId() != mine || m.GetError() != nil {
			t.Errorf("got %v", m)
		}
	})
}
