package inventory

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/errs"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// A Line is how many of one product an order wants.
type Line struct {
	ProductID string
	Quantity  int64
}

// Merge gives the lines of an order with one line per product, sorted by product.
// It fails with Invalid if there is nothing in them.
func Merge(lines []*orderv1.OrderLine) ([]Line, error) {
	out := make([]Line, 0, len(lines))
	for i, l := range lines {
		if l.GetProductId() == "" || l.GetQuantity() <= 0 {
			return nil, errs.E(errs.Invalid, "INVALID_LINE", "line %d names no product or no quantity", i)
		}
		out = append(out, Line{l.GetProductId(), int64(l.GetQuantity())})
	}
	if len(out) == 0 {
		return nil, errs.E(errs.Invalid, "NO_LINES", "the order has no lines")
	}
	slices.SortFunc(out, func(a, b Line) int { return strings.Compare(a.ProductID, b.ProductID) })
	merged := out[:1]
	for _, l := range out[1:] {
		if last := &merged[len(merged)-1]; last.ProductID == l.ProductID {
			last.Quantity += l.Quantity
		} else {
			merged = append(merged, l)
		}
	}
	return merged, nil
}

// A Hold is what is set aside, sold or given back for one order. Its id is the
// order's.
type Hold struct {
	State     State
	Lines     []Line    // one per product, sorted; never changed in place
	ExpiresAt time.Time // of HELD and what came of it
	UpdatedAt time.Time
}

// A Request asks something of a hold.
type Request struct {
	OrderID string
	Input   Input
	Lines   []Line        // of OrderPlaced: what Merge gave
	Now     time.Time     // the only clock
	TTL     time.Duration // of OrderPlaced: how long to hold
}

// A Shelf is the changed stock of one product.
type Shelf struct {
	ProductID string
	Stock     Stock
}

// A Decision is what comes of a request. Nothing has to be stored unless Changed.
type Decision struct {
	Hold      Hold
	Changed   bool
	Stock     []Shelf
	Movements []Movement
	Events    []proto.Message
}

// Decide applies a request to a hold; the zero Hold stands for none. Stock gives
// the stock of a product, false if there is no such product; only products of
// the request's or the hold's lines are asked for.
//
// What happens is said by Rules. An error of kind FailedPrecondition means that
// the request should never have been made; Internal, that the books are wrong.
func Decide(h Hold, r Request, stock func(productID string) (Stock, bool)) (Decision, error) {
	d := &decider{Request: r, stock: stock}
	d.Hold = h
	rule, ok := Rules(h.State, r.Input)
	if !ok {
		return Decision{}, errs.E(errs.Internal, "UNKNOWN_STATE", "no rule for %s of a hold that is %q", r.Input, h.State)
	}
	var err error
	switch rule.Do {
	case Ignore:
	case Alarm:
		err = errs.E(errs.FailedPrecondition, "IMPOSSIBLE", "%s of order %s, whose hold is %s: %s", r.Input, r.OrderID, h.State, rule.Why)
	case Reserve:
		d.reserve()
	case ReserveAndSell:
		err = d.reserveAndSell()
	case Wait:
		d.move(Waiting)
	case Sell:
		if r.Now.Before(h.ExpiresAt) {
			err = d.sell()
		} else {
			err = d.expire()
		}
	case Expire:
		if !r.Now.Before(h.ExpiresAt) {
			err = d.expire()
		}
	case Release:
		err = d.giveBack(Released, Stock.Release)
	case Restock:
		err = d.giveBack(RestockedHold, Stock.Restock)
	case Tombstone:
		d.move(Tombstoned)
		d.answer()
	case Answer:
		d.answer()
	default:
		err = errs.E(errs.Internal, "UNKNOWN_RULE", "rule %q is not known", rule.Do)
	}
	if err != nil {
		return Decision{}, err
	}
	return d.Decision, nil
}

// decider gathers a decision.
type decider struct {
	Request
	Decision
	stock func(string) (Stock, bool)
}

func (d *decider) move(to State) {
	d.Hold.State, d.Hold.UpdatedAt, d.Changed = to, d.Now, true
}

func (d *decider) put(productID string, s Stock) {
	s.UpdatedAt = d.Now
	d.Decision.Stock = append(d.Decision.Stock, Shelf{productID, s})
}

// reserve holds all lines or none.
func (d *decider) reserve() {
	if reason, shortages := d.take(); shortages != nil {
		d.move(Rejected)
		d.Events = append(d.Events, &inventoryv1.StockRejected{OrderId: d.OrderID, Reason: reason, Shortages: shortages})
		return
	}
	d.Hold.Lines, d.Hold.ExpiresAt = d.Request.Lines, d.Now.Add(d.TTL)
	d.move(Held)
	d.Events = append(d.Events, d.held())
}

// reserveAndSell serves an order whose payment overtook it. If it cannot be
// served the answer is StockExpired, which has the payment undone; StockRejected
// would leave the money where it is.
func (d *decider) reserveAndSell() error {
	d.Hold.ExpiresAt = d.Now.Add(d.TTL)
	if _, shortages := d.take(); shortages != nil {
		d.Hold.ExpiresAt = d.Now
		d.move(Expired)
		d.answer()
		return nil
	}
	d.Hold.Lines = d.Request.Lines
	d.Events = append(d.Events, d.held())
	taken := d.Decision.Stock
	d.Decision.Stock = nil
	before := d.stock
	d.stock = func(id string) (Stock, bool) {
		if i := slices.IndexFunc(taken, func(s Shelf) bool { return s.ProductID == id }); i >= 0 {
			return taken[i].Stock, true
		}
		return before(id)
	}
	return d.sell()
}

// take holds the request's lines, or says why not all can be held.
func (d *decider) take() (inventoryv1.StockRejection, []*inventoryv1.Shortage) {
	reason := inventoryv1.StockRejection_STOCK_REJECTION_SHORTAGE
	var shortages []*inventoryv1.Shortage
	taken := make([]Shelf, 0, len(d.Request.Lines))
	for _, l := range d.Request.Lines {
		s, exists := d.stock(l.ProductID)
		if !exists || s.Archived {
			reason = inventoryv1.StockRejection_STOCK_REJECTION_NOT_FOR_SALE
			shortages = append(shortages, &inventoryv1.Shortage{ProductId: l.ProductID, Requested: clamp(l.Quantity)})
			continue
		}
		after, ok := s.Hold(l.Quantity)
		if !ok {
			shortages = append(shortages, &inventoryv1.Shortage{ProductId: l.ProductID, Requested: clamp(l.Quantity), Available: s.Available()})
			continue
		}
		after.UpdatedAt = d.Now
		taken = append(taken, Shelf{l.ProductID, after})
	}
	if shortages == nil {
		d.Decision.Stock = taken
	}
	return reason, shortages
}

func (d *decider) sell() error {
	for _, l := range d.Hold.Lines {
		s, err := d.change(l, Stock.Sell)
		if err != nil {
			return err
		}
		d.put(l.ProductID, s)
		d.Movements = append(d.Movements, Movement{ProductID: l.ProductID, Delta: -l.Quantity, Kind: Sold, OrderID: d.OrderID})
	}
	d.move(Committed)
	d.answer()
	return nil
}

func (d *decider) expire() error { return d.giveBack(Expired, Stock.Release) }

func (d *decider) giveBack(to State, how func(Stock, int64) (Stock, error)) error {
	for _, l := range d.Hold.Lines {
		s, err := d.change(l, how)
		if err != nil {
			return err
		}
		d.put(l.ProductID, s)
		if to == RestockedHold {
			d.Movements = append(d.Movements, Movement{ProductID: l.ProductID, Delta: l.Quantity, Kind: Restocked, OrderID: d.OrderID})
		}
	}
	d.move(to)
	d.answer()
	return nil
}

func (d *decider) change(l Line, how func(Stock, int64) (Stock, error)) (Stock, error) {
	s, ok := d.stock(l.ProductID)
	if !ok {
		return s, errs.E(errs.Internal, "STOCK_INCONSISTENT", "order %s holds product %s, which has no stock", d.OrderID, l.ProductID)
	}
	s, err := how(s, l.Quantity)
	if err != nil {
		return s, fmt.Errorf("order %s, product %s: %w", d.OrderID, l.ProductID, err)
	}
	return s, nil
}

func (d *decider) held() proto.Message {
	return &inventoryv1.StockHeld{OrderId: d.OrderID, ExpiresAt: timestamppb.New(d.Hold.ExpiresAt)}
}

// answer says how the hold stands, which is the same for the first request and
// for its repetitions.
func (d *decider) answer() {
	var e proto.Message
	switch d.Hold.State {
	case Committed:
		e = &inventoryv1.StockCommitted{OrderId: d.OrderID}
	case Released:
		e = &inventoryv1.StockReleased{OrderId: d.OrderID}
	case RestockedHold:
		e = &inventoryv1.StockReleased{OrderId: d.OrderID, Restocked: true}
	case Expired:
		if d.Input != PaymentReversed {
			e = &inventoryv1.StockExpired{OrderId: d.OrderID, ExpiredAt: timestamppb.New(d.Hold.ExpiresAt)}
			break
		}
		fallthrough
	default:
		e = &inventoryv1.StockReleased{OrderId: d.OrderID, Noop: true}
	}
	d.Events = append(d.Events, e)
}

func clamp(n int64) int32 { return int32(min(n, 1<<31-1)) }
