// Package store keeps orders in SQL. What steps write is described to the reactor
// by kinds and tables (store.go); what queries read is plain SQL for both
// databases (read.go, list.go).
package store

import (
	"embed"
	"io/fs"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/order"
)

//go:embed migrations
var migrations embed.FS

// Migrations holds the service's own tables, for sqldb.DB.Migrate.
func Migrations() fs.FS { return sqldb.Embedded(migrations) }

// Orders keeps the part of orders that changes.
var Orders = react.NewKind("orders", []sqldb.Column{
	{Name: "status", Type: sqldb.Int},
	{Name: "reason", Type: sqldb.Int},
	{Name: "words", Type: sqldb.Text},
	{Name: "shipment", Type: sqldb.Int},
	{Name: "payment_id", Type: sqldb.Text},
	{Name: "shipment_id", Type: sqldb.Text},
	{Name: "tracking_number", Type: sqldb.Text},
	{Name: "timed", Type: sqldb.Bool},
	{Name: "deadline_at", Type: sqldb.Time, Nullable: true},
	{Name: "reminders", Type: sqldb.Int},
	{Name: "saga_over_at", Type: sqldb.Time, Nullable: true},
	{Name: "updated_at", Type: sqldb.Time},
}, orderRow, scanOrder).Remembered()

func orderRow(o order.Order) []any {
	return []any{
		int64(o.Status), int64(o.Reason), o.Words, int64(o.Shipment), o.PaymentID, o.ShipmentID, o.TrackingNumber,
		!o.Deadline.IsZero(), sqldb.OrNull(o.Deadline), o.Reminders, sqldb.OrNull(o.SagaOverAt), o.UpdatedAt,
	}
}

func scanOrder(s sqldb.Scanner, meta ...any) (order.Order, error) {
	var r orderColumns
	err := s.Scan(append(meta, r.dest()...)...)
	return r.order(), err
}

// orderColumns takes the columns of orders after the managed three.
type orderColumns struct {
	o                        order.Order
	status, reason, shipment int64
	timed                    bool
	deadline, over           *time.Time
}

func (r *orderColumns) dest() []any {
	return []any{
		&r.status, &r.reason, &r.o.Words, &r.shipment, &r.o.PaymentID, &r.o.ShipmentID, &r.o.TrackingNumber,
		&r.timed, &r.deadline, &r.o.Reminders, &r.over, &r.o.UpdatedAt,
	}
}

func (r *orderColumns) order() order.Order {
	o := r.o
	o.Status, o.Reason, o.Shipment = order.Status(r.status), orderv1.OrderReason(r.reason), order.Status(r.shipment)
	o.Deadline, o.SagaOverAt = sqldb.OrZero(r.deadline), sqldb.OrZero(r.over)
	return o
}

// Details keeps the part of orders that stays. Steps of the saga do not load it.
var Details = react.NewKind("order_details", []sqldb.Column{
	{Name: "user_id", Type: sqldb.Text},
	{Name: "created_at", Type: sqldb.Time},
	{Name: "total_minor", Type: sqldb.Int},
	{Name: "total_currency", Type: sqldb.Text},
	{Name: "lines", Type: sqldb.Bytes},
	{Name: "ship_to", Type: sqldb.Bytes, Nullable: true},
}, detailsRow, scanDetails)

func detailsRow(d order.Details) []any {
	// Neither can fail: the messages came through validation, which refuses
	// text that is no UTF-8, the one thing that proto cannot encode.
	lines, _ := proto.Marshal(&orderv1.Order{Lines: d.Lines})
	var shipTo any
	if d.ShipTo != nil {
		shipTo, _ = proto.Marshal(d.ShipTo)
	}
	return []any{d.UserID, d.CreatedAt, d.Total.GetMinorUnits(), d.Total.GetCurrencyCode(), lines, shipTo}
}

func scanDetails(s sqldb.Scanner, meta ...any) (order.Details, error) {
	var r detailsColumns
	if err := s.Scan(append(meta, r.dest()...)...); err != nil {
		return order.Details{}, err
	}
	return r.details()
}

// detailsColumns takes the columns of order_details after the managed three.
type detailsColumns struct {
	userID   string
	created  time.Time
	minor    int64
	currency string
	lines    []byte
	shipTo   []byte
}

func (r *detailsColumns) dest() []any {
	return []any{&r.userID, &r.created, &r.minor, &r.currency, &r.lines, &r.shipTo}
}

func (r *detailsColumns) details() (order.Details, error) {
	var lines orderv1.Order
	if err := proto.Unmarshal(r.lines, &lines); err != nil {
		return order.Details{}, errs.Wrap(err, errs.Internal, "", "the lines of an order cannot be read")
	}
	d := order.Details{
		UserID:    r.userID,
		Lines:     lines.GetLines(),
		Total:     &typev1.Money{MinorUnits: r.minor, CurrencyCode: r.currency},
		CreatedAt: r.created,
	}
	if r.shipTo != nil {
		d.ShipTo = &typev1.Address{}
		if err := proto.Unmarshal(r.shipTo, d.ShipTo); err != nil {
			return order.Details{}, errs.Wrap(err, errs.Internal, "", "the address of an order cannot be read")
		}
	}
	return d, nil
}

// Erasure is the wish that nothing personal of a user remains. It is open while
// there may be orders that still hold an address.
type Erasure struct {
	ErasedAt time.Time
	Open     bool
}

// Erasures keeps the erased users.
var Erasures = react.NewKind("erasures", []sqldb.Column{
	{Name: "erased_at", Type: sqldb.Time},
	{Name: "open", Type: sqldb.Bool},
}, func(e Erasure) []any { return []any{e.ErasedAt, e.Open} },
	func(s sqldb.Scanner, meta ...any) (e Erasure, err error) {
		err = s.Scan(append(meta, &e.ErasedAt, &e.Open)...)
		return e, err
	})

// Entries is the waybills' table, which only grows. Its rows are an order's id,
// the sequence (the order's version, so it has no gaps) and the encoded
// orderv1.WaybillEntry.
var Entries = &sqldb.Table{
	Name: "waybill_entries",
	Key:  []string{"order_id", "sequence"},
	Columns: []sqldb.Column{
		{Name: "order_id", Type: sqldb.Text},
		{Name: "sequence", Type: sqldb.Int},
		{Name: "entry", Type: sqldb.Bytes},
	},
}
