package gateway

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"golang.org/x/time/rate"
)

// scope names the gateway in traces and metrics.
const scope = "github.com/waybill-dev/waybill/platform/gateway"

// observer makes a span and a reading of each request. It does what otelhttp does
// at a fifth of its cost: attributes are made only for spans that are recorded,
// and once for each series of metrics.
type observer struct {
	tracer   trace.Tracer
	start    []trace.SpanStartOption
	duration metric.Float64Histogram
	series   sync.Map // seriesKey to []metric.RecordOption; routes keep their own for 200

	// forced bounds how many traces strangers may have recorded by setting the
	// sampled flag; beyond it their ids are kept and the flag is not.
	forced *rate.Limiter
}

type seriesKey struct {
	method, pattern string
	status          int
}

func newObserver(tp trace.TracerProvider, mp metric.MeterProvider) (*observer, error) {
	if tp == nil {
		tp = noop.NewTracerProvider()
	}
	if mp == nil {
		mp = metricnoop.NewMeterProvider()
	}
	d, err := mp.Meter(scope).Float64Histogram("http.server.request.duration", metric.WithUnit("s"), metric.WithDescription("Duration of HTTP requests."))
	if err != nil {
		return nil, err
	}
	return &observer{tracer: tp.Tracer(scope), start: []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer)}, duration: d, forced: rate.NewLimiter(10, 20)}, nil
}

// begin starts the request's span, below the one a valid traceparent names.
func (o *observer) begin(c *call, r *http.Request) context.Context {
	ctx := c.ctx
	if len(r.Header[headerTraceparent]) == 1 && len(r.Header[headerTracestate]) <= 1 {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.HeaderCarrier(r.Header))
		if sc := trace.SpanContextFromContext(ctx); sc.IsSampled() && !o.forced.AllowN(c.begun, 1) {
			ctx = trace.ContextWithRemoteSpanContext(ctx, sc.WithTraceFlags(sc.TraceFlags().WithSampled(false)))
		}
	}
	ctx, c.span = o.tracer.Start(ctx, c.method(r), o.start...)
	return ctx
}

// setSpanName names the span after the route that was found.
func (c *call) setSpanName(r *route) {
	if c.span.IsRecording() {
		c.span.SetName(r.httpMethod + " " + r.path)
	}
}

// traceID gives the id by which the log and the traces know the call.
func (c *call) traceID() string {
	if sc := trace.SpanContextFromContext(c.ctx); c.ctx != nil && sc.IsValid() {
		return sc.TraceID().String()
	}
	return ""
}

// end ends the span and takes the reading.
func (o *observer) end(c *call, r *http.Request) {
	if c.span == nil {
		return
	}
	method := c.method(r)
	if c.span.IsRecording() {
		c.span.SetAttributes(
			attribute.String("http.request.method", method), attribute.String("http.route", c.pattern),
			attribute.Int("http.response.status_code", c.status), attribute.String("waybill.request_id", c.requestID))
		if c.status >= http.StatusInternalServerError {
			c.span.SetStatus(codes.Error, strconv.Itoa(c.status))
		}
	}
	c.span.End()
	if c.route != nil && c.route.streaming {
		return // its length says nothing about speed
	}
	o.duration.Record(c.ctx, time.Since(c.begun).Seconds(), o.attributes(c, method)...)
}

// attributes gives the attributes of a reading, which are made once.
func (o *observer) attributes(c *call, method string) []metric.RecordOption {
	fast := c.route != nil && c.status == http.StatusOK && method == c.route.httpMethod
	if fast {
		if opts := c.route.good.Load(); opts != nil {
			return *opts
		}
	}
	key := seriesKey{method, c.pattern, c.status}
	if opts, ok := o.series.Load(key); ok {
		if opts, ok := opts.([]metric.RecordOption); ok {
			return opts
		}
	}
	opts := []metric.RecordOption{metric.WithAttributeSet(attribute.NewSet(
		attribute.String("http.request.method", method), attribute.String("http.route", c.pattern),
		attribute.Int("http.response.status_code", c.status)))}
	o.series.Store(key, opts)
	if fast {
		c.route.good.Store(&opts)
	}
	return opts
}
