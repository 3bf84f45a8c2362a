package effect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/waybill-dev/waybill/platform/failpoint"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

const (
	scanEvery  = 2 * time.Second
	scanPage   = 500
	minBackoff = 200 * time.Millisecond
	maxBackoff = time.Minute
	maxFold    = 5 * time.Second // for a result that waits for nothing but the database
)

// Config says what a Runner runs.
type Config struct {
	Service string
	DB      *sqldb.DB
	// Perform makes the call. Its error means that nothing is known yet and the
	// call is to be repeated; what the other side decided is a result.
	Perform func(ctx context.Context, c *Call) (result any, err error)
	// Fold gives the result back to the service. It may block and returns when
	// the result is stored, or with an error when it is not.
	Fold func(ctx context.Context, c *Call, result any) error
	// GiveUp puts a call away whose error is a HopelessError at its MaxAttempts-th try. It returns
	// when that is stored. Nil: no call is ever given up.
	GiveUp      func(ctx context.Context, c *Call, err error) error
	MaxAttempts int
	// Parallel is how many calls are under way at the same time, those counted
	// whose results wait to be stored; 0 means 512.
	Parallel int
	Now      func() time.Time
	Log      *slog.Logger
}

// HopelessError is an error of Perform or Fold that has nothing to do with the other
// side being away: trying again helps only once the program was mended.
type HopelessError struct{ Err error }

// Error gives the text of the error.
func (h *HopelessError) Error() string { return h.Err.Error() }

// Unwrap gives the error.
func (h *HopelessError) Unwrap() error { return h.Err }

// A Runner makes the recorded calls of one service: at once those that the
// process just committed, at their time those that are for later, and those
// that a former process left behind.
type Runner struct {
	cfg   Config
	queue chan *Call

	mu      sync.Mutex
	held    map[string]*time.Timer // calls in this process's hands; nil once queued
	stopped bool

	ctx    context.Context //nolint:containedctx // the life of the runner, from Start to Stop
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewRunner makes a runner that does nothing until Start.
func NewRunner(cfg Config) *Runner {
	if cfg.Parallel <= 0 {
		cfg.Parallel = 512
	}
	return &Runner{cfg: cfg, queue: make(chan *Call, 8192), held: map[string]*time.Timer{}}
}

// Start begins to make calls, first of all those that are overdue.
func (r *Runner) Start(ctx context.Context) {
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	for range r.cfg.Parallel {
		r.wg.Go(r.work)
	}
	r.wg.Go(r.scanLoop)
}

// Stop ends the scan and waits for calls under way until ctx ends; then it cuts
// them. A call that is cut is made again by the next process, with its key.
func (r *Runner) Stop(ctx context.Context) error {
	r.mu.Lock()
	r.stopped = true
	for _, t := range r.held {
		if t != nil {
			t.Stop()
		}
	}
	r.mu.Unlock()
	if r.cancel == nil {
		return nil
	}
	r.cancel()
	done := make(chan struct{})
	go func() { r.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("effects of %s: %w", r.cfg.Service, ctx.Err())
	}
}

// Offer hands over calls that were just committed; it never blocks.
func (r *Runner) Offer(calls []*Call) {
	for _, c := range calls {
		r.hold(c)
	}
}

// hold keeps c until its time and queues it then.
func (r *Runner) hold(c *Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.held[c.ID]; ok || r.stopped {
		return
	}
	if wait := c.RunAt.Sub(r.cfg.Now()); wait > 0 {
		r.held[c.ID] = time.AfterFunc(wait, func() { r.enqueue(c) })
		return
	}
	r.enqueueLocked(c)
}

func (r *Runner) enqueue(c *Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.enqueueLocked(c)
}

func (r *Runner) enqueueLocked(c *Call) {
	if r.stopped {
		return
	}
	select {
	case r.queue <- c:
		r.held[c.ID] = nil
	default:
		delete(r.held, c.ID) // the scan finds it when the claim ran out
	}
}

func (r *Runner) release(c *Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, c.ID)
}

func (r *Runner) work() {
	for {
		select {
		case <-r.ctx.Done():
			return
		case c := <-r.queue:
			r.run(c)
		}
	}
}

func (r *Runner) run(c *Call) {
	c.Attempt++
	most := maxBackoff
	result, err := r.cfg.Perform(r.ctx, c)
	if err == nil {
		most = maxFold
		err = r.cfg.Fold(r.ctx, c, result)
	}
	var hopeless *HopelessError
	if errors.As(err, &hopeless) && r.cfg.GiveUp != nil && c.Attempt >= int64(r.cfg.MaxAttempts) && r.ctx.Err() == nil {
		err = r.cfg.GiveUp(r.ctx, c, hopeless.Err)
	}
	r.release(c)
	if err == nil || r.ctx.Err() != nil {
		return
	}
	backoff := min(minBackoff<<min(c.Attempt-1, 16), most)
	c.RunAt = r.cfg.Now().Add(backoff + rand.N(backoff/5+1))
	r.cfg.Log.Warn("call to the outside failed, will try again", "service", r.cfg.Service, "kind", c.Kind, "aggregate_id", c.AggregateID,
		"attempt", c.Attempt, "next", c.RunAt, "error", err)
	const later = `UPDATE effects SET attempt = ?, run_at = ?, claimed_until = ? WHERE effect_id = ?`
	n, err := r.cfg.DB.Exec(r.ctx, later, c.Attempt, c.RunAt, c.RunAt.Add(claim), c.ID)
	if err == nil && n == 0 {
		return // another replica has folded it
	}
	r.hold(c)
}

func (r *Runner) scanLoop() {
	tick := time.NewTicker(scanEvery)
	defer tick.Stop()
	// At the start all calls are taken, claimed or not: the claims may be those
	// of the process that died before us. Replicas that start together may make
	// a call twice; its key makes that harmless.
	r.scan(`claimed_until <= ?`, r.cfg.Now().AddDate(1, 0, 0))
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-tick.C:
			r.scan(`claimed_until <= ?`, r.cfg.Now())
		}
	}
}

// scan takes the calls that the condition on one time names, page by page.
func (r *Runner) scan(condition string, arg time.Time) {
	failpoint.Before("call.scan")
	last := ""
	for {
		calls, err := r.page(condition, arg, last)
		if err == nil {
			err = r.claim(calls)
		}
		if err != nil {
			if r.ctx.Err() == nil {
				r.cfg.Log.Warn("effects not readable", "service", r.cfg.Service, "error", err)
			}
			return
		}
		r.Offer(calls)
		failpoint.After("call.scan")
		if len(calls) < scanPage {
			return
		}
		last = calls[len(calls)-1].ID
	}
}

func (r *Runner) page(condition string, arg time.Time, after string) ([]*Call, error) {
	rows, err := r.cfg.DB.Query(r.ctx, `
		SELECT effect_id, kind, idempotency_key, aggregate_id, payload, attempt, run_at, cause, hops, traceparent
		  FROM effects
		 WHERE `+condition+` AND effect_id > ?
		 ORDER BY effect_id
		 LIMIT ?`, arg, after, scanPage)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var calls []*Call
	for rows.Next() {
		c := &Call{}
		if err := rows.Scan(&c.ID, &c.Kind, &c.Key, &c.AggregateID, &c.Payload, &c.Attempt, &c.RunAt, &c.Cause, &c.Hops, &c.Traceparent); err != nil {
			return nil, err
		}
		calls = append(calls, c)
	}
	return calls, rows.Err()
}

// claim tells the other replicas that calls are in this process's hands.
func (r *Runner) claim(calls []*Call) error {
	now := r.cfg.Now()
	for _, c := range calls {
		until := now
		if c.RunAt.After(now) {
			until = c.RunAt
		}
		if _, err := r.cfg.DB.Exec(r.ctx, `UPDATE effects SET claimed_until = ? WHERE effect_id = ?`, until.Add(claim), c.ID); err != nil {
			return err
		}
	}
	return nil
}
