package bus_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
)

func TestABacklogOfLargeMessagesComesBitByBit(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		const n, size = 150, 200 << 10 // 30 MB, of which no more than a part is taken at once
		for i := range n {
			m := msg("A", "k", i)
			m.Data = bytes.Repeat([]byte{byte(i)}, size)
			publish(t, b, "A", m)
		}
		first, gate := make(chan struct{}), make(chan struct{})
		got := make(chan *bus.Delivery, n)
		if _, err := b.Consume(within(t), bus.Consumer{Stream: "A", Durable: "reader"}, func(d *bus.Delivery) {
			if d.Seq == 1 {
				close(first)
			}
			<-gate
			got <- d
		}); err != nil {
			t.Fatal(err)
		}
		next(t, first)
		eventually(t, "something is delivered", func() bool {
			i, err := b.ConsumerInfo(t.Context(), "A", "reader")
			return err == nil && i.AckPending > 0
		})
		if i, err := b.ConsumerInfo(t.Context(), "A", "reader"); err != nil || i.AckPending > 90 {
			t.Errorf("%d messages of 200 KiB are in hand, %v", i.AckPending, err)
		}
		close(gate)
		for i := range n {
			if d := next(t, got); len(d.Data) != size || d.Data[0] != byte(i) {
				t.Fatalf("message %d is not what was published", i)
			} else {
				ack(t, d)
			}
		}
	})
}

func TestMessagesArriveOnceAndInOrderPerSubject(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader"})
		const keys, each = 5, 400
		var publishers sync.WaitGroup
		for k := range keys {
			publishers.Go(func() {
				for n := range each {
					b.PublishAsync("A", msg("A", fmt.Sprint("k", k), n), func(seq uint64, err error) {
						if err != nil || seq == 0 {
							t.Errorf("publish: seq %d, error %v", seq, err)
						}
					})
				}
			})
		}
		seen := map[string]int{}
		seqs := map[uint64]bool{}
		for range keys * each {
			d := next(t, got)
			if want := fmt.Sprint(seen[d.Subject]); string(d.Data) != want || d.Header("n") != want {
				t.Fatalf("%s: got message %s (header %s), want %s", d.Subject, d.Data, d.Header("n"), want)
			}
			seen[d.Subject]++
			if seqs[d.Seq] || d.Seq == 0 || d.Deliveries != 1 || d.Stream != "A" || d.ID == "" || time.Since(d.Time) > time.Hour {
				t.Fatalf("odd delivery: %+v", d)
			}
			seqs[d.Seq] = true
			ack(t, d)
		}
		publishers.Wait()
		eventually(t, "every message acknowledged", func() bool {
			i, err := b.ConsumerInfo(t.Context(), "A", "reader")
			return err == nil && i.AckedSeq == keys*each && i.AckPending == 0 && i.Pending == 0
		})
		if len(got) != 0 {
			t.Errorf("%d messages came too many", len(got))
		}
	})
}

func TestARepeatedIDInsideTheWindowIsStoredOnce(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		first := publish(t, b, "A", msg("A", "k", 1))
		if again := publish(t, b, "A", msg("A", "k", 1)); again != first {
			t.Errorf("repeated ID got sequence %d, want %d", again, first)
		}
		i, err := b.StreamInfo(within(t), "A")
		if err != nil || i.Messages != 1 || i.LastSeq != first {
			t.Errorf("stream holds %+v, error %v; want one message", i, err)
		}
		read, err := b.ReadStream(within(t), "A", []uint64{99, first})
		if err != nil {
			t.Fatal(err)
		}
		if want := msg("A", "k", 1); read[0] != nil || !cmp.Equal(read[1], &want) {
			t.Errorf("read %+v, want nothing and the message", read)
		}
		if _, err = b.ReadStream(within(t), "B", []uint64{1}); errs.KindOf(err) != errs.NotFound {
			t.Errorf("a stream that is not there: error %v, want not found", err)
		}
	})
}

func TestAnUnendedDeliveryComesAgain(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader", AckWait: 100 * time.Millisecond})
		publish(t, b, "A", msg("A", "k", 1))
		next(t, got)
		again := next(t, got)
		if again.Deliveries != 2 || again.ID != "A-k-1" {
			t.Errorf("second delivery is %+v", again)
		}
		ack(t, again)
		ack(t, again) // twice does nothing
	})
}

func TestNakBringsTheMessageBackAfterTheDelay(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader"})
		publish(t, b, "A", msg("A", "k", 1))
		first := next(t, got)
		start := time.Now()
		if err := first.Nak(200 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		second := next(t, got)
		if waited := time.Since(start); waited < 190*time.Millisecond || second.Deliveries != 2 {
			t.Errorf("delivery %d came after %v", second.Deliveries, waited)
		}
		if err := second.Nak(0); err != nil {
			t.Fatal(err)
		}
		ack(t, next(t, got))
	})
}

func TestATerminatedMessageNeverComesAgain(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader", AckWait: 100 * time.Millisecond})
		publish(t, b, "A", msg("A", "poison", 1))
		if err := next(t, got).Term("cannot be\r\nread"); err != nil {
			t.Fatal(err)
		}
		publish(t, b, "A", msg("A", "good", 1))
		// The good one coming three times means that the other's time was over, too.
		for range 3 {
			if d := next(t, got); d.ID != "A-good-1" {
				t.Fatalf("%s came again", d.ID)
			}
		}
	})
}

func TestInProgressKeepsADeliveryAlive(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader", AckWait: 400 * time.Millisecond})
		publish(t, b, "A", msg("A", "slow", 1))
		slow := next(t, got)
		publish(t, b, "A", msg("A", "other", 1))
		for other := next(t, got); other.Deliveries < 4; { // three times AckWait
			if err := slow.InProgress(); err != nil {
				t.Fatal(err)
			}
			select {
			case d := <-got:
				if d.ID == slow.ID {
					t.Fatal("the slow one came again")
				}
				other = d
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

func TestAStoppedConsumerFindsItsBacklog(t *testing.T) {
	bustest.EachBroker(t, func(t *testing.T, k *bustest.Broker) {
		b := k.Open()
		ensure(t, b, events("A"))
		c := bus.Consumer{Stream: "A", Durable: "reader"}
		got, sub := consume(t, b, c)
		publish(t, b, "A", msg("A", "k", 0))
		ack(t, next(t, got))
		if err := sub.Stop(within(t)); err != nil {
			t.Fatal(err)
		}
		for n := 1; n <= 3; n++ {
			publish(t, b, "A", msg("A", "k", n))
		}
		b = k.Restart(b)
		eventually(t, "connected again", func() bool { return b.Ready() == nil })
		got, _ = consume(t, b, c)
		for n := 1; n <= 3; n++ {
			d := next(t, got)
			if string(d.Data) != fmt.Sprint(n) {
				t.Fatalf("got message %s, want %d", d.Data, n)
			}
			ack(t, d)
		}
	})
}

func TestStopWaitsForTheHandlerAndLosesNothing(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		const n = 50
		var msgs []bus.Msg
		for i := range n {
			msgs = append(msgs, msg("A", "k", i))
		}
		if _, err := b.PublishBatch(within(t), "A", msgs); err != nil {
			t.Fatal(err)
		}
		handled := map[string]int{} // by the one goroutine that handles, then by this one
		first, gate := make(chan struct{}), make(chan struct{})
		c := bus.Consumer{Stream: "A", Durable: "reader", AckWait: 500 * time.Millisecond}
		sub, err := b.Consume(within(t), c, func(d *bus.Delivery) {
			if len(handled) == 0 {
				close(first)
			}
			<-gate
			handled[d.ID]++
			ack(t, d)
		})
		if err != nil {
			t.Fatal(err)
		}
		next(t, first)
		hurried, cancel := context.WithCancel(t.Context())
		cancel()
		if err := sub.Stop(hurried); !errors.Is(err, context.Canceled) {
			t.Errorf("stop without time: %v", err)
		}
		close(gate)
		if err := sub.Stop(within(t)); err != nil {
			t.Fatal(err)
		}
		// What was still on its way comes to whoever consumes next.
		got, _ := consume(t, b, c)
		for len(handled) < n {
			d := next(t, got)
			handled[d.ID]++
			ack(t, d)
		}
	})
}

func TestAConsumerCreatedTwiceStaysUnchanged(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b1, b2 := open(), open()
		ensure(t, b1, events("A"))
		ensure(t, b2, events("A"))
		c := bus.Consumer{Stream: "A", Durable: "reader", Subjects: []string{"test.A.y", "test.A.x"}}
		got1, sub1 := consume(t, b1, c)
		before, err := b1.ConsumerInfo(within(t), "A", "reader")
		if err != nil {
			t.Fatal(err)
		}
		slices.Reverse(c.Subjects)
		got2, _ := consume(t, b2, c)
		after, err := b2.ConsumerInfo(within(t), "A", "reader")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("consumer changed (-before +after):\n%s", diff)
		}
		// Two processes share the messages: what one does not take, the other does.
		if err := sub1.Stop(within(t)); err != nil {
			t.Fatal(err)
		}
		publish(t, b1, "A", msg("A", "z", 1)) // not of these subjects
		publish(t, b1, "A", msg("A", "x", 1))
		if d := next(t, got2); d.ID != "A-x-1" || len(got1) != 0 {
			t.Errorf("got %s, %d others", d.ID, len(got1))
		}
		// Other settings change it, and it keeps its place.
		c.MaxAckPending = 7
		consume(t, b2, c)
		changed, err := b2.ConsumerInfo(within(t), "A", "reader")
		if err != nil || changed.Config == before.Config || !changed.Created.Equal(before.Created) {
			t.Errorf("changed consumer is %+v, error %v", changed, err)
		}
	})
}

func TestAStreamEnsuredTwiceKeepsItsMessages(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		s := events("A")
		ensure(t, b, s)
		publish(t, b, "A", msg("A", "k", 1))
		before, _ := b.StreamInfo(within(t), "A")
		ensure(t, b, s)
		s.MaxBytes *= 2
		ensure(t, b, s)
		after, err := b.StreamInfo(within(t), "A")
		if err != nil || after.Messages != 1 || !after.Created.Equal(before.Created) || after.MaxBytes != s.MaxBytes {
			t.Errorf("stream is %+v, error %v", after, err)
		}
	})
}

func TestAFullStreamRefusesAndForgetsNothing(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		s := events("A")
		s.MaxBytes, s.MaxMsgSize = 4<<10, 2<<10
		ensure(t, b, s)
		m := msg("A", "k", 0)
		m.Data = make([]byte, 1<<10)
		stored := uint64(0)
		for n := range 10 {
			m.ID = fmt.Sprint(n)
			seq, err := b.Publish(within(t), "A", m)
			if err != nil {
				wantClass(t, err, bus.Retry)
				if errs.ReasonOf(err) != bus.ReasonFull {
					t.Errorf("reason is %s, error %v", errs.ReasonOf(err), err)
				}
				if _, err := b.PublishBatch(within(t), "A", []bus.Msg{m, m}); errs.ReasonOf(err) != bus.ReasonFull {
					t.Errorf("batch: reason is %s, error %v", errs.ReasonOf(err), err)
				}
				break
			}
			stored = seq
		}
		i, err := b.StreamInfo(within(t), "A")
		if err != nil || stored == 0 || stored == 10 || i.Messages != stored || i.FirstSeq != 1 {
			t.Errorf("stored %d, stream is %+v, error %v", stored, i, err)
		}
	})
}

func TestPublishErrorsSayWhatToDo(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		small := events("A")
		small.MaxMsgSize = 1 << 10
		ensure(t, b, small)
		ensure(t, b, events("B"))
		large := func(n int) bus.Msg { m := msg("A", "k", n); m.Data = make([]byte, n); return m }
		header := func(k, v string) bus.Msg { m := msg("A", "k", 1); m.Header = map[string]string{k: v}; return m }
		subject := func(s string) bus.Msg { return bus.Msg{Subject: s} }
		for name, c := range map[string]struct {
			m    bus.Msg
			want bus.ErrorClass
		}{
			"larger than the stream allows": {large(2 << 10), bus.TooLarge},
			"larger than the broker allows": {large(2 << 20), bus.TooLarge},
			"subject of another stream":     {msg("B", "k", 1), bus.WrongStream},
			"subject of no stream":          {subject("nobody.home"), bus.Retry},
			"no subject":                    {subject(""), bus.Invalid},
			"wildcard":                      {subject("test.A.*"), bus.Invalid},
			"blank in subject":              {subject("test.A.x y"), bus.Invalid},
			"line break in subject":         {subject("test.A.x\r\nPUB test.A.y 0"), bus.Invalid},
			"empty token":                   {subject("test.A..x"), bus.Invalid},
			"line break in header":          {header("k", "a\r\nNats-Rollup: all"), bus.Invalid},
			"colon in header name":          {header("a:b", "c"), bus.Invalid},
			"reserved header":               {header("Nats-Rollup", "all"), bus.Invalid},
			"line break in ID":              {bus.Msg{ID: "a\nb", Subject: "test.A.k"}, bus.Invalid},
		} {
			t.Run(name, func(t *testing.T) {
				_, err := b.Publish(within(t), "A", c.m)
				wantClass(t, err, c.want)
				async := make(chan error, 1)
				b.PublishAsync("A", c.m, func(_ uint64, err error) { async <- err })
				wantClass(t, next(t, async), c.want)
				seqs, err := b.PublishBatch(within(t), "A", []bus.Msg{msg("A", name2token(name), 1), c.m})
				wantClass(t, err, c.want)
				if c.want != bus.WrongStream && c.want != bus.Retry && (seqs[0] == 0 || seqs[1] != 0) {
					t.Errorf("the good message of the batch was not stored: %v", seqs)
				}
			})
		}
		if i, err := b.StreamInfo(within(t), "B"); err != nil || i.Messages != 0 {
			t.Errorf("stream B is %+v, error %v; want it empty", i, err)
		}
	})
}

func name2token(s string) string { return strings.ReplaceAll(s, " ", "-") }

func TestABatchIsStoredInOrderWithItsSequences(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b := open()
		ensure(t, b, events("A"))
		const n = 1100
		var msgs []bus.Msg
		var want []uint64
		for i := range n {
			msgs = append(msgs, msg("A", "k", i))
			want = append(want, uint64(i+1))
		}
		seqs, err := b.PublishBatch(within(t), "A", msgs)
		if diff := cmp.Diff(want, seqs); err != nil || diff != "" {
			t.Fatalf("error %v, sequences (-want +got):\n%s", err, diff)
		}
		// Stored messages among new ones: the new ones are stored, the others found.
		msgs = append([]bus.Msg{msg("A", "new", 0)}, msgs[:100]...)
		msgs = append(msgs, msg("A", "new", 1))
		seqs, err = b.PublishBatch(within(t), "A", msgs)
		want = append(append([]uint64{n + 1}, want[:100]...), n+2)
		if diff := cmp.Diff(want, seqs); err != nil || diff != "" {
			t.Fatalf("error %v, sequences (-want +got):\n%s", err, diff)
		}
		got, _ := consume(t, b, bus.Consumer{Stream: "A", Durable: "reader"})
		for i := range n {
			d := next(t, got)
			if string(d.Data) != fmt.Sprint(i) || d.ID != fmt.Sprintf("A-k-%d", i) || d.Header("n") != fmt.Sprint(i) {
				t.Fatalf("message %d is %s with ID %s", i, d.Data, d.ID)
			}
			ack(t, d)
		}
		if seqs, err := b.PublishBatch(within(t), "A", nil); err != nil || len(seqs) != 0 {
			t.Errorf("empty batch: %v, %v", seqs, err)
		}
	})
}

func TestNotificationsReachEveryListener(t *testing.T) {
	bustest.Each(t, func(t *testing.T, open func() *bus.Bus) {
		b1, b2 := open(), open()
		got1, got2 := make(chan string, 10), make(chan string, 10)
		stop1, err1 := b1.Listen("orders", func(data []byte) { got1 <- string(data) })
		alone := b1.Alone("orders")
		stop2, err2 := b2.Listen("orders", func(data []byte) { got2 <- string(data) })
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if alone != b1.Embedded() || b1.Alone("orders") {
			t.Errorf("alone with one listener: %v; with two: %v", alone, b1.Alone("orders"))
		}
		// The second connection's interest has reached the broker once it hears itself.
		if err := b2.Notify("orders", []byte("2")); err != nil {
			t.Fatal(err)
		}
		next(t, got2)
		next(t, got1)
		if err := b1.Notify("orders", []byte("1")); err != nil {
			t.Fatal(err)
		}
		if a, b := next(t, got1), next(t, got2); a != "1" || b != "1" {
			t.Errorf("got %q and %q", a, b)
		}
		stop1()
		stop1()
		if err := b2.Notify("orders", []byte("3")); err != nil {
			t.Fatal(err)
		}
		if a := next(t, got2); a != "3" || len(got1) != 0 {
			t.Errorf("got %q; stopped listener got %d", a, len(got1))
		}
		stop2()
		if err := b1.Notify("or ders", nil); bus.Class(err) != bus.Invalid {
			t.Errorf("bad topic: %v", err)
		}
		if _, err := b1.Listen("", func([]byte) {}); bus.Class(err) != bus.Invalid {
			t.Errorf("empty topic: %v", err)
		}
	})
}

func TestNonsenseIsRefused(t *testing.T) {
	b := bustest.Embedded(t).Open()
	for name, s := range map[string]bus.Stream{
		"no name":           {Subjects: []string{"a"}},
		"dot in name":       {Name: "a.b", Subjects: []string{"a"}},
		"no subjects":       {Name: "a"},
		"negative size":     {Name: "a", Subjects: []string{"a"}, MaxBytes: -1},
		"window beyond age": {Name: "a", Subjects: []string{"a"}, MaxAge: time.Second, Duplicates: time.Minute},
	} {
		if err := b.EnsureStream(within(t), s); errs.KindOf(err) != errs.Invalid {
			t.Errorf("stream with %s: error %v", name, err)
		}
	}
	ensure(t, b, events("A"))
	clash := bus.Stream{Name: "B", Subjects: []string{"test.A.x"}}
	if err := b.EnsureStream(within(t), clash); errs.KindOf(err) != errs.FailedPrecondition {
		t.Errorf("stream with another's subjects: error %v", err)
	}
	if err := b.Ready(); err != nil {
		t.Errorf("a refused stream is still wanted: %v", err)
	}
	for name, c := range map[string]bus.Consumer{
		"no stream":         {Durable: "a"},
		"no name":           {Stream: "A"},
		"blank in name":     {Stream: "A", Durable: "a b"},
		"negative prefetch": {Stream: "A", Durable: "a", Prefetch: -1},
		"tiny heartbeat":    {Stream: "A", Durable: "a", Heartbeat: time.Millisecond},
	} {
		if _, err := b.Consume(within(t), c, nil); errs.KindOf(err) != errs.Invalid {
			t.Errorf("consumer with %s: error %v", name, err)
		}
	}
}
