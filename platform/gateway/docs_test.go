package gateway

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/waybill-dev/waybill/platform/gateway/docspage"
	"github.com/waybill-dev/waybill/proto/gen/openapi"
)

func TestThePageShowsEveryOperationOfTheDocument(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, func(c *Config, _ *ServerConfig) { c.OpenAPI, c.Docs = openapi.Document, openapi.Page })
	a := w.do(t, "GET", "/docs", "")
	if a.status != 200 || a.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Fatalf("%d %v", a.status, a.header)
	}
	d, err := docspage.Parse(openapi.Document)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range d.Operations() {
		if !strings.Contains(a.body, `<article id="`+id+`"`) {
			t.Errorf("%s is missing", id)
		}
	}
	for path := range d.Paths {
		if !strings.Contains(a.body, path) {
			t.Errorf("%s is missing", path)
		}
	}
	if n := len(d.Operations()); n < 30 {
		t.Errorf("only %d operations", n)
	}
	for _, want := range []string{
		"lines[].product_id", "-H &#34;Idempotency-Key: $(uuidgen)&#34;", "curl -N", "curl -X POST &#39;http://localhost:8080/v1/orders&#39;", "tok_ok",
		"ORDER_STATUS_DELIVERED", "<code>Last-Event-ID</code>",
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("no %q on the page", want)
		}
	}
}

func TestThePageNeedsNothingFromElsewhere(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, func(c *Config, _ *ServerConfig) { c.OpenAPI, c.Docs = openapi.Document, openapi.Page })
	a := w.do(t, "GET", "/docs", "")
	for _, m := range regexp.MustCompile(`(?:src|href|action)="([^"]*)"|url\(|@import`).FindAllStringSubmatch(a.body, -1) {
		if !strings.HasPrefix(m[1], "#") && m[1] != "/openapi.json" {
			t.Errorf("it points to %q", m[0])
		}
	}
	policy := a.header.Get("Content-Security-Policy")
	if !strings.HasPrefix(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy %q", policy)
	}
	for _, tag := range []string{"style", "script"} {
		in := regexp.MustCompile(`(?s)<`+tag+`>(.*?)</`+tag+`>`).FindAllStringSubmatch(a.body, -1)
		if len(in) != 1 || !strings.Contains(policy, tag+"-src '"+hash(in[0][1])+"'") {
			t.Errorf("the %s on the page is not the one the policy allows", tag)
		}
	}
}

func TestTheExamplesOnThePageAreGoodRequests(t *testing.T) {
	d, err := docspage.Parse(openapi.Document)
	if err != nil {
		t.Fatal(err)
	}
	routes, err := findRoutes(services((&stub{}).inProcess(t)))
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, r := range routes {
		example, known := d.Example(r.httpMethod, r.path)
		if !known {
			t.Errorf("%s %s is not in the document", r.httpMethod, r.path)
			continue
		}
		if r.body == nil {
			continue
		}
		checked++
		if v := checkJSON([]byte(example), r.body, nil, nil); v != nil {
			t.Errorf("%s %s: %s: %+v", r.httpMethod, r.path, example, v)
		}
	}
	if checked == 0 {
		t.Error("nothing was checked")
	}
}

func TestTheDocumentIsServedAndNotSentTwice(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, func(c *Config, _ *ServerConfig) { c.OpenAPI, c.Docs = openapi.Document, openapi.Page })
	a := w.do(t, "GET", "/openapi.json", "")
	if a.status != 200 || a.body != string(openapi.Document) || a.header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %v", a.status, a.header)
	}
	if b := w.do(t, "GET", "/openapi.json", "", "If-None-Match: "+a.header.Get("Etag")); b.status != http.StatusNotModified || b.body != "" {
		t.Errorf("%d", b.status)
	}
	w.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if a := w.do(t, "GET", "/", ""); a.status != http.StatusFound || a.header.Get("Location") != "/docs" {
		t.Errorf("%d %v", a.status, a.header)
	}
	if a := w.do(t, "POST", "/docs", "{}"); a.status != 405 {
		t.Errorf("%d", a.status)
	}
}
