package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
)

func TestMain(m *testing.M) { os.Exit(bustest.Main(m)) }

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func next(t testing.TB, s *Subscription) Change {
	t.Helper()
	c, err := s.Next(within(t))
	if err != nil {
		t.Fatalf("next: %v", err)
	}
	return c
}

func want(t testing.TB, s *Subscription, changes ...Change) {
	t.Helper()
	for _, c := range changes {
		if got := next(t, s); !reflect.DeepEqual(c, got) { // cmp takes long over much data
			t.Fatalf("change (-want +got):\n%s", cmp.Diff(c, got))
		}
	}
}

func empty(t testing.TB, s *Subscription) {
	t.Helper()
	if c, ok, err := s.pop(); ok || err != nil {
		t.Fatalf("there is more: %+v, %v", c, err)
	}
}

func change(key string, version int64) Change {
	return Change{Key: key, Version: version, Data: fmt.Append(nil, key, version)}
}

func lagged(key string, version int64) Change {
	return Change{Key: key, Version: version, Lagged: true}
}

func local(t testing.TB) *Hub {
	h := New(nil, "", nil)
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h
}

func TestWatchersGetWhatTheyWatchInOrder(t *testing.T) {
	h := local(t)
	ab, all, none := h.Subscribe(0), h.Subscribe(0), h.Subscribe(0)
	ab.Add("a")
	ab.Add("b")
	ab.Add("b")
	all.All()
	h.Publish(nil)
	h.Publish([]Change{change("a", 1), change("c", 1), change("b", 1)})
	h.Publish([]Change{change("b", 2)})
	want(t, ab, change("a", 1), change("b", 1), change("b", 2))
	want(t, all, change("a", 1), change("c", 1), change("b", 1), change("b", 2))
	for _, s := range []*Subscription{ab, all, none} {
		empty(t, s)
	}
}

func TestNextWaitsForAChange(t *testing.T) {
	h := local(t)
	s := h.Subscribe(0)
	s.Add("a")
	got := make(chan Change)
	go func() {
		c, _ := s.Next(within(t))
		got <- c
	}()
	h.Publish([]Change{change("a", 1)})
	if c := <-got; c.Version != 1 {
		t.Errorf("got %+v", c)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the caller went away")
	cancel(why)
	if _, err := s.Next(ctx); !errors.Is(err, why) {
		t.Errorf("error %v, want the context's cause", err)
	}
}

func TestASlowReaderNeverBlocksAndIsToldToReadAgain(t *testing.T) {
	h := local(t)
	s := h.Subscribe(2)
	s.Add("a")
	s.Add("b")
	for v := range int64(100) {
		h.Publish([]Change{change("a", v), change("b", v)})
	}
	// What fitted, then which keys lost what; nothing goes back behind that.
	want(t, s, change("a", 0), change("b", 0), lagged("a", 99), lagged("b", 99))
	empty(t, s)
	h.Publish([]Change{change("a", 100)})
	want(t, s, change("a", 100))

	// A lagging key stays so until the reader was told, also when there is room.
	h.Publish([]Change{change("b", 100), change("b", 101), change("a", 101)})
	want(t, s, change("b", 100))
	h.Publish([]Change{change("a", 102), change("b", 102)})
	want(t, s, change("b", 101), lagged("a", 102), change("b", 102))
	empty(t, s)
}

func TestAWatcherOfEverythingHoldsBoundedMemory(t *testing.T) {
	h := local(t)
	s := h.Subscribe(4)
	s.All()
	for v := range int64(1000) {
		h.Publish([]Change{change(fmt.Sprint("k", v), 1)})
	}
	if n := len(s.queue) + len(s.lagged) + len(s.lags); n > 4+2*4 {
		t.Errorf("holds %d entries", n)
	}
	want(t, s, change("k0", 1), change("k1", 1), change("k2", 1), change("k3", 1), lagged("", 0))
	empty(t, s)
	h.Publish([]Change{change("k0", 2)})
	want(t, s, change("k0", 2))
}

func TestAFastReaderIsNeverLagged(t *testing.T) {
	h := local(t)
	s := h.Subscribe(3)
	s.All()
	for v := range int64(1000) { // the queue's head moves through its array all the while
		h.Publish([]Change{change("a", 2*v), change("a", 2*v+1)})
		want(t, s, change("a", 2*v), change("a", 2*v+1))
		if cap(s.queue) > 8 {
			t.Fatalf("the queue has grown to %d", cap(s.queue))
		}
	}
}

func TestDroppedKeysAreForgotten(t *testing.T) {
	h := local(t)
	s := h.Subscribe(2)
	s.Add("a")
	s.Add("b")
	h.Publish([]Change{change("a", 1), change("b", 1), change("a", 2), change("b", 2)})
	s.Drop("a")
	s.Drop("never there")
	want(t, s, change("b", 1), lagged("b", 2))
	empty(t, s)
	h.Publish([]Change{change("a", 3)})
	empty(t, s)
	s.Add("a")
	h.Publish([]Change{change("a", 4)})
	want(t, s, change("a", 4))
}

func TestAllTakesOverTheKeys(t *testing.T) {
	h := local(t)
	s := h.Subscribe(0)
	s.Add("a")
	s.All()
	s.Add("b")
	s.Drop("a")
	h.Publish([]Change{change("a", 1), change("b", 1)})
	want(t, s, change("a", 1), change("b", 1))
	empty(t, s)
}

func TestCloseEndsNext(t *testing.T) {
	h := New(nil, "", nil)
	waiting, unread, closed := h.Subscribe(0), h.Subscribe(0), h.Subscribe(0)
	unread.Add("a")
	closed.Add("a")
	h.Publish([]Change{change("a", 1)})
	closed.Close()
	closed.Close()
	errs := make(chan error)
	go func() { _, err := waiting.Next(within(t)); errs <- err }()
	h.Close()
	h.Close()
	if err := <-errs; !errors.Is(err, ErrClosed) {
		t.Errorf("waiting Next: %v", err)
	}
	late := h.Subscribe(0)
	late.Add("a")
	late.All()
	h.Publish([]Change{change("a", 2)})
	for name, s := range map[string]*Subscription{"unread": unread, "closed": closed, "late": late} {
		if _, err := s.Next(within(t)); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
		s.Drop("a")
		s.Close()
	}
	if len(h.byKey)+len(h.all)+len(h.subs) != 0 {
		t.Errorf("the hub still knows of %d keys, %d, %d subscriptions", len(h.byKey), len(h.all), len(h.subs))
	}
	if err := h.Start(); err != nil {
		t.Errorf("start without a bus: %v", err)
	}
}

func TestChangesReachOtherProcesses(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		start := func(topic string) *Hub {
			h := New(open(), topic, nil)
			if err := h.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(h.Close)
			return h
		}
		one, two, other := start("orders"), start("orders"), start("stock")
		s1, s2, all, s3 := one.Subscribe(0), two.Subscribe(0), two.Subscribe(3000), other.Subscribe(0)
		s1.Add("a")
		s2.Add("a")
		all.All()
		s3.All()
		none := Change{Key: "none", Version: -1}
		huge := Change{Key: "huge", Version: 1 << 60, Data: make([]byte, 2<<20)}
		one.Publish([]Change{change("a", 1), none, {Key: "nothing", Data: []byte{}}, huge, change("a", 2)})
		want(t, s1, change("a", 1), change("a", 2))
		want(t, s2, change("a", 1), change("a", 2))
		want(t, all, change("a", 1), none, Change{Key: "nothing", Data: []byte{}}, lagged("huge", 1<<60), change("a", 2))

		// More than one notification holds.
		var many, wanted []Change
		for v := range int64(2000) {
			c := Change{Key: fmt.Sprint("key-", v), Version: v, Data: []byte(strings.Repeat("x", 1000))}
			many, wanted = append(many, c), append(wanted, c)
		}
		one.Publish(many)
		want(t, all, wanted...)
		two.Publish([]Change{change("a", 3)})
		want(t, s1, change("a", 3)) // and nothing of its own came back to it
		want(t, s2, change("a", 3))
		want(t, all, change("a", 3))
		for _, s := range []*Subscription{s1, s2, all, s3} {
			empty(t, s)
		}
	})
}

func TestAHubAloneOnItsBrokerTellsNobody(t *testing.T) {
	b := bustest.Embedded(t).Open()
	h := New(b, "orders", nil)
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	if !b.Alone("orders") {
		t.Error("not alone")
	}
	h.Close()
	if err := h.Start(); !errors.Is(err, ErrClosed) {
		t.Errorf("start after close: %v", err)
	}
}

func TestALostConnectionIsALag(t *testing.T) {
	k := bustest.External(t)
	b := k.Open()
	h := New(b, "orders", nil)
	if err := h.Start(); err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	keys, all := h.Subscribe(0), h.Subscribe(0)
	keys.Add("a")
	all.All()
	k.Restart(b)
	want(t, keys, lagged("a", 0))
	want(t, all, lagged("", 0))
	h.Publish([]Change{change("a", 1)})
	want(t, keys, change("a", 1))
	want(t, all, change("a", 1))
}

func TestGarbageFromTheBusIsALag(t *testing.T) {
	h := local(t)
	s := h.Subscribe(0)
	s.Add("a")
	good := encode("somebody", []Change{change("a", 1), change("a", 2)})[0]
	h.receive(good[:len(good)-1])
	want(t, s, change("a", 1), lagged("a", 0))
	h.receive([]byte("x"))
	want(t, s, lagged("a", 0))
	h.receive(encode(h.self, []Change{change("a", 9)})[0])
	empty(t, s)
}

func TestEverythingAtOnce(t *testing.T) {
	before := goleak.IgnoreCurrent()
	h := New(nil, "", nil)
	var readers, others sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		s := h.Subscribe(8)
		readers.Go(func() {
			last := map[string]int64{}
			for {
				c, err := s.Next(t.Context())
				if errors.Is(err, ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				if c.Key != "" && c.Version < last[c.Key] {
					t.Errorf("%s went back from %d to %d", c.Key, last[c.Key], c.Version)
				}
				last[c.Key] = c.Version
			}
		})
		others.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				runtime.Gosched()
				s.Add(fmt.Sprint(i % 10))
				s.Drop(fmt.Sprint((i + 5) % 10))
				if i%100 == 99 {
					t := h.Subscribe(1)
					t.All()
					t.Close()
				}
			}
		})
	}
	for v := range int64(2_000) {
		h.Publish([]Change{change(fmt.Sprint(v%10), v)})
	}
	close(stop)
	others.Wait()
	h.Close()
	readers.Wait()
	goleak.VerifyNone(t, before)
}

func FuzzDecode(f *testing.F) {
	f.Add(encode("somebody", []Change{change("a", 1), {Key: "b", Version: -5}, lagged("c", 1<<62)})[0])
	f.Add([]byte("somebody\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		var changes []Change
		err := decode("me myself", msg, func(key []byte, c Change) {
			c.Key = string(key)
			changes = append(changes, c)
		})
		if err != nil || len(changes) == 0 {
			return
		}
		var again []Change
		for _, m := range encode("somebody", changes) {
			if err := decode("me myself", m, func(key []byte, c Change) {
				c.Key = string(key)
				again = append(again, c)
			}); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(changes, again); diff != "" {
			t.Error(diff)
		}
	})
}

func BenchmarkPublish(b *testing.B) {
	h := New(nil, "", nil)
	defer h.Close()
	for i := range 1000 {
		s := h.Subscribe(16)
		s.Add(fmt.Sprint(i))
	}
	batch := make([]Change, 100)
	for i := range batch {
		batch[i] = change(fmt.Sprint(i*10), 1)
	}
	b.ReportAllocs()
	for b.Loop() {
		h.Publish(batch)
	}
	b.ReportMetric(float64(b.N)*float64(len(batch))/b.Elapsed().Seconds(), "changes/s")
}
