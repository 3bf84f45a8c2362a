package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/idempotency"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

// frozen is a time that only tests move.
type frozen struct {
	mu  sync.Mutex
	now time.Time
}

func (f *frozen) Now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

func (f *frozen) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = f.now.Add(d)
}

func TestAUserWhoCallsTooOftenIsToldWhenToComeBack(t *testing.T) {
	clock := &frozen{now: time.Now()}
	w := newWorld(t, func(c *Config, d *Deps) { c.PerUser, d.Now = Rate{PerSecond: 10, Burst: 5}, clock.Now })
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		clock.advance(time.Minute)
		call := func(c auth.Caller) error {
			_, err := client(conn).Write(w.as(t, c), &echov1.Message{RequestId: "r"})
			return err
		}
		for range 5 {
			wantNoError(t, call(alice))
		}
		for range 3 { // asking again does not push the end away
			err := call(alice)
			wantError(t, err, errs.ResourceExhausted, "RATE_LIMITED")
			var e *errs.Error
			if errors.As(FromStatus(err), &e); e.RetryAfter != 100*time.Millisecond {
				t.Errorf("come back after %s", e.RetryAfter)
			}
		}
		wantNoError(t, call(bob))
		for range 10 { // what services do for them is not their doing
			wantNoError(t, anyCall(w.as(t, alice), w.ConnAs("order"), echov1.EchoService_Write_FullMethodName))
		}
		clock.advance(100 * time.Millisecond)
		wantNoError(t, call(alice))
		wantError(t, call(alice), errs.ResourceExhausted, "RATE_LIMITED")
	})
}

func TestAnAddressThatBringsNoGoodTokenIsLimited(t *testing.T) {
	clock := &frozen{now: time.Now()}
	w := newWorld(t, func(c *Config, d *Deps) { c.PerIP, d.Now = Rate{PerSecond: 1, Burst: 3}, clock.Now })
	anonymous := func(ctx context.Context) error {
		_, err := client(w.Conn()).Anybody(ctx, &echov1.Message{})
		return err
	}
	from := func(ip string) context.Context { return WithClientIP(t.Context(), netip.MustParseAddr(ip)) }
	for range 2 {
		wantNoError(t, anonymous(from("203.0.113.1")))
	}
	// Guessing tokens uses up the same budget.
	wantError(t, anonymous(withToken(from("203.0.113.1"), "a.b.c")), errs.Unauthenticated, "TOKEN_INVALID")
	wantError(t, anonymous(withToken(from("203.0.113.1"), "a.b.c")), errs.ResourceExhausted, "RATE_LIMITED")
	wantError(t, anonymous(from("203.0.113.1")), errs.ResourceExhausted, "RATE_LIMITED")
	wantError(t, anonymous(from("::ffff:203.0.113.1")), errs.ResourceExhausted, "RATE_LIMITED")
	wantNoError(t, anonymous(from("203.0.113.2")))
	// A user behind the same address is not held back by others.
	wantNoError(t, anonymous(withToken(from("203.0.113.1"), w.token(t, alice))))
	// Neither are calls of services.
	for range 10 {
		_, err := client(w.ConnAs("order")).OrderOnly(t.Context(), &echov1.Message{})
		wantNoError(t, err)
	}
}

func TestTheMemoryOfALimiterIsBounded(t *testing.T) {
	clock := &frozen{now: time.Now()}
	l := newLimiter(Rate{PerSecond: 1, Burst: 2}, clock.Now)
	for i := range maxBuckets {
		wantNoError(t, l.take(fmt.Sprint(i)))
	}
	wantNoError(t, l.take("0"))
	wantNoError(t, l.take("one more")) // none is full again: some other has to go
	if n := len(l.buckets); n > maxBuckets {
		t.Errorf("%d buckets", n)
	}
	clock.advance(time.Minute)
	wantNoError(t, l.take("after a minute"))
	if n := len(l.buckets); n > 2 {
		t.Errorf("%d buckets after all are full again", n)
	}
}

func TestAUserHoldsABoundedNumberOfStreams(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *Deps) { c.StreamsPerUser = 3 })
	w.echo.watch = func(m *echov1.Message, out grpc.ServerStreamingServer[echov1.Message]) error {
		if err := out.Send(m); err != nil {
			return err
		}
		<-out.Context().Done()
		return out.Context().Err()
	}
	open := func(c auth.Caller, conn grpc.ClientConnInterface) (context.CancelFunc, error) {
		ctx, cancel := context.WithCancel(w.as(t, c))
		s, err := client(conn).Watch(ctx, &echov1.Message{})
		if err == nil {
			_, err = s.Recv()
		}
		return cancel, err
	}
	var hangUp context.CancelFunc
	for i, conn := range []grpc.ClientConnInterface{w.tcp, w.Conn(), w.dial(t, DialConfig{})} {
		cancel, err := open(alice, conn)
		wantNoError(t, err)
		defer cancel()
		if i == 0 {
			hangUp = cancel
		}
	}
	for _, conn := range []grpc.ClientConnInterface{w.tcp, w.Conn(), w.ConnAs(Gateway)} {
		_, err := open(alice, conn)
		wantError(t, err, errs.ResourceExhausted, "TOO_MANY_STREAMS")
	}
	cancel, err := open(bob, w.tcp)
	wantNoError(t, err)
	defer cancel()
	wantNoError(t, anyCall(w.as(t, alice), w.tcp, echov1.EchoService_Customers_FullMethodName))
	// A stream that ended makes room, as soon as its handler has returned.
	hangUp()
	until(t, func() bool {
		cancel, err := open(alice, w.tcp)
		t.Cleanup(cancel)
		return err == nil
	})
}

// until polls for what another goroutine is about to do.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatal("it did not happen within 20 s")
		}
	}
}

func TestKeyedCallsTellWhatTheyAre(t *testing.T) {
	w := newWorld(t)
	var got []idempotency.Key
	w.echo.unary = func(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
		k, ok := idempotency.FromContext(ctx)
		if ok {
			got = append(got, k)
		}
		return m, nil
	}
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		got = nil
		write := func(ctx context.Context, id, name string) idempotency.Key {
			t.Helper()
			n := len(got)
			m := product()
			m.RequestId, m.Name = id, name
			echoed, err := client(conn).Write(ctx, m)
			wantNoError(t, err)
			if len(got) != n+1 || echoed.GetRequestId() != id || len(got[n].Fingerprint) != 32 {
				t.Fatalf("keys %v, answer %v", got[n:], echoed)
			}
			return got[n]
		}
		same := func(a, b idempotency.Key) bool {
			return a.Caller == b.Caller && a.Method == b.Method && a.Value == b.Value && string(a.Fingerprint) == string(b.Fingerprint)
		}
		first := write(w.as(t, alice), "r1", "x")
		if first.Caller != "user:u-alice" || first.Method != echov1.EchoService_Write_FullMethodName || first.Value != "r1" {
			t.Errorf("got %+v", first)
		}
		for range 20 { // maps have no order; fingerprints must not depend on it
			if again := write(w.as(t, alice), "r1", "x"); !same(first, again) {
				t.Fatalf("the same call is %+v, then %+v", first, again)
			}
		}
		if other := write(w.as(t, alice), "r2", "x"); string(other.Fingerprint) != string(first.Fingerprint) {
			t.Error("the fingerprint depends on request_id")
		}
		if other := write(w.as(t, alice), "r1", "y"); string(other.Fingerprint) == string(first.Fingerprint) {
			t.Error("the fingerprint does not depend on the request")
		}
		if other := write(w.as(t, bob), "r1", "x"); other.Caller == first.Caller {
			t.Error("two users share a key")
		}
		if _, err := client(conn).Customers(w.as(t, alice), product()); err != nil || len(got) != 24 {
			t.Errorf("a method that is not KEYED has a key: %v", err)
		}
		if _, err := client(w.ConnAs("order")).Write(t.Context(), product()); err != nil || got[len(got)-1].Caller != "service:order" {
			t.Errorf("a service's key is %+v, %v", got[len(got)-1], err)
		}
	})
}

func TestKeyedCallsNeedAGoodKey(t *testing.T) {
	w := newWorld(t)
	w.failing("reached")
	long := make([]byte, 256)
	for i := range long {
		long[i] = 'a'
	}
	w.everywhere(t, func(t *testing.T, conn grpc.ClientConnInterface) {
		for name, key := range map[string]string{"missing": "", "256 characters": string(long), "not ASCII": "clé", "a control character": "a\nb", "NUL": "a\x00"} {
			t.Run(name, func(t *testing.T) {
				_, err := client(conn).Write(w.as(t, alice), &echov1.Message{RequestId: key})
				wantError(t, err, errs.Invalid, "REQUEST_ID_INVALID")
				var e *errs.Error
				if errors.As(FromStatus(err), &e); len(e.Fields) != 1 || e.Fields[0].Path != "request_id" {
					t.Errorf("fields %v", e.Fields)
				}
			})
		}
		w.echo.unary = nil
		_, err := client(conn).Write(w.as(t, alice), &echov1.Message{RequestId: string(long[:255])})
		wantNoError(t, err)
		w.failing("reached")
	})
}
