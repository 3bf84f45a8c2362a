package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const createBody = `{"lines":[{"product_id":"` + productID + `","quantity":2}],"payment_token":"tok_ok",` +
	`"ship_to":{"recipient":"Ann","lines":["Way 1"],"postal_code":"12345","locality":"Town","region_code":"DE"}}`

func TestAnOrderGoesThroughWithItsKeyAndComesBackAsJSON(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		a := w.do(t, "POST", "/v1/orders", createBody, "Idempotency-Key: key-1", "Authorization: Bearer abc")
		if a.status != 200 || a.header.Get("Content-Type") != "application/json" {
			t.Fatalf("%d %s", a.status, a.body)
		}
		var got map[string]any
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			t.Fatal(err)
		}
		if got["order_id"] != orderID || got["status"] != "ORDER_STATUS_UNSPECIFIED" {
			t.Errorf("got %s", a.body)
		}
		if total, _ := got["total"].(map[string]any); total["minor_units"] != "0" {
			t.Errorf("a zero is left out, or no string: %v", got["total"])
		}
		reqs, _ := w.reached()
		want := &orderv1.CreateOrderRequest{
			RequestId: "key-1", PaymentToken: "tok_ok", Lines: []*orderv1.CreateOrderLine{{ProductId: productID, Quantity: 2}},
			ShipTo: &typev1.Address{Recipient: "Ann", Lines: []string{"Way 1"}, PostalCode: "12345", Locality: "Town", RegionCode: "DE"},
		}
		if len(reqs) != 1 || !proto.Equal(reqs[0], want) {
			t.Errorf("got %v", reqs)
		}
	})
}

func TestPathQueryAndBodyFieldReachTheirFields(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		w.do(t, "GET", "/v1/orders?page_size=7&page_token=x%20y&order_by=create_time", "")
		w.do(t, "GET", "/v1/products:batchGetStock?product_ids=a&product_ids=b", "")
		w.do(t, "POST", "/v1/orders/"+orderID+":cancel", `{"order_id":"`+orderID+`"}`, "Idempotency-Key: k")
		w.do(t, "POST", "/v1/orders/"+orderID+":cancel", "", "Idempotency-Key: k")
		w.do(t, "PATCH", "/v1/products/"+productID, `{"name":"New"}`)
		reqs, _ := w.reached()
		if len(reqs) != 5 {
			t.Fatalf("%d requests", len(reqs))
		}
		want := []proto.Message{
			&orderv1.ListOrdersRequest{PageSize: 7, PageToken: "x y", OrderBy: "create_time"},
			&inventoryv1.BatchGetStockRequest{ProductIds: []string{"a", "b"}},
			&orderv1.CancelOrderRequest{OrderId: orderID, RequestId: "k"},
			&orderv1.CancelOrderRequest{OrderId: orderID, RequestId: "k"},
		}
		for i, m := range want {
			if !proto.Equal(m, reqs[i]) {
				t.Errorf("%d: got %v", i, reqs[i])
			}
		}
		up, _ := reqs[4].(*inventoryv1.UpdateProductRequest)
		if up.GetProductId() != productID || up.GetProduct().GetName() != "New" || strings.Join(up.GetUpdateMask().GetPaths(), ",") != "name" {
			t.Errorf("got %v", up)
		}
	})
}

func TestOnlyAllowedHeadersBecomeMetadata(t *testing.T) {
	change := func(c *Config, _ *ServerConfig) { c.NewRequestID = func() string { return "made" } }
	eachWay(t, change, func(t *testing.T, w *world) {
		w.do(t, "GET", "/v1/orders/"+orderID, "",
			"Authorization: Bearer abc", "X-Request-Id: mine-1", "Idempotency-Key: k", "Cookie: a=b", "X-User-Id: admin", "X-Forwarded-For: 6.6.6.6",
			"X-Forwarded-Host: evil", "Grpc-Metadata-X-User-Id: admin", "Grpc-Metadata-Role: admin", "Grpc-Metadata-Authorization: Bearer evil",
			"Grpc-Metadata-X-Forwarded-Client-Cert: x", "Grpc-Metadata-Traceparent: junk", "Grpcgateway-Authorization: Bearer evil",
			"X-Waybill-Client-Ip: 6.6.6.6", "Traceparent: junk", "Grpc-Metadata-Bin-Bin: !!!", "Te: trailers")
		_, mds := w.reached()
		if len(mds) != 1 {
			t.Fatal("the call did not arrive")
		}
		got := map[string][]string{}
		for k, v := range mds[0] {
			switch k {
			case ":authority", "content-type", "user-agent", "grpc-accept-encoding": // gRPC's own
			default:
				got[k] = v
			}
		}
		want := map[string][]string{
			"authorization": {"Bearer abc"}, "x-request-id": {"mine-1"}, "idempotency-key": {"k"}, "x-waybill-client-ip": {"127.0.0.1"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestMetadataOfServicesStaysInside(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		a := w.do(t, "GET", "/v1/orders/"+orderID, "", "Te: trailers", "X-Request-Id: bad id!")
		id := a.header.Get("X-Request-Id")
		if len(id) != 16 || strings.Contains(id, " ") {
			t.Errorf("request id %q", id)
		}
		for k, v := range a.header {
			if strings.HasPrefix(k, "Grpc-") || k == "Etag" || strings.Contains(strings.Join(v, ""), "secret") {
				t.Errorf("%s: %v came out", k, v)
			}
		}
		for k, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
			if got := a.header.Get(k); got != want {
				t.Errorf("%s is %q", k, got)
			}
		}
	})
}

func TestEveryErrorHasOneShapeAndItsStatus(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		name   string
		header map[string]string
	}{
		{errs.E(errs.Invalid, "BAD", "no").WithFields(errs.Field{Path: "lines[0].quantity", Problem: "too many"}), 400, "INVALID_ARGUMENT", nil},
		{errs.E(errs.Unauthenticated, "NO", "no"), 401, "UNAUTHENTICATED", map[string]string{"WWW-Authenticate": `Bearer realm="waybill"`}},
		{errs.E(errs.PermissionDenied, "NO", "no"), 403, "PERMISSION_DENIED", nil},
		{errs.E(errs.NotFound, "NO", "no"), 404, "NOT_FOUND", nil},
		{errs.E(errs.AlreadyExists, "NO", "no"), 409, "ALREADY_EXISTS", nil},
		{errs.E(errs.Aborted, "IN_PROGRESS", "no").WithRetryAfter(1500 * time.Millisecond), 409, "ABORTED", map[string]string{"Retry-After": "2"}},
		{errs.E(errs.FailedPrecondition, "TOTAL_CHANGED", "no"), 400, "FAILED_PRECONDITION", nil},
		{errs.E(errs.FailedPrecondition, "IDEMPOTENCY_KEY_REUSED", "no"), 422, "FAILED_PRECONDITION", nil},
		{errs.E(errs.ResourceExhausted, "NO", "no").WithRetryAfter(time.Minute), 429, "RESOURCE_EXHAUSTED", map[string]string{"Retry-After": "60"}},
		{errs.E(errs.OutOfRange, "NO", "no"), 400, "OUT_OF_RANGE", nil},
		{errs.E(errs.Unimplemented, "NO", "no"), 501, "UNIMPLEMENTED", nil},
		{errs.E(errs.Unavailable, "NO", "no"), 503, "UNAVAILABLE", nil},
		{errs.E(errs.DeadlineExceeded, "NO", "no"), 504, "DEADLINE_EXCEEDED", nil},
		{errors.New("pq: password of db.internal is hunter2"), 500, "INTERNAL", nil},
	} {
		eachWay(t, nil, func(t *testing.T, w *world) {
			w.err = c.err
			a := w.do(t, "GET", "/v1/orders/"+orderID, "")
			var b errorBody
			if err := json.Unmarshal([]byte(a.body), &b); err != nil {
				t.Fatalf("%q: %v", a.body, err)
			}
			if a.status != c.status || b.Status != c.name || b.Message == "" || len(b.Details) == 0 || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("%v: got %d %s", c.err, a.status, a.body)
			}
			for k, v := range c.header {
				if a.header.Get(k) != v {
					t.Errorf("%v: %s is %q", c.err, k, a.header.Get(k))
				}
			}
			if strings.Contains(a.body, "hunter2") || strings.Contains(a.body, "db.internal") {
				t.Errorf("it leaks: %s", a.body)
			}
			if len(c.err.Error()) > 0 && c.name == "INVALID_ARGUMENT" && !strings.Contains(a.body, `"field":"lines[0].quantity"`) {
				t.Errorf("no field in %s", a.body)
			}
		})
	}
}

func TestAServiceThatIsAwayIsA503ThatNamesNoHost(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	w := newWorld(t, func(*stub, testing.TB) grpc.ClientConnInterface { return conn }, nil)
	a := w.do(t, "GET", "/v1/orders/"+orderID, "")
	if a.status != 503 || strings.Contains(a.body, "127.0.0.1") || strings.Contains(a.body, "dial") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAPanicIsA500WithoutAWordOfIt(t *testing.T) {
	var logged bytes.Buffer
	s := &stub{}
	g, err := New(Config{Services: services(s.inProcess(t)), Routes: map[string]Route{
		"/boom": {Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret thing") })},
	}}, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	g.ServeHTTP(w, httptest.NewRequest("GET", "/boom", nil))
	if w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(logged.String(), "secret thing") {
		t.Error("the log does not have it")
	}
}

func TestTheAddressOfTheClientIsThatWhichTrustedProxiesSaw(t *testing.T) {
	for _, c := range []struct {
		hops   int
		header []string
		want   string
	}{
		{0, nil, "192.0.2.1"},
		{0, []string{"6.6.6.6"}, "192.0.2.1"},
		{1, []string{"6.6.6.6"}, "6.6.6.6"},
		{1, []string{"1.1.1.1, 6.6.6.6"}, "6.6.6.6"},
		{1, []string{"1.1.1.1", "6.6.6.6"}, "6.6.6.6"},
		{2, []string{"1.1.1.1, 6.6.6.6, 10.0.0.1"}, "6.6.6.6"},
		{5, []string{"1.1.1.1, 6.6.6.6"}, "1.1.1.1"},
		{1, []string{"nonsense"}, "192.0.2.1"},
		{1, nil, "192.0.2.1"},
		{1, []string{"::ffff:6.6.6.6"}, "6.6.6.6"},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.RemoteAddr = "192.0.2.1:1234"
		r.Header["X-Forwarded-For"] = c.header
		if got := clientIP(r, c.hops); got != netip.MustParseAddr(c.want) {
			t.Errorf("%d hops, %v: %v", c.hops, c.header, got)
		}
	}
}

func TestAnAddressIsLimitedAndToldWhenToComeBack(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, func(c *Config, _ *ServerConfig) {
		c.PerIP, c.ProxyHops = Rate{PerSecond: 0.001, Burst: 2}, 1
	})
	for i, want := range []int{200, 200, 429, 429} {
		a := w.do(t, "GET", "/v1/orders/"+orderID, "", "X-Forwarded-For: 6.6.6.6")
		if a.status != want {
			t.Fatalf("request %d: %d", i, a.status)
		}
		if want == 429 && (a.header.Get("Retry-After") == "" || a.reason() != "RATE_LIMITED") {
			t.Errorf("%v %s", a.header, a.body)
		}
	}
	if a := w.do(t, "GET", "/v1/orders/"+orderID, "", "X-Forwarded-For: 6.6.6.6, 7.7.7.7"); a.status != 200 {
		t.Errorf("another address: %d", a.status)
	}
	if a := w.do(t, "GET", "/v1/orders/"+orderID, "", "X-Forwarded-For: 1.2.3.4, 6.6.6.6"); a.status != 429 {
		t.Errorf("a forged entry in front evades the limit: %d", a.status)
	}
}

func TestALimiterCountsIPv6ByNetworkAndKeepsToItsMemory(t *testing.T) {
	l := newLimiter(Rate{PerSecond: 1, Burst: 1})
	now := time.Unix(1, 0)
	if l.take(netip.MustParseAddr("2001:db8::1"), now) != 0 || l.take(netip.MustParseAddr("2001:db8::2"), now) == 0 {
		t.Error("two addresses of one network are counted apart")
	}
	if l.take(netip.MustParseAddr("2001:db8:0:1::2"), now) != 0 {
		t.Error("two networks are counted together")
	}
	for i := range maxBuckets + 10 {
		l.take(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), now.Add(time.Duration(i)*time.Millisecond))
	}
	if len(l.buckets) > maxBuckets {
		t.Errorf("%d buckets", len(l.buckets))
	}
}

func TestBrowsersOfConfiguredOriginsMayCall(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, func(c *Config, _ *ServerConfig) { c.CORSOrigins = []string{"https://shop.example"} })
	a := w.do(t, "OPTIONS", "/v1/orders", "", "Origin: https://shop.example", "Access-Control-Request-Method: POST")
	if a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != "https://shop.example" || !strings.Contains(a.header.Get("Access-Control-Allow-Headers"), "Idempotency-Key") {
		t.Errorf("%d %v", a.status, a.header)
	}
	if a.header.Get("Access-Control-Allow-Credentials") != "" {
		t.Error("cookies are let in")
	}
	a = w.do(t, "GET", "/v1/orders", "", "Origin: https://evil.example")
	if a.header.Get("Access-Control-Allow-Origin") != "" || a.header.Get("Vary") != "Origin" {
		t.Errorf("%v", a.header)
	}
	w = newWorld(t, (*stub).inProcess, nil)
	a = w.do(t, "OPTIONS", "/v1/orders", "", "Origin: https://shop.example", "Access-Control-Request-Method: POST")
	if a.status != 405 || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("off by default: %d %v", a.status, a.header)
	}
}

func TestTheLogHasNeitherQueryNorPathNorHeader(t *testing.T) {
	var logged bytes.Buffer
	s := &stub{}
	g, err := New(Config{Services: services(s.inProcess(t)), AccessLog: true}, slog.New(slog.NewJSONHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/v1/orders/hunter2?filter=hunter2", nil)
	r.Header.Set("Authorization", "Bearer hunter2")
	r.Header.Set("X-Request-Id", "x\r\nforged")
	g.ServeHTTP(httptest.NewRecorder(), r)
	g.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/nowhere/hunter2%0d%0aforged", nil))
	if strings.Contains(logged.String(), "hunter2") || strings.Contains(logged.String(), "forged") || strings.Count(logged.String(), "\n") != 2 {
		t.Errorf("%s", logged.String())
	}
	if !strings.Contains(logged.String(), `"route":"/v1/orders/{order_id}"`) {
		t.Errorf("no route in %s", logged.String())
	}
}

func TestRoutesOfOthersAreServedUnderTheSameLimits(t *testing.T) {
	echo := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = w.Write(append([]byte(r.URL.Path+" "), b...))
	})
	w := newWorld(t, (*stub).inProcess, func(c *Config, _ *ServerConfig) {
		c.Routes = map[string]Route{"/hook": {Methods: []string{"POST"}, Handler: echo}, "/console/": {Handler: echo}}
		c.MaxBody = 100
	})
	if a := w.do(t, "POST", "/hook", "{raw", "Content-Type: text/plain"); a.status != 200 || a.body != "/hook {raw" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.do(t, "GET", "/console/a/b", ""); a.status != 200 || a.body != "/console/a/b " || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.do(t, "GET", "/hook", ""); a.status != 405 || a.header.Get("Allow") != "POST" {
		t.Errorf("%d %v", a.status, a.header)
	}
	if a := w.do(t, "POST", "/hook", strings.Repeat("x", 101)); a.status != 413 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAWebhookGetsItsBodyByteByByte(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		const raw = "{\"a\":  1,\n \"a\": \"\\u0000\"} \xff"
		a := w.do(t, "POST", "/v1/payments:webhook", raw, "Provider-Signature: t=1,v1=ab", "Content-Type: text/plain")
		if a.status != 200 || a.body != "{}" {
			t.Fatalf("%d %s", a.status, a.body)
		}
		reqs, _ := w.reached()
		in, _ := reqs[0].(*paymentv1.HandleProviderWebhookRequest)
		if string(in.GetBody()) != raw || in.GetSignature() != "t=1,v1=ab" {
			t.Errorf("got %v", in)
		}
		if a := w.do(t, "POST", "/v1/payments:webhook", raw, "Provider-Signature: a", "Provider-Signature: b"); a.status != 400 {
			t.Errorf("two signatures: %d", a.status)
		}
	})
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	s := &stub{}
	good := services(s.inProcess(t))
	for name, cfg := range map[string]Config{
		"no services":     {},
		"unknown service": {Services: []Service{{Name: "waybill.x.v1.X", Conn: good[0].Conn}}},
		"no service":      {Services: []Service{{Name: "waybill.order.v1.Order", Conn: good[0].Conn}}},
		"no conn":         {Services: []Service{{Name: good[0].Name}}},
		"bad rate":        {Services: good, PerIP: Rate{PerSecond: -1, Burst: 1}},
		"negative hops":   {Services: good, ProxyHops: -1},
		"bad times":       {Services: good, Timeout: 2, MaxTimeout: 1},
		"bad route":       {Services: good, Routes: map[string]Route{"x": {Handler: http.NotFoundHandler()}}},
		"no handler":      {Services: good, Routes: map[string]Route{"/x": {}}},
		"no page":         {Services: good, OpenAPI: []byte("{}")},
	} {
		if _, err := New(cfg, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
