package sim

import (
	"encoding/json"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/shipping"
)

// mutate switches off what a mutant lacks, as far as it lies in the database: what
// steps read there is not what is written.
func (w *world) mutate(s *service) {
	switch w.opt.Mutant {
	case InboxOff:
		s.mem.Forgetful = "inbox"
	case LocksOff:
		s.mem.NoLocks, s.mem.NoVersions = true, true
	case VersionsOff:
		s.mem.NoVersions = true
	case ExpiryOff:
		s.mem.Reading = func(t *sqldb.Table, row []any) []any {
			return changed(t, row, "holds", "expires_at", func(any) any { return epoch.AddDate(1, 0, 0) })
		}
	case RefundCapOff:
		s.mem.Reading = func(t *sqldb.Table, row []any) []any { return changed(t, row, "payments", "rare", forgetRefunds) }
	case NoTombstones:
		s.mem.Reading = func(t *sqldb.Table, row []any) []any {
			row = changed(t, row, "holds", "state", func(v any) any {
				if v == string(inventory.Tombstoned) {
					return string(inventory.None)
				}
				return v
			})
			row = changed(t, row, "payments", "state", func(v any) any {
				if v == int64(payment.Tombstoned) {
					return int64(payment.New)
				}
				return v
			})
			if t.Name == "shipments" && row[column(t, "shipment_id")] == nil {
				return changed(t, row, "shipments", "state", func(v any) any {
					if v == int64(shipping.Cancelled) {
						return int64(shipping.New)
					}
					return v
				})
			}
			return row
		}
	default: // it lies elsewhere
	}
}

func column(t *sqldb.Table, name string) int {
	return slices.IndexFunc(t.Columns, func(c sqldb.Column) bool { return c.Name == name })
}

// changed gives a row of one table with one column changed.
func changed(t *sqldb.Table, row []any, table, col string, to func(any) any) []any {
	if t.Name != table {
		return row
	}
	row = slices.Clone(row)
	i := column(t, col)
	row[i] = to(row[i])
	return row
}

// forgetRefunds takes the refunds out of what is stored of a payment.
func forgetRefunds(v any) any {
	text, ok := v.(string)
	if !ok {
		return v
	}
	var rare payment.Rare
	if json.Unmarshal([]byte(text), &rare) != nil {
		return v
	}
	rare.Refunds = slices.DeleteFunc(rare.Refunds, func(r payment.Refund) bool { return r.State == payment.RefundDone })
	data, err := json.Marshal(rare)
	if err != nil {
		return v
	}
	return string(data)
}

// early makes, of the events that stock is held, those that it is sold.
func early(m *message) []outbox.Message {
	if m.typ() != "waybill.inventory.v1.StockHeld" {
		return nil
	}
	var events []*outbox.Event
	for _, held := range m.Events {
		payload, err := proto.Marshal(&inventoryv1.StockCommitted{OrderId: held.AggregateID})
		if err != nil {
			panic(err) // of two strings
		}
		events = append(events, &outbox.Event{
			ID: held.ID + "-early", Type: "waybill.inventory.v1.StockCommitted", AggregateID: held.AggregateID, Version: 99, Time: m.at, Payload: payload,
		})
	}
	return outbox.Messages(events)
}
