package saga_test

import (
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/inventory/internal/saga"
	"github.com/waybill-dev/waybill/services/inventory/internal/storetest"
)

func (w *world) heldEvent(order string) *inventoryv1.StockHeld {
	return &inventoryv1.StockHeld{OrderId: order, ExpiresAt: timestamppb.New(w.clock().Add(10 * time.Minute))}
}

func TestStockIsHeldThenSoldThenPutBack(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b, o := w.product(5), w.product(1), order()
		lines := []inventory.Line{{ProductID: a, Quantity: 2}, {ProductID: b, Quantity: 1}, {ProductID: a, Quantity: 1}}
		held := w.heldEvent(o)
		w.place(o, lines...)
		w.heardAll(o, held)
		w.has(a, 5, 3)
		w.has(b, 1, 1)
		w.balance()

		w.authorize(o)
		w.heardAll(o, held, &inventoryv1.StockCommitted{OrderId: o})
		w.has(a, 2, 0)
		w.has(b, 0, 0)
		w.balance()
		if n := w.count(`SELECT count(*) FROM movements WHERE order_id = ? AND kind = 'SOLD'`, o); n != 2 {
			t.Errorf("%d movements, want one per product", n)
		}

		w.reverse(o)
		w.reverse(o)
		back := &inventoryv1.StockReleased{OrderId: o, Restocked: true}
		w.heardAll(o, held, &inventoryv1.StockCommitted{OrderId: o}, back, back)
		w.has(a, 5, 0)
		w.has(b, 1, 0)
	})
}

func TestAnOrderThatIsUndoneBeforeItIsPaidLeavesNothingHeld(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, o := w.product(5), order()
		held := w.heldEvent(o)
		w.place(o, inventory.Line{ProductID: a, Quantity: 2})
		w.heardAll(o, held)
		w.reverse(o)
		w.heardAll(o, held, &inventoryv1.StockReleased{OrderId: o})
		w.has(a, 5, 0)
	})
}

func TestShortagesAreRejectedWithWhatIsMissing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, b, o := w.product(5), w.product(1), order()
		w.place(o, inventory.Line{ProductID: a, Quantity: 2}, inventory.Line{ProductID: b, Quantity: 2})
		w.heardAll(o, &inventoryv1.StockRejected{OrderId: o, Reason: inventoryv1.StockRejection_STOCK_REJECTION_SHORTAGE,
			Shortages: []*inventoryv1.Shortage{{ProductId: b, Requested: 2, Available: 1}}})
		w.has(a, 5, 0)
		_, err := w.commands.Archive(w.ctx, &inventoryv1.ArchiveProductRequest{ProductId: a})
		w.must(err)
		gone, o2 := order(), order()
		w.place(o2, inventory.Line{ProductID: a, Quantity: 1}, inventory.Line{ProductID: gone, Quantity: 1})
		got := w.events(o2, 1)[0].(*inventoryv1.StockRejected)
		if got.GetReason() != inventoryv1.StockRejection_STOCK_REJECTION_NOT_FOR_SALE || len(got.GetShortages()) != 2 {
			t.Errorf("got %v", got)
		}
	})
}

func TestHoldsExpireByThemselves(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, o := w.product(5), order()
		held := w.heldEvent(o)
		w.place(o, inventory.Line{ProductID: a, Quantity: 2})
		w.heardAll(o, held)
		w.pass(10 * time.Minute)
		expired := &inventoryv1.StockExpired{OrderId: o, ExpiredAt: held.GetExpiresAt()}
		w.heardAll(o, held, expired)
		w.has(a, 5, 0)
		// The payment comes too late, is told so, and is undone.
		w.authorize(o)
		w.heardAll(o, held, expired, expired)
		w.reverse(o)
		w.heardAll(o, held, expired, expired, &inventoryv1.StockReleased{OrderId: o, Noop: true})
		w.has(a, 5, 0)
	})
}

func TestWhatIsUndoneBeforeItBeganStaysUndone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, o := w.product(5), order()
		noop := &inventoryv1.StockReleased{OrderId: o, Noop: true}
		w.reverse(o)
		w.heardAll(o, noop)
		w.place(o, inventory.Line{ProductID: a, Quantity: 2})
		w.authorize(o)
		w.reverse(o)
		w.heardAll(o, noop, noop)
		w.has(a, 5, 0)
	})
}

func TestAPaymentBeforeItsOrderIsServedAllTheSame(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, o := w.product(5), order()
		w.authorize(o)
		w.eventually("the payment waits", func() bool { return w.count(`SELECT count(*) FROM holds WHERE id = ? AND state = 'WAITING'`, o) == 1 })
		w.place(o, inventory.Line{ProductID: a, Quantity: 2})
		w.heardAll(o, w.heldEvent(o), &inventoryv1.StockCommitted{OrderId: o})
		w.has(a, 3, 0)
	})
}

func TestEventsThatComeTwiceCountOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, o, last := w.product(5), order(), order()
		id := newID()
		for range 5 {
			w.publish(id, o, placed(o, inventory.Line{ProductID: a, Quantity: 1}))
		}
		w.place(o, inventory.Line{ProductID: a, Quantity: 1}) // the same order under another event id
		w.place(last, inventory.Line{ProductID: a, Quantity: 1})
		w.events(last, 1)
		w.has(a, 5, 2)
		w.heardAll(o, w.heldEvent(o))
	})
}

func TestAnOrderWithoutLinesIsADeadLetter(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		o := order()
		w.publish(newID(), o, &orderv1.OrderPlaced{OrderId: o})
		w.eventually("a dead letter", func() bool { return w.count(`SELECT count(*) FROM dead_letters WHERE aggregate_id = ?`, o) == 1 })
	})
}

func TestWhatIsHeldCannotBeCountedAway(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, o := w.product(5), order()
		w.place(o, inventory.Line{ProductID: a, Quantity: 3})
		w.events(o, 1)
		adjust := func(delta int64) error {
			key := newID()
			_, err := w.commands.Adjust(w.keyed(key), &inventoryv1.AdjustStockRequest{RequestId: key, ProductId: a, Delta: delta, Reason: "broken"})
			return err
		}
		if err := adjust(-3); errs.ReasonOf(err) != "STOCK_TOO_LOW" {
			t.Errorf("took away what is held: %v", err)
		}
		w.must(adjust(-2))
		w.has(a, 3, 3)
		// Nor does taking a product off sale take it from those who hold it.
		_, err := w.commands.Archive(w.ctx, &inventoryv1.ArchiveProductRequest{ProductId: a})
		w.must(err)
		w.authorize(o)
		w.events(o, 2)
		w.has(a, 0, 0)
	})
}

func TestEveryChangeOfStockIsAnnouncedWithItsVersion(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a, o := w.product(5), order()
		w.place(o, inventory.Line{ProductID: a, Quantity: 2})
		w.events(o, 1) // else the payment may overtake it
		w.authorize(o)
		w.events(o, 2)
		w.reverse(o)
		w.events(o, 3)
		// Whoever watches is told after the event is on its way, in no order with it.
		w.eventually("all four changes are announced", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return len(w.moved) >= 4
		})
		var got []int64
		w.mu.Lock()
		defer w.mu.Unlock()
		for i, c := range w.moved {
			n, at, err := saga.DecodeChange(c.Data)
			if err != nil || c.Key != a || c.Version != int64(i)+1 || !at.Equal(w.now) {
				t.Errorf("change %d is %+v of %s, %v", i, c, at, err)
			}
			got = append(got, n)
		}
		if diff := cmp.Diff([]int64{5, 3, 3, 5}, got); diff != "" {
			t.Errorf("available (-want +got):\n%s", diff)
		}
	})
}

// 200 orders want the last unit, all at once: one gets it.
func TestTheLastUnitIsSoldOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a := w.product(1)
		orders := make([]string, 200)
		var wg sync.WaitGroup
		for i := range orders {
			orders[i] = order()
			wg.Go(func() {
				if err := w.tryPublish(newID(), orders[i], placed(orders[i], inventory.Line{ProductID: a, Quantity: 1})); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		held, rejected := "", 0
		for _, o := range orders {
			switch e := w.events(o, 1)[0].(type) {
			case *inventoryv1.StockHeld:
				if held != "" {
					t.Errorf("both %s and %s hold the last unit", held, o)
				}
				held = o
			case *inventoryv1.StockRejected:
				if s := e.GetShortages(); len(s) != 1 || s[0].GetAvailable() != 0 {
					t.Errorf("%s was rejected with %v", o, s)
				}
				rejected++
			default:
				t.Errorf("%s got %v", o, e)
			}
		}
		if held == "" || rejected != 199 {
			t.Fatalf("%q holds it, %d were rejected", held, rejected)
		}
		w.has(a, 1, 1)
		w.authorize(held)
		w.events(held, 2)
		w.has(a, 0, 0)
	})
}

// Orders over overlapping products, in all directions, paid, undone and repeated
// at once: nothing is lost and nothing is invented.
func TestManyOrdersOverFewProductsKeepTheBooks(t *testing.T) {
	each(t, func(t *testing.T, w *world) { w.rush(t) })
}

// Two replicas lock the same rows; what loses a race is done again.
func TestReplicasKeepTheBooksTogether(t *testing.T) {
	open := sqldbtest.Postgres(t, false)
	w := newWorld(t, open)
	w.run(storetest.Open(open), saga.Config{HoldTTL: 10 * time.Minute, SweepEvery: 10 * time.Millisecond})
	w.rush(t)
	w.balance()
}

func (w *world) rush(t *testing.T) {
	products := make([]string, 5)
	for i := range products {
		products[i] = w.product(30)
	}
	orders := make([]string, 120)
	var wg sync.WaitGroup
	send := func(id string, e func(o string) error) {
		wg.Go(func() {
			if err := e(id); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range orders {
		o := order()
		orders[i] = o
		send(o, func(o string) error {
			return w.tryPublish(newID(), o, placed(o,
				inventory.Line{ProductID: products[i%5], Quantity: 1}, inventory.Line{ProductID: products[(i*3+1)%5], Quantity: 2}))
		})
	}
	wg.Wait()
	sold := map[string]bool{}
	for i, o := range orders {
		if _, ok := w.events(o, 1)[0].(*inventoryv1.StockHeld); !ok {
			continue
		}
		if i%3 == 0 {
			w.reverse(o)
		} else {
			w.authorize(o)
			sold[o] = true
		}
	}
	for o := range sold {
		w.events(o, 2)
		w.reverse(o)
	}
	for o := range sold {
		want := &inventoryv1.StockReleased{OrderId: o, Restocked: true}
		if got := w.events(o, 3)[2]; !proto.Equal(want, got) {
			t.Errorf("got %v", got)
		}
	}
	w.eventually("all are back", func() bool { return w.count(`SELECT count(*) FROM holds WHERE state IN ('HELD', 'COMMITTED')`) == 0 })
	for _, p := range products {
		w.has(p, 30, 0)
	}
}
