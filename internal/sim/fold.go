package sim

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/orderd"
)

// refold holds every order against what its events make of it.
func (w *world) refold() error {
	of := w.service("order")
	all, err := orderd.Audit(context.Background(), of.mem.Open())
	if err != nil {
		return err
	}
	taken := map[string]time.Time{}
	if err := sqldb.Each(context.Background(), of.mem.Open(), `SELECT event_id, processed_at FROM inbox`, nil, func(s sqldb.Scanner) error {
		var id string
		var at time.Time
		err := s.Scan(&id, &at)
		taken[id] = at
		return err
	}); err != nil {
		return err
	}
	heard, said := map[string]order.Event{}, map[string]map[int64]order.Event{}
	for _, s := range w.services {
		for _, r := range s.rows {
			t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(r.Type))
			if err != nil {
				return err
			}
			e := order.Event{ID: r.ID, Version: r.Version, Cause: r.Cause, Time: r.Time, Message: t.New().Interface()}
			if err := proto.Unmarshal(r.Payload, e.Message); err != nil {
				return err
			}
			if s != of {
				heard[r.ID] = e
				continue
			}
			if said[r.AggregateID] == nil {
				said[r.AggregateID] = map[int64]order.Event{}
			}
			said[r.AggregateID][r.Version] = e
		}
	}
	d := order.Deadlines(w.deadlines())
	for _, o := range all {
		f := d.Fold(order.Recorded{
			ID: o.ID, Waybill: o.Waybill, Taken: taken, Heard: heard, Said: said[o.ID],
			Rows: order.Rows{Order: o.Order, Version: o.Version, Said: int64(len(said[o.ID])), Details: o.Details, DetailsVersion: 1},
		}, time.Time{})
		w.counts["folded"]++
		w.counts["folded from"] += int64(f.Events)
		for _, text := range append(f.Wrong, f.Differs...) {
			w.violated("projection", o.ID, "%s", text)
		}
		if f.TooOld {
			w.violated("projection", o.ID, "too old")
		}
	}
	return nil
}
