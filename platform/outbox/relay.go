package outbox

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/failpoint"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// Publisher is what the relay needs of a bus.
type Publisher interface {
	// PublishAsync sends m and calls done exactly once: with the stream's
	// acknowledgement, or with an error if none came.
	PublishAsync(stream string, m bus.Msg, done func(seq uint64, err error))
}

// Notifier passes best-effort signals between the replicas of a service.
type Notifier interface {
	Notify(topic string, data []byte) error
	Listen(topic string, fn func(data []byte)) (stop func(), err error)
}

const (
	page      = 1024                    // rows read from the table at once
	window    = 1000                    // events in flight to the broker, below what the bus lets wait
	markAfter = 50 * time.Millisecond   // how long an acknowledged event waits to be marked with others
	markBulk  = 512                     // or until so many wait
	scanEvery = time.Second             // how often forgotten rows are looked for
	scanAge   = 2 * time.Second         // younger rows are on their way from memory
	leaseTTL  = 4 * time.Second         // how long a relay that stands still blocks its successor
	lastAcks  = 10 * time.Second        // how long a stop waits for acknowledgements
	minPause  = 50 * time.Millisecond   // first back-off after a refused publish
	maxPause  = 5000 * time.Millisecond // last back-off
	remember  = 1 << 15                 // aggregates of which the last event is known, times two
)

// Config says what a Relay relays.
type Config struct {
	Service string // whose outbox this is; names the stream and the lease
	Owner   string // this process, unique among the service's replicas
	DB      *sqldb.DB
	Bus     interface {
		Publisher
		Notifier
	}
	Now func() time.Time
	Log *slog.Logger

	// AuditEvery is the time between two audits of the stream; 0 means 30 s.
	AuditEvery time.Duration
	// Repaired hears how many events an audit found missing in the stream and had
	// published again; nil for nobody.
	Repaired func(events int64)
}

// A Relay publishes the outbox of one service. Events of one aggregate are
// published one after the other, each after the acknowledgement of the one
// before; events of different aggregates travel together.
//
// Among the replicas of a service only the holder of a lease publishes. The
// others tell it when they have committed events.
type Relay struct {
	cfg    Config
	stream string
	topic  string

	feed chan []*Event
	wake chan struct{}
	acks chan ack
	quit chan struct{}
	done chan struct{}
	once sync.Once

	// The rest belongs to the loop's goroutine.
	flying   map[string][]*Event // by aggregate: the event in flight and those waiting behind it
	taken    map[int64]bool      // rows in flight, waiting, or published and not yet marked
	inFlight int                 // events, those of ready included
	ready    []*Event            // to be published next, together
	behind   bool                // rows in the table are waiting that memory does not know
	cursor   int64               // up to where the scan of a backlog came
	pause    time.Duration
	notUntil time.Time
	leader   time.Time           // until when the lease is ours
	sent     [2]map[string]int64 // by aggregate: the last event in hand or published, two generations
	marked   []mark              // rows the broker has acknowledged, to be marked
	recent   [2]map[int64]bool   // rows marked lately, two generations
	tail     tail
}

// ack is the broker's answer to a message.
type ack struct {
	events []*Event
	seq    uint64
	err    error
}

// NewRelay makes a relay that does nothing until Start.
func NewRelay(cfg Config) *Relay {
	if cfg.AuditEvery <= 0 {
		cfg.AuditEvery = 30 * time.Second
	}
	if cfg.Repaired == nil {
		cfg.Repaired = func(int64) {}
	}
	return &Relay{
		cfg:    cfg,
		stream: Stream(cfg.Service),
		topic:  "outbox." + cfg.Service,
		feed:   make(chan []*Event, 256),
		wake:   make(chan struct{}, 1),
		acks:   make(chan ack, 2*window),
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
		flying: map[string][]*Event{},
		taken:  map[int64]bool{},
		behind: true, // what a former process left behind
		sent:   [2]map[string]int64{{}, {}},
		recent: [2]map[int64]bool{{}, {}},
		tail:   tail{answers: make(chan finding, 1)},
	}
}

// Start begins to relay, first of all what earlier processes left.
func (r *Relay) Start(ctx context.Context) error {
	stop, err := r.cfg.Bus.Listen(r.topic, func([]byte) { r.nudge() })
	if err != nil {
		return fmt.Errorf("listen for committed events of other replicas: %w", err)
	}
	stopDoubts := r.doubt()
	go func() {
		defer close(r.done)
		defer stopDoubts()
		defer stop()
		r.run(context.WithoutCancel(ctx))
	}()
	return nil
}

// Offer hands over events that were just committed. It never blocks: what does
// not fit is read from the table a little later.
func (r *Relay) Offer(events []*Event) {
	if len(events) == 0 {
		return
	}
	select {
	case r.feed <- events:
	default:
		r.nudge()
	}
}

// Stop publishes and marks what it already has in hand until ctx ends, and
// leaves the rest to the next process.
func (r *Relay) Stop(ctx context.Context) error {
	r.once.Do(func() { close(r.quit) })
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("outbox relay of %s: %w", r.cfg.Service, ctx.Err())
	}
}

func (r *Relay) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *Relay) run(ctx context.Context) {
	tick := time.NewTicker(scanEvery)
	defer tick.Stop()
	r.renew(ctx)
	defer r.resign(ctx)
	asking, stopAsking := context.WithCancel(ctx)
	defer r.tail.looking.Wait()
	defer stopAsking()
	quit := r.quit
	var deadline, mark <-chan time.Time
	for {
		r.publish()
		feed := r.feed
		if r.inFlight >= window {
			feed = nil // wait for acknowledgements
		}
		if quit != nil && r.leads() {
			r.ask(ctx, asking)
		}
		if r.behind && r.inFlight <= window/2 && !r.cfg.Now().Before(r.notUntil) {
			r.scan(ctx, 0)
			r.publish()
		}
		if quit == nil && r.inFlight == 0 && len(r.feed) == 0 {
			r.flush(ctx)
			return
		}
		select {
		case events := <-feed:
			r.take(events)
		case a := <-r.acks:
			r.settle(a)
			r.drainAcks()
			switch {
			case len(r.marked) >= markBulk || quit == nil:
				r.flush(ctx)
			case mark == nil:
				mark = time.After(markAfter)
			}
		case <-mark:
			mark = nil
			r.flush(ctx)
		case f := <-r.tail.answers:
			failpoint.Before("relay.look")
			r.answered(ctx, f)
			failpoint.After("relay.look")
		case <-r.wake:
			r.behind = true
		case <-tick.C:
			r.renew(ctx)
			r.recent[1], r.recent[0] = r.recent[0], map[int64]bool{}
			if r.inFlight < window && !r.behind {
				r.scan(ctx, scanAge)
			}
			if mark == nil {
				r.flush(ctx) // what could not be marked when the database was away
			}
		case <-quit:
			quit = nil
			r.behind = false
			deadline = time.After(lastAcks)
		case <-deadline:
			return
		}
	}
}

// take publishes events that came from memory, if this relay leads and is not
// working through a backlog, which must go first.
func (r *Relay) take(events []*Event) {
	failpoint.Before("relay.take")
	if !r.leads() {
		_ = r.cfg.Bus.Notify(r.topic, nil) // best effort: the leader also looks by itself
		return
	}
	if len(events) > window {
		// More than there is room for acknowledgements: while all of them are being
		// sent nobody would take the answers, and the bus would stand still.
		r.behind = true
	}
	if !r.tail.good {
		r.behind = true
	}
	for _, e := range events {
		if r.behind {
			return // the scan will meet them in their order
		}
		if r.overtakes(e) {
			r.behind, r.cursor = true, 0
			return
		}
		r.lineUp(e)
	}
	failpoint.After("relay.take")
}

// overtakes tells whether an event that came from memory is not the next of its
// aggregate, as far as this relay knows: then another replica may have committed
// those before it, or this one did and was not told.
func (r *Relay) overtakes(e *Event) bool {
	return e.Version > 1 && max(r.sent[0][e.AggregateID], r.sent[1][e.AggregateID]) < e.Version-1
}

// lineUp has an event published as soon as those of its aggregate before it are.
func (r *Relay) lineUp(e *Event) {
	if r.taken[e.Seq] || r.recent[0][e.Seq] || r.recent[1][e.Seq] {
		return
	}
	r.taken[e.Seq] = true
	r.sent[0][e.AggregateID] = e.Version
	if len(r.sent[0]) > remember {
		r.sent[1], r.sent[0] = r.sent[0], map[string]int64{}
	}
	queue, busy := r.flying[e.AggregateID]
	r.flying[e.AggregateID] = append(queue, e)
	if !busy {
		r.next(e)
	}
}

// next has an event published with others that can be now.
func (r *Relay) next(e *Event) {
	r.inFlight++
	r.ready = append(r.ready, e)
}

// publish sends what is ready, events of one type together.
func (r *Relay) publish() {
	if len(r.ready) == 0 {
		return
	}
	for _, m := range Messages(r.ready) {
		r.send(m)
	}
	clear(r.ready)
	r.ready = r.ready[:0]
}

// send hands a message to the broker.
func (r *Relay) send(m Message) {
	failpoint.Before("relay.publish")
	r.cfg.Bus.PublishAsync(r.stream, m.Msg, func(seq uint64, err error) {
		r.acks <- ack{m.Events, seq, err}
	})
	failpoint.After("relay.publish")
}

func (r *Relay) drainAcks() {
	for {
		select {
		case a := <-r.acks:
			r.settle(a)
		default:
			return
		}
	}
}

// settle takes note of one answer, and of the next events of the aggregates. After
// a refusal the rest of the aggregates is dropped from memory: the scan will read
// all of it again, in order.
func (r *Relay) settle(a ack) {
	failpoint.Before("relay.settle")
	if a.err == nil {
		r.pause = 0
		r.tail.acknowledged(mark{a.seq, a.events[0].Seq})
	}
	for _, e := range a.events {
		r.inFlight--
		queue := r.flying[e.AggregateID][1:]
		switch {
		case a.err != nil:
			delete(r.taken, e.Seq)
			for _, e := range queue {
				delete(r.taken, e.Seq)
			}
			delete(r.flying, e.AggregateID)
			continue
		case len(queue) == 0:
			delete(r.flying, e.AggregateID)
		default:
			r.flying[e.AggregateID] = queue
			r.next(queue[0])
		}
		r.marked = append(r.marked, mark{a.seq, e.Seq})
	}
	if a.err != nil {
		r.refused(a)
	}
	failpoint.After("relay.settle")
}

// refused waits a while before all that is pending is read again.
func (r *Relay) refused(a ack) {
	r.tail.good = false
	r.behind, r.cursor = true, 0
	r.pause = min(max(2*r.pause, minPause), maxPause)
	r.notUntil = r.cfg.Now().Add(r.pause + rand.N(r.pause/4))
	time.AfterFunc(r.pause, r.nudge)
	r.cfg.Log.Warn("events not published, will try again", "service", r.cfg.Service, "events", len(a.events), "event_id", a.events[0].ID, "type", a.events[0].Type,
		"backoff", r.pause, "error", a.err)
}

// flush marks what was acknowledged. A mark that is lost costs a duplicate,
// which the consumers' inboxes drop, so it need not be durable at once.
func (r *Relay) flush(ctx context.Context) {
	if len(r.marked) == 0 {
		return
	}
	slices.SortFunc(r.marked, func(a, b mark) int { return cmp.Compare(a.row, b.row) })
	var b sqldb.Batch
	if r.cfg.DB.Dialect() == sqldb.Postgres {
		// For this transaction only, as SET LOCAL, which must not stand in a single batch.
		b.Query(`SELECT set_config('synchronous_commit', 'off', true)`, nil, func(sqldb.Scanner) error { return nil })
	}
	// What was committed together is acknowledged together, so there are few runs.
	for i := 0; i < len(r.marked); {
		j := i
		for j+1 < len(r.marked) && r.marked[j+1].row <= r.marked[j].row+1 {
			j++
		}
		b.Exec(deletePending, r.marked[i].row, r.marked[j].row, r.cfg.Owner)
		i = j + 1
	}
	r.saveTail(&b)
	failpoint.Before("relay.mark")
	tx, err := r.cfg.DB.Begin(ctx)
	if err == nil {
		err = tx.Commit(ctx, &b)
	}
	if err != nil {
		// The rows stay "taken", so they are not published again by this process
		// while the database is away; the next flush marks them.
		r.cfg.Log.Warn("published events not marked yet", "service", r.cfg.Service, "events", len(r.marked), "error", err)
		return
	}
	failpoint.After("relay.mark")
	for _, m := range r.marked {
		delete(r.taken, m.row)
		r.recent[0][m.row] = true
	}
	r.marked = r.marked[:0]
	r.tail.saved = r.tail.top
}

// deletePending marks rows for the relay that holds the lease, or held it last. Of
// an older one, which stood still meanwhile, an acknowledgement says nothing: the
// broker may have lost the event since, and the new one may be publishing it again.
const deletePending = `
	DELETE FROM outbox_pending
	 WHERE seq BETWEEN ? AND ? AND EXISTS (SELECT 1 FROM leases WHERE name = 'outbox' AND owner = ?)`

const selectPending = `
	SELECT o.seq, o.event_id, o.type, o.aggregate_id, o.version, o.cause, o.hops, o.traceparent, o.payload, o.created_at
	  FROM outbox_pending p
	  JOIN outbox o ON o.seq = p.seq
	 WHERE p.seq > ?
	 ORDER BY p.seq
	 LIMIT ?`

// scan reads the oldest unpublished rows that are not known yet, page by page until
// the window is full or there are no more. It ends at the first that is younger
// than age, and so may be on its way from memory, for those behind it must not
// overtake it. One from the future was written by another clock, and is not.
func (r *Relay) scan(ctx context.Context, age time.Duration) {
	if !r.leads() {
		r.behind = false // the leader scans
		return
	}
	if !r.tail.good {
		r.behind = true
		return
	}
	for {
		failpoint.Before("relay.scan")
		events, err := r.pending(ctx, r.cursor)
		failpoint.After("relay.scan")
		if err != nil {
			r.behind = true
			r.notUntil = r.cfg.Now().Add(scanEvery)
			r.cfg.Log.Warn("outbox not readable", "service", r.cfg.Service, "error", err)
			return
		}
		now := r.cfg.Now()
		for _, e := range events {
			if e.Time.After(now.Add(-age)) && !e.Time.After(now) && age > 0 {
				r.behind, r.cursor = false, 0
				return
			}
			if r.inFlight >= window || len(r.taken) >= 4*window {
				r.behind = true // go on when acknowledgements made room
				return
			}
			r.lineUp(e)
			r.cursor = e.Seq
		}
		if len(events) < page {
			r.behind, r.cursor = false, 0
			return
		}
	}
}

func (r *Relay) pending(ctx context.Context, after int64) ([]*Event, error) {
	rows, err := r.cfg.DB.Query(ctx, selectPending, after, page)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var events []*Event
	for rows.Next() {
		e := &Event{}
		if err := rows.Scan(&e.Seq, &e.ID, &e.Type, &e.AggregateID, &e.Version, &e.Cause, &e.Hops, &e.Traceparent, &e.Payload, &e.Time); err != nil {
			return nil, err
		}
		events = append(events, e)
	}
	return events, rows.Err()
}

func (r *Relay) leads() bool { return r.cfg.Now().Before(r.leader) }

const takeLease = `
	INSERT INTO leases (name, owner, epoch, expires_at) VALUES ('outbox', ?, 1, ?)
	ON CONFLICT (name) DO UPDATE
	   SET owner = excluded.owner, epoch = leases.epoch + 1, expires_at = excluded.expires_at
	 WHERE leases.owner = excluded.owner OR leases.expires_at <= ?`

// takeLeaseOfDead also takes it from a relay whose session with PostgreSQL has
// ended: the server ends it at once when the process dies. A relay that only lost
// its connection takes a new lease with a new session. Sessions are named by
// process id and beginning, which do not come twice.
const takeLeaseOfDead = `
	WITH taken AS (` + takeLease + ` OR EXISTS (
		SELECT 1 FROM leases held
		 WHERE held.name = 'outbox session' AND held.owner = leases.owner
		   AND NOT EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.pid = held.epoch AND a.backend_start = held.expires_at))
		RETURNING owner)
	INSERT INTO leases (name, owner, epoch, expires_at)
	SELECT 'outbox session', taken.owner, a.pid, a.backend_start
	  FROM taken, pg_stat_activity a
	 WHERE a.pid = pg_backend_pid()
	ON CONFLICT (name) DO UPDATE
	   SET owner = excluded.owner, epoch = excluded.epoch, expires_at = excluded.expires_at`

// resign gives the lease back, so that a successor need not wait for its end.
func (r *Relay) resign(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := r.cfg.DB.Exec(ctx, `UPDATE leases SET expires_at = ? WHERE name = 'outbox' AND owner = ?`, time.Unix(0, 0), r.cfg.Owner); err != nil {
		r.cfg.Log.Debug("outbox lease not given back", "service", r.cfg.Service, "error", err)
	}
}

// renew takes or prolongs the lease. A relay that lost it and does not know yet
// can only repeat what the new leader also publishes: the ids are the same, so
// the inboxes drop the repetition.
func (r *Relay) renew(ctx context.Context) {
	now := r.cfg.Now()
	if r.leader.Sub(now) > leaseTTL*2/3 {
		return
	}
	take, dead := takeLeaseOfDead, now
	if r.cfg.DB.Dialect() == sqldb.SQLite {
		take = takeLease
		if r.leader.IsZero() {
			dead = now.Add(leaseTTL) // the file is ours alone, so whoever holds the lease at our start is dead
		}
	}
	failpoint.Before("relay.lease")
	n, err := r.cfg.DB.Exec(ctx, take, r.cfg.Owner, now.Add(leaseTTL), dead)
	failpoint.After("relay.lease")
	switch {
	case err != nil:
		r.cfg.Log.Warn("outbox lease not renewed", "service", r.cfg.Service, "error", err)
	case n == 1:
		if !r.leads() { // another may have published meanwhile
			r.behind = true
			r.tail.known, r.tail.good = false, false
		}
		// A margin, so that we stop before another may begin.
		r.leader = now.Add(leaseTTL - time.Second)
	}
}
