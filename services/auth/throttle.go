package auth

import (
	"container/list"
	"math"
	"sync"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
)

// A Limit is a bucket of failures: Burst of them at once, then one per Every.
type Limit struct {
	Burst int
	Every time.Duration
}

// Limits say how many wrong passwords are borne.
type Limits struct {
	Pair    Limit // for one account from one address
	Account Limit // for one account from everywhere
	Address Limit // for all accounts from one address
}

// maxBuckets bounds what a Throttle remembers, some 100 bytes each.
const maxBuckets = 1 << 16

// A Throttle slows down guessing. Only wrong passwords count, and every bucket
// fills up again, so nobody is locked out for good: who knows the password gets
// in from an address of their own while somebody else guesses from another, as
// long as all guesses together leave the account's bucket something; from an
// address that has just signed in to the account, even then.
//
// It lives in memory: each replica counts for itself, and a restart forgets.
type Throttle struct {
	limits Limits
	now    func() time.Time

	mu      sync.Mutex
	buckets map[string]*list.Element // of *bucket
	order   *list.List               // the one used last first
}

type bucket struct {
	key   string
	level float64 // failures left
	at    time.Time
	known bool // an address that has signed in to an account
}

// NewThrottle makes a Throttle.
func NewThrottle(l Limits, now func() time.Time) *Throttle {
	return &Throttle{limits: l, now: now, buckets: map[string]*list.Element{}, order: list.New()}
}

// Result is how an attempt went.
type Result uint8

// The results.
const (
	Void   Result = iota // the password was not looked at
	Wrong                // it was wrong, which counts
	Passed               // it was right
)

// Attempt asks leave to try a password of an account from an address, which may
// be "". When it may be tried, tell done how it went. Without leave the error is
// ResourceExhausted and says when to come back. Attempts under way count as wrong
// until they are done, so that trying in parallel gains nothing.
func (t *Throttle) Attempt(account, address string) (done func(Result), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	type claim struct {
		*bucket
		limit Limit
	}
	pair := t.get("p:"+account+"@"+address, t.limits.Pair, now)
	claims := []claim{{pair, t.limits.Pair}}
	if !pair.known {
		claims = append(claims, claim{t.get("a:"+account, t.limits.Account, now), t.limits.Account})
	}
	if address != "" {
		claims = append(claims, claim{t.get("i:"+address, t.limits.Address, now), t.limits.Address})
	}
	var wait time.Duration
	for _, c := range claims {
		if c.level < 1 {
			wait = max(wait, time.Duration(math.Ceil((1-c.level)*float64(c.limit.Every))))
		}
	}
	if wait > 0 {
		return nil, errs.E(errs.ResourceExhausted, "TOO_MANY_ATTEMPTS",
			"there were too many wrong passwords; try again in %s", wait.Truncate(time.Second)+time.Second).WithRetryAfter(wait)
	}
	for _, c := range claims {
		c.level--
	}
	return func(r Result) {
		if r == Wrong {
			return
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, c := range claims {
			c.level = min(c.level+1, float64(c.limit.Burst))
		}
		if r == Passed && address != "" {
			pair.known = true
		}
	}, nil
}

// get gives a bucket, filled up to now.
func (t *Throttle) get(key string, l Limit, now time.Time) *bucket {
	if e, ok := t.buckets[key]; ok {
		t.order.MoveToFront(e)
		b := e.Value.(*bucket)
		if since := now.Sub(b.at); since > 0 {
			b.level, b.at = min(b.level+float64(since)/float64(l.Every), float64(l.Burst)), now
		}
		return b
	}
	b := &bucket{key: key, level: float64(l.Burst), at: now}
	t.buckets[key] = t.order.PushFront(b)
	if t.order.Len() > maxBuckets {
		last := t.order.Back()
		t.order.Remove(last)
		delete(t.buckets, last.Value.(*bucket).key)
	}
	return b
}
