package outbox

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// Inspector tells what the broker knows about a stream. A bus that is one lets
// the relay notice that the stream lost events.
type Inspector interface {
	StreamInfo(ctx context.Context, stream string) (bus.StreamInfo, error)
}

const (
	// disorder is by how many rows the order of a stream may differ from that of
	// the table, with room to spare.
	disorder = 10_000

	askFirst = 10 * time.Millisecond // between two questions about a stream that is not there yet
	askMost  = time.Second
)

// tail is what the relay knows about the end of its stream. How far the stream
// had come is kept with the marks: a stream that is shorter than that later, or
// another one, has lost events that are marked as published.
type tail struct {
	good    bool // the stream holds all that is marked; before that nothing is published
	asking  bool
	next    time.Time // not to be asked again before
	answers chan bus.StreamInfo
	created string      // of the stream
	top     uint64      // highest sequence number that was acknowledged
	saved   uint64      // what the table says of top
	suspect atomic.Bool // the broker was away, and may come back with less than it had
}

// ask has the stream looked at, unless that is under way.
func (r *Relay) ask(ctx context.Context) {
	look, ok := r.cfg.Bus.(Inspector)
	if !ok {
		r.tail.good = true
		return
	}
	if r.tail.asking || r.cfg.Now().Before(r.tail.next) {
		return
	}
	r.tail.asking, r.tail.next = true, r.cfg.Now().Add(askFirst)
	go func() {
		for wait := askFirst; ; wait = min(2*wait, askMost) {
			info, err := look.StreamInfo(ctx, r.stream)
			if err == nil {
				r.tail.answers <- info // there is room: one question at a time
				return
			}
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return
			}
		}
	}()
}

// doubt has the stream looked at again whenever the broker was away.
func (r *Relay) doubt() (stop func()) {
	bus, ok := r.cfg.Bus.(interface{ OnGap(fn func()) (stop func()) })
	if !ok {
		return func() {}
	}
	return bus.OnGap(func() {
		r.tail.suspect.Store(true)
		r.nudge()
	})
}

const selectTail = `SELECT owner, epoch FROM leases WHERE name = 'outbox stream'`

// answered compares the stream with what is known of it and has what it lost
// published again. Consumers drop what they have seen.
func (r *Relay) answered(ctx context.Context, info bus.StreamInfo) {
	r.tail.asking, r.tail.next = false, r.cfg.Now().Add(scanEvery) // if the table is away
	r.flush(ctx)
	if len(r.marked) > 0 {
		return
	}
	created := info.Created.UTC().Format(time.RFC3339Nano)
	var was string
	var top int64
	err := r.cfg.DB.QueryRow(ctx, selectTail).Scan(&was, &top)
	fresh := errors.Is(err, sqldb.ErrNoRows)
	if err != nil && !fresh {
		r.cfg.Log.Warn("outbox not readable", "service", r.cfg.Service, "error", err)
		return
	}
	last := int64(info.LastSeq)
	rows := int64(0)
	switch {
	case fresh:
	case was != created:
		rows = 1 << 62 // all of another stream
	case top > last:
		rows = top - last + disorder
	}
	if fresh || rows > 0 {
		var b sqldb.Batch
		if rows > 0 {
			b.Exec(`INSERT INTO outbox_pending (seq) SELECT seq FROM outbox
				WHERE seq > (SELECT max(seq) FROM outbox) - ? ON CONFLICT DO NOTHING`, rows)
		}
		b.Exec(`INSERT INTO leases (name, owner, epoch, expires_at) VALUES ('outbox stream', ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = excluded.epoch`, created, last, time.Unix(0, 0))
		tx, err := r.cfg.DB.Begin(ctx)
		if err == nil {
			err = tx.Commit(ctx, &b)
		}
		if err != nil {
			r.cfg.Log.Warn("what the stream lost cannot be published again yet", "service", r.cfg.Service, "error", err)
			return
		}
		top = last
	}
	if rows > 0 {
		r.recent = [2]map[int64]bool{{}, {}}
		r.cfg.Log.Warn("the stream lost events; they are published again", "stream", r.stream, "last_seq", info.LastSeq)
	}
	r.tail.good, r.tail.next = true, time.Time{}
	r.tail.created, r.tail.top, r.tail.saved = created, uint64(max(top, last)), uint64(max(top, 0))
	r.behind, r.cursor = true, 0
}

// saveTail adds to a batch of marks how far the stream has come.
func (r *Relay) saveTail(b *sqldb.Batch) {
	if r.tail.top > r.tail.saved {
		b.Exec(`UPDATE leases SET epoch = ? WHERE name = 'outbox stream' AND owner = ? AND epoch < ?`, int64(r.tail.top), r.tail.created, int64(r.tail.top))
	}
}
