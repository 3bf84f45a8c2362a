package rpc

import (
	"context"
	"errors"
	"io"
	"testing"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

// recording is a tracer whose spans tests look at.
func recording(ratio float64) (*tracetest.SpanRecorder, *sdktrace.TracerProvider) {
	r := tracetest.NewSpanRecorder()
	return r, sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))), sdktrace.WithSpanProcessor(r))
}

func TestATraceCrossesBothTransports(t *testing.T) {
	r, tp := recording(1)
	w := newWorld(t, func(_ *Config, d *Deps) { d.Tracer = tp })
	traced := w.dial(t, DialConfig{Tracer: tp})
	for name, conn := range map[string]grpc.ClientConnInterface{"tcp": traced, "in process": w.Conn()} {
		t.Run(name, func(t *testing.T) {
			var inside trace.SpanContext
			w.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
				inside = trace.SpanContextFromContext(ctx)
				return m, nil
			}
			ctx, root := tp.Tracer("test").Start(t.Context(), "root")
			_, err := client(conn).Anybody(ctx, &echov1.Message{})
			wantNoError(t, err)
			root.End()
			if inside.TraceID() != root.SpanContext().TraceID() || !inside.IsSampled() || inside.SpanID() == root.SpanContext().SpanID() {
				t.Errorf("the handler is in %v, the caller in %v", inside, root.SpanContext())
			}
			until(t, func() bool { // the server's span ends after the answer has gone out
				for _, s := range r.Ended() {
					if s.SpanContext().SpanID() == inside.SpanID() {
						return s.Name() == "waybill.platform.rpc.echo.v1.EchoService/Anybody"
					}
				}
				return false
			})
		})
	}
}

func TestTheSpanOfAStreamEndsWithTheStream(t *testing.T) {
	r, tp := recording(1)
	w := newWorld(t)
	w.watching()
	conn := w.dial(t, DialConfig{Tracer: tp})
	ended := func(want codes.Code) {
		t.Helper()
		until(t, func() bool { return len(r.Ended()) > 0 })
		s := r.Ended()[0]
		if len(r.Ended()) != 1 || s.Status().Code != want || s.SpanKind() != trace.SpanKindClient {
			t.Errorf("%d spans, the first is %s of kind %s", len(r.Ended()), s.Status().Code, s.SpanKind())
		}
		r.Reset()
	}
	root, parent := tp.Tracer("test").Start(w.as(t, alice), "root")

	ctx, cancel := context.WithCancel(root)
	open(ctx, t, conn, false)
	if n := len(r.Ended()); n != 0 {
		t.Errorf("%d spans ended while the stream is open", n)
	}
	cancel() // and never receive again
	ended(codes.Error)

	w.echo.watch = nil
	wantNoError(t, watchAll(root, t, conn))
	ended(codes.Unset)

	w.failing(errs.E(errs.NotFound, "X", "x"))
	wantError(t, watchAll(root, t, conn), errs.NotFound, "X")
	ended(codes.Error)

	if !parent.IsRecording() {
		t.Error("the caller's own span was ended")
	}
}

// watchAll reads a stream to its end.
func watchAll(ctx context.Context, t *testing.T, conn grpc.ClientConnInterface) error {
	t.Helper()
	s, err := client(conn).Watch(ctx, &echov1.Message{})
	wantNoError(t, err)
	for {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestACallThatIsNotSampledKeepsItsTraceAndCostsNoSpan(t *testing.T) {
	r, tp := recording(0)
	w := newWorld(t, func(_ *Config, d *Deps) { d.Tracer = tp })
	var inside trace.SpanContext
	w.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
		inside = trace.SpanContextFromContext(ctx)
		return m, errors.New("fault")
	}
	traced := w.dial(t, DialConfig{Tracer: tp})
	for name, conn := range map[string]grpc.ClientConnInterface{"tcp": traced, "in process": w.Conn()} {
		ctx, root := tp.Tracer("test").Start(t.Context(), "root")
		_, err := client(conn).Anybody(ctx, &echov1.Message{})
		var e *errs.Error
		if errors.As(FromStatus(err), &e); e.Meta["trace_id"] != root.SpanContext().TraceID().String() || inside.TraceID() != root.SpanContext().TraceID() {
			t.Errorf("%s: the caller was told %v of trace %v", name, e.Meta, root.SpanContext())
		}
	}
	if n := len(r.Started()); n != 0 {
		t.Errorf("%d spans", n)
	}
}

func TestATraceHeaderThatMakesNoSenseIsIgnored(t *testing.T) {
	r, tp := recording(1)
	w := newWorld(t, func(_ *Config, d *Deps) { d.Tracer = tp })
	for _, header := range [][]string{{"nonsense"}, {"00-" + "0" + "-x-01"}, {"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4737-00f067aa0ba902b7-01"}} {
		md := metadata.MD{"traceparent": header}
		_, err := client(w.tcp).Anybody(metadata.NewOutgoingContext(t.Context(), md), &echov1.Message{})
		wantNoError(t, err)
	}
	until(t, func() bool { return len(r.Ended()) == 3 })
	for _, s := range r.Ended() {
		if s.Parent().IsValid() {
			t.Errorf("a parent came from nowhere: %v", s.Parent())
		}
	}
}

func TestProbesAreNeitherTracedNorMeasured(t *testing.T) {
	r, tp := recording(1)
	reader := metric.NewManualReader()
	w := newWorld(t, func(_ *Config, d *Deps) { d.Tracer, d.Meter = tp, metric.NewMeterProvider(metric.WithReader(reader)) })
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		_, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
		wantNoError(t, err)
	})
	if n, m := len(r.Started()), measured(t, reader); n != 0 || len(m) != 0 {
		t.Errorf("%d spans, %v", n, m)
	}
}

// measured gives how many calls were counted by method and status.
func measured(t *testing.T, reader metric.Reader) map[string]uint64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	wantNoError(t, reader.Collect(t.Context(), &all))
	got := map[string]uint64{}
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			if m.Name != "rpc.server.call.duration" {
				t.Errorf("unexpected metric %s", m.Name)
				continue
			}
			for _, p := range m.Data.(metricdata.Histogram[float64]).DataPoints {
				method, _ := p.Attributes.Value("rpc.method")
				code, _ := p.Attributes.Value("rpc.response.status_code")
				got[method.AsString()+" "+code.AsString()] += p.Count
			}
		}
	}
	return got
}

func TestEveryCallIsMeasuredByMethodAndStatus(t *testing.T) {
	reader := metric.NewManualReader()
	w := newWorld(t, func(_ *Config, d *Deps) { d.Meter = metric.NewMeterProvider(metric.WithReader(reader)) })
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		w.echo.unary = nil
		wantNoError(t, anyCall(w.as(t, alice), conn, echov1.EchoService_Customers_FullMethodName))
		if err := anyCall(t.Context(), conn, echov1.EchoService_Customers_FullMethodName); err == nil {
			t.Error("it was let in")
		}
		w.failing("panic")
		if err := anyCall(w.as(t, alice), conn, echov1.EchoService_Watch_FullMethodName); err == nil {
			t.Error("it did not fail")
		}
	})
	got := measured(t, reader)
	const p = "waybill.platform.rpc.echo.v1.EchoService/"
	for what, want := range map[string]uint64{p + "Customers OK": 2, p + "Customers UNAUTHENTICATED": 2, p + "Watch INTERNAL": 2} {
		if got[what] != want {
			t.Errorf("%s was counted %d times, want %d: %v", what, got[what], want, got)
		}
	}
}
