package auth

import (
	"container/list"
	"crypto/sha256"
	"sync"
)

// lru remembers the tokens verified last, by their hash: the token itself is a
// secret and is not kept.
type lru struct {
	mu    sync.Mutex
	size  int
	order *list.List // of *entry, the last used first
	known map[[sha256.Size]byte]*list.Element
}

type entry struct {
	sum [sha256.Size]byte
	verified
}

func newLRU(size int) *lru {
	return &lru{size: size, order: list.New(), known: map[[sha256.Size]byte]*list.Element{}}
}

func (c *lru) get(sum [sha256.Size]byte) (verified, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.known[sum]
	if !ok {
		return verified{}, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*entry).verified, true
}

func (c *lru) put(sum [sha256.Size]byte, v verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.known[sum]; ok {
		e.Value.(*entry).verified = v
		c.order.MoveToFront(e)
		return
	}
	c.known[sum] = c.order.PushFront(&entry{sum, v})
	if c.order.Len() > c.size {
		c.remove(c.order.Back())
	}
}

func (c *lru) drop(sum [sha256.Size]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.known[sum]; ok {
		c.remove(e)
	}
}

func (c *lru) remove(e *list.Element) {
	c.order.Remove(e)
	delete(c.known, e.Value.(*entry).sum)
}

func (c *lru) len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.order.Len()
}
