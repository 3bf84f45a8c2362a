package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/discovery/discoverytest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

// everybody is a verifier to whom each token is sam's.
type everybody struct{}

func (everybody) Verify(context.Context, string) (auth.Caller, time.Time, error) {
	return sam, time.Now().Add(time.Hour), nil
}

// fleet is servers behind one name, each on an address of its own and all on one
// port, as the pods behind a headless Service.
type fleet struct {
	dns  *discoverytest.DNS
	port string
	cfg  Config
	all  []*member
}

// member is one server of a fleet.
type member struct {
	*Server
	ip     string
	calls  atomic.Int64
	served chan error
	hold   chan struct{} // while it is not nil and open, calls wait in their handlers
	held   atomic.Int64
	sick   atomic.Bool
}

func newFleet(t *testing.T, cfg Config) *fleet {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	wantNoError(t, err)
	_, port, err := net.SplitHostPort(lis.Addr().String())
	wantNoError(t, err)
	wantNoError(t, lis.Close())
	if lis, err = net.Listen("tcp", "127.0.0.2:0"); err != nil {
		t.Skip("this machine has one loopback address only: ", err)
	}
	wantNoError(t, lis.Close())
	return &fleet{dns: discoverytest.New(t, "echo.test"), port: port, cfg: cfg}
}

// start adds a server and does not tell the DNS.
func (f *fleet) start(t *testing.T) *member {
	t.Helper()
	m := &member{ip: fmt.Sprintf("127.0.0.%d", len(f.all)+1), served: make(chan error, 1)}
	var err error
	m.Server, err = NewServer(f.cfg, Deps{Log: slog.New(slog.DiscardHandler), Verifier: everybody{}})
	wantNoError(t, err)
	e := &echo{unary: func(_ context.Context, msg *echov1.Message) (*echov1.Message, error) {
		m.calls.Add(1)
		if m.sick.Load() {
			return nil, errs.E(errs.Internal, "SICK", "as told")
		}
		if m.hold != nil {
			m.held.Add(1)
			<-m.hold
		}
		return msg, nil
	}}
	e.watch = func(msg *echov1.Message, out grpc.ServerStreamingServer[echov1.Message]) error {
		if err := out.Send(msg); err != nil {
			return err
		}
		<-out.Context().Done()
		return out.Context().Err()
	}
	echov1.RegisterEchoServiceServer(m, e)
	wantNoError(t, m.Build())
	lis, err := net.Listen("tcp", net.JoinHostPort(m.ip, f.port))
	wantNoError(t, err)
	go func() { m.served <- m.Serve(lis) }()
	t.Cleanup(func() { m.stop(t) })
	f.all = append(f.all, m)
	return m
}

// stop ends a server in good order. It may be called twice.
func (m *member) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := m.Stop(ctx); err != nil {
		t.Errorf("stop %s: %v", m.ip, err)
	}
	if err := <-m.served; err != nil {
		t.Errorf("serve %s: %v", m.ip, err)
	}
	m.served <- nil
}

// kill ends a server as the kernel does when it ends the process.
func (m *member) kill() { m.built.Load().tcp.Stop() }

// announce has the DNS know exactly these servers.
func (f *fleet) announce(all ...*member) {
	var ips []string
	for _, m := range all {
		ips = append(ips, m.ip)
	}
	f.dns.Set(ips...)
}

func (f *fleet) dial(t *testing.T) echov1.EchoServiceClient {
	t.Helper()
	conn, err := Dial(f.dns.Target(f.port), DialConfig{Resolve: 50 * time.Millisecond, Patience: 10 * time.Second})
	wantNoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return echov1.NewEchoServiceClient(conn)
}

// load makes calls without a pause, half of which may not be repeated, and keeps
// streams open, opened anew whenever the server asks for it.
type load struct {
	calls  atomic.Int64
	resets atomic.Int64 // streams that went on elsewhere
	failed chan error
	end    func()
}

func (f *fleet) load(t *testing.T, c echov1.EchoServiceClient) *load {
	t.Helper()
	l := &load{failed: make(chan error, 1000)}
	ctx, cancel := context.WithCancel(withToken(t.Context(), "sam"))
	var work sync.WaitGroup
	l.end = sync.OnceFunc(func() { cancel(); work.Wait() })
	t.Cleanup(l.end)
	report := func(what string, err error) {
		if ctx.Err() == nil { // else it was given up
			select {
			case l.failed <- fmt.Errorf("%s: %w", what, err):
			default:
			}
		}
	}
	for i := range 8 {
		work.Go(func() {
			call, what := c.Anybody, "a call that may be repeated"
			if i%2 == 0 {
				call, what = c.Staff, "a call that must not be repeated"
			}
			for ctx.Err() == nil {
				if _, err := call(ctx, &echov1.Message{}); err != nil {
					report(what, err)
				}
				l.calls.Add(1)
			}
		})
	}
	for range 8 {
		work.Go(func() {
			for ctx.Err() == nil {
				s, err := c.Watch(ctx, &echov1.Message{})
				if err == nil {
					_, err = s.Recv()
				}
				if err != nil {
					report("a stream that is opened", err)
					continue
				}
				if _, err = s.Recv(); errs.ReasonOf(FromStatus(err)) != "SERVER_STOPPING" {
					report("an open stream", err)
				}
				if ctx.Err() == nil {
					l.resets.Add(1)
				}
			}
		})
	}
	return l
}

// during runs the load until n more calls were made.
func (l *load) during(t *testing.T, n int64) {
	t.Helper()
	n += l.calls.Load()
	until(t, func() bool { return l.calls.Load() >= n })
}

// wantNone ends the load and fails for every call that did.
func (l *load) wantNone(t *testing.T) {
	t.Helper()
	l.end()
	close(l.failed)
	for err := range l.failed {
		t.Error(err)
	}
	t.Logf("%d calls, %d streams went on elsewhere", l.calls.Load(), l.resets.Load())
}

// called waits until each server was called again.
func called(t *testing.T, all ...*member) {
	t.Helper()
	for _, m := range all {
		n := m.calls.Load()
		until(t, func() bool { return m.calls.Load() > n })
	}
}

// spread gives the most calls of one server over the mean of all, over n calls.
func spread(t *testing.T, l *load, n int64, all ...*member) float64 {
	t.Helper()
	before := make([]int64, len(all))
	for i, m := range all {
		before[i] = m.calls.Load()
	}
	l.during(t, n)
	var most, sum int64
	for i, m := range all {
		got := m.calls.Load() - before[i]
		most, sum = max(most, got), sum+got
	}
	return float64(most) * float64(len(all)) / float64(sum)
}

// TestServersComeAndGoWithoutAFailedCall is hazards 80 and 81: from two servers
// to four and back.
func TestServersComeAndGoWithoutAFailedCall(t *testing.T) {
	f := newFleet(t, Config{})
	f.start(t)
	f.start(t)
	f.announce(f.all...)
	l := f.load(t, f.dial(t))
	called(t, f.all...)
	f.start(t)
	f.start(t)
	f.announce(f.all...)
	called(t, f.all...)
	if s := spread(t, l, 4000, f.all...); s > 1.15 {
		t.Errorf("one of four servers got %.2f times its share", s)
	}
	f.announce(f.all[0], f.all[3])
	f.all[1].stop(t)
	f.all[2].stop(t)
	if s := spread(t, l, 2000, f.all[0], f.all[3]); s > 1.15 {
		t.Errorf("one of two servers got %.2f times its share", s)
	}
	l.wantNone(t)
}

// TestEveryServerIsReplacedWithoutAFailedCall is hazards 82 and 93: a rolling
// restart. The DNS may know of the end of a server before it comes or only after.
func TestEveryServerIsReplacedWithoutAFailedCall(t *testing.T) {
	for name, late := range map[string]bool{"the DNS first": false, "the server first": true} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, Config{})
			for range 3 {
				f.start(t)
			}
			f.announce(f.all...)
			l := f.load(t, f.dial(t))
			called(t, f.all...)
			for range 3 {
				running := append(slices.Clone(f.all[len(f.all)-2:]), f.start(t))
				old := f.all[len(f.all)-4]
				if late {
					f.announce(append(running, old)...)
					called(t, f.all[len(f.all)-1])
					old.Drain()
					l.during(t, 500)
					old.stop(t)
				}
				f.announce(running...)
				called(t, f.all[len(f.all)-1])
				old.stop(t)
				l.during(t, 500)
			}
			if l.resets.Load() == 0 {
				t.Error("no stream was on a server that went")
			}
			l.wantNone(t)
		})
	}
}

// The only server is replaced at once: calls wait for the next one.
func TestCallsOutliveTheRestartOfTheOnlyServer(t *testing.T) {
	f := newFleet(t, Config{})
	f.start(t)
	f.announce(f.all...)
	c := f.dial(t)
	ctx := withToken(t.Context(), "sam")
	_, err := c.Staff(ctx, &echov1.Message{})
	wantNoError(t, err)
	f.all[0].stop(t)
	ended := make(chan error, 1)
	go func() { _, err := c.Staff(ctx, &echov1.Message{}); ended <- err }()
	f.announce(f.start(t))
	wantNoError(t, <-ended)
}

// TestConnectionsAreRenewedWithoutAFailedCall: a call that meets the end of its
// connection was not seen by the server and goes over another, whatever it is.
func TestConnectionsAreRenewedWithoutAFailedCall(t *testing.T) {
	f := newFleet(t, Config{MaxConnAge: 20 * time.Millisecond})
	f.start(t)
	f.start(t)
	f.announce(f.all...)
	l := f.load(t, f.dial(t))
	called(t, f.all...)
	for range 10 {
		l.during(t, 300)
	}
	l.wantNone(t)
}

// TestAKilledServerFailsOnlyWhatMustNotBeRepeated has 40 calls of each kind in
// the hands of a server that dies.
func TestAKilledServerFailsOnlyWhatMustNotBeRepeated(t *testing.T) {
	f := newFleet(t, Config{})
	victim := f.start(t)
	victim.hold = make(chan struct{})
	f.announce(f.all...)
	c := f.dial(t)
	ctx := withToken(t.Context(), "sam")
	const n = 40
	again, once := make(chan error, n), make(chan error, n)
	var work sync.WaitGroup
	for range n {
		work.Go(func() { _, err := c.Anybody(ctx, &echov1.Message{}); again <- err })
		work.Go(func() { _, err := c.Staff(ctx, &echov1.Message{}); once <- err })
	}
	until(t, func() bool { return victim.held.Load() == 2*n })
	other := f.start(t)
	f.announce(f.all...)
	killed := make(chan struct{})
	go func() { defer close(killed); victim.kill() }()
	for range n {
		if err := <-once; status.Code(err) != codes.Unavailable {
			t.Errorf("a call that must not be repeated: %v", err)
		}
		if err := <-again; err != nil {
			t.Errorf("a call that may be repeated: %v", err)
		}
	}
	close(victim.hold)
	work.Wait()
	<-killed
	if got := other.calls.Load(); got != n {
		t.Errorf("the other server got %d calls, want %d", got, n)
	}
	for range 100 {
		_, err := c.Staff(ctx, &echov1.Message{})
		wantNoError(t, err)
	}
}

func TestADrainingServerServesThoseWhoCallAllTheSame(t *testing.T) {
	f := newFleet(t, Config{})
	m := f.start(t)
	f.announce(m)
	c := f.dial(t)
	ctx := withToken(t.Context(), "sam")
	stream := open(ctx, t, m.Conn(), false)
	m.Drain()
	_, err := echov1.NewEchoServiceClient(m.Conn()).Staff(ctx, &echov1.Message{})
	wantNoError(t, err)
	ended := make(chan error, 1)
	go func() { _, err := c.Staff(ctx, &echov1.Message{}); ended <- err }() // it waits for another server, or was let in
	f.announce(m, f.start(t))
	wantNoError(t, <-ended)
	m.stop(t)
	_, err = stream.Recv()
	wantError(t, err, errs.Unavailable, "SERVER_STOPPING")
}

// TestAnUploadIsFinishedWhileTheServerStops: only streams that can be resumed
// are sent away.
func TestAnUploadIsFinishedWhileTheServerStops(t *testing.T) {
	w := newWorld(t)
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		w := newWorld(t)
		if _, within := conn.(*grpc.ClientConn); within {
			conn = w.tcp
		} else {
			conn = w.Conn()
		}
		w.watching()
		got := make(chan *echov1.Message, 2)
		w.echo.upload = func(s grpc.ClientStreamingServer[echov1.Message, echov1.Line]) error {
			for {
				m, err := s.Recv()
				if errors.Is(err, io.EOF) {
					return s.SendAndClose(&echov1.Line{Quantity: 2})
				}
				if err != nil {
					return err
				}
				got <- m
			}
		}
		ctx := w.as(t, alice)
		watch := open(ctx, t, conn, false)
		up, err := client(conn).Upload(ctx)
		wantNoError(t, err)
		wantNoError(t, up.Send(&echov1.Message{}))
		<-got
		stopped := make(chan error, 1)
		stopping, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() { stopped <- w.Stop(stopping) }()
		_, err = watch.Recv()
		wantError(t, err, errs.Unavailable, "SERVER_STOPPING")
		wantNoError(t, up.Send(&echov1.Message{}))
		<-got
		_, err = up.CloseAndRecv()
		wantNoError(t, err)
		wantNoError(t, <-stopped)
	})
}

// An upload that does not end does not keep the server from ending.
func TestAnUploadThatDoesNotEndIsCutOff(t *testing.T) {
	w := newWorld(t)
	entered := make(chan struct{})
	w.echo.upload = func(s grpc.ClientStreamingServer[echov1.Message, echov1.Line]) error {
		close(entered)
		_, err := s.Recv()
		return err
	}
	up, err := client(w.tcp).Upload(w.as(t, alice))
	wantNoError(t, err)
	<-entered
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	if err := w.Stop(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("stop: %v", err)
	}
	_, err = up.CloseAndRecv()
	wantError(t, err, errs.Unavailable, "SERVER_STOPPING")
}
