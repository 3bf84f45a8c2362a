package saga_test

import (
	"sync"
	"time"
)

// clock is a clock that can be put forward.
type clock struct {
	mu            sync.Mutex
	base, started time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.base.Add(time.Since(c.started))
}

func (c *clock) skip(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base = c.base.Add(d)
}
