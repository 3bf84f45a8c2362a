// Package bus carries events between services on NATS JetStream, embedded in
// the process or as servers of its own, and behaves the same on both: what was
// published and acknowledged is delivered at least once to every durable
// consumer, and a broker that goes away and comes back needs nobody's help.
//
// The bus never decides that a message is lost or done: every publish ends in
// exactly one verdict, and an event whose verdict is unknown may be published
// again under the same ID.
package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybill-dev/waybill/platform/errs"
)

// A Bus is a connection to the broker and, if the broker is embedded, the
// broker itself. It is safe for concurrent use. Make one with Open.
type Bus struct {
	cfg    Config
	log    *slog.Logger
	conn   *nats.Conn
	js     jetstream.JetStream
	server *server.Server // nil if the broker is a process of its own
	unlock func() error   // gives up the embedded broker's directory

	pub    *publisher
	keeper *keeper

	ctx    context.Context //nolint:containedctx // the life of the bus: ends when Close begins to cut things off
	cancel context.CancelFunc
	closed chan struct{} // closed when the connection is gone for good

	closing   atomic.Bool
	closeOnce sync.Once
	closeDone chan struct{} // closed once the one run of Close is over
	closeErr  error

	mu        sync.Mutex
	subs      []*Subscription
	listeners map[string]int
	gaps      map[int]func()
	nextGap   int

	denials denials
	told    atomic.Bool // that there is no connection

	reconnects, refusals atomic.Uint64
}

// Open starts the embedded broker, or connects to the one at cfg.URL. A broker
// that cannot be reached is not an error: Open returns, Ready says what is
// wrong, and the bus connects as soon as it can. Errors are Invalid for a
// config that makes no sense and FailedPrecondition for a directory that is in
// use or an embedded broker that does not start.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Bus, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Bus{
		cfg: cfg, log: log, closed: make(chan struct{}), closeDone: make(chan struct{}),
		listeners: map[string]int{}, gaps: map[int]func(){},
		denials: denials{current: map[string]denial{}, waiting: map[*question]struct{}{}},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.keeper = newKeeper(b)
	b.pub = newPublisher(cfg.Window, cfg.AckTimeout, b.keeper.lost)

	var err error
	opts, url := b.options(), ""
	if cfg.Embedded() {
		if b.server, b.unlock, err = startServer(ctx, cfg, log); err != nil {
			b.cancel()
			return nil, err
		}
		opts = append(opts, nats.InProcessServer(b.server))
	} else {
		url = cfg.servers()
	}
	if b.conn, err = nats.Connect(url, opts...); err == nil {
		b.js, err = jetstream.New(b.conn, jetstream.WithDefaultTimeout(apiTimeout))
	}
	if err == nil {
		err = b.pub.start(b.conn)
	}
	if err != nil {
		b.cancel()
		b.pub.close()
		if b.conn != nil {
			b.conn.Close()
		}
		stopErr := b.stopServer(ctx)
		return nil, errs.Wrap(errors.Join(err, stopErr), errs.FailedPrecondition, ReasonConfig, "connect to the event bus: %v", err)
	}
	b.keeper.start()
	return b, nil
}

// apiTimeout bounds every question to the broker that has no shorter deadline.
const apiTimeout = 5 * time.Second

// Embedded tells whether the broker runs in this process.
func (b *Bus) Embedded() bool { return b.server != nil }

// Ready gives nil if the broker answers and refuses nothing, every stream given
// to EnsureStream exists and no consumer is refused; otherwise an Unavailable
// error that says what is wrong. It asks nobody and never blocks.
func (b *Bus) Ready() error {
	if b.closing.Load() {
		return errClosed
	}
	if err := b.denials.latest(); err != nil {
		return errs.Wrap(err, errs.Unavailable, ReasonDenied, "%v", err)
	}
	if status := b.conn.Status(); status != nats.CONNECTED {
		if last := b.conn.LastError(); last != nil {
			return errs.Wrap(last, errs.Unavailable, ReasonUnavailable, "event bus is %s: %v", lower(status), last)
		}
		return errs.E(errs.Unavailable, ReasonUnavailable, "event bus is %s", lower(status))
	}
	if b.Embedded() && !b.server.JetStreamEnabled() {
		return errs.E(errs.Unavailable, ReasonUnavailable, "embedded event bus has switched its streams off; see its log for the disk error")
	}
	if err := b.keeper.problem(); err != nil {
		return err
	}
	b.mu.Lock()
	subs := slices.Clone(b.subs)
	b.mu.Unlock()
	for _, s := range subs {
		if err := s.refusal(); err != nil {
			return errs.Wrap(err, errs.Unavailable, ReasonUnavailable, "consumer %s on %s: %v", s.cfg.Durable, s.cfg.Stream, err)
		}
	}
	return nil
}

// Stats are counts since Open; they only grow, except for those that say "now".
type Stats struct {
	Connected   bool
	Reconnects  uint64
	Published   uint64 // acknowledged by the broker
	Failed      uint64 // ended with an error or without an answer
	Timeouts    uint64 // of those, without an answer
	InFlight    int    // publishes waiting for an answer now
	Window      int    // the most there can be
	Delivered   uint64
	Redelivered uint64
	Refusals    uint64 // things the broker did not allow
	Restarts    uint64 // consumers attached again after a stall or a deletion
	Consumers   int    // subscriptions now
}

// Stats gives a snapshot of the counts.
func (b *Bus) Stats() Stats {
	s := Stats{
		Connected:  b.conn.IsConnected(),
		Reconnects: b.reconnects.Load(),
		Published:  b.pub.acked.Load(),
		Failed:     b.pub.failed.Load(),
		Timeouts:   b.pub.timeouts.Load(),
		Refusals:   b.refusals.Load(),
		Window:     cap(b.pub.free),
	}
	s.InFlight = s.Window - len(b.pub.free)
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Consumers = len(b.subs)
	for _, sub := range b.subs {
		s.Delivered += sub.delivered.Load()
		s.Redelivered += sub.redelivered.Load()
		s.Restarts += sub.restarts.Load()
	}
	return s
}

// Close stops the bus in the order that loses nothing: consumers are drained,
// publishes get their answers, the connection is flushed, the embedded broker
// is stopped and waited for. Each step gets a share of ctx's time (15 s if it
// has no deadline); a step that runs out of it is cut off. Later calls wait for
// the first and give the same answer. Every done callback has been called when
// Close returns.
func (b *Bus) Close(ctx context.Context) error {
	b.closeOnce.Do(func() {
		b.closing.Store(true)
		go func() {
			defer close(b.closeDone)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), remaining(ctx, closeTimeout))
			defer cancel()
			b.closeErr = b.shutdown(ctx)
		}()
	})
	<-b.closeDone
	return b.closeErr
}

const closeTimeout = 15 * time.Second

func (b *Bus) shutdown(ctx context.Context) error {
	var failed []error
	step := func(share float64, name string, run func(ctx context.Context) error) {
		ctx, cancel := context.WithTimeout(ctx, time.Duration(share*float64(remaining(ctx, closeTimeout))))
		defer cancel()
		if err := run(ctx); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", name, err))
		}
	}
	step(0.4, "drain consumers", b.stopConsumers)
	step(0.4, "await publishes", b.pub.drain)
	b.keeper.stop()
	b.cancel()
	step(0.5, "flush connection", b.drainConn)
	b.pub.close()
	step(1, "stop broker", b.stopServer)
	if len(failed) > 0 {
		err := errors.Join(failed...)
		return errs.Wrap(err, errs.DeadlineExceeded, ReasonClosed, "event bus did not stop cleanly: %v", err)
	}
	return nil
}

func (b *Bus) stopConsumers(ctx context.Context) error {
	b.mu.Lock()
	subs := slices.Clone(b.subs)
	b.mu.Unlock()
	results := make(chan error, len(subs))
	for _, s := range subs {
		go func() { results <- s.Stop(ctx) }()
	}
	var failed []error
	for range subs {
		failed = append(failed, <-results)
	}
	return errors.Join(failed...)
}

func (b *Bus) drainConn(ctx context.Context) error {
	// A connection that is not up has nothing to flush, and Drain would only complain.
	if err := b.conn.Drain(); err != nil {
		b.conn.Close()
	}
	select {
	case <-b.closed:
		return nil
	case <-ctx.Done():
		b.conn.Close()
		<-b.closed
		return ctx.Err()
	}
}

// stopGrace is what the embedded broker gets even if no time is left: a process
// that ends before its broker has may leave broken files behind.
const stopGrace = 3 * time.Second

func (b *Bus) stopServer(ctx context.Context) error {
	if b.server == nil {
		return nil
	}
	done := make(chan error, 1)
	go func() {
		b.server.Shutdown()
		b.server.WaitForShutdown() // the store is only whole once this returns
		done <- b.unlock()
	}()
	timer := time.NewTimer(max(stopGrace, remaining(ctx, closeTimeout)))
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return context.DeadlineExceeded
	}
}

// remaining is the time ctx leaves, or d if it sets no deadline.
func remaining(ctx context.Context, d time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return d
}
