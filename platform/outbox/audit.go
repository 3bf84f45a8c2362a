package outbox

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

const (
	// disorder is by how many rows the order of a stream may differ from that of
	// the table, with room to spare.
	disorder = 10_000
	// nearby is how many messages beside a damage say which rows it is about.
	nearby = 64
	// readAt is how many messages are read at once, and rowsAt how many rows.
	readAt = 64
	rowsAt = 1024
)

// A damage is a part of the stream whose events are not there, or not those that
// were.
type damage struct {
	first, last uint64
	why         string
}

const end = math.MaxUint64

// gone tells whether a place of the stream is damaged.
func gone(lost []damage, seq uint64) bool {
	return slices.ContainsFunc(lost, func(d damage) bool { return d.first <= seq && seq <= d.last })
}

// look compares the stream with what is known of it.
func (r *Relay) look(ctx context.Context, stream Inspector, q question) (f finding, err error) {
	f = finding{question: q, gaps: q.gaps, round: q.round}
	if f.info, err = stream.StreamInfo(ctx, r.stream); err != nil {
		return f, err
	}
	f.created = f.info.Created.UTC().Format(time.RFC3339Nano)
	a := &auditor{r: r, stream: stream, f: &f}
	switch {
	case q.fresh:
		f.gaps = ""
	case q.created != f.created:
		f.lost, f.gaps = []damage{{0, end, "it is another stream"}}, ""
	case f.info.LastSeq < q.top:
		f.lost = []damage{{f.info.LastSeq + 1, end, fmt.Sprintf("it had come to %d", q.top)}}
	case q.audit:
		err = a.audit(ctx)
	}
	for _, d := range f.lost {
		if err == nil {
			err = a.missing(ctx, d)
		}
	}
	return f, err
}

// An auditor looks into a stream.
type auditor struct {
	r      *Relay
	stream Inspector
	f      *finding
}

// audit looks for gaps, for the newest marks, at strays and at the next messages of
// the round. What it costs does not grow with the stream.
func (a *auditor) audit(ctx context.Context) error {
	known := parseSpans(a.f.question.gaps)
	var gaps []bus.Span
	if a.f.info.Missing > 0 {
		var err error
		if gaps, err = a.stream.Gaps(ctx, a.r.stream); err != nil {
			return err
		}
	}
	want := map[uint64]int64{} // the row that must be there, 0 for any
	for _, seq := range a.strays() {
		want[seq] = 0
	}
	for _, m := range a.f.question.newest {
		if m.seq >= a.f.info.FirstSeq {
			want[m.seq] = m.row
		}
	}
	bad, others, _, err := a.compare(ctx, want)
	if err != nil {
		return err
	}
	more, err := a.round(ctx)
	if err != nil {
		return err
	}
	for _, seq := range append(bad, more...) {
		if within(known, seq) || within(gaps, seq) {
			continue
		}
		span, err := a.around(ctx, seq)
		if err != nil {
			return err
		}
		gaps = append(gaps, span)
	}
	for _, g := range gaps {
		if !within(known, g.First) || !within(known, g.Last) {
			a.f.lost = append(a.f.lost, damage{g.First, g.Last, "messages are not there or cannot be read"})
		}
	}
	if len(others) > 0 {
		d := damage{others[0], end, "it has other events than were put there"}
		if oldest := a.f.question.newest[0]; others[0] <= oldest.seq {
			d.first = 0 // nobody knows since when
		}
		a.f.lost = append(a.f.lost, d)
	}
	// What is older than the stream's first message is forgotten.
	var now []bus.Span
	for _, g := range append(known, gaps...) {
		if g.Last >= a.f.info.FirstSeq {
			now = append(now, g)
		}
	}
	a.f.gaps = formatSpans(now)
	return nil
}

// strays gives places anywhere in the stream.
func (a *auditor) strays() (seqs []uint64) {
	first, last := a.f.info.FirstSeq, a.f.info.LastSeq
	if last < first || last == 0 {
		return nil
	}
	for range strays {
		seqs = append(seqs, first+rand.N(last-first+1))
	}
	return seqs
}

// round compares the next messages of the round, those of a number and as many of
// them as have some events each.
func (a *auditor) round(ctx context.Context) (bad []uint64, err error) {
	first, last := a.f.info.FirstSeq, a.f.info.LastSeq
	if last < first || last == 0 {
		return nil, nil
	}
	top, left := a.f.round, uint64(roundNext)
	if top < first || top > last {
		top, left = last, roundFirst
	}
	events := int(left) * roundEvents
	for left > 0 && events > 0 && top >= first {
		n := min(left, readAt, top-first+1)
		want := map[uint64]int64{}
		for seq := top - n + 1; seq <= top; seq++ {
			want[seq] = 0
		}
		worse, _, compared, err := a.compare(ctx, want)
		if err != nil {
			return nil, err
		}
		bad = append(bad, worse...)
		top, left, events = top-n, left-n, events-compared
	}
	a.f.round = top // below first the round begins again
	return bad, nil
}

// compare holds messages against rows; one that must have a row is only asked for
// that. bad are places at which there is no message that can be read and agrees with
// its rows, others those with a good message that has not the row that must be there;
// both in order. compared is how many events were looked at.
func (a *auditor) compare(ctx context.Context, want map[uint64]int64) (bad, others []uint64, compared int, err error) {
	seqs := make([]uint64, 0, len(want))
	for s := range want {
		seqs = append(seqs, s)
	}
	slices.Sort(seqs)
	for some := range slices.Chunk(seqs, readAt) {
		msgs, err := a.stream.ReadStream(ctx, a.r.stream, some)
		if err != nil {
			return nil, nil, 0, err
		}
		said := make([][]*Event, len(msgs))
		var all []*Event
		for i, m := range msgs {
			events, ok := eventsOf(m)
			row := want[some[i]]
			switch {
			case !ok:
				bad = append(bad, some[i])
			case row != 0 && len(events) > 0: // what tells no row is of an older build
				at := slices.IndexFunc(events, func(e *Event) bool { return e.Seq == row })
				if at < 0 {
					others = append(others, some[i])
					continue
				}
				events = events[at : at+1]
			}
			said[i] = events
			all = append(all, events...)
		}
		compared += len(all)
		rows, err := a.rows(ctx, all)
		if err != nil {
			return nil, nil, 0, err
		}
		for i, seq := range some {
			if slices.ContainsFunc(said[i], func(e *Event) bool { return rows[e.Seq] != nil && !rows[e.Seq].same(e) }) {
				bad = append(bad, seq)
			}
		}
	}
	slices.Sort(bad)
	return bad, others, compared, nil
}

// same tells whether another reading of the row gave the same event.
func (e *Event) same(other *Event) bool {
	return e.ID == other.ID && bytes.Equal(e.Payload, other.Payload)
}

// rows reads what the table has of events; those that were cleared away are not there.
func (a *auditor) rows(ctx context.Context, events []*Event) (map[int64]*Event, error) {
	found := map[int64]*Event{}
	for some := range slices.Chunk(events, rowsAt) {
		args := make([]any, len(some))
		for i, e := range some {
			args[i] = e.Seq
		}
		err := sqldb.Each(ctx, a.r.cfg.DB, `SELECT seq, event_id, payload FROM outbox WHERE seq IN (?`+strings.Repeat(", ?", len(args)-1)+`)`, args, func(s sqldb.Scanner) error {
			e := &Event{}
			err := s.Scan(&e.Seq, &e.ID, &e.Payload)
			found[e.Seq] = e
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// around gives the run of bad messages that seq lies in.
func (a *auditor) around(ctx context.Context, seq uint64) (bus.Span, error) {
	s := bus.Span{First: seq, Last: seq}
	for s.First > a.f.info.FirstSeq {
		from := max(a.f.info.FirstSeq, s.First-min(s.First, readAt))
		n, err := a.badNext(ctx, from, s.First-1, true)
		if err != nil {
			return s, err
		}
		s.First -= n
		if n < readAt {
			break
		}
	}
	for s.Last < a.f.info.LastSeq {
		n, err := a.badNext(ctx, s.Last+1, min(a.f.info.LastSeq, s.Last+readAt), false)
		if err != nil {
			return s, err
		}
		s.Last += n
		if n < readAt {
			break
		}
	}
	return s, nil
}

// badNext counts how many messages of from to last cannot be read, beginning at
// one end and up to the first that can.
func (a *auditor) badNext(ctx context.Context, from, last uint64, backwards bool) (n uint64, err error) {
	msgs, err := a.stream.ReadStream(ctx, a.r.stream, seqsOf(from, last))
	if err != nil {
		return 0, err
	}
	if backwards {
		slices.Reverse(msgs)
	}
	for _, m := range msgs {
		if m != nil {
			break
		}
		n++
	}
	return n, nil
}

// missing finds the marked rows that a damage took from the stream.
func (a *auditor) missing(ctx context.Context, d damage) error {
	info := a.f.info
	lo, hi := int64(0), int64(math.MaxInt64)
	if d.first > info.FirstSeq {
		row, err := a.highest(ctx, max(info.FirstSeq, d.first-min(d.first, nearby)), d.first-1)
		if err != nil {
			return err
		}
		lo = max(0, row-disorder)
	}
	if d.last < info.LastSeq {
		row, err := a.highest(ctx, d.last+1, min(info.LastSeq, d.last+nearby))
		if err != nil {
			return err
		}
		if row > 0 {
			hi = row + disorder
		}
	}
	// First the rows and then the stream: what is marked has been in it before.
	rows, err := a.marked(ctx, lo, hi)
	if err != nil {
		return err
	}
	now, err := a.stream.StreamInfo(ctx, a.r.stream)
	if err != nil {
		return err
	}
	from, to := now.FirstSeq, now.LastSeq
	if d.first > disorder {
		from = max(from, d.first-disorder)
	}
	if d.last < now.LastSeq && now.LastSeq-d.last > disorder {
		to = d.last + disorder
	}
	if to >= from && to-from > 5*disorder { // what is not looked at is only repeated
		from = to - 5*disorder
	}
	there, err := a.there(ctx, from, to)
	if err != nil {
		return err
	}
	for _, n := range without(rows, there) {
		a.f.runs = append(a.f.runs, n)
		a.f.events += n.last - n.first + 1
	}
	return nil
}

// highest gives the highest row among messages, 0 if none tells.
func (a *auditor) highest(ctx context.Context, from, last uint64) (row int64, err error) {
	msgs, err := a.stream.ReadStream(ctx, a.r.stream, seqsOf(from, last))
	for _, m := range msgs {
		events, _ := eventsOf(m)
		for _, e := range events {
			row = max(row, e.Seq)
		}
	}
	return row, err
}

// there gives the rows whose events lie in a part of the stream, in order.
func (a *auditor) there(ctx context.Context, from, last uint64) (rows []int64, err error) {
	for ; from <= last && last > 0; from += readAt {
		msgs, err := a.stream.ReadStream(ctx, a.r.stream, seqsOf(from, min(last, from+readAt-1)))
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			events, _ := eventsOf(m)
			for _, e := range events {
				rows = append(rows, e.Seq)
			}
		}
	}
	slices.Sort(rows)
	return rows, nil
}

// A run is of rows without a gap, both ends included.
type run struct{ first, last int64 }

const selectMarked = `
	SELECT o.seq
	  FROM outbox o
	 WHERE o.seq > ? AND o.seq <= ? AND NOT EXISTS (SELECT 1 FROM outbox_pending p WHERE p.seq = o.seq)
	 ORDER BY o.seq
	 LIMIT ?`

// marked gives the rows after lo up to hi that are marked as published.
func (a *auditor) marked(ctx context.Context, lo, hi int64) (runs []run, err error) {
	for full := true; full; {
		rows, err := a.r.cfg.DB.Query(ctx, selectMarked, lo, hi, disorder)
		if err != nil {
			return nil, err
		}
		n := 0
		for ; rows.Next(); n++ {
			if err = rows.Scan(&lo); err != nil {
				break
			}
			if i := len(runs); i > 0 && runs[i-1].last == lo-1 {
				runs[i-1].last = lo
			} else {
				runs = append(runs, run{lo, lo})
			}
		}
		if err == nil {
			err = rows.Err()
		}
		rows.Close()
		if err != nil {
			return nil, err
		}
		full = n == disorder
	}
	return runs, nil
}

// without takes single rows, in order, out of runs.
func without(runs []run, rows []int64) (left []run) {
	for _, n := range runs {
		at, _ := slices.BinarySearch(rows, n.first)
		for ; at < len(rows) && rows[at] <= n.last; at++ {
			if rows[at] > n.first {
				left = append(left, run{n.first, rows[at] - 1})
			}
			n.first = max(n.first, rows[at]+1)
		}
		if n.first <= n.last {
			left = append(left, n)
		}
	}
	return left
}

func seqsOf(from, last uint64) (seqs []uint64) {
	for s := from; s <= last; s++ {
		seqs = append(seqs, s)
	}
	return seqs
}

func within(spans []bus.Span, seq uint64) bool {
	return slices.ContainsFunc(spans, func(s bus.Span) bool { return s.First <= seq && seq <= s.Last })
}

func formatSpans(spans []bus.Span) string {
	var parts []string
	for _, s := range spans {
		if p := fmt.Sprintf("%d-%d", s.First, s.Last); !slices.Contains(parts, p) {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, " ")
}

func parseSpans(text string) (spans []bus.Span) {
	for part := range strings.FieldsSeq(text) {
		var s bus.Span
		if _, err := fmt.Sscanf(part, "%d-%d", &s.First, &s.Last); err == nil {
			spans = append(spans, s)
		}
	}
	return spans
}
