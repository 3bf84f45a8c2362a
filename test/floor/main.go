// Command floor measures what the bare shape of Waybill's saga costs on the machine
// at hand: five services in one process, each with a database of its own, an embedded
// broker between them, and batches that are formed by draining what has come. One
// transaction of two round trips takes a batch through inbox, state and outbox; a relay
// publishes from memory. It is the limit that Waybill's own figures are held against,
// because figures of two machines, or of two hours, say nothing about each other:
//
//	go run ./test/floor --in-flight 1000 --duration 10s [--db postgres://…]
//	waybill load --self --in-flight 1000 --duration 10s [--db postgres://…]
//
// A saga is six steps and a notification: 7 transactions and 6 events. Left out is all
// that makes a product of it: gRPC, JSON, validation, identity, tracing, calls to the
// outside, money, retries, compensation, recovery after a crash. It stands on the bare
// libraries and imports nothing of Waybill, so that a fault of the platform cannot hide
// in both. In the end it counts the rows of every service and exits with 1 unless each
// saga went through each step exactly once.
//
// On PostgreSQL it drops and makes the schemas floor_order, floor_inventory and so on.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/nats-io/nats-server/v2/server"
)

// settle is how long sagas may take to end after the last was placed.
const settle = 30 * time.Second

type config struct {
	db                     string // "" is SQLite in a folder that is thrown away
	inFlight, batch        int
	warmup, duration, sync time.Duration
}

// A report is what a run measured.
type report struct {
	Store             string  `json:"store"`
	InFlight          int     `json:"in_flight"`
	Sagas             int64   `json:"sagas"` // completed within the measured time
	PerSecond         float64 `json:"sagas_per_second"`
	P50               float64 `json:"p50_ms"` // from create to completed
	P99               float64 `json:"p99_ms"`
	CPUPer1000        float64 `json:"cpu_seconds_per_1000"`         // of this process
	MachineCPUPer1000 float64 `json:"machine_cpu_seconds_per_1000"` // of the whole machine, 0 where unknown
}

func main() {
	var cfg config
	flag.StringVar(&cfg.db, "db", "", "postgres:// `URL` of a database (default: SQLite in a temporary folder)")
	flag.IntVar(&cfg.inFlight, "in-flight", 1000, "sagas under way at any time")
	flag.IntVar(&cfg.batch, "batch", 128, "messages in one transaction at most")
	flag.DurationVar(&cfg.warmup, "warmup", 2*time.Second, "time before anything is counted")
	flag.DurationVar(&cfg.duration, "duration", 10*time.Second, "time that is measured")
	flag.DurationVar(&cfg.sync, "sync", 100*time.Millisecond, "how often the broker forces its files to disk")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(300) // as Waybill does when it serves
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	r, err := run(ctx, cfg)
	stop()
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "floor:", err)
		os.Exit(1)
	case *asJSON:
		_ = json.NewEncoder(os.Stdout).Encode(r)
	default:
		fmt.Fprintf(os.Stdout, "floor on %s, %d in flight: %.0f sagas/s, p50 %.1f ms, p99 %.1f ms; CPU s per 1,000: process %.2f, machine %.2f\n",
			r.Store, r.InFlight, r.PerSecond, r.P50, r.P99, r.CPUPer1000, r.MachineCPUPer1000)
	}
}

// run starts the services, puts them under load and holds what they stored against
// what was placed.
func run(ctx context.Context, cfg config) (*report, error) {
	if cfg.inFlight < 1 || cfg.batch < 1 || cfg.duration <= 0 || cfg.warmup < 0 {
		return nil, errors.New("in-flight, batch and duration must be positive")
	}
	dir, err := os.MkdirTemp("", "floor-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	broker, err := server.NewServer(&server.Options{
		DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: dir, SyncInterval: cfg.sync,
	})
	if err != nil {
		return nil, err
	}
	defer broker.WaitForShutdown()
	defer broker.Shutdown()
	broker.Start()
	if !broker.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("the broker does not start")
	}

	ctx, fail := context.WithCancelCause(ctx)
	var services []*service
	defer func() {
		for _, s := range services {
			s.close()
		}
	}()
	var running sync.WaitGroup
	defer running.Wait()
	defer fail(nil)
	l := &load{placed: map[id]placement{}, latency: hdrhistogram.New(1, time.Minute.Microseconds(), 3)}
	if services, err = startServices(ctx, cfg, dir, broker, l.committed, &running, fail); err != nil {
		return nil, err
	}

	placing, stopPlacing := context.WithCancel(ctx)
	defer stopPlacing()
	var slots sync.WaitGroup
	for range cfg.inFlight {
		slots.Go(func() { l.slot(ctx, placing, services[0].in) })
	}
	pause(ctx, cfg.warmup)
	begin := l.count(true)
	pause(ctx, cfg.duration)
	end := l.count(false)
	stopPlacing()
	late := time.AfterFunc(settle, func() { fail(fmt.Errorf("not all is through after %s", settle)) })
	defer late.Stop()
	slots.Wait()
	for {
		err := check(services, l.created)
		switch {
		case ctx.Err() != nil:
			return nil, errors.Join(context.Cause(ctx), err)
		case err == nil:
			return l.report(cfg, begin, end), nil
		}
		pause(ctx, 100*time.Millisecond) // for notifications, and for outboxes to be emptied
	}
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// check says what in the tables is not as so many sagas must have left it.
func check(services []*service, sagas int64) (wrong error) {
	for _, s := range services {
		var steps int64
		var last string
		for i := range saga {
			if saga[i].service == s.name {
				steps, last = steps+1, saga[i].to
			}
		}
		got, err := s.store.count(last, steps)
		want := counts{inbox: steps * sagas, states: sagas, complete: sagas}
		if err == nil && got != want {
			err = fmt.Errorf("of %d sagas: %+v, want %+v", sagas, got, want)
		}
		if err != nil {
			wrong = errors.Join(wrong, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return wrong
}

// load is a closed loop and what it measures.
type load struct {
	mu                 sync.Mutex
	placed             map[id]placement // sagas under way
	created, completed int64
	counting           bool                    // of what is placed now, the latency
	latency            *hdrhistogram.Histogram // in µs
}

type placement struct {
	at      time.Time
	counted bool
	told    chan<- struct{}
}

// slot keeps one saga under way.
func (l *load) slot(ctx, placing context.Context, orders chan<- message) {
	told := make(chan struct{}, 2)
	for placing.Err() == nil {
		m := message{event: newID(), saga: newID(), step: &saga[0], told: told}
		l.mu.Lock()
		l.created++
		l.placed[m.saga] = placement{time.Now(), l.counting, told}
		l.mu.Unlock()
		select {
		case orders <- m:
		case <-ctx.Done():
			return
		}
		for range 2 { // its first commit, which a caller would wait for, and its last
			select {
			case <-told:
			case <-ctx.Done():
				return
			}
		}
	}
}

// committed hears from the order service what it has stored.
func (l *load) committed(batch []message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for i := range batch {
		m := &batch[i]
		if m.told != nil {
			m.told <- struct{}{}
			continue
		}
		p, ok := l.placed[m.saga]
		if !ok {
			continue // a duplicate
		}
		delete(l.placed, m.saga)
		p.told <- struct{}{}
		l.completed++
		if p.counted {
			_ = l.latency.RecordValue(max(1, now.Sub(p.at).Microseconds()))
		}
	}
}

// A mark is how far everything had come at one time.
type mark struct {
	at           time.Time
	completed    int64
	cpu, machine time.Duration
}

// count begins or ends the measured time.
func (l *load) count(on bool) mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counting = on
	return mark{time.Now(), l.completed, processCPU(), machineCPU()}
}

// report tells what happened between two marks, and the latency of what was placed
// between them.
func (l *load) report(cfg config, a, b mark) *report {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := b.completed - a.completed
	thousands := float64(max(n, 1)) / 1000
	r := &report{
		Store: "SQLite", InFlight: cfg.inFlight, Sagas: n, PerSecond: float64(n) / b.at.Sub(a.at).Seconds(),
		P50: float64(l.latency.ValueAtQuantile(50)) / 1e3, P99: float64(l.latency.ValueAtQuantile(99)) / 1e3,
		CPUPer1000: (b.cpu - a.cpu).Seconds() / thousands, MachineCPUPer1000: (b.machine - a.machine).Seconds() / thousands,
	}
	if cfg.db != "" {
		r.Store = "Postgres"
	}
	return r
}

func processCPU() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// machineCPU gives the busy time of all cores, which counts a database beside this
// process, or 0 where there is no /proc/stat.
func machineCPU() (busy time.Duration) {
	data, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(data), "\n")
	fields := strings.Fields(line)
	if len(fields) < 8 || fields[0] != "cpu" {
		return 0
	}
	for i, f := range fields[1:8] {
		if i == 3 || i == 4 {
			continue // idle, iowait
		}
		ticks, _ := strconv.ParseInt(f, 10, 64)
		busy += time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100 on every Linux that Go runs on
	}
	return busy
}
