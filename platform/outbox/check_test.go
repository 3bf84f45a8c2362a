package outbox_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
)

// bornAt gives the id of an aggregate that was made at a time.
func bornAt(at time.Time) string {
	u := uuid.New()
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(at.UnixMilli()))
	copy(u[:6], ms[2:])
	u[6] = 0x70 | u[6]&0x0f
	return u.String()
}

// things makes a table of aggregates, as that of a react.Kind.
func things(t *testing.T, open sqldbtest.Opener) *sqldb.DB {
	t.Helper()
	db := open("check", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
	collate := ""
	if db.Dialect() == sqldb.Postgres {
		collate = ` COLLATE "C"`
	}
	exec(t, db, `CREATE TABLE things (id TEXT`+collate+` PRIMARY KEY, version BIGINT NOT NULL, event_seq BIGINT NOT NULL)`)
	return db
}

// thing makes an aggregate with an event at each of the times.
func thing(t *testing.T, db *sqldb.DB, id string, times ...time.Time) string {
	t.Helper()
	exec(t, db, `INSERT INTO things (id, version, event_seq) VALUES (?, 1, ?)`, id, int64(len(times)))
	for i, at := range times {
		commit(t, db, id, int64(i+1), at)
	}
	return id
}

// prune does what the reactor does with what is old.
func prune(t *testing.T, db *sqldb.DB, now time.Time) {
	t.Helper()
	exec(t, db, `DELETE FROM outbox WHERE created_at < ? AND NOT EXISTS (SELECT 1 FROM outbox_pending p WHERE p.seq = outbox.seq)`, now.Add(-outbox.Retention))
}

func checked(t *testing.T, db *sqldb.DB, now time.Time) []string {
	t.Helper()
	wrong, err := outbox.Check(t.Context(), db, now)
	if err != nil {
		t.Fatal(err)
	}
	return wrong
}

func TestAnEventThatWasRemovedIsNamed(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := things(t, open)
		now := time.Now()
		day := func(n int) time.Time { return now.AddDate(0, 0, -n) }
		for range 50 {
			thing(t, db, bornAt(day(2)), day(2), day(1), day(1))
		}
		thing(t, db, bornAt(day(1)))
		exec(t, db, `DELETE FROM outbox_pending WHERE seq % 2 = 0`)
		if wrong := checked(t, db, now); wrong != nil {
			t.Fatalf("of a sound outbox: %q", wrong)
		}
		remove := func(id string, versions ...int64) {
			for _, v := range versions {
				exec(t, db, `DELETE FROM outbox WHERE aggregate_id = ? AND version = ?`, id, v)
			}
		}
		fresh := func() string { return thing(t, db, bornAt(day(3)), day(3), day(2), day(2), day(1), day(1)) }
		var want []string
		expect := func(id, text string) { want = append(want, "outbox: things "+id+": "+text) }
		cases := []struct {
			id       string
			versions []int64
			text     string
		}{
			{fresh(), []int64{1}, "event 1 is missing"},
			{fresh(), []int64{3}, "event 3 is missing"},
			{fresh(), []int64{5}, "event 5 is missing"},
			{fresh(), []int64{1, 2, 4}, "events 1 to 2 are missing, event 4 is missing"},
			{fresh(), []int64{1, 2, 3, 4, 5}, "events 1 to 5 are missing"},
			{thing(t, db, bornAt(day(4)), day(4)), []int64{1}, "event 1 is missing"},
			// Its first are gone by age, and what comes after one that is not is not.
			{thing(t, db, bornAt(day(30)), day(30), day(20), day(5), day(4), day(3)), []int64{4}, "event 4 is missing"},
			{thing(t, db, bornAt(day(30)), day(30), day(20), day(5), day(4), day(3)), []int64{5}, "event 5 is missing"},
			{thing(t, db, "not a uuid", day(3), day(2), day(1)), []int64{2}, "event 2 is missing"},
		}
		prune(t, db, now)
		for _, c := range cases {
			remove(c.id, c.versions...)
			expect(c.id, c.text)
		}
		slices.Sort(want)
		if wrong := checked(t, db, now); !slices.Equal(wrong, want) {
			t.Errorf("found\n%s\nwant\n%s", strings.Join(wrong, "\n"), strings.Join(want, "\n"))
		}
	})
}

func TestWhatAgeMayHaveTakenIsNotMissed(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := things(t, open)
		now := time.Now()
		day := func(n int) time.Time { return now.AddDate(0, 0, -n) }
		edge := now.Add(-outbox.Retention)
		thing(t, db, bornAt(day(30)), day(30), day(20), day(1))
		thing(t, db, bornAt(day(30)), day(30), day(20)) // nothing is left of it
		thing(t, db, bornAt(day(30)), day(1))           // made long ago, first heard of yesterday
		thing(t, db, "not a uuid", day(30), day(1))
		// At the edge: written by a clock that is behind, cleared away by one that is ahead.
		thing(t, db, bornAt(edge.Add(time.Minute)), edge.Add(-time.Minute), day(1))
		thing(t, db, bornAt(edge.Add(10*time.Minute)), edge.Add(10*time.Minute), day(1))
		exec(t, db, `DELETE FROM outbox_pending`)
		// The second is pending again, since the stream lost it.
		again := thing(t, db, bornAt(day(9)), day(9), day(9), day(8), day(1))
		exec(t, db, `DELETE FROM outbox_pending WHERE seq NOT IN (SELECT seq FROM outbox WHERE aggregate_id = ? AND version = 2)`, again)
		if wrong := checked(t, db, now); wrong != nil {
			t.Errorf("before anything is cleared away: %q", wrong)
		}
		for _, ahead := range []time.Duration{0, 20 * time.Minute} {
			prune(t, db, now.Add(ahead))
			if wrong := checked(t, db, now); wrong != nil {
				t.Errorf("cleared away by a clock %v ahead: %q", ahead, wrong)
			}
		}
		var left int
		if err := db.QueryRow(t.Context(), `SELECT count(*) FROM outbox`).Scan(&left); err != nil || left != 7 {
			t.Fatalf("%d events are left (%v)", left, err)
		}
	})
}

func TestEventsThatWereAddedOrBelongToNobodyAreNamed(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := things(t, open)
		now := time.Now()
		twice, long, nobody := thing(t, db, bornAt(now), now, now), thing(t, db, bornAt(now), now), bornAt(now)
		exec(t, db, `UPDATE outbox SET version = 1 WHERE aggregate_id = ?`, twice)
		commit(t, db, long, 2, now)
		commit(t, db, nobody, 1, now)
		all := strings.Join(checked(t, db, now), "\n")
		for _, want := range []string{
			"things " + twice + ": event 1 is there twice, event 2 is missing", "things " + long + ": it has come to event 2, but its row to 1",
			"aggregate " + nobody + ": it has events, but no row",
		} {
			if !strings.Contains(all, want) {
				t.Errorf("nothing says %q:\n%s", want, all)
			}
		}
	})
}

func TestAnOutboxThatIsGoneIsToldInFewWords(t *testing.T) {
	db := things(t, sqldbtest.SQLite(t))
	now := time.Now()
	var b sqldb.Batch
	for range 1005 {
		b.Exec(`INSERT INTO things (id, version, event_seq) VALUES (?, 1, 1)`, bornAt(now))
	}
	tx, err := db.Begin(t.Context())
	if err == nil {
		err = tx.Commit(t.Context(), &b)
	}
	if err != nil {
		t.Fatal(err)
	}
	wrong := checked(t, db, now)
	if len(wrong) != 1001 || !strings.Contains(wrong[1000], "5 more") {
		t.Errorf("%d lines, the last %q", len(wrong), wrong[len(wrong)-1])
	}
}

// What is written while the check reads is not taken for missing.
func TestTheOutboxIsCheckedWhileEventsAreWritten(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := things(t, open)
		id := bornAt(time.Now())
		exec(t, db, `INSERT INTO things (id, version, event_seq) VALUES (?, 1, 0)`, id)
		done := make(chan error, 1)
		go func() {
			for n := int64(1); n <= 300; n++ {
				e := &outbox.Event{ID: fmt.Sprint(n), Type: "waybill.auth.v1.UserRegistered", AggregateID: id, Version: n, Payload: []byte{}, Time: time.Now()}
				var b sqldb.Batch
				b.Exec(`UPDATE things SET event_seq = ? WHERE id = ?`, n, id)
				outbox.Append(&b, []*outbox.Event{e})
				tx, err := db.Begin(t.Context())
				if err == nil {
					err = tx.Commit(t.Context(), &b)
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
		for {
			if wrong := checked(t, db, time.Now()); wrong != nil {
				t.Error(wrong)
			}
			select {
			case err := <-done:
				if err != nil {
					t.Fatal(err)
				}
				return
			default:
			}
		}
	})
}
