// Package balance chooses a server for each call. It is gRPC's round_robin over
// the servers whose connection and health are good, and two things more:
//
//   - A server that fails calls while the others do not gets none for a while.
//     Only failures that are a server's fault count, and only against what the
//     others do in the same time, so that neither bad requests nor a database
//     that all of them miss takes servers away.
//   - Calls that wait for a server do so for a limited time. A restart passes
//     unnoticed; when nobody has been there for longer than Patience, calls fail
//     at once, with the reason, instead of piling up until their deadlines.
package balance

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/roundrobin"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"
	"google.golang.org/grpc/status"
)

// Name is the policy's name in a service config.
const Name = "waybill_balance"

// Config is the policy's part of a service config; durations are nanoseconds.
// Zero takes the default in the comment.
type Config struct {
	serviceconfig.LoadBalancingConfig `json:"-"`

	Patience time.Duration `json:"patience,omitempty"` // how long calls wait while no server is ready: until their deadline
	Interval time.Duration `json:"interval,omitempty"` // between two judgements, at the most: 5 s
	Calls    int64         `json:"calls,omitempty"`    // fewer than these are not judged, and that many failures in a row at once: 10
	Ejection time.Duration `json:"ejection,omitempty"` // how long a server is left alone the first time: 10 s, doubled each time up to 16-fold
}

// gRPC finds policies by name and wants them registered before the first client.
func init() { balancer.Register(builder{}) } //nolint:gochecknoinits // the only way gRPC has

type builder struct{}

// Name implements balancer.Builder.
func (builder) Name() string { return Name }

// Build implements balancer.Builder.
func (builder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	c := &conn{ClientConn: cc, servers: map[balancer.SubConn]*server{}, away: time.Now()}
	return &policy{Balancer: balancer.Get(roundrobin.Name).Build(c, opts), conn: c}
}

// ParseConfig implements balancer.ConfigParser.
func (builder) ParseConfig(text json.RawMessage) (serviceconfig.LoadBalancingConfig, error) {
	var c Config
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("balance: %w", err)
	}
	if c.Patience < 0 || c.Interval < 0 || c.Calls < 0 || c.Ejection < 0 {
		return nil, errors.New("balance: a setting is negative")
	}
	if c.Interval == 0 {
		c.Interval = 5 * time.Second
	}
	if c.Calls == 0 {
		c.Calls = 10
	}
	if c.Ejection == 0 {
		c.Ejection = 10 * time.Second
	}
	return &c, nil
}

// policy is round_robin on a conn of ours.
type policy struct {
	balancer.Balancer
	conn *conn
}

// UpdateClientConnState implements balancer.Balancer.
func (p *policy) UpdateClientConnState(s balancer.ClientConnState) error {
	if c, ok := s.BalancerConfig.(*Config); ok {
		p.conn.mu.Lock()
		p.conn.cfg, p.conn.lookup = *c, nil
		p.conn.mu.Unlock()
	}
	s.BalancerConfig = nil
	return p.Balancer.UpdateClientConnState(s)
}

// ResolverError implements balancer.Balancer.
func (p *policy) ResolverError(err error) {
	p.conn.mu.Lock()
	p.conn.lookup = err
	p.conn.mu.Unlock()
	p.Balancer.ResolverError(err)
}

// Close implements balancer.Balancer.
func (p *policy) Close() {
	p.conn.close()
	p.Balancer.Close()
}

// conn stands between round_robin and gRPC: it sees every connection that is
// made and every picker that is handed up.
type conn struct {
	balancer.ClientConn

	judged atomic.Int64 // when servers are judged next, nanoseconds
	out    atomic.Int64 // until when some server is ejected

	mu      sync.Mutex
	cfg     Config
	servers map[balancer.SubConn]*server
	gone    tally // of servers that are no more
	last    balancer.State
	lookup  error       // why nothing new is known of where the servers are
	away    time.Time   // since when no server is ready; zero when one is
	timer   *time.Timer // runs while calls wait
	closed  bool
}

// NewSubConn implements balancer.ClientConn.
func (c *conn) NewSubConn(addrs []resolver.Address, opts balancer.NewSubConnOptions) (balancer.SubConn, error) {
	s := &server{conn: c}
	s.count = s.done
	s.resting.Store(true)
	var sub balancer.SubConn
	told := opts.StateListener
	opts.StateListener = func(state balancer.SubConnState) {
		if state.ConnectivityState == connectivity.Shutdown {
			c.remove(sub)
		}
		told(state)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if sub, err = c.ClientConn.NewSubConn(addrs, opts); err != nil { //nolint:staticcheck // there is no other way to make one
		return nil, err
	}
	c.servers[sub] = s
	return sub, nil
}

// remove forgets a server, not what it did.
func (c *conn) remove(sub balancer.SubConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.servers[sub]; s != nil {
		c.gone = c.gone.plus(s.tally())
		delete(c.servers, sub)
	}
}

// UpdateState implements balancer.ClientConn.
func (c *conn) UpdateState(s balancer.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = s
	c.push()
}

// push hands the latest state up, with a picker of ours. The caller holds c.mu.
func (c *conn) push() {
	if c.closed {
		return
	}
	up := c.last
	if up.ConnectivityState == connectivity.Ready {
		c.away = time.Time{}
		if c.timer != nil {
			c.timer.Stop()
			c.timer = nil
		}
		up.Picker = &picker{up.Picker, c, maps.Clone(c.servers)}
		c.ClientConn.UpdateState(up)
		return
	}
	if c.away.IsZero() {
		c.away = time.Now()
	}
	if c.cfg.Patience > 0 {
		if left := c.cfg.Patience - time.Since(c.away); left <= 0 {
			up.Picker = impatient{up.Picker, c.lookup}
		} else if c.timer == nil {
			c.timer = time.AfterFunc(left, func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.timer = nil; !c.away.IsZero() {
					c.push()
				}
			})
		}
	}
	c.ClientConn.UpdateState(up)
}

func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
}

// total is what came of all calls. The caller holds c.mu.
func (c *conn) total() tally {
	all := c.gone
	for _, s := range c.servers {
		all = all.plus(s.tally())
	}
	return all
}

// look judges, when it is time, every server by its calls since the last look.
func (c *conn) look() {
	now := time.Now().UnixNano()
	if next := c.judged.Load(); now < next || !c.judged.CompareAndSwap(next, now+int64(time.Second)) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judged.Store(now + int64(c.cfg.Interval))
	all := c.total()
	for _, s := range c.servers {
		if s.resting.Load() {
			continue
		}
		own, others := s.since(s.looked, all)
		s.looked = mark{s.tally(), all}
		switch {
		case own.calls() < c.cfg.Calls:
		case own.bad < own.good:
			s.strikes = max(0, s.strikes-1)
		default:
			c.eject(s, own, others, now)
		}
	}
}

// failed counts a failure of s, and judges it by every Calls in a row: it may have
// been well just before, which helps nobody now.
func (c *conn) failed(s *server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	row := s.row.Add(1)
	if row == 1 {
		s.failing = mark{s.tally(), c.total()}
	}
	s.bad.Add(1)
	if row%max(1, c.cfg.Calls) != 0 {
		return
	}
	all := c.total()
	own, others := s.since(s.failing, all)
	if others.calls() >= c.cfg.Calls {
		c.eject(s, own, others, time.Now().UnixNano())
		s.failing = mark{s.tally(), all}
	}
}

// eject leaves s alone for a while if it failed twice as large a share of its calls
// as the others did in the same time, but never more than half of all servers. The
// caller holds c.mu.
func (c *conn) eject(s *server, own, others tally, now int64) {
	out := 1
	for _, o := range c.servers {
		if o.until.Load() > now {
			out++
		}
	}
	alike := others.bad*2*own.calls() > own.bad*others.calls()
	if alike || others.calls() < c.cfg.Calls || out*2 > len(c.servers) {
		return
	}
	until := now + int64(c.cfg.Ejection)<<min(s.strikes, 4)
	s.strikes++
	s.resting.Store(true)
	s.until.Store(until)
	c.out.Store(max(c.out.Load(), until))
}

// begin tells whether the calls of s, which was resting, count again.
func (c *conn) begin(s *server) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.resting.Load() {
		return true
	}
	if s.until.Load() > time.Now().UnixNano() {
		return false // the call was begun before, or there was no other server
	}
	// What the others did while it was away is not compared with what it does now.
	s.looked = mark{s.tally(), c.total()}
	s.row.Store(0)
	s.resting.Store(false)
	return true
}

// tally counts calls by what came of them.
type tally struct{ good, bad int64 }

func (t tally) calls() int64       { return t.good + t.bad }
func (t tally) plus(u tally) tally { return tally{t.good + u.good, t.bad + u.bad} }
func (t tally) less(u tally) tally { return tally{t.good - u.good, t.bad - u.bad} }

// mark is what a server and all of them had done at some time.
type mark struct{ own, all tally }

// server is one connection and what came of its calls.
type server struct {
	conn      *conn
	count     func(balancer.DoneInfo)
	good, bad atomic.Int64
	row       atomic.Int64 // failures since the last success
	until     atomic.Int64 // it is ejected, nanoseconds
	resting   atomic.Bool  // it is new or was ejected, and its calls do not count yet

	// Guarded by conn.mu.
	looked  mark // at the last look, or when it began
	failing mark // before the row's first failure, or when it was last judged by the row
	strikes int  // how often it was ejected, less the looks at which it did well since
}

func (s *server) tally() tally { return tally{s.good.Load(), s.bad.Load()} }

// since gives what the server and the others did from m until all was counted.
func (s *server) since(m mark, all tally) (own, others tally) {
	own = s.tally().less(m.own)
	return own, all.less(m.all).less(own)
}

func (s *server) done(info balancer.DoneInfo) {
	if s.resting.Load() && !s.conn.begin(s) {
		return
	}
	switch status.Code(info.Err) {
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded:
		s.conn.failed(s)
	default:
		s.good.Add(1)
		s.row.Store(0)
	}
	s.conn.look()
}

// picker is round_robin's, past those that are ejected.
type picker struct {
	balancer.Picker
	conn    *conn
	servers map[balancer.SubConn]*server
}

// Pick implements balancer.Picker.
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	r, err := p.Picker.Pick(info)
	if err != nil {
		return r, err
	}
	s := p.servers[r.SubConn]
	if out := p.conn.out.Load(); out != 0 {
		now := time.Now().UnixNano()
		// Others pick at the same time, so a full turn may miss the good ones; if
		// two do, an ejected server is better than none.
		for range 2 * len(p.servers) {
			if now >= out || s == nil || s.until.Load() <= now {
				break
			}
			if r, err = p.Picker.Pick(info); err != nil {
				return r, err
			}
			s = p.servers[r.SubConn]
		}
	}
	if s != nil && r.Done == nil {
		r.Done = s.count
	}
	return r, nil
}

// impatient ends calls, also those that would wait.
type impatient struct {
	balancer.Picker
	lookup error
}

// Pick implements balancer.Picker.
func (p impatient) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	r, err := p.Picker.Pick(info)
	switch {
	case err == nil:
		return r, nil
	case p.lookup != nil:
		return r, status.Errorf(codes.Unavailable, "no server is ready: %v", p.lookup)
	case errors.Is(err, balancer.ErrNoSubConnAvailable):
		return r, status.Error(codes.Unavailable, "no server is ready: still connecting")
	}
	return r, status.Errorf(codes.Unavailable, "no server is ready: %v", err)
}
