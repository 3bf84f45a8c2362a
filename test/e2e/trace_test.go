package e2e_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"testing"

	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// A trace is what Jaeger's API gives of one.
type trace struct {
	Spans []struct {
		SpanID        string
		OperationName string
		ProcessID     string
		References    []struct{ RefType, SpanID string }
	}
	Processes map[string]struct{ ServiceName string }
}

// TestOneOrderIsOneTraceOverAllServices reads an order's trace back from Jaeger:
// all services, and who caused what in whom.
func TestOneOrderIsOneTraceOverAllServices(t *testing.T) {
	d := open(t)
	customer := d.customer(t)
	o := customer.place(t, basket(d.products(t, d.admin(t), 1, 10)[0], 1, "tok_ok", "NO"))
	customer.end(t, o.GetOrderId())
	var w orderv1.Waybill
	if err := customer.rest(t).Do(t.Context(), http.MethodGet, "/v1/orders/"+o.GetOrderId()+"/waybill", "", nil, &w); err != nil {
		t.Fatal(err)
	}
	id := w.GetEntries()[0].GetTraceId()
	for _, e := range w.GetEntries() {
		if e.GetTraceId() != id {
			t.Errorf("%s is in the trace %s, the order in %s", e.GetEvent(), e.GetTraceId(), id)
		}
	}
	want := []string{
		"gateway > order", "order > inventory", // calls
		"inventory > payment", "payment > inventory", "payment > shipping", "shipping > order", "inventory > order", "payment > order", // events
	}
	var found map[string]int
	await(t, "the trace "+id+" is whole", func() (bool, error) {
		found = edges(t, id)
		return !slices.ContainsFunc(want, func(e string) bool { return found[e] == 0 }), nil
	})
	t.Logf("trace %s: %v", id, found)
}

// edges counts the spans of a trace that have their parent in another service, by
// both.
func edges(t *testing.T, id string) map[string]int {
	t.Helper()
	out, err := fetch(t.Context(), tracing, "services/jaeger:16686/proxy/api/traces/"+id)
	if err != nil {
		return nil // not there yet
	}
	var answer struct{ Data []trace }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("Jaeger answers %s", out)
	}
	found := map[string]int{}
	for _, tr := range answer.Data {
		service := map[string]string{}
		for _, s := range tr.Spans {
			service[s.SpanID] = tr.Processes[s.ProcessID].ServiceName
		}
		for _, s := range tr.Spans {
			for _, r := range s.References {
				if from, to := service[r.SpanID], service[s.SpanID]; r.RefType == "CHILD_OF" && from != "" && from != to {
					found[from+" > "+to]++
				}
			}
		}
	}
	t.Logf("so far: %v", slices.Sorted(maps.Keys(found)))
	return found
}
