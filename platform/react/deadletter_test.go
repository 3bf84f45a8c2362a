package react_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/idempotency"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
)

const (
	redriven = opsv1.DeadLetterDeed_DEAD_LETTER_DEED_REDRIVEN
	failed   = opsv1.DeadLetterDeed_DEAD_LETTER_DEED_REDRIVE_FAILED
	asked    = opsv1.DeadLetterDeed_DEAD_LETTER_DEED_REDRIVE_REQUESTED
)

// letters waits until there are n dead letters and gives them, the oldest first.
func (w *world) letters(r *react.Reactor, n int) []*opsv1.DeadLetter {
	w.t.Helper()
	var all []*opsv1.DeadLetter
	w.eventually(fmt.Sprintf("%d dead letters", n), func() bool {
		var err error
		if all, _, err = r.DeadLetters().List(w.t.Context(), listing.Query{OrderBy: "first_time"}); err != nil {
			w.t.Fatal(err)
		}
		return len(all) == n
	})
	return all
}

// deeds gives what was done about an event, the oldest first.
func (w *world) deeds(r *react.Reactor, eventID string) (deeds []opsv1.DeadLetterDeed) {
	w.t.Helper()
	all, _, err := r.DeadLetters().Actions(w.t.Context(), listing.Query{Filter: fmt.Sprintf("event_id = %q", eventID), OrderBy: "create_time"})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, a := range all {
		deeds = append(deeds, a.GetDeed())
	}
	return deeds
}

func (w *world) redrive(r *react.Reactor, req *opsv1.RedriveDeadLettersRequest) *opsv1.RedriveDeadLettersResponse {
	w.t.Helper()
	resp, err := r.DeadLetters().Redrive(keyed(w.t.Context(), uuid.NewString()), "ann", req)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp
}

func keyed(ctx context.Context, key string) context.Context {
	return idempotency.NewContext(ctx, idempotency.Key{Caller: "user:ann", Method: "/m", Value: key, Fingerprint: []byte("f")})
}

func few(n int) func(*react.Config) { return func(c *react.Config) { c.MaxAttempts = n } }

func TestAnEventThatFailsTooOftenIsGivenUpAndDoneOnceWhenItIsRedriven(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var mended atomic.Bool
		r := w.run(counter(func(v *react.View, e *inventoryv1.StockHeld) error {
			if e.GetOrderId() == "o1" && !mended.Load() {
				panic("broken")
			}
			return addOne(v, e)
		}), few(2))
		w.publish("e1", "o1")
		w.publish("e2", "o2")
		d := w.letters(r, 1)[0]
		want := []any{"payment", opsv1.DeadLetterClass_DEAD_LETTER_CLASS_EXHAUSTED, "waybill.inventory.v1.StockHeld", "o1", "e1", "WAYBILL_INVENTORY", "PANIC", int64(2)}
		got := []any{d.GetService(), d.GetClass(), d.GetType(), d.GetAggregateId(), d.GetEventId(), d.GetStream(), d.GetReason(), d.GetAttempts()}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if !d.GetFirstTime().AsTime().Before(d.GetLastTime().AsTime()) {
			t.Errorf("it failed first at %s and last at %s", d.GetFirstTime().AsTime(), d.GetLastTime().AsTime())
		}
		if w.sum("o2") != 1 || w.number(`SELECT count(*) FROM failures`) != 0 {
			t.Error("the event behind it was not done, or its failures are still counted")
		}

		ids := []string{d.GetDeadLetterId()}
		w.redrive(r, &opsv1.RedriveDeadLettersRequest{DeadLetterIds: ids, Reason: "too early"})
		w.eventually("it failed again", func() bool { return w.letters(r, 1)[0].GetAttempts() == 3 })
		w.publish("e1", "o1") // the broker may bring it as often as it likes
		mended.Store(true)
		for range 2 {
			w.redrive(r, &opsv1.RedriveDeadLettersRequest{DeadLetterIds: ids, Reason: "mended"})
		}
		w.letters(r, 0)
		w.redrive(r, &opsv1.RedriveDeadLettersRequest{DeadLetterIds: ids})
		w.publish("e1", "o1")
		w.publish("e3", "o3")
		w.eventually("the last event is handled", func() bool { return w.sum("o3") == 1 })
		if got := w.sum("o1"); got != 1 {
			t.Errorf("it was done %d times", got)
		}
		deeds := w.deeds(r, "e1")
		for deed, n := range map[opsv1.DeadLetterDeed]int{failed: 1, redriven: 1} {
			if got := count(deeds, deed); got != n {
				t.Errorf("%d × %s, want %d: %v", got, deed, n, deeds)
			}
		}
		all, _, err := r.DeadLetters().Actions(t.Context(), listing.Query{Filter: `deed = "REDRIVEN"`})
		if err != nil || len(all) != 1 || all[0].GetUserId() != "ann" || all[0].GetReason() != "mended" || all[0].GetDeadLetterId() != ids[0] {
			t.Errorf("the record says %v, %v", all, err)
		}
	})
}

func count[T comparable](all []T, x T) (n int) {
	for _, y := range all {
		if x == y {
			n++
		}
	}
	return n
}

func TestWhatCannotBeReadIsADeadLetterOnceAndSaysWhatItCan(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.run(counter(addOne))
		w.publish("first", "o1")
		w.publishRaw("garbage", "o2", []byte{0xff, 0xff})
		const typ = "waybill.inventory.v1.StockHeld"
		for i := range 2 { // the same, although it has no id of its own
			_, err := w.bus.Publish(t.Context(), outbox.Stream("inventory"), bus.Msg{
				ID: fmt.Sprint("m", i), Subject: outbox.Subject(typ, "x"), Data: []byte("\x00\xff"),
				Header: map[string]string{outbox.HeaderID: "not\x01storable\xff" + strings.Repeat("x", 200), outbox.HeaderType: typ, outbox.HeaderSubject: "x\xff"},
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		for _, d := range w.letters(r, 3) {
			if d.GetClass() != opsv1.DeadLetterClass_DEAD_LETTER_CLASS_MALFORMED || d.GetReason() != "MALFORMED_EVENT" {
				t.Errorf("%v", d)
			}
			full, err := r.DeadLetters().Get(t.Context(), d.GetDeadLetterId())
			if err != nil || full.GetPayload() != nil || full.GetPayloadSize() != 2 || full.GetHeaders()[outbox.HeaderType] != typ {
				t.Errorf("%v, %v", full, err)
			}
		}
		w.redrive(r, &opsv1.RedriveDeadLettersRequest{Filter: `class = "MALFORMED"`})
		w.eventually("all have failed again", func() bool {
			return w.number(`SELECT count(*) FROM dead_letters WHERE attempts = 2 AND redrive_at IS NULL`) == 3
		})
	})
}

func TestADeadLetterIsThrownAwayOnceAndForGood(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.run(counter(func(*react.View, *inventoryv1.StockHeld) error {
			return errs.E(errs.NotFound, "NO_ORDER", "no such order")
		}))
		w.publish("e1", "o1")
		d := w.letters(r, 1)[0]
		if d.GetClass() != opsv1.DeadLetterClass_DEAD_LETTER_CLASS_REFUSED || d.GetReason() != "NO_ORDER" || d.GetDetail() != "no such order" {
			t.Errorf("%v", d)
		}
		full, err := r.DeadLetters().Get(t.Context(), d.GetDeadLetterId())
		if err != nil || full.GetPayload().GetFields()["order_id"].GetStringValue() != "o1" || full.GetHeaders()[outbox.HeaderID] != "e1" {
			t.Errorf("%v, %v", full, err)
		}
		ctx := keyed(t.Context(), "k")
		first, err := r.DeadLetters().Discard(ctx, "ann", d.GetDeadLetterId(), "it was a test")
		if err != nil {
			t.Fatal(err)
		}
		again, err := r.DeadLetters().Discard(ctx, "ann", d.GetDeadLetterId(), "it was a test")
		if err != nil || again.GetActionId() != first.GetActionId() {
			t.Errorf("the same call again: %v, %v", again, err)
		}
		if _, err := r.DeadLetters().Discard(keyed(t.Context(), "l"), "ann", d.GetDeadLetterId(), "again"); errs.ReasonOf(err) != "DEAD_LETTER_NOT_FOUND" {
			t.Errorf("another call: %v", err)
		}
		if _, err := r.DeadLetters().Get(t.Context(), d.GetDeadLetterId()); errs.KindOf(err) != errs.NotFound {
			t.Errorf("reading it: %v", err)
		}
		if resp := w.redrive(r, &opsv1.RedriveDeadLettersRequest{Filter: "attempts > 0"}); resp.GetScheduled() != 0 {
			t.Errorf("redriving it: %v", resp)
		}
		if got := w.deeds(r, "e1"); len(got) != 1 || got[0] != opsv1.DeadLetterDeed_DEAD_LETTER_DEED_DISCARDED {
			t.Errorf("the record says %v", got)
		}
	})
}

func TestRedrivingByFilterTakesNoMoreThanItMayAndAsksOncePerKey(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var mended atomic.Bool
		m := counter(func(v *react.View, e *inventoryv1.StockHeld) error {
			if !mended.Load() {
				return errs.E(errs.FailedPrecondition, "CLOSED", "closed")
			}
			return addOne(v, e)
		})
		r := w.run(m)
		w.run(m) // all replicas look for work
		const all = 150
		for i := range all {
			w.publish(fmt.Sprint("e", i), "o1")
		}
		w.eventually("all are dead letters", func() bool { return w.number(`SELECT count(*) FROM dead_letters`) == all })
		for _, bad := range []*opsv1.RedriveDeadLettersRequest{{}, {Filter: "colour = 1"}, {Filter: "attempts > 0", DeadLetterIds: []string{"x"}}} {
			if _, err := r.DeadLetters().Redrive(t.Context(), "ann", bad); errs.KindOf(err) != errs.Invalid {
				t.Errorf("%v: %v", bad, err)
			}
		}
		mended.Store(true)
		req := &opsv1.RedriveDeadLettersRequest{Filter: `type = "waybill.inventory.v1.StockHeld" AND reason = "CLOSED"`, Limit: 120, Rate: 1000}
		ctx := keyed(t.Context(), "k")
		for range 3 {
			resp, err := r.DeadLetters().Redrive(ctx, "ann", req)
			if err != nil || resp.GetScheduled() != 120 || !resp.GetMore() {
				t.Fatalf("%v, %v", resp, err)
			}
		}
		w.eventually("those are done", func() bool { return w.sum("o1") == 120 })
		if n := w.number(`SELECT count(*) FROM dead_letters WHERE redrive_at IS NULL`); n != all-120 {
			t.Errorf("%d are left, want %d", n, all-120)
		}
		w.redrive(r, &opsv1.RedriveDeadLettersRequest{Filter: "attempts > 0", Rate: 1000})
		w.letters(r, 0)
		if got := w.sum("o1"); got != all {
			t.Errorf("%d were done, want %d", got, all)
		}
		if n := w.number(`SELECT count(*) FROM dead_letter_actions WHERE deed = ?`, int64(redriven)); n != all {
			t.Errorf("the record has %d, want %d", n, all)
		}
		if n := w.number(`SELECT count(*) FROM dead_letter_actions WHERE deed = ?`, int64(asked)); n != all {
			t.Errorf("%d were asked for, want %d", n, all)
		}
	})
}

func TestACallThatCannotWorkIsGivenUpAndMadeAgainWithItsKey(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var mended atomic.Bool
		var key atomic.Value
		r := w.run(charging(func(_ context.Context, call react.Call, _ charge) (string, error) {
			if was := key.Swap(call.Key); was != nil && was != call.Key {
				t.Errorf("the key was %s and is %s", was, call.Key)
			}
			if !mended.Load() {
				return "", errs.E(errs.Invalid, "NO_SUCH_ACCOUNT", "no such account")
			}
			return "", nil
		}), few(2))
		w.publish("e1", "o1")
		d := w.letters(r, 1)[0]
		if d.GetClass() != opsv1.DeadLetterClass_DEAD_LETTER_CLASS_CALL_GAVE_UP || d.GetType() != "charge" || d.GetReason() != "NO_SUCH_ACCOUNT" ||
			d.GetAttempts() != 2 || d.GetCauseId() != "e1" {
			t.Errorf("%v", d)
		}
		if n := w.number(`SELECT count(*) FROM effects`); n != 0 {
			t.Errorf("%d calls are still recorded", n)
		}
		if full, err := r.DeadLetters().Get(t.Context(), d.GetDeadLetterId()); err != nil || full.GetPayload() != nil {
			t.Errorf("its payload is shown: %v, %v", full, err)
		}
		mended.Store(true)
		for range 2 {
			w.redrive(r, &opsv1.RedriveDeadLettersRequest{DeadLetterIds: []string{d.GetDeadLetterId()}})
		}
		w.eventually("the result is folded", func() bool { return w.sum("o1") == 5 })
		w.letters(r, 0)
		if n := w.number(`SELECT calls FROM tallies WHERE id = 'o1'`); n != 1 {
			t.Errorf("the result was folded %d times", n)
		}
	})
}

func TestAPartnerThatIsAwayMakesNoDeadLetters(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var tries atomic.Int64
		r := w.run(charging(func(context.Context, react.Call, charge) (string, error) {
			if tries.Add(1) < 4 {
				return "", errors.New("connection refused")
			}
			return "", nil
		}), few(1))
		w.publish("e1", "o1")
		w.eventually("the result is folded", func() bool { return w.sum("o1") == 5 })
		w.letters(r, 0)
	})
}

// A row that the database refuses is the fault of the event that wants to write it,
// a database that is away is not.
func TestAnEventThatTheDatabaseRefusesIsGivenUp(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		nowhere := &sqldb.Table{Name: "nowhere", Columns: []sqldb.Column{{Name: "x", Type: sqldb.Int}}}
		var mended atomic.Bool
		r := w.run(counter(func(v *react.View, e *inventoryv1.StockHeld) error {
			if e.GetOrderId() == "o1" && !mended.Load() {
				v.Append(nowhere, int64(1))
			}
			return addOne(v, e)
		}), few(2))
		w.publish("e1", "o1")
		w.publish("e2", "o2")
		d := w.letters(r, 1)[0]
		if d.GetClass() != opsv1.DeadLetterClass_DEAD_LETTER_CLASS_EXHAUSTED || d.GetEventId() != "e1" || w.sum("o1") != 0 {
			t.Errorf("%v, sum %d", d, w.sum("o1"))
		}
		w.eventually("the other is done", func() bool { return w.sum("o2") == 1 })
		w.redrive(r, &opsv1.RedriveDeadLettersRequest{DeadLetterIds: []string{d.GetDeadLetterId()}})
		w.eventually("it failed again", func() bool { return w.letters(r, 1)[0].GetAttempts() == 3 })
		mended.Store(true)
		w.redrive(r, &opsv1.RedriveDeadLettersRequest{DeadLetterIds: []string{d.GetDeadLetterId()}})
		w.letters(r, 0)
		if got := w.sum("o1"); got != 1 {
			t.Errorf("it was done %d times", got)
		}
	})
}

func TestADeadLetterOfAnOlderProgramCanBeRedriven(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.run(counter(addOne))
		at := time.UnixMicro(1_700_000_000_000_000).UTC()
		if err := w.db.InTx(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			_, err := tx.Exec(ctx, `INSERT INTO dead_letters (dead_letter_id, event_id, type, aggregate_id, stream, stream_seq, payload, reason, detail, attempts, cause, traceparent, created_at)
 VALUES ('d1', 'e1', 'waybill.inventory.v1.StockHeld', 'o1', 'WAYBILL_INVENTORY', 1, ?, 'R', 'D', 1, '', '', ?)`, []byte("\x0a\x02o1"), at)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if d := w.letters(r, 1)[0]; d.GetClass() != opsv1.DeadLetterClass_DEAD_LETTER_CLASS_UNSPECIFIED || !d.GetFirstTime().AsTime().Equal(at) {
			t.Errorf("%v", d)
		}
		w.redrive(r, &opsv1.RedriveDeadLettersRequest{Filter: `event_id = "e1"`})
		w.letters(r, 0)
		if got := w.sum("o1"); got != 1 {
			t.Errorf("it was done %d times", got)
		}
	})
}
