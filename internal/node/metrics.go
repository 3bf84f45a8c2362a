package node

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// countTimeout bounds what a scrape asks of the databases.
const countTimeout = time.Second

// observe registers what operators watch and no service counts itself: whether
// the broker is there, and what waits or was given up in each database. It is
// asked for when metrics are scraped and costs nothing otherwise.
func (n *Node) observe() error {
	m := n.tel.Meter.Meter("waybill")
	if n.bus != nil {
		if err := n.observeBus(m); err != nil {
			return err
		}
	}
	for _, g := range []struct{ name, help, query string }{
		{"waybill.outbox.pending", "events that the broker has not acknowledged yet", `SELECT count(*) FROM outbox_pending`},
		{"waybill.dead_letters", "messages that were refused for good", `SELECT count(*) FROM dead_letters`},
		{"waybill.effects.pending", "calls to the outside that have no answer yet", `SELECT count(*) FROM effects`},
	} {
		_, err := m.Int64ObservableGauge(g.name, metric.WithDescription(g.help), metric.WithInt64Callback(func(ctx context.Context, o metric.Int64Observer) error {
			ctx, cancel := context.WithTimeout(ctx, countTimeout)
			defer cancel()
			for service, db := range n.dbs {
				var rows int64
				if db.QueryRow(ctx, g.query).Scan(&rows) == nil { // a database that is away has no number
					o.Observe(rows, metric.WithAttributes(attribute.String("service", service)))
				}
			}
			return nil
		}))
		if err != nil {
			return err
		}
	}
	return n.observeDeadLetters(m)
}

// observeDeadLetters registers how long the oldest dead letter has been waiting.
func (n *Node) observeDeadLetters(m metric.Meter) error {
	_, err := m.Float64ObservableGauge("waybill.dead_letters.age", metric.WithDescription("age of the oldest message that was given up, 0 without any"), metric.WithUnit("s"),
		metric.WithFloat64Callback(func(ctx context.Context, o metric.Float64Observer) error {
			ctx, cancel := context.WithTimeout(ctx, countTimeout)
			defer cancel()
			for service, db := range n.dbs {
				var oldest *time.Time
				if db.QueryRow(ctx, `SELECT min(COALESCE(first_at, created_at)) FROM dead_letters`).Scan(&oldest) != nil {
					continue // a database that is away has no age
				}
				age := 0.0
				if oldest != nil {
					age = max(0, time.Since(*oldest).Seconds())
				}
				o.Observe(age, metric.WithAttributes(attribute.String("service", service)))
			}
			return nil
		}))
	return err
}

// observeBus registers the counts of the event bus.
func (n *Node) observeBus(m metric.Meter) error {
	connected, err := m.Int64ObservableGauge("waybill.bus.connected", metric.WithDescription("1 while the broker answers"))
	if err != nil {
		return err
	}
	var counters [5]metric.Int64ObservableCounter
	for i, c := range []struct{ name, help string }{
		{"waybill.bus.published", "events that the broker acknowledged"},
		{"waybill.bus.failed", "publishes that ended with an error or without an answer; they are repeated"},
		{"waybill.bus.delivered", "events that came"},
		{"waybill.bus.redelivered", "events that came again"},
		{"waybill.bus.refused", "things the broker did not allow this process's user"},
	} {
		if counters[i], err = m.Int64ObservableCounter(c.name, metric.WithDescription(c.help)); err != nil {
			return err
		}
	}
	_, err = m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := n.bus.Stats()
		up := int64(0)
		if s.Connected {
			up = 1
		}
		o.ObserveInt64(connected, up)
		for i, v := range []uint64{s.Published, s.Failed, s.Delivered, s.Redelivered, s.Refusals} {
			o.ObserveInt64(counters[i], int64(v))
		}
		return nil
	}, connected, counters[0], counters[1], counters[2], counters[3], counters[4])
	return err
}
