package inventory_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/errs"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/inventory"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// house is a small world of products and holds.
type house struct {
	t     *testing.T
	stock map[string]inventory.Stock
	holds map[string]inventory.Hold
	moved map[string]int64
	now   time.Time
}

func newHouse(t *testing.T, stock map[string]int64) *house {
	h := &house{t: t, stock: map[string]inventory.Stock{}, holds: map[string]inventory.Hold{}, moved: map[string]int64{}, now: noon}
	for id, n := range stock {
		h.stock[id] = inventory.Stock{OnHand: n}
		h.moved[id] = n
	}
	return h
}

// do asks something of an order's hold and gives the events.
func (h *house) do(order string, in inventory.Input, lines ...inventory.Line) []proto.Message {
	h.t.Helper()
	d, err := inventory.Decide(h.holds[order], inventory.Request{OrderID: order, Input: in, Lines: lines, Now: h.now, TTL: time.Minute},
		func(id string) (inventory.Stock, bool) { s, ok := h.stock[id]; return s, ok })
	if errs.KindOf(err) == errs.FailedPrecondition && err != nil {
		return nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	if d.Changed {
		h.holds[order] = d.Hold
	}
	for _, s := range d.Stock {
		h.stock[s.ProductID] = s.Stock
	}
	for _, m := range d.Movements {
		h.moved[m.ProductID] += m.Delta
	}
	return d.Events
}

// check holds the books against each other.
func (h *house) check() {
	h.t.Helper()
	held := map[string]int64{}
	for _, hold := range h.holds {
		if hold.State == inventory.Held {
			for _, l := range hold.Lines {
				held[l.ProductID] += l.Quantity
			}
		}
	}
	for id, s := range h.stock {
		if s.Held < 0 || s.Held > s.OnHand {
			h.t.Fatalf("%s: %d held of %d", id, s.Held, s.OnHand)
		}
		if s.Held != held[id] {
			h.t.Fatalf("%s: %d held, but the holds say %d", id, s.Held, held[id])
		}
		if s.OnHand != h.moved[id] {
			h.t.Fatalf("%s: %d on hand, but the movements say %d", id, s.OnHand, h.moved[id])
		}
	}
}

func (h *house) want(order string, state inventory.State, got []proto.Message, want ...proto.Message) {
	h.t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		h.t.Errorf("events (-want +got):\n%s", diff)
	}
	if s := h.holds[order].State; s != state {
		h.t.Errorf("the hold is %q, want %q", s, state)
	}
	h.check()
}

func TestAnOrderIsHeldAndSold(t *testing.T) {
	h := newHouse(t, map[string]int64{"a": 5, "b": 1})
	h.want("o", inventory.Held, h.do("o", inventory.OrderPlaced, inventory.Line{ProductID: "a", Quantity: 2}, inventory.Line{ProductID: "b", Quantity: 1}),
		&inventoryv1.StockHeld{OrderId: "o", ExpiresAt: timestamppb.New(noon.Add(time.Minute))})
	h.want("o", inventory.Committed, h.do("o", inventory.PaymentAuthorized), &inventoryv1.StockCommitted{OrderId: "o"})
	if diff := cmp.Diff(map[string]inventory.Stock{"a": {OnHand: 3, UpdatedAt: noon}, "b": {UpdatedAt: noon}}, h.stock); diff != "" {
		t.Error(diff)
	}
}

func TestAHoldIsAllOrNothing(t *testing.T) {
	h := newHouse(t, map[string]int64{"a": 5, "b": 1})
	h.want("o", inventory.Rejected,
		h.do("o", inventory.OrderPlaced, inventory.Line{ProductID: "a", Quantity: 2}, inventory.Line{ProductID: "b", Quantity: 2}),
		&inventoryv1.StockRejected{OrderId: "o", Reason: inventoryv1.StockRejection_STOCK_REJECTION_SHORTAGE,
			Shortages: []*inventoryv1.Shortage{{ProductId: "b", Requested: 2, Available: 1}}})
	if s := h.stock["a"]; s.Held != 0 {
		t.Errorf("a rejected order holds %d of a", s.Held)
	}
}

func TestWhatIsNotForSaleIsRejected(t *testing.T) {
	h := newHouse(t, map[string]int64{"a": 5, "old": 5})
	h.stock["old"] = inventory.Stock{OnHand: 5, Archived: true}
	h.want("o", inventory.Rejected,
		h.do("o", inventory.OrderPlaced, inventory.Line{ProductID: "a", Quantity: 6}, inventory.Line{ProductID: "nowhere", Quantity: 1}, inventory.Line{ProductID: "old", Quantity: 1}),
		&inventoryv1.StockRejected{OrderId: "o", Reason: inventoryv1.StockRejection_STOCK_REJECTION_NOT_FOR_SALE,
			Shortages: []*inventoryv1.Shortage{{ProductId: "a", Requested: 6, Available: 5}, {ProductId: "nowhere", Requested: 1}, {ProductId: "old", Requested: 1}}})
}

func TestAPaymentThatComesAtTheVeryEndIsTooLate(t *testing.T) {
	h := newHouse(t, map[string]int64{"a": 5})
	h.do("o", inventory.OrderPlaced, inventory.Line{ProductID: "a", Quantity: 2})
	h.now = noon.Add(time.Minute)
	expired := &inventoryv1.StockExpired{OrderId: "o", ExpiredAt: timestamppb.New(noon.Add(time.Minute))}
	h.want("o", inventory.Expired, h.do("o", inventory.PaymentAuthorized), expired)
	h.want("o", inventory.Expired, h.do("o", inventory.PaymentAuthorized), expired)
	h.want("o", inventory.Expired, h.do("o", inventory.Due))
	h.want("o", inventory.Expired, h.do("o", inventory.PaymentReversed), &inventoryv1.StockReleased{OrderId: "o", Noop: true})
}

func TestAHoldExpiresWhenDueAndNotBefore(t *testing.T) {
	h := newHouse(t, map[string]int64{"a": 5})
	h.do("o", inventory.OrderPlaced, inventory.Line{ProductID: "a", Quantity: 2})
	h.now = noon.Add(time.Minute - time.Microsecond)
	h.want("o", inventory.Held, h.do("o", inventory.Due))
	h.now = noon.Add(time.Minute)
	h.want("o", inventory.Expired, h.do("o", inventory.Due), &inventoryv1.StockExpired{OrderId: "o", ExpiredAt: timestamppb.New(noon.Add(time.Minute))})
	if s := h.stock["a"]; s.Available() != 5 {
		t.Errorf("%d available after expiry, want 5", s.Available())
	}
}

func TestUndoingGivesBackOnceAndAnswersAlways(t *testing.T) {
	line := inventory.Line{ProductID: "a", Quantity: 2}
	for _, c := range []struct {
		name  string
		first []inventory.Input
		state inventory.State
		want  *inventoryv1.StockReleased
	}{
		{"nothing was held", nil, inventory.Tombstoned, &inventoryv1.StockReleased{OrderId: "o", Noop: true}},
		{"held", []inventory.Input{inventory.OrderPlaced}, inventory.Released, &inventoryv1.StockReleased{OrderId: "o"}},
		{"sold", []inventory.Input{inventory.OrderPlaced, inventory.PaymentAuthorized}, inventory.RestockedHold, &inventoryv1.StockReleased{OrderId: "o", Restocked: true}},
		{"paid before it was placed", []inventory.Input{inventory.PaymentAuthorized}, inventory.Tombstoned, &inventoryv1.StockReleased{OrderId: "o", Noop: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t, map[string]int64{"a": 5})
			for _, in := range c.first {
				h.do("o", in, line)
			}
			h.want("o", c.state, h.do("o", inventory.PaymentReversed), c.want)
			h.want("o", c.state, h.do("o", inventory.PaymentReversed), c.want)
			// What was on its way finds the door closed.
			h.want("o", c.state, h.do("o", inventory.OrderPlaced, line))
			h.want("o", c.state, h.do("o", inventory.PaymentAuthorized))
			if s := h.stock["a"]; s.OnHand != 5 || s.Held != 0 {
				t.Errorf("stock is %+v after everything was undone", s)
			}
		})
	}
}

func TestAPaymentThatOvertookItsOrderIsServed(t *testing.T) {
	line := inventory.Line{ProductID: "a", Quantity: 2}
	h := newHouse(t, map[string]int64{"a": 3})
	h.want("o", inventory.Waiting, h.do("o", inventory.PaymentAuthorized))
	h.want("o", inventory.Committed, h.do("o", inventory.OrderPlaced, line),
		&inventoryv1.StockHeld{OrderId: "o", ExpiresAt: timestamppb.New(noon.Add(time.Minute))}, &inventoryv1.StockCommitted{OrderId: "o"})
	h.do("late", inventory.PaymentAuthorized)
	h.want("late", inventory.Expired, h.do("late", inventory.OrderPlaced, line),
		&inventoryv1.StockExpired{OrderId: "late", ExpiredAt: timestamppb.New(noon)})
}

func TestLinesOfOneProductAreMerged(t *testing.T) {
	got, err := inventory.Merge([]*orderv1.OrderLine{{ProductId: "b", Quantity: 1}, {ProductId: "a", Quantity: 2}, {ProductId: "b", Quantity: 3}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]inventory.Line{{ProductID: "a", Quantity: 2}, {ProductID: "b", Quantity: 4}}, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range [][]*orderv1.OrderLine{nil, {{ProductId: "a"}}, {{Quantity: 1}}, {{ProductId: "a", Quantity: -1}}} {
		if _, err := inventory.Merge(bad); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%v gave %v", bad, err)
		}
	}
}

// No sequence of inputs, in any order and however often repeated, makes the books
// differ, and when everything is undone everything is back.
func TestNoSequenceBreaksTheBooks(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		h := newHouse(t, map[string]int64{"a": 7, "b": 3, "c": 20})
		h.stock["d"] = inventory.Stock{Archived: true}
		orders := map[string][]inventory.Line{}
		for i := range 6 {
			var lines []*orderv1.OrderLine
			for range 1 + rnd.IntN(3) {
				lines = append(lines, &orderv1.OrderLine{ProductId: string('a' + rune(rnd.IntN(4)*rnd.IntN(2))), Quantity: 1 + rnd.Int32N(4)})
			}
			merged, err := inventory.Merge(lines)
			if err != nil {
				t.Fatal(err)
			}
			orders[fmt.Sprint("o", i)] = merged
		}
		for range 60 {
			o := fmt.Sprint("o", rnd.IntN(6))
			in := inventory.Inputs()[rnd.IntN(len(inventory.Inputs()))]
			was := h.holds[o].State
			h.do(o, in, orders[o]...)
			if final(was) && h.holds[o].State != was {
				t.Fatalf("seed %d: %s made a hold that was %s %s", seed, in, was, h.holds[o].State)
			}
			h.check()
			h.now = h.now.Add(time.Duration(rnd.IntN(20)) * time.Second)
		}
		for o := range orders {
			h.do(o, inventory.PaymentReversed)
		}
		h.check()
		for id, n := range map[string]int64{"a": 7, "b": 3, "c": 20} {
			if s := h.stock[id]; s.OnHand != n || s.Held != 0 {
				t.Fatalf("seed %d: everything was undone, but of %s there are %+v, want %d", seed, id, s, n)
			}
		}
	}
}

func final(s inventory.State) bool {
	switch s {
	case inventory.None, inventory.Waiting, inventory.Held, inventory.Committed:
		return false
	}
	return true
}

func TestStockRefusesWhatItCannotBear(t *testing.T) {
	s := inventory.Stock{OnHand: 5, Held: 2}
	for _, c := range []struct {
		name string
		err  func() error
		kind errs.Kind
	}{
		{"release more than held", func() error { _, err := s.Release(3); return err }, errs.Internal},
		{"sell more than held", func() error { _, err := s.Sell(3); return err }, errs.Internal},
		{"restock nothing", func() error { _, err := s.Restock(0); return err }, errs.Internal},
		{"restock too many", func() error { _, err := s.Restock(inventory.MaxOnHand); return err }, errs.Internal},
		{"adjust by nothing", func() error { _, err := s.Adjust(0); return err }, errs.Invalid},
		{"adjust by more than can be", func() error { _, err := s.Adjust(-1 << 63); return err }, errs.Invalid},
		{"take what is held", func() error { _, err := s.Adjust(-4); return err }, errs.FailedPrecondition},
		{"fill beyond the limit", func() error { _, err := s.Adjust(inventory.MaxOnHand); return err }, errs.FailedPrecondition},
	} {
		if err := c.err(); err == nil || errs.KindOf(err) != c.kind {
			t.Errorf("%s: got %v, want %s", c.name, err, c.kind)
		}
	}
	if _, ok := s.Hold(4); ok {
		t.Error("held more than there is")
	}
	if s, err := s.Adjust(-3); err != nil || s.Available() != 0 {
		t.Errorf("taking all that is not held: %+v, %v", s, err)
	}
}
