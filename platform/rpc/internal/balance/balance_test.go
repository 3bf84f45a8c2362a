package balance

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"
)

// backend is a server whose List calls fail as it is told; its health is apart.
type backend struct {
	*health.Server
	addr  string
	calls atomic.Int64
	fails atomic.Uint32 // the code
}

// List implements grpc_health_v1.HealthServer; here it is just any call.
func (b *backend) List(context.Context, *grpc_health_v1.HealthListRequest) (*grpc_health_v1.HealthListResponse, error) {
	b.calls.Add(1)
	return &grpc_health_v1.HealthListResponse{}, status.Error(codes.Code(b.fails.Load()), "as told")
}

func serve(t *testing.T, addr string) *backend {
	t.Helper()
	lis, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{Server: health.NewServer(), addr: lis.Addr().String()}
	srv := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, b)
	var done sync.WaitGroup
	done.Go(func() { _ = srv.Serve(lis) })
	t.Cleanup(func() { srv.Stop(); done.Wait() })
	return b
}

// dial gives a client of addrs with the policy's settings.
func dial(t *testing.T, cfg Config, addrs ...string) grpc_health_v1.HealthClient {
	t.Helper()
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := manual.NewBuilderWithScheme("test")
	var state resolver.State
	for _, a := range addrs {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	r.InitialState(state)
	conn, err := grpc.NewClient("test:///x", grpc.WithResolvers(r), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(fmt.Sprintf(`{"loadBalancingConfig": [{%q: %s}], "healthCheckConfig": {"serviceName": ""}}`, Name, text)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return grpc_health_v1.NewHealthClient(conn)
}

func call(t *testing.T, c grpc_health_v1.HealthClient) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := c.List(ctx, &grpc_health_v1.HealthListRequest{}, grpc.WaitForReady(true))
	return err
}

// until calls until ok.
func until(t *testing.T, c grpc_health_v1.HealthClient, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("it did not happen within 30 s")
		}
		_ = call(t, c)
	}
}

// share gives how many of the next n calls each server got.
func share(t *testing.T, c grpc_health_v1.HealthClient, n int, all ...*backend) []int64 {
	t.Helper()
	before := make([]int64, len(all))
	for i, b := range all {
		before[i] = b.calls.Load()
	}
	for range n {
		_ = call(t, c)
	}
	for i, b := range all {
		before[i] = b.calls.Load() - before[i]
	}
	return before
}

func three(t *testing.T) []*backend {
	return []*backend{serve(t, "127.0.0.1:0"), serve(t, "127.0.0.1:0"), serve(t, "127.0.0.1:0")}
}

// connected waits until every server was called.
func connected(t *testing.T, c grpc_health_v1.HealthClient, all []*backend) {
	t.Helper()
	for _, b := range all {
		n := b.calls.Load()
		until(t, c, func() bool { return b.calls.Load() > n })
	}
}

var quick = Config{Interval: 20 * time.Millisecond, Ejection: time.Hour}

func TestAServerThatFailsItsCallsIsLeftAlone(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.Internal, codes.Unknown} {
		all := three(t)
		c := dial(t, quick, all[0].addr, all[1].addr, all[2].addr)
		connected(t, c, all)
		all[1].fails.Store(uint32(code))
		until(t, c, func() bool { return share(t, c, 30, all...)[1] == 0 })
		if got := share(t, c, 300, all...); got[1] != 0 || got[0] < 140 || got[2] < 140 {
			t.Errorf("%s: the calls went %v", code, got)
		}
	}
}

func TestAServerThatIsWellAgainIsCalledAgain(t *testing.T) {
	all := three(t)
	cfg := quick
	cfg.Ejection = 50 * time.Millisecond
	c := dial(t, cfg, all[0].addr, all[1].addr, all[2].addr)
	connected(t, c, all)
	all[1].fails.Store(uint32(codes.Internal))
	until(t, c, func() bool { return share(t, c, 30, all...)[1] == 0 })
	all[1].fails.Store(0)
	until(t, c, func() bool { return share(t, c, 30, all...)[1] == 10 })
}

// What all of them fail is no server's fault.
func TestServersThatAllFailAreAllCalled(t *testing.T) {
	all := three(t)
	c := dial(t, quick, all[0].addr, all[1].addr, all[2].addr)
	connected(t, c, all)
	for _, b := range all {
		b.fails.Store(uint32(codes.Unavailable))
	}
	share(t, c, 2000, all...)
	for i, n := range share(t, c, 300, all...) {
		if n != 100 {
			t.Errorf("server %d got %d of 300 calls", i, n)
		}
	}
}

// What they did before, well, is no measure for the first to fail.
func TestServersThatAllFailAtOnceAreAllCalled(t *testing.T) {
	all := three(t)
	c := dial(t, Config{Interval: time.Hour, Ejection: time.Hour}, all[0].addr, all[1].addr, all[2].addr)
	connected(t, c, all)
	share(t, c, 1000, all...)
	for _, b := range all {
		b.fails.Store(uint32(codes.Unavailable))
	}
	for i, n := range share(t, c, 300, all...) {
		if n != 100 {
			t.Errorf("server %d got %d of 300 calls", i, n)
		}
	}
}

// fakes gives a policy's inside with n servers that no network is behind.
func fakes(n int) (*conn, []*server) {
	c := &conn{cfg: Config{Interval: time.Hour, Calls: 10, Ejection: time.Hour}, servers: map[balancer.SubConn]*server{}}
	c.judged.Store(math.MaxInt64)
	var all []*server
	for range n {
		s := &server{conn: c}
		s.resting.Store(true)
		c.servers[&struct{ balancer.SubConn }{}] = s
		all = append(all, s)
	}
	return c, all
}

// forget takes s away, as when its connection is shut down.
func (c *conn) forget(s *server) {
	for sub, o := range c.servers {
		if o == s {
			c.remove(sub)
		}
	}
}

// each ends n calls of every server, in turn.
func each(n int, code codes.Code, servers ...*server) {
	for range n {
		for _, s := range servers {
			s.done(balancer.DoneInfo{Err: status.Error(code, "as told")})
		}
	}
}

func ejected(servers []*server) []bool {
	out := make([]bool, len(servers))
	for i, s := range servers {
		out[i] = s.until.Load() > time.Now().UnixNano()
	}
	return out
}

func TestAServerIsComparedWithWhatTheOthersDidInTheSameTime(t *testing.T) {
	for name, tc := range map[string]struct {
		play func(*conn, []*server)
		want []bool
	}{
		"it came when all began to fail": {func(_ *conn, s []*server) {
			each(100, codes.OK, s[0], s[1])
			each(1, codes.OK, s[2])
			each(9, codes.Unavailable, s...)
		}, []bool{false, false, false}},
		"it came back when all began to fail": {func(c *conn, s []*server) {
			each(20, codes.OK, s...)
			each(10, codes.Unavailable, s[2])
			each(10, codes.OK, s[0], s[1])
			each(20, codes.Unavailable, s[2]) // they were begun before
			each(100, codes.OK, s[0], s[1])
			s[2].until.Store(1)
			each(1, codes.OK, s[2])
			each(9, codes.Unavailable, s...)
		}, []bool{false, false, false}},
		"all failed, and all but one are well again": {func(_ *conn, s []*server) {
			each(1000, codes.Unavailable, s...)
			for range 20 {
				each(1, codes.OK, s[0], s[1])
				each(1, codes.Unavailable, s[2])
			}
		}, []bool{false, false, true}},
		"all fail a call now and then, and one fails every call after long doing well": {func(_ *conn, s []*server) {
			for range 10 {
				each(5, codes.Unavailable, s...)
				each(95, codes.OK, s...)
			}
			for range 10 {
				each(1, codes.OK, s[0], s[1])
				each(1, codes.Unavailable, s[2])
			}
		}, []bool{false, false, true}},
		"it fails more than half of its calls, never many in a row": {func(_ *conn, s []*server) {
			for range 10 {
				each(3, codes.OK, s[0], s[1])
				each(2, codes.Unavailable, s[2])
				each(1, codes.OK, s[2])
			}
		}, []bool{false, false, true}},
		"it did well until the last look": {func(c *conn, s []*server) {
			each(100, codes.OK, s...)
			c.judged.Store(0)
			c.look()
			for range 10 {
				each(3, codes.OK, s[0], s[1])
				each(2, codes.Unavailable, s[2])
				each(1, codes.OK, s[2])
			}
		}, []bool{false, false, true}},
		"one that did well goes away meanwhile": {func(c *conn, s []*server) {
			each(100, codes.OK, s...)
			for i := range 20 {
				each(1, codes.OK, s[1])
				each(1, codes.Unavailable, s[2])
				if i == 5 {
					c.forget(s[0])
				}
			}
		}, []bool{false, false, true}},
		"calls of one that was ejected still end": {func(_ *conn, s []*server) {
			for range 10 {
				each(1, codes.OK, s[:4]...)
				each(1, codes.Unavailable, s[4])
			}
			for range 20 {
				each(1, codes.OK, s[:3]...)
				each(1, codes.Unavailable, s[3])
				each(6, codes.Unavailable, s[4])
			}
		}, []bool{false, false, false, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			c, all := fakes(len(tc.want))
			tc.play(c, all)
			c.judged.Store(0)
			c.look()
			if got := ejected(all); !slices.Equal(got, tc.want) {
				t.Errorf("ejected are %v, not %v", got, tc.want)
			}
		})
	}
}

func TestBadRequestsAreNoFaultOfAServer(t *testing.T) {
	for _, code := range []codes.Code{codes.NotFound, codes.InvalidArgument, codes.PermissionDenied, codes.ResourceExhausted, codes.Canceled, codes.Aborted} {
		all := three(t)
		c := dial(t, quick, all[0].addr, all[1].addr, all[2].addr)
		connected(t, c, all)
		all[1].fails.Store(uint32(code))
		share(t, c, 500, all...)
		if got := share(t, c, 300, all...); got[1] != 100 {
			t.Errorf("%s: the calls went %v", code, got)
		}
	}
}

func TestNeverAreMoreThanHalfOfTheServersLeftAlone(t *testing.T) {
	all := append(three(t), three(t)...)
	var addrs []string
	for _, b := range all {
		addrs = append(addrs, b.addr)
	}
	c := dial(t, quick, addrs...)
	connected(t, c, all)
	for _, b := range all[:5] {
		b.fails.Store(uint32(codes.Internal))
	}
	share(t, c, 3000, all...)
	called := 0
	for _, n := range share(t, c, 300, all...) {
		if n > 0 {
			called++
		}
	}
	if called < 3 {
		t.Errorf("%d of 6 servers are called", called)
	}
	one := serve(t, "127.0.0.1:0")
	one.fails.Store(uint32(codes.Internal))
	c = dial(t, quick, one.addr)
	if got := share(t, c, 1000, one); got[0] != 1000 {
		t.Errorf("the only server got %v of 1000 calls", got)
	}
}

// TestTheHealthOfServersIsFollowed: both reasons to avoid a server work together.
func TestTheHealthOfServersIsFollowed(t *testing.T) {
	all := three(t)
	c := dial(t, quick, all[0].addr, all[1].addr, all[2].addr)
	connected(t, c, all)
	all[0].fails.Store(uint32(codes.Internal))
	until(t, c, func() bool { return share(t, c, 30, all...)[0] == 0 })
	all[1].SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	until(t, c, func() bool { return share(t, c, 30, all...)[2] == 30 })
	// When only those that fail are left, they are better than none.
	all[2].SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	until(t, c, func() bool { return share(t, c, 30, all...)[0] == 30 })
	all[1].SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	until(t, c, func() bool { return share(t, c, 30, all...)[1] == 30 })
}

func TestCallsWaitForAServer(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	_ = lis.Close()
	c := dial(t, Config{Patience: time.Hour}, addr)
	ended := make(chan error, 1)
	go func() { ended <- call(t, c) }()
	// Another client finds out for sure that nobody is there.
	if err := call(t, dial(t, Config{Patience: time.Nanosecond}, addr)); status.Code(err) != codes.Unavailable {
		t.Fatalf("got %v", err)
	}
	serve(t, addr)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestCallsDoNotWaitForeverForAServer(t *testing.T) {
	b := serve(t, "127.0.0.1:0")
	c := dial(t, Config{Patience: 50 * time.Millisecond}, b.addr)
	if err := call(t, c); err != nil {
		t.Fatal(err)
	}
	b.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	var err error
	until(t, c, func() bool { err = call(t, c); return err != nil })
	if st := status.Convert(err); st.Code() != codes.Unavailable || !strings.Contains(st.Message(), "no server is ready") {
		t.Errorf("got %v", err)
	}
	b.SetServingStatus("", grpc_health_v1.HealthCheckResponse_SERVING)
	until(t, c, func() bool { return call(t, c) == nil })
	// It is as patient as before.
	b.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	until(t, c, func() bool { return call(t, c) != nil })
}

func TestSettingsThatCannotBeMeantAreRefused(t *testing.T) {
	for _, text := range []string{`{"patience": -1}`, `{"calls": "many"}`} {
		if _, err := (builder{}).ParseConfig(json.RawMessage(text)); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}
