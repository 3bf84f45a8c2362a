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
		p.conn.row.Store(c.Calls)
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
	row    atomic.Int64 // cfg.Calls

	mu      sync.Mutex
	cfg     Config
	servers map[balancer.SubConn]*server
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
	var sub balancer.SubConn
	told := opts.StateListener
	opts.StateListener = func(state balancer.SubConnState) {
		if state.ConnectivityState == connectivity.Shutdown {
			c.mu.Lock()
			delete(c.servers, sub)
			c.mu.Unlock()
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

// judge looks, when it is time or early, at what each server did since the last
// look. It ejects those that fail at least half of their calls, and twice as large
// a share as the others do, but never more than half of all servers.
func (c *conn) judge(early bool) {
	now := time.Now().UnixNano()
	if next := c.judged.Load(); !early && (now < next || !c.judged.CompareAndSwap(next, now+int64(time.Second))) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.judged.Store(now + int64(c.cfg.Interval))
	type count struct{ good, bad int64 }
	counts, all, out := map[*server]count{}, count{}, 0
	for _, s := range c.servers {
		n := count{s.good.Swap(0), s.bad.Swap(0)}
		if s.until.Load() > now {
			out++ // what still came from it was begun before
			s.row.Store(0)
			continue
		}
		counts[s] = n
		all.good += n.good
		all.bad += n.bad
	}
	for s, own := range counts {
		n := own
		if row := s.row.Load(); row >= c.cfg.Calls {
			n = count{0, row} // it was well before, which helps nobody now
		}
		if n.good+n.bad < c.cfg.Calls {
			continue
		}
		if n.bad < n.good {
			s.strikes = max(0, s.strikes-1)
			continue
		}
		others := count{all.good - own.good, all.bad - own.bad}
		alike := others.bad*2*(n.good+n.bad) > n.bad*(others.good+others.bad)
		if alike || others.good+others.bad < c.cfg.Calls || (out+1)*2 > len(c.servers) {
			continue
		}
		out++
		until := now + int64(c.cfg.Ejection)<<min(s.strikes, 4)
		s.strikes++
		s.until.Store(until)
		s.row.Store(0)
		c.out.Store(max(c.out.Load(), until))
	}
}

// server is one connection and what came of its calls.
type server struct {
	conn      *conn
	count     func(balancer.DoneInfo)
	good, bad atomic.Int64 // since the last judgement
	row       atomic.Int64 // failures since the last success
	until     atomic.Int64 // it is ejected, nanoseconds
	strikes   int          // how often it was ejected, less the intervals it did well since; guarded by conn.mu
}

func (s *server) done(info balancer.DoneInfo) {
	switch status.Code(info.Err) {
	case codes.Unavailable, codes.Internal, codes.Unknown, codes.DataLoss, codes.DeadlineExceeded:
		s.bad.Add(1)
		s.conn.judge(s.row.Add(1)%max(1, s.conn.row.Load()) == 0)
	default:
		s.good.Add(1)
		s.row.Store(0)
		s.conn.judge(false)
	}
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
