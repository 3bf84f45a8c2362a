package sim

import (
	"cmp"
	"slices"
	"time"

	"github.com/waybill-dev/waybill/platform/outbox"
)

// These are the relay's, see platform/outbox.
const (
	leaseTTL  = 10 * time.Second
	scanAge   = 2 * time.Second
	markAfter = 50 * time.Millisecond
	giveUp    = 5 * time.Second // on an acknowledgement
)

// lease is what the database knows of who publishes.
type lease struct {
	owner   string
	expires time.Time // by the clock of the owner
}

// relay publishes the outbox of a process's service in the way of outbox.Relay:
// events of one aggregate one after the other, each after the acknowledgement of
// the one before, those of several side by side, and in one message if they are of
// one type and are published at once; from memory what this process
// committed, from the table what others did or were in the midst of; a row is
// marked after its acknowledgement, and the rest is for whoever comes next.
type relay struct {
	p        *process
	leader   time.Time         // until when the lease is ours, by our clock
	flying   map[string][]*row // by aggregate: the event in flight and those behind it
	ready    []*row            // to be published at once
	leaving  bool              // which is on the agenda
	taken    map[int64]bool    // in flight, waiting, or published and not marked
	marked   []*row            // acknowledged
	top      uint64            // highest number acknowledged
	flush    bool              // is on the agenda
	behind   bool              // the table has what memory does not know
	turning  bool              // a look at it is on the agenda
	sent     map[string]int64  // by aggregate: the last event in hand or published
	pause    time.Duration
	notUntil time.Time
}

func newRelay(p *process) *relay {
	return &relay{p: p, flying: map[string][]*row{}, taken: map[int64]bool{}, sent: map[string]int64{}}
}

func (r *relay) begin() {
	r.renew()
	r.nudge()
	r.tick()
}

func (r *relay) tick() {
	r.p.w.in(r.p, time.Second, func() {
		r.renew()
		if r.leads() && !r.behind {
			r.scan(scanAge)
		}
		r.tick()
	})
}

// leads tells whether this relay may publish.
func (r *relay) leads() bool { return r.p.w.opt.Mutant == TwoRelays || r.p.clock().Before(r.leader) }

// renew takes or prolongs the lease.
func (r *relay) renew() {
	now, l := r.p.clock(), &r.p.lease
	if r.leader.Sub(now) > leaseTTL*2/3 || l.owner != r.p.id && now.Before(l.expires) {
		return
	}
	if l.owner != r.p.id && l.owner != "" {
		r.p.w.count("lease taken over")
	}
	if !r.leads() {
		r.nudge()
	}
	l.owner, l.expires = r.p.id, now.Add(leaseTTL)
	r.leader = now.Add(leaseTTL - time.Second)
}

// take publishes what was just committed.
func (r *relay) take(events []*outbox.Event) {
	switch {
	case len(events) == 0:
	case !r.leads():
		for _, p := range r.p.replicas { // the leader is told, if the word gets there
			if p != r.p && p.up {
				p.relay.nudge()
			}
		}
	case r.behind: // the scan will meet them in their order
	default:
		for _, e := range events {
			if e.Version > 1 && r.sent[e.AggregateID] < e.Version-1 && r.p.w.opt.Mutant != MemoryFirst {
				r.p.w.count("event of another replica not overtaken")
				r.nudge()
				return
			}
			if x := r.p.pending[e.Seq]; x != nil {
				r.send(x)
			}
		}
	}
}

// nudge has the table looked at as soon as may be.
func (r *relay) nudge() {
	r.behind = true
	if r.turning {
		return
	}
	r.turning = true
	wait := max(r.p.w.between(time.Millisecond, 5*time.Millisecond), r.notUntil.Sub(r.p.clock()))
	r.p.w.in(r.p, wait, func() {
		r.turning, r.behind = false, false
		if r.leads() {
			r.scan(0)
		}
	})
}

// scan publishes what is pending and not in hand, the oldest first, up to one that
// is younger than age.
func (r *relay) scan(age time.Duration) {
	if len(r.p.pending) == 0 {
		return
	}
	old := make([]*row, 0, len(r.p.pending))
	for _, x := range r.p.pending {
		old = append(old, x)
	}
	slices.SortFunc(old, func(a, b *row) int { return cmp.Compare(a.Seq, b.Seq) })
	now := r.p.clock()
	for _, x := range old {
		if age > 0 && x.Time.After(now.Add(-age)) && !x.Time.After(now) {
			return
		}
		r.send(x)
	}
}

func (r *relay) send(x *row) {
	if r.taken[x.Seq] {
		return
	}
	mutant := r.p.w.opt.Mutant
	if mutant == TwoRelays {
		if r.p.taken[x.Seq] {
			return
		}
		r.p.taken[x.Seq] = true
	}
	r.taken[x.Seq] = true
	r.sent[x.AggregateID] = x.Version
	queue := r.flying[x.AggregateID]
	r.flying[x.AggregateID] = append(queue, x)
	if len(queue) == 0 || mutant == NoOrder {
		r.next(x)
	}
}

// next has an event published with others that can be now.
func (r *relay) next(x *row) {
	r.ready = append(r.ready, x)
	if r.leaving {
		return
	}
	r.leaving = true
	r.p.w.in(r.p, r.p.w.between(0, 10*time.Millisecond), func() {
		r.leaving = false
		of := map[*outbox.Event]*row{}
		var events []*outbox.Event
		for _, x := range r.ready {
			of[x.Event] = x
			events = append(events, x.Event)
		}
		r.ready = nil
		for _, m := range outbox.Messages(events) {
			var rows []*row
			for _, e := range m.Events {
				rows = append(rows, of[e])
			}
			r.publish(m, rows)
		}
	})
}

// publish sends a message with the events of some rows to the broker, which may not
// get it, or not in time.
func (r *relay) publish(m outbox.Message, rows []*row) {
	w := r.p.w
	if w.opt.Mutant == MarkBeforeAck {
		for _, x := range rows {
			r.mark(x)
		}
	}
	if !r.p.clock().Before(r.leader) {
		w.count("published by a relay that had lost its lease")
	}
	life := w.broker.streams[r.p.name].lives
	if w.broker.streams[r.p.name].away {
		w.in(r.p, 100*time.Millisecond, func() { r.failed(rows) })
		return
	}
	there := w.between(time.Millisecond, 10*time.Millisecond)
	if w.chance(w.rates.delay) {
		there = w.between(time.Millisecond, 4*time.Second)
	}
	switch {
	case w.chance(w.rates.drop):
		w.count("publication dropped")
		w.in(r.p, giveUp, func() { r.failed(rows) })
		return
	case w.chance(w.rates.late):
		w.count("publication that arrived after its sender gave up")
		w.after(giveUp+w.between(time.Millisecond, 20*time.Second), func() { w.broker.store(r.p.name, m, life) })
		w.in(r.p, giveUp, func() { r.failed(rows) })
		return
	}
	w.after(there, func() {
		seq := w.broker.store(r.p.name, m, life)
		if seq == 0 {
			w.in(r.p, 100*time.Millisecond, func() { r.failed(rows) })
			return
		}
		if w.chance(w.rates.lostPubAck) {
			w.count("acknowledgement of a publication lost")
			w.in(r.p, giveUp, func() { r.failed(rows) })
			return
		}
		w.in(r.p, w.between(time.Millisecond, 10*time.Millisecond), func() { r.acked(rows, seq) })
	})
}

// acked has events marked soon and publishes the next of their aggregates.
func (r *relay) acked(rows []*row, seq uint64) {
	for _, x := range rows {
		queue := r.flying[x.AggregateID]
		i := slices.Index(queue, x)
		if i < 0 {
			continue // it was given up before
		}
		r.pause = 0
		r.top = max(r.top, seq)
		r.marked = append(r.marked, x)
		if !r.flush {
			r.flush = true
			r.p.w.in(r.p, markAfter, r.markAll)
		}
		queue = slices.Delete(queue, i, i+1)
		if len(queue) == 0 {
			delete(r.flying, x.AggregateID)
			continue
		}
		r.flying[x.AggregateID] = queue
		if r.p.w.opt.Mutant != NoOrder {
			r.next(queue[0])
		}
	}
}

// failed drops the rest of the aggregates: the scan will read all of it again.
func (r *relay) failed(rows []*row) {
	dropped := false
	for _, x := range rows {
		queue := r.flying[x.AggregateID]
		if !slices.Contains(queue, x) {
			continue
		}
		for _, y := range queue {
			delete(r.taken, y.Seq)
			delete(r.p.taken, y.Seq)
		}
		delete(r.flying, x.AggregateID)
		dropped = true
	}
	if !dropped {
		return
	}
	r.pause = min(max(2*r.pause, 50*time.Millisecond), 5*time.Second)
	r.notUntil = r.p.clock().Add(r.pause)
	r.nudge()
}

// markAll marks what was acknowledged, unless the database is away.
func (r *relay) markAll() {
	w := r.p.w
	r.flush = false
	if w.chance(w.rates.away) {
		r.flush = true
		w.in(r.p, time.Second, r.markAll)
		return
	}
	mine := r.p.lease.owner == r.p.id || w.opt.Mutant == TwoRelays
	if !mine {
		w.count("marks of a relay that had lost its lease")
	}
	for _, x := range r.marked {
		if mine {
			r.mark(x)
		}
		delete(r.taken, x.Seq)
	}
	r.marked = r.marked[:0]
	r.p.acked = max(r.p.acked, r.top)
}

func (r *relay) mark(x *row) {
	x.marked = true
	delete(r.p.pending, x.Seq)
	delete(r.p.taken, x.Seq)
}

// forget drops what this relay believes to be published.
func (r *relay) forget() {
	r.marked, r.ready, r.top = r.marked[:0], nil, 0
	for seq := range r.taken {
		delete(r.taken, seq)
	}
	clear(r.flying)
}
