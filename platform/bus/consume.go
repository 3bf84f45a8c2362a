package bus

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/failpoint"
)

// A Consumer is a durable reader of a stream: the broker remembers how far it
// is, also while nobody runs it. Processes that run the same one share its
// messages. The zero value of every field but Stream and Durable has a
// sensible meaning.
type Consumer struct {
	Stream        string
	Durable       string
	Subjects      []string      // of the stream's; none means all
	MaxAckPending int           // delivered and not ended, at most; 0 means 4096
	AckWait       time.Duration // after which an unended delivery comes again; 0 means 30 s
	Prefetch      int           // buffered in this process at most; 0 means 1024. Of large messages it is fewer, 8 MiB
	Heartbeat     time.Duration // of the broker while there is nothing to deliver; 0 means 3 s
}

// prefetchBytes is how much a consumer buffers at most, whatever its messages hold.
const prefetchBytes = 8 << 20

// A Subscription is a running Consumer. Make one with Bus.Consume.
type Subscription struct {
	b      *Bus
	cfg    Consumer
	config jetstream.ConsumerConfig
	handle func(*Delivery)

	kick    chan struct{} // something looks wrong: ask the broker now
	stop    chan struct{}
	stopNow sync.Once
	done    chan struct{} // closed when handle will not be called any more

	dropping  atomic.Bool // what is buffered is not to be handled any more
	handling  atomic.Bool
	attached  atomic.Bool
	begun     atomic.Bool
	refused   atomic.Pointer[error]
	delivered atomic.Uint64

	redelivered, restarts atomic.Uint64
}

// Consume calls handle with every message of the consumer, on one goroutine:
// handle should pass deliveries on rather than work on them, and block only to
// hold back the flow. The consumer is created if it is missing and changed if
// its settings differ, and is left alone otherwise.
//
// Consume makes one attempt to attach, bounded by ctx, and returns in any case:
// a stream or broker that is not there yet is waited for in the background, and
// a consumer that stalls or is deleted is attached again, until Stop or Close.
// Errors are Invalid for settings that make no sense.
func (b *Bus) Consume(ctx context.Context, c Consumer, handle func(*Delivery)) (*Subscription, error) {
	config, err := c.complete()
	if err != nil {
		return nil, err
	}
	s := &Subscription{
		b: b, cfg: c, config: config, handle: handle,
		kick: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
	b.mu.Lock()
	if b.closing.Load() {
		b.mu.Unlock()
		return nil, errClosed
	}
	b.subs = append(b.subs, s)
	b.mu.Unlock()

	var running jetstream.ConsumeContext
	if b.conn.IsConnected() {
		failpoint.Before("consumer.attach")
		running = s.attach(ctx)
		failpoint.After("consumer.attach")
	}
	go s.run(running)
	return s, nil
}

func (c *Consumer) complete() (jetstream.ConsumerConfig, error) {
	setDefault(&c.MaxAckPending, 4096)
	setDefault(&c.AckWait, 30*time.Second)
	setDefault(&c.Prefetch, 1024)
	setDefault(&c.Heartbeat, 3*time.Second)
	cfg := jetstream.ConsumerConfig{
		Durable:        c.Durable, // never only a name, which the broker forgets
		FilterSubjects: slices.Sorted(slices.Values(c.Subjects)),
		AckPolicy:      jetstream.AckExplicitPolicy,
		DeliverPolicy:  jetstream.DeliverAllPolicy,
		AckWait:        c.AckWait,
		MaxDeliver:     -1, // whether a message is hopeless is for its handler to say
		MaxAckPending:  c.MaxAckPending,
	}
	switch {
	case !validName(c.Stream) || !validName(c.Durable):
		return cfg, errs.E(errs.Invalid, ReasonConfig, "consumer %q of stream %q: a name is empty or has a dot, blank or wildcard", c.Durable, c.Stream)
	case c.MaxAckPending < 0 || c.Prefetch < 0 || c.AckWait < 0:
		return cfg, errs.E(errs.Invalid, ReasonConfig, "consumer %s has a negative limit", c.Durable)
	case c.Heartbeat < 500*time.Millisecond || c.Heartbeat > 30*time.Second:
		return cfg, errs.E(errs.Invalid, ReasonConfig, "consumer %s: the heartbeat must lie between 500 ms and 30 s", c.Durable)
	}
	cfg.Metadata = map[string]string{fingerprintKey: fingerprint(cfg)}
	return cfg, nil
}

// Attached tells whether deliveries can come now.
func (s *Subscription) Attached() bool { return s.attached.Load() }

// Stop ends the subscription: deliveries that are buffered are still handled,
// then Stop returns. If ctx ends first the rest is dropped, which means that it
// comes again after AckWait, and ctx's error is returned, while handle may still
// run. The consumer itself stays and keeps its place. Stop may be called more
// than once.
func (s *Subscription) Stop(ctx context.Context) error {
	s.stopNow.Do(func() { close(s.stop) })
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.dropping.Store(true)
		return ctx.Err()
	}
}

// refusal is the broker's reason not to give us the consumer, if it is one that
// does not go away by itself.
func (s *Subscription) refusal() error {
	if err := s.refused.Load(); err != nil {
		return *err
	}
	return nil
}

// run keeps the subscription attached until it is stopped.
func (s *Subscription) run(running jetstream.ConsumeContext) {
	defer s.b.forget(s)
	defer close(s.done)
	ctx, cancel := context.WithCancel(s.b.ctx)
	defer cancel()
	go func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	pause := newBackoff(50*time.Millisecond, 3*time.Second)
	for {
		if running != nil {
			s.attached.Store(true)
			before := s.delivered.Load()
			again := s.watch(ctx, running)
			s.attached.Store(false)
			if !again {
				s.drain(running)
				return
			}
			running.Stop()
			s.restarts.Add(1)
			if s.delivered.Load() != before {
				pause.reset()
			}
		}
		// Also after a deletion: a broker that has announced one may still be at it.
		if !pause.wait(ctx, nil) {
			return
		}
		running = s.attach(ctx)
	}
}

func (b *Bus) forget(s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.subs = slices.DeleteFunc(b.subs, func(o *Subscription) bool { return o == s })
}

func (s *Subscription) drain(running jetstream.ConsumeContext) {
	if !s.b.conn.IsConnected() { // nothing that is handled now could be acknowledged
		running.Stop()
		return
	}
	running.Drain()
	select {
	case <-running.Closed():
	case <-s.b.closed:
	}
}

// attach finds or makes the consumer and starts the flow; nil if that did not work.
func (s *Subscription) attach(ctx context.Context) jetstream.ConsumeContext {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	ask, result := s.b.asking(ctx, s.cfg.Stream, s.cfg.Durable)
	consumer, err := s.b.putConsumer(ask, s.cfg.Stream, s.config)
	err = result(err)
	if err == nil && s.b.Embedded() && !s.begun.Swap(true) && consumer.CachedInfo().NumAckPending > 0 {
		// The broker died with whoever had these deliveries: they need not run out of time.
		if _, failed := s.b.js.ResetConsumer(ctx, s.cfg.Stream, s.cfg.Durable); failed != nil {
			s.b.log.Debug("deliveries of a former process come again when their time is over", "consumer", s.cfg.Durable, "error", failed)
		}
	}
	var running jetstream.ConsumeContext
	if err == nil {
		running, err = consumer.Consume(s.deliver,
			jetstream.PullMaxMessagesWithBytesLimit(s.cfg.Prefetch, prefetchBytes),
			jetstream.PullExpiry(max(10*time.Second, 3*s.cfg.Heartbeat)),
			jetstream.PullHeartbeat(s.cfg.Heartbeat),
			jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { s.trouble(err) }))
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		s.b.keeper.lost(s.cfg.Stream) // if it is one of ours, somebody deleted it
	}
	switch {
	case err == nil:
		s.refused.Store(nil)
		s.b.log.Debug("consumer attached", "stream", s.cfg.Stream, "consumer", s.cfg.Durable)
	case ctx.Err() != nil || passing(err):
		s.b.log.Debug("consumer cannot be attached yet", "stream", s.cfg.Stream, "consumer", s.cfg.Durable, "error", err)
	default:
		if s.refused.Swap(&err) == nil {
			s.b.log.Error("consumer refused", "stream", s.cfg.Stream, "consumer", s.cfg.Durable, "error", err)
		}
	}
	return running
}

// putConsumer makes the consumer exist as cfg says. Several processes may do so
// at once, and one that finds it as wanted does not touch it.
func (b *Bus) putConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	c, err := b.js.Consumer(ctx, stream, cfg.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		if c, err = b.js.CreateConsumer(ctx, stream, cfg); err == nil {
			b.log.Info("consumer created", "stream", stream, "consumer", cfg.Durable)
			return c, nil
		}
		if errors.Is(err, jetstream.ErrConsumerExists) { // somebody else was faster, with other settings
			c, err = b.js.Consumer(ctx, stream, cfg.Durable)
		}
	}
	if err != nil {
		return nil, err
	}
	if c.CachedInfo().Config.Metadata[fingerprintKey] == cfg.Metadata[fingerprintKey] {
		return c, nil
	}
	if c, err = b.js.UpdateConsumer(ctx, stream, cfg); err == nil {
		b.log.Info("consumer changed", "stream", stream, "consumer", cfg.Durable)
	}
	return c, err
}

// republishedHeader is set by the broker on what it republishes from one stream on
// a subject of another. No publisher of ours does: a user who may shape a stream
// could say so in another's name.
const republishedHeader = "Nats-Stream"

func (s *Subscription) deliver(m jetstream.Msg) {
	if s.dropping.Load() {
		return
	}
	s.handling.Store(true)
	defer s.handling.Store(false)
	d, ok := newDelivery(m, s.cfg.Stream, s.b.conn)
	if !ok {
		s.b.log.Error("message with an unknown reply subject", "stream", s.cfg.Stream, "reply", d.reply)
		return
	}
	if from := d.header[republishedHeader]; len(from) > 0 {
		s.b.log.Error("message was put into the stream by the settings of another; it is not handled",
			"stream", s.cfg.Stream, "seq", d.Seq, "from", from, "subject", d.Subject)
		_ = d.Term("republished from another stream") // if this is lost, it comes again and meets the same
		return
	}
	s.delivered.Add(1)
	if d.Deliveries > 1 {
		s.redelivered.Add(1)
	}
	s.handle(d)
}

// trouble is told of everything odd about the flow. Most of it the client
// library mends; what it does not, watch finds by asking.
func (s *Subscription) trouble(err error) {
	s.b.log.Debug("consumer trouble", "stream", s.cfg.Stream, "consumer", s.cfg.Durable, "error", err)
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// watch returns true when the subscription has to be attached again: the flow
// was ended, the consumer is gone, or messages wait and none comes (a pull can
// be forgotten when the consumer's leader changes). It returns false when ctx ends.
func (s *Subscription) watch(ctx context.Context, running jetstream.ConsumeContext) (again bool) {
	tick := time.NewTicker(3 * s.cfg.Heartbeat)
	defer tick.Stop()
	closed := running.Closed()
	seen := s.delivered.Load()
	for {
		stalled := false
		select {
		case <-ctx.Done():
			return false
		case <-closed:
			return true
		case <-s.kick:
		case <-tick.C:
			now := s.delivered.Load()
			if now != seen || s.handling.Load() {
				seen = now
				continue
			}
			stalled = true
		}
		if s.b.conn.IsConnected() && s.broken(ctx, stalled) {
			return true
		}
	}
}

// broken asks the broker whether the consumer is gone or, if nothing came for
// long, whether something should have.
func (s *Subscription) broken(ctx context.Context, stalled bool) bool {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	before := s.delivered.Load()
	c, err := s.b.js.Consumer(ctx, s.cfg.Stream, s.cfg.Durable)
	switch {
	case errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrStreamNotFound):
		s.b.log.Warn("consumer is gone", "stream", s.cfg.Stream, "consumer", s.cfg.Durable)
		return true
	case err != nil || !stalled:
		return false
	}
	i := c.CachedInfo()
	if i.NumPending == 0 || i.NumAckPending >= s.cfg.MaxAckPending || s.delivered.Load() != before {
		return false
	}
	s.b.log.Warn("consumer stalled", "stream", s.cfg.Stream, "consumer", s.cfg.Durable, "pending", i.NumPending)
	return true
}
