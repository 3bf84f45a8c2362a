package gateway

import (
	"context"
	"io"
	"net/http/httptest"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"

	"github.com/waybill-dev/waybill/platform/telemetry"
)

// traced is a gateway whose spans are kept, and how to send it a request.
func traced(t *testing.T, ratio float64) (*Gateway, *tracetest.InMemoryExporter, *telemetry.Telemetry) {
	t.Helper()
	exp := tracetest.NewInMemoryExporter()
	tel, err := telemetry.Setup(t.Context(), telemetry.Config{SampleRatio: ratio, Exporter: exp, Log: telemetry.LogConfig{Writer: io.Discard}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	g, err := New(Config{Services: services((&stub{}).inProcess(t)), Tracer: tel.Tracer, Meter: tel.Meter}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g, exp, tel
}

func get(g *Gateway, path string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", path, nil)
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		r.Header.Add(k, v)
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	return w
}

const traceparent = "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestASpanIsNamedAfterItsRouteAndHoldsNoPath(t *testing.T) {
	g, exp, _ := traced(t, 1)
	get(g, "/v1/orders/hunter2?page_size=hunter2", "Authorization: hunter2")
	spans := exp.GetSpans()
	if len(spans) != 1 || spans[0].Name != "GET /v1/orders/{order_id}" || spans[0].SpanKind != trace.SpanKindServer {
		t.Fatalf("got %+v", spans)
	}
	for _, a := range spans[0].Attributes {
		if strings.Contains(a.Value.String(), "hunter2") {
			t.Errorf("%s is %s", a.Key, a.Value.String())
		}
	}
}

func TestAValidTraceparentIsContinuedAndJunkIsNot(t *testing.T) {
	for header, want := range map[string]bool{
		traceparent:            true,
		"Traceparent: junk":    false,
		"Traceparent: 00-0-0-": false,
		"Traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01": false,
	} {
		g, exp, _ := traced(t, 1)
		get(g, "/v1/orders/x", header)
		got := exp.GetSpans()[0].SpanContext.TraceID().String() == "0af7651916cd43dd8448eb211c80319c"
		if got != want {
			t.Errorf("%s: continued %v", header, got)
		}
	}
	g, exp, _ := traced(t, 1)
	get(g, "/v1/orders/x", traceparent, traceparent)
	if exp.GetSpans()[0].Parent.IsValid() {
		t.Error("two of them are continued")
	}
}

func TestStrangersCannotHaveEveryTraceRecorded(t *testing.T) {
	g, exp, _ := traced(t, 0)
	g.observe.forced = rate.NewLimiter(0, 3)
	for range 10 {
		get(g, "/v1/orders/x", traceparent)
	}
	if n := len(exp.GetSpans()); n != 3 {
		t.Errorf("%d recorded", n)
	}
}

func TestReadingsAreByRouteAndNotByWhatPeopleSend(t *testing.T) {
	g, _, tel := traced(t, 0)
	for _, path := range []string{"/v1/orders/a", "/v1/orders/b", "/nowhere/a", "/nowhere/b"} {
		get(g, path)
	}
	r := httptest.NewRequest("MADE-UP", "/v1/orders/a", nil)
	g.ServeHTTP(httptest.NewRecorder(), r)
	w := httptest.NewRecorder()
	tel.Metrics().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	var series []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "http_server_request_duration_seconds_count") {
			series = append(series, strings.TrimSpace(line))
		}
	}
	all := strings.Join(series, "\n")
	if len(series) != 3 || !strings.Contains(all, `http_route="/v1/orders/{order_id}"`) || !strings.Contains(all, "_OTHER") || strings.Contains(all, "MADE-UP") {
		t.Errorf("got\n%s", all)
	}
}
