package discovery

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"
)

// Interval is how often the DNS is asked, give or take a tenth; a lost connection
// has it asked after a fifth of that. In between a new server stays unknown and
// one that is going to stop is still called, so it must be short of the time that
// servers give notice (the wait before SIGTERM on Kubernetes).
const Interval = 5 * time.Second

// names asks the DNS for the addresses of a name, again and again, and not only
// when a connection ends, as gRPC's own resolver does: that one learns of new
// servers when an old one goes, and after an error it sits still for up to two
// minutes.
type names struct {
	interval, soonest time.Duration
	gone              time.Duration // so long a name that has no addresses keeps its last ones
}

func (names) Scheme() string { return "dns" }

// Build implements resolver.Builder.
func (n names) Build(t resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	host, port, err := net.SplitHostPort(t.Endpoint())
	if err != nil {
		return nil, err
	}
	if net.ParseIP(host) != nil {
		return fixed{}, cc.UpdateState(state([]string{t.Endpoint()}))
	}
	a := &asker{names: n, host: host, port: port, cc: cc, now: make(chan struct{}, 1), dns: net.DefaultResolver}
	if server := t.URL.Host; server != "" {
		if _, _, err := net.SplitHostPort(server); err != nil {
			server = net.JoinHostPort(server, "53")
		}
		a.dns = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server)
		}}
	}
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.done.Go(func() { a.run(ctx) })
	return a, nil
}

// asker keeps one client informed.
type asker struct {
	names
	host, port string
	cc         resolver.ClientConn
	dns        *net.Resolver
	now        chan struct{}
	cancel     context.CancelFunc
	done       sync.WaitGroup

	known []string  // what the client was told last
	seen  time.Time // when the DNS last knew any
}

// ResolveNow implements resolver.Resolver.
func (a *asker) ResolveNow(resolver.ResolveNowOptions) {
	select {
	case a.now <- struct{}{}:
	default:
	}
}

// Close implements resolver.Resolver.
func (a *asker) Close() {
	a.cancel()
	a.done.Wait()
}

func (a *asker) run(ctx context.Context) {
	for {
		a.ask(ctx)
		if !pause(ctx, a.soonest, nil) || !pause(ctx, a.interval-a.soonest, a.now) {
			return
		}
	}
}

// pause waits for d, give or take a tenth, or for a word on early. It tells
// whether ctx goes on.
func pause(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	t := time.NewTimer(time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))) // so that not all ask at once
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-early:
		return true
	case <-ctx.Done():
		return false
	}
}

// ask asks once. The client keeps the servers it knows when there is no answer,
// and for a while when the answer is that there are none: their connections tell
// better than the DNS whether they are there.
func (a *asker) ask(ctx context.Context) {
	within, cancel := context.WithTimeout(ctx, 2*a.interval)
	defer cancel()
	hosts, err := a.dns.LookupHost(within, a.host)
	if ctx.Err() != nil {
		return
	}
	var none *net.DNSError
	empty := errors.As(err, &none) && none.IsNotFound
	switch {
	case err == nil:
		a.seen = time.Now()
	case empty && time.Since(a.seen) > a.gone, len(a.known) == 0:
		a.known = nil
		_ = a.cc.UpdateState(resolver.State{}) // an error to gRPC, but calls now fail with the reason
		a.cc.ReportError(err)
		return
	default:
		a.cc.ReportError(err)
		return
	}
	addrs := make([]string, len(hosts))
	for i, h := range hosts {
		addrs[i] = net.JoinHostPort(h, a.port)
	}
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	if slices.Equal(addrs, a.known) {
		return
	}
	if a.cc.UpdateState(state(addrs)) == nil {
		a.known = addrs
	}
}

// state is a list of servers as gRPC wants it.
func state(addrs []string) resolver.State {
	var s resolver.State
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	return s
}
