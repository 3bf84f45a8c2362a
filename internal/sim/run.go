package sim

import (
	"context"
	"encoding/hex"
	"fmt"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/waybill-dev/waybill/internal/invariant"
)

// Result is what one world came to.
type Result struct {
	Seed       uint64                `json:"seed"`
	Orders     int                   `json:"orders"`
	Faults     []Fault               `json:"faults"`
	Trace      string                `json:"trace"` // hash of all that happened, in order
	Took       time.Duration         `json:"virtual"`
	Counts     map[string]int64      `json:"counts"`
	Violations []invariant.Violation `json:"violations,omitempty"`
	Waybills   map[string][]string   `json:"waybills,omitempty"` // of the orders in Violations
	Story      []string              `json:"story,omitempty"`    // with Options.Keep
}

// Replay gives the command that runs the world again.
func (r *Result) Replay() string {
	faults := "none"
	if len(r.Faults) > 0 {
		var names []string
		for _, f := range r.Faults {
			names = append(names, string(f))
		}
		faults = strings.Join(names, ",")
	}
	return fmt.Sprintf("waybill sim --seed=%d --orders=%d --faults=%s", r.Seed, r.Orders, faults)
}

// Run lives through the world of one seed.
func Run(seed uint64, opt Options) (*Result, error) {
	w := newWorld(seed, opt.withDefaults())
	if err := w.run(); err != nil {
		return nil, fmt.Errorf("seed %d: %w", seed, err)
	}
	r := &Result{
		Seed: seed, Orders: w.opt.Orders, Faults: w.opt.Faults, Trace: hex.EncodeToString(w.trace.Sum(nil)[:16]),
		Took: w.now.Sub(epoch), Counts: w.counts, Violations: w.found, Story: w.story,
	}
	for _, v := range w.found {
		if v.Order == "" || r.Waybills[v.Order] != nil {
			continue
		}
		if r.Waybills == nil {
			r.Waybills = map[string][]string{}
		}
		r.Waybills[v.Order] = w.waybill(v.Order)
	}
	return r, nil
}

// A Report sums up the worlds of many seeds.
type Report struct {
	Seeds  int              `json:"seeds"`
	First  uint64           `json:"first_seed"`
	Last   uint64           `json:"last_seed"`
	Orders int64            `json:"orders"`
	Events int64            `json:"events"`
	Counts map[string]int64 `json:"counts"`
	Failed []*Result        `json:"failed"`
	Wall   time.Duration    `json:"wall"`
}

// Many runs the worlds of n seeds from first on, on all processors, and stops early
// when ctx ends or ten have failed. Each world is told to done, one at a time, in
// no particular order.
func Many(ctx context.Context, first uint64, n int, opt Options, done func(*Result)) (*Report, error) {
	seeds := make([]uint64, n)
	for i := range seeds {
		seeds[i] = first + uint64(i)
	}
	return Seeds(ctx, seeds, opt, done)
}

// Seeds is Many for a list of seeds.
func Seeds(ctx context.Context, seeds []uint64, opt Options, done func(*Result)) (*Report, error) {
	begin := time.Now()
	report := &Report{Counts: map[string]int64{}, Failed: []*Result{}}
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		next  int
		fault error
	)
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				stop := i >= len(seeds) || fault != nil || len(report.Failed) >= 10 || ctx.Err() != nil
				next++
				mu.Unlock()
				if stop {
					return
				}
				r, err := Run(seeds[i], opt)
				mu.Lock()
				if err != nil {
					fault = err
				} else {
					report.add(r)
					if done != nil {
						done(r)
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if fault != nil {
		return nil, fault
	}
	if len(seeds) > 0 {
		report.First, report.Last = slices.Min(seeds), slices.Max(seeds)
	}
	sort.Slice(report.Failed, func(i, j int) bool { return report.Failed[i].Seed < report.Failed[j].Seed })
	report.Wall = time.Since(begin)
	return report, ctx.Err()
}

func (r *Report) add(one *Result) {
	r.Seeds++
	r.Orders += int64(one.Orders)
	r.Events += one.Counts["events"]
	for k, n := range one.Counts {
		r.Counts[k] += n
	}
	if len(one.Violations) > 0 {
		r.Failed = append(r.Failed, one)
	}
}

// Sorted gives the names of counts in the order of the alphabet.
func Sorted(counts map[string]int64) []string {
	names := make([]string, 0, len(counts))
	for k := range counts {
		names = append(names, k)
	}
	slices.Sort(names)
	return names
}
