// Package react turns messages into state. A service registers pure steps
// (state, message) -> (state', events, effects); the reactor takes what has
// arrived, opens one transaction for the whole batch, drops what the inbox knows,
// loads the touched aggregates, runs the steps in memory, writes states, events
// and effects in one go, commits, and only then acknowledges. If a batch fails it
// is retried message by message, so one bad message never blocks the others. What
// it stored last it remembers, and then lets the writes check instead of reading
// first (memory.go).
//
// Events, commands, timers and the results of calls to the outside all take this
// one way.
package react

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/errs"
)

// A Machine is all that one service reacts to. Build it at start, then give it
// to New; it must not change afterwards.
type Machine struct {
	name    string
	events  map[string]handler
	effects map[string]performer
	sweeps  []Sweep
}

type handler struct {
	needs func(v *View, e proto.Message) []Ref
	step  func(v *View, e proto.Message) error
}

type performer struct {
	perform func(ctx context.Context, c *effect.Call) (any, error)
	needs   func(v *View, c *effect.Call) []Ref
	step    func(v *View, c *effect.Call, result any) error
}

// NewMachine makes an empty machine for the service of this name. The name is
// also the durable name of its consumers: changing it starts from the beginning.
func NewMachine(name string) *Machine {
	return &Machine{name: name, events: map[string]handler{}, effects: map[string]performer{}}
}

// Name gives the service's name.
func (m *Machine) Name() string { return m.name }

// Hears lists the full protobuf names of the events the machine handles.
func (m *Machine) Hears() []string {
	types := make([]string, 0, len(m.events))
	for t := range m.events {
		types = append(types, t)
	}
	return types
}

// On registers the step for events of type E. Needs names the aggregates the
// step reads or writes; it is called again after each load until it names
// nothing new, so it may look at what was loaded.
//
// If the step's error is errs.Permanent, the message becomes a dead letter;
// after any other it is delivered again later.
func On[E proto.Message](m *Machine, needs func(v *View, e E) []Ref, step func(v *View, e E) error) {
	var e E
	name := string(e.ProtoReflect().Descriptor().FullName())
	if _, twice := m.events[name]; twice {
		panic("react: two steps for " + name)
	}
	m.events[name] = handler{
		needs: func(v *View, e proto.Message) []Ref { return needs(v, e.(E)) },
		step:  func(v *View, e proto.Message) error { return step(v, e.(E)) },
	}
}

// A Call is one try of a call to the outside.
type Call struct {
	Key         string // idempotency key for the other side, the same on every try
	Attempt     int64  // 1 for the first try
	AggregateID string
}

// OnEffect registers how calls of a kind are made and what their results do.
// Perform runs outside any transaction. Its error means that the outcome is not
// known and nothing was decided, and the call is repeated with the same key and
// growing delay; everything the other side decided, and also "it never
// answered", is a value of R. The step folds the result in, once per call. All get the same
// payload, which must not be changed.
func OnEffect[P, R any](m *Machine, kind string,
	perform func(ctx context.Context, call Call, in P) (R, error),
	needs func(v *View, in P) []Ref,
	step func(v *View, in P, out R) error,
) {
	if _, twice := m.effects[kind]; twice {
		panic("react: two performers for effect " + kind)
	}
	payload := func(c *effect.Call) (P, error) {
		if in, ok := c.Read.(P); ok {
			return in, nil
		}
		var in P
		if err := json.Unmarshal(c.Payload, &in); err != nil {
			return in, errs.Wrap(err, errs.Invalid, "MALFORMED_EFFECT", "the payload of effect %s cannot be read", c.Kind)
		}
		c.Read = in // for the next try and for the step, too
		return in, nil
	}
	m.effects[kind] = performer{
		perform: func(ctx context.Context, c *effect.Call) (any, error) {
			in, err := payload(c)
			if err != nil {
				return nil, err
			}
			return perform(ctx, Call{Key: c.Key, Attempt: c.Attempt, AggregateID: c.AggregateID}, in)
		},
		needs: func(v *View, c *effect.Call) []Ref {
			in, err := payload(c)
			if err != nil {
				return nil // the step reports it
			}
			return needs(v, in)
		},
		step: func(v *View, c *effect.Call, result any) error {
			in, err := payload(c)
			if err != nil {
				return err
			}
			out, ok := result.(R)
			if !ok {
				return fmt.Errorf("effect %s gave a %T", c.Kind, result)
			}
			return step(v, in, out)
		},
	}
}

// A Sweep does what time demands: every so often it asks which aggregates are
// due and runs a step for each. Due reads outside the transaction, and all
// replicas sweep, so the step must look again whether it is still due.
type Sweep struct {
	Name  string
	Every time.Duration
	Due   func(ctx context.Context, now time.Time, limit int) (ids []string, err error)
	Needs func(v *View, id string) []Ref
	Step  func(v *View, id string) error
}

// Every registers a sweep.
func Every(m *Machine, s Sweep) { m.sweeps = append(m.sweeps, s) }
