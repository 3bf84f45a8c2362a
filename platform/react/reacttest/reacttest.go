// Package reacttest plays the other services for tests of one: it publishes their
// events as they do, and hears what the service publishes.
package reacttest

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
)

// Patience is how long a test waits for what has to happen by itself; nothing
// takes so long unless it is broken.
const Patience = 30 * time.Second

// Streams makes the streams of services.
func Streams(tb testing.TB, b *bus.Bus, services ...string) {
	tb.Helper()
	for _, s := range services {
		if err := b.EnsureStream(tb.Context(), bus.Stream{Name: outbox.Stream(s), Subjects: []string{"waybill." + s + ".>"}}); err != nil {
			tb.Fatal(err)
		}
	}
}

// Send publishes one event, any number of times.
func Send(tb testing.TB, b *bus.Bus, e proto.Message, times int) {
	tb.Helper()
	id := uuid.NewString()
	for nth := range times {
		Publish(tb, b, e, id, nth)
	}
}

// Publish publishes an event under the id given. With another nth the broker keeps
// a repetition that it would drop otherwise.
func Publish(tb testing.TB, b *bus.Bus, e proto.Message, id string, nth int) {
	tb.Helper()
	typ, about := string(e.ProtoReflect().Descriptor().FullName()), aggregate(e)
	data, err := proto.Marshal(e)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = b.Publish(tb.Context(), outbox.Stream(outbox.Producer(typ)), bus.Msg{
		ID: fmt.Sprintf("%s-%d", id, nth), Subject: outbox.Subject(typ, about), Data: data,
		Header: map[string]string{
			outbox.HeaderID: id, outbox.HeaderType: typ, outbox.HeaderSubject: about, outbox.HeaderVersion: "1", outbox.HeaderHops: "1",
			outbox.HeaderTime: time.Now().UTC().Format(time.RFC3339Nano),
		},
	})
	if err != nil {
		tb.Fatal(err)
	}
}

// aggregate reads what an event is about: its order, or else its product or user.
func aggregate(e proto.Message) string {
	m := e.ProtoReflect()
	for _, name := range []protoreflect.Name{"order_id", "product_id", "user_id"} {
		if f := m.Descriptor().Fields().ByName(name); f != nil {
			return m.Get(f).String()
		}
	}
	return ""
}

// An Ear hears the events of one service. It is safe for concurrent use.
type Ear struct {
	tb testing.TB

	mu   sync.Mutex
	seen map[string][]proto.Message
	wake chan struct{} // closed and made anew by each event
}

// Listen gives an Ear for the events of a service, those included that it has
// published already. Its stream must exist, or come into being.
func Listen(tb testing.TB, b *bus.Bus, service string) *Ear {
	tb.Helper()
	h := &Ear{tb: tb, seen: map[string][]proto.Message{}, wake: make(chan struct{})}
	if _, err := b.Consume(tb.Context(), bus.Consumer{
		Stream: outbox.Stream(service), Durable: "test-" + uuid.NewString(), Subjects: []string{"waybill." + service + ".>"},
	}, Singly(tb, h.hear)); err != nil {
		tb.Fatal(err)
	}
	return h
}

func (h *Ear) hear(d *bus.Delivery) {
	e := Event(h.tb, d)
	if e == nil {
		return
	}
	h.mu.Lock()
	about := d.Header(outbox.HeaderSubject)
	h.seen[about] = append(h.seen[about], e)
	close(h.wake)
	h.wake = make(chan struct{})
	h.mu.Unlock()
	_ = d.Ack() // a repetition is only noted once more
}

// Singly gives hear each event of a delivery that may be a batch; the test fails if
// it cannot be read.
func Singly(tb testing.TB, hear func(d *bus.Delivery)) func(d *bus.Delivery) {
	return func(d *bus.Delivery) {
		parts, err := outbox.Open(d)
		if err != nil {
			tb.Errorf("batch %s: %v", d.Subject, err)
		}
		for _, p := range parts {
			hear(p)
		}
	}
}

// Event reads an event that was delivered; nil, and the test fails, if it is none.
func Event(tb testing.TB, d *bus.Delivery) proto.Message {
	typ, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(d.Header(outbox.HeaderType)))
	if err != nil {
		tb.Errorf("event %s: %v", d.Subject, err)
		return nil
	}
	e := typ.New().Interface()
	if err := proto.Unmarshal(d.Data, e); err != nil {
		tb.Errorf("event %s: %v", d.Subject, err)
		return nil
	}
	return e
}

// Reactor starts a reactor, silent unless cfg has a log, and stops it when the
// test ends.
func Reactor(tb testing.TB, cfg react.Config) *react.Reactor {
	tb.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r, err := react.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if err := r.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), Patience)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			tb.Errorf("stopping the reactor: %v", err)
		}
	})
	return r
}

// Heard gives the events about an aggregate that were heard, in their order.
func (h *Ear) Heard(about string) []proto.Message {
	events, _ := h.heard(about)
	return events
}

func (h *Ear) heard(about string) ([]proto.Message, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]proto.Message(nil), h.seen[about]...), h.wake
}

// Await gives the n-th event of type E about an aggregate, waiting for it.
func Await[E proto.Message](h *Ear, about string, n int) E {
	h.tb.Helper()
	limit := time.NewTimer(Patience)
	defer limit.Stop()
	for {
		events, wake := h.heard(about)
		if found := All[E](events); len(found) >= n {
			return found[n-1]
		}
		select {
		case <-wake:
		case <-limit.C:
			var none E
			h.tb.Fatalf("no %T number %d about %s; heard %v", none, n, about, events)
		}
	}
}

// All gives those of the events that are of type E.
func All[E proto.Message](events []proto.Message) []E {
	var found []E
	for _, e := range events {
		if x, ok := e.(E); ok {
			found = append(found, x)
		}
	}
	return found
}

// Until waits for something that no event tells of, by looking again and again.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(Patience)
	defer limit.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-limit.C:
			tb.Fatalf("never happened: %s", what)
		}
	}
}
