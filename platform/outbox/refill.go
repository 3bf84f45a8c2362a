package outbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// Inspector tells what lies in a stream. A bus that is one lets the relay notice
// that the stream lost events.
type Inspector interface {
	StreamInfo(ctx context.Context, stream string) (bus.StreamInfo, error)
	Gaps(ctx context.Context, stream string) ([]bus.Span, error)
	ReadStream(ctx context.Context, stream string, seqs []uint64) ([]*bus.Msg, error)
}

const (
	askFirst = 10 * time.Millisecond // between two questions about a stream that is not there yet
	askMost  = time.Second

	samples     = 64   // newest marks that every audit looks for
	strays      = 16   // and places anywhere in the stream
	roundFirst  = 2048 // newest messages that are read when the broker was away
	roundNext   = 512  // and then, audit by audit, backwards through all of them
	roundEvents = 8    // in each of them, or fewer messages are read

	noteEvery = time.Second // how often the newest marks are written down
)

// A mark says at which place of the stream a row is.
type mark struct {
	seq uint64
	row int64
}

// tail is what the relay knows about its stream. How far the stream had come, and
// where its newest events are, is kept with the marks: a stream that is shorter
// than that later, or another one, or has something else there, has lost events
// that are marked as published.
type tail struct {
	known   bool // what the table says has been read
	good    bool // the stream is as long as it was; before that nothing is published
	asking  bool
	next    time.Time // not to be asked again before
	audit   time.Time // of the next look at what is in it
	answers chan finding
	looking sync.WaitGroup

	fresh   bool        // the table says nothing
	created string      // of the stream
	top     uint64      // highest sequence number that was acknowledged
	saved   uint64      // what the table says of top
	gaps    string      // those that were filled
	newest  []mark      // at most samples, the oldest first
	noted   time.Time   // when newest was written down
	round   uint64      // where the round through the stream is; 0: at its beginning
	suspect atomic.Bool // the broker was away, and may come back with less than it had
	now     atomic.Bool // an audit is wanted at once
}

func (t *tail) acknowledged(m mark) {
	t.top = max(t.top, m.seq)
	if len(t.newest) == samples {
		t.newest = append(t.newest[:0], t.newest[1:]...)
	}
	t.newest = append(t.newest, m)
}

// Audit has the stream looked at now and not when it is due.
func (r *Relay) Audit() {
	r.tail.now.Store(true)
	r.nudge()
}

// A question is about the stream as it was known when it was asked.
type question struct {
	audit   bool // look into it, too
	fresh   bool
	created string
	top     uint64
	gaps    string
	newest  []mark
	round   uint64
}

// A finding is the answer.
type finding struct {
	question question
	info     bus.StreamInfo
	created  string
	err      error // of an audit; other questions are asked until they are answered

	lost   []damage
	runs   []run // of marked rows that are not in the stream
	events int64 // in runs
	gaps   string
	round  uint64
}

// ask has the stream looked at if that is due, unless it is under way.
func (r *Relay) ask(ctx, asking context.Context) {
	t := &r.tail
	look, ok := r.cfg.Bus.(Inspector)
	if !ok {
		t.good = true
		return
	}
	if t.suspect.Swap(false) {
		t.good, t.round = false, 0
	}
	now := r.cfg.Now()
	if t.now.Swap(false) {
		t.audit = time.Time{}
	}
	if t.asking || now.Before(t.next) || t.good && now.Before(t.audit) {
		return
	}
	// What is acknowledged and not marked would be taken for marked if it came later.
	r.flush(ctx)
	if len(r.marked) > 0 || !t.known && !r.recall(ctx) {
		t.next = now.Add(scanEvery)
		return
	}
	q := question{audit: t.good, fresh: t.fresh, created: t.created, top: t.top, gaps: t.gaps, newest: append([]mark{}, t.newest...), round: t.round}
	t.asking = true
	t.looking.Go(func() {
		for wait := askFirst; ; wait = min(2*wait, askMost) {
			f, err := r.look(asking, look, q)
			if err == nil || q.audit {
				f.err = err
				t.answers <- f // there is room: one question at a time
				return
			}
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-asking.Done():
				timer.Stop()
				return
			}
		}
	})
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

const selectTail = `SELECT name, owner, epoch FROM leases WHERE name IN ('outbox stream', 'outbox marks', 'outbox gaps')`

// recall reads what was written down of the stream.
func (r *Relay) recall(ctx context.Context) bool {
	t := &r.tail
	rows, err := r.cfg.DB.Query(ctx, selectTail)
	if err == nil {
		defer rows.Close()
		t.fresh, t.created, t.top, t.gaps, t.newest, t.round = true, "", 0, "", nil, 0
		for rows.Next() {
			var name, text string
			var top int64
			if err = rows.Scan(&name, &text, &top); err != nil {
				break
			}
			switch name {
			case "outbox stream":
				t.fresh, t.created, t.top, t.saved = false, text, uint64(top), uint64(top)
			case "outbox marks":
				t.newest = parseMarks(text)
			case "outbox gaps":
				t.gaps = text
			}
		}
		if err == nil {
			err = rows.Err()
		}
	}
	if err != nil {
		r.cfg.Log.Warn("outbox not readable", "service", r.cfg.Service, "error", err)
		return false
	}
	t.known = true
	return true
}

const upsertTail = `
	INSERT INTO leases (name, owner, epoch, expires_at) VALUES (?, ?, ?, ?)
	ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, epoch = excluded.epoch`

// answered has what the stream lost published again. Consumers drop what they
// have seen.
func (r *Relay) answered(ctx context.Context, f finding) {
	t := &r.tail
	t.asking, t.next = false, r.cfg.Now().Add(scanEvery) // if a database or the broker is away
	if f.err != nil {
		level := slog.LevelWarn
		if errs.KindOf(f.err) == errs.Unavailable { // the bus tells of a broker that is away
			level = slog.LevelDebug
		}
		r.cfg.Log.Log(ctx, level, "the stream could not be audited", "stream", r.stream, "error", f.err)
		if errs.KindOf(f.err) == errs.NotFound {
			t.good = false
		}
		return
	}
	if len(f.lost) > 0 {
		r.forget(f.lost)
	}
	r.flush(ctx)
	if len(r.marked) > 0 {
		return
	}
	if f.question.fresh || len(f.lost) > 0 || f.gaps != f.question.gaps {
		if err := r.refill(ctx, f); err != nil {
			r.cfg.Log.Warn("what the stream lost cannot be published again yet", "service", r.cfg.Service, "error", err)
			return
		}
	}
	if len(f.lost) > 0 {
		r.cfg.Repaired(f.events)
		r.cfg.Log.Warn("the stream lost events; they are published again", "stream", r.stream, "why", f.lost[0].why, "first_seq", f.lost[0].first,
			"last_seq", f.info.LastSeq, "events", f.events)
		r.recent = [2]map[int64]bool{{}, {}}
		t.newest = nil
	}
	t.gaps, t.round, t.next = f.gaps, f.round, time.Time{}
	t.audit = r.cfg.Now().Add(r.cfg.AuditEvery*9/10 + rand.N(r.cfg.AuditEvery/5+1))
	if f.question.fresh || len(f.lost) > 0 {
		t.fresh, t.created, t.top, t.saved = false, f.created, f.info.LastSeq, f.info.LastSeq
	}
	if !f.question.audit {
		t.good, t.audit = true, time.Time{} // now look into it
	}
	if !f.question.audit || len(f.runs) > 0 {
		r.behind, r.cursor = true, 0
	}
}

// forget takes back acknowledgements that the stream does not know any more.
func (r *Relay) forget(lost []damage) {
	kept := r.marked[:0]
	for _, m := range r.marked {
		if gone(lost, m.seq) {
			delete(r.taken, m.row)
			continue
		}
		kept = append(kept, m)
	}
	r.marked = kept
}

// refill makes rows pending again and writes down how the stream is now.
func (r *Relay) refill(ctx context.Context, f finding) error {
	const at = 256 // runs in a transaction
	for i := 0; ; i += at {
		var b sqldb.Batch
		for _, n := range f.runs[min(i, len(f.runs)):min(i+at, len(f.runs))] {
			b.Exec(`INSERT INTO outbox_pending (seq) SELECT seq FROM outbox WHERE seq BETWEEN ? AND ? ON CONFLICT DO NOTHING`, n.first, n.last)
		}
		last := i+at >= len(f.runs)
		if last {
			never := time.Unix(0, 0)
			b.Exec(upsertTail, "outbox gaps", f.gaps, int64(0), never)
			if f.question.fresh || len(f.lost) > 0 {
				b.Exec(upsertTail, "outbox stream", f.created, int64(f.info.LastSeq), never)
				b.Exec(upsertTail, "outbox marks", "", int64(0), never)
			}
		}
		tx, err := r.cfg.DB.Begin(ctx)
		if err == nil {
			err = tx.Commit(ctx, &b)
		}
		if err != nil || last {
			return err
		}
	}
}

// saveTail adds to a batch of marks how far the stream has come.
func (r *Relay) saveTail(b *sqldb.Batch) {
	t := &r.tail
	if t.top > t.saved {
		b.Exec(`UPDATE leases SET epoch = ? WHERE name = 'outbox stream' AND owner = ? AND epoch < ?`, int64(t.top), t.created, int64(t.top))
	}
	if now := r.cfg.Now(); len(t.newest) > 0 && now.Sub(t.noted) >= noteEvery {
		t.noted = now
		b.Exec(upsertTail, "outbox marks", formatMarks(t.newest), int64(0), time.Unix(0, 0))
	}
}

func formatMarks(marks []mark) string {
	var b strings.Builder
	for _, m := range marks {
		fmt.Fprintf(&b, "%d:%d ", m.seq, m.row)
	}
	return b.String()
}

func parseMarks(text string) (marks []mark) {
	for part := range strings.FieldsSeq(text) {
		seq, row, _ := strings.Cut(part, ":")
		s, err1 := strconv.ParseUint(seq, 10, 64)
		n, err2 := strconv.ParseInt(row, 10, 64)
		if errors.Join(err1, err2) == nil {
			marks = append(marks, mark{s, n})
		}
	}
	return marks
}
