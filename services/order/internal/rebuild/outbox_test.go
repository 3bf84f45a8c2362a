package rebuild

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	platform "github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/services/order"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func TestAnOutboxIsReadWhereItsEventsStand(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		o := &outbox{db: open("order", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})}
		write := func(from, n int) { // a row a second; the clock of every tenth is ten minutes ahead
			t.Helper()
			events := make([]*platform.Event, n)
			for i := range events {
				at := noon.Add(time.Duration(from+i) * time.Second)
				if (from+i)%10 == 5 {
					at = at.Add(10 * time.Minute)
				}
				events[i] = &platform.Event{ID: fmt.Sprint("e", from+i), Type: "waybill.order.v1.OrderCompleted", AggregateID: "a", Version: 1, Time: at}
			}
			err := o.db.InTx(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
				var b sqldb.Batch
				platform.Append(&b, events)
				return tx.Send(ctx, &b)
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := o.extend(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		found := func(slack time.Duration, n int) (spans int, found bool) {
			t.Helper()
			at := noon.Add(time.Duration(n) * time.Second)
			if n%10 == 5 {
				at = at.Add(10 * time.Minute)
			}
			rows := o.spans([]time.Time{at}, slack)
			err := o.find(t.Context(), rows, "event_id", []string{fmt.Sprint("e", n)}, func(about string, e order.Event) { found = about == "a" && e.Message != nil && e.Time.Equal(at) })
			if err != nil {
				t.Fatal(err)
			}
			return len(rows), found
		}
		if rows := o.spans([]time.Time{noon}, always); len(rows) != 0 {
			t.Errorf("an empty outbox has %v", rows)
		}
		write(0, chapter+10)
		write(chapter+10, 2*chapter)
		if len(o.marks) != 4 {
			t.Fatalf("%d chapters", len(o.marks))
		}
		for _, n := range []int{0, 1, chapter - 2, chapter, chapter + 1, 2*chapter + 7, 3*chapter + 9} {
			if _, ok := found(slacks[0], n); !ok {
				t.Errorf("event %d is not found where it stands", n)
			}
		}
		const ahead = chapter - 1 // ten minutes later is the next chapter
		if ahead%10 != 5 {
			t.Fatal("the event is not ahead")
		}
		if _, ok := found(slacks[0], ahead); ok {
			t.Error("an event by a clock that is ahead is found at once: the test shows nothing")
		}
		if _, ok := found(slacks[1], ahead); !ok {
			t.Error("an event by a clock that is ahead is never found")
		}
	})
}

func TestSpansAreTheChaptersOfTheTimes(t *testing.T) {
	o := &outbox{marks: []mark{{1, noon}, {101, noon.Add(time.Hour)}, {201, noon.Add(2 * time.Hour)}, {301, noon.Add(3 * time.Hour)}}}
	const end = 1<<63 - 1
	for _, c := range []struct {
		minutes []int
		slack   time.Duration
		want    []span
	}{
		{nil, time.Second, nil},
		{[]int{-30}, time.Minute, nil},
		{[]int{0}, time.Minute, []span{{1, 101}}},
		{[]int{30}, time.Minute, []span{{1, 101}}},
		{[]int{60}, time.Minute, []span{{1, 201}}},
		{[]int{150, 30}, time.Minute, []span{{1, 101}, {201, 301}}},
		{[]int{150}, 40 * time.Minute, []span{{101, end}}},
		{[]int{9999}, time.Minute, []span{{301, end}}},
		{nil, always, []span{{1, end}}},
	} {
		var times []time.Time
		for _, m := range c.minutes {
			times = append(times, noon.Add(time.Duration(m)*time.Minute))
		}
		if diff := cmp.Diff(c.want, o.spans(times, c.slack), cmp.AllowUnexported(span{})); diff != "" {
			t.Errorf("%v: -want +got:\n%s", c, diff)
		}
	}
}
