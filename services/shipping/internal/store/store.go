// Package store keeps shipments in SQL. One text serves both databases; sqldb
// translates what differs.
package store

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/shipping"
)

//go:embed migrations
var migrations embed.FS

// Migrations holds the tables of the shipping service.
func Migrations() fs.FS { return sqldb.Embedded(migrations) }

// Shipments are the parcels, by order id. Put keeps them.
var Shipments = react.NewKind("shipments", []sqldb.Column{
	{Name: "shipment_id", Type: sqldb.Text, Nullable: true},
	{Name: "user_id", Type: sqldb.Text},
	{Name: "state", Type: sqldb.Int},
	{Name: "flags", Type: sqldb.Int},
	{Name: "ship_to", Type: sqldb.Bytes, Nullable: true},
	{Name: "carrier", Type: sqldb.Text},
	{Name: "tracking_number", Type: sqldb.Text, Nullable: true},
	{Name: "reason", Type: sqldb.Text},
	{Name: "scans", Type: sqldb.Bytes, Nullable: true},
	{Name: "scanned", Type: sqldb.Int},
	{Name: "booked_at", Type: sqldb.Time, Nullable: true},
	{Name: "return_at", Type: sqldb.Time, Nullable: true},
	{Name: "created_at", Type: sqldb.Time},
	{Name: "updated_at", Type: sqldb.Time},
}, row, scan).Remembered()

// Erasure is the wish that nothing personal of a user remains. It is open while
// there may be shipments that still hold an address.
type Erasure struct {
	ErasedAt time.Time
	Open     bool
}

// Erasures keeps the erased users, by user id.
var Erasures = react.NewKind("erasures", []sqldb.Column{
	{Name: "erased_at", Type: sqldb.Time},
	{Name: "open", Type: sqldb.Bool},
}, func(e Erasure) []any { return []any{e.ErasedAt, e.Open} },
	func(s sqldb.Scanner, meta ...any) (e Erasure, err error) {
		err = s.Scan(append(meta, &e.ErasedAt, &e.Open)...)
		return e, err
	})

// By these tables a shipment is found by what it is called. Its own row is rewritten
// by every step, and all its indexes with it if one of them held a name.
var (
	shipmentIDs     = names("shipment_ids", "shipment_id")
	trackingNumbers = names("tracking_numbers", "tracking_number")
)

func names(table, column string) *sqldb.Table {
	return &sqldb.Table{Name: table, Key: []string{column}, Columns: []sqldb.Column{{Name: column, Type: sqldb.Text}, {Name: "order_id", Type: sqldb.Text}}}
}

// Put keeps a shipment that the step named in its needs, and what it is called. An
// id or tracking number that another shipment has fails the batch.
func Put(v *react.View, s shipping.Shipment) {
	was, _ := Shipments.Get(v, s.OrderID)
	Shipments.Put(v, s.OrderID, s)
	if s.ID != was.ID {
		v.Append(shipmentIDs, s.ID, s.OrderID)
	}
	if s.Tracking != was.Tracking {
		v.Append(trackingNumbers, s.Tracking, s.OrderID)
	}
}

// The bits of the column flags.
const (
	flagPlaced = 1 << iota
	flagPaid
	flagUndo
	flagBooked
	flagLostLate
)

func row(s shipping.Shipment) []any {
	flags := flag(s.Placed, flagPlaced) | flag(s.Paid, flagPaid) | flag(s.Undo, flagUndo) | flag(s.Booked, flagBooked) | flag(s.LostLate, flagLostLate)
	var address, scans any
	if s.ShipTo != nil {
		address = mustMarshal(s.ShipTo)
	}
	if len(s.Scans) > 0 {
		scans = mustMarshal(&shippingv1.Shipment{Scans: s.Scans})
	}
	return []any{
		sqldb.OrNull(s.ID), s.UserID, int64(s.State), flags, address, s.Carrier, sqldb.OrNull(s.Tracking), s.Reason, scans, s.Scanned,
		sqldb.OrNull(s.BookedAt), sqldb.OrNull(s.ReturnAt), s.Created, s.Updated,
	}
}

func flag(on bool, bit int64) int64 {
	if on {
		return bit
	}
	return 0
}

func mustMarshal(m proto.Message) []byte {
	data, err := proto.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("shipping: %T cannot be stored: %v", m, err)) // valid text always can
	}
	return data
}

func scan(r sqldb.Scanner, meta ...any) (shipping.Shipment, error) {
	var (
		s                shipping.Shipment
		id, tracking     *string
		state, flags     int64
		address, scans   []byte
		booked, returned *time.Time
	)
	own := []any{&id, &s.UserID, &state, &flags, &address, &s.Carrier, &tracking, &s.Reason, &scans, &s.Scanned, &booked, &returned, &s.Created, &s.Updated}
	if err := r.Scan(append(meta, own...)...); err != nil {
		return s, err
	}
	s.OrderID = *meta[0].(*string)
	s.State = shipping.State(state)
	s.Placed, s.Paid, s.Undo, s.Booked, s.LostLate = flags&flagPlaced != 0, flags&flagPaid != 0, flags&flagUndo != 0, flags&flagBooked != 0, flags&flagLostLate != 0
	s.ID, s.Tracking, s.BookedAt, s.ReturnAt = sqldb.OrZero(id), sqldb.OrZero(tracking), sqldb.OrZero(booked), sqldb.OrZero(returned)
	if address != nil {
		s.ShipTo = &typev1.Address{}
		if err := proto.Unmarshal(address, s.ShipTo); err != nil {
			return s, fmt.Errorf("address of shipment %s: %w", s.ID, err)
		}
	}
	if scans != nil {
		var holder shippingv1.Shipment
		if err := proto.Unmarshal(scans, &holder); err != nil {
			return s, fmt.Errorf("scans of shipment %s: %w", s.ID, err)
		}
		s.Scans = holder.GetScans()
	}
	return s, nil
}

var (
	columns     = strings.Join(Shipments.Columns(), ", ")
	ofShipments = "s." + strings.Join(Shipments.Columns(), ", s.") // when others are joined to s
)
