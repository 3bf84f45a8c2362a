package store

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
)

const (
	maxStatements = 2   // of one lookup at a time
	maxTogether   = 512 // ids in one statement
	lookupTimeout = 5 * time.Second
)

// lookup turns concurrent reads into few statements. A read joins the next
// statement, which starts at once if none is under way, so an idle system waits
// for nothing and a busy one reads in batches. No answer is kept: each comes from
// a statement that started after it was asked for.
type lookup struct {
	query func(ctx context.Context, ids []string, found func(*Item)) error

	mu      sync.Mutex
	waiting []*asked
	running int
}

// asked is one read that waits.
type asked struct {
	ids   []string
	found map[string]*Item
	err   error
	done  chan struct{}
}

func (l *lookup) get(ctx context.Context, ids []string) (map[string]*Item, error) {
	a := &asked{ids: ids, done: make(chan struct{})}
	l.mu.Lock()
	l.waiting = append(l.waiting, a)
	start := l.running < maxStatements
	if start {
		l.running++
	}
	l.mu.Unlock()
	if start {
		go l.run()
	}
	select {
	case <-a.done:
		return a.found, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// run makes statements until nobody waits.
func (l *lookup) run() {
	for {
		l.mu.Lock()
		var take []*asked
		n := 0
		for len(l.waiting) > len(take) && (n == 0 || n+len(l.waiting[len(take)].ids) <= maxTogether) {
			n += len(l.waiting[len(take)].ids)
			take = l.waiting[:len(take)+1]
		}
		// What is left moves to memory of its own: take keeps the old.
		l.waiting = append([]*asked(nil), l.waiting[len(take):]...)
		if len(take) == 0 {
			l.running--
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		l.answer(take, n)
	}
}

func (l *lookup) answer(take []*asked, n int) {
	ids := make([]string, 0, n)
	all := make(map[string]*Item, n)
	for _, a := range take {
		for _, id := range a.ids {
			if _, known := all[id]; known || strings.Contains(id, ",") {
				continue // the comma divides ids; no id has one
			}
			all[id] = nil
			ids = append(ids, id)
		}
	}
	// No caller's deadline: others wait for the same statement.
	ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
	defer cancel()
	err := l.query(ctx, ids, func(i *Item) { all[i.ProductID] = i })
	if err != nil && ctx.Err() != nil {
		err = errs.Wrap(err, errs.Unavailable, "DATABASE_TIMEOUT", "the database took too long; try again")
	}
	for _, a := range take {
		if a.err = err; err == nil {
			a.found = make(map[string]*Item, len(a.ids))
			for _, id := range a.ids {
				if i := all[id]; i != nil {
					a.found[id] = i
				}
			}
		}
		close(a.done)
	}
}
