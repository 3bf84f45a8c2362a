package gateway

import (
	"strings"
	"testing"
)

// tree makes a tree of "METHOD path" entries.
func tree(t *testing.T, entries ...string) *node {
	t.Helper()
	n := newNode()
	for _, e := range entries {
		if err := n.add(bare(e)); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func bare(entry string) *route {
	method, path, _ := strings.Cut(entry, " ")
	r := &route{httpMethod: method, path: path}
	r.split()
	return r
}

func TestAPathLeadsToItsRoutesWithItsValues(t *testing.T) {
	n := tree(t, "GET /v1/orders", "POST /v1/orders", "GET /v1/orders/{id}", "POST /v1/orders/{id}:cancel", "GET /v1/orders/{id}/waybill",
		"GET /v1/orders/new", "GET /v1/orders:batch", "GET /v1/{kind}/x/{id}", "GET /.well-known/jwks.json", "POST /v1/orders/{id}/lines/{line}:drop")
	for path, want := range map[string]string{
		"/v1/orders":                "GET,POST /v1/orders ",
		"/v1/orders/7":              "GET /v1/orders/{id} 7",
		"/v1/orders/7:cancel":       "POST /v1/orders/{id}:cancel 7",
		"/v1/orders/7:other":        "GET /v1/orders/{id} 7:other",
		"/v1/orders/a:b:cancel":     "POST /v1/orders/{id}:cancel a:b",
		"/v1/orders/:cancel":        "GET /v1/orders/{id} :cancel",
		"/v1/orders/7/waybill":      "GET /v1/orders/{id}/waybill 7",
		"/v1/orders/new":            "GET /v1/orders/new ",
		"/v1/orders/new/waybill":    "GET /v1/orders/{id}/waybill new",
		"/v1/orders:batch":          "GET /v1/orders:batch ",
		"/v1/orders/x/9":            "GET /v1/{kind}/x/{id} orders,9",
		"/v1/other/x/9":             "GET /v1/{kind}/x/{id} other,9",
		"/.well-known/jwks.json":    "GET /.well-known/jwks.json ",
		"/v1/orders/7/lines/8:drop": "POST /v1/orders/{id}/lines/{line}:drop 7,8",
		"/v1/orders/":               "",
		"/v1//orders":               "",
		"//v1/orders":               "",
		"/v1/orders:other":          "",
		"/v1/orders/7/":             "",
		"/v1/orders/7/waybill/x":    "",
		"/v1":                       "",
		"/":                         "",
		"":                          "",
		"*":                         "",
	} {
		found, values := n.find(path, nil)
		got := ""
		if found != nil {
			var ms []string
			for _, r := range found {
				ms = append(ms, r.httpMethod)
			}
			got = strings.Join(ms, ",") + " " + found[0].path + " " + strings.Join(values, ",")
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", path, got, want)
		}
	}
}

func TestAPathThatIsTakenOrHasAWildcardIsRefused(t *testing.T) {
	n := tree(t, "GET /v1/orders/{id}")
	for _, e := range []string{"GET /v1/orders/{other}", "GET /v1/{name=things/*}", "GET /v1/**"} {
		if err := n.add(bare(e)); err == nil {
			t.Errorf("%s is taken in", e)
		}
	}
	if err := n.add(bare("GET /v1/orders/{id}:watch")); err != nil {
		t.Error(err)
	}
}
