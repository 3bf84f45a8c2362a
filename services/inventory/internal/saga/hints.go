package saga

import (
	"sync"

	"github.com/waybill-dev/waybill/services/inventory"
)

// hints remembers which products the latest holds are of, so that their stock can
// be loaded together with the hold instead of after it. A hint that is missing
// costs a round trip; a wrong one cannot be, since what an order wants never
// changes.
type hints struct {
	mu   sync.Mutex
	keys []string // ring, oldest at next
	next int
	by   map[string][]string
}

func newHints(size int) *hints {
	return &hints{keys: make([]string, size), by: make(map[string][]string, size)}
}

func (h *hints) put(orderID string, lines []inventory.Line) {
	ids := make([]string, len(lines))
	for i, l := range lines {
		ids[i] = l.ProductID
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, known := h.by[orderID]; !known {
		delete(h.by, h.keys[h.next])
		h.keys[h.next] = orderID
		h.next = (h.next + 1) % len(h.keys)
	}
	h.by[orderID] = ids
}

func (h *hints) get(orderID string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.by[orderID]
}
