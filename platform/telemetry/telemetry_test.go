package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
)

func setup(t *testing.T, change func(*Config)) *Telemetry {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Log.Writer = io.Discard
	change(&cfg)
	tel, err := Setup(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tel
}

func TestASecretIsNeverPrinted(t *testing.T) {
	s := Secret("hunter2")
	j, err := json.Marshal(map[string]any{"s": s, "in": struct{ P Secret }{s}})
	if err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("x", "s", s, "any", []Secret{s}, "m", map[string]Secret{"a": s})
	for _, text := range []string{
		fmt.Sprint(s), fmt.Sprintf("%s %v %+v %#v %q %x %d", s, s, s, s, s, s, s), fmt.Sprintf("%+v", struct{ P Secret }{s}),
		string(j), logged.String(), fmt.Errorf("no: %v", s).Error(),
	} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, "68756e74657232") {
			t.Errorf("the secret is visible in %q", text)
		}
	}
	if s.Reveal() != "hunter2" {
		t.Error("Reveal does not give the value")
	}
}

func TestAnEmptySecretPrintsAsEmptySoThatAMissingOneIsSeen(t *testing.T) {
	if got := Secret("").String(); got != "" {
		t.Errorf("got %q", got)
	}
}

func TestAttributesNamedLikeSecretsAreHiddenInTheLog(t *testing.T) {
	for _, format := range []string{FormatJSON, FormatText} {
		var b bytes.Buffer
		log, err := NewLog(LogConfig{Format: format, Writer: &b})
		if err != nil {
			t.Fatal(err)
		}
		log.Info("m", "Password", "s3cr3t", "refresh_token", "s3cr3t", "x-Authorization", "s3cr3t", //nolint:sloglint // names in every spelling are hidden
			slog.Group("user", "email", "s3cr3t"), "order_id", "visible", "tokens_left", 3)
		got := b.String()
		if strings.Contains(got, "s3cr3t") || !strings.Contains(got, "visible") || !strings.Contains(got, "3") {
			t.Errorf("%s: %s", format, got)
		}
	}
}

func TestLineBreaksInValuesCannotForgeARecord(t *testing.T) {
	for _, format := range []string{FormatJSON, FormatText} {
		var b bytes.Buffer
		log, err := NewLog(LogConfig{Format: format, Writer: &b})
		if err != nil {
			t.Fatal(err)
		}
		log.Info("name\r\nlevel=ERROR", "v", "x\r\nlevel=ERROR msg=forged")
		if n := strings.Count(b.String(), "\n"); n != 1 || strings.Contains(b.String(), "\r") {
			t.Errorf("%s: %q has %d line breaks", format, b.String(), n)
		}
	}
}

func TestRecordsCarryTheIdsOfTheirSpan(t *testing.T) {
	var b bytes.Buffer
	tel := setup(t, func(c *Config) { c.Log = LogConfig{Format: FormatJSON, Writer: &b} })
	ctx, span := tel.Tracer.Tracer("t").Start(t.Context(), "s")
	defer span.End()
	tel.Log.With("a", 1).InfoContext(ctx, "m")
	var got map[string]any
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	sc := span.SpanContext()
	if !sc.IsValid() {
		t.Fatal("without a collector a span still needs ids")
	}
	if got["trace_id"] != sc.TraceID().String() || got["span_id"] != sc.SpanID().String() {
		t.Errorf("record %v, span %v %v", got, sc.TraceID(), sc.SpanID())
	}
}

func TestWithoutACollectorNoSpanIsRecorded(t *testing.T) {
	tel := setup(t, func(c *Config) { c.SampleRatio = 1 })
	_, span := tel.Tracer.Tracer("t").Start(t.Context(), "s")
	defer span.End()
	if span.IsRecording() {
		t.Error("a span is recorded that nobody will see")
	}
}

func TestTheDecisionOfTheParentIsKept(t *testing.T) {
	for _, sampled := range []bool{true, false} {
		exp := tracetest.NewInMemoryExporter()
		tel := setup(t, func(c *Config) {
			c.Exporter = exp
			if !sampled {
				c.SampleRatio = 1
			} else {
				c.SampleRatio = 0
			}
		})
		parent := trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.TraceFlags(0).WithSampled(sampled), Remote: true,
		})
		_, span := tel.Tracer.Tracer("t").Start(trace.ContextWithRemoteSpanContext(t.Context(), parent), "s")
		span.End()
		if got := len(exp.GetSpans()) == 1; got != sampled {
			t.Errorf("parent sampled %v, exported %v", sampled, got)
		}
		if span.SpanContext().TraceID() != parent.TraceID() {
			t.Error("the trace id changed")
		}
	}
}

func TestMetricsAreServedForPrometheus(t *testing.T) {
	tel := setup(t, func(*Config) {})
	h, err := tel.Meter.Meter("t").Float64Histogram("demo.duration")
	if err != nil {
		t.Fatal(err)
	}
	h.Record(t.Context(), 0.003)
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"demo_duration", "go_goroutines", "process_resident_memory_bytes"} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in the answer", want)
		}
	}
}

func TestSetupRefusesWhatItCannotDo(t *testing.T) {
	for name, cfg := range map[string]Config{
		"ratio above 1":  {SampleRatio: 1.5},
		"negative ratio": {SampleRatio: -0.1},
		"unknown format": {Log: LogConfig{Format: "xml"}},
	} {
		if _, err := Setup(t.Context(), cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestShutdownTwiceIsHarmless(t *testing.T) {
	tel := setup(t, func(*Config) {})
	for range 2 {
		if err := tel.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestAnUnreachableCollectorIsNoErrorAtStart(t *testing.T) {
	tel, err := Setup(t.Context(), Config{OTLPEndpoint: "127.0.0.1:1", OTLPInsecure: true, Log: LogConfig{Writer: io.Discard}})
	if err != nil {
		t.Fatal(err)
	}
	_ = tel.Shutdown(t.Context())
}

func BenchmarkUnsampledSpan(b *testing.B) {
	tel, err := Setup(b.Context(), Config{SampleRatio: 0, Log: LogConfig{Writer: io.Discard}})
	if err != nil {
		b.Fatal(err)
	}
	tr := tel.Tracer.Tracer("b")
	for b.Loop() {
		_, span := tr.Start(b.Context(), "s")
		span.End()
	}
}

func TestTheOperatorSaysWhereTheProcessRuns(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=order-1,k8s.namespace.name=shop")
	spans := tracetest.NewInMemoryExporter()
	tel := setup(t, func(c *Config) { c.ServiceName, c.Namespace, c.Exporter, c.SampleRatio = "order", "waybill", spans, 1 })
	_, span := tel.Tracer.Tracer("test").Start(t.Context(), "span")
	span.End()
	got := map[attribute.Key]string{}
	for _, kv := range spans.GetSpans()[0].Resource.Attributes() {
		got[kv.Key] = kv.Value.AsString()
	}
	for key, want := range map[attribute.Key]string{"service.name": "order", "service.namespace": "waybill", "k8s.pod.name": "order-1", "k8s.namespace.name": "shop"} {
		if got[key] != want {
			t.Errorf("%s is %q, want %q", key, got[key], want)
		}
	}
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "nonsense")
	if _, err := Setup(t.Context(), Config{}); err == nil || !strings.Contains(err.Error(), "OTEL_RESOURCE_ATTRIBUTES") {
		t.Errorf("attributes that cannot be read: %v", err)
	}
}
