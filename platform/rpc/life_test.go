package rpc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/test/bufconn"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watching has Watch send one message and then wait for its end, and Talk wait
// for a message that never comes. It gives the number of handlers at work.
func (w *world) watching() *atomic.Int64 {
	var n atomic.Int64
	w.echo.watch = func(m *echov1.Message, out grpc.ServerStreamingServer[echov1.Message]) error {
		n.Add(1)
		defer n.Add(-1)
		if err := out.Send(m); err != nil {
			return err
		}
		<-out.Context().Done()
		return out.Context().Err()
	}
	w.echo.talk = func(s grpc.BidiStreamingServer[echov1.Message, echov1.Message]) error {
		n.Add(1)
		defer n.Add(-1)
		if err := s.Send(&echov1.Message{}); err != nil {
			return err
		}
		_, err := s.Recv()
		return err
	}
	return &n
}

type receiver interface {
	Recv() (*echov1.Message, error)
}

// open opens a stream and waits until its handler is at work.
func open(ctx context.Context, t *testing.T, conn grpc.ClientConnInterface, talk bool) receiver {
	t.Helper()
	var s receiver
	var err error
	if talk {
		s, err = client(conn).Talk(ctx)
	} else {
		s, err = client(conn).Watch(ctx, &echov1.Message{})
	}
	wantNoError(t, err)
	_, err = s.Recv()
	wantNoError(t, err)
	return s
}

// TestStoppingEndsStreamsAndFinishesCalls is hazard 83.
func TestStoppingEndsStreamsAndFinishesCalls(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *Deps) { c.StreamsPerUser = 1000 })
	open500 := w.watching()
	entered, release := make(chan struct{}, 2), make(chan struct{})
	w.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
		entered <- struct{}{}
		<-release
		return m, ctx.Err()
	}
	ctx := w.as(t, alice)
	var streams []receiver
	conns := []grpc.ClientConnInterface{w.tcp, w.Conn(), w.dial(t, DialConfig{}), w.dial(t, DialConfig{})}
	for i := range 500 {
		streams = append(streams, open(ctx, t, conns[i%4], i%8 > 3))
	}
	if n := open500.Load(); n != 500 {
		t.Fatalf("%d streams", n)
	}
	var calls sync.WaitGroup
	for _, conn := range []grpc.ClientConnInterface{w.tcp, w.Conn()} {
		calls.Go(func() {
			if _, err := client(conn).Anybody(ctx, &echov1.Message{}); err != nil {
				t.Errorf("a call under way: %v", err)
			}
		})
		<-entered
	}
	stopped := make(chan error, 2)
	stopping, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 2 {
		go func() { stopped <- w.Stop(stopping) }()
	}
	for _, s := range streams {
		_, err := s.Recv()
		wantError(t, err, errs.Unavailable, "SERVER_STOPPING")
	}
	select {
	case err := <-stopped:
		t.Fatalf("it stopped before its calls were finished: %v", err)
	default:
	}
	got, err := grpc_health_v1.NewHealthClient(w.Conn()).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{})
	if err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health while stopping: %v, %v", got, err)
	}
	s, err := client(w.Conn()).Watch(ctx, &echov1.Message{})
	wantNoError(t, err)
	_, err = s.Recv()
	wantError(t, err, errs.Unavailable, "SERVER_STOPPING")
	close(release)
	calls.Wait()
	for range 2 {
		wantNoError(t, <-stopped)
	}
	_, err = client(w.Conn()).Anybody(ctx, &echov1.Message{})
	wantError(t, err, errs.Unavailable, "SERVER_STOPPING")
}

func TestStoppingDoesNotWaitLongerThanItMay(t *testing.T) {
	w := newWorld(t)
	entered, release := make(chan struct{}), make(chan struct{})
	w.echo.unary = func(context.Context, *echov1.Message) (*echov1.Message, error) {
		close(entered)
		<-release // a handler that does not look at its context
		return nil, errors.New("late")
	}
	failed := make(chan error, 1)
	go func() {
		_, err := client(w.Conn()).Anybody(t.Context(), &echov1.Message{})
		failed <- err
	}()
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(release)
	wantError(t, <-failed, errs.Internal, "INTERNAL")
}

func TestStreamsEndWithAge(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *Deps) { c.StreamMaxAge = 50 * time.Millisecond })
	n := w.watching()
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		for _, talk := range []bool{false, true} {
			_, err := open(w.as(t, alice), t, conn, talk).Recv()
			wantError(t, err, errs.Unavailable, "STREAM_EXPIRED")
		}
	})
	until(t, func() bool { return n.Load() == 0 })
}

// soon is a verifier whose tokens end shortly.
type soon struct{}

func (soon) Verify(context.Context, string) (auth.Caller, time.Time, error) {
	return alice, time.Now().Add(50 * time.Millisecond), nil
}

func TestStreamsEndWithTheirCallersCredentials(t *testing.T) {
	w := newWorld(t, func(_ *Config, d *Deps) { d.Verifier = soon{} })
	w.watching()
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		for _, talk := range []bool{false, true} {
			_, err := open(w.as(t, alice), t, conn, talk).Recv()
			wantError(t, err, errs.Unauthenticated, "TOKEN_EXPIRED")
		}
	})
}

// TestStreamsLeaveNothingBehind is hazard 87; TestMain counts the goroutines.
func TestStreamsLeaveNothingBehind(t *testing.T) {
	w := newWorld(t)
	n := w.watching()
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		for i := range 500 {
			ctx, cancel := context.WithCancel(w.as(t, alice))
			open(ctx, t, conn, i%2 == 0)
			cancel()
			if i%50 == 0 {
				until(t, func() bool { return n.Load() == 0 })
			}
		}
	})
	until(t, func() bool { return n.Load() == 0 })
	until(t, func() bool {
		w.gate.mu.Lock()
		defer w.gate.mu.Unlock()
		return len(w.gate.streams) <= 1 // the health watch of the client
	})
	until(t, func() bool {
		w.perUserStreams.mu.Lock()
		defer w.perUserStreams.mu.Unlock()
		return len(w.perUserStreams.held) == 0
	})
}

func TestHealthFollowsTheReadinessOfEachService(t *testing.T) {
	s := newServer(t, Config{})
	var broken atomic.Pointer[error]
	echov1.RegisterEchoServiceServer(s.Registrar(func(context.Context) error {
		if err := broken.Load(); err != nil {
			return *err
		}
		return nil
	}), &echo{})
	wantNoError(t, s.Build())
	last := map[string]bool{}
	check := func(service string, want grpc_health_v1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		got, err := grpc_health_v1.NewHealthClient(s.Conn()).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
		if err != nil || got.GetStatus() != want {
			t.Errorf("%q is %v, %v; want %v", service, got, err, want)
		}
	}
	both := func(want grpc_health_v1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		check("", want)
		check(echov1.EchoService_ServiceDesc.ServiceName, want)
	}
	both(grpc_health_v1.HealthCheckResponse_NOT_SERVING) // nobody has asked it yet
	s.checkReadiness(t.Context(), last)
	both(grpc_health_v1.HealthCheckResponse_SERVING)
	err := errors.New("database away")
	broken.Store(&err)
	s.checkReadiness(t.Context(), last)
	both(grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	broken.Store(nil)
	s.checkReadiness(t.Context(), last)
	both(grpc_health_v1.HealthCheckResponse_SERVING)
	wantNoError(t, s.Stop(t.Context()))
	s.checkReadiness(t.Context(), last)
	if got, _ := s.health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); got.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("a stopped server is %v", got)
	}
}

func TestReflectionAnswersOnlyWhenItIsSwitchedOn(t *testing.T) {
	ask := func(t *testing.T, w *world) (string, error) {
		s, err := reflectionv1.NewServerReflectionClient(w.tcp).ServerReflectionInfo(t.Context())
		wantNoError(t, err)
		_ = s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
		got, err := s.Recv()
		if err == nil {
			wantNoError(t, s.CloseSend())
		}
		return got.String(), err
	}
	off := newWorld(t)
	if _, err := ask(t, off); errs.KindOf(FromStatus(err)) != errs.Unimplemented {
		t.Errorf("off: %v", err)
	}
	on := newWorld(t, func(c *Config, _ *Deps) { c.Reflection = true })
	got, err := ask(t, on)
	if err != nil || !strings.Contains(got, echov1.EchoService_ServiceDesc.ServiceName) {
		t.Errorf("on: %v, %v", got, err)
	}
	// Without a token it still opens nothing else.
	_, err = client(on.tcp).Customers(t.Context(), &echov1.Message{})
	wantError(t, err, errs.Unauthenticated, "TOKEN_MISSING")
}

func TestAConnectionThatSaysNothingIsClosed(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *Deps) { c.ConnectTimeout = 50 * time.Millisecond })
	conn, err := net.Dial("tcp", w.addr)
	wantNoError(t, err)
	defer func() { _ = conn.Close() }()
	wantNoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	for {
		if _, err := conn.Read(make([]byte, 1024)); err != nil {
			if errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "i/o timeout") {
				t.Errorf("it was left open")
			}
			return
		}
	}
}

// TestAnIdleStreamKeepsItsConnection is hazard 84, in virtual time: the client asks
// whether the server is there, and the server does not mind.
func TestAnIdleStreamKeepsItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := NewServer(Config{MaxConnAge: 24 * time.Hour, StreamMaxAge: 2 * time.Hour}, Deps{Log: slog.New(slog.DiscardHandler), Verifier: everybody{}})
		wantNoError(t, err)
		speak := make(chan struct{})
		echov1.RegisterEchoServiceServer(s, &echo{watch: func(m *echov1.Message, out grpc.ServerStreamingServer[echov1.Message]) error {
			for range 2 {
				if err := out.Send(m); err != nil {
					return err
				}
				<-speak
			}
			return nil
		}})
		lis := bufconn.Listen(1 << 16)
		served := make(chan error, 1)
		go func() { served <- s.Serve(lis) }()
		dials := 0
		conn, err := Dial("static:///echo.test:1", DialConfig{Options: []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			dials++
			return lis.DialContext(ctx)
		})}})
		wantNoError(t, err)
		stream := open(withToken(t.Context(), "sam"), t, conn, false)
		<-time.After(time.Hour)
		speak <- struct{}{}
		_, err = stream.Recv()
		wantNoError(t, err)
		close(speak)
		if dials != 1 {
			t.Errorf("the client connected %d times", dials)
		}
		wantNoError(t, conn.Close())
		wantNoError(t, s.Stop(t.Context()))
		wantNoError(t, <-served)
	})
}

// The server may be done with a stream before it has read the request.
func TestAStreamThatIsRefusedAtOnceSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		for range 200 {
			s, err := client(conn).Watch(t.Context(), product())
			if err == nil {
				_, err = s.Recv()
			}
			if got := errs.KindOf(FromStatus(err)); err == nil || got != errs.Unauthenticated {
				t.Fatalf("got %v (%s), want unauthenticated", err, got)
			}
		}
	})
}
