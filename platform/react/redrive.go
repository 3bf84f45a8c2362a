package react

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/sqldb"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
)

const (
	redriveEvery = 2 * time.Second // how soon what another replica was asked is noticed
	redrivePage  = 100

	defaultLimit, maxLimit = 100, 1000
	defaultRate            = 20
)

// DeadLetters are the messages that a service has given up, and what can be done
// about them. It is safe for concurrent use.
type DeadLetters struct {
	r    *Reactor
	kick chan struct{} // something is to be tried again
}

// DeadLetters gives those of the reactor's service.
func (r *Reactor) DeadLetters() *DeadLetters { return &r.letters }

// actions is the record of what was done about dead letters.
var actions = &sqldb.Table{
	Name: "dead_letter_actions",
	Key:  []string{"action_id"},
	Columns: []sqldb.Column{
		{Name: "action_id", Type: sqldb.Text},
		{Name: "dead_letter_id", Type: sqldb.Text},
		{Name: "event_id", Type: sqldb.Text},
		{Name: "type", Type: sqldb.Text},
		{Name: "aggregate_id", Type: sqldb.Text},
		{Name: "deed", Type: sqldb.Int},
		{Name: "user_id", Type: sqldb.Text},
		{Name: "reason", Type: sqldb.Text},
		{Name: "outcome", Type: sqldb.Text},
		{Name: "created_at", Type: sqldb.Time},
	},
}

// act makes an entry of the record, its row, and a line of the log for after the
// commit.
func (r *Reactor) act(d *deadLetter, deed opsv1.DeadLetterDeed, by, why, outcome string, now time.Time) (*opsv1.DeadLetterAction, appended, func()) {
	a := &opsv1.DeadLetterAction{
		ActionId: r.cfg.NewID(), DeadLetterId: d.id, EventId: d.eventID, Type: d.typ, AggregateId: d.aggregateID,
		Deed: deed, UserId: by, Reason: why, Outcome: outcome, CreateTime: timestamppb.New(now),
	}
	row := []any{a.ActionId, a.DeadLetterId, a.EventId, a.Type, a.AggregateId, int64(a.Deed), a.UserId, a.Reason, a.Outcome, now}
	return a, appended{actions, row}, func() {
		r.cfg.Log.Info("dead letter", "service", r.machine.name, "deed", deed.String(), "dead_letter_id", d.id, "user_id", by, "reason", why, "outcome", outcome,
			"what", d.typ, "aggregate_id", d.aggregateID, "event_id", d.eventID)
	}
}

// claim takes the dead letter that the item is about. Who comes second does nothing.
func (it *item) claim(f *fetch) bool {
	d := f.dead[it.letter]
	if d == nil || it.redrives && d.redrive.IsZero() {
		if !it.redrives {
			it.err = noLetter(it.letter)
		}
		return false
	}
	delete(f.dead, it.letter)
	it.found = d
	return true
}

func noLetter(id string) error {
	return errs.E(errs.NotFound, "DEAD_LETTER_NOT_FOUND", "there is no dead letter %s; the list of actions tells what became of it", id)
}

// concludeLetter decides what becomes of a dead letter.
func (r *Reactor) concludeLetter(it *item, w *writes, now time.Time, alone bool) {
	d := it.found
	if !it.redrives {
		if it.err == nil {
			w.risen = append(w.risen, d.id)
		}
		return
	}
	var unnamed *unnamedError
	if errors.As(it.err, &unnamed) && !alone {
		return // it is done by itself next
	}
	by, why := d.by, d.why
	deed, outcome := opsv1.DeadLetterDeed_DEAD_LETTER_DEED_REDRIVEN, "done"
	if it.err == nil {
		w.risen = append(w.risen, d.id)
	} else {
		c := exhausted
		switch {
		case d.stream == "":
			c = gaveUp
		case it.bad != nil:
			c = malformed
		case it.failed == nil && errs.Permanent(it.err):
			c = refused
		}
		d.failed(c, it.err, now)
		deed, outcome = opsv1.DeadLetterDeed_DEAD_LETTER_DEED_REDRIVE_FAILED, d.reason
		w.died = append(w.died, d)
	}
	_, row, log := r.act(d, deed, by, why, outcome, now)
	w.rows, w.after = append(w.rows, row), append(w.after, log)
}

// again gives the item that tries a dead letter again.
func (r *Reactor) again(d *deadLetter) *item {
	if d.stream == "" {
		return &item{letter: d.id, redrives: true, trace: parseTrace(d.traceparent), replied: make(chan error, 1), step: func(v *View) error {
			v.calls = append(v.calls, d.call(v.now))
			return nil
		}}
	}
	m, err := decode(d.delivery())
	it := &item{letter: d.id, redrives: true, message: m, bad: err, trace: m.Trace, hops: m.Hops + 1, replied: make(chan error, 1)}
	if err == nil {
		h, ok := r.machine.events[m.Type]
		if !ok {
			it.bad = errs.E(errs.Unimplemented, "UNKNOWN_EVENT", "the %s service does not handle %s", r.machine.name, m.Type)
			return it
		}
		it.needs = func(v *View) []Ref { return h.needs(v, m.Event) }
		it.step = func(v *View) error { return h.step(v, m.Event) }
		r.startSpan(it, "redrive "+m.Type, trace.SpanKindConsumer)
	}
	return it
}

// work tries again what is due, one after the other. All replicas do; the row of a
// dead letter lets one of them.
func (l *DeadLetters) work(ctx context.Context) {
	timer := time.NewTimer(redriveEvery)
	defer timer.Stop()
	for {
		wait := l.due(ctx)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-l.kick:
		case <-timer.C:
		}
	}
}

// due tries again what is due now and gives how long nothing else is.
func (l *DeadLetters) due(ctx context.Context) time.Duration {
	for {
		letters, err := l.waiting(ctx)
		if err != nil && ctx.Err() == nil {
			l.r.cfg.Log.Warn("dead letters not readable, will try again", "service", l.r.machine.name, "error", err)
		}
		stuck := false
		for _, d := range letters {
			if wait := d.redrive.Sub(l.r.cfg.Now()); wait > 0 {
				return min(wait, redriveEvery)
			}
			it := l.r.again(d)
			if l.r.enqueue(ctx, it) != nil {
				return redriveEvery
			}
			select {
			case err := <-it.replied:
				if sqldb.Unavailable(err) {
					return redriveEvery
				}
				stuck = stuck || it.retry // nothing was stored
			case <-ctx.Done():
				return redriveEvery
			}
		}
		if len(letters) < redrivePage || stuck {
			return redriveEvery
		}
	}
}

func (l *DeadLetters) waiting(ctx context.Context) ([]*deadLetter, error) {
	return sqldb.All(ctx, l.r.cfg.DB, selectLetters+` WHERE redrive_at IS NOT NULL ORDER BY redrive_at, dead_letter_id LIMIT ?`, []any{redrivePage}, scanDeadLetter)
}

func (l *DeadLetters) nudge() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// Redrive has dead letters tried again, in the name of by. Under the idempotency
// key of ctx they are asked for once. Errors about the request are Invalid.
func (l *DeadLetters) Redrive(ctx context.Context, by string, req *opsv1.RedriveDeadLettersRequest) (*opsv1.RedriveDeadLettersResponse, error) {
	if (len(req.GetDeadLetterIds()) > 0) == (req.GetFilter() != "") {
		return nil, errs.E(errs.Invalid, "WHICH_DEAD_LETTERS", "say which: either dead_letter_ids or a filter; attempts > 0 is all of them").
			WithFields(errs.Field{Path: "filter", Problem: "must be given, or dead_letter_ids, and not both"})
	}
	limit := int(req.GetLimit())
	if limit == 0 {
		limit = defaultLimit
	}
	wanted, err := l.choose(ctx, req, limit+1)
	if err != nil {
		return nil, err
	}
	resp := &opsv1.RedriveDeadLettersResponse{More: len(wanted) > limit}
	wanted = wanted[:min(len(wanted), limit)]
	rate := int(req.GetRate())
	if rate == 0 {
		rate = defaultRate
	}
	return Do(ctx, l.r, func(*View) []Ref { return nil }, func(v *View) (*opsv1.RedriveDeadLettersResponse, error) {
		at, ids := v.now, make([]string, 0, len(wanted))
		for i, d := range wanted {
			at = v.now.Add(time.Duration(i) * time.Second / time.Duration(rate))
			v.execs = append(v.execs, exec{`UPDATE dead_letters SET redrive_at = ?, redrive_by = ?, redrive_reason = ? WHERE dead_letter_id = ? AND redrive_at IS NULL`,
				[]any{at, by, req.GetReason(), d.id}})
			ids = append(ids, d.id)
			_, row, log := l.r.act(d, opsv1.DeadLetterDeed_DEAD_LETTER_DEED_REDRIVE_REQUESTED, by, req.GetReason(), "", v.now)
			v.rows = append(v.rows, row)
			v.Committed(log)
		}
		if resp.Scheduled, resp.DeadLetterIds = int32(len(ids)), ids; len(ids) > 0 {
			resp.FirstRedriveTime, resp.LastRedriveTime = timestamppb.New(v.now), timestamppb.New(at)
		}
		v.Committed(l.nudge)
		return resp, nil
	})
}

// choose reads the dead letters that a request names and that do not wait already,
// the oldest first.
func (l *DeadLetters) choose(ctx context.Context, req *opsv1.RedriveDeadLettersRequest, limit int) ([]*deadLetter, error) {
	if ids := req.GetDeadLetterIds(); len(ids) > 0 {
		marks, args := sqldb.In(ids)
		return sqldb.All(ctx, l.r.cfg.DB, selectLetters+` WHERE redrive_at IS NULL AND dead_letter_id IN (`+marks+`) ORDER BY dead_letter_id`, args, scanDeadLetter)
	}
	var all []*deadLetter
	q := listing.Query{PageSize: listing.MaxPageSize, Filter: req.GetFilter(), OrderBy: "first_time"}
	for {
		page, err := letterList.Parse(q)
		if err != nil {
			return nil, err
		}
		rows, err := sqldb.All(ctx, l.r.cfg.DB, selectLetters+` WHERE redrive_at IS NULL AND `+page.SQL, page.Args, scanDeadLetter)
		if err != nil {
			return nil, err
		}
		rows, q.PageToken = letterList.Cut(page, rows)
		all = append(all, rows...)
		if len(all) >= limit || q.PageToken == "" {
			return all[:min(len(all), limit)], nil
		}
	}
}

// Discard throws a dead letter away, in the name of by. It fails with NotFound when
// there is none, or no more.
func (l *DeadLetters) Discard(ctx context.Context, by, id, reason string) (*opsv1.DeadLetterAction, error) {
	it := &item{letter: id, trace: trace.SpanContextFromContext(ctx), replied: make(chan error, 1), key: keyFrom(ctx), answer: &opsv1.DeadLetterAction{}}
	it.step = func(v *View) error {
		a, row, log := l.r.act(it.found, opsv1.DeadLetterDeed_DEAD_LETTER_DEED_DISCARDED, by, reason, string(it.found.class)+" "+it.found.reason, v.now)
		v.rows = append(v.rows, row)
		v.Committed(log)
		it.answer = a
		return nil
	}
	if err := l.r.enqueue(ctx, it); err != nil {
		return nil, err
	}
	select {
	case err := <-it.replied:
		if err != nil {
			return nil, err
		}
		return it.answer.(*opsv1.DeadLetterAction), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
