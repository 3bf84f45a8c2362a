package rpc

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

// anyCall calls a method of the echo service, unary or streaming, by its name.
func anyCall(ctx context.Context, conn grpc.ClientConnInterface, method string) error {
	for _, d := range echov1.EchoService_ServiceDesc.Streams {
		if "/"+echov1.EchoService_ServiceDesc.ServiceName+"/"+d.StreamName != method {
			continue
		}
		s, err := conn.NewStream(ctx, &d, method)
		if err != nil {
			return err
		}
		if err := s.SendMsg(&echov1.Message{RequestId: "r1"}); err != nil {
			return s.RecvMsg(&echov1.Message{})
		}
		if err := s.CloseSend(); err != nil {
			return err
		}
		if !d.ServerStreams {
			return s.RecvMsg(&echov1.Line{})
		}
		return s.RecvMsg(&echov1.Message{})
	}
	return conn.Invoke(ctx, method, &echov1.Message{RequestId: "r1"}, &echov1.Message{})
}

func methodsOfEcho() []string {
	var all []string
	for _, d := range echov1.EchoService_ServiceDesc.Methods {
		all = append(all, "/"+echov1.EchoService_ServiceDesc.ServiceName+"/"+d.MethodName)
	}
	for _, d := range echov1.EchoService_ServiceDesc.Streams {
		all = append(all, "/"+echov1.EchoService_ServiceDesc.ServiceName+"/"+d.StreamName)
	}
	return all
}

// TestWithoutATokenOnlyPublicMethodsAnswer is hazard B9: it asks every method
// there is, so a new one that is open to all has to be written down here.
func TestWithoutATokenOnlyPublicMethodsAnswer(t *testing.T) {
	public := map[string]bool{echov1.EchoService_Anybody_FullMethodName: true}
	w := newWorld(t)
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		for _, method := range methodsOfEcho() {
			err := anyCall(t.Context(), conn, method)
			if public[method] {
				wantNoError(t, err)
				continue
			}
			wantError(t, err, errs.Unauthenticated, "TOKEN_MISSING")
		}
	})
}

// TestEveryMethodLetsInWhomTheContractNames is the rule of access, in full: a
// person by role; a service by name, and with a person's token by both; the
// gateway for all people.
func TestEveryMethodLetsInWhomTheContractNames(t *testing.T) {
	const a, c, wr, s, o, as, wa, ta, up = "Anybody", "Customers", "Write", "Staff", "OrderOnly", "AnyService", "Watch", "Talk", "Upload"
	w := newWorld(t)
	people, unlisted, missing := "NOT_ALLOWED", "SERVICE_NOT_LISTED", "TOKEN_MISSING"
	for _, row := range []struct {
		name    string
		ctx     context.Context
		conn    grpc.ClientConnInterface
		may     []string
		refusal string
	}{
		{"anybody", t.Context(), w.Conn(), []string{a}, missing},
		{"customer", w.as(t, alice), w.Conn(), []string{a, c, wr, wa, ta, up}, people},
		{"customer over TCP", w.as(t, alice), w.tcp, []string{a, c, wr, wa, ta, up}, people},
		{"staff", w.as(t, sam), w.Conn(), []string{a, c, wr, s, wa, ta, up}, people},
		{"admin", w.as(t, ada), w.Conn(), []string{a, c, wr, s, wa, ta, up}, people},
		{"order", t.Context(), w.ConnAs("order"), []string{wr, o, as}, unlisted},
		{"payment", t.Context(), w.ConnAs("payment"), []string{as}, unlisted},
		{"a service called star", t.Context(), w.ConnAs("*"), []string{as}, unlisted},
		{"order for a customer", w.as(t, alice), w.ConnAs("order"), []string{wr}, ""},
		{"order for an admin", w.as(t, ada), w.ConnAs("order"), []string{wr}, ""},
		{"payment for an admin", w.as(t, ada), w.ConnAs("payment"), nil, ""},
		{"gateway in its own name", t.Context(), w.ConnAs(Gateway), []string{a, as}, people},
		{"gateway for a customer", w.as(t, alice), w.ConnAs(Gateway), []string{a, c, wr, wa, ta, up}, people},
	} {
		t.Run(row.name, func(t *testing.T) {
			for _, method := range methodsOfEcho() {
				err := anyCall(row.ctx, row.conn, method)
				switch {
				case slices.Contains(row.may, method[strings.LastIndex(method, "/")+1:]):
					wantNoError(t, err)
				case row.refusal == missing:
					wantError(t, err, errs.Unauthenticated, missing)
				case row.refusal != "":
					wantError(t, err, errs.PermissionDenied, row.refusal)
				case errs.KindOf(FromStatus(err)) != errs.PermissionDenied:
					t.Errorf("%s: %v", method, err)
				}
			}
		})
	}
}

func TestCredentialsThatAreNoTokenAreRefused(t *testing.T) {
	w := newWorld(t)
	good := "Bearer " + w.token(t, alice)
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		for name, c := range map[string]struct {
			md     metadata.MD
			reason string
		}{
			"empty":          {metadata.Pairs(authorization, ""), "AUTHORIZATION_MALFORMED"},
			"scheme only":    {metadata.Pairs(authorization, "Bearer"), "AUTHORIZATION_MALFORMED"},
			"basic":          {metadata.Pairs(authorization, "Basic dTpw"), "AUTHORIZATION_MALFORMED"},
			"two":            {metadata.Pairs(authorization, good, authorization, good), "AUTHORIZATION_AMBIGUOUS"},
			"nonsense":       {metadata.Pairs(authorization, "Bearer x.y.z"), "TOKEN_INVALID"},
			"dots":           {metadata.Pairs(authorization, "Bearer "+strings.Repeat(".", 4<<10)), "TOKEN_INVALID"},
			"revoked":        {metadata.Pairs(authorization, "Bearer "+w.token(t, auth.Caller{UserID: "u", Role: auth.Admin, SessionID: "s-revoked"})), "SESSION_REVOKED"},
			"another header": {metadata.Pairs("grpc-metadata-authorization", good, "x-authorization", good, "token", good), "TOKEN_MISSING"},
			"claims as headers": {metadata.Pairs("x-user-id", "u-ada", "user-id", "u-ada", "role", "admin", "x-role", "admin", "service", "order",
				"x-waybill-service", "order", MetadataClientIP, "10.0.0.1", "x-forwarded-client-cert", "URI=spiffe://waybill/order"), "TOKEN_MISSING"},
		} {
			t.Run(name, func(t *testing.T) {
				ctx := metadata.NewOutgoingContext(t.Context(), c.md)
				_, err := client(conn).Customers(ctx, &echov1.Message{})
				wantError(t, err, errs.Unauthenticated, c.reason)
				// What is sent must be good even where nothing is needed.
				if _, err = client(conn).Anybody(ctx, &echov1.Message{}); c.reason == "TOKEN_MISSING" {
					wantNoError(t, err)
				} else {
					wantError(t, err, errs.Unauthenticated, c.reason)
				}
			})
		}
	})
}

// seen records what the handler sees of its caller.
type seen struct {
	Caller auth.Caller
	Known  bool
	IP     netip.Addr
}

func (w *world) recordCaller(to *seen) {
	w.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
		to.Caller, to.Known = auth.FromContext(ctx)
		to.IP = ClientIP(ctx)
		return m, nil
	}
}

func TestTheHandlerSeesTheProvedCaller(t *testing.T) {
	w := newWorld(t)
	var got seen
	w.recordCaller(&got)
	local := netip.MustParseAddr("127.0.0.1")
	far := netip.MustParseAddr("203.0.113.7")
	through := func(c auth.Caller, service string) auth.Caller { c.Service = service; return c }
	for _, row := range []struct {
		name string
		ctx  context.Context
		conn grpc.ClientConnInterface
		want seen
	}{
		{"anonymous, TCP", t.Context(), w.tcp, seen{IP: local}},
		{"user, TCP", w.as(t, alice), w.tcp, seen{alice, true, local}},
		{"anonymous, in process", t.Context(), w.Conn(), seen{}},
		{"gateway's client", WithClientIP(t.Context(), far), w.Conn(), seen{IP: far}},
		{"user, in process", w.as(t, alice), w.Conn(), seen{alice, true, netip.Addr{}}},
		{"service", t.Context(), w.ConnAs("order"), seen{auth.Caller{Role: auth.Service, Service: "order"}, true, netip.Addr{}}},
		{"service for a user", w.as(t, alice), w.ConnAs("order"), seen{through(alice, "order"), true, netip.Addr{}}},
		{"a service that lies", metadata.AppendToOutgoingContext(t.Context(), MetadataService, "order"), w.tcp, seen{IP: local}},
		{"a context that lies", auth.WithCaller(t.Context(), ada), w.Conn(), seen{}},
		{"an address that lies", metadata.AppendToOutgoingContext(t.Context(), MetadataClientIP, "203.0.113.7"), w.tcp, seen{IP: local}},
	} {
		t.Run(row.name, func(t *testing.T) {
			got = seen{}
			var err error
			if row.want.Caller.Service == "" {
				_, err = client(row.conn).Anybody(row.ctx, &echov1.Message{})
			} else {
				_, err = client(row.conn).Write(row.ctx, &echov1.Message{RequestId: "r1"})
			}
			wantNoError(t, err)
			if diff := cmp.Diff(row.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAUsersTokenGoesOnWithTheCallsThatAUsersCallCauses(t *testing.T) {
	inner := newWorld(t)
	var got seen
	inner.recordCaller(&got)
	// Both servers trust the same keys, as all services of one system do.
	outer := newWorld(t, func(_ *Config, d *Deps) { d.Verifier = inner.deps.Verifier })
	asOrder := inner.ConnAs("order")
	forwarding, silent := inner.dial(t, DialConfig{ForwardToken: true}), inner.dial(t, DialConfig{})
	var call func(ctx context.Context) error
	outer.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) { return m, call(ctx) }
	on := func(conn grpc.ClientConnInterface, change func(context.Context) context.Context) func(context.Context) error {
		return func(ctx context.Context) error {
			call := client(conn).Anybody
			if conn == asOrder {
				call = client(conn).Write
			}
			_, err := call(change(ctx), &echov1.Message{RequestId: "r1"})
			return err
		}
	}
	same := func(ctx context.Context) context.Context { return ctx }
	another := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, authorization, "Bearer "+inner.token(t, bob))
	}
	service := auth.Caller{Role: auth.Service, Service: "order"}
	forAlice := alice
	forAlice.Service = "order"
	forBob := bob
	forBob.Service = "order"
	for _, row := range []struct {
		name string
		call func(context.Context) error
		want auth.Caller
	}{
		{"in process", on(asOrder, same), forAlice},
		{"in process, in its own name", on(asOrder, InOwnName), service},
		{"in process, with another token", on(asOrder, another), forBob},
		{"TCP", on(forwarding, same), alice},
		{"TCP, in its own name", on(forwarding, InOwnName), auth.Caller{}},
		{"TCP, not told to", on(silent, same), auth.Caller{}},
		{"TCP, with another token", on(forwarding, another), bob},
	} {
		for _, conn := range []grpc.ClientConnInterface{outer.Conn(), outer.tcp} {
			t.Run(row.name, func(t *testing.T) {
				got, call = seen{}, row.call
				_, err := client(conn).Customers(inner.as(t, alice), &echov1.Message{})
				wantNoError(t, err)
				if diff := cmp.Diff(row.want, got.Caller); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestOnlyATrustedProxySpeaksForItsClients(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *Deps) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	var got seen
	w.recordCaller(&got)
	for header, want := range map[string]string{"203.0.113.7": "203.0.113.7", "::ffff:203.0.113.8": "203.0.113.8", "nonsense": "127.0.0.1"} {
		_, err := client(w.tcp).Anybody(metadata.AppendToOutgoingContext(t.Context(), MetadataClientIP, header), &echov1.Message{})
		wantNoError(t, err)
		if got.IP.String() != want {
			t.Errorf("%s became %s", header, got.IP)
		}
	}
	_, err := client(w.tcp).Anybody(metadata.AppendToOutgoingContext(t.Context(), MetadataClientIP, "203.0.113.7", MetadataClientIP, "203.0.113.8"), &echov1.Message{})
	wantNoError(t, err)
	if got.IP.String() != "127.0.0.1" {
		t.Errorf("two headers became %s", got.IP)
	}
	far := newWorld(t, func(c *Config, _ *Deps) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	far.recordCaller(&got)
	_, err = client(far.tcp).Anybody(metadata.AppendToOutgoingContext(t.Context(), MetadataClientIP, "203.0.113.7"), &echov1.Message{})
	wantNoError(t, err)
	if got.IP.String() != "127.0.0.1" {
		t.Errorf("somebody else's word became %s", got.IP)
	}
}

func TestProbesNeedNoToken(t *testing.T) {
	w := newWorld(t)
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		watch, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{})
		wantNoError(t, err)
		for {
			got, err := watch.Recv()
			wantNoError(t, err)
			if got.GetStatus() == grpc_health_v1.HealthCheckResponse_SERVING {
				break
			}
		}
		_, err = grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "unknown"})
		if got := FromStatus(err); errs.KindOf(got) != errs.NotFound {
			t.Errorf("an unknown service: %v", err)
		}
	})
}
