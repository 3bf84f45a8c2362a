package rpc

import (
	"context"
	"sync"
)

// gate counts the calls under way and ends them in order when the server stops:
// endless streams first, since they do not end by themselves; other streams when
// there is no more time for them.
type gate struct {
	mu       sync.Mutex
	calls    int
	draining bool // no more endless streams
	cut      bool // no more streams
	closed   bool // no more calls
	idle     chan struct{}
	streams  map[*context.CancelCauseFunc]bool // whether it is endless
}

// enter lets a call in, unless it is too late for it.
func (g *gate) enter(stream, endless bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.late(stream, endless) {
		return false
	}
	g.calls++
	return true
}

func (g *gate) late(stream, endless bool) bool { return stream && (g.cut || g.draining && endless) }

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
func (g *gate) tie(cancel context.CancelCauseFunc, endless bool) (untie func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.late(true, endless) {
		return nil, false
	}
	if g.streams == nil {
		g.streams = map[*context.CancelCauseFunc]bool{}
	}
	key := &cancel
	g.streams[key] = endless
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.streams, key)
	}, true
}

// drain ends endless streams, or all, with cause and lets no more of them in.
func (g *gate) drain(cause error, all bool) {
	g.mu.Lock()
	var ends []*context.CancelCauseFunc
	for cancel, endless := range g.streams {
		if endless || all {
			ends = append(ends, cancel)
		}
	}
	g.draining, g.cut = true, g.cut || all
	g.mu.Unlock()
	for _, cancel := range ends {
		(*cancel)(cause)
	}
}

// close lets no call in any more and waits for those under way, or for ctx.
func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	g.draining, g.cut, g.closed = true, true, true
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
