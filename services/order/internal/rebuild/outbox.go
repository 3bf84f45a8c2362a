package rebuild

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/order"
)

const (
	chapter = 4096 // rows of an outbox that are looked through at least
	maxIn   = 128  // rows that one statement reads
)

// always is more than any two clocks differ.
const always = time.Duration(1<<63 - 1)

// An outbox is read in chapters: nothing but the place of a row is indexed, since
// every commit would pay for it, but rows stand about in the order of their times.
type outbox struct {
	db    *sqldb.DB
	marks []mark // the first row of each chapter
}

type mark struct {
	seq int64
	at  time.Time
}

// extend finds the chapters that were added since it was called last.
func (o *outbox) extend(ctx context.Context) error {
	from := int64(0)
	if n := len(o.marks); n > 0 {
		from = o.marks[n-1].seq + chapter
	}
	for {
		var m mark
		err := o.db.QueryRow(ctx, `SELECT seq, created_at FROM outbox WHERE seq >= ? ORDER BY seq LIMIT 1`, from).Scan(&m.seq, &m.at)
		if errors.Is(err, sqldb.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		o.marks = append(o.marks, m)
		from = m.seq + chapter
	}
}

// A span is some rows, from the first to before the second.
type span struct{ from, before int64 }

// spans gives the chapters in which rows of these times may stand, if clocks differ
// by no more than slack.
func (o *outbox) spans(times []time.Time, slack time.Duration) (spans []span) {
	slices.SortFunc(times, time.Time.Compare)
	for i, m := range o.marks {
		s := span{m.seq, 1<<63 - 1}
		last := i == len(o.marks)-1
		if !last {
			s.before = o.marks[i+1].seq
		}
		if slack != always {
			at, _ := slices.BinarySearchFunc(times, m.at.Add(-slack), time.Time.Compare)
			if at == len(times) || !last && times[at].After(o.marks[i+1].at.Add(slack)) {
				continue
			}
		}
		if n := len(spans); n > 0 && spans[n-1].before == s.from {
			spans[n-1].before = s.before
		} else {
			spans = append(spans, s)
		}
	}
	return spans
}

// find gives fn the events in spans whose column has one of the values. The values
// are looked up here: a database may plan to go through all of them for every row.
func (o *outbox) find(ctx context.Context, spans []span, column string, values []string, fn func(about string, e order.Event)) error {
	wanted := make(map[string]bool, len(values))
	for _, v := range values {
		wanted[v] = true
	}
	var rows []any
	for _, s := range spans {
		if len(wanted) == 0 {
			return nil
		}
		err := sqldb.Each(ctx, o.db, `SELECT seq, `+column+` FROM outbox WHERE seq >= ? AND seq < ?`, []any{s.from, s.before}, func(row sqldb.Scanner) error {
			var seq int64
			var value string
			err := row.Scan(&seq, &value)
			if wanted[value] {
				rows = append(rows, seq)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for some := range slices.Chunk(rows, maxIn) {
		marks := strings.Repeat(", ?", len(some)-1)
		err := sqldb.Each(ctx, o.db, `SELECT event_id, type, aggregate_id, version, cause, payload, created_at FROM outbox WHERE seq IN (?`+marks+`)`, some, func(row sqldb.Scanner) error {
			var e order.Event
			var typ, about string
			var payload []byte
			if err := row.Scan(&e.ID, &typ, &about, &e.Version, &e.Cause, &payload, &e.Time); err != nil {
				return err
			}
			e.Message = decode(typ, payload)
			fn(about, e)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// decode reads an event; nil if it cannot be read.
func decode(typ string, payload []byte) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(typ))
	if err != nil {
		return nil
	}
	m := t.New().Interface()
	if proto.Unmarshal(payload, m) != nil {
		return nil
	}
	return m
}
