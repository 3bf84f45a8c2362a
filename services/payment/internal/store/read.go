package store

import (
	"context"
	"errors"
	"strings"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/sqldb"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
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

// payments is the list of payments as callers see it.
var payments = listing.New(listing.Spec[Versioned]{
	Name: "payments",
	Fields: map[string]listing.Field[Versioned]{
		"order_id":    {Column: "id", Type: listing.String},
		"user_id":     {Column: "user_id", Type: listing.String, Everything: true},
		"status":      {Column: "status", Type: listing.Enum, Values: listing.EnumValues(paymentv1.PaymentStatus(0).Descriptor())},
		"create_time": {Column: "created_at", Type: listing.Time, Sort: func(v Versioned) any { return v.Created }},
	},
	Order: "create_time desc",
	Key:   "id",
	KeyOf: func(v Versioned) string { return v.OrderID },
	Owner: "user_id",
})

// List gives a page of payments and the token of the next. Payments whose order
// is not known yet are left out. Errors of the query are errs.Invalid.
func (s *Store) List(ctx context.Context, q listing.Query) ([]Versioned, string, error) {
	page, err := payments.Parse(q)
	if err != nil {
		return nil, "", err
	}
	all, err := sqldb.All(ctx, s.db, `SELECT `+columns+` FROM payments WHERE payment_id <> '' AND `+page.SQL, page.Args, scanVersioned)
	if err != nil {
		return nil, "", err
	}
	all, next := payments.Cut(page, all)
	return all, next, nil
}
