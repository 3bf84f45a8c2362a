package sim

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/outbox"
)

const (
	ackWait = 10 * time.Second // as react asks for
	window  = 10 * time.Second // for which a repeated id is recognised
)

// broker has a stream for each service and a durable consumer for each service
// that hears something of it.
type broker struct {
	w       *world
	streams map[string]*stream
	handled map[string]int64 // highest version acknowledged by consumer, producer and aggregate
}

// stream is what the broker holds of one service.
type stream struct {
	name   string
	away   bool // it takes nothing until the relay has looked at it
	lives  int  // what was sent to it in another life does not arrive
	msgs   []*message
	recent map[string]*message // by id, as long as a repetition is recognised
}

// message is one stored message.
type message struct {
	outbox.Message
	stream *stream
	seq    uint64
	at     time.Time
	lost   bool // with the tail
}

// typ gives the type of the events in it.
func (m *message) typ() string { return m.Events[0].Type }

// waiting is a message on its way to one consumer.
type waiting struct {
	m     *message
	to    *service
	tries uint64
	ended bool
}

func newBroker(w *world) *broker {
	b := &broker{w: w, streams: map[string]*stream{}, handled: map[string]int64{}}
	for _, s := range w.services {
		b.streams[s.name] = &stream{name: s.name, recent: map[string]*message{}}
	}
	return b
}

// last gives the highest sequence number in a stream.
func (s *stream) last() uint64 { return uint64(len(s.msgs)) }

// events gives what is in a stream, in its order.
func (s *stream) events() (events []*outbox.Event) {
	for _, m := range s.msgs {
		events = append(events, m.Events...)
	}
	return events
}

// store keeps a message sent in a life of the broker and gives its sequence number,
// 0 if the broker is away, or another.
func (b *broker) store(from string, sent outbox.Message, life int) uint64 {
	s := b.streams[from]
	if s.away || s.lives != life {
		return 0
	}
	if old := s.recent[sent.ID]; old != nil && !old.lost && b.w.now.Sub(old.at) < window && b.w.opt.Mutant != MsgIDOff {
		b.w.count("publication recognised as repeated")
		return old.seq
	}
	m := &message{Message: sent, stream: s, seq: s.last() + 1, at: b.w.now}
	s.msgs = append(s.msgs, m)
	s.recent[m.ID] = m
	b.w.count("messages stored")
	if len(m.Events) > 1 {
		b.w.count("message of several events")
	}
	for _, e := range m.Events {
		b.w.note("stored", from, strconv.FormatUint(m.seq, 10), e.ID)
	}
	for _, to := range b.w.services {
		if to.listens(m.typ()) {
			b.hand(&waiting{m: m, to: to}, b.travel())
		}
	}
	return m.seq
}

func (s *service) listens(typ string) bool {
	for _, t := range s.hears {
		if t == typ {
			return true
		}
	}
	return false
}

// travel gives how long a message takes.
func (b *broker) travel() time.Duration {
	if b.w.chance(b.w.rates.delay) {
		b.w.count("delayed message")
		return b.w.between(time.Millisecond, time.Minute)
	}
	return b.w.between(time.Millisecond, 20*time.Millisecond)
}

// hand delivers a message after a while.
func (b *broker) hand(x *waiting, d time.Duration) {
	b.w.after(d, func() { b.deliver(x) })
}

// deliver hands a message to one of the processes that are there, and once more
// when it is not settled in time.
func (b *broker) deliver(x *waiting) {
	w := b.w
	if x.ended || x.m.lost {
		return
	}
	p := w.pick(x.to)
	if p == nil {
		b.hand(x, w.between(100*time.Millisecond, 3*time.Second))
		return
	}
	if still := p.still.Sub(w.now); still > 0 && x.tries > 1 {
		b.hand(x, still+w.between(0, time.Second)) // it asks for nothing while it stands still
		return
	}
	msg, some := b.seen(x)
	if !some {
		x.ended = true
		return
	}
	x.tries++
	if x.tries > 1 {
		w.count("message delivered again")
		if len(x.m.Events) > 1 {
			w.count("message of several events delivered again")
		}
	}
	b.overtaken(x)
	settled := false
	d := bus.NewDelivery(msg, outbox.Stream(x.m.stream.name), x.m.seq, x.tries, x.m.at, func(how bus.End, delay time.Duration) error {
		if settled {
			return nil
		}
		settled = true
		b.settled(x, how)
		return nil
	})
	w.note("deliver", p.id, x.m.ID, strconv.FormatUint(x.tries, 10))
	w.count("messages delivered")
	if w.opt.Mutant == AckBeforeCommit {
		x.ended = true
	}
	p.drive.Deliver(d)
	if w.opt.Mutant == CaptureEarly && x.to.name == "payment" {
		for _, m := range early(x.m) {
			p.drive.Deliver(bus.NewDelivery(m.Msg, outbox.Stream("inventory"), x.m.seq, x.tries, x.m.at, func(bus.End, time.Duration) error { return nil }))
		}
	}
	p.work()
	tries := x.tries
	w.after(ackWait+w.between(0, time.Second), func() {
		if !x.ended && x.tries == tries {
			settled = true // an acknowledgement from now on is one of a delivery that is over
			b.deliver(x)
		}
	})
}

// settled takes note of how a delivery ended.
func (b *broker) settled(x *waiting, how bus.End) {
	w := b.w
	switch how {
	case bus.Acked:
		if w.chance(w.rates.lostAck) {
			w.count("acknowledgement lost")
			return
		}
		for _, e := range x.m.Events {
			b.handled[x.key(e)] = max(b.handled[x.key(e)], e.Version)
		}
		if !x.ended && w.chance(w.rates.duplicate) {
			w.count("duplicate delivered")
			again := &waiting{m: x.m, to: x.to, tries: x.tries}
			b.hand(again, w.between(time.Millisecond, 2*time.Minute))
		}
		x.ended = true
	case bus.Nakked:
		if x.ended {
			return
		}
		w.count("delivery refused for now")
		b.hand(x, min(100*time.Millisecond<<min(x.tries, 10), time.Minute)+w.between(0, 100*time.Millisecond))
	case bus.Termed:
		x.ended = true
		w.violated("dead letter", "", "%s refused %s %s for good", x.to.name, x.m.typ(), x.m.ID)
	}
}

func (x *waiting) key(e *outbox.Event) string {
	return x.to.name + " " + x.m.stream.name + " " + e.AggregateID
}

// stale tells whether a later event of the aggregate was handled before.
func (b *broker) stale(x *waiting, e *outbox.Event) bool { return e.Version < b.handled[x.key(e)] }

// overtaken counts what is delivered after an event that came after it.
func (b *broker) overtaken(x *waiting) {
	for _, e := range x.m.Events {
		if x.tries == 1 && b.stale(x, e) {
			b.w.count("event overtaken by a later one")
		}
	}
}

// seen gives a message as the consumer gets it, if anything is left of it.
func (b *broker) seen(x *waiting) (m bus.Msg, some bool) {
	events := slices.Clone(x.m.Events)
	switch b.w.opt.Mutant {
	case DropStale:
		events = slices.DeleteFunc(events, func(e *outbox.Event) bool { return b.stale(x, e) })
	case InboxBySeq:
		for i, e := range events {
			other := *e
			// The form of an id, so that it is taken for one.
			other.ID = fmt.Sprintf("%s-%d-%d", x.m.stream.name, x.m.seq, i)
			events[i] = &other
		}
	default:
		return x.m.Msg, true
	}
	if len(events) == 0 {
		return bus.Msg{}, false
	}
	return outbox.Messages(events)[0].Msg, true
}

// loseTail takes the last messages of a stream away, as a broker does that is
// killed before it wrote them. Numbers will be used again.
func (b *broker) loseTail(name string) {
	w := b.w
	s := b.streams[name]
	lost := 0
	for n := 1 + w.fate.IntN(12); n > 0 && len(s.msgs) > 0; n-- {
		m := s.msgs[len(s.msgs)-1]
		if w.now.Sub(m.at) > 5*time.Minute {
			break
		}
		m.lost = true
		s.msgs = s.msgs[:len(s.msgs)-1]
		lost++
	}
	if lost == 0 {
		return
	}
	w.count("stream lost its tail")
	w.note("tail", name, strconv.Itoa(lost))
	// The relay looks at the stream when the broker is back, before it publishes.
	s.away = true
	s.lives++
	w.after(w.between(100*time.Millisecond, 20*time.Second), func() { w.service(name).audit() })
}

// audit compares the stream with what was acknowledged, and has what the stream
// may have lost published again. It is the work of a relay, which has written down
// before what it was told.
func (s *service) audit() {
	if !slices.ContainsFunc(s.replicas, func(p *process) bool {
		return p.up && !s.w.now.Before(p.still) && p.relay.leads() && len(p.relay.marked) == 0
	}) {
		s.w.after(s.w.between(100*time.Millisecond, time.Second), s.audit)
		return
	}
	stream := s.w.broker.streams[s.name]
	stream.away = false
	last := stream.last()
	if s.acked <= last || s.w.opt.Mutant == AuditOff {
		return
	}
	s.w.count("stream refilled")
	s.w.note("refill", s.name)
	s.acked = last
	for _, r := range s.rows {
		if r.marked {
			r.marked = false
			s.pending[r.Seq] = r
		}
	}
	for _, p := range s.replicas {
		if p.up {
			p.relay.forget()
			p.relay.nudge()
		}
	}
}

// pick gives one of the processes of a service that are up, nil if none is.
func (w *world) pick(s *service) *process {
	var up []*process
	for _, p := range s.replicas {
		if p.up {
			up = append(up, p)
		}
	}
	switch len(up) {
	case 0:
		return nil
	case 1:
		return up[0]
	}
	return up[w.dice.IntN(len(up))]
}
