package system_test

import (
	"context"
	"encoding/hex"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// collector takes the spans of all processes, as Jaeger does.
type collector struct {
	collectorv1.UnimplementedTraceServiceServer
	addr string

	mu    sync.Mutex
	spans []seen
}

// seen is a span and whose it is.
type seen struct {
	*tracev1.Span
	resource map[string]string
}

func (c *collector) Export(_ context.Context, req *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.GetResourceSpans() {
		resource := map[string]string{}
		for _, kv := range r.GetResource().GetAttributes() {
			resource[kv.GetKey()] = kv.GetValue().GetStringValue()
		}
		for _, scope := range r.GetScopeSpans() {
			for _, span := range scope.GetSpans() {
				c.spans = append(c.spans, seen{span, resource})
			}
		}
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}

func collect(t *testing.T) *collector {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c, srv := &collector{addr: lis.Addr().String()}, grpc.NewServer()
	collectorv1.RegisterTraceServiceServer(srv, c)
	var served sync.WaitGroup
	served.Go(func() { _ = srv.Serve(lis) })
	t.Cleanup(func() { srv.Stop(); served.Wait() })
	return c
}

// TestAnOrderIsOneTrace follows an order over all services, each in a process of
// its own: every span but the first has a parent in the same trace, and what
// events cause in one service hangs below the service that told of them.
func TestAnOrderIsOneTrace(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.namespace.name=shop")
	c := collect(t)
	specs, _ := eachAlone.plan(t, shop.name)
	var list []*process
	for _, s := range specs {
		cfg := s.config()
		cfg.Trace.Ratio, cfg.Trace.Endpoint, cfg.Trace.Insecure = 1, c.addr, true
		list = append(list, &process{cfg: cfg})
	}
	w, err := begin(list)
	must(t, err)
	t.Cleanup(func() { _ = w.stop() })
	w.admin, err = w.logIn(adminEmail, secret("admin-password"))
	must(t, err)
	customer, product := w.customer(t), w.product(t, euro(1999), 10)
	placed := w.place(t, restDoor{}, customer, cart(product, 1, "tok_ok"))
	w.until(t, customer, placed.GetOrderId(), is(delivered))
	must(t, w.finish()) // and with it every span is out

	c.mu.Lock()
	defer c.mu.Unlock()
	traces := map[string]map[string]seen{} // trace and span
	for _, s := range c.spans {
		id := hex.EncodeToString(s.GetTraceId())
		if traces[id] == nil {
			traces[id] = map[string]seen{}
		}
		traces[id][hex.EncodeToString(s.GetSpanId())] = s
	}
	var ours map[string]seen
	for _, spans := range traces {
		for _, s := range spans {
			if strings.Contains(s.GetName(), "CreateOrder") {
				if ours != nil && ours[hex.EncodeToString(s.GetSpanId())].Span == nil {
					t.Fatal("the order is placed in two traces")
				}
				ours = spans
			}
		}
	}
	edges, roots := map[string]int{}, []string{}
	for _, s := range ours {
		name, parent := s.resource["service.name"], hex.EncodeToString(s.GetParentSpanId())
		if s.resource["service.namespace"] != "waybill" || s.resource["k8s.namespace.name"] != "shop" || s.resource["service.instance.id"] == "" {
			t.Errorf("%s comes from %v", s.GetName(), s.resource)
		}
		switch p, ok := ours[parent]; {
		case parent == "":
			roots = append(roots, name+" "+s.GetName())
		case !ok:
			t.Errorf("%s of %s has a parent that nobody reported", s.GetName(), name)
		case p.resource["service.name"] != name:
			edges[p.resource["service.name"]+" > "+name]++
		}
	}
	if len(roots) != 1 || !strings.HasPrefix(roots[0], "gateway ") {
		t.Errorf("the trace begins with %q", roots)
	}
	t.Logf("%d spans, edges between services: %v", len(ours), edges)
	for _, edge := range []string{
		"gateway > order", "order > inventory", // calls
		"inventory > payment", "payment > inventory", "payment > shipping", "shipping > order", "inventory > order", "payment > order", // events
	} {
		if edges[edge] == 0 {
			t.Errorf("nothing of the trace goes %s; there are %v", edge, slices.Sorted(maps.Keys(edges)))
		}
	}
}
