package react

import (
	"encoding/json"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// A View is what one step sees and leaves behind. What it leaves becomes real
// only when the step returns nil and the batch commits; a step may be run again,
// so it must not touch anything but its View. A View is for one goroutine and
// one step.
type View struct {
	set   workingSet
	now   time.Time
	cause *Message
	from  string // id of the message that led here, if only indirectly
	hops  int64
	trace trace.SpanContext
	newID func() string
	made  map[string]bool // ids given out while needs were named

	naming bool // needs are being named, nothing may be read for good

	puts    map[Ref]any
	order   []Ref // of puts, so that writes are in a fixed order
	emitted []emission
	calls   []*effect.Call
	rows    []appended
	execs   []exec
	after   []func()
}

type workingSet map[Ref]*entry

type emission struct {
	ref   Ref
	event proto.Message
	data  []byte
}

type appended struct {
	table *sqldb.Table
	row   []any
}

// Now gives the time of this step. Steps use no other clock.
func (v *View) Now() time.Time { return v.now }

// Cause gives the event that is being handled, or nil in a command, a sweep or
// when a call's result is folded.
func (v *View) Cause() *Message { return v.cause }

// CauseID gives the id of the event behind this step, or "". For the result of a
// call it is the event whose step recorded the call.
func (v *View) CauseID() string { return v.from }

// TraceID gives the trace this step belongs to, in hex, or "".
func (v *View) TraceID() string {
	if !v.trace.HasTraceID() {
		return ""
	}
	return v.trace.TraceID().String()
}

// NewID gives a new time-ordered UUID (version 7).
func (v *View) NewID() string {
	id := v.newID()
	if v.made != nil {
		v.made[id] = true
	}
	return id
}

// Emit records a domain event of the aggregate. It is published after the
// commit, at least once, with the aggregate's next event number.
func (v *View) Emit(ref Ref, event proto.Message) {
	v.emitted = append(v.emitted, emission{ref: ref, event: event})
}

// An EffectOption says more about a call to the outside.
type EffectOption func(*effect.Call)

// After delays the call.
func After(d time.Duration) EffectOption {
	return func(c *effect.Call) { c.RunAt = c.RunAt.Add(d) }
}

// Key sets the idempotency key that the other side sees. Without it the key is
// derived from the message behind the step.
func Key(key string) EffectOption { return func(c *effect.Call) { c.Key = key } }

// Effect records a call to the outside of the registered kind, about the given
// aggregate. Payload is stored as JSON.
func (v *View) Effect(kind string, ref Ref, payload any, opts ...EffectOption) {
	data, err := json.Marshal(payload)
	if err != nil {
		panic(fmt.Sprintf("react: payload of effect %s: %v", kind, err))
	}
	c := &effect.Call{
		ID:          v.newID(),
		Kind:        kind,
		AggregateID: ref.ID,
		Payload:     data,
		RunAt:       v.now,
		Cause:       v.CauseID(),
		Hops:        v.hops,
		Traceparent: formatTrace(v.trace),
	}
	c.Key = c.ID
	for _, o := range opts {
		o(c)
	}
	v.calls = append(v.calls, c)
}

// Append adds a row to a table that only grows, such as a history or a ledger.
func (v *View) Append(t *sqldb.Table, row ...any) {
	v.rows = append(v.rows, appended{t, row})
}

// Committed calls fn after the commit, in the order of the steps. It is for
// best-effort things such as waking those who watch: a crash may skip it.
func (v *View) Committed(fn func()) { v.after = append(v.after, fn) }

func (v *View) get(ref Ref) (any, bool) {
	if s, ok := v.puts[ref]; ok {
		return s, true
	}
	e := v.set[ref]
	if e == nil || !e.loaded {
		if v.naming {
			return nil, false
		}
		panic(&unnamedError{"reads", ref})
	}
	return e.state, e.exists
}

func (v *View) put(ref Ref, state any) {
	if e := v.set[ref]; e == nil || !e.loaded {
		panic(&unnamedError{"writes", ref})
	}
	if v.puts == nil {
		v.puts = map[Ref]any{}
	}
	if _, again := v.puts[ref]; !again {
		v.order = append(v.order, ref)
	}
	v.puts[ref] = state
}

// unnamedError is a step's use of an aggregate that its needs did not name. In a
// batch it may be no fault: needs saw what was loaded, the step sees what steps
// before it have made of that. Alone, both see the same.
type unnamedError struct {
	does string
	ref  Ref
}

// Error names the aggregate.
func (e *unnamedError) Error() string {
	return fmt.Sprintf("react: the step %s %s %s without naming it in its needs", e.does, e.ref.kind.name, e.ref.ID)
}

func (v *View) version(ref Ref) int64 {
	var version int64
	if e := v.set[ref]; e != nil {
		version = e.version
	}
	if _, ok := v.puts[ref]; ok {
		version++
	}
	return version
}

// encode checks what the step emitted before anything of it is kept.
func (v *View) encode() error {
	for i := range v.emitted {
		em := &v.emitted[i]
		data, err := proto.Marshal(em.event)
		if err != nil {
			return errs.Wrap(err, errs.Internal, "", "event %s cannot be encoded", em.event.ProtoReflect().Descriptor().FullName())
		}
		if len(data) > outbox.MaxPayload {
			return errs.E(errs.Invalid, "TOO_LARGE", "the event %s would have %d bytes, more than %d",
				em.event.ProtoReflect().Descriptor().Name(), len(data), outbox.MaxPayload)
		}
		if e := v.set[em.ref]; e == nil || !e.loaded {
			return errs.E(errs.Internal, "", "event of %s %s, which the step did not name in its needs", em.ref.kind.name, em.ref.ID)
		}
		if _, ok := v.get(em.ref); !ok {
			return errs.E(errs.Internal, "", "event of %s %s, which does not exist", em.ref.kind.name, em.ref.ID)
		}
		em.data = data
	}
	return nil
}

// keep folds what the step left into the batch.
func (v *View) keep(w *writes) {
	for _, ref := range v.order {
		e := v.set[ref]
		e.state, e.exists = v.puts[ref], true
		e.version++
		if !e.dirty {
			e.dirty = true
			w.dirty = append(w.dirty, ref)
		}
	}
	traceparent := formatTrace(v.trace)
	for _, em := range v.emitted {
		e := v.set[em.ref]
		e.eventSeq++
		if !e.dirty {
			e.dirty = true
			e.version++
			w.dirty = append(w.dirty, em.ref)
		}
		w.events = append(w.events, &outbox.Event{
			ID:          v.newID(),
			Type:        string(em.event.ProtoReflect().Descriptor().FullName()),
			AggregateID: em.ref.ID,
			Version:     e.eventSeq,
			Cause:       v.CauseID(),
			Hops:        v.hops,
			Traceparent: traceparent,
			Payload:     em.data,
			Time:        v.now,
		})
	}
	w.calls = append(w.calls, v.calls...)
	w.rows = append(w.rows, v.rows...)
	w.execs = append(w.execs, v.execs...)
	w.after = append(w.after, v.after...)
}
