package rpc_test

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/ordertest"
	"github.com/waybill-dev/waybill/services/order/orderd"
)

// behindTheHub changes an order as a process does that dies between its commit and
// telling those who watch.
func behindTheHub(t *testing.T, w *ordertest.World, id string, s order.Status) {
	t.Helper()
	o := w.Get(id)
	e := &orderv1.WaybillEntry{Sequence: o.GetVersion() + 1, Service: "shipping", Event: "shipment_scheduled", FromStatus: o.GetStatus(), ToStatus: s}
	data, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.DB.Exec(t.Context(), "INSERT INTO waybill_entries (order_id, sequence, entry) VALUES (?, ?, ?)", id, e.GetSequence(), data); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DB.Exec(t.Context(), "UPDATE orders SET version = version + 1, status = ? WHERE id = ?", int64(s), id); err != nil {
		t.Fatal(err)
	}
}

func TestAHintThatNeverCameIsMadeUpFor(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		w := ordertest.New(t, open, func(c *orderd.Config) { c.Recheck = 20 * time.Millisecond })
		one, each, end := w.Place("u1").GetOrderId(), w.Place("u1").GetOrderId(), w.Place("u1").GetOrderId()
		s, err := w.Orders.WatchOrder(soon(t, "u1"), &orderv1.WatchOrderRequest{OrderId: one})
		if err != nil {
			t.Fatal(err)
		}
		must(t, s)
		many := watchOrders(t, w, "u1")
		add(t, many, true, end)
		add(t, many, false, each)
		must(t, many)

		behindTheHub(t, w, one, order.Scheduled)
		if m := must(t, s); m.GetEntry().GetSequence() != 2 || m.GetOrder().GetStatus() != order.Scheduled {
			t.Errorf("one order: %v", m)
		}
		behindTheHub(t, w, each, order.Scheduled)
		if m := must(t, many); m.GetOrderId() != each || m.GetEntry().GetSequence() != 2 {
			t.Errorf("each entry: %v", m)
		}
		behindTheHub(t, w, end, order.Scheduled)
		if m := must(t, many); m.GetOrderId() != end || m.GetEntry() != nil || !m.GetOrder().GetSagaOver() {
			t.Errorf("only the end: %v", m)
		}
	})
}

func TestAWatcherMissesNothingThatAnotherReplicaDoes(t *testing.T) {
	open := sqldbtest.Postgres(t, false)
	a := ordertest.New(t, open)
	b := a.Replica()
	const n = 20
	watched := watchOrders(t, b, "u1")
	ids := make([]string, n)
	for i := range ids {
		ids[i] = a.Place("u1").GetOrderId()
	}
	add(t, watched, false, ids...)
	for range ids {
		must(t, watched)
	}
	for step := range 7 {
		for _, id := range ids {
			a.Say(ordertest.Happy(id)[step]) // either replica may handle it
		}
		seen := map[string]bool{}
		for range ids {
			m := must(t, watched)
			if seen[m.GetOrderId()] || m.GetEntry().GetSequence() != int64(step+2) {
				t.Fatalf("step %d: %v", step, m)
			}
			seen[m.GetOrderId()] = true
		}
	}
	if err := watched.CloseSend(); err != nil {
		t.Fatal(err)
	}
	ended(t, watched)
}
