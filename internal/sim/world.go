package sim

import (
	"container/heap"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/waybill-dev/waybill/internal/invariant"
)

const (
	arrival    = 8 * time.Minute  // customers come within this time
	troubles   = 14 * time.Minute // then all is healed
	patience   = 3 * time.Hour    // after which whoever is not over will never be
	overdue    = 2 * time.Minute  // by which a deadline may pass before somebody looks at the clock
	checkEvery = 150              // batches between two looks at what must always hold
)

// epoch is when every world begins.
var epoch = time.Date(2026, 1, 5, 8, 0, 0, 0, time.UTC)

// world is one simulated world. One goroutine runs it; commands have others, which
// only run while that one waits for them.
type world struct {
	opt    Options
	seed   uint64
	now    time.Time // the true time, which nobody in the world knows
	agenda agenda
	order  int64
	rates  rates
	healed bool

	plan *rand.Rand // what customers do
	fate *rand.Rand // what goes wrong
	dice *rand.Rand // how long things take
	ids  *rand.Rand // ids

	services  []*service
	broker    *broker
	bank      *bank
	carrier   *carrier
	customers []*customer
	products  []product
	batches   int
	lasts     time.Duration // how long the call to the outside takes that is being made
	working   []*process    // whose batches run, the innermost last

	counts map[string]int64
	found  []invariant.Violation
	trace  hash.Hash
	buf    []byte
	story  []string
}

// moment is one thing that will happen.
type moment struct {
	at    time.Time
	order int64 // of two at the same time
	do    func()
}

type agenda []*moment

// Len implements heap.Interface.
func (a agenda) Len() int { return len(a) }

// Less implements heap.Interface.
func (a agenda) Less(i, j int) bool {
	if c := a[i].at.Compare(a[j].at); c != 0 {
		return c < 0
	}
	return a[i].order < a[j].order
}

// Swap implements heap.Interface.
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }

// Push implements heap.Interface.
func (a *agenda) Push(x any) { *a = append(*a, x.(*moment)) }

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	old := *a
	m := old[len(old)-1]
	old[len(old)-1] = nil
	*a = old[:len(old)-1]
	return m
}

func newWorld(seed uint64, opt Options) *world {
	stream := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }
	w := &world{
		opt: opt, seed: seed, now: epoch, counts: map[string]int64{}, trace: sha256.New(),
		plan: stream(1), fate: stream(2), dice: stream(3), ids: stream(4),
	}
	faults := opt.Faults
	if faults == nil {
		faults = choose(stream(5))
	}
	w.opt.Faults = faults
	w.rates = newRates(faults)
	return w
}

// after has something done after a while.
func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.agenda, &moment{w.now.Add(d), w.order, do})
}

// in has something done by a process after a while, if it is the same process then.
// One that stands still does it when it goes on.
func (w *world) in(p *process, d time.Duration, do func()) {
	life := p.life
	var try func()
	try = func() {
		switch {
		case p.life != life || !p.up:
		case w.now.Before(p.still):
			w.after(p.still.Sub(w.now), try)
		default:
			do()
		}
	}
	w.after(d, try)
}

// chance tells whether something goes wrong this time.
func (w *world) chance(rate float64) bool { return rate > 0 && !w.healed && w.fate.Float64() < rate }

// between gives a time in a range, most of them short.
func (w *world) between(least, most time.Duration) time.Duration {
	x := w.dice.Float64()
	return least + time.Duration(x*x*float64(most-least))
}

// count notes that something happened.
func (w *world) count(what string) { w.counts[what]++ }

// note writes a step into the trace, by which two runs are compared.
func (w *world) note(what string, about ...string) {
	b := strconv.AppendInt(w.buf[:0], w.now.Sub(epoch).Microseconds(), 10)
	b = append(append(b, ' '), what...)
	for _, a := range about {
		b = append(append(b, ' '), a...)
	}
	w.buf = append(b, '\n')
	_, _ = w.trace.Write(w.buf) // never fails
	if w.opt.Keep {
		w.story = append(w.story, string(w.buf[:len(w.buf)-1]))
	}
}

// wrong notes a violation; each rule is told a few times for each world at most.
func (w *world) wrong(v invariant.Violation) {
	n := 0
	for _, f := range w.found {
		if f == v {
			return
		}
		if f.Rule == v.Rule {
			n++
		}
	}
	if n < 5 {
		w.found = append(w.found, v)
		w.note("VIOLATION", v.String())
	}
}

func (w *world) violated(rule, order, format string, a ...any) {
	w.wrong(invariant.Violation{Rule: rule, Order: order, Text: fmt.Sprintf(format, a...)})
}

// newID gives a UUID of version 7 for a time, the same in every run.
func (w *world) newID(now time.Time) string {
	var u [16]byte
	ms := now.UnixMilli()
	for i := range 6 {
		u[i] = byte(ms >> (40 - 8*i))
	}
	a, b := w.ids.Uint64(), w.ids.Uint64()
	for i := range 8 {
		u[8+i] = byte(a >> (8 * i))
	}
	u[6], u[7] = 0x70|byte(b)&0x0f, byte(b>>8)
	u[8] = 0x80 | u[8]&0x3f
	var text [36]byte
	hex.Encode(text[:8], u[:4])
	hex.Encode(text[9:13], u[4:6])
	hex.Encode(text[14:18], u[6:8])
	hex.Encode(text[19:23], u[8:10])
	hex.Encode(text[24:], u[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// step does what comes next; false when there is nothing left.
func (w *world) step() bool {
	if len(w.agenda) == 0 {
		return false
	}
	m := heap.Pop(&w.agenda).(*moment)
	w.now = m.at
	m.do()
	return true
}

// heal ends all trouble.
func (w *world) heal() {
	w.healed = true
	w.note("healed")
	for _, s := range w.services {
		for _, p := range s.replicas {
			p.still = w.now
			if !p.up {
				p.start()
			}
		}
	}
}

// run lives through the world.
func (w *world) run() error {
	if err := w.build(); err != nil {
		return err
	}
	defer w.end()
	w.after(troubles, w.heal)
	look := epoch.Add(troubles + time.Minute) // whether it is over
	for w.step() {
		if len(w.found) > 0 && w.opt.Mutant != NoMutant {
			return nil // noticed
		}
		if w.now.After(look) {
			if w.quiet() {
				break
			}
			look = w.now.Add(5 * time.Second)
		}
		if w.now.Sub(epoch) > troubles+patience {
			break
		}
	}
	if err := w.check(); err != nil {
		return err
	}
	return w.final()
}

func (w *world) end() {
	for _, s := range w.services {
		for _, p := range s.replicas {
			if p.up {
				p.stop()
			}
		}
	}
}
