// Package rebuild makes the rows of orders anew from their events, to find those
// that differ and to mend them. What an order comes to is for package order to say;
// here it is found and put together what that is said from.
package rebuild

import (
	"context"
	"fmt"
	"time"

	platform "github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/store"
)

const (
	page = 200 // orders at once
	// tries is how often an order is looked at that seems wrong and changes meanwhile.
	tries = 20
	// clocksDiffer is how much earlier than Retention an event may be gone, if it was
	// cleared away by a clock that is ahead.
	clocksDiffer = time.Hour
)

// slacks are by how much the clocks of those who wrote an outbox may differ: at
// first little is looked through, and more if something is not found.
var slacks = []time.Duration{5 * time.Second, 15 * time.Minute, always}

// Config says what to rebuild from what.
type Config struct {
	DBs       map[string]*sqldb.DB // of order and of those whose events it hears, by service
	Deadlines order.Deadlines      // for rows whose deadline is lost
	Check     bool                 // find only, write nothing
}

// Report is what was found, and what was done.
type Report struct {
	Orders  int          `json:"orders"`  // that were folded
	Events  int          `json:"events"`  // of these orders
	TooOld  int          `json:"too_old"` // orders left alone, since some of their events are not kept any more
	Rebuilt int          `json:"rebuilt"` // orders whose rows were written
	Differ  []Difference `json:"differ"`  // orders that are not what their events make them
}

// Difference is an order that is not what its events make it.
type Difference struct {
	OrderID   string   `json:"order_id"`
	What      []string `json:"what"`
	Undecided bool     `json:"undecided"` // its waybill and the events do not agree: nothing is written
	Rebuilt   bool     `json:"rebuilt"`   // its rows are now as the events make them
}

// Left gives how many orders are not what their events make them and were not mended.
func (r *Report) Left() int { return len(r.Differ) - r.Rebuilt }

// Run goes through all orders. It may run beside the services.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	b := &builder{cfg: cfg, store: store.New(cfg.DBs["order"]), outboxes: map[string]*outbox{}, report: &Report{Differ: []Difference{}}}
	for name, db := range cfg.DBs {
		b.outboxes[name] = &outbox{db: db}
	}
	for after := ""; ; {
		ids, err := b.store.IDs(ctx, after, page)
		if err != nil || len(ids) == 0 {
			return b.report, err
		}
		after = ids[len(ids)-1]
		if err := b.settle(ctx, ids); err != nil {
			return b.report, err
		}
	}
}

type builder struct {
	cfg      Config
	store    *store.Store
	outboxes map[string]*outbox
	report   *Report
}

// seen is an order as it was found, and what it should be.
type seen struct {
	*order.Recorded
	order.Folded
}

// still tells whether an order had not changed between two looks at it. What is
// read here was not read at one moment.
func (s *seen) still(before *seen) bool {
	return before != nil && s.Recorded.Rows.Version == before.Recorded.Rows.Version && len(s.Waybill) == len(before.Waybill)
}

// settle folds some orders, those that seem wrong again until they stand still.
func (b *builder) settle(ctx context.Context, ids []string) error {
	before := map[string]*seen{}
	for try := 1; len(ids) > 0; try++ {
		all, err := b.fold(ctx, ids)
		if err != nil {
			return err
		}
		ids = nil
		for _, s := range all {
			wrong := len(s.Wrong) > 0 || len(s.Differs) > 0
			if wrong && try < tries && !s.still(before[s.ID]) {
				before[s.ID] = s
				ids = append(ids, s.ID)
				continue
			}
			changed, err := b.conclude(ctx, s)
			if err != nil {
				return err
			}
			if changed && try < tries {
				delete(before, s.ID)
				ids = append(ids, s.ID)
				continue
			}
			b.count(s, changed)
		}
	}
	return nil
}

// conclude mends an order if it has to be and may be, and tells whether it was
// changed meanwhile, so that it was not.
func (b *builder) conclude(ctx context.Context, s *seen) (changed bool, err error) {
	if b.cfg.Check || len(s.Wrong) > 0 || len(s.Differs) == 0 {
		return false, nil
	}
	done, err := b.store.Replace(ctx, s.ID, s.Recorded.Rows, s.Folded.Rows)
	if err != nil {
		return false, fmt.Errorf("write order %s: %w", s.ID, err)
	}
	return !done, nil
}

// count puts an order into the report.
func (b *builder) count(s *seen, changed bool) {
	if s.TooOld {
		b.report.TooOld++
		return
	}
	b.report.Orders++
	b.report.Events += s.Events
	d := Difference{OrderID: s.ID, What: append(s.Wrong, s.Differs...), Undecided: len(s.Wrong) > 0}
	if len(d.What) == 0 {
		return
	}
	d.Rebuilt = !b.cfg.Check && !d.Undecided && !changed
	if changed {
		d.What = append(d.What, "it changes all the time; try again")
	}
	if d.Rebuilt {
		b.report.Rebuilt++
	}
	b.report.Differ = append(b.report.Differ, d)
}

// fold reads orders with their events and folds them.
func (b *builder) fold(ctx context.Context, ids []string) ([]*seen, error) {
	records, err := b.store.Recorded(ctx, ids)
	if err != nil {
		return nil, err
	}
	for name, o := range b.outboxes {
		if err := o.extend(ctx); err != nil {
			return nil, fmt.Errorf("read the outbox of %s: %w", name, err)
		}
	}
	all := make([]*seen, len(records))
	var events []string
	for i, r := range records {
		r.Heard, r.Said = map[string]order.Event{}, map[int64]order.Event{}
		all[i] = &seen{Recorded: r}
		for _, e := range r.Waybill {
			if e.GetEventId() != "" {
				events = append(events, e.GetEventId())
			}
		}
	}
	taken, err := b.store.Taken(ctx, events)
	if err != nil {
		return nil, err
	}
	kept := time.Now().Add(clocksDiffer - platform.Retention)
	left := all
	for _, slack := range slacks {
		if err := b.fetch(ctx, left, taken, slack); err != nil {
			return nil, err
		}
		var lack []*seen
		for _, s := range left {
			s.Taken = taken
			if s.Folded = b.cfg.Deadlines.Fold(*s.Recorded, kept); s.Lacks {
				lack = append(lack, s)
			}
		}
		if left = lack; len(left) == 0 {
			break
		}
	}
	return all, nil
}

// fetch reads the events of some orders that stand about where they should.
func (b *builder) fetch(ctx context.Context, some []*seen, taken map[string]time.Time, slack time.Duration) error {
	ids := make([]string, len(some))
	byID := make(map[string]*seen, len(some))
	byEvent := map[string]*seen{}
	var said []time.Time
	heard := map[string][]time.Time{}
	events := map[string][]string{}
	for i, s := range some {
		ids[i], byID[s.ID] = s.ID, s
		for _, e := range s.Waybill {
			at, id := e.GetTime().AsTime(), e.GetEventId()
			if id != "" {
				if _, found := s.Heard[id]; !found {
					events[e.GetService()] = append(events[e.GetService()], id)
					heard[e.GetService()] = append(heard[e.GetService()], at)
					byEvent[id] = s
				}
				if t, known := taken[id]; known {
					at = t
				}
			}
			said = append(said, at) // what followed from it was emitted then
		}
	}
	for name, o := range b.outboxes {
		var err error
		if name == "order" {
			err = o.find(ctx, o.spans(said, slack), "aggregate_id", ids, func(about string, e order.Event) { byID[about].Said[e.Version] = e })
		} else {
			err = o.find(ctx, o.spans(heard[name], slack), "event_id", events[name], func(_ string, e order.Event) { byEvent[e.ID].Heard[e.ID] = e })
		}
		if err != nil {
			return fmt.Errorf("read the outbox of %s: %w", name, err)
		}
	}
	return nil
}
