package sim

import (
	"time"

	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// claim is how long after its time a call belongs to the process that recorded it,
// see platform/effect.
const claim = 30 * time.Second

// calls makes the recorded calls of a process in the way of effect.Runner: at once
// those it just committed, at their time those for later, and when it starts those
// that are left; again and with the same key until there is a result.
type calls struct {
	p    *process
	held map[string]bool
}

func newCalls(p *process) *calls { return &calls{p: p, held: map[string]bool{}} }

func (c *calls) begin() {
	if c.p.w.opt.Mutant == NoRetry {
		return
	}
	c.scan(c.p.clock().AddDate(1, 0, 0))
	c.tick()
}

func (c *calls) tick() {
	c.p.w.in(c.p, c.p.w.between(2*time.Second, 30*time.Second), func() {
		c.scan(c.p.clock())
		c.tick()
	})
}

// scan takes the calls whose claim has run out.
func (c *calls) scan(claimed time.Time) {
	found, err := sqldb.All(c.p.ctx, c.p.mem.Open(), `
		SELECT effect_id, kind, idempotency_key, aggregate_id, payload, attempt, run_at, cause, hops, traceparent
		  FROM effects
		 WHERE claimed_until <= ?
		 ORDER BY effect_id`, []any{claimed}, func(s sqldb.Scanner) (*effect.Call, error) {
		x := &effect.Call{}
		return x, s.Scan(&x.ID, &x.Kind, &x.Key, &x.AggregateID, &x.Payload, &x.Attempt, &x.RunAt, &x.Cause, &x.Hops, &x.Traceparent)
	})
	if err != nil {
		c.p.w.violated("simulator", "", "calls of %s: %v", c.p.name, err)
	}
	for _, x := range found {
		if c.held[x.ID] {
			continue
		}
		c.p.w.count("call of another life taken over")
		c.claim(x)
		c.hold(x)
	}
}

func (c *calls) claim(x *effect.Call) {
	until := c.p.clock()
	if x.RunAt.After(until) {
		until = x.RunAt
	}
	c.exec(`UPDATE effects SET claimed_until = ? WHERE effect_id = ?`, until.Add(claim), x.ID)
}

func (c *calls) exec(sql string, args ...any) int64 {
	n, err := c.p.mem.Open().Exec(c.p.ctx, sql, args...)
	if err != nil && !sqldb.Retryable(err) {
		c.p.w.violated("simulator", "", "calls of %s: %v", c.p.name, err)
	}
	return n
}

// take hears of calls that were just committed.
func (c *calls) take(fresh []*effect.Call) {
	for _, x := range fresh {
		c.hold(x)
	}
}

// hold keeps a call until its time.
func (c *calls) hold(x *effect.Call) {
	if c.held[x.ID] {
		return
	}
	c.held[x.ID] = true
	w := c.p.w
	w.in(c.p, max(0, x.RunAt.Sub(c.p.clock()))+w.between(0, 5*time.Millisecond), func() { c.run(x) })
}

// run makes a call and has its result folded when the other side has answered.
func (c *calls) run(x *effect.Call) {
	w := c.p.w
	x.Attempt++
	w.count("calls made")
	w.lasts = 0
	result, err := c.p.drive.Perform(c.p.ctx, x)
	w.note("call", c.p.id, x.Kind, x.Key)
	w.in(c.p, w.lasts, func() {
		if err != nil {
			c.again(x)
			return
		}
		c.p.drive.Fold(x, result, func(err error) {
			if err != nil {
				// Not here, where the batch is at work.
				w.in(c.p, 0, func() { c.again(x) })
				return
			}
			delete(c.held, x.ID)
		})
		c.p.work()
	})
}

// again makes a call later that had no result.
func (c *calls) again(x *effect.Call) {
	w := c.p.w
	delete(c.held, x.ID)
	if w.opt.Mutant == NoRetry {
		return
	}
	w.count("call repeated")
	backoff := min(200*time.Millisecond<<min(x.Attempt-1, 16), time.Minute)
	x.RunAt = c.p.clock().Add(backoff + w.between(0, backoff/5))
	const later = `UPDATE effects SET attempt = ?, run_at = ?, claimed_until = ? WHERE effect_id = ?`
	if c.exec(later, x.Attempt, x.RunAt, x.RunAt.Add(claim), x.ID) > 0 {
		c.hold(x)
	}
}
