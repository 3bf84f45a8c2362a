package react

import (
	"context"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/failpoint"
	"github.com/waybill-dev/waybill/platform/idempotency"
	"github.com/waybill-dev/waybill/platform/inbox"
	"github.com/waybill-dev/waybill/platform/outbox"
)

func keyFrom(ctx context.Context) *idempotency.Key {
	if k, ok := idempotency.FromContext(ctx); ok {
		return &k
	}
	return nil
}

// perform makes one recorded call.
func (r *Reactor) perform(ctx context.Context, c *effect.Call) (result any, err error) {
	p, ok := r.machine.effects[c.Kind]
	if !ok {
		return nil, &effect.HopelessError{Err: errs.E(errs.Unimplemented, "UNKNOWN_EFFECT", "this build does not know effect %s", c.Kind)}
	}
	sc := parseTrace(c.Traceparent)
	ctx = trace.ContextWithRemoteSpanContext(ctx, sc)
	if r.cfg.Tracer != nil && sc.IsSampled() {
		var span trace.Span
		ctx, span = r.cfg.Tracer.Start(ctx, "effect "+c.Kind, trace.WithSpanKind(trace.SpanKindClient))
		defer span.End()
	}
	defer func() {
		if p := recover(); p != nil {
			err = &effect.HopelessError{Err: &panicError{value: p, stack: debug.Stack()}}
		} else if err != nil && errs.Permanent(err) {
			err = &effect.HopelessError{Err: err}
		}
	}()
	failpoint.Before("call.perform")
	result, err = p.perform(ctx, c)
	failpoint.After("call.perform")
	return result, err
}

// fold gives a call's result to its step and waits until it is stored.
func (r *Reactor) fold(ctx context.Context, c *effect.Call, result any) error {
	failpoint.Before("call.fold")
	err := r.await(ctx, r.folding(c, result))
	failpoint.After("call.fold")
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Aborted, errs.DeadlineExceeded, errs.Canceled:
		return err
	}
	if err != nil {
		return &effect.HopelessError{Err: err}
	}
	return nil
}

// giveUpCall puts a call among the dead letters.
func (r *Reactor) giveUpCall(ctx context.Context, c *effect.Call, err error) error {
	it := &item{call: c, failed: err, trace: parseTrace(c.Traceparent), replied: make(chan error, 1)}
	return r.await(ctx, it)
}

// await has an item done that comes from the runner of calls.
func (r *Reactor) await(ctx context.Context, it *item) error {
	// The queue outlives the runner, so that results in hand are still stored.
	select {
	case r.queue <- it:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-it.replied:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// folding gives the item that folds a call's result.
func (r *Reactor) folding(c *effect.Call, result any) *item {
	p := r.machine.effects[c.Kind]
	it := &item{call: c, trace: parseTrace(c.Traceparent), hops: c.Hops, replied: make(chan error, 1)}
	it.needs = func(v *View) []Ref { return p.needs(v, c) }
	it.step = func(v *View) error { return p.step(v, c, result) }
	r.startSpan(it, "fold "+c.Kind, trace.SpanKindInternal)
	return it
}

// due gives the item that does what one sweep demands for an aggregate.
func due(s Sweep, id string) *item {
	it := &item{replied: make(chan error, 1)}
	it.needs = func(v *View) []Ref { return s.Needs(v, id) }
	it.step = func(v *View) error { return s.Step(v, id) }
	return it
}

// sweep runs the steps of one sweep for what is due.
func (r *Reactor) sweep(ctx context.Context, s Sweep) {
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	for {
		r.sweepOnce(ctx, s)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *Reactor) sweepOnce(ctx context.Context, s Sweep) {
	for {
		failpoint.Before("sweep.due")
		ids, err := s.Due(ctx, r.cfg.Now(), sweepPage)
		failpoint.After("sweep.due")
		if err != nil {
			if ctx.Err() == nil {
				r.cfg.Log.Warn("sweep failed, will try again", "service", r.machine.name, "sweep", s.Name, "error", err)
			}
			return
		}
		waiting := make([]*item, 0, len(ids))
		for _, id := range ids {
			it := due(s, id)
			if r.enqueue(ctx, it) != nil {
				return
			}
			waiting = append(waiting, it)
		}
		failed := false
		for _, it := range waiting {
			select {
			case err := <-it.replied:
				failed = failed || err != nil
			case <-ctx.Done():
				return
			}
		}
		if len(ids) < sweepPage || failed {
			return
		}
	}
}

const (
	housekeepingEvery = 10 * time.Minute
	answerRetention   = 48 * time.Hour
)

// housekeeping drops what is old enough never to be asked for again.
func (r *Reactor) housekeeping(ctx context.Context) {
	tick := time.NewTicker(housekeepingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := r.cfg.Now()
		for _, old := range []struct {
			sql    string
			before time.Time
		}{
			{`DELETE FROM inbox WHERE processed_at < ?`, now.Add(-inbox.Retention)},
			{`DELETE FROM failures WHERE first_at < ?`, now.Add(-inbox.Retention)},
			{`DELETE FROM idempotency WHERE created_at < ?`, now.Add(-answerRetention)},
			{`DELETE FROM outbox WHERE created_at < ? AND NOT EXISTS (SELECT 1 FROM outbox_pending p WHERE p.seq = outbox.seq)`, now.Add(-outbox.Retention)},
		} {
			if _, err := r.cfg.DB.Exec(ctx, old.sql, old.before); err != nil && ctx.Err() == nil {
				r.cfg.Log.Warn("housekeeping failed, will try again", "service", r.machine.name, "error", err)
			}
		}
	}
}
