package load

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Quantiles are latencies in milliseconds.
type Quantiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Report is what a run measured.
type Report struct {
	Mode               string           `json:"mode"` // "closed" or "open"
	InFlight           int              `json:"in_flight,omitempty"`
	Rate               float64          `json:"rate,omitempty"`
	Seconds            float64          `json:"seconds"`
	Created            int64            `json:"created"`   // within the measured time, whenever they were placed
	Completed          int64            `json:"completed"` // the same
	CreatedPerSecond   float64          `json:"created_per_second"`
	CompletedPerSecond float64          `json:"completed_per_second"`
	CreateMS           Quantiles        `json:"create_ms"`
	CompleteMS         Quantiles        `json:"complete_ms"`
	CPUSecondsPer1000  float64          `json:"cpu_seconds_per_1000"`         // of this process
	MachineCPUPer1000  float64          `json:"machine_cpu_seconds_per_1000"` // of the whole machine, 0 where unknown
	RSSMiB             float64          `json:"rss_mib"`                      // at the end of the measured time
	RSSMiBAt10s        float64          `json:"rss_mib_at_10s,omitempty"`
	RSSMiBMax          float64          `json:"rss_mib_max"`
	Errors             map[string]int64 `json:"errors"`
	Invariants         *Invariants      `json:"invariants,omitempty"` // nil: nothing was checked
}

// recorder counts what happens within the measured time, and takes the latency of
// what was begun in it.
type recorder struct {
	mu       sync.Mutex
	begin    time.Time // zero: not yet
	end      time.Time // zero: not yet
	create   *hdrhistogram.Histogram
	complete *hdrhistogram.Histogram
	made     int64
	done     int64
	errors   map[string]int64
}

const (
	lowest  = 1                             // µs
	highest = int64(10 * time.Minute / 1e3) // µs
)

func newRecorder() *recorder {
	return &recorder{
		create:   hdrhistogram.New(lowest, highest, 3),
		complete: hdrhistogram.New(lowest, highest, 3),
		errors:   map[string]int64{},
	}
}

// created takes note of an order that was taken on at a time, d after it was due.
func (r *recorder) created(counted bool, d time.Duration, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.within(at) {
		r.made++
	}
	if counted {
		_ = r.create.RecordValue(clamp(d))
	}
}

// completed takes note of an order that was over at a time, d after it was due. In
// the throughput it counts if that was within the measured time, also when it was
// placed before; in the latency if it was placed then, also when it was over later,
// for those are the slowest.
func (r *recorder) completed(counted bool, d time.Duration, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.within(at) {
		r.done++
	}
	if counted {
		_ = r.complete.RecordValue(clamp(d))
	}
}

// within tells whether a moment belongs to the measured time. r.mu is held.
func (r *recorder) within(at time.Time) bool {
	return !r.begin.IsZero() && !at.Before(r.begin) && (r.end.IsZero() || at.Before(r.end))
}

func (r *recorder) failed(counted bool, code string) {
	if !counted {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors[code]++
}

func (r *recorder) openAt(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begin = t
}

func (r *recorder) closeAt(t time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = t
}

func clamp(d time.Duration) int64 { return min(max(d.Microseconds(), lowest), highest) }

func (r *recorder) report(cfg Config, u *usage) *Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := &Report{
		Mode: "closed", InFlight: cfg.InFlight, Created: r.made, Completed: r.done,
		CreateMS: quantiles(r.create), CompleteMS: quantiles(r.complete),
		RSSMiB: u.atEnd, RSSMiBAt10s: u.at10s, RSSMiBMax: u.highest, Errors: r.errors,
	}
	if cfg.Rate > 0 {
		rep.Mode, rep.Rate = "open", cfg.Rate
	}
	if !r.begin.IsZero() {
		rep.Seconds = r.end.Sub(r.begin).Seconds()
	}
	if rep.Seconds > 0 {
		rep.CreatedPerSecond = float64(r.made) / rep.Seconds
		rep.CompletedPerSecond = float64(r.done) / rep.Seconds
	}
	if r.done > 0 {
		rep.CPUSecondsPer1000 = u.cpu.Seconds() / float64(r.done) * 1000
		rep.MachineCPUPer1000 = u.machine.Seconds() / float64(r.done) * 1000
	}
	return rep
}

func quantiles(h *hdrhistogram.Histogram) Quantiles {
	ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1e3 }
	return Quantiles{P50: ms(50), P95: ms(95), P99: ms(99), Max: float64(h.Max()) / 1e3}
}
