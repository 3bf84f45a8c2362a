package rpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

// edge is a process of the gateway in front of a world elsewhere: the echo runs
// there, under mutual TLS.
type edge struct {
	*Server
	far  *world
	conn *grpc.ClientConn // a person's
	addr string
}

func newEdge(t testing.TB, change func(*Public, *Config), opts ...option) *edge {
	t.Helper()
	r := newRealm(t)
	i, _ := r.identity(t, "echo", time.Hour)
	far := newWorld(t, append(opts, r.serving(i))...)
	public := Public{Forward: map[string]grpc.ClientConnInterface{echov1.EchoService_ServiceDesc.ServiceName: r.from(t, far, "edge")}}
	return publish(t, far, public, change)
}

// publish serves the public side of a server that has no services of its own.
func publish(t testing.TB, far *world, public Public, change func(*Public, *Config)) *edge {
	t.Helper()
	cfg := Config{Reflection: true}
	if change != nil {
		change(&public, &cfg)
	}
	s, err := NewServer(cfg, Deps{Log: slog.New(slog.DiscardHandler), Verifier: far.deps.Verifier})
	wantNoErrorTB(t, err)
	s.SetPublic(public)
	wantNoErrorTB(t, s.Build())
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	wantNoErrorTB(t, err)
	e := &edge{Server: s, far: far, addr: lis.Addr().String()}
	served := make(chan error, 1)
	go func() { served <- s.ServePublic(lis) }()
	e.conn = e.dial(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return e
}

func (e *edge) dial(t testing.TB) *grpc.ClientConn {
	t.Helper()
	w := world{addr: e.addr}
	return w.plain(t)
}

func TestEveryKindOfCallIsHandedOn(t *testing.T) {
	e := newEdge(t, nil)
	c, ctx := client(e.conn), e.far.as(t, alice)
	full := &echov1.Message{RequestId: "r1", Name: "é", Amount: 1 << 60, Lines: []*echov1.Line{{Sku: "a", Quantity: 1}, {Sku: "b", Quantity: 2}}, Labels: map[string]string{"k": "v"}}
	got, err := c.Write(ctx, full)
	wantNoError(t, err)
	if diff := cmp.Diff(full, got, protocmp.Transform()); diff != "" {
		t.Errorf("unary: %s", diff)
	}
	e.far.echo.watch = func(m *echov1.Message, out grpc.ServerStreamingServer[echov1.Message]) error {
		for range 5 {
			if err := out.Send(m); err != nil {
				return err
			}
		}
		return nil
	}
	watch, err := c.Watch(ctx, full)
	wantNoError(t, err)
	for range 5 {
		got, err := watch.Recv()
		wantNoError(t, err)
		if diff := cmp.Diff(full, got, protocmp.Transform()); diff != "" {
			t.Errorf("server stream: %s", diff)
		}
	}
	if _, err := watch.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the server stream ended with %v", err)
	}
	upload, err := c.Upload(ctx)
	wantNoError(t, err)
	for range 7 {
		wantNoError(t, upload.Send(full))
	}
	line, err := upload.CloseAndRecv()
	wantNoError(t, err)
	if line.GetQuantity() != 7 {
		t.Errorf("client stream: %d messages came", line.GetQuantity())
	}
	talk, err := c.Talk(ctx)
	wantNoError(t, err)
	for i := range 5 { // each is answered before the next is sent
		wantNoError(t, talk.Send(&echov1.Message{Amount: int64(i)}))
		got, err := talk.Recv()
		wantNoError(t, err)
		if got.GetAmount() != int64(i) {
			t.Errorf("both ways: %d came back for %d", got.GetAmount(), i)
		}
	}
	wantNoError(t, talk.CloseSend())
	if _, err := talk.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream both ways ended with %v", err)
	}
}

func TestBehindThePublicSideTheSameRulesHold(t *testing.T) {
	e := newEdge(t, nil)
	for _, who := range []context.Context{t.Context(), e.far.as(t, alice), e.far.as(t, sam), e.far.as(t, ada), withToken(t.Context(), "x.y.z")} {
		for _, method := range methodsOfEcho() {
			direct, through := anyCall(who, e.far.Conn(), method), anyCall(who, e.conn, method)
			if d, h := errs.ReasonOf(FromStatus(direct)), errs.ReasonOf(FromStatus(through)); d != h || status.Code(direct) != status.Code(through) {
				t.Errorf("%s: %v within, %v through the public side", method, direct, through)
			}
		}
	}
}

func TestOnlyWhatServicesMaySeeIsHandedOn(t *testing.T) {
	e := newEdge(t, nil)
	var got metadata.MD
	var who seen
	e.far.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
		got, _ = metadata.FromIncomingContext(ctx)
		who.IP = ClientIP(ctx)
		return m, nil
	}
	ctx := metadata.AppendToOutgoingContext(e.far.as(t, alice), "x-request-id", "q1", "idempotency-key", "k1",
		MetadataService, "order", MetadataClientIP, "203.0.113.7", "x-forwarded-for", "203.0.113.8", "x-user-id", "u-ada", "cookie", "c", "secret-bin", "\x00",
		"x-forwarded-client-cert", "URI=spiffe://example.org/ns/shop/sa/order", "grpc-metadata-role", "admin")
	_, err := client(e.conn).Customers(ctx, &echov1.Message{})
	wantNoError(t, err)
	maps.DeleteFunc(got, func(name string, _ []string) bool {
		return strings.HasPrefix(name, ":") || strings.HasPrefix(name, "grpc-") || name == "content-type" || name == "user-agent"
	})
	want := []string{"authorization", "idempotency-key", "x-request-id", MetadataClientIP, "x-waybill-user-agent"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Error(diff)
	}
	if who.IP != netip.MustParseAddr("127.0.0.1") {
		t.Errorf("the client became %s", who.IP)
	}
}

func TestTheAddressOfAClientIsThatWhichTheOutermostTrustedProxySaw(t *testing.T) {
	for hops, want := range map[int]string{0: "127.0.0.1", 1: "203.0.113.9", 2: "203.0.113.8", 5: "198.51.100.1"} {
		e := newEdge(t, func(p *Public, _ *Config) { p.ProxyHops = hops })
		var got seen
		e.far.recordCaller(&got)
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-forwarded-for", "198.51.100.1, 203.0.113.8", "x-forwarded-for", "203.0.113.9")
		_, err := client(e.conn).Anybody(ctx, &echov1.Message{})
		wantNoError(t, err)
		if got.IP.String() != want {
			t.Errorf("behind %d proxies the client is %s, want %s", hops, got.IP, want)
		}
	}
}

func TestWhatAServiceAnswersComesBackWhole(t *testing.T) {
	e := newEdge(t, nil)
	refusal := errs.E(errs.FailedPrecondition, "TOO_LATE", "it has gone").WithFields(errs.Field{Path: "name", Problem: "gone"}).WithRetryAfter(3 * time.Second)
	e.far.echo.unary = func(ctx context.Context, _ *echov1.Message) (*echov1.Message, error) {
		return nil, errors.Join(grpc.SetHeader(ctx, metadata.Pairs("x-h", "1")), grpc.SetTrailer(ctx, metadata.Pairs("x-t", "2")), refusal)
	}
	e.far.echo.talk = func(s grpc.BidiStreamingServer[echov1.Message, echov1.Message]) error {
		s.SetTrailer(metadata.Pairs("x-t", "2"))
		if err := s.SendHeader(metadata.Pairs("x-h", "1")); err != nil {
			return err
		}
		if _, err := s.Recv(); err != nil {
			return err
		}
		return refusal
	}
	check := func(err error, header, trailer metadata.MD) {
		t.Helper()
		if want := Status(refusal, ""); !proto.Equal(status.Convert(err).Proto(), want.Proto()) {
			t.Errorf("got %v, want %v", status.Convert(err).Proto(), want.Proto())
		}
		if header.Get("x-h") == nil || trailer.Get("x-t") == nil {
			t.Errorf("headers %v, trailers %v", header, trailer)
		}
	}
	var header, trailer metadata.MD
	_, err := client(e.conn).Customers(e.far.as(t, alice), &echov1.Message{}, grpc.Header(&header), grpc.Trailer(&trailer))
	check(err, header, trailer)
	talk, err := client(e.conn).Talk(e.far.as(t, alice))
	wantNoError(t, err)
	header, err = talk.Header() // before anything was said
	wantNoError(t, err)
	wantNoError(t, talk.Send(&echov1.Message{}))
	_, err = talk.Recv()
	check(err, header, talk.Trailer())

	e.far.echo.unary = func(context.Context, *echov1.Message) (*echov1.Message, error) { return nil, errors.New("secret") }
	_, err = client(e.conn).Anybody(t.Context(), &echov1.Message{})
	if st := status.Convert(err); st.Code() != codes.Internal || st.Message() != "internal error" {
		t.Errorf("an internal error became %v", st)
	}
}

func TestACallThatIsGivenUpIsGivenUpEverywhere(t *testing.T) {
	e := newEdge(t, nil)
	entered, over := make(chan time.Duration, 1), make(chan error, 1)
	wait := func(ctx context.Context) error {
		end, ok := ctx.Deadline()
		if !ok {
			end = time.Now()
		}
		entered <- time.Until(end)
		<-ctx.Done()
		over <- ctx.Err()
		return ctx.Err()
	}
	e.far.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) { return m, wait(ctx) }
	e.far.echo.watch = func(_ *echov1.Message, out grpc.ServerStreamingServer[echov1.Message]) error {
		return wait(out.Context())
	}
	e.far.echo.talk = func(s grpc.BidiStreamingServer[echov1.Message, echov1.Message]) error { return wait(s.Context()) }
	for _, method := range []string{echov1.EchoService_Customers_FullMethodName, echov1.EchoService_Watch_FullMethodName, echov1.EchoService_Talk_FullMethodName} {
		ctx, cancel := context.WithTimeout(e.far.as(t, alice), 20*time.Second)
		done := make(chan error, 1)
		go func() { done <- anyCall(ctx, e.conn, method) }()
		if left := <-entered; method == echov1.EchoService_Customers_FullMethodName && (left < 0 || left > 20*time.Second) {
			t.Errorf("%s: %s are left of 20 s", method, left)
		}
		cancel()
		<-over
		if err := <-done; status.Code(err) != codes.Canceled {
			t.Errorf("%s ended with %v", method, err)
		}
	}
	// Without a wish of the client's the usual deadline holds.
	ctx, cancel := context.WithCancel(e.far.as(t, alice))
	go func() { _ = anyCall(ctx, e.conn, echov1.EchoService_Customers_FullMethodName) }()
	if left := <-entered; left <= 0 || left > 10*time.Second {
		t.Errorf("%s are left without a deadline", left)
	}
	cancel()
	<-over
}

// TestASlowReaderSlowsItsServiceDown sends far more than all buffers on the way
// hold: whatever does not wait for the reader would have sent all of it.
func TestASlowReaderSlowsItsServiceDown(t *testing.T) {
	e := newEdge(t, nil)
	const all = 20_000
	var sent atomic.Int64
	big := &echov1.Message{Labels: map[string]string{"x": strings.Repeat("x", 32<<10)}}
	e.far.echo.watch = func(_ *echov1.Message, out grpc.ServerStreamingServer[echov1.Message]) error {
		for range all {
			if err := out.Send(big); err != nil {
				return err
			}
			sent.Add(1)
		}
		return nil
	}
	watch, err := client(e.conn).Watch(e.far.as(t, alice), &echov1.Message{})
	wantNoError(t, err)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for still, last := 0, int64(-1); still < 20; <-tick.C {
		if now := sent.Load(); now != last || now == 0 {
			still, last = 0, now
		} else {
			still++
		}
	}
	if n := sent.Load(); n == all {
		t.Errorf("all %d messages were sent to a client that reads none", n)
	}
	for range 1000 { // it goes on when it is read
		_, err := watch.Recv()
		wantNoError(t, err)
	}
}

func TestMessagesThatAreTooLargeStopAtThePublicSide(t *testing.T) {
	e := newEdge(t, nil)
	huge := &echov1.Message{Labels: map[string]string{"x": strings.Repeat("x", 2<<20)}}
	for _, method := range []string{echov1.EchoService_Anybody_FullMethodName, echov1.EchoService_Watch_FullMethodName, echov1.EchoService_Upload_FullMethodName, echov1.EchoService_Talk_FullMethodName} {
		s, err := e.conn.NewStream(e.far.as(t, alice), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
		wantNoError(t, err)
		wantNoError(t, s.SendMsg(huge))
		if err := s.RecvMsg(&echov1.Message{}); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestAConnectionHasABoundedNumberOfCalls(t *testing.T) {
	e := newEdge(t, func(p *Public, _ *Config) { p.MaxStreams = 2 })
	e.far.watching()
	for range 2 {
		open(e.far.as(t, alice), t, e.conn, true)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := client(e.conn).Anybody(ctx, &echov1.Message{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a third call: %v", err)
	}
	_, err := client(e.dial(t)).Anybody(t.Context(), &echov1.Message{})
	wantNoError(t, err)
}

func TestReflectionAndHealthKnowAllServices(t *testing.T) {
	e := newEdge(t, nil)
	echo := echov1.EchoService_ServiceDesc.ServiceName
	s, err := reflectionv1.NewServerReflectionClient(e.conn).ServerReflectionInfo(t.Context())
	wantNoError(t, err)
	wantNoError(t, s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}))
	resp, err := s.Recv()
	wantNoError(t, err)
	if !strings.Contains(resp.String(), echo) {
		t.Errorf("reflection knows of %s", resp)
	}
	h := grpc_health_v1.NewHealthClient(e.conn)
	list, err := h.List(t.Context(), &grpc_health_v1.HealthListRequest{})
	wantNoError(t, err)
	if got := list.GetStatuses()[echo].GetStatus(); got != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Errorf("the list says %s", got)
	}
	for service, want := range map[string]codes.Code{echo: codes.OK, "": codes.OK, "nothing": codes.NotFound} {
		got, err := h.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if status.Code(err) != want || err == nil && got.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
			t.Errorf("%q is %s, %v", service, got, err)
		}
	}
	watch, err := h.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: echo})
	wantNoError(t, err)
	for _, want := range []grpc_health_v1.HealthCheckResponse_ServingStatus{grpc_health_v1.HealthCheckResponse_SERVING, grpc_health_v1.HealthCheckResponse_NOT_SERVING} {
		got, err := watch.Recv()
		wantNoError(t, err)
		if got.GetStatus() != want {
			t.Errorf("the watch says %s, want %s", got.GetStatus(), want)
		}
		e.far.Drain()
	}
	got, err := h.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: echo})
	if err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("a service that drains is %s, %v", got, err)
	}
}

func TestAServiceThatIsAwayIsUnavailableAndNoMoreIsTold(t *testing.T) {
	far := newWorld(t)
	gone := (&world{addr: "127.0.0.1:1"}).dial(t, DialConfig{})
	echo := echov1.EchoService_ServiceDesc.ServiceName
	e := publish(t, far, Public{Forward: map[string]grpc.ClientConnInterface{echo: gone}}, nil)
	for _, method := range []string{echov1.EchoService_Anybody_FullMethodName, echov1.EchoService_Talk_FullMethodName} {
		err := anyCall(t.Context(), e.conn, method)
		if status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("%s: %v", method, err)
		}
	}
	got, err := grpc_health_v1.NewHealthClient(e.conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: echo})
	if err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("it is %s, %v", got, err)
	}
}

func TestStoppingThePublicSideEndsItsStreams(t *testing.T) {
	e := newEdge(t, nil)
	e.far.watching()
	watch := open(e.far.as(t, alice), t, e.conn, false)
	stopped := make(chan error, 1)
	go func() { stopped <- e.Stop(t.Context()) }()
	for {
		if _, err := watch.Recv(); err != nil {
			wantError(t, err, errs.Unavailable, "SERVER_STOPPING")
			break
		}
	}
	wantNoError(t, <-stopped)
}

func TestWhatIsServedIsNotForwarded(t *testing.T) {
	w := newWorld(t)
	s, err := NewServer(Config{}, w.deps)
	wantNoError(t, err)
	echov1.RegisterEchoServiceServer(s, w.echo)
	s.SetPublic(Public{Forward: map[string]grpc.ClientConnInterface{echov1.EchoService_ServiceDesc.ServiceName: w.tcp}})
	if err := s.Build(); err == nil || !strings.Contains(err.Error(), "both served and forwarded") {
		t.Errorf("got %v", err)
	}
	s, err = NewServer(Config{}, w.deps)
	wantNoError(t, err)
	s.SetPublic(Public{Forward: map[string]grpc.ClientConnInterface{"x.Y": w.tcp}})
	if err := s.Build(); err == nil || !strings.Contains(err.Error(), "no contract for service x.Y") {
		t.Errorf("got %v", err)
	}
}

func TestALocalServiceOnThePublicSideSeesPeopleOnly(t *testing.T) {
	r := newRealm(t)
	i, _ := r.identity(t, "echo", time.Hour)
	w := newWorld(t, r.serving(i), func(c *Config, _ *Deps) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	s, err := NewServer(w.cfg, w.deps)
	wantNoError(t, err)
	echov1.RegisterEchoServiceServer(s, w.echo)
	s.SetPublic(Public{})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	wantNoError(t, err)
	served := make(chan error, 1)
	go func() { served <- s.ServePublic(lis) }()
	defer func() { wantNoError(t, s.Stop(context.Background())); wantNoError(t, <-served) }()
	conn := (&world{addr: lis.Addr().String()}).plain(t)
	var got seen
	w.recordCaller(&got)
	ctx := metadata.AppendToOutgoingContext(w.as(t, alice), MetadataService, "order", MetadataClientIP, "203.0.113.7")
	wantNoError(t, anyCall(ctx, conn, echov1.EchoService_Customers_FullMethodName))
	if got.Caller != alice || got.IP.String() != "127.0.0.1" {
		t.Errorf("the handler saw %+v", got)
	}
	wantError(t, anyCall(t.Context(), As(conn, "order"), echov1.EchoService_OrderOnly_FullMethodName), errs.Unauthenticated, "TOKEN_MISSING")
}
