package saga

import (
	"context"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/watch"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/store"
)

// apply does what the table says and records it. It gives the order afterwards.
func (s *Saga) apply(v *react.View, id string, o order.Order, in order.Input) (order.Order, error) {
	next, out, err := s.cfg.Deadlines.Apply(id, o, in, v.Now())
	if err != nil || !out.Changed() {
		return next, err
	}
	if err := s.record(v, id, next, out.Events, order.Entry(in, out)); err != nil {
		return next, err
	}
	s.report(v, id, in.Message, out, next)
	return next, nil
}

// record puts an order with one more entry on its waybill, emits events, and tells
// those who watch. The entry's sequence is the order's version: every change of an
// order comes with an entry, so there are no gaps.
func (s *Saga) record(v *react.View, id string, o order.Order, events []proto.Message, entry *orderv1.WaybillEntry) error {
	ref := store.Orders.Ref(id)
	store.Orders.Put(v, id, o)
	for _, e := range events {
		v.Emit(ref, e)
	}
	version := store.Orders.Version(v, id)
	entry.Sequence = version
	entry.TraceId = v.TraceID()
	entry.Time = timestamppb.New(v.Now())
	if m := v.Cause(); m != nil {
		entry.EventId, entry.CauseId = m.ID, m.Cause
		if !m.Time.IsZero() {
			entry.Time = timestamppb.New(m.Time)
		}
	}
	data, err := proto.Marshal(entry)
	if err != nil {
		return errs.Wrap(err, errs.Internal, "", "a waybill entry cannot be encoded")
	}
	v.Append(store.Entries, id, version, data)
	if s.cfg.Hub != nil {
		v.Committed(func() { s.publish(id, version, o, entry) })
	}
	return nil
}

// publish tells watchers of a change. What they get is all of the order that can
// have changed, so that they need not read it.
func (s *Saga) publish(id string, version int64, o order.Order, entry *orderv1.WaybillEntry) {
	data, err := proto.Marshal(&orderv1.WatchOrdersResponse{OrderId: id, Order: o.Proto(id, version), Entry: entry})
	s.cfg.Hub.Publish([]watch.Change{{Key: id, Version: version, Data: data, Lagged: err != nil}})
}

// metrics counts what becomes of orders.
type metrics struct {
	placed   metric.Int64Counter
	over     metric.Int64Counter
	duration metric.Float64Histogram
	alarms   metric.Int64Counter
	timeouts metric.Int64Counter
}

func newMetrics(m metric.Meter) (*metrics, error) {
	if m == nil {
		m = noop.NewMeterProvider().Meter("")
	}
	x := &metrics{}
	var err error
	if x.placed, err = m.Int64Counter("waybill.orders.placed", metric.WithDescription("orders taken on"), metric.WithUnit("{order}")); err != nil {
		return nil, err
	}
	if x.over, err = m.Int64Counter("waybill.orders.sagas_over", metric.WithDescription("orders whose saga is over, by status and reason"), metric.WithUnit("{order}")); err != nil {
		return nil, err
	}
	if x.duration, err = m.Float64Histogram("waybill.orders.saga.duration", metric.WithDescription("time from placing an order to the end of its saga, by status"), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600)); err != nil {
		return nil, err
	}
	if x.alarms, err = m.Int64Counter("waybill.orders.alarms", metric.WithDescription("messages that must not come in the status the order was in")); err != nil {
		return nil, err
	}
	if x.timeouts, err = m.Int64Counter("waybill.orders.timeouts", metric.WithDescription("deadlines that passed, by status")); err != nil {
		return nil, err
	}
	return x, nil
}

// report logs and counts, after the commit, what is worth it.
func (s *Saga) report(v *react.View, id string, m order.Message, out order.Outcome, o order.Order) {
	over := order.SagaOver(out.To) && !order.SagaOver(out.From)
	if out.Action != order.Alarm && m != order.DeadlinePassed && !over {
		return
	}
	trace := v.TraceID()
	v.Committed(func() {
		ctx := context.Background()
		from := attribute.String("status", order.StatusName(out.From))
		switch {
		case out.Action == order.Alarm:
			s.metrics.alarms.Add(ctx, 1, metric.WithAttributes(from, attribute.String("message", m.String())))
			s.cfg.Log.Error("a message came that must not come in this status", "order_id", id, "message", m.String(),
				"status", order.StatusName(out.From), "trace_id", trace)
		case m == order.DeadlinePassed:
			s.metrics.timeouts.Add(ctx, 1, metric.WithAttributes(from))
			s.cfg.Log.Warn("an order waited too long", "order_id", id, "status", order.StatusName(out.From), "reminders", o.Reminders)
		}
		if over {
			to := attribute.String("status", order.StatusName(out.To))
			s.metrics.over.Add(ctx, 1, metric.WithAttributes(to, attribute.String("reason", order.ReasonName(o.Reason))))
			if began, ok := placedAt(id); ok {
				s.metrics.duration.Record(ctx, o.SagaOverAt.Sub(began).Seconds(), metric.WithAttributes(to))
			}
		}
	})
}

// placedAt reads from an order's id, a UUID of version 7, when it was made. It
// spares the steps a column; nothing but a metric depends on it.
func placedAt(id string) (time.Time, bool) {
	if len(id) != 36 || id[14] != '7' {
		return time.Time{}, false
	}
	ms, err := strconv.ParseInt(id[:8]+id[9:13], 16, 64)
	return time.UnixMilli(ms), err == nil
}
