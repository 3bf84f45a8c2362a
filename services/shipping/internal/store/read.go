package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/sqldb"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
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
	r := s.db.QueryRow(ctx, `SELECT `+ofShipments+` FROM shipment_ids n JOIN shipments s ON s.id = n.order_id WHERE n.shipment_id = ? AND (? = '' OR s.user_id = ?)`, shipmentID, owner, owner)
	got, err := read(r)
	if errors.Is(err, sqldb.ErrNoRows) {
		return got, errs.E(errs.NotFound, "SHIPMENT_NOT_FOUND", "there is no shipment %s", shipmentID)
	}
	return got, err
}

// OfOrder gives the shipment of an order, whosever it is; sqldb.ErrNoRows if the
// order was never heard of.
func (s *Store) OfOrder(ctx context.Context, orderID string) (Stored, error) {
	return read(s.db.QueryRow(ctx, `SELECT `+columns+` FROM shipments WHERE id = ?`, orderID))
}

func read(r sqldb.Scanner) (Stored, error) {
	var id string
	var seq int64
	var s Stored
	var err error
	s.Shipment, err = scan(r, &id, &s.Version, &seq)
	return s, err
}

// Address reads where the parcel of an order goes; nil if it was erased.
func (s *Store) Address(ctx context.Context, orderID string) (*typev1.Address, error) {
	var data []byte
	err := s.db.QueryRow(ctx, `SELECT ship_to FROM shipments WHERE id = ?`, orderID).Scan(&data)
	if err != nil || data == nil {
		return nil, err
	}
	a := &typev1.Address{}
	return a, proto.Unmarshal(data, a)
}

// Orders gives the order of each tracking number that is known. There must be a
// few hundred numbers at most.
func (s *Store) Orders(ctx context.Context, tracking []string) (map[string]string, error) {
	orders := make(map[string]string, len(tracking))
	if len(tracking) == 0 {
		return orders, nil
	}
	marks, args := sqldb.In(tracking)
	err := sqldb.Each(ctx, s.db, `SELECT tracking_number, order_id FROM tracking_numbers WHERE tracking_number IN (`+marks+`)`, args, func(row sqldb.Scanner) error {
		var number, id string
		err := row.Scan(&number, &id)
		orders[number] = id
		return err
	})
	return orders, err
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
	all, err := sqldb.All(ctx, s.db, `SELECT `+columns+` FROM shipments WHERE shipment_id IS NOT NULL AND `+page.SQL, page.Args, read)
	if err != nil {
		return nil, "", err
	}
	found, next := listed.Cut(page, all)
	return found, next, nil
}

// finalStates lists the numbers of the states in which nothing more is sent.
func finalStates() string {
	var list []string
	for _, s := range shipping.States() {
		if s.Final() {
			list = append(list, fmt.Sprintf("%d", s))
		}
	}
	return strings.Join(list, ", ")
}

// ToErase gives orders whose parcel has ended and that still hold an address of a
// user who was erased.
func (s *Store) ToErase(ctx context.Context, limit int) ([]string, error) {
	return sqldb.All(ctx, s.db, `
		SELECT s.id FROM erasures e JOIN shipments s ON s.user_id = e.id
		 WHERE e.open AND s.ship_to IS NOT NULL AND s.state IN (`+finalStates()+`) LIMIT ?`, []any{limit}, sqldb.Only[string])
}

// Erased gives users erased before some moment none of whose shipments holds an
// address any more, so that nothing is left to do.
func (s *Store) Erased(ctx context.Context, before time.Time, limit int) ([]string, error) {
	return sqldb.All(ctx, s.db, `
		SELECT e.id FROM erasures e
		 WHERE e.open AND e.erased_at < ? AND NOT EXISTS (SELECT 1 FROM shipments s WHERE s.user_id = e.id AND s.ship_to IS NOT NULL) LIMIT ?`, []any{before, limit}, sqldb.Only[string])
}
