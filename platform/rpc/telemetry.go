package rpc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	canonical "google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
)

// scope names the instruments of this package.
const scope = "github.com/waybill-dev/waybill/platform/rpc"

// lastCode is the highest code there is.
const lastCode = codes.Unauthenticated

// newDuration makes the histogram of call durations, nil without a meter.
func newDuration(mp metric.MeterProvider) (metric.Float64Histogram, error) {
	if mp == nil {
		return nil, nil
	}
	h, err := mp.Meter(scope).Float64Histogram("rpc.server.call.duration", metric.WithUnit("s"),
		metric.WithDescription("How long calls took, by method and status."),
		metric.WithExplicitBucketBoundaries(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10))
	if err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	return h, nil
}

// attributes makes, once, what is said of the method's calls: building an
// attribute set for every call costs more than recording it.
func (m *method) attributes() {
	for code := range lastCode + 1 {
		m.metrics = append(m.metrics, metric.WithAttributeSet(attribute.NewSet(
			attribute.String("rpc.system.name", "grpc"),
			attribute.String("rpc.method", strings.TrimPrefix(m.name, "/")),
			attribute.String("rpc.response.status_code", canonical.Code(code).String()))))
	}
}

func (s *Server) measure(c *call, code codes.Code, took time.Duration) {
	if s.duration != nil {
		s.duration.Record(c.ctx, took.Seconds(), c.metrics[min(code, lastCode)])
	}
}

// spans makes the spans of calls: otelgrpc does, but it is asked only for calls
// that may be sampled. A call whose parent was not sampled gets its trace id and
// no span at all. The chain and the client's interceptors drive it themselves,
// since gRPC would build ten events for every call just to have them dropped.
// Durations are measured by the chain, not here. A nil *spans does nothing.
type spans struct {
	otel   stats.Handler
	client bool
}

func newSpans(tp trace.TracerProvider, client bool) *spans {
	if tp == nil {
		return nil
	}
	opts := []otelgrpc.Option{otelgrpc.WithTracerProvider(tp), otelgrpc.WithMeterProvider(noop.NewMeterProvider())}
	if client {
		return &spans{otelgrpc.NewClientHandler(append(opts, otelgrpc.WithPropagators(propagation.TraceContext{}))...), true}
	}
	// The parent is found by begin, so otelgrpc has nothing to propagate.
	return &spans{otelgrpc.NewServerHandler(append(opts, otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator()))...), false}
}

// begin gives a context that is in the call's trace.
func (s *spans) begin(ctx context.Context, method string, start time.Time) context.Context {
	if s == nil {
		return ctx
	}
	if !s.client {
		ctx = parent(ctx)
	}
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() && !sc.IsSampled() {
		if s.client {
			return inject(ctx)
		}
		return ctx
	}
	ctx = s.otel.TagRPC(ctx, &stats.RPCTagInfo{FullMethodName: method})
	if trace.SpanFromContext(ctx).IsRecording() {
		s.otel.HandleRPC(ctx, &stats.Begin{Client: s.client, BeginTime: start})
	}
	return ctx
}

// end ends the span of a call with its outcome.
func (s *spans) end(ctx context.Context, start time.Time, err error) {
	if s != nil && trace.SpanFromContext(ctx).IsRecording() {
		s.otel.HandleRPC(ctx, &stats.End{Client: s.client, BeginTime: start, EndTime: time.Now(), Error: err})
	}
}

// parent finds the span that a call to the server comes from.
func parent(ctx context.Context) context.Context {
	client := inprocgrpc.ClientContext(ctx)
	if client == nil {
		return propagation.TraceContext{}.Extract(ctx, incoming{ctx})
	}
	if sc := trace.SpanContextFromContext(client); sc.IsValid() {
		return trace.ContextWithRemoteSpanContext(ctx, sc)
	}
	return ctx
}

func inject(ctx context.Context) context.Context {
	var out outgoing
	propagation.TraceContext{}.Inject(ctx, &out)
	return metadata.AppendToOutgoingContext(ctx, out...)
}

// incoming reads the metadata of a call without copying all of it.
type incoming struct{ ctx context.Context } //nolint:containedctx // lives for one line, to read headers from the context

func (c incoming) Get(key string) string {
	if v := metadata.ValueFromIncomingContext(c.ctx, key); len(v) == 1 {
		return v[0]
	}
	return ""
}
func (incoming) Set(string, string) {}
func (incoming) Keys() []string     { return nil }

// outgoing collects key-value pairs.
type outgoing []string

func (outgoing) Get(string) string        { return "" }
func (o *outgoing) Set(key, value string) { *o = append(*o, key, value) }
func (outgoing) Keys() []string           { return nil }
