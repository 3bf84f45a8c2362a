// Package load puts a running Waybill under load and measures what its users
// would notice: how long it takes to place an order, and until its saga is over.
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// Config says what load to make. Exactly one of InFlight and Rate is set.
type Config struct {
	// InFlight is a closed loop: so many orders are under way at any time, and the
	// next is placed when one is over.
	InFlight int
	// Rate is an open loop: so many orders are placed each second, whatever happens
	// to them. Latency counts from when an order should have been placed.
	Rate float64
	// Duration is how long orders are placed; those under way at its end are waited for.
	Duration time.Duration
	// Settle bounds that wait.
	Settle time.Duration
	// Warmup is how long orders are placed before anything is counted.
	Warmup time.Duration
	// Tokens are the payment tokens orders are paid with, in turn.
	Tokens []string

	// Conns are channels to the server; the load is spread over them.
	Conns []grpc.ClientConnInterface
	// Customers place the orders, in turn. Before the run they have none.
	Customers []*Customer
	// Products are what is ordered.
	Products []*inventoryv1.Product

	// Tick, if set, is called once a second.
	Tick func(Progress)
}

// Progress is how far a run has come.
type Progress struct {
	Elapsed, Of        time.Duration
	Created, Completed int64 // since the start
	CreatedPerSecond   float64
	CompletedPerSecond float64
	InFlight           int64
	Errors             int64
	RSSMiB             float64
}

// runner is one run.
type runner struct {
	cfg      Config
	watchers []*watcher
	orders   []orderv1.OrderServiceClient
	next     atomic.Uint64

	counting  atomic.Bool
	measured  *recorder
	inFlight  atomic.Int64
	allMade   atomic.Int64
	allDone   atomic.Int64
	allFailed atomic.Int64
}

// Run makes the load and reports what it measured, and what it placed. It ends
// early when ctx does, with what it has.
func Run(ctx context.Context, cfg Config) (*Report, *Placed, error) {
	if err := cfg.check(); err != nil {
		return nil, nil, err
	}
	r := &runner{cfg: cfg, measured: newRecorder()}
	watchCtx, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWatching()
	for _, c := range cfg.Conns {
		r.orders = append(r.orders, orderv1.NewOrderServiceClient(c))
	}
	for i, c := range cfg.Customers {
		r.watchers = append(r.watchers, watch(watchCtx, orderv1.NewOrderServiceClient(cfg.Conns[i%len(cfg.Conns)]), c))
	}

	placing, stopPlacing := context.WithTimeout(ctx, cfg.Warmup+cfg.Duration)
	defer stopPlacing()
	begin := time.Now()
	usage := startUsage()
	if cfg.Warmup == 0 {
		r.measured.openAt(begin)
		r.counting.Store(true)
	} else {
		timer := time.AfterFunc(cfg.Warmup, func() {
			usage.restart()
			r.measured.openAt(time.Now())
			r.counting.Store(true)
		})
		defer timer.Stop()
	}
	live := make(chan struct{})
	var liveDone sync.WaitGroup
	liveDone.Go(func() { r.live(live, begin, usage) })

	settled, cancelSettle := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelSettle()
	var pending sync.WaitGroup
	if cfg.InFlight > 0 {
		for range cfg.InFlight {
			pending.Go(func() {
				for placing.Err() == nil {
					r.one(settled, time.Now())
				}
			})
		}
	} else {
		r.openLoop(placing, settled, &pending)
	}
	<-placing.Done()
	r.counting.Store(false)
	usage.stop()
	r.measured.closeAt(time.Now())
	timer := time.AfterFunc(cfg.Settle, cancelSettle)
	pending.Wait()
	timer.Stop()
	close(live)
	liveDone.Wait()
	if ctx.Err() != nil && !errors.Is(ctx.Err(), context.Canceled) {
		return nil, nil, ctx.Err()
	}
	return r.measured.report(cfg, usage), &Placed{r}, nil
}

func (c *Config) check() error {
	switch {
	case (c.InFlight > 0) == (c.Rate > 0):
		return errors.New("say either how many orders are in flight or how many are placed each second")
	case c.Duration <= 0:
		return errors.New("the duration must be positive")
	case len(c.Conns) == 0 || len(c.Customers) == 0 || len(c.Products) == 0:
		return errors.New("a connection, a customer and a product are needed at least")
	}
	if len(c.Tokens) == 0 {
		c.Tokens = []string{"tok_ok"}
	}
	if c.Settle <= 0 {
		c.Settle = 30 * time.Second
	}
	return nil
}

// openLoop starts an order whenever one is due and never waits for one.
func (r *runner) openLoop(placing, settled context.Context, pending *sync.WaitGroup) {
	gap := time.Duration(float64(time.Second) / r.cfg.Rate)
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		due := begin.Add(time.Duration(n) * gap)
		if wait := time.Until(due); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-placing.Done():
				return
			}
		}
		if placing.Err() != nil {
			return
		}
		pending.Go(func() { r.one(settled, due) })
	}
}

// one places an order that was due at a certain time and waits for its end.
func (r *runner) one(ctx context.Context, due time.Time) {
	n := r.next.Add(1)
	w := r.watchers[n%uint64(len(r.watchers))]
	counted := r.counting.Load()
	r.inFlight.Add(1)
	defer r.inFlight.Add(-1)

	call, cancel := context.WithTimeout(w.customer.Context(ctx), 30*time.Second)
	req := r.request(n)
	order, err := r.orders[n%uint64(len(r.orders))].CreateOrder(call, req)
	cancel()
	w.ledger.note(req.GetRequestId(), order.GetOrderId(), err)
	if err != nil {
		if ctx.Err() == nil {
			r.allFailed.Add(1)
			r.measured.failed(counted, status.Code(err).String())
			if !pause(ctx, 10*time.Millisecond) { // do not spin on a server that refuses
				return
			}
		}
		return
	}
	r.allMade.Add(1)
	now := time.Now()
	r.measured.created(counted, now.Sub(due), now)
	over, err := w.wait(ctx, order.GetOrderId())
	if err != nil {
		r.allFailed.Add(1)
		r.measured.failed(counted, "NotCompleted")
		return
	}
	r.allDone.Add(1)
	r.measured.completed(counted, over.Sub(due), over)
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *runner) request(n uint64) *orderv1.CreateOrderRequest {
	p := r.cfg.Products[rand.N(len(r.cfg.Products))]
	return &orderv1.CreateOrderRequest{
		RequestId:    uuid.NewString(),
		Lines:        []*orderv1.CreateOrderLine{{ProductId: p.GetProductId(), Quantity: 1}},
		PaymentToken: r.cfg.Tokens[n%uint64(len(r.cfg.Tokens))],
		ShipTo: &typev1.Address{
			Recipient: "Load Test", Lines: []string{"1 Long Road"}, Locality: "Springfield", PostalCode: "12345", RegionCode: "US",
		},
	}
}

func (r *runner) live(end <-chan struct{}, begin time.Time, u *usage) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var made, done int64
	last := begin
	for {
		select {
		case <-end:
			return
		case now := <-tick.C:
			u.sample(now.Sub(begin))
			if r.cfg.Tick == nil {
				continue
			}
			p := Progress{
				Elapsed: now.Sub(begin), Of: r.cfg.Warmup + r.cfg.Duration,
				Created: r.allMade.Load(), Completed: r.allDone.Load(), InFlight: r.inFlight.Load(), Errors: r.allFailed.Load(), RSSMiB: u.rss(),
			}
			seconds := now.Sub(last).Seconds()
			p.CreatedPerSecond, p.CompletedPerSecond = float64(p.Created-made)/seconds, float64(p.Completed-done)/seconds
			made, done, last = p.Created, p.Completed, now
			r.cfg.Tick(p)
		}
	}
}

// String gives the progress in one line.
func (p Progress) String() string {
	return fmt.Sprintf("%3.0f s of %.0f s  created %7d (%6.0f/s)  completed %7d (%6.0f/s)  in flight %5d  errors %d  rss %.0f MiB",
		p.Elapsed.Seconds(), p.Of.Seconds(), p.Created, p.CreatedPerSecond, p.Completed, p.CompletedPerSecond, p.InFlight, p.Errors, p.RSSMiB)
}
