package gateway

import (
	"fmt"
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A Rate limits requests: PerSecond on average, Burst at once. The zero Rate
// does not limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) check() error {
	if r == (Rate{}) || r.PerSecond > 0 && !math.IsInf(r.PerSecond, 0) && r.Burst > 0 {
		return nil
	}
	return fmt.Errorf("gateway: a rate needs a positive number per second and a positive burst, not %+v", r)
}

// maxBuckets bounds the memory of a limiter. An attacker with more addresses than
// that is not stopped by counting addresses.
const maxBuckets = 1 << 16

// limiter counts the requests of each address; IPv6 addresses by the /64 their owner has.
type limiter struct {
	rate Rate

	mu      sync.Mutex
	buckets map[netip.Prefix]*rate.Limiter
}

func newLimiter(r Rate) *limiter { return &limiter{rate: r, buckets: map[netip.Prefix]*rate.Limiter{}} }

// take gives 0 when a request may pass, else how long its sender should wait.
func (l *limiter) take(ip netip.Addr, now time.Time) time.Duration {
	if l.rate == (Rate{}) || !ip.IsValid() {
		return 0
	}
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	key, err := ip.Prefix(bits)
	if err != nil {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buckets[key]
	if b == nil {
		if len(l.buckets) >= maxBuckets {
			l.sweep(now)
		}
		b = rate.NewLimiter(rate.Limit(l.rate.PerSecond), l.rate.Burst)
		l.buckets[key] = b
	}
	res := b.ReserveN(now, 1)
	wait := res.DelayFrom(now)
	if wait > 0 {
		res.CancelAt(now)
	}
	return wait
}

// sweep forgets who has not been here for long enough to have everything again,
// or everybody if nobody has: then for a moment nobody is limited.
func (l *limiter) sweep(now time.Time) {
	for k, b := range l.buckets {
		if b.TokensAt(now) >= float64(l.rate.Burst) {
			delete(l.buckets, k)
		}
	}
	if len(l.buckets) >= maxBuckets {
		clear(l.buckets)
	}
}
