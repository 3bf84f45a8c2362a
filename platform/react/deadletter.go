package react

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/inbox"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// A class says why a message was given up, as the table has it.
type class string

const (
	malformed class = "MALFORMED"    // it cannot be read
	refused   class = "REFUSED"      // doing the same again would be refused again
	exhausted class = "EXHAUSTED"    // its step failed too often
	gaveUp    class = "CALL_GAVE_UP" // a call that cannot be made or folded
)

// deadLetter is a message that this service has given up. Its inbox row stays, so
// that the event is done only if somebody redrives it, and then once: the row of
// the dead letter goes in the transaction that does it. One without a stream is a
// call to the outside.
type deadLetter struct {
	id, eventID, typ, aggregateID, stream string
	seq                                   int64
	payload                               []byte
	reason, detail                        string
	attempts                              int64
	cause, traceparent                    string
	last                                  time.Time
	class                                 class
	subject                               string
	headers                               map[string]string
	first, redrive                        time.Time // zero: not said, not wanted
	by, why                               string    // of the redrive that is wanted
}

var deadLetters = &sqldb.Table{
	Name: "dead_letters",
	Key:  []string{"dead_letter_id"},
	Columns: []sqldb.Column{
		{Name: "dead_letter_id", Type: sqldb.Text},
		{Name: "event_id", Type: sqldb.Text},
		{Name: "type", Type: sqldb.Text},
		{Name: "aggregate_id", Type: sqldb.Text},
		{Name: "stream", Type: sqldb.Text},
		{Name: "stream_seq", Type: sqldb.Int},
		{Name: "payload", Type: sqldb.Bytes},
		{Name: "reason", Type: sqldb.Text},
		{Name: "detail", Type: sqldb.Text},
		{Name: "attempts", Type: sqldb.Int},
		{Name: "cause", Type: sqldb.Text},
		{Name: "traceparent", Type: sqldb.Text},
		{Name: "created_at", Type: sqldb.Time},
		{Name: "class", Type: sqldb.Text},
		{Name: "subject", Type: sqldb.Text},
		{Name: "headers", Type: sqldb.Bytes},
		{Name: "first_at", Type: sqldb.Time, Nullable: true},
		{Name: "redrive_at", Type: sqldb.Time, Nullable: true},
		{Name: "redrive_by", Type: sqldb.Text},
		{Name: "redrive_reason", Type: sqldb.Text},
	},
}

func (d *deadLetter) row() []any {
	headers, _ := json.Marshal(d.headers) // a map of strings always encodes
	return []any{
		d.id, d.eventID, d.typ, d.aggregateID, d.stream, d.seq, d.payload, d.reason, d.detail, d.attempts, d.cause, d.traceparent, d.last,
		string(d.class), d.subject, headers, sqldb.OrNull(d.first), sqldb.OrNull(d.redrive), d.by, d.why,
	}
}

func scanDeadLetter(s sqldb.Scanner) (*deadLetter, error) {
	d := &deadLetter{}
	var kind string
	var headers []byte
	var first, redrive *time.Time
	if err := s.Scan(&d.id, &d.eventID, &d.typ, &d.aggregateID, &d.stream, &d.seq, &d.payload, &d.reason, &d.detail, &d.attempts, &d.cause,
		&d.traceparent, &d.last, &kind, &d.subject, &headers, &first, &redrive, &d.by, &d.why); err != nil {
		return nil, err
	}
	d.class, d.first, d.redrive = class(kind), sqldb.OrZero(first), sqldb.OrZero(redrive)
	if len(headers) > 0 {
		if err := json.Unmarshal(headers, &d.headers); err != nil {
			return nil, errs.Wrap(err, errs.Internal, "", "the headers of dead letter %s cannot be read", d.id)
		}
	}
	return d, nil
}

// failed notes one more failure.
func (d *deadLetter) failed(c class, err error, now time.Time) {
	d.class, d.reason, d.detail, d.last = c, reasonOf(err), storable(err.Error()), now
	d.attempts++
	d.redrive, d.by, d.why = time.Time{}, "", ""
}

// reasonOf gives what was wrong in one word.
func reasonOf(err error) string {
	var p *panicError
	switch {
	case errs.ReasonOf(err) != "":
		return errs.ReasonOf(err)
	case errors.As(err, &p):
		return "PANIC"
	}
	return strings.ToUpper(strings.ReplaceAll(errs.KindOf(err).String(), " ", "_"))
}

// storable gives s as both databases take it. What strangers publish may be anything.
func storable(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// nameless gives an id for a message that has none that can be kept. It is the same
// when the message comes again, so that it becomes one dead letter.
func nameless(d *bus.Delivery) string {
	h := sha256.New()
	h.Write([]byte(d.Stream + "\x00" + strconv.FormatUint(d.Seq, 10) + "\x00" + d.Subject + "\x00"))
	h.Write(d.Data)
	return "unnamed-" + hex.EncodeToString(h.Sum(nil)[:16])
}

// bury makes a dead letter of an event.
func (r *Reactor) bury(it *item, c class, before failure, now time.Time) *deadLetter {
	d, m := it.delivery, it.message
	headers := d.Headers()
	for k, v := range headers {
		headers[k] = storable(v)
	}
	letter := &deadLetter{
		id: r.cfg.NewID(), eventID: m.ID, typ: storable(m.Type), aggregateID: storable(m.AggregateID), stream: d.Stream, seq: int64(d.Seq), payload: d.Data,
		attempts: before.attempts, cause: storable(m.Cause), traceparent: formatTrace(m.Trace),
		subject: storable(d.Subject), headers: headers, first: before.first,
	}
	if letter.first.IsZero() {
		letter.first = now
	}
	letter.failed(c, it.err, now)
	return letter
}

// The headers of a call among dead letters.
const (
	headerKey  = "idempotency-key"
	headerHops = "hops"
)

// buryCall makes a dead letter of a call to the outside.
func (r *Reactor) buryCall(c *effect.Call, err error, now time.Time) *deadLetter {
	letter := &deadLetter{
		id: r.cfg.NewID(), eventID: c.ID, typ: c.Kind, aggregateID: c.AggregateID, payload: c.Payload, attempts: c.Attempt - 1, cause: c.Cause,
		traceparent: c.Traceparent, headers: map[string]string{headerKey: c.Key, headerHops: strconv.FormatInt(c.Hops, 10)}, first: now,
	}
	letter.failed(gaveUp, err, now)
	return letter
}

// call gives the call back.
func (d *deadLetter) call(now time.Time) *effect.Call {
	hops, _ := strconv.ParseInt(d.headers[headerHops], 10, 64)
	return &effect.Call{
		ID: d.eventID, Kind: d.typ, Key: d.headers[headerKey], AggregateID: d.aggregateID, Payload: d.payload, RunAt: now,
		Cause: d.cause, Hops: hops, Traceparent: d.traceparent,
	}
}

// delivery gives the event back as it came.
func (d *deadLetter) delivery() *bus.Delivery {
	headers := maps.Clone(d.headers)
	if len(headers) == 0 { // written by version 1 of the tables
		headers = map[string]string{
			outbox.HeaderID: d.eventID, outbox.HeaderType: d.typ, outbox.HeaderSubject: d.aggregateID, outbox.HeaderCause: d.cause, outbox.HeaderTrace: d.traceparent,
		}
	}
	subject := d.subject
	if subject == "" {
		subject = outbox.Subject(d.typ, d.aggregateID)
	}
	return bus.NewDelivery(bus.Msg{ID: d.eventID, Subject: subject, Header: headers, Data: d.payload}, d.stream, uint64(d.seq), 1, d.last,
		func(bus.End, time.Duration) error { return nil })
}

// failure counts how often the step of an event has failed so far.
type failure struct {
	eventID  string
	attempts int64
	first    time.Time
	stored   bool
}

var failures = &sqldb.Table{
	Name: "failures",
	Key:  []string{"event_id"},
	Columns: []sqldb.Column{
		{Name: "event_id", Type: sqldb.Text},
		{Name: "attempts", Type: sqldb.Int},
		{Name: "first_at", Type: sqldb.Time},
	},
}

// loadLetters adds to the first round trip what is known of messages that failed
// before.
func loadLetters(b *sqldb.Batch, f *fetch) {
	if len(f.again) > 0 {
		f.failures = make(map[string]failure, len(f.again))
		b.Load(failures, f.again, false, func(s sqldb.Scanner) error {
			x := failure{stored: true}
			err := s.Scan(&x.eventID, &x.attempts, &x.first)
			f.failures[x.eventID] = x
			return err
		})
	}
	if len(f.letters) > 0 {
		f.dead = make(map[string]*deadLetter, len(f.letters))
		b.Load(deadLetters, f.letters, true, func(s sqldb.Scanner) error {
			d, err := scanDeadLetter(s)
			if err == nil {
				f.dead[d.id] = d
			}
			return err
		})
	}
}

// saveLetters adds to the last round trip what becomes of messages that failed.
func saveLetters(b *sqldb.Batch, w *writes) {
	insert := func(t *sqldb.Table, rows [][]any) {
		if len(rows) > 0 {
			b.Insert(t, rows)
		}
	}
	var rows, changed [][]any
	for _, d := range w.dead {
		rows = append(rows, d.row())
	}
	insert(deadLetters, rows)
	rows = nil
	for _, d := range w.died {
		rows = append(rows, d.row())
	}
	if len(rows) > 0 {
		b.Update(deadLetters, rows)
	}
	if len(w.risen) > 0 {
		b.DeleteReturning(deadLetters, w.risen, nil)
	}
	rows = nil
	for _, x := range w.failed {
		if row := []any{x.eventID, x.attempts, x.first}; x.stored {
			changed = append(changed, row)
		} else {
			rows = append(rows, row)
		}
	}
	if len(rows) > 0 {
		b.InsertNew(failures, rows, nil) // there is one if the broker has forgotten that the event came before
	}
	if len(changed) > 0 {
		b.Update(failures, changed)
	}
	if len(w.healed) > 0 {
		b.DeleteReturning(failures, w.healed, nil)
	}
	for _, x := range w.execs {
		b.Exec(x.sql, x.args...)
	}
	for _, id := range w.forget {
		inbox.Forget(b, id)
	}
}

// fail decides what becomes of an event whose step failed.
func (r *Reactor) fail(it *item, f *fetch, w *writes, now time.Time, alone bool) {
	id := it.message.ID
	var unnamed *unnamedError
	if errors.As(it.err, &unnamed) && !alone { // no fault of the event; it is done by itself next
		it.retry = true
		w.forget = append(w.forget, id)
		return
	}
	before := f.failures[id]
	switch {
	case it.bad != nil:
		r.giveUp(it, malformed, before, w, now)
	case it.failed == nil && errs.Permanent(it.err):
		r.giveUp(it, refused, before, w, now)
	case before.attempts+1 >= int64(r.cfg.MaxAttempts):
		r.giveUp(it, exhausted, before, w, now)
	default:
		it.retry = true
		w.forget = append(w.forget, id)
		if !before.stored {
			before = failure{eventID: id, first: now}
		}
		before.attempts++
		w.failed = append(w.failed, before)
	}
}

// giveUp puts an event among the dead letters.
func (r *Reactor) giveUp(it *item, c class, before failure, w *writes, now time.Time) {
	if before.stored {
		w.healed = append(w.healed, before.eventID)
	}
	r.tell(w, r.bury(it, c, before, now))
}

// tell keeps a dead letter and calls people, once it is stored.
func (r *Reactor) tell(w *writes, d *deadLetter) {
	w.dead = append(w.dead, d)
	w.after = append(w.after, func() {
		r.cfg.Log.Error("a message became a dead letter", "service", r.machine.name, "dead_letter_id", d.id, "class", string(d.class), "reason", d.reason,
			"what", d.typ, "aggregate_id", d.aggregateID, "event_id", d.eventID, "attempts", d.attempts, "trace_id", parseTrace(d.traceparent).TraceID().String())
	})
}
