// Package telemetry makes the logger, the tracer provider and the meter provider
// of a process from one configuration. It sets no globals unless asked to
// (SetGlobal), and nothing it emits carries a secret.
//
// Cost is part of the contract: recording every span takes a third of a server's
// throughput, so spans are sampled by trace (SampleRatio), an unsampled span only
// carries ids, histograms have few buckets and exemplars are off.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	promexp "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/exemplar"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Config says who the process is and where its telemetry goes.
type Config struct {
	ServiceName string // service.name of the resource, as in "waybill"
	Namespace   string // service.namespace: what the services of one system have in common
	Instance    string // service.instance.id, as in the pod's name
	Version     string // service.version

	SampleRatio  float64           // share of new traces that is recorded, 0 to 1; a parent's decision is kept
	OTLPEndpoint string            // host:port of an OTLP/gRPC collector; "" exports no spans, ids exist all the same
	OTLPInsecure bool              // no TLS to the collector
	OTLPHeaders  map[string]Secret // sent to the collector, for its credentials

	Log LogConfig

	// Exporter replaces the OTLP exporter, for tests; every sampled span goes to it at once.
	Exporter sdktrace.SpanExporter
}

// DefaultConfig gives the settings of a server that nobody configured.
func DefaultConfig() Config {
	return Config{ServiceName: "waybill", SampleRatio: 0.1, Log: LogConfig{Level: slog.LevelInfo, Format: FormatAuto}}
}

// Telemetry is what a process logs, traces and counts with.
type Telemetry struct {
	Log        *slog.Logger
	Tracer     *sdktrace.TracerProvider
	Meter      *metric.MeterProvider
	Propagator propagation.TextMapPropagator // W3C trace context only: baggage of strangers is not carried
	Registry   *prometheus.Registry          // what Metrics serves; other collectors may join it
}

// Setup makes the telemetry of a process. Its resource is what cfg says and then
// OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME. An unreachable collector is no error:
// spans are then dropped and the loss is logged. The caller must call Shutdown.
func Setup(ctx context.Context, cfg Config) (*Telemetry, error) {
	if cfg.SampleRatio < 0 || cfg.SampleRatio > 1 {
		return nil, fmt.Errorf("sample ratio %v is not between 0 and 1", cfg.SampleRatio)
	}
	log, err := NewLog(cfg.Log)
	if err != nil {
		return nil, err
	}
	res, err := resource.New(ctx,
		resource.WithAttributes(
			attribute.String("service.name", cfg.ServiceName),
			attribute.String("service.namespace", cfg.Namespace),
			attribute.String("service.instance.id", cfg.Instance),
			attribute.String("service.version", cfg.Version),
		),
		resource.WithFromEnv(), // where it runs, as its operator says, comes last and wins
	)
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	t := &Telemetry{Log: log, Propagator: propagation.TraceContext{}, Registry: prometheus.NewRegistry()}
	if t.Meter, err = newMeter(res, t.Registry); err != nil {
		return nil, err
	}
	if t.Tracer, err = newTracer(ctx, cfg, res); err != nil {
		return nil, errors.Join(err, t.Meter.Shutdown(ctx))
	}
	return t, nil
}

// newTracer makes a tracer provider that samples by trace and exports in batches.
func newTracer(ctx context.Context, cfg Config, res *resource.Resource) (*sdktrace.TracerProvider, error) {
	root := sdktrace.TraceIDRatioBased(cfg.SampleRatio)
	opts := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	switch {
	case cfg.Exporter != nil:
		opts = append(opts, sdktrace.WithSyncer(cfg.Exporter))
	case cfg.OTLPEndpoint != "":
		dial := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(cfg.OTLPEndpoint)}
		if cfg.OTLPInsecure {
			dial = append(dial, otlptracegrpc.WithInsecure())
		}
		if len(cfg.OTLPHeaders) > 0 {
			h := make(map[string]string, len(cfg.OTLPHeaders))
			for k, v := range cfg.OTLPHeaders {
				h[k] = v.Reveal()
			}
			dial = append(dial, otlptracegrpc.WithHeaders(h))
		}
		exp, err := otlptracegrpc.New(ctx, dial...)
		if err != nil {
			return nil, fmt.Errorf("trace exporter for %s: %w", cfg.OTLPEndpoint, err)
		}
		opts = append(opts, sdktrace.WithBatcher(exp))
	default:
		// Nobody would see a recorded span, so none is recorded; ids exist all the same.
		root = sdktrace.NeverSample()
	}
	return sdktrace.NewTracerProvider(append(opts, sdktrace.WithSampler(sdktrace.ParentBased(root)))...), nil
}

// latencyBuckets are the bounds of every duration histogram, in seconds: few,
// because each one costs memory per series, and close where the targets lie.
var latencyBuckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}

// newMeter makes a meter provider whose readings are collected from reg when it is scraped.
func newMeter(res *resource.Resource, reg *prometheus.Registry) (*metric.MeterProvider, error) {
	exp, err := promexp.New(promexp.WithRegisterer(reg), promexp.WithoutScopeInfo())
	if err != nil {
		return nil, fmt.Errorf("metrics exporter: %w", err)
	}
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of the Go runtime: %w", err)
		}
	}
	buckets := metric.Stream{Aggregation: metric.AggregationExplicitBucketHistogram{Boundaries: latencyBuckets, NoMinMax: true}}
	return metric.NewMeterProvider(
		metric.WithReader(exp),
		metric.WithResource(res),
		metric.WithExemplarFilter(exemplar.AlwaysOffFilter),
		metric.WithView(
			metric.NewView(metric.Instrument{Name: "*.duration", Unit: "s"}, buckets),
			// Sizes of messages cost a histogram per call and answer no question we ask.
			metric.NewView(metric.Instrument{Name: "rpc.*.size"}, metric.Stream{Aggregation: metric.AggregationDrop{}}),
		),
	), nil
}

// Metrics serves the readings in Prometheus' text format.
func (t *Telemetry) Metrics() http.Handler {
	return promhttp.HandlerFor(t.Registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// SetGlobal makes t what libraries use that were not told another: OpenTelemetry's
// providers and slog's default. Only a command does this, once.
func (t *Telemetry) SetGlobal() {
	otel.SetTracerProvider(t.Tracer)
	otel.SetMeterProvider(t.Meter)
	otel.SetTextMapPropagator(t.Propagator)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { t.Log.Warn("telemetry", "error", err) }))
	slog.SetDefault(t.Log)
}

// Shutdown exports what is left, within ctx, and stops. Calling it twice is harmless.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	err := errors.Join(t.Tracer.Shutdown(ctx), t.Meter.Shutdown(ctx))
	if errors.Is(err, metric.ErrReaderShutdown) {
		return nil // the second call
	}
	return err
}
