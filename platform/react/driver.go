package react

import (
	"context"
	"slices"
	"strings"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/outbox"
)

// A Driver runs a reactor by hand, for simulations. What New leaves to
// goroutines, clocks and a broker is called one by one here: nothing happens but
// what the Driver is told, in the order in which it is told, and all of it takes
// the same way through batches, inbox, steps and transactions as always. Events
// are left in the outbox and calls in their table. A Driver is for one goroutine.
type Driver struct {
	r       *Reactor
	queue   []*item
	calls   []*driven
	arrived chan struct{} // a command of Command has come to the queue
}

// driven is a command under way.
type driven struct {
	it       *item
	answered bool
	done     chan struct{}
}

// NewDriver makes a reactor and its driver. Offer, which may be nil, hears of the
// events and calls of each batch after its commit, like the relay and the runner
// of calls do. The config needs no bus.
func NewDriver(cfg Config, offer func(events []*outbox.Event, calls []*effect.Call)) (*Driver, *Reactor, error) {
	r, err := newReactor(cfg)
	if err != nil {
		return nil, nil, err
	}
	r.memory.suspicious = true
	d := &Driver{r: r, arrived: make(chan struct{}, 1)}
	r.admit = d.admit
	r.offer = func(events []*outbox.Event, calls []*effect.Call) {
		if offer != nil {
			offer(events, calls)
		}
	}
	return d, r, nil
}

// Name gives the name of the service.
func (d *Driver) Name() string { return d.r.machine.name }

// Hears lists the full protobuf names of the events the service handles, sorted.
func (d *Driver) Hears() []string {
	types := d.r.machine.Hears()
	slices.SortFunc(types, strings.Compare)
	return types
}

// Sweeps lists the sweeps of the service.
func (d *Driver) Sweeps() []Sweep { return d.r.machine.sweeps }

// Waiting gives how many items wait for Run.
func (d *Driver) Waiting() int { return len(d.queue) }

func (d *Driver) admit(_ context.Context, it *item) error {
	d.queue = append(d.queue, it)
	if it.replied != nil {
		select {
		case d.arrived <- struct{}{}:
		default:
		}
	}
	return nil
}

// Deliver queues an event for the next batch.
func (d *Driver) Deliver(m *bus.Delivery) { d.r.receive(m) }

// Due queues one sweep's step for each aggregate that is due by now, and gives
// how many there are.
func (d *Driver) Due(ctx context.Context, s Sweep) (int, error) {
	ids, err := s.Due(ctx, d.r.cfg.Now(), sweepPage)
	if err != nil {
		return 0, err
	}
	for _, id := range ids {
		d.queue = append(d.queue, due(s, id))
	}
	return len(ids), nil
}

// Perform makes a recorded call. Its error means that nothing is known and the
// call is to be repeated.
func (d *Driver) Perform(ctx context.Context, c *effect.Call) (any, error) {
	return d.r.perform(ctx, c)
}

// Fold queues the result of a call; folded hears if it was stored.
func (d *Driver) Fold(c *effect.Call, result any, folded func(error)) {
	it := d.r.folding(c, result)
	it.done = folded
	d.queue = append(d.queue, it)
}

// Command runs fn, which may call one command of the service, until the command
// waits for its batch or fn has ended without one. The rest of fn runs within the
// Run that does the command, or in Abandon.
func (d *Driver) Command(fn func()) {
	select {
	case <-d.arrived:
	default:
	}
	done := make(chan struct{})
	before := len(d.queue)
	go func() {
		defer close(done)
		fn()
	}()
	select {
	case <-d.arrived:
		c := &driven{it: d.queue[before], done: done}
		c.it.done = func(error) { c.answered = true }
		d.calls = append(d.calls, c)
	case <-done:
	}
}

// Run does what is queued, a batch of at most so many items, in the order of the
// queue. Whoever asked for them is told before it returns.
func (d *Driver) Run(most int) {
	n := min(len(d.queue), most, d.r.cfg.MaxBatch)
	if n == 0 {
		return
	}
	items := slices.Clone(d.queue[:n])
	d.queue = slices.Delete(d.queue, 0, n)
	d.r.process(items)
	d.calls = slices.DeleteFunc(d.calls, func(c *driven) bool {
		if !slices.Contains(items, c.it) {
			return false
		}
		<-c.done
		return true
	})
}

// Shuffle changes the order of what is queued, as swap is told.
func (d *Driver) Shuffle(shuffle func(n int, swap func(i, j int))) {
	shuffle(len(d.queue), func(i, j int) { d.queue[i], d.queue[j] = d.queue[j], d.queue[i] })
}

// Abandon is the end of a Driver, also of one whose Run ended in a panic: commands
// that were answered end, then cancel is called, which must end the contexts of
// all others, and these end, too.
func (d *Driver) Abandon(cancel func()) {
	for _, c := range d.calls {
		if c.answered {
			<-c.done
		}
	}
	cancel()
	for _, c := range d.calls {
		<-c.done
	}
	d.calls, d.queue = nil, nil
}
