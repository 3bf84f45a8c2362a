// Package inventory decides what may happen to products and their stock: who may
// hold how many, when a hold becomes a sale, and what an undone order gives back.
// It imports no database and no transport; the rooms under internal/ bring those.
package inventory

import (
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
)

// MaxOnHand bounds how many of one product there can be, so that no sum of a
// shop's stock can overflow.
const MaxOnHand = 1_000_000_000_000

// Stock is how many there are of one product. Always 0 <= Held <= OnHand: each
// method keeps it so or fails.
type Stock struct {
	OnHand    int64 // in the house
	Held      int64 // of those, set aside for orders that are not paid yet
	Archived  bool  // the product is no longer for sale
	UpdatedAt time.Time
}

// Available gives how many could be ordered now.
func (s Stock) Available() int64 { return s.OnHand - s.Held }

// Hold sets n aside; false if there are not so many.
func (s Stock) Hold(n int64) (Stock, bool) {
	if n <= 0 || n > s.Available() {
		return s, false
	}
	s.Held += n
	return s, true
}

// Release gives n back that were set aside.
func (s Stock) Release(n int64) (Stock, error) {
	if n <= 0 || n > s.Held {
		return s, broken("release", n, s)
	}
	s.Held -= n
	return s, nil
}

// Sell takes n that were set aside out of the house.
func (s Stock) Sell(n int64) (Stock, error) {
	if n <= 0 || n > s.Held {
		return s, broken("sell", n, s)
	}
	s.Held -= n
	s.OnHand -= n
	return s, nil
}

// Restock puts n back that had been sold.
func (s Stock) Restock(n int64) (Stock, error) {
	if n <= 0 || n > MaxOnHand-s.OnHand {
		return s, broken("restock", n, s)
	}
	s.OnHand += n
	return s, nil
}

// Adjust counts delta more, or fewer if it is negative. It fails with
// FailedPrecondition if less would be left than orders hold, or more than
// MaxOnHand.
func (s Stock) Adjust(delta int64) (Stock, error) {
	switch {
	case delta == 0 || delta > MaxOnHand || delta < -MaxOnHand:
		return s, errs.E(errs.Invalid, "INVALID_DELTA", "the delta must be between -%d and %d and not 0", int64(MaxOnHand), int64(MaxOnHand)).
			WithFields(errs.Field{Path: "delta", Problem: "out of range"})
	case s.OnHand+delta < s.Held:
		return s, errs.E(errs.FailedPrecondition, "STOCK_TOO_LOW",
			"there are %d, of which %d are held for orders, so at most %d can be taken away", s.OnHand, s.Held, s.Available())
	case s.OnHand+delta > MaxOnHand:
		return s, errs.E(errs.FailedPrecondition, "STOCK_TOO_HIGH", "there can be at most %d of a product", int64(MaxOnHand))
	}
	s.OnHand += delta
	return s, nil
}

// broken reports a step that the stock cannot bear although the holds say it
// must: the books are wrong, and nobody but us can mend them.
func broken(what string, n int64, s Stock) error {
	return errs.E(errs.Internal, "STOCK_INCONSISTENT", "cannot %s %d with %d on hand and %d held", what, n, s.OnHand, s.Held)
}

// A MovementKind says why the number in the house changed.
type MovementKind string

// The kinds of movements. Holding and releasing move nothing.
const (
	Received  MovementKind = "RECEIVED"  // the first stock of a product
	Adjusted  MovementKind = "ADJUSTED"  // somebody counted
	Sold      MovementKind = "SOLD"      // left for an order
	Restocked MovementKind = "RESTOCKED" // came back from an order
)

// A Movement is one line of the movement log. Per product, all deltas add up to
// what is on hand.
type Movement struct {
	ProductID string
	Delta     int64
	Kind      MovementKind
	OrderID   string // of SOLD and RESTOCKED
	Reason    string // of ADJUSTED
	Actor     string // the user behind it; "" for the saga
}
