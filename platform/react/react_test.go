package react_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/idempotency"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	eventv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/event/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
)

// tally is the toy aggregate: how much was added to one order, by whom.
type tally struct {
	Sum   int64
	Calls int64
}

var tallies = react.NewKind("tallies",
	[]sqldb.Column{{Name: "sum", Type: sqldb.Int}, {Name: "calls", Type: sqldb.Int}},
	func(t tally) []any { return []any{t.Sum, t.Calls} },
	func(s sqldb.Scanner, meta ...any) (tally, error) {
		var t tally
		err := s.Scan(append(meta, &t.Sum, &t.Calls)...)
		return t, err
	}).Remembered()

// world is a database, a bus and machines on them.
type world struct {
	t   *testing.T
	db  *sqldb.DB
	bus *bus.Bus

	warned sync.Map // messages the reactors warned of
}

// warnings notes what is logged as a warning or worse.
type warnings struct {
	slog.Handler

	seen *sync.Map
}

// Enabled implements slog.Handler.
func (h *warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }

// Handle implements slog.Handler.
func (h *warnings) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	h.seen.Store(text, true)
	return nil
}

// quiet fails if anything went wrong that healed by itself.
func (w *world) quiet() {
	w.t.Helper()
	w.warned.Range(func(text, _ any) bool { w.t.Errorf("warned: %s", text); return true })
}

func each(t *testing.T, body func(t *testing.T, w *world)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		ctx := t.Context()
		db := open("toy")
		if err := db.Migrate(ctx, "platform", react.Migrations()); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Exec(ctx, `CREATE TABLE tallies (id text PRIMARY KEY, version bigint NOT NULL, event_seq bigint NOT NULL, sum bigint NOT NULL, calls bigint NOT NULL)`); err != nil {
			t.Fatal(err)
		}
		b, err := bus.Open(ctx, bustest.Config(t), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := b.Close(context.Background()); err != nil {
				t.Error(err)
			}
		})
		body(t, &world{t: t, db: db, bus: b})
	})
}

// run starts a reactor that the test may stop; it is stopped at the end at the latest.
func (w *world) run(m *react.Machine, change ...func(*react.Config)) *react.Reactor {
	w.t.Helper()
	cfg := react.Config{Machine: m, DB: w.db, Bus: w.bus, Log: slog.New(&warnings{Handler: slog.DiscardHandler, seen: &w.warned})}
	for _, c := range change {
		c(&cfg)
	}
	r, err := react.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := r.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { w.stop(r) })
	return r
}

func (w *world) stop(r *react.Reactor) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		w.t.Error(err)
	}
}

// publish puts an event into the inventory's stream as its relay would.
func (w *world) publish(id, orderID string) {
	w.t.Helper()
	e := &inventoryv1.StockHeld{OrderId: orderID}
	w.publishRaw(id, orderID, must(proto.Marshal(e)))
}

func (w *world) publishRaw(id, orderID string, data []byte) {
	w.t.Helper()
	const typ = "waybill.inventory.v1.StockHeld"
	if err := w.bus.EnsureStream(w.t.Context(), bus.Stream{Name: outbox.Stream("inventory"), Subjects: []string{"waybill.inventory.>"}}); err != nil {
		w.t.Fatal(err)
	}
	_, err := w.bus.Publish(w.t.Context(), outbox.Stream("inventory"), bus.Msg{
		ID: id + fmt.Sprint(time.Now().UnixNano()), Subject: outbox.Subject(typ, orderID), Data: data,
		Header: map[string]string{outbox.HeaderID: id, outbox.HeaderType: typ, outbox.HeaderSubject: orderID, outbox.HeaderHops: "0", outbox.HeaderVersion: "1"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// eventually waits for a condition that the reactor brings about by itself.
func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("never happened: %s", what)
		}
	}
}

func (w *world) number(query string, args ...any) int64 {
	w.t.Helper()
	var n int64
	if err := w.db.QueryRow(context.Background(), query, args...).Scan(&n); err != nil && !errors.Is(err, sqldb.ErrNoRows) {
		w.t.Fatalf("%s: %v", query, err)
	}
	return n
}

func (w *world) sum(id string) int64 { return w.number(`SELECT sum FROM tallies WHERE id = ?`, id) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// counter is a machine named payment that adds one to a tally per StockHeld.
func counter(step func(v *react.View, e *inventoryv1.StockHeld) error) *react.Machine {
	m := react.NewMachine("payment")
	react.On(m, func(_ *react.View, e *inventoryv1.StockHeld) []react.Ref {
		return []react.Ref{tallies.Ref(e.GetOrderId())}
	}, step)
	return m
}

func addOne(v *react.View, e *inventoryv1.StockHeld) error {
	t, _ := tallies.Get(v, e.GetOrderId())
	t.Sum++
	tallies.Put(v, e.GetOrderId(), t)
	return nil
}

func add(ctx context.Context, r *react.Reactor, id string, n int64) (*paymentv1.Refund, error) {
	return react.Do(ctx, r, func(*react.View) []react.Ref { return []react.Ref{tallies.Ref(id)} },
		func(v *react.View) (*paymentv1.Refund, error) {
			t, _ := tallies.Get(v, id)
			if n < 0 {
				t.Sum = 999 // must not be kept
				tallies.Put(v, id, t)
				return nil, errs.E(errs.Invalid, "NEGATIVE", "no negative numbers")
			}
			t.Sum += n
			tallies.Put(v, id, t)
			v.Emit(tallies.Ref(id), &paymentv1.PaymentAuthorized{OrderId: id, PaymentId: fmt.Sprint(t.Sum)})
			return &paymentv1.Refund{RefundId: v.NewID(), Reason: fmt.Sprint(t.Sum)}, nil
		})
}

func TestAnEventCountsOnceHoweverOftenItIsDelivered(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.run(counter(addOne))
		for range 5 {
			w.publish("same", "o1")
		}
		w.publish("other", "o2")
		w.eventually("the last event is handled", func() bool { return w.sum("o2") == 1 })
		if got := w.sum("o1"); got != 1 {
			t.Errorf("sum = %d, want 1", got)
		}
	})
}

func TestOneBadMessageNeitherBlocksNorTakesAlongTheOthers(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var again atomic.Int64
		w.run(counter(func(v *react.View, e *inventoryv1.StockHeld) error {
			switch e.GetOrderId() {
			case "refused":
				_ = addOne(v, e) // must be forgotten
				return errs.E(errs.Invalid, "REFUSED", "never")
			case "panics":
				panic("on purpose")
			case "later":
				if again.Add(1) < 3 {
					_ = addOne(v, e) // must be forgotten
					return errs.E(errs.Unavailable, "LATER", "not yet")
				}
			}
			return addOne(v, e)
		}))
		for i, id := range []string{"a", "refused", "b", "later", "panics", "c"} {
			w.publish(fmt.Sprintf("e%d", i), id)
		}
		w.publishRaw("garbage", "d", []byte{0xff, 0xff, 0xff})
		w.publish("e9", "e")
		for _, id := range []string{"a", "b", "c", "e", "later"} {
			w.eventually(id+" is counted", func() bool { return w.sum(id) == 1 })
		}
		w.eventually("two dead letters", func() bool { return w.number(`SELECT count(*) FROM dead_letters`) == 2 })
		if n := w.number(`SELECT count(*) FROM dead_letters WHERE reason = 'REFUSED' AND event_id = 'e1'`); n != 1 {
			t.Errorf("%d dead letters say REFUSED, want 1", n)
		}
		for _, id := range []string{"refused", "panics", "d"} {
			if got := w.sum(id); got != 0 {
				t.Errorf("%s was counted %d times", id, got)
			}
		}
	})
}

func TestACommandsAnswerIsTheSameForTheSameKey(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.run(counter(addOne))
		ctx := idempotency.NewContext(t.Context(), idempotency.Key{Caller: "u", Method: "/m", Value: "k", Fingerprint: []byte("f")})
		var wg sync.WaitGroup
		answers := make([]*paymentv1.Refund, 100)
		for i := range answers {
			wg.Go(func() {
				a, err := add(ctx, r, "o1", 7)
				if err != nil {
					t.Error(err)
				}
				answers[i] = a
			})
		}
		wg.Wait()
		for _, a := range answers {
			if !proto.Equal(a, answers[0]) {
				t.Fatalf("answers differ: %v and %v", a, answers[0])
			}
		}
		if got := w.sum("o1"); got != 7 {
			t.Errorf("sum = %d, want 7: the command was done more than once", got)
		}
		other := idempotency.NewContext(t.Context(), idempotency.Key{Caller: "u", Method: "/m", Value: "k", Fingerprint: []byte("g")})
		if _, err := add(other, r, "o1", 8); errs.ReasonOf(err) != "IDEMPOTENCY_KEY_REUSED" {
			t.Errorf("another request under the same key: %v", err)
		}
		stranger := idempotency.NewContext(t.Context(), idempotency.Key{Caller: "v", Method: "/m", Value: "k", Fingerprint: []byte("f")})
		if a, err := add(stranger, r, "o1", 7); err != nil || a.GetReason() != "14" {
			t.Errorf("the same key of another caller: %v, %v, want an answer of its own", a, err)
		}
	})
}

func TestAFailedCommandLeavesNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.run(counter(addOne))
		ctx := idempotency.NewContext(t.Context(), idempotency.Key{Caller: "u", Method: "/m", Value: "k", Fingerprint: []byte("f")})
		if _, err := add(ctx, r, "o1", -1); errs.KindOf(err) != errs.Invalid {
			t.Fatalf("error = %v, want Invalid", err)
		}
		for _, table := range []string{"tallies", "outbox", "idempotency"} {
			if n := w.number(`SELECT count(*) FROM ` + table); n != 0 {
				t.Errorf("%d rows in %s", n, table)
			}
		}
	})
}

func TestEventsOfAnAggregateAreNumberedWithoutGapAndPublishedInOrder(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.run(counter(addOne))
		got := make(chan string, 1000)
		sub, err := w.bus.Consume(t.Context(), bus.Consumer{Stream: outbox.Stream("payment"), Durable: "test"}, reacttest.Singly(t, func(d *bus.Delivery) {
			got <- d.Header(outbox.HeaderSubject) + "/" + d.Header(outbox.HeaderVersion)
			_ = d.Ack()
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Stop(t.Context())
		var wg sync.WaitGroup
		for _, id := range []string{"o1", "o2", "o3"} {
			wg.Go(func() {
				for range 50 {
					if _, err := add(t.Context(), r, id, 1); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		next := map[string]int{}
		for range 150 {
			select {
			case s := <-got:
				id, version := s[:2], s[3:]
				next[id]++
				if version != fmt.Sprint(next[id]) {
					t.Fatalf("event %s came as number %d of its aggregate", s, next[id])
				}
			case <-time.After(20 * time.Second):
				t.Fatal("events are missing")
			}
		}
		w.eventually("all events are marked", func() bool { return w.number(`SELECT count(*) FROM outbox_pending`) == 0 })
		w.stop(r)
		w.quiet()
	})
}

func TestEventsCommittedByAProcessThatDiedArePublishedByTheNext(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		// A row as a process leaves it that died between commit and publish.
		err := w.db.InTx(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			var b sqldb.Batch
			outbox.Append(&b, []*outbox.Event{{
				ID: "e1", Type: "waybill.payment.v1.PaymentAuthorized", AggregateID: "o1", Version: 1, Payload: []byte{}, Time: time.Now(),
			}})
			return tx.Send(ctx, &b)
		})
		if err != nil {
			t.Fatal(err)
		}
		w.run(counter(addOne))
		w.eventually("the event is published", func() bool { return w.number(`SELECT count(*) FROM outbox_pending`) == 0 })
		info, err := w.bus.StreamInfo(t.Context(), outbox.Stream("payment"))
		if err != nil || info.Messages != 1 {
			t.Errorf("the stream holds %d messages (%v), want 1", info.Messages, err)
		}
	})
}

// eventsIn counts the events in a stream, each once.
func (w *world) eventsIn(stream string) int {
	w.t.Helper()
	info, err := w.bus.StreamInfo(w.t.Context(), stream)
	if err != nil {
		w.t.Fatal(err)
	}
	seqs := make([]uint64, info.Messages)
	for i := range seqs {
		seqs[i] = info.FirstSeq + uint64(i)
	}
	msgs, err := w.bus.ReadStream(w.t.Context(), stream, seqs)
	if err != nil {
		w.t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, m := range msgs {
		reacttest.Singly(w.t, func(d *bus.Delivery) { ids[d.ID] = true })(bus.NewDelivery(*m, stream, 1, 1, time.Now(), nil))
	}
	return len(ids)
}

func TestTwoReplicasDoNotLoseEachOthersChanges(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		one, two := w.run(counter(addOne)), w.run(counter(addOne))
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				r := one
				if i%2 == 0 {
					r = two
				}
				if _, err := add(t.Context(), r, fmt.Sprintf("o%d", i%4), 1); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if total := w.number(`SELECT CAST(sum(sum) AS bigint) FROM tallies`); total != 200 {
			t.Errorf("the sum is %d, want 200", total)
		}
		w.eventually("all events are published", func() bool { return w.number(`SELECT count(*) FROM outbox_pending`) == 0 })
		if n := w.eventsIn(outbox.Stream("payment")); n != 200 {
			t.Errorf("the stream holds %d events, want 200", n)
		}
	})
}

type charge struct{ Amount int64 }

// charging is a machine whose StockHeld makes a call to the outside.
func charging(perform func(ctx context.Context, call react.Call, in charge) (string, error)) *react.Machine {
	m := counter(func(v *react.View, e *inventoryv1.StockHeld) error {
		tallies.Put(v, e.GetOrderId(), tally{})
		v.Effect("charge", tallies.Ref(e.GetOrderId()), charge{Amount: 5})
		return nil
	})
	react.OnEffect(m, "charge", func(ctx context.Context, call react.Call, in charge) (string, error) {
		id, err := perform(ctx, call, in)
		return call.AggregateID + id, err
	}, func(_ *react.View, _ charge) []react.Ref { return []react.Ref{tallies.Ref("o1")} },
		func(v *react.View, in charge, _ string) error {
			t, _ := tallies.Get(v, "o1")
			t.Sum += in.Amount
			t.Calls++
			tallies.Put(v, "o1", t)
			return nil
		})
	return m
}

func TestACallIsRepeatedWithTheSameKeyUntilItSucceedsAndFoldedOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		keys := map[string]int{}
		w.run(charging(func(_ context.Context, call react.Call, _ charge) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			keys[call.Key]++
			if call.Attempt < 3 {
				return "", errors.New("connection reset")
			}
			return "", nil
		}))
		w.publish("e1", "o1")
		w.eventually("the result is folded", func() bool { return w.sum("o1") == 5 })
		mu.Lock()
		defer mu.Unlock()
		if len(keys) != 1 {
			t.Errorf("%d different keys were used for one call", len(keys))
		}
		if n := w.number(`SELECT count(*) FROM effects`); n != 0 {
			t.Errorf("%d calls are still recorded", n)
		}
		if n := w.number(`SELECT calls FROM tallies WHERE id = 'o1'`); n != 1 {
			t.Errorf("the result was folded %d times", n)
		}
	})
}

func TestACallThatDiedWithItsProcessIsMadeByTheNext(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		begun := make(chan struct{}, 8)
		first := w.run(charging(func(ctx context.Context, _ react.Call, _ charge) (string, error) {
			begun <- struct{}{}
			<-ctx.Done() // the process dies before the answer
			return "", ctx.Err()
		}))
		w.publish("e1", "o1")
		<-begun
		w.stop(first)
		if n := w.number(`SELECT count(*) FROM effects`); n != 1 {
			t.Fatalf("%d calls recorded, want 1", n)
		}
		w.run(charging(func(context.Context, react.Call, charge) (string, error) { return "", nil }))
		w.eventually("the result is folded", func() bool { return w.sum("o1") == 5 })
	})
}

func TestASweepDoesWhatIsDue(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		m := counter(addOne)
		react.Every(m, react.Sweep{
			Name: "top up", Every: 10 * time.Millisecond,
			Due: func(ctx context.Context, _ time.Time, limit int) ([]string, error) {
				rows, err := w.db.Query(ctx, `SELECT id FROM tallies WHERE sum < 10 LIMIT ?`, limit)
				if err != nil {
					return nil, err
				}
				defer rows.Close()
				var ids []string
				for rows.Next() {
					var id string
					if err := rows.Scan(&id); err != nil {
						return nil, err
					}
					ids = append(ids, id)
				}
				return ids, rows.Err()
			},
			Needs: func(_ *react.View, id string) []react.Ref { return []react.Ref{tallies.Ref(id)} },
			Step: func(v *react.View, id string) error {
				t, _ := tallies.Get(v, id)
				t.Sum++
				tallies.Put(v, id, t)
				return nil
			},
		})
		w.run(m)
		w.publish("e1", "o1")
		w.eventually("the sweep topped up", func() bool { return w.sum("o1") == 10 })
	})
}

func TestAStepThatReadsWhatItDidNotNameFails(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.run(counter(addOne))
		_, err := react.Do(t.Context(), r, func(*react.View) []react.Ref { return nil }, func(v *react.View) (*paymentv1.Refund, error) {
			tallies.Get(v, "o1")
			return &paymentv1.Refund{}, nil
		})
		if errs.KindOf(err) != errs.Internal || err == nil {
			t.Errorf("error = %v, want an internal one", err)
		}
	})
}

// A step's needs may follow from what it finds. What it finds may be changed by
// another step of the same batch, after the needs were named.
func TestACommandWhoseNeedsChangeWithinABatchStillWorks(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.run(counter(addOne))
		// Each command adds to "o1" and, once that is above ten, to "o2" as well.
		spill := func() error {
			_, err := react.Do(t.Context(), r, func(v *react.View) []react.Ref {
				refs := []react.Ref{tallies.Ref("o1")}
				if first, _ := tallies.Get(v, "o1"); first.Sum >= 10 {
					refs = append(refs, tallies.Ref("o2"))
				}
				return refs
			}, func(v *react.View) (*paymentv1.Refund, error) {
				first, _ := tallies.Get(v, "o1")
				if first.Sum >= 10 {
					second, _ := tallies.Get(v, "o2")
					second.Sum++
					tallies.Put(v, "o2", second)
				}
				first.Sum++
				tallies.Put(v, "o1", first)
				return &paymentv1.Refund{}, nil
			})
			return err
		}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := spill(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if one, two := w.sum("o1"), w.sum("o2"); one != 100 || two != 90 {
			t.Errorf("sums are %d and %d, want 100 and 90", one, two)
		}
	})
}

// publishBatch puts StockHeld of the orders into one message; the ids of the events
// are those of the orders with an e before.
func (w *world) publishBatch(orderIDs ...string) {
	w.t.Helper()
	b := &eventv1.EventBatch{Type: "waybill.inventory.v1.StockHeld"}
	for _, id := range orderIDs {
		b.Events = append(b.Events, &eventv1.Event{
			Id: "e" + id, Subject: id, Time: timestamppb.Now(), AggregateVersion: 1, Data: must(proto.Marshal(&inventoryv1.StockHeld{OrderId: id})),
		})
	}
	w.publishData("waybill.inventory.stock_held.v1.batch", must(proto.Marshal(b)))
}

// publishData puts what is said to be a batch into the inventory's stream.
func (w *world) publishData(subject string, data []byte) {
	w.t.Helper()
	if err := w.bus.EnsureStream(w.t.Context(), bus.Stream{Name: outbox.Stream("inventory"), Subjects: []string{"waybill.inventory.>"}}); err != nil {
		w.t.Fatal(err)
	}
	_, err := w.bus.Publish(w.t.Context(), outbox.Stream("inventory"), bus.Msg{
		Subject: subject, Data: data, Header: map[string]string{outbox.HeaderType: "waybill.event.v1.EventBatch"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func TestEachEventOfABatchIsHandledOnceAlsoIfOneOfThemFailsForAWhile(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var failed atomic.Int64
		w.run(counter(func(v *react.View, e *inventoryv1.StockHeld) error {
			if e.GetOrderId() == "o2" && failed.Add(1) < 4 {
				return errs.E(errs.Unavailable, "LATER", "not yet")
			}
			return addOne(v, e)
		}))
		w.publishBatch("o1", "o2", "o3")
		w.eventually("the one that failed is handled", func() bool { return w.sum("o2") == 1 })
		w.eventually("the message is acknowledged", func() bool {
			c, err := w.bus.ConsumerInfo(t.Context(), outbox.Stream("inventory"), "payment")
			return err == nil && c.AckPending == 0 && c.Pending == 0
		})
		for _, id := range []string{"o1", "o2", "o3"} {
			if n := w.sum(id); n != 1 {
				t.Errorf("%s was handled %d times", id, n)
			}
		}
		if n := w.number(`SELECT count(*) FROM dead_letters`); n != 0 {
			t.Errorf("%d dead letters", n)
		}
	})
}

func TestWhatIsWrongWithABatchHarmsNobodyElse(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		r := w.run(counter(func(v *react.View, e *inventoryv1.StockHeld) error {
			if e.GetOrderId() == "bad" {
				return errs.E(errs.NotFound, "NO_ORDER", "no such order")
			}
			return addOne(v, e)
		}))
		w.publishBatch("o1", "bad", "o2")
		w.publishData("waybill.inventory.stock_held.v1.batch", []byte{0xff, 0xff})
		w.publishData("waybill.inventory.stock_held.v1.batch", nil)
		w.publishData("waybill.inventory.stock_held.v1.batch", must(proto.Marshal(&eventv1.EventBatch{
			Type: "waybill.payment.v1.PaymentAuthorized", Events: []*eventv1.Event{{Id: "forged", Subject: "o9"}},
		})))
		w.publishData("waybill.inventory.stock_held.v1.batch", must(proto.Marshal(&eventv1.EventBatch{
			Type: "waybill.inventory.v1.StockHeld", Events: []*eventv1.Event{{Id: "loop", Subject: "o9", Hops: 17}, {Id: "torn", Subject: "o9", Data: []byte{0xff}}},
		})))
		w.publishBatch("o3")
		reasons := map[string]int{}
		for _, d := range w.letters(r, 6) {
			reasons[d.GetReason()]++
		}
		if want := map[string]int{"NO_ORDER": 1, "MALFORMED_EVENT": 4, "TOO_MANY_HOPS": 1}; !maps.Equal(reasons, want) {
			t.Errorf("dead letters for %v, want %v", reasons, want)
		}
		w.eventually("the others are handled", func() bool { return w.sum("o1") == 1 && w.sum("o2") == 1 && w.sum("o3") == 1 })
		w.eventually("no message comes again", func() bool {
			c, err := w.bus.ConsumerInfo(t.Context(), outbox.Stream("inventory"), "payment")
			return err == nil && c.AckPending == 0 && c.Pending == 0
		})
	})
}

func TestEventsFromTheWrongStreamOrInALoopAreDeadLetters(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.run(counter(addOne))
		const typ = "waybill.inventory.v1.StockHeld"
		w.publish("first", "o0")
		for id, h := range map[string]map[string]string{
			"loop":   {outbox.HeaderType: typ, outbox.HeaderHops: "17"},
			"forged": {outbox.HeaderType: "waybill.payment.v1.PaymentAuthorized", outbox.HeaderHops: "0"},
		} {
			h[outbox.HeaderID], h[outbox.HeaderSubject] = id, "o1"
			_, err := w.bus.Publish(t.Context(), outbox.Stream("inventory"), bus.Msg{ID: id, Subject: outbox.Subject(typ, "o1"), Header: h})
			if err != nil {
				t.Fatal(err)
			}
		}
		w.eventually("both are dead letters", func() bool { return w.number(`SELECT count(*) FROM dead_letters`) == 2 })
		if got := w.sum("o1"); got != 0 {
			t.Errorf("sum = %d, want 0", got)
		}
	})
}
