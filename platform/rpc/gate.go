package rpc

import (
	"context"
	"sync"
)

// gate counts the calls under way and ends them in order when the server stops:
// streams first, since they do not end by themselves.
type gate struct {
	mu       sync.Mutex
	calls    int
	draining bool // no more streams
	closed   bool // no more calls
	idle     chan struct{}
	streams  map[*context.CancelCauseFunc]struct{}
}

// enter lets a call in, unless it is too late for it.
func (g *gate) enter(stream bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || stream && g.draining {
		return false
	}
	g.calls++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls--
	if g.calls == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// tie has cancel called when the server stops, until untie.
func (g *gate) tie(cancel context.CancelCauseFunc) (untie func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.draining {
		return nil, false
	}
	if g.streams == nil {
		g.streams = map[*context.CancelCauseFunc]struct{}{}
	}
	key := &cancel
	g.streams[key] = struct{}{}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.streams, key)
	}, true
}

// drain ends all streams with cause and lets no more in.
func (g *gate) drain(cause error) {
	g.mu.Lock()
	all := g.streams
	g.draining, g.streams = true, nil
	g.mu.Unlock()
	for cancel := range all {
		(*cancel)(cause)
	}
}

// close lets no call in any more and waits for those under way, or for ctx.
func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	g.draining, g.closed = true, true
	if g.calls == 0 {
		g.mu.Unlock()
		return nil
	}
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	g.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
