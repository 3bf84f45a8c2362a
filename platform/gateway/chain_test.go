package gateway

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/rpc"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// guarded is a real server in front of services, and tokens for it.
type guarded struct {
	server *rpc.Server
	signer *auth.Signer
}

func newGuarded(t testing.TB, register func(grpc.ServiceRegistrar), tp trace.TracerProvider, mp metric.MeterProvider) *guarded {
	t.Helper()
	signer, err := auth.NewSigner(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), 10*time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	keys := auth.KeySourceFunc(func(context.Context) (auth.KeySet, error) {
		return auth.KeySet{Keys: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{signer.Public()}}}, nil
	})
	s, err := rpc.NewServer(rpc.Config{}, rpc.Deps{
		Log: slog.New(slog.DiscardHandler), Verifier: auth.NewVerifier(keys, auth.VerifierConfig{}), Tracer: tp, Meter: mp,
	})
	if err != nil {
		t.Fatal(err)
	}
	register(s)
	if err := s.Build(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	return &guarded{s, signer}
}

// bearer gives the header of somebody with a role.
func (g *guarded) bearer(t testing.TB, role auth.Role) string {
	t.Helper()
	token, _, err := g.signer.Sign(auth.Caller{UserID: "0197a1f0-0000-7000-8000-00000000000a", Role: role, SessionID: "0197a1f0-0000-7000-8000-00000000000b"})
	if err != nil {
		t.Fatal(err)
	}
	return "Authorization: Bearer " + token
}

// newGuardedWorld is a world whose services are behind the whole chain, in one process.
func newGuardedWorld(t *testing.T) (*world, *guarded) {
	t.Helper()
	var g *guarded
	w := newWorld(t, func(s *stub, t testing.TB) grpc.ClientConnInterface {
		g = newGuarded(t, s.register, nil, nil)
		return g.server.Conn()
	}, nil)
	return w, g
}

func TestNoPathLeadsPastTheChain(t *testing.T) {
	w, g := newGuardedWorld(t)
	routes, err := findRoutes(services(g.server.Conn()))
	if err != nil {
		t.Fatal(err)
	}
	open, closed := 0, 0
	for _, r := range routes {
		path := pathVariable.ReplaceAllString(r.path, orderID)
		body := ""
		if r.body != nil || r.raw != nil {
			body = "{}"
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(strings.TrimPrefix(r.rpc, "/"), "/", ".")))
		if err != nil {
			t.Fatal(err)
		}
		access, _ := proto.GetExtension(d.Options(), optionsv1.E_Access).(*optionsv1.Access)
		if access.GetPublic() {
			open++
			continue
		}
		closed++
		for _, headers := range [][]string{nil, {"Authorization: "}, {"Authorization: Bearer"}, {"Authorization: Basic YTpi"}, {"Authorization: Bearer not.a.token"}} {
			a := w.do(t, r.httpMethod, path, body, headers...)
			if a.status != 401 || a.header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s with %q: %d %s", r.httpMethod, path, headers, a.status, a.body)
			}
		}
	}
	if reqs, _ := w.reached(); len(reqs) != 0 {
		t.Errorf("%d calls reached the services", len(reqs))
	}
	t.Logf("%d paths closed, %d open", closed, open)
	if closed < 10 {
		t.Error("too few")
	}
}

func TestRolesAreThoseOfTheContract(t *testing.T) {
	w, g := newGuardedWorld(t)
	path, body := "/v1/products/"+productID+":adjustStock", `{"delta":5,"reason":"delivery"}`
	if a := w.do(t, "POST", path, body, g.bearer(t, auth.Customer), "Idempotency-Key: k"); a.status != 403 {
		t.Errorf("customer: %d %s", a.status, a.body)
	}
	if reqs, _ := w.reached(); len(reqs) != 0 {
		t.Error("it reached the service")
	}
	if a := w.do(t, "POST", path, body, g.bearer(t, auth.Staff), "Idempotency-Key: k"); a.status != 200 {
		t.Errorf("staff: %d %s", a.status, a.body)
	}
}

func TestTheRulesOfFieldsHoldOverREST(t *testing.T) {
	w, g := newGuardedWorld(t)
	customer := g.bearer(t, auth.Customer)
	id := func(s string) string { return order(productID, s) }
	for name, c := range map[string]struct {
		body, want string
	}{
		"quantity 0":      {quantity("0"), "lines[0].quantity"},
		"quantity -1":     {quantity("-1"), "lines[0].quantity"},
		"quantity 1001":   {quantity("1001"), "lines[0].quantity"},
		"no lines":        {order(`[{"product_id":"`+productID+`","quantity":2}]`, `[]`), "lines"},
		"id with spaces":  {id(" " + productID), "lines[0].product_id"},
		"id in capitals":  {id(strings.ToUpper(orderID[:8]) + "A" + productID[9:]), "lines[0].product_id"},
		"nil id":          {id("00000000-0000-0000-0000-000000000000"), "lines[0].product_id"},
		"id of SQL":       {id("' OR 1=1 --"), "lines[0].product_id"},
		"id of an emoji":  {id("😀"), "lines[0].product_id"},
		"id from right":   {id(`\u202e` + productID), "lines[0].product_id"},
		"card number":     {order("tok_ok", "4242424242424242"), "payment_token"},
		"currency XXX":    {order(`"payment_token"`, `"expected_total":{"minor_units":"1","currency_code":"XXX"},"payment_token"`), "expected_total.currency_code"},
		"line break":      {order("Ann", `A\nn`), "ship_to.recipient"},
		"text from right": {order("Ann", `A\u202en`), "ship_to.recipient"},
	} {
		a := w.do(t, "POST", "/v1/orders", c.body, customer, "Idempotency-Key: k")
		if a.status != 400 || !strings.Contains(a.body, `"field":"`+c.want) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := w.do(t, "POST", "/v1/orders", createBody, customer); a.status != 400 || !strings.Contains(a.body, "Idempotency-Key") {
		t.Errorf("without a key: %d %s", a.status, a.body)
	}
	if a := w.do(t, "GET", "/v1/orders/nonsense", "", customer); a.status != 400 {
		t.Errorf("an id in the path: %d %s", a.status, a.body)
	}
	if reqs, _ := w.reached(); len(reqs) != 0 {
		t.Errorf("%d calls reached the service", len(reqs))
	}
	if a := w.do(t, "POST", "/v1/orders", createBody, customer, "Idempotency-Key: k"); a.status != 200 {
		t.Errorf("a good one: %d %s", a.status, a.body)
	}
}

func TestAStreamGoesThroughTheChainToo(t *testing.T) {
	w, g := newGuardedWorld(t)
	w.watch = entries(2)
	s := w.open(t, watchPath, acceptEvents, g.bearer(t, auth.Customer))
	for _, want := range []string{"tok-1", "tok-2", ""} {
		if ev, ok := s.next(); !ok || ev.id != want {
			t.Errorf("got %+v", ev)
		}
	}
	if a := w.do(t, "GET", "/v1/orders/nonsense:watch", "", acceptEvents, g.bearer(t, auth.Customer)); a.status != 400 {
		t.Errorf("%d %s", a.status, a.body)
	}
	// A server that stops says so on its streams.
	w.watch = func(_ *orderv1.WatchOrderRequest, out watchStream) error {
		if err := out.Send(message(1)); err != nil {
			return err
		}
		<-out.Context().Done()
		return context.Cause(out.Context())
	}
	s = w.open(t, watchPath, acceptEvents, g.bearer(t, auth.Customer))
	if ev, _ := s.next(); ev.id != "tok-1" {
		t.Errorf("got %+v", ev)
	}
	if err := g.server.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if ev, _ := s.next(); ev.name != "error" || !strings.Contains(ev.data, "UNAVAILABLE") {
		t.Errorf("got %+v", ev)
	}
}

func TestLimitsSeeTheClientAndNotTheGateway(t *testing.T) {
	var seen string
	s := &stub{}
	g := newGuarded(t, s.register, nil, nil)
	s.ip = func(ctx context.Context) { seen = rpc.ClientIP(ctx).String() }
	gw, err := New(Config{Services: services(g.server.Conn()), ProxyHops: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "/v1/products/"+productID, nil)
	r.Header.Set("X-Forwarded-For", "1.1.1.1, 203.0.113.9")
	w := httptest.NewRecorder()
	gw.ServeHTTP(w, r)
	if w.Code != 200 || seen != "203.0.113.9" {
		t.Errorf("%d %s: %q", w.Code, w.Body, seen)
	}
}
