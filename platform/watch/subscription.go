package watch

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// A Subscription is what one streaming call watches. Add, Drop, All and Close
// may be called from any goroutine; Next belongs to one.
type Subscription struct {
	hub   *Hub
	limit int
	wake  chan struct{}

	mu     sync.Mutex
	keys   map[string]struct{}
	all    bool
	closed bool

	queue  []Change // from head on
	head   int
	pushed uint64 // ever put into queue
	popped uint64 // ever taken from it
	// lagged are the keys of which something was left out, lags the order in
	// which to say so. While a key is lagged, nothing more of it is queued: the
	// reader is going to read it anyhow, and must not see it go back.
	lagged map[string]int64
	lags   []lag
}

type lag struct {
	key   string
	after uint64 // number of queued changes the reader sees first
}

// Add begins to watch key.
func (s *Subscription) Add(key string) { s.hub.add(key, s) }

// Drop ends watching key; changes of it that were not read are forgotten. It
// has no effect after All.
func (s *Subscription) Drop(key string) { s.hub.drop(key, s) }

// All watches everything from now on.
func (s *Subscription) All() { s.hub.watchAll(s) }

// Close ends the subscription. A Next that waits returns ErrClosed.
func (s *Subscription) Close() { s.hub.remove(s) }

// Next waits for the next change. It gives ErrClosed once the subscription is
// closed, also if changes were not read, and the cause of ctx if that ends first.
func (s *Subscription) Next(ctx context.Context) (Change, error) {
	for {
		if c, ok, err := s.pop(); ok || err != nil {
			return c, err
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return Change{}, context.Cause(ctx)
		}
	}
}

func (s *Subscription) pop() (c Change, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed {
		switch {
		case len(s.lags) > 0 && s.lags[0].after <= s.popped:
			key := s.lags[0].key
			s.lags = s.lags[1:]
			c = Change{Key: key, Version: s.lagged[key], Lagged: true}
			delete(s.lagged, key)
		case s.head < len(s.queue):
			c = s.queue[s.head]
			s.queue[s.head] = Change{}
			s.head++
			s.popped++
			if s.head == len(s.queue) {
				s.queue, s.head = s.queue[:0], 0
			}
		default:
			return Change{}, false, nil
		}
		if s.wants(c.Key) { // it may have been dropped since
			return c, true, nil
		}
	}
	return Change{}, false, ErrClosed
}

// wants tells whether the reader still cares for key; "" stands for everything.
func (s *Subscription) wants(key string) bool {
	_, ok := s.keys[key]
	return ok || s.all || key == ""
}

// offer queues a change or, if there is no room, notes that it was left out.
func (s *Subscription) offer(c Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	_, behind := s.lagged[c.Key]
	_, lost := s.lagged[""]
	switch {
	case lost: // the reader is going to read everything
	case behind || c.Lagged || len(s.queue)-s.head >= s.limit:
		s.lag(c.Key, c.Version)
	default:
		if s.head > 0 && len(s.queue) == cap(s.queue) {
			n := copy(s.queue, s.queue[s.head:])
			clear(s.queue[n:])
			s.queue, s.head = s.queue[:n], 0
		}
		s.queue = append(s.queue, c)
		s.pushed++
	}
	s.signal()
}

func (s *Subscription) lag(key string, version int64) {
	if v, ok := s.lagged[key]; ok {
		s.lagged[key] = max(v, version)
		return
	}
	if s.all && key != "" && len(s.lagged) >= s.limit {
		// Too many keys to name. What is queued is still worth reading, being in order.
		clear(s.lagged)
		s.lags = s.lags[:0]
		key, version = "", 0
	}
	s.lagged[key] = version
	s.lags = append(s.lags, lag{key: key, after: s.pushed})
}

// lagAll notes that anything watched may have changed.
func (s *Subscription) lagAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if s.all {
		s.lag("", 0)
	} else {
		for key := range s.keys {
			s.lag(key, 0)
		}
	}
	s.signal()
}

func (s *Subscription) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// watch notes key and tells whether the hub has to know of it.
func (s *Subscription) watch(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.all {
		return false
	}
	s.keys[key] = struct{}{}
	return true
}

func (s *Subscription) unwatch(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, key)
	if _, ok := s.lagged[key]; ok && !s.all {
		delete(s.lagged, key)
		s.lags = slices.DeleteFunc(s.lags, func(l lag) bool { return l.key == key })
	}
}

// everything makes s watch all and gives the keys it watched until now.
func (s *Subscription) everything() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := slices.Collect(maps.Keys(s.keys))
	clear(s.keys)
	s.all = true
	return keys
}

// shut ends s and gives the keys it watched.
func (s *Subscription) shut() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := slices.Collect(maps.Keys(s.keys))
	clear(s.keys)
	clear(s.lagged)
	s.closed, s.queue, s.lags, s.head = true, nil, nil, 0
	s.signal()
	return keys
}
