package react

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/failpoint"
	"github.com/waybill-dev/waybill/platform/idempotency"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// item is one thing to be done by a step: an event, a command, a due timer or
// the result of a call.
type item struct {
	needs func(v *View) []Ref
	step  func(v *View) error

	message  *Message      // of an event
	delivery *bus.Delivery // of an event
	bad      error         // why the delivery is no message
	call     *effect.Call  // whose result is folded
	failed   error         // the item has failed for good already, its step is not run
	letter   string        // id of the dead letter that the item is about
	redrives bool          // the letter is tried again, otherwise thrown away
	found    *deadLetter   // the letter, once it is locked
	key      *idempotency.Key
	answer   proto.Message // of a command; with a stored answer it is filled in
	trace    trace.SpanContext
	span     trace.Span
	hops     int64
	made     map[string]bool // ids that a command has made up
	replied  chan error      // capacity 1; nil for events
	done     func(error)     // told like replied, at once

	doubtful bool // it is not to be done by memory

	err   error // of the last run
	retry bool  // the event is to be delivered again
}

// eventID gives the inbox key of an event, or "" if it has none.
func (it *item) eventID() string {
	if it.message == nil {
		return ""
	}
	return it.message.ID
}

// from gives the id of the event that led to the item, or "".
func (it *item) from() string {
	if it.call != nil {
		return it.call.Cause
	}
	return it.eventID()
}

// run does items in one transaction, which goes by what the reactor remembers or
// reads all it needs. Its error means that nothing of them was stored; else each
// item has its own outcome in err and retry.
func (r *Reactor) run(ctx context.Context, items []*item, trusting bool) error {
	now := r.cfg.Now().UTC().Truncate(time.Microsecond)
	failpoint.Before("batch.begin")
	tx, err := r.cfg.DB.Begin(ctx)
	if err != nil {
		return err
	}
	failpoint.After("batch.begin")
	committed := false
	defer func() {
		if !committed {
			tx.Rollback()
		}
	}()

	set := workingSet{}
	defer func() {
		if !committed {
			r.memory.forget(set)
		}
	}()
	f := r.fetch(items, set, now, trusting)
	failpoint.Before("batch.load")
	if err := load(ctx, tx, f, set, now); err != nil {
		return err
	}
	failpoint.After("batch.load")
	for refs := f.refs; len(refs) > 0; {
		refs = r.missing(items, set, now, trusting)
		if err := load(ctx, tx, &fetch{refs: refs}, set, now); err != nil {
			return err
		}
	}
	w := r.steps(items, f, set, now)
	failpoint.Before("batch.commit")
	if err := save(ctx, tx, f, w, set, now); err != nil {
		return err
	}
	committed = true
	r.memory.keep(set, now)
	failpoint.After("batch.commit")

	failpoint.Before("batch.offer")
	r.offer(w.events, w.calls)
	failpoint.After("batch.offer")
	for _, fn := range w.after {
		fn()
	}
	return nil
}

func (r *Reactor) fetch(items []*item, set workingSet, now time.Time, trusting bool) *fetch {
	f := &fetch{trusting: trusting}
	for _, it := range items {
		it.err, it.retry, it.found = nil, false, nil
		if id := it.eventID(); id != "" && it.letter == "" {
			f.events = append(f.events, id)
			if it.delivery.Deliveries > 1 {
				f.again = append(f.again, id)
			}
		}
		if it.letter != "" {
			f.letters = append(f.letters, it.letter)
		}
		if it.call != nil {
			f.calls = append(f.calls, it.call.ID)
		}
		if it.key != nil {
			f.answers = append(f.answers, it.key.ID())
		}
	}
	f.refs = r.missing(items, set, now, trusting)
	return f
}

// missing asks all items what they need and gives what is not loaded yet. What it
// recalls may lead to more needs, so it asks again then.
func (r *Reactor) missing(items []*item, set workingSet, now time.Time, trusting bool) []Ref {
	var refs []Ref
	for again := true; again; {
		var more []Ref
		more, again = r.name(items, set, now, trusting)
		refs = append(refs, more...)
	}
	return refs
}

// name asks all items once, puts into set what is remembered of their needs, tells
// whether there was any, and gives the rest.
func (r *Reactor) name(items []*item, set workingSet, now time.Time, trusting bool) (refs []Ref, recalled bool) {
	v := &View{} // one for all: what is named is not kept
	for _, it := range items {
		if it.bad != nil || it.failed != nil || it.needs == nil || it.err != nil {
			continue
		}
		*v = View{set: set, now: now, cause: it.message, trace: it.trace, naming: true, newID: r.cfg.NewID, made: it.made}
		var need []Ref
		it.err = safely(func() error { need = it.needs(v); return nil })
		for _, ref := range need {
			if set[ref] != nil {
				continue
			}
			if trusting {
				if e := r.memory.recall(ref); e != nil {
					set[ref], recalled = e, true
					continue
				}
				if it.absent(ref) {
					set[ref] = &entry{loaded: true, recalled: true}
					continue
				}
			}
			set[ref] = &entry{} // load fills it in
			refs = append(refs, ref)
		}
	}
	return refs, recalled
}

func (r *Reactor) steps(items []*item, f *fetch, set workingSet, now time.Time) *writes {
	w := &writes{}
	given := map[string]answer{} // by keyed commands of this very batch
	for _, it := range items {
		if id := it.eventID(); id != "" && it.letter == "" {
			if !f.freshEvents[id] {
				r.metrics.duplicate(it)
				continue
			}
			delete(f.freshEvents, id) // the same event twice in one batch
		}
		if it.call != nil {
			if !f.freshCalls[it.call.ID] {
				continue
			}
			delete(f.freshCalls, it.call.ID)
		}
		if it.key != nil && r.known(it, f, given) {
			continue
		}
		if it.letter != "" && !it.claim(f) {
			continue
		}
		switch {
		case it.bad != nil:
			it.err = it.bad
		case it.failed != nil:
			it.err = it.failed
		case it.err == nil:
			r.step(it, set, now, w)
		}
		r.conclude(it, f, w, given, now, len(items) == 1)
	}
	return w
}

// known answers a keyed command that was done before.
func (r *Reactor) known(it *item, f *fetch, given map[string]answer) bool {
	a, ok := f.stored[it.key.ID()]
	if !ok {
		if a, ok = given[it.key.ID()]; !ok {
			return false
		}
	}
	if !bytes.Equal(a.fingerprint, it.key.Fingerprint) {
		it.err = errs.E(errs.FailedPrecondition, "IDEMPOTENCY_KEY_REUSED",
			"request_id %q was used for a different request; send the original request or a new request_id", it.key.Value)
		return true
	}
	proto.Reset(it.answer)
	it.err = proto.Unmarshal(a.data, it.answer)
	return true
}

func (r *Reactor) step(it *item, set workingSet, now time.Time, w *writes) {
	v := &View{set: set, now: now, cause: it.message, from: it.from(), trace: it.trace, hops: it.hops, newID: r.cfg.NewID}
	it.err = safely(func() error { return it.step(v) })
	if it.err == nil {
		it.err = v.encode()
	}
	if it.err == nil {
		v.keep(w)
	}
}

// conclude decides what a step's outcome leaves in the database.
func (r *Reactor) conclude(it *item, f *fetch, w *writes, given map[string]answer, now time.Time, alone bool) {
	if it.err == nil && it.key != nil {
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(it.answer)
		if err != nil {
			it.err = err
			return
		}
		a := answer{it.key.ID(), it.key.Fingerprint, data}
		given[a.id] = a
		w.answers = append(w.answers, a)
	}
	switch {
	case it.letter != "":
		r.concludeLetter(it, w, now, alone)
	case it.delivery != nil && it.err != nil:
		r.fail(it, f, w, now, alone)
	case it.delivery != nil:
		if before := f.failures[it.message.ID]; before.stored {
			w.healed = append(w.healed, before.eventID)
		}
	case it.call != nil && it.failed != nil:
		r.tell(w, r.buryCall(it.call, it.failed, now))
		it.err = nil
	case it.call != nil && it.err != nil:
		// Keep the call, so that it is made and folded again later.
		c := *it.call
		c.RunAt = c.RunAt.Add(time.Second)
		w.calls = append(w.calls, &c)
	}
}

// safely turns a panic of a step into an error: one broken step must not take
// the others of its batch along.
func safely(fn func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case *unnamedError:
			err = p
		default:
			err = &panicError{value: p, stack: debug.Stack()}
		}
	}()
	return fn()
}

type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("step panicked: %v\n%s", p.value, p.stack) }

// process does items, in one batch if possible and one by one if not, and tells
// everyone concerned how it ended.
func (r *Reactor) process(items []*item) {
	ctx, cancel := context.WithTimeout(context.Background(), batchTimeout)
	defer cancel()
	start := r.cfg.Now()
	trusting := r.memory.trusted(items)
	err := r.run(ctx, items, trusting)
	switch {
	case trusting && err == nil:
		r.memory.right()
	case trusting && lostRace(err):
		r.cfg.Log.Debug("not all is as it was taken for granted, reading all", "service", r.machine.name, "messages", len(items), "error", err)
		r.metrics.mistaken()
		r.memory.mistaken()
		err = r.run(ctx, items, false)
	}
	r.metrics.batch(len(items), r.cfg.Now().Sub(start))
	if err != nil && len(items) > 1 && !sqldb.Unavailable(err) {
		r.cfg.Log.Debug("batch failed, doing its messages one by one", "service", r.machine.name, "messages", len(items), "error", err)
		for _, it := range items {
			r.process([]*item{it})
		}
		return
	}
	for try := 1; err != nil && len(items) == 1 && try < maxTries && lostRace(err); try++ {
		err = r.run(ctx, items, false)
	}
	if err != nil && len(items) == 1 && items[0].blamed(err) {
		items[0].failed = err
		err = r.run(ctx, items, false)
	}
	var again []*item
	for _, it := range items {
		if err != nil {
			it.err, it.retry = outside(err), true
		} else if trusting && it.key != nil && it.err != nil {
			it.doubtful = true // it may have been answered before, when it could be done
			again = append(again, it)
			continue
		}
		var unnamed *unnamedError
		if err == nil && len(items) > 1 && errors.As(it.err, &unnamed) {
			r.process([]*item{it}) // nothing of it was kept
			continue
		}
		r.finish(it)
	}
	if len(again) > 0 {
		r.process(again)
	}
}

// blamed reports whether a transaction of this item alone failed because of the
// item: it counts as a failure of its step. A database that is away is not.
func (it *item) blamed(err error) bool {
	return (it.delivery != nil || it.redrives) && it.failed == nil &&
		!sqldb.Unavailable(err) && !sqldb.Ambiguous(err) && errs.KindOf(err) != errs.DeadlineExceeded && errs.KindOf(err) != errs.Canceled
}
