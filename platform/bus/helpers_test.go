package bus_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
)

func TestMain(m *testing.M) { os.Exit(bustest.Main(m)) }

// patience is how long a test waits for what must happen. It says nothing about speed.
const patience = 20 * time.Second

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func events(name string) bus.Stream {
	return bus.Stream{Name: name, Subjects: []string{"test." + name + ".>"}, MaxBytes: 64 << 20}
}

func ensure(t testing.TB, b *bus.Bus, s bus.Stream) {
	t.Helper()
	if err := b.EnsureStream(within(t), s); err != nil {
		t.Fatalf("ensure stream %s: %v", s.Name, err)
	}
	if err := b.Ready(); err != nil {
		t.Fatalf("bus is not ready: %v", err)
	}
}

func msg(stream, key string, n int) bus.Msg {
	return bus.Msg{
		ID: fmt.Sprintf("%s-%s-%d", stream, key, n), Subject: "test." + stream + "." + key,
		Header: map[string]string{"ce-type": "test", "n": fmt.Sprint(n)}, Data: fmt.Append(nil, n),
	}
}

func publish(t testing.TB, b *bus.Bus, stream string, m bus.Msg) uint64 {
	t.Helper()
	seq, err := b.Publish(within(t), stream, m)
	if err != nil {
		t.Fatalf("publish %s: %v", m.ID, err)
	}
	return seq
}

// consume gives the deliveries of a consumer; the test ends them.
func consume(t testing.TB, b *bus.Bus, c bus.Consumer) (<-chan *bus.Delivery, *bus.Subscription) {
	t.Helper()
	got := make(chan *bus.Delivery, 1<<16)
	s, err := b.Consume(within(t), c, func(d *bus.Delivery) { got <- d })
	if err != nil {
		t.Fatalf("consume: %v", err)
	}
	return got, s
}

func next[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-within(t).Done():
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func ack(t testing.TB, d *bus.Delivery) {
	t.Helper()
	if err := d.Ack(); err != nil {
		t.Fatalf("ack %s: %v", d.ID, err)
	}
}

// eventually asks again and again until cond holds; for what nobody announces.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx := within(t)
	for tick := time.NewTicker(5 * time.Millisecond); !cond(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		}
	}
}

func wantClass(t testing.TB, err error, want bus.ErrorClass) {
	t.Helper()
	if err == nil || bus.Class(err) != want {
		t.Fatalf("error %v has class %v, want %v", err, bus.Class(err), want)
	}
}
