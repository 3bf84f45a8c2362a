package system_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A disturbance is what happens to a fleet while orders are on their way. None may
// lose or double anything.
type disturbance struct {
	name string
	do   func(t *testing.T, l *load)
}

var (
	crash   = disturbance{"a crash between commit and publish", crashBeforePublish}
	killing = disturbance{"each process is killed while orders come in", killEach}
	drain   = disturbance{"each process is stopped and started while orders come in", drainEach}
	outage  = disturbance{"the broker is killed while orders come in", killBroker}
	again   = disturbance{"all is killed, and every event comes twice and in disorder", replay}
)

// TestNothingIsLostOrDoubled disturbs every split in every way; where there are two
// of each service, in those ways in which the second makes a difference.
func TestNothingIsLostOrDoubled(t *testing.T) { // one split after the other: each is up to fourteen processes under load
	for _, sp := range []split{oneProcess, threeParts, eachAlone, aloneOnPG, twoOfEach} {
		t.Run(sp.name, func(t *testing.T) {
			disturbances := []disturbance{crash, killing, drain, outage, again}
			if sp.replicas > 1 {
				disturbances = []disturbance{drain, outage}
			}
			begun := time.Now()
			f := sp.launch(t, "shop")
			l := f.load()
			up := time.Since(begun)
			var took []string
			for _, d := range disturbances {
				since := time.Now()
				if !t.Run(d.name, func(t *testing.T) {
					f.use(t)
					d.do(t, l)
					l.settled()
				}) {
					f.use(t)
					for _, c := range f.children {
						t.Logf("%s:\n%s", c, c.tail())
					}
					return
				}
				f.use(t)
				took = append(took, fmt.Sprintf("%s %s", d.name, time.Since(since).Round(100*time.Millisecond)))
			}
			f.end()
			t.Logf("%s: %d orders in %s (started in %s; %s)", sp.name, len(l.accepted), time.Since(begun).Round(100*time.Millisecond), up.Round(100*time.Millisecond), strings.Join(took, "; "))
		})
	}
}

// use makes a test the one that fails when something does.
func (f *fleet) use(t *testing.T) {
	f.t = t
	for _, c := range f.children {
		c.t = t
	}
}

// crashBeforePublish lets the process die that has orders committed whose events no
// broker has seen.
func crashBeforePublish(t *testing.T, l *load) {
	l.f.broker.Kill()
	before := l.next
	for range 2 * len(fates) {
		l.pardon = never
		l.place(t, l.next)
		l.next++
	}
	for _, w := range l.wrong {
		t.Errorf("without a broker: %s", w)
	}
	waiting := 0
	for _, c := range l.f.serves("order") {
		if v := c.metric(`waybill_outbox_pending{service="order"}`); v != "" {
			_, _ = fmt.Sscan(v, &waiting)
		}
	}
	if waiting != l.next-before {
		t.Errorf("%d events wait for the broker, want %d", waiting, l.next-before)
	}
	for _, c := range l.f.serves("order") {
		c.kill()
	}
	l.f.broker.Start()
	l.f.start(l.f.serves("order")...)
}

// killEach kills one process after the other in the midst of their work.
func killEach(t *testing.T, l *load) {
	l.during(unsure, func(more func()) {
		for _, c := range l.f.children {
			c.kill()
			l.f.start(c)
			more()
		}
	})
}

// drainEach stops and starts one process after the other in good order. Where there
// is another of its kind nobody notices; where there is none, callers are told to
// come back, or find the door closed.
func drainEach(t *testing.T, l *load) {
	alone := l.f.split.replicas < 2
	for i, c := range l.f.children {
		if !alone && i%l.f.split.replicas > 0 {
			continue // one of each kind tells
		}
		pardon := never
		switch {
		case alone && c.has("gateway"):
			pardon = unsure
		case alone:
			pardon = later
		}
		l.during(pardon, func(more func()) {
			for _, g := range l.gates { // as a load balancer that has seen /readyz
				if !alone && g.base == "http://"+c.HTTP && c.has("gateway") {
					g.Lock()
					defer g.Unlock()
				}
			}
			c.terminate()
			l.f.start(c)
			more()
		})
	}
}

// killBroker lets the broker crash and come back. Orders are accepted all the same.
func killBroker(t *testing.T, l *load) {
	l.during(never, func(more func()) {
		for range 2 {
			l.f.broker.Kill()
			more()
			l.f.broker.Start()
			more()
		}
	})
}

// replay kills all processes in the midst of their work, and has the streams deliver
// all that was ever published twice, in an order of chance: what was handled long
// ago and what nobody has seen yet.
func replay(t *testing.T, l *load) {
	l.during(unsure, func(func()) {
		for _, c := range l.f.children {
			c.kill()
		}
		shuffle(t, l.f.broker.URL())
		l.f.start(l.f.children...)
	})
}

// shuffle makes the streams anew, with every message twice: once as it was, once
// without the id by which the broker recognises repetitions.
func shuffle(t *testing.T, broker string) {
	nc, err := nats.Connect(broker)
	must(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	must(t, err)
	ctx := soon(t)
	total := 0
	for info := range js.ListStreams(ctx).Info() {
		c, err := js.OrderedConsumer(ctx, info.Config.Name, jetstream.OrderedConsumerConfig{})
		must(t, err)
		messages, err := c.Messages()
		must(t, err)
		var all []*nats.Msg
		for range info.State.Msgs {
			m, err := messages.Next(jetstream.NextContext(ctx))
			must(t, err)
			once := &nats.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()}
			twice := &nats.Msg{Subject: m.Subject(), Header: nats.Header{}, Data: m.Data()}
			for k, v := range m.Headers() {
				if k != jetstream.MsgIDHeader {
					twice.Header[k] = v
				}
			}
			all = append(all, once, twice)
		}
		messages.Stop()
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		must(t, js.DeleteStream(ctx, info.Config.Name))
		_, err = js.CreateStream(ctx, info.Config)
		must(t, err)
		publish(ctx, t, js, all)
		total += len(all)
	}
	t.Logf("%d messages in disorder", total)
}

func publish(ctx context.Context, t *testing.T, js jetstream.JetStream, all []*nats.Msg) {
	t.Helper()
	for _, m := range all {
		_, err := js.PublishMsgAsync(m)
		must(t, err)
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-ctx.Done():
		t.Fatal(ctx.Err())
	}
}
