package bus_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/telemetry/telemetrytest"
)

// tally checks that every done is called exactly once.
type tally struct {
	mu      sync.Mutex
	calls   map[string]int
	stored  map[string]uint64
	pending sync.WaitGroup
}

func newTally() *tally { return &tally{calls: map[string]int{}, stored: map[string]uint64{}} }

func (y *tally) publish(b *bus.Bus, stream string, m bus.Msg) {
	y.pending.Add(1)
	b.PublishAsync(stream, m, func(seq uint64, err error) {
		y.mu.Lock()
		defer y.mu.Unlock()
		if y.calls[m.ID]++; y.calls[m.ID] > 1 {
			panic("done called twice for " + m.ID) // pending.Done would panic anyhow, with less to say
		}
		if err == nil {
			y.stored[m.ID] = seq
		}
		y.pending.Done()
	})
}

func TestDoneIsCalledOnceAlsoWhenTheBrokerGoesAway(t *testing.T) {
	k := bustest.External(t)
	b := k.Open(func(c *bus.Config) { c.AckTimeout = 2 * time.Second })
	ensure(t, b, events("A"))
	y := newTally()
	var sent atomic.Int64
	stop := make(chan struct{})
	var publishers sync.WaitGroup
	for p := range 4 {
		publishers.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				y.publish(b, "A", msg("A", fmt.Sprintf("p%d-%d", p, sent.Add(1)), n))
			}
		})
	}
	for round := range 3 {
		base := b.Stats().Published
		eventually(t, "messages flow", func() bool { return b.Stats().Published > base+500 })
		k.Server.Kill()
		eventually(t, "the loss is noticed", func() bool { return b.Ready() != nil })
		k.Server.Start()
		eventually(t, "connected again", func() bool { return b.Ready() == nil && b.Stats().Reconnects == uint64(round+1) })
	}
	close(stop)
	publishers.Wait()
	y.pending.Wait()
	eventually(t, "the window is free again", func() bool { return b.Stats().InFlight == 0 })
	if b.Stats().Failed == 0 {
		t.Error("the broker was killed thrice and no publish failed")
	}
	// The broker was killed, not the machine: whatever it acknowledged is there.
	seen := map[string]uint64{}
	got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "audit"})
	i, err := b.StreamInfo(within(t), "A")
	if err != nil {
		t.Fatal(err)
	}
	for range i.Messages {
		d := next(t, got)
		seen[d.ID] = d.Seq
		ack(t, d)
	}
	for id, seq := range y.stored {
		if seen[id] != seq {
			t.Fatalf("%s was acknowledged as %d, the stream has it as %d", id, seq, seen[id])
		}
	}
	t.Logf("%d published, %d acknowledged, %d stored", len(y.calls), len(y.stored), len(seen))
}

func TestConsumptionGoesOnAfterARestart(t *testing.T) {
	k := bustest.External(t)
	b := k.Open()
	ensure(t, b, events("A"))
	got, sub := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader", AckWait: time.Second, Heartbeat: 500 * time.Millisecond})
	seen := map[string]bool{}
	for round := range 3 {
		publish(t, b, "A", msg("A", "k", round))
		for !seen[fmt.Sprintf("A-k-%d", round)] {
			d := next(t, got)
			seen[d.ID] = true
			ack(t, d)
		}
		k.Restart(b)
		eventually(t, "connected again", func() bool { return b.Ready() == nil })
	}
	if !sub.Attached() {
		t.Error("the subscription is not attached")
	}
}

func TestTheBusStartsWithoutTheBrokerAndRecovers(t *testing.T) {
	k := bustest.External(t)
	k.Server.Kill()
	b := k.Open()
	if err := b.Ready(); errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "reconnecting") {
		t.Errorf("ready without a broker: %v", err)
	}
	if err := b.EnsureStream(within(t), events("A")); err != nil {
		t.Fatalf("ensure a stream without a broker: %v", err)
	}
	got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader"})
	heard := make(chan string, 1)
	if _, err := b.Listen("topic", func(data []byte) { heard <- string(data) }); err != nil {
		t.Fatal(err)
	}
	_, err := b.Publish(within(t), "A", msg("A", "k", 1))
	wantClass(t, err, bus.Retry)
	_, err = b.PublishBatch(within(t), "A", []bus.Msg{msg("A", "k", 1), msg("A", "k", 2)})
	wantClass(t, err, bus.Retry)

	k.Server.Start()
	eventually(t, "the bus is ready", func() bool { return b.Ready() == nil })
	publish(t, b, "A", msg("A", "k", 1))
	ack(t, next(t, got))
	if err := b.Notify("topic", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	next(t, heard)
}

func TestAConsumerWaitsForItsStream(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		got, sub := consume(t, b, bus.Consumer{Stream: "LATE", Durable: "reader"})
		if err := b.Ready(); err != nil {
			t.Errorf("another service's missing stream makes us not ready: %v", err)
		}
		if sub.Attached() {
			t.Error("attached to a stream that does not exist")
		}
		ensure(t, b, events("LATE"))
		publish(t, b, "LATE", msg("LATE", "k", 1))
		ack(t, next(t, got))
	})
}

func TestADeletedConsumerIsMadeAnew(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader"})
		publish(t, b, "A", msg("A", "k", 1))
		ack(t, next(t, got))
		if err := b.JetStream().DeleteConsumer(within(t), "A", "reader"); err != nil {
			t.Fatal(err)
		}
		// A new consumer begins at the beginning; recognising repetitions is the reader's part.
		publish(t, b, "A", msg("A", "k", 2))
		d := next(t, got)
		if d.ID == "A-k-1" {
			d = next(t, got)
		}
		if d.ID != "A-k-2" {
			t.Errorf("got %s", d.ID)
		}
	})
}

func TestADeletedStreamIsMadeAnew(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader", Heartbeat: 500 * time.Millisecond})
		before, err := b.StreamInfo(within(t), "A")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.JetStream().DeleteStream(within(t), "A"); err != nil {
			t.Fatal(err)
		}
		eventually(t, "publishing works again", func() bool {
			_, err := b.Publish(within(t), "A", msg("A", "k", 1))
			if err != nil {
				wantClass(t, err, bus.Retry)
			}
			return err == nil
		})
		ack(t, next(t, got))
		if after, err := b.StreamInfo(within(t), "A"); err != nil || after.Created.Equal(before.Created) {
			t.Errorf("stream is %+v, error %v: nobody could tell that it was lost", after, err)
		}
	})
}

func TestAStalledConsumerIsAttachedAgain(t *testing.T) {
	b := bustest.Embedded(t).Open()
	ensure(t, b, events("A"))
	got, sub := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader", Heartbeat: 500 * time.Millisecond})
	// A paused consumer looks like one whose pull was forgotten: messages wait, heartbeats come.
	s, err := b.JetStream().Stream(within(t), "A")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.PauseConsumer(within(t), "reader", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "A", msg("A", "k", 1))
	eventually(t, "attached again", func() bool { return b.Stats().Restarts > 0 && sub.Attached() })
	if _, err := s.ResumeConsumer(within(t), "reader"); err != nil {
		t.Fatal(err)
	}
	ack(t, next(t, got))
}

func TestARefusedConsumerMakesTheBusNotReady(t *testing.T) {
	b := bustest.Embedded(t).Open()
	ensure(t, b, events("A"))
	push := jetstream.ConsumerConfig{Durable: "reader", DeliverSubject: "somewhere", AckPolicy: jetstream.AckNonePolicy}
	if _, err := b.JetStream().CreatePushConsumer(within(t), "A", push); err != nil {
		t.Fatal(err)
	}
	got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader"})
	eventually(t, "not ready", func() bool {
		err := b.Ready()
		return err != nil && strings.Contains(err.Error(), "reader")
	})
	if err := b.JetStream().DeleteConsumer(within(t), "A", "reader"); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "A", msg("A", "k", 1))
	ack(t, next(t, got))
	if err := b.Ready(); err != nil {
		t.Errorf("still not ready: %v", err)
	}
}

func TestCloseWhilePublishing(t *testing.T) {
	bustest.EachBroker(t, func(t *testing.T, k *bustest.Broker) {
		b := k.Open(func(c *bus.Config) { c.Window = 16 })
		ensure(t, b, events("A"))
		got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader"})
		y := newTally()
		var publishers sync.WaitGroup
		for p := range 8 {
			publishers.Go(func() {
				for n := 0; ; n++ {
					m := msg("A", fmt.Sprint("p", p), n)
					y.publish(b, "A", m)
					if _, err := b.Publish(context.Background(), "A", m); bus.Class(err) == bus.Closed {
						return
					}
				}
			})
		}
		for range 100 {
			ack(t, next(t, got))
		}
		if err := b.Close(within(t)); err != nil {
			t.Errorf("close: %v", err)
		}
		publishers.Wait()
		y.pending.Wait()
		if err := b.Close(within(t)); err != nil {
			t.Errorf("second close: %v", err)
		}
		if err := b.Ready(); errs.ReasonOf(err) != bus.ReasonClosed {
			t.Errorf("ready after close: %v", err)
		}
		if _, err := b.Consume(within(t), bus.Consumer{Stream: "A", Durable: "x"}, nil); bus.Class(err) != bus.Closed {
			t.Errorf("consume after close: %v", err)
		}
		if _, err := b.PublishBatch(within(t), "A", []bus.Msg{msg("A", "k", 1)}); bus.Class(err) != bus.Closed {
			t.Errorf("batch after close: %v", err)
		}
		if k.Server != nil {
			return
		}
		// What was acknowledged before Close is there after it.
		b = k.Restart(b)
		i, err := b.StreamInfo(within(t), "A")
		if err != nil || i.Messages < uint64(len(y.stored)) {
			t.Errorf("%d acknowledged, stream is %+v, error %v", len(y.stored), i, err)
		}
	})
}

func TestCloseEndsInTimeWithTheBrokerAway(t *testing.T) {
	k := bustest.External(t)
	b := k.Open()
	ensure(t, b, events("A"))
	consume(t, b, bus.Consumer{Stream: "A", Durable: "reader"})
	k.Server.Kill()
	eventually(t, "the loss is noticed", func() bool { return b.Ready() != nil })
	if err := b.Close(within(t)); err != nil {
		t.Errorf("close: %v", err)
	}
}

func TestNothingRunsOnAfterClose(t *testing.T) {
	bustest.EachBroker(t, func(t *testing.T, k *bustest.Broker) {
		before := goleak.IgnoreCurrent()
		b := k.Open()
		ensure(t, b, events("A"))
		got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader"})
		consume(t, b, bus.Consumer{Stream: "MISSING", Durable: "reader"})
		publish(t, b, "A", msg("A", "k", 1))
		ack(t, next(t, got))
		if err := b.Close(within(t)); err != nil {
			t.Errorf("close: %v", err)
		}
		goleak.VerifyNone(t, before)
	})
}

func TestOneDirectoryServesOneProcess(t *testing.T) {
	dir := t.TempDir()
	cfg := bus.Config{Dir: dir}
	b, err := bus.Open(t.Context(), cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Open(t.Context(), cfg, nil); errs.KindOf(err) != errs.FailedPrecondition || !strings.Contains(err.Error(), "in use") {
		t.Errorf("second open: %v", err)
	}
	if err := b.Close(within(t)); err != nil {
		t.Fatal(err)
	}
	if b, err = bus.Open(t.Context(), cfg, nil); err != nil {
		t.Fatalf("open after close: %v", err)
	}
	if err := b.Close(within(t)); err != nil {
		t.Error(err)
	}
}

func TestLoginsNeverShow(t *testing.T) {
	const secret = "s3cr3t-pa55"
	s := bustest.StartServerWithLogin(t, "anna", secret)
	var out telemetrytest.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	url := func(login string) string { return strings.Replace(s.URL(), "nats://", "nats://"+login+"@", 1) }
	open := func(cfg bus.Config) *bus.Bus {
		t.Helper()
		cfg.ReconnectWait = 10 * time.Millisecond
		log.Info("opening", "config", cfg)
		fmt.Fprintln(&out, cfg, &cfg)
		b, err := bus.Open(t.Context(), cfg, log)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close(context.Background()) })
		return b
	}
	right := open(bus.Config{URL: url("anna:" + secret)})
	ensure(t, right, events("A"))
	apart := open(bus.Config{URL: s.URL(), User: "anna", Password: secret})
	eventually(t, "connected", func() bool { return apart.Ready() == nil })

	wrong := open(bus.Config{URL: url("anna:not-" + secret)})
	eventually(t, "refused", func() bool {
		err := wrong.Ready()
		return err != nil && strings.Contains(err.Error(), "Authorization")
	})
	fmt.Fprintln(&out, wrong.Ready())
	for _, cfg := range []bus.Config{
		{URL: "nats://anna:" + secret + "@[::1"}, {URL: "http://anna:" + secret + "@host"}, {URL: "anna:" + secret + "@host"},
		{URL: url("anna:" + secret), Token: secret},
	} {
		_, err := bus.Open(t.Context(), cfg, log)
		if errs.KindOf(err) != errs.Invalid {
			t.Errorf("open: %v", err)
		}
		fmt.Fprintln(&out, err, cfg)
	}
	if text := out.String(); strings.Contains(text, secret) {
		t.Errorf("the password shows:\n%s", text)
	}
}

func TestAPublishWithoutAnAnswerTimesOut(t *testing.T) {
	b := bustest.Embedded(t).Open(func(c *bus.Config) { c.AckTimeout, c.Window = 50*time.Millisecond, 4 })
	// Somebody hears the subject, so the broker does not say that nobody does; but he never answers.
	stop, err := b.Listen("void", func([]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	m := bus.Msg{ID: "x", Subject: "waybill.notify.void"}
	const n = 20
	results := make(chan error, n)
	for range n { // blocks while the window is full
		b.PublishAsync("A", m, func(_ uint64, err error) { results <- err })
		if inFlight := b.Stats().InFlight; inFlight > 4 {
			t.Errorf("%d in flight", inFlight)
		}
	}
	for range n {
		err := next(t, results)
		wantClass(t, err, bus.Retry)
		if errs.ReasonOf(err) != bus.ReasonTimeout {
			t.Errorf("error %v", err)
		}
	}
	eventually(t, "all are counted", func() bool {
		s := b.Stats()
		return s.Timeouts == n && s.Failed == n && s.InFlight == 0
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Publish(ctx, "A", m); errs.KindOf(err) != errs.Canceled {
		t.Errorf("publish with an ended context: %v", err)
	}
	if _, err := b.PublishBatch(ctx, "A", []bus.Msg{m, m}); errs.KindOf(err) != errs.Canceled {
		t.Errorf("batch with an ended context: %v", err)
	}
}
