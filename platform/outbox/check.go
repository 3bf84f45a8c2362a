package outbox

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/waybill-dev/waybill/platform/sqldb"
)

const (
	// clocksDiffer is by how much the clocks of those who write, publish and clear
	// away may differ: what is so much short of Retention may be gone already.
	clocksDiffer = time.Hour
	// checkMost is how many aggregates Check names; of the others it gives the number.
	checkMost = 1000
)

// Check holds the events of an outbox against each other and against the aggregates
// that said them, and gives a line for each aggregate with events that are missing;
// nil if there is none. Versions of an aggregate have no gaps and end with the number
// in its row, and they begin with 1 unless age has taken the first.
//
// An event counts as taken by age only if it may be older than Retention. It is
// younger than the event before it and than its aggregate, whose time of birth is in
// its id if that is a UUIDv7. So the only event that is left of an old aggregate can
// be removed without a trace.
//
// Check is one statement, and may run beside those who write. It has the database
// sort all of the outbox and all aggregates that ever had an event, which Postgres
// does on disk; with SQLite it takes some 120 MB of memory for a million events.
func Check(ctx context.Context, db *sqldb.DB, now time.Time) ([]string, error) {
	kinds, err := sqldb.All(ctx, db, selectKinds[db.Dialect()], nil, sqldb.Only[string])
	if err != nil {
		return nil, err
	}
	var all strings.Builder
	all.WriteString(`SELECT aggregate_id AS id, version, 0 AS event_seq, '' AS kind, created_at AS at FROM outbox`)
	for _, k := range kinds {
		fmt.Fprintf(&all, ` UNION ALL SELECT id, 0, event_seq, '%s', NULL FROM "%s" WHERE event_seq > 0`, k, k)
	}
	all.WriteString(` ORDER BY id, version`)

	c := &checker{horizon: now.Add(clocksDiffer - Retention)}
	err = sqldb.Each(ctx, db, all.String(), nil, func(s sqldb.Scanner) error {
		var r checkRow
		if err := s.Scan(&r.id, &r.version, &r.eventSeq, &r.kind, &r.at); err != nil {
			return err
		}
		c.next(r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	c.next(checkRow{})
	if c.more > 0 {
		c.wrong = append(c.wrong, fmt.Sprintf("outbox: %d more aggregates are like this", c.more))
	}
	return c.wrong, nil
}

// selectKinds finds the tables of aggregates, those of a react.Kind.
var selectKinds = map[sqldb.Dialect]string{
	sqldb.SQLite: `SELECT m.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND c.name = 'event_seq' ORDER BY m.name`,
	sqldb.Postgres: `SELECT table_name::text FROM information_schema.columns
 WHERE table_schema = current_schema() AND column_name = 'event_seq' ORDER BY table_name`,
}

// A checkRow is an aggregate (version 0), or an event.
type checkRow struct {
	id                string
	version, eventSeq int64
	kind              string
	at                *time.Time
}

// A checker goes through aggregates, each followed by its events in their order.
type checker struct {
	horizon time.Time // what is younger was not taken by age
	wrong   []string
	more    int

	aggregate checkRow
	last      int64     // its last event so far
	since     time.Time // what comes after that is not older
	said      []string
}

// next takes the next row; one without an id ends.
func (c *checker) next(r checkRow) {
	if r.id != c.aggregate.id {
		c.end()
		c.aggregate, c.last, c.since, c.said = checkRow{id: r.id}, 0, born(r.id), nil
	}
	switch r.version {
	case 0:
		c.aggregate = r
		return
	case c.last:
		c.say("event %d is there twice", r.version)
	default:
		c.gap(r.version - 1)
	}
	c.last = r.version
	if r.at != nil && r.at.After(c.since) {
		c.since = *r.at
	}
}

// gap takes note of the events from the last to one that should be there.
func (c *checker) gap(to int64) {
	switch {
	case c.last >= to || c.since.Before(c.horizon):
	case c.last+1 == to:
		c.say("event %d is missing", to)
	default:
		c.say("events %d to %d are missing", c.last+1, to)
	}
}

// end concludes an aggregate.
func (c *checker) end() {
	switch a := c.aggregate; {
	case a.id == "":
		return
	case a.kind == "":
		c.aggregate.kind = "aggregate"
		c.say("it has events, but no row")
	case a.eventSeq < c.last:
		c.say("it has come to event %d, but its row to %d", c.last, a.eventSeq)
	default:
		c.gap(a.eventSeq)
	}
	switch {
	case len(c.said) == 0:
	case len(c.wrong) == checkMost:
		c.more++
	default:
		c.wrong = append(c.wrong, fmt.Sprintf("outbox: %s %s: %s", c.aggregate.kind, c.aggregate.id, strings.Join(c.said, ", ")))
	}
}

func (c *checker) say(format string, args ...any) {
	c.said = append(c.said, fmt.Sprintf(format, args...))
}

// born gives a time before which an aggregate cannot have had events, the zero time
// if its id does not tell.
func born(id string) time.Time {
	u, err := uuid.Parse(id)
	if err != nil || u.Version() != 7 {
		return time.Time{}
	}
	return time.Unix(u.Time().UnixTime())
}
