package store

import (
	"context"
	"errors"
	"strings"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/payment"
)

// Store reads what the machine has written.
type Store struct{ db *sqldb.DB }

// New gives a Store on db.
func New(db *sqldb.DB) *Store { return &Store{db} }

// Versioned is a payment and how often it was changed.
type Versioned struct {
	payment.Payment
	Version int64
}

var columns = strings.Join(Payments.Columns(), ", ")

func scanVersioned(s sqldb.Scanner) (Versioned, error) {
	var v Versioned
	var id string
	var eventSeq int64
	p, err := scanPayment(s, &id, &v.Version, &eventSeq)
	v.Payment = p
	return v, err
}

// Get gives a payment that belongs to owner; the owner "" sees all. It fails
// with errs.NotFound, also for other people's payments.
func (s *Store) Get(ctx context.Context, paymentID, owner string) (Versioned, error) {
	query, args := `SELECT `+columns+` FROM payments WHERE payment_id = ? AND payment_id <> ''`, []any{paymentID}
	if owner != "" {
		query, args = query+` AND user_id = ?`, append(args, owner)
	}
	v, err := scanVersioned(s.db.QueryRow(ctx, query, args...))
	if errors.Is(err, sqldb.ErrNoRows) {
		return v, NotFound(paymentID)
	}
	return v, err
}

// NotFound is the error for a payment that does not exist or is not the caller's.
func NotFound(paymentID string) error {
	return errs.E(errs.NotFound, "PAYMENT_NOT_FOUND", "there is no payment %s", paymentID)
}

// OfOrder gives the payment of an order, or errs.NotFound.
func (s *Store) OfOrder(ctx context.Context, orderID string) (Versioned, error) {
	v, err := scanVersioned(s.db.QueryRow(ctx, `SELECT `+columns+` FROM payments WHERE id = ?`, orderID))
	if errors.Is(err, sqldb.ErrNoRows) {
		return v, errs.E(errs.NotFound, "PAYMENT_NOT_FOUND", "there is no payment for order %s", orderID)
	}
	return v, err
}

// Select gives the payments that a condition picks. The condition begins after
// WHERE and may hold ORDER BY and LIMIT; what has no order yet is left out.
func (s *Store) Select(ctx context.Context, condition string, args ...any) ([]Versioned, error) {
	rows, err := s.db.Query(ctx, `SELECT `+columns+` FROM payments WHERE user_id <> '' AND `+condition, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []Versioned
	for rows.Next() {
		v, err := scanVersioned(rows)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, rows.Err()
}
