package watch

import (
	"context"
	"sync"
)

// A Feed passes changes on to a Hub together. What was changed many times in a
// short while is announced once, with its last version, and other processes get
// one notification for all of it. It is for watchers who want to know how things
// are, not how they came to be so.
type Feed struct {
	publish func([]Change)

	mu      sync.Mutex
	pending map[string]Change
	started bool
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}
	stop    sync.Once
}

// NewFeed gives a Feed that passes on to publish once it is started.
func NewFeed(publish func([]Change)) *Feed {
	return &Feed{
		publish: publish, pending: map[string]Change{},
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
}

// Changed notes a change. It does not wait.
func (f *Feed) Changed(c Change) {
	f.mu.Lock()
	if f.pending[c.Key].Version < c.Version {
		f.pending[c.Key] = c
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Start begins to pass on.
func (f *Feed) Start() {
	f.mu.Lock()
	f.started = true
	f.mu.Unlock()
	go func() {
		defer close(f.done)
		for {
			select {
			case <-f.wake:
				f.flush()
			case <-f.quit:
				f.flush()
				return
			}
		}
	}()
}

// Stop passes on what is left and ends the Feed. It may be called twice.
func (f *Feed) Stop(ctx context.Context) error {
	f.stop.Do(func() { close(f.quit) })
	f.mu.Lock()
	started := f.started
	f.mu.Unlock()
	if !started {
		return nil
	}
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Feed) flush() {
	f.mu.Lock()
	pending := f.pending
	f.pending = make(map[string]Change, len(pending))
	f.mu.Unlock()
	if len(pending) == 0 {
		return
	}
	changes := make([]Change, 0, len(pending))
	for _, c := range pending {
		changes = append(changes, c)
	}
	f.publish(changes)
}
