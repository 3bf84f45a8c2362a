package sim

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/inventory/inventoryd"
	"github.com/waybill-dev/waybill/services/order/orderd"
	"github.com/waybill-dev/waybill/services/payment/paymentd"
	"github.com/waybill-dev/waybill/services/shipping/shippingd"
)

// notices is the secret with which the bank signs.
const notices = "simulated-secret"

// service is one service: its database, which survives everything, and the
// processes that serve it.
type service struct {
	w        *world
	name     string
	mem      *sqldb.Memory
	replicas []*process

	// What its outbox holds, read after each commit, and what is marked.
	rows    []*row
	read    int
	pending map[int64]*row
	lease   lease
	acked   uint64         // highest sequence number of the stream that is marked
	taken   map[int64]bool // by any relay, for the mutant TwoRelays
	said    map[string]map[string]int
	hears   []string
}

// row is one event in an outbox.
type row struct {
	*outbox.Event
	marked bool
}

// process is one replica of a service.
type process struct {
	*service
	id    string
	life  int // counts its starts
	up    bool
	still time.Time // until when it does not move
	skew  time.Duration

	ctx      context.Context //nolint:containedctx // the life of the process
	cancel   context.CancelFunc
	drive    *react.Driver
	server   any // the gRPC server
	relay    *relay
	calls    *calls
	commands []*command
	soon     bool // a batch is on the agenda

	// Of the batch at work.
	doom     doom
	loads    int
	visiting bool // another process's batch runs within it
}

// doom is what is to go wrong with a batch.
type doom struct {
	at    sqldb.Moment
	crash bool
	err   error
}

// crashed is what a dying process panics with.
type crashed struct{ p *process }

func (w *world) newService(name string, replicas int) *service {
	s := &service{w: w, name: name, mem: sqldb.NewMemory(), pending: map[int64]*row{}, taken: map[int64]bool{}, said: map[string]map[string]int{}}
	s.mem.Hook = s.hook
	w.mutate(s)
	for i := range replicas {
		p := &process{service: s, id: fmt.Sprintf("%s-%d", name, i+1)}
		if w.rates.skew > 0 {
			p.skew = time.Duration((w.fate.Float64()*2 - 1) * float64(w.rates.skew))
		}
		s.replicas = append(s.replicas, p)
	}
	w.services = append(w.services, s)
	return s
}

func (w *world) service(name string) *service {
	for _, s := range w.services {
		if s.name == name {
			return s
		}
	}
	return nil
}

// clock is what the process takes for the time.
func (p *process) clock() time.Time { return p.w.now.Add(p.skew) }

// env is the ground the service is built on, as in a real process but for the
// reactor, which is driven by hand.
func (p *process) env() *app.Env {
	return &app.Env{
		Log:    slog.New(&alarms{p}),
		OpenDB: func(context.Context, string) (*sqldb.DB, error) { return p.mem.Open(), nil },
		Conn:   func(_, to string) grpc.ClientConnInterface { return &line{p.w, to} },
		NewReactor: func(cfg react.Config) (*react.Reactor, error) {
			drive, r, err := react.NewDriver(cfg, p.committed)
			p.drive = drive
			return r, err
		},
		Now:      p.clock,
		NewID:    func() string { return p.w.newID(p.clock()) },
		Owner:    p.id,
		MaxBatch: p.w.maxBatch(),
	}
}

// start builds the process anew on what the database holds.
func (p *process) start() {
	p.life++
	p.ctx, p.cancel = context.WithCancel(context.Background())
	var unit *app.Unit
	var err error
	switch p.name {
	case "inventory":
		cfg := inventoryd.DefaultConfig()
		cfg.HoldTTL = p.w.holdTTL()
		unit, err = inventoryd.New(p.ctx, p.env(), cfg)
	case "order":
		cfg := orderd.DefaultConfig()
		cfg.Deadline = p.w.deadlines()
		unit, err = orderd.New(p.ctx, p.env(), cfg)
	case "payment":
		cfg := paymentd.DefaultConfig()
		cfg.WebhookSecret = notices
		unit, err = paymentd.NewWith(p.ctx, p.env(), cfg, p.w.bank)
	case "shipping":
		cfg := shippingd.DefaultConfig()
		cfg.ScanEvery = 45 * time.Second
		unit, err = shippingd.NewWith(p.ctx, p.env(), cfg, p.w.carrier)
	}
	if err != nil {
		panic(fmt.Sprintf("sim: %s cannot be built: %v", p.id, err)) // the world's own mistake
	}
	unit.Register(registrar{p})
	p.up, p.soon, p.commands = true, false, nil
	p.hears = p.drive.Hears()
	p.relay, p.calls = newRelay(p), newCalls(p)
	p.w.note("start", p.id)
	p.relay.begin()
	p.calls.begin()
	for _, s := range p.drive.Sweeps() {
		if strings.Contains(s.Name, "deadlines") || strings.Contains(s.Name, "holds") {
			p.sweep(s)
		}
	}
}

// registrar catches the server that the service registers.
type registrar struct{ p *process }

// RegisterService implements grpc.ServiceRegistrar.
func (r registrar) RegisterService(_ *grpc.ServiceDesc, impl any) { r.p.server = impl }

// stop ends the process at once; what it had in memory is lost.
func (p *process) stop() {
	p.up = false
	p.life++
	p.drive.Abandon(p.cancel)
	p.reap()
}

// crash ends the process and has it come back.
func (p *process) crash(how string) {
	p.w.count("crash " + how)
	p.w.note("crash", p.id, how)
	p.stop()
	p.w.after(p.w.between(200*time.Millisecond, 20*time.Second), func() {
		if !p.up {
			p.start()
		}
	})
}

// sweep looks for what is due, again and again.
func (p *process) sweep(s react.Sweep) {
	if p.w.opt.Mutant == NoSweeper {
		return
	}
	p.w.in(p, p.w.between(time.Second, 15*time.Second), func() {
		n, err := p.drive.Due(p.ctx, s)
		if err != nil {
			p.w.violated("simulator", "", "%s: %v", s.Name, err)
		}
		if n > 0 {
			p.w.count("swept")
			p.work()
		}
		p.sweep(s)
	})
}

// work has a batch done soon.
func (p *process) work() {
	if p.soon || !p.up {
		return
	}
	p.soon = true
	p.w.in(p, p.w.between(time.Millisecond, 30*time.Millisecond), p.batch)
}

// batch does what is queued.
func (p *process) batch() {
	p.soon = false
	if p.visiting || p.drive.Waiting() == 0 {
		return
	}
	w := p.w
	if w.chance(w.rates.pause) {
		w.count("pause")
		p.still = w.now.Add(w.between(time.Second, 40*time.Second))
		p.work()
		return
	}
	p.doom, p.loads = p.fateOf(), 0
	w.batches++
	w.note("batch", p.id)
	if p.drive.Waiting() > 1 {
		w.count("batch of several")
	}
	p.run()
	if p.up && p.drive.Waiting() > 0 {
		p.work()
	}
	if w.batches%checkEvery == 0 {
		if err := w.check(); err != nil {
			w.violated("simulator", "", "%v", err)
		}
	}
}

// fateOf decides what goes wrong with a batch.
func (p *process) fateOf() doom {
	w := p.w
	moments := []sqldb.Moment{sqldb.Loaded, sqldb.Written, sqldb.Kept}
	switch {
	case w.chance(w.rates.crash):
		return doom{at: moments[w.fate.IntN(3)], crash: true}
	case w.chance(w.rates.serialization):
		return doom{at: sqldb.Written, err: sqldb.ErrSerialization}
	case w.chance(w.rates.away):
		return doom{at: sqldb.Loaded, err: sqldb.ErrUnavailable}
	case w.chance(w.rates.ambiguous):
		return doom{at: moments[1+w.fate.IntN(2)], err: errAmbiguous}
	}
	return doom{}
}

// errAmbiguous is the end of a connection during COMMIT.
var errAmbiguous = fmt.Errorf("%w: %w", sqldb.ErrCommitUnknown, sqldb.ErrUnavailable)

func (p *process) run() {
	defer func() {
		if x := recover(); x != nil {
			c, ok := x.(crashed)
			if !ok || c.p != p {
				panic(x)
			}
			p.crash([...]string{"", "before the writes", "before the commit", "after the commit"}[p.doom.at])
			return
		}
		p.reap()
	}()
	p.w.working = append(p.w.working, p)
	defer func() { p.w.working = p.w.working[:len(p.w.working)-1] }()
	p.drive.Run(1 << 20)
}

// hook is called at the moments of each transaction.
func (s *service) hook(m sqldb.Moment) error {
	w := s.w
	if m == sqldb.Kept {
		s.readOutbox()
	}
	if len(w.working) == 0 {
		return nil
	}
	p := w.working[len(w.working)-1]
	if p.service != s {
		return nil
	}
	if m == sqldb.Loaded {
		p.loads++
		if p.loads == 1 {
			p.visit()
		}
	}
	if d := p.doom; d.at == m {
		if !d.crash {
			p.doom = doom{}
			w.count(map[error]string{errAmbiguous: "ambiguous commit", sqldb.ErrSerialization: "serialization failure", sqldb.ErrUnavailable: "database away"}[d.err])
			w.note("database", p.id, d.err.Error())
			return d.err
		}
		panic(crashed{p})
	}
	return nil
}

// visit lets another replica do its batch in the middle of this one.
func (p *process) visit() {
	w := p.w
	if len(w.working) > 1 || !w.chance(w.rates.race) {
		return
	}
	for _, other := range p.replicas {
		if other != p && other.up && !w.now.Before(other.still) && other.drive.Waiting() > 0 {
			w.count("transactions that met")
			w.note("meets", other.id)
			p.visiting = true
			other.doom, other.loads = other.fateOf(), 1
			other.run()
			if other.up {
				other.work()
			}
			p.visiting = false
			return
		}
	}
}

// readOutbox takes note of events that were committed.
func (s *service) readOutbox() {
	next, err := s.mem.Tail("outbox", s.read, func(seq int64, r sqldb.Scanner) error {
		e := &outbox.Event{Seq: seq}
		if err := r.Scan(&e.ID, &e.Type, &e.AggregateID, &e.Version, &e.Cause, &e.Hops, &e.Traceparent, &e.Payload, &e.Time); err != nil {
			return err
		}
		x := &row{Event: e}
		s.rows = append(s.rows, x)
		s.pending[seq] = x
		s.w.note("event", e.Type, e.AggregateID, fmt.Sprint(e.Version))
		s.w.witness(s, e)
		return nil
	})
	if err != nil {
		s.w.violated("simulator", "", "the outbox of %s: %v", s.name, err)
	}
	s.read = next
}

// committed hears of what a batch has left, as the relay and the calls do.
func (p *process) committed(events []*outbox.Event, effects []*effect.Call) {
	p.relay.take(events)
	p.calls.take(effects)
}

// alarms is a log in which every error is a violation: a service only logs one
// when something happened that must not.
type alarms struct{ p *process }

// Enabled implements slog.Handler.
func (a *alarms) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }

// Handle implements slog.Handler.
func (a *alarms) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "is not trusted") {
		return nil // which is what an answer that is nonsense deserves
	}
	var order string
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(x slog.Attr) bool {
		switch x.Key {
		case "order_id":
			order = x.Value.String()
		case "trace_id", "payment_id", "shipment_id":
		default:
			fmt.Fprintf(&b, " %s=%v", x.Key, x.Value)
		}
		return true
	})
	a.p.w.violated("alarm", order, "of %s: %s", a.p.name, b.String())
	return nil
}

// WithAttrs implements slog.Handler.
func (a *alarms) WithAttrs([]slog.Attr) slog.Handler { return a }

// WithGroup implements slog.Handler.
func (a *alarms) WithGroup(string) slog.Handler { return a }
