package bus

import (
	"errors"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
)

// connected runs when the broker answers, for the first time or again.
func (b *Bus) connected(again bool) {
	if again {
		b.reconnects.Add(1)
	}
	b.log.Info("event bus connected", "again", again)
	b.told.Store(false)
	b.denials.allow()
	// The broker may have lost its streams while it was away.
	b.keeper.recheck()
	if again {
		b.gap()
	}
}

func (b *Bus) disconnected(err error) {
	// An answer to what was sent can no longer come: fail it now, not after the timeout.
	b.pub.failAll(unavailable(nats.ErrDisconnected))
	if b.closing.Load() {
		return
	}
	b.log.Warn("event bus connection lost", "error", err)
}

func (b *Bus) connClosed(last error) {
	if !b.closing.Load() {
		b.log.Error("event bus connection closed for good", "error", last)
	}
	b.pub.failAll(errClosed)
	close(b.closed)
}

func (b *Bus) asyncError(sub *nats.Subscription, err error) {
	if b.closing.Load() || b.denied(err) != nil {
		return
	}
	if keptOut(err) {
		b.connectFailed(err)
		return
	}
	if errors.Is(err, nats.ErrSlowConsumer) {
		b.gap()
	}
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.log.Warn("event bus error", "subject", subject, "error", err)
}

// OnGap calls fn whenever notifications may have been missed: after the
// connection was lost, or when listeners did not keep up. fn must not block.
// stop ends it.
func (b *Bus) OnGap(fn func()) (stop func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := b.nextGap
	b.nextGap++
	b.gaps[id] = fn
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.gaps, id)
	}
}

func (b *Bus) gap() {
	b.mu.Lock()
	var fns []func()
	for _, fn := range b.gaps {
		fns = append(fns, fn)
	}
	b.mu.Unlock()
	for fn := range slices.Values(fns) {
		fn()
	}
}

func lower(s nats.Status) string { return strings.ToLower(s.String()) }
