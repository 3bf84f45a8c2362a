package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/sqldb"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping"
)

// A Store answers questions about shipments.
type Store struct{ db *sqldb.DB }

// New gives a Store on a migrated database.
func New(db *sqldb.DB) *Store { return &Store{db} }

// A Stored shipment is one as it was read, with its version.
type Stored struct {
	shipping.Shipment

	Version int64
}

// Get gives a shipment by its id. With an owner, those of others do not exist.
// The error is NotFound if there is none.
func (s *Store) Get(ctx context.Context, shipmentID, owner string) (Stored, error) {
	r := s.db.QueryRow(ctx, `SELECT `+columns+` FROM shipments WHERE shipment_id = ? AND (? = '' OR user_id = ?)`, shipmentID, owner, owner)
	got, err := read(r)
	if errors.Is(err, sqldb.ErrNoRows) {
		return got, errs.E(errs.NotFound, "SHIPMENT_NOT_FOUND", "there is no shipment %s", shipmentID)
	}
	return got, err
}

func read(r sqldb.Scanner) (Stored, error) {
	var id string
	var seq int64
	var s Stored
	var err error
	s.Shipment, err = scan(r, &id, &s.Version, &seq)
	return s, err
}

// Orders gives the order of each tracking number that is known.
func (s *Store) Orders(ctx context.Context, tracking []string) (map[string]string, error) {
	orders := make(map[string]string, len(tracking))
	for _, t := range tracking {
		if _, ok := orders[t]; ok {
			continue
		}
		var id string
		err := s.db.QueryRow(ctx, `SELECT id FROM shipments WHERE tracking_number = ?`, t).Scan(&id)
		if errors.Is(err, sqldb.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, err
		}
		orders[t] = id
	}
	return orders, nil
}

var listed = listing.New(listing.Spec[Stored]{
	Name: "shipments",
	Fields: map[string]listing.Field[Stored]{
		"order_id": {Column: "id", Type: listing.String},
		"status": {
			Column: "CASE state " + statusCases() + " END", Type: listing.Enum,
			Values: listing.EnumValues(shippingv1.ShipmentStatus(0).Descriptor()),
		},
		"carrier":         {Column: "carrier", Type: listing.String},
		"tracking_number": {Column: "COALESCE(tracking_number, '')", Type: listing.String},
		"user_id":         {Column: "user_id", Type: listing.String, Everything: true},
		"create_time":     {Column: "created_at", Type: listing.Time, Sort: func(s Stored) any { return s.Created }},
	},
	Order: "create_time desc",
	Key:   "id",
	KeyOf: func(s Stored) string { return s.OrderID },
	Owner: "user_id",
})

// statusCases maps the stored states to the contract's statuses.
func statusCases() string {
	var b strings.Builder
	for _, s := range shipping.States() {
		fmt.Fprintf(&b, "WHEN %d THEN %d ", s, s.Status())
	}
	return b.String()
}

// List gives one page of shipments and the token of the next. Errors are Invalid
// for queries that cannot be meant.
func (s *Store) List(ctx context.Context, q listing.Query) ([]Stored, string, error) {
	page, err := listed.Parse(q)
	if err != nil {
		return nil, "", err
	}
	rows, err := s.db.Query(ctx, `SELECT `+columns+` FROM shipments WHERE shipment_id IS NOT NULL AND `+page.SQL, page.Args...)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	var all []Stored
	for rows.Next() {
		one, err := read(rows)
		if err != nil {
			return nil, "", err
		}
		all = append(all, one)
	}
	if err := rows.Err(); err != nil {
		return nil, "", err
	}
	found, next := listed.Cut(page, all)
	return found, next, nil
}

const dueErasures = `
	SELECT s.id FROM shipments s JOIN erasures e ON e.user_id = s.user_id
	 WHERE s.ship_to IS NOT NULL AND s.state IN (5, 7, 8, 9, 10)
	 ORDER BY s.id LIMIT ?`

// DueErasures gives orders whose address is to go: their user was erased and
// their parcel has ended.
func (s *Store) DueErasures(ctx context.Context, _ time.Time, limit int) ([]string, error) {
	rows, err := s.db.Query(ctx, dueErasures, limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}
