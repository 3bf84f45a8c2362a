package react

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"

	"github.com/waybill-dev/waybill/platform/errs"
)

// metrics counts what the reactor does, by service and message type.
type metrics struct {
	service    attribute.KeyValue
	size       metric.Int64Histogram
	duration   metric.Float64Histogram
	steps      metric.Int64Counter
	duplicates metric.Int64Counter
	dead       metric.Int64Counter
	repaired   metric.Int64Counter
	mistakes   metric.Int64Counter
	perService metric.MeasurementOption
}

func newMetrics(m metric.Meter, service string) (*metrics, error) {
	if m == nil {
		m = noop.NewMeterProvider().Meter("")
	}
	x := &metrics{service: attribute.String("service", service)}
	x.perService = metric.WithAttributeSet(attribute.NewSet(x.service))
	var err error
	if x.size, err = m.Int64Histogram("waybill.react.batch.size", metric.WithDescription("messages per transaction"), metric.WithUnit("{message}"),
		metric.WithExplicitBucketBoundaries(1, 2, 4, 8, 16, 32, 64, 128, 256)); err != nil {
		return nil, err
	}
	if x.duration, err = m.Float64Histogram("waybill.react.batch.duration", metric.WithDescription("time of one transaction"), metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 5)); err != nil {
		return nil, err
	}
	if x.steps, err = m.Int64Counter("waybill.react.failures", metric.WithDescription("steps that failed, by what they handled and kind of error")); err != nil {
		return nil, err
	}
	if x.duplicates, err = m.Int64Counter("waybill.inbox.duplicates", metric.WithDescription("events delivered again and dropped")); err != nil {
		return nil, err
	}
	if x.dead, err = m.Int64Counter("waybill.dead_letters", metric.WithDescription("messages that became dead letters")); err != nil {
		return nil, err
	}
	if x.repaired, err = m.Int64Counter("waybill.outbox.repaired", metric.WithDescription("published events that the stream had lost and got again")); err != nil {
		return nil, err
	}
	if x.mistakes, err = m.Int64Counter("waybill.react.mistakes", metric.WithDescription("batches that ran again, because something was not as it was taken for granted")); err != nil {
		return nil, err
	}
	for _, rare := range []metric.Int64Counter{x.repaired, x.mistakes} {
		rare.Add(context.Background(), 0, x.perService) // so that its growth can be watched from the start
	}
	return x, nil
}

func (x *metrics) batch(n int, d time.Duration) {
	x.size.Record(context.Background(), int64(n), x.perService)
	x.duration.Record(context.Background(), d.Seconds(), x.perService)
}

func (x *metrics) duplicate(*item) { x.duplicates.Add(context.Background(), 1, x.perService) }

func (x *metrics) mistaken() { x.mistakes.Add(context.Background(), 1, x.perService) }

func (x *metrics) refilled(events int64) { x.repaired.Add(context.Background(), events, x.perService) }

func (x *metrics) item(it *item) {
	if it.err == nil {
		return
	}
	set := metric.WithAttributes(x.service, attribute.String("what", it.what()), attribute.String("kind", errs.KindOf(it.err).String()))
	x.steps.Add(context.Background(), 1, set)
	if it.delivery != nil && !it.retry {
		x.dead.Add(context.Background(), 1, set)
	}
}
