package bus

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff spaces attempts that keep failing: each pause is about twice the last.
type backoff struct{ first, most, next time.Duration }

func newBackoff(first, most time.Duration) *backoff {
	return &backoff{first: first, most: most, next: first}
}

func (p *backoff) reset() { p.next = p.first }

// wait returns after the next pause, or at once when woken, and false if ctx
// has ended.
func (p *backoff) wait(ctx context.Context, wake <-chan struct{}) bool {
	d := p.next/2 + rand.N(p.next/2+1)
	p.next = min(2*p.next, p.most)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-wake:
		return true
	case <-ctx.Done():
		return false
	}
}

// idle waits until woken, and gives false if ctx has ended.
func (p *backoff) idle(ctx context.Context, wake <-chan struct{}) bool {
	select {
	case <-wake:
		return true
	case <-ctx.Done():
		return false
	}
}
