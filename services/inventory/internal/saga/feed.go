package saga

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/watch"
	"github.com/waybill-dev/waybill/services/inventory"
)

// EncodeChange gives what a change of stock carries to those who watch it.
func EncodeChange(s inventory.Stock) []byte {
	b := make([]byte, 0, 2*binary.MaxVarintLen64)
	b = binary.AppendVarint(b, s.Available())
	return binary.AppendVarint(b, s.UpdatedAt.UnixMicro())
}

// DecodeChange reads what EncodeChange wrote.
func DecodeChange(data []byte) (available int64, updated time.Time, err error) {
	available, n := binary.Varint(data)
	if n <= 0 {
		return 0, time.Time{}, errs.E(errs.Internal, "", "malformed change of stock")
	}
	micros, m := binary.Varint(data[n:])
	if m <= 0 {
		return 0, time.Time{}, errs.E(errs.Internal, "", "malformed change of stock")
	}
	return available, time.UnixMicro(micros).UTC(), nil
}

// A Feed passes changes of stock on to the hub. A product that many orders of one
// batch changed is announced once, with its last state, and other processes get
// one notification for all of them.
type Feed struct {
	publish func([]watch.Change)

	mu      sync.Mutex
	pending map[string]watch.Change
	wake    chan struct{}
	quit    chan struct{}
	done    chan struct{}
	stop    sync.Once
}

// NewFeed gives a Feed that passes on to publish once it is started.
func NewFeed(publish func([]watch.Change)) *Feed {
	return &Feed{
		publish: publish, pending: map[string]watch.Change{},
		wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{}),
	}
}

// Changed notes a change. It does not wait.
func (f *Feed) Changed(c watch.Change) {
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

// Stop passes on what is left and ends a started Feed. It may be called twice.
func (f *Feed) Stop(ctx context.Context) error {
	f.stop.Do(func() { close(f.quit) })
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
	f.pending = make(map[string]watch.Change, len(pending))
	f.mu.Unlock()
	if len(pending) == 0 {
		return
	}
	changes := make([]watch.Change, 0, len(pending))
	for _, c := range pending {
		changes = append(changes, c)
	}
	f.publish(changes)
}
