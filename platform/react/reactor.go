package react

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/failpoint"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

const (
	// DefaultMaxAttempts is how often a step may fail for one event: for about
	// twelve minutes, since the pauses grow up to one.
	DefaultMaxAttempts = 20

	// DefaultBatch is how many messages one transaction takes at the most.
	DefaultBatch = 512

	queueSize    = 4096
	maxTries     = 8 // of one message after a lost race
	batchTimeout = 20 * time.Second
	// ackWait is how long the events of a process that was killed are missing.
	// Batches take milliseconds; a slow one means repetitions that the inbox drops.
	ackWait   = 10 * time.Second
	sweepPage = 500
)

//go:embed migrations
var migrations embed.FS

// Migrations holds the platform's own tables (inbox, outbox, effects,
// idempotency, dead letters, leases); every service's database has them.
func Migrations() fs.FS { return sqldb.Embedded(migrations) }

// Config is what a Reactor stands on. Machine, DB, Bus and Log are required.
type Config struct {
	Machine *Machine
	DB      *sqldb.DB
	Bus     *bus.Bus
	Log     *slog.Logger

	Owner    string // names this process among the service's replicas; default: a new UUID
	MaxBatch int    // messages per transaction; default DefaultBatch; 1 switches batching off
	// MaxAttempts is how often the step of an event, or a call that cannot work, is
	// tried before it becomes a dead letter; default DefaultMaxAttempts. What is
	// refused for good becomes one at once. A database, a broker or a partner
	// outside that is away never counts.
	MaxAttempts int

	Audit  time.Duration    // between two audits of the stream; default 30 s
	Calls  int              // calls to the outside under way at once; default 512
	Now    func() time.Time // default time.Now
	NewID  func() string    // default UUIDv7
	Tracer trace.Tracer     // default: no spans
	Meter  metric.Meter     // default: no metrics
}

// A Reactor runs one Machine on a database and a bus.
type Reactor struct {
	cfg     Config
	machine *Machine
	relay   *outbox.Relay
	effects *effect.Runner
	metrics *metrics
	admit   func(ctx context.Context, it *item) error          // takes an item to be done
	offer   func(events []*outbox.Event, calls []*effect.Call) // passes on what was just committed

	letters DeadLetters
	queue   chan *item
	quit    chan struct{} // closed when no more items are accepted
	done    chan struct{} // closed when the loop has ended
	stop    sync.Once
	timer   sync.WaitGroup // sweeps and housekeeping
	begun   bool
	memory  *memory
	subs    []*bus.Subscription
}

// New makes a reactor that does nothing until Start. The database must have the
// platform's tables and the service's own.
func New(cfg Config) (*Reactor, error) {
	if cfg.Bus == nil {
		return nil, errors.New("react: Bus is required")
	}
	r, err := newReactor(cfg)
	if err != nil {
		return nil, err
	}
	cfg = r.cfg
	r.relay = outbox.NewRelay(outbox.Config{
		Service: cfg.Machine.name, Owner: cfg.Owner, DB: cfg.DB, Bus: cfg.Bus, Now: cfg.Now, Log: cfg.Log,
		AuditEvery: cfg.Audit, Repaired: r.metrics.refilled,
	})
	r.effects = effect.NewRunner(effect.Config{
		Service: cfg.Machine.name, DB: cfg.DB, Perform: r.perform, Fold: r.fold, GiveUp: r.giveUpCall, MaxAttempts: cfg.MaxAttempts, Parallel: cfg.Calls, Now: cfg.Now, Log: cfg.Log,
	})
	r.admit = r.queueUp
	r.offer = func(events []*outbox.Event, calls []*effect.Call) {
		r.relay.Offer(events)
		r.effects.Offer(calls)
	}
	return r, nil
}

// newReactor makes a reactor that lacks whatever moves it.
func newReactor(cfg Config) (*Reactor, error) {
	if cfg.Machine == nil || cfg.DB == nil || cfg.Log == nil {
		return nil, errors.New("react: Machine, DB and Log are required")
	}
	if cfg.Owner == "" {
		cfg.Owner = uuid.NewString()
	}
	if cfg.MaxBatch <= 0 {
		cfg.MaxBatch = DefaultBatch
	}
	if cfg.MaxAttempts <= 0 {
		cfg.MaxAttempts = DefaultMaxAttempts
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.NewID == nil {
		cfg.NewID = newID
	}
	m, err := newMetrics(cfg.Meter, cfg.Machine.name)
	if err != nil {
		return nil, err
	}
	r := &Reactor{
		cfg:     cfg,
		machine: cfg.Machine,
		metrics: m,
		queue:   make(chan *item, queueSize),
		quit:    make(chan struct{}),
		done:    make(chan struct{}),
	}
	r.memory = newMemory()
	r.letters = DeadLetters{r: r, kick: make(chan struct{}, 1)}
	return r, nil
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// Start makes the service's stream if there is none, begins to relay, to make
// calls, to sweep and to consume. It returns once commands are accepted; the
// consumers bind as soon as the streams they need exist.
func (r *Reactor) Start(ctx context.Context) error {
	if err := r.relay.Start(ctx); err != nil {
		return err
	}
	r.begun = true
	go r.loop()
	r.effects.Start(ctx)
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.timer.Go(func() { <-r.quit; cancel() })
	for _, s := range r.machine.sweeps {
		r.timer.Go(func() { r.sweep(run, s) })
	}
	r.timer.Go(func() { r.housekeeping(run) })
	r.timer.Go(func() { r.letters.work(run) })
	return r.connect(ctx)
}

// connect makes the stream and the consumers. A broker that is away is no error:
// the bus makes them when it comes.
func (r *Reactor) connect(ctx context.Context) error {
	own := bus.Stream{Name: outbox.Stream(r.machine.name), Subjects: []string{"waybill." + r.machine.name + ".>"}}
	if err := r.cfg.Bus.EnsureStream(ctx, own); err != nil {
		return fmt.Errorf("make stream %s: %w", own.Name, err)
	}
	for producer, subjects := range r.subjects() {
		sub, err := r.cfg.Bus.Consume(ctx, bus.Consumer{
			Stream:   outbox.Stream(producer),
			Durable:  r.machine.name,
			Subjects: subjects,
			AckWait:  ackWait,
		}, r.receive)
		if err != nil {
			return fmt.Errorf("consume events of %s: %w", producer, err)
		}
		r.subs = append(r.subs, sub)
	}
	return nil
}

// subjects gives what to filter for in each producer's stream.
func (r *Reactor) subjects() map[string][]string {
	by := map[string][]string{}
	for _, typ := range r.machine.Hears() {
		p := outbox.Producer(typ)
		by[p] = append(by[p], outbox.Subject(typ, "*"))
	}
	for _, s := range by {
		slices.Sort(s)
	}
	return by
}

// Stop takes no more messages, finishes those it has, and hands what is left to
// the next process. It may be called twice, and without Start.
func (r *Reactor) Stop(ctx context.Context) error {
	var errAll error
	r.stop.Do(func() {
		failpoint.Before("service.stop")
		close(r.quit)
		r.timer.Wait()
		for _, s := range r.subs {
			errAll = errors.Join(errAll, s.Stop(ctx))
		}
		if !r.begun {
			return
		}
		errAll = errors.Join(errAll, r.effects.Stop(ctx))
		select {
		case r.queue <- nil: // the last
		case <-ctx.Done():
		}
		select {
		case <-r.done:
		case <-ctx.Done():
			errAll = errors.Join(errAll, fmt.Errorf("reactor of %s: %w", r.machine.name, ctx.Err()))
		}
		errAll = errors.Join(errAll, r.relay.Stop(ctx))
		failpoint.After("service.stop")
	})
	return errAll
}

// Ready reports why the service cannot take commands, or nil. A broker that is
// away is no reason: the outbox absorbs it. One that refuses what this process
// needs is, until everything has worked once.
func (r *Reactor) Ready(ctx context.Context) error {
	if err := r.cfg.Bus.Refused(); err != nil {
		return err
	}
	return r.cfg.DB.Ping(ctx)
}

// loop forms batches of what has come and does them, without waiting for more.
func (r *Reactor) loop() {
	defer close(r.done)
	items := make([]*item, 0, r.cfg.MaxBatch)
	for {
		items = items[:0]
		it := <-r.queue
		last := it == nil
		for it != nil {
			items = append(items, it)
			it = nil
			if len(items) == r.cfg.MaxBatch {
				break
			}
			select {
			case it = <-r.queue:
				last = it == nil
			default:
			}
		}
		if len(items) > 0 {
			r.process(items)
		}
		if last {
			return
		}
	}
}

// enqueue hands an item over to be done; it waits if much is to be done.
func (r *Reactor) enqueue(ctx context.Context, it *item) error { return r.admit(ctx, it) }

// queueUp hands an item to the loop.
func (r *Reactor) queueUp(ctx context.Context, it *item) error {
	select {
	case <-r.quit:
		return errs.E(errs.Unavailable, "SHUTTING_DOWN", "the %s service is shutting down; try again", r.machine.name)
	default:
	}
	select {
	case r.queue <- it:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.quit:
		return errs.E(errs.Unavailable, "SHUTTING_DOWN", "the %s service is shutting down; try again", r.machine.name)
	}
}

// receive is called by the bus for each delivery.
func (r *Reactor) receive(d *bus.Delivery) {
	failpoint.Before("event.receive")
	events, err := outbox.Open(d)
	if err != nil {
		r.take(d, &Message{ID: nameless(d), Type: d.Header(outbox.HeaderType)}, err)
	}
	for _, e := range events {
		m, err := decode(e)
		r.take(e, m, err)
	}
	failpoint.After("event.receive")
}

// take enqueues an event that was delivered, or what is wrong with it.
func (r *Reactor) take(d *bus.Delivery, m *Message, err error) {
	it := &item{message: m, delivery: d, bad: err, trace: m.Trace, hops: m.Hops + 1}
	if err == nil {
		h, ok := r.machine.events[m.Type]
		if !ok {
			_ = d.Ack() // a subject filter of an older build
			return
		}
		it.needs = func(v *View) []Ref { return h.needs(v, m.Event) }
		it.step = func(v *View) error { return h.step(v, m.Event) }
		r.startSpan(it, "process "+m.Type, trace.SpanKindConsumer)
	}
	if r.enqueue(context.Background(), it) != nil {
		it.end(nil)
		_ = d.Nak(time.Second) // for the next process; if this is lost, the wait runs out
	}
}

// finish tells whoever waits for the item how it ended.
func (r *Reactor) finish(it *item) {
	r.metrics.item(it)
	it.end(it.err)
	if it.err != nil && (it.delivery != nil || errs.KindOf(it.err) == errs.Internal) {
		r.cfg.Log.Warn("step failed", "service", r.machine.name, "what", it.what(), "event_id", it.eventID(), "trace_id", it.trace.TraceID().String(),
			"again", it.retry, "error", it.err)
	}
	if it.done != nil {
		it.done(it.err)
	}
	if it.replied != nil {
		failpoint.Before("command.answer")
		it.replied <- it.err
		failpoint.After("command.answer")
		return
	}
	var err error
	switch {
	case it.err == nil:
		failpoint.Before("event.ack")
		err = it.delivery.Ack()
		failpoint.After("event.ack")
	case it.retry:
		err = it.delivery.Nak(backoff(it.delivery.Deliveries, it.err))
	default:
		err = it.delivery.Term(errs.ReasonOf(it.err))
	}
	if err != nil {
		r.cfg.Log.Debug("acknowledgement not sent; the inbox will drop the repetition", "event_id", it.eventID(), "error", err)
	}
}

// what names the item in logs and metrics.
func (it *item) what() string {
	switch {
	case it.message != nil:
		return it.message.Type
	case it.call != nil:
		return "effect " + it.call.Kind
	case it.key != nil:
		return it.key.Method
	}
	return "command"
}

func (it *item) end(err error) {
	if it.span == nil {
		return
	}
	if err != nil {
		it.span.SetStatus(codes.Error, errs.KindOf(err).String())
	}
	it.span.End()
	it.span = nil
}

// startSpan opens a span for an item of a sampled trace; for others the trace
// context only passes through, which costs nothing.
func (r *Reactor) startSpan(it *item, name string, kind trace.SpanKind) {
	if r.cfg.Tracer == nil || !it.trace.IsSampled() {
		return
	}
	attrs := []attribute.KeyValue{attribute.String("waybill.service", r.machine.name)}
	if it.message != nil {
		attrs = append(attrs,
			attribute.String("messaging.system", "nats"),
			attribute.String("messaging.operation.name", "process"),
			attribute.String("messaging.message.id", it.message.ID),
			attribute.String("messaging.destination.name", outbox.Subject(it.message.Type, "*")),
			attribute.String("waybill.aggregate_id", it.message.AggregateID))
	}
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), it.trace)
	_, it.span = r.cfg.Tracer.Start(ctx, name, trace.WithSpanKind(kind), trace.WithAttributes(attrs...))
	it.trace = it.span.SpanContext()
}

// backoff is how long a delivery waits after its n-th failure. One that only waits
// for the database waits less, so that all is caught up soon after its return.
func backoff(n uint64, err error) time.Duration {
	most := time.Minute
	if errs.ReasonOf(err) == reasonAway {
		most = 5 * time.Second
	}
	d := min(100*time.Millisecond<<min(n, 10), most)
	return d + rand.N(d/5)
}

// lostRace reports whether the same items may pass if they are run again.
func lostRace(err error) bool {
	return sqldb.Retryable(err) || errors.Is(err, sqldb.ErrDuplicate) || errors.Is(err, sqldb.ErrMissing)
}

// reasonAway says that the database did not answer.
const reasonAway = "DATABASE_UNAVAILABLE"

// outside gives the error that a caller sees when a batch was not stored.
func outside(err error) error {
	switch {
	case lostRace(err):
		return errs.Wrap(err, errs.Aborted, "LOST_RACE", "others changed the same data at the same time; try again")
	case sqldb.Unavailable(err), errors.Is(err, context.DeadlineExceeded):
		return errs.Wrap(err, errs.Unavailable, reasonAway, "the database is not available; try again").WithRetryAfter(time.Second)
	}
	return err
}

// Do runs a command as one step and gives its answer once it is stored. If ctx
// carries an idempotency key, the answer is stored with it in the same
// transaction: the same command again gets the same answer, a different one under
// the same key fails with reason IDEMPOTENCY_KEY_REUSED. Failed commands store
// nothing. When ctx ends first, the command may still be done.
func Do[R proto.Message](ctx context.Context, r *Reactor, needs func(v *View) []Ref, step func(v *View) (R, error)) (R, error) {
	var none R
	it := &item{needs: needs, trace: trace.SpanContextFromContext(ctx), replied: make(chan error, 1), made: map[string]bool{}}
	it.key = keyFrom(ctx)
	it.answer = none.ProtoReflect().New().Interface()
	it.step = func(v *View) error {
		answer, err := step(v)
		if err == nil {
			it.answer = answer
		}
		return err
	}
	if err := r.enqueue(ctx, it); err != nil {
		return none, err
	}
	select {
	case err := <-it.replied:
		if err != nil {
			return none, err
		}
		return it.answer.(R), nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}
