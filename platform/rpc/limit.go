package rpc

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/waybill-dev/waybill/platform/errs"
)

// maxBuckets bounds the memory that callers can take by being many.
const maxBuckets = 50_000

// limiter is one token bucket per key.
type limiter struct {
	rate Rate
	now  func() time.Time

	mu      sync.Mutex
	buckets map[string]*rate.Limiter
}

func newLimiter(r Rate, now func() time.Time) *limiter {
	if r == (Rate{}) {
		return nil
	}
	return &limiter{rate: r, now: now, buckets: map[string]*rate.Limiter{}}
}

// take lets one call of key through, or says ResourceExhausted and when to come
// back. A nil limiter and the key "" are not limited.
func (l *limiter) take(key string) error {
	if l == nil || key == "" {
		return nil
	}
	now := l.now()
	r := l.bucket(key, now).ReserveN(now, 1)
	if wait := r.DelayFrom(now); wait > 0 {
		r.CancelAt(now)
		return errs.E(errs.ResourceExhausted, "RATE_LIMITED", "too many calls; wait before the next one").WithRetryAfter(wait)
	}
	return nil
}

func (l *limiter) bucket(key string, now time.Time) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.buckets[key]
	if !ok {
		if len(l.buckets) >= maxBuckets {
			l.forget(now)
		}
		b = rate.NewLimiter(rate.Limit(l.rate.PerSecond), l.rate.Burst)
		l.buckets[key] = b
	}
	return b
}

// forget drops the buckets that are full again, which are as good as new ones,
// and any one if none is.
func (l *limiter) forget(now time.Time) {
	for key, b := range l.buckets {
		if b.TokensAt(now) >= float64(l.rate.Burst) {
			delete(l.buckets, key)
		}
	}
	for key := range l.buckets {
		if len(l.buckets) < maxBuckets {
			return
		}
		delete(l.buckets, key)
	}
}

// counter counts what each key holds at once.
type counter struct {
	max int

	mu   sync.Mutex
	held map[string]int
}

func newCounter(limit int) *counter { return &counter{max: limit, held: map[string]int{}} }

// hold takes one of key's places until release is called.
func (c *counter) hold(key string) (release func(), err error) {
	if key == "" {
		return func() {}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[key] >= c.max {
		return nil, errs.E(errs.ResourceExhausted, "TOO_MANY_STREAMS", "%d streams are open already; close one first", c.max).WithRetryAfter(time.Second)
	}
	c.held[key]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.held[key]--; c.held[key] == 0 {
			delete(c.held, key)
		}
	}, nil
}
