// Package watch tells streaming calls, in every process, that something they
// watch has changed. It is a hint with data, not a log: what matters is in the
// database, and a reader that fell behind is told to look there.
package watch

import (
	"crypto/rand"
	"log/slog"
	"sync"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/errs"
)

// ErrClosed is what Next gives once its Subscription or the Hub is closed.
var ErrClosed error = errs.E(errs.Unavailable, "WATCH_CLOSED", "the watch was closed")

// A Change says that the thing called Key is now at Version. Data is whatever
// the publisher wants watchers to have; it must not be changed.
//
// Lagged means that changes were left out: Data is nil, Version is the highest
// one left out if it is known, and the reader should read Key again. A Lagged
// Change without a Key means that anything may have changed.
type Change struct {
	Key     string
	Version int64
	Data    []byte
	Lagged  bool
}

// A Hub passes changes from those who publish them to those who watch, in this
// process directly and in others through the bus. It is safe for concurrent
// use. Make one with New.
type Hub struct {
	bus   *bus.Bus
	topic string
	log   *slog.Logger
	self  string // tells our own notifications from those of others

	mu     sync.RWMutex
	byKey  map[string]map[*Subscription]struct{}
	all    map[*Subscription]struct{}
	subs   map[*Subscription]struct{}
	closed bool
	stop   []func()
}

// New gives a Hub for one topic. With a nil bus it serves only this process.
func New(b *bus.Bus, topic string, log *slog.Logger) *Hub {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	self := make([]byte, selfSize)
	_, _ = rand.Read(self) // never fails
	return &Hub{
		bus: b, topic: topic, log: log, self: string(self),
		byKey: map[string]map[*Subscription]struct{}{}, all: map[*Subscription]struct{}{}, subs: map[*Subscription]struct{}{},
	}
}

// Start begins to listen to the other processes.
func (h *Hub) Start() error {
	if h.bus == nil {
		return nil
	}
	stopListening, err := h.bus.Listen(h.topic, h.receive)
	if err != nil {
		return err
	}
	stopGaps := h.bus.OnGap(h.lagAll)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		stopListening()
		stopGaps()
		return ErrClosed
	}
	h.stop = append(h.stop, stopListening, stopGaps)
	return nil
}

// Close ends every subscription with ErrClosed and stops listening.
func (h *Hub) Close() {
	h.mu.Lock()
	h.closed = true
	subs, stop := h.subs, h.stop
	h.subs, h.stop = map[*Subscription]struct{}{}, nil
	clear(h.byKey)
	clear(h.all)
	h.mu.Unlock()
	for _, fn := range stop {
		fn()
	}
	for s := range subs {
		s.shut()
	}
}

// Publish tells watchers what has changed; call it after the commit. It never
// waits for a watcher. Other processes get one notification for all changes
// (more only if they are very large); if it is lost they learn of it as a lag.
func (h *Hub) Publish(changes []Change) {
	if len(changes) == 0 {
		return
	}
	h.mu.RLock()
	for i := range changes {
		h.dispatch(&changes[i])
	}
	h.mu.RUnlock()
	if h.bus == nil || h.bus.Alone(h.topic) {
		return
	}
	for _, data := range encode(h.self, changes) {
		if err := h.bus.Notify(h.topic, data); err != nil {
			// The others notice the lost connection themselves and read again.
			h.log.Debug("changes not passed on", "topic", h.topic, "error", err)
			return
		}
	}
}

// dispatch hands a change to those who watch it. h.mu is held for reading.
func (h *Hub) dispatch(c *Change) {
	for s := range h.byKey[c.Key] {
		s.offer(*c)
	}
	for s := range h.all {
		s.offer(*c)
	}
}

// receive takes what another process published.
func (h *Hub) receive(data []byte) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if len(h.subs) == 0 {
		return
	}
	err := decode(h.self, data, func(key []byte, c Change) {
		// Most changes concern nobody here: no copy of the key for those.
		if len(h.all) > 0 || len(h.byKey[string(key)]) > 0 {
			c.Key = string(key)
			h.dispatch(&c)
		}
	})
	if err != nil {
		h.log.Warn("changes of another process cannot be read", "topic", h.topic, "error", err)
		for s := range h.subs {
			s.lagAll()
		}
	}
}

// lagAll tells every watcher that something may have been missed.
func (h *Hub) lagAll() {
	h.mu.RLock()
	defer h.mu.RUnlock()
	for s := range h.subs {
		s.lagAll()
	}
}

// Subscribe gives a Subscription that watches nothing yet and holds at most
// limit changes (64 if limit is not positive) that were not read.
func (h *Hub) Subscribe(limit int) *Subscription {
	if limit <= 0 {
		limit = 64
	}
	s := &Subscription{hub: h, limit: limit, keys: map[string]struct{}{}, lagged: map[string]int64{}, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		s.closed = true
		return s
	}
	h.subs[s] = struct{}{}
	return s
}

func (h *Hub) add(key string, s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.subs[s]; !ok {
		return
	}
	if !s.watch(key) {
		return
	}
	if h.byKey[key] == nil {
		h.byKey[key] = map[*Subscription]struct{}{}
	}
	h.byKey[key][s] = struct{}{}
}

func (h *Hub) drop(key string, s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.unwatch(key)
	h.removeKey(key, s)
}

func (h *Hub) removeKey(key string, s *Subscription) {
	delete(h.byKey[key], s)
	if len(h.byKey[key]) == 0 {
		delete(h.byKey, key)
	}
}

// watchAll moves s from its keys to everything, so that it gets no change twice.
func (h *Hub) watchAll(s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.subs[s]; !ok {
		return
	}
	for _, key := range s.everything() {
		h.removeKey(key, s)
	}
	h.all[s] = struct{}{}
}

func (h *Hub) remove(s *Subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, key := range s.shut() {
		h.removeKey(key, s)
	}
	delete(h.all, s)
	delete(h.subs, s)
}
