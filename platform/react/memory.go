package react

import (
	"fmt"
	"reflect"
	"time"
)

const (
	memorySize = 4096             // aggregates in one of two generations
	memoryTime = 10 * time.Second // after which a generation begins to fade
	maxPenalty = 1024             // batches that read everything after the memory was wrong
	goodRun    = 64               // batches without fault that take a penalty back
)

// memory is what a reactor remembers of aggregates between its batches: of kinds
// that ask for it, the state it stored or read last. A batch that trusts it reads
// nothing of them and has one round trip instead of two. It is optimistic
// concurrency control (Kung and Robinson, 1981): the write names the version that
// was remembered, and a batch that is mistaken in anything fails as a whole and
// runs again with everything read and locked. Where that happens often, because
// other replicas work on the same aggregates, memory is hardly ever asked.
//
// It belongs to the goroutine that runs the batches.
type memory struct {
	now   map[Ref]entry
	old   map[Ref]entry
	turns time.Time // when the generations turn

	wary    int // batches that trust nothing, from here on
	penalty int // how many the next mistake costs
	good    int // batches without a mistake since the last

	suspicious bool // looks whether steps leave alone what they were given
}

func newMemory() *memory {
	return &memory{now: map[Ref]entry{}, old: map[Ref]entry{}, penalty: 1}
}

// trusted tells whether a batch of these items may go by memory, and counts it.
func (m *memory) trusted(items []*item) bool {
	for _, it := range items {
		if it.bad != nil || it.failed != nil || it.letter != "" || it.doubtful || it.delivery != nil && it.delivery.Deliveries > 1 {
			return false // likely known already, or to be looked at closely
		}
	}
	if m.wary > 0 {
		m.wary--
		return false
	}
	return true
}

// mistaken follows a batch that has trusted in vain.
func (m *memory) mistaken() {
	m.wary, m.good = m.penalty, 0
	m.penalty = min(2*m.penalty, maxPenalty)
	clear(m.now)
	clear(m.old)
}

// right follows a batch that has trusted and was stored.
func (m *memory) right() {
	if m.good++; m.good >= goodRun {
		m.good, m.penalty = 0, max(m.penalty/2, 1)
	}
}

// recall gives the entry of an aggregate as the last batch left it, nil if it is
// not remembered.
func (m *memory) recall(ref Ref) *entry {
	if !ref.kind.remembered {
		return nil
	}
	e, ok := m.now[ref]
	if !ok {
		if e, ok = m.old[ref]; !ok {
			return nil
		}
	}
	return &entry{
		state: e.state, version: e.version, eventSeq: e.eventSeq, was: e.version, row: e.row,
		loaded: true, stored: true, exists: true, recalled: true,
	}
}

// keep remembers the aggregates of a batch that was stored at a time.
func (m *memory) keep(set workingSet, at time.Time) {
	if len(m.now) >= memorySize || !at.Before(m.turns) {
		m.old, m.now = m.now, make(map[Ref]entry, len(m.now))
		m.turns = at.Add(memoryTime)
	}
	for ref, e := range set {
		if !ref.kind.remembered || !e.exists {
			continue
		}
		kept := entry{state: e.state, version: e.version, eventSeq: e.eventSeq}
		if m.suspicious {
			kept.row = ref.kind.row(e.state)
			if e.recalled && !e.dirty && !reflect.DeepEqual(kept.row, e.row) {
				panic(fmt.Sprintf("react: a step has changed the state of %s %s in place", ref.kind.name, ref.ID))
			}
		}
		m.now[ref] = kept
	}
}

// forget drops the aggregates of a batch that failed.
func (m *memory) forget(set workingSet) {
	for ref := range set {
		delete(m.now, ref)
		delete(m.old, ref)
	}
}

// absent tells whether the item knows by itself that there is no such aggregate: it
// has just made up its id, or it is the event that began everything about it.
func (it *item) absent(ref Ref) bool {
	if it.made[ref.ID] {
		return true
	}
	m := it.message
	return ref.kind.remembered && m != nil && m.Cause == "" && m.Version == 1 && m.AggregateID == ref.ID
}

// granted gives the aggregates that the batch has taken for granted and does not
// write.
func (set workingSet) granted() (refs []Ref) {
	for ref, e := range set {
		if e.recalled && !e.dirty {
			refs = append(refs, ref)
		}
	}
	return refs
}
