package storetest

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/waybill-dev/waybill/platform/react"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/store"
)

func (f *fixture) rows(id string) order.Rows {
	f.t.Helper()
	all, err := f.store.Recorded(f.t.Context(), []string{id})
	if err != nil || len(all) != 1 || all[0].ID != id {
		f.t.Fatalf("%v, %v", all, err)
	}
	return all[0].Rows
}

func (f *fixture) replace(id string, read, rows order.Rows) bool {
	f.t.Helper()
	done, err := f.store.Replace(f.t.Context(), id, read, rows)
	if err != nil {
		f.t.Fatal(err)
	}
	return done
}

func replaceRows(t *testing.T, f *fixture) {
	o := sample("u1", 0)
	f.put(o)
	read := f.rows(o.id)
	f.equal(order.Rows{Order: o.o, Version: 1, Details: o.d, DetailsVersion: 1}, read)
	better := read
	better.Version, better.Said, better.Order.Words, better.Details.UserID, better.Details.ShipTo = 3, 2, "better", "u2", nil
	better.Order.Deadline, better.Order.SagaOverAt = time.Time{}, noon
	if !f.replace(o.id, read, better) {
		t.Error("rows that nobody changed are not replaced")
	}
	f.equal(better, f.rows(o.id))

	if f.replace(o.id, read, read) {
		t.Error("rows that were changed are replaced")
	}
	f.equal(better, f.rows(o.id))
	stale := better
	if err := f.do(func(v *react.View) error { // as a step does that leaves the details alone
		now, _ := store.Orders.Get(v, o.id)
		now.Words = "newer"
		store.Orders.Put(v, o.id, now)
		return nil
	}, store.Orders.Ref(o.id)); err != nil {
		t.Fatal(err)
	}
	if f.replace(o.id, stale, read) {
		t.Error("an order that moved on is replaced")
	}
	if got := f.rows(o.id); got.Order.Words != "newer" || got.Details.UserID != "u2" {
		t.Errorf("half of it was written: %+v", got)
	}

	// One that has no rows gets them, unless it has them by now.
	id := uuid.NewString()
	if !f.replace(id, order.Rows{}, read) || f.replace(id, order.Rows{}, better) {
		t.Error("rows that are not there are not written once")
	}
	f.equal(read, f.rows(id))
}

func lostRows(t *testing.T, f *fixture) {
	var ids []string
	for n := range 5 {
		o := sample("u1", n)
		if n != 2 {
			f.put(o)
		}
		if n != 3 {
			if err := f.entry(o.id, 1); err != nil {
				t.Fatal(err)
			}
		}
		ids = append(ids, o.id)
	}
	slices.Sort(ids)
	for after, limit := 0, 2; ; {
		from := ""
		if after > 0 {
			from = ids[after-1]
		}
		got, err := f.store.IDs(t.Context(), from, limit)
		if err != nil {
			t.Fatal(err)
		}
		f.equal(ids[after:min(after+limit, 5)], append([]string{}, got...))
		if after += limit; len(got) < limit {
			break
		}
	}
}

func takenAt(t *testing.T, f *fixture) {
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := f.db.Exec(t.Context(), query, args...); err != nil {
			t.Fatal(err)
		}
	}
	exec(`INSERT INTO inbox (event_id, processed_at) VALUES ('once', ?), ('given up', ?)`, noon, noon)
	for i, deed := range []opsv1.DeadLetterDeed{opsv1.DeadLetterDeed_DEAD_LETTER_DEED_REDRIVEN, opsv1.DeadLetterDeed_DEAD_LETTER_DEED_REDRIVE_FAILED} {
		exec(`INSERT INTO dead_letter_actions (action_id, dead_letter_id, event_id, type, aggregate_id, deed, user_id, reason, outcome, created_at)
 VALUES (?, 'd', 'given up', '', '', ?, '', '', '', ?)`, uuid.NewString(), int64(deed), noon.Add(time.Duration(i+1)*time.Hour))
	}
	taken, err := f.store.Taken(t.Context(), []string{"once", "given up", "never"})
	if err != nil {
		t.Fatal(err)
	}
	f.equal(map[string]time.Time{"once": noon, "given up": noon.Add(time.Hour)}, taken)
}
