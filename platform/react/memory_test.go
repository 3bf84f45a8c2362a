package react_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/idempotency"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
)

// replica is a service driven by hand, one of several on the same database.
type replica struct {
	*react.Driver

	t *testing.T
	r *react.Reactor
}

// memory is a database that counts the tallies that are read from it.
type memory struct {
	*sqldb.Memory

	reads int
}

func newMemory() *memory {
	m := &memory{Memory: sqldb.NewMemory()}
	m.Reading = func(t *sqldb.Table, row []any) []any {
		if t.Name == "tallies" {
			m.reads++
		}
		return row
	}
	return m
}

func (m *memory) replica(t *testing.T, machine *react.Machine, offer func([]*outbox.Event, []*effect.Call)) *replica {
	t.Helper()
	d, r, err := react.NewDriver(react.Config{Machine: machine, DB: m.Open(), Log: slog.New(slog.DiscardHandler)}, offer)
	if err != nil {
		t.Fatal(err)
	}
	return &replica{d, t, r}
}

// hear handles one event in a batch of its own and tells how it ended.
func (r *replica) hear(event, order string) bus.End {
	r.t.Helper()
	var ends []bus.End
	r.Deliver(heard(r.t, event, order, &ends))
	r.Run(1)
	if len(ends) != 1 {
		r.t.Fatalf("event %s ended %d times", event, len(ends))
	}
	return ends[0]
}

// add runs the command of that name in a batch of its own.
func (r *replica) add(ctx context.Context, order string, n int64) (answer *paymentv1.Refund, err error) {
	r.Command(func() { answer, err = add(ctx, r.r, order, n) })
	r.Run(1)
	return answer, err
}

// sum gives what the database has.
func (m *memory) sum(t *testing.T, order string) (sum int64) {
	t.Helper()
	if _, err := m.Tail("tallies", 0, func(_ int64, row sqldb.Scanner) error {
		var id string
		var n int64
		err := row.Scan(&id, nil, nil, &n, nil)
		if id == order {
			sum = n
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return sum
}

func TestWhatAReactorStoredLastItDoesNotReadAgain(t *testing.T) {
	m := newMemory()
	r := m.replica(t, counter(addOne), nil)
	for n := range int64(10) {
		if end := r.hear(fmt.Sprint("e", n), "o"); end != bus.Acked || m.sum(t, "o") != n+1 {
			t.Fatalf("event %d ended %v and left %d", n, end, m.sum(t, "o"))
		}
	}
	if m.reads != 0 {
		t.Errorf("the tally was read %d times", m.reads)
	}
}

func TestWhatAnotherReplicaHasChangedIsNoticed(t *testing.T) {
	m := newMemory()
	one, two := m.replica(t, counter(addOne), nil), m.replica(t, counter(addOne), nil)
	for n := range int64(50) {
		r := one
		if n%3 == 1 {
			r = two
		}
		if end := r.hear(fmt.Sprint("e", n), "o"); end != bus.Acked || m.sum(t, "o") != n+1 {
			t.Fatalf("event %d ended %v and left %d", n, end, m.sum(t, "o"))
		}
	}
	if m.reads < 40 {
		t.Errorf("only %d of 50 batches read, although another replica is at it", m.reads)
	}
}

// onlyFromTwo is a step that adds one to a tally that has at least two and leaves
// others as they are.
func onlyFromTwo(v *react.View, e *inventoryv1.StockHeld) error {
	if t, _ := tallies.Get(v, e.GetOrderId()); t.Sum >= 2 {
		return addOne(v, e)
	}
	return nil
}

func TestAStepThatOnlyLooksIsNotMisledByMemory(t *testing.T) {
	m := newMemory()
	one, two := m.replica(t, counter(onlyFromTwo), nil), m.replica(t, counter(onlyFromTwo), nil)
	for _, r := range []*replica{one, two} {
		if _, err := r.add(t.Context(), "o", 1); err != nil {
			t.Fatal(err)
		}
	}
	one.hear("e", "o") // it remembers one, but there are two
	if sum := m.sum(t, "o"); sum != 3 {
		t.Errorf("the step left %d, want 3: it went by what was there before", sum)
	}
}

func TestAnEventThatComesAgainCountsOnceAlsoIfNobodySaysSo(t *testing.T) {
	m := newMemory()
	r := m.replica(t, counter(addOne), nil)
	for range 3 { // each is a first delivery, as the broker tells it
		if end := r.hear("e", "o"); end != bus.Acked {
			t.Fatalf("it ended %v", end)
		}
	}
	if sum := m.sum(t, "o"); sum != 1 || m.Count("inbox") != 1 {
		t.Errorf("it counted %d times, %d rows in the inbox", sum, m.Count("inbox"))
	}
}

func TestTheFirstEventOfAnAggregateMayComeAfterOthers(t *testing.T) {
	m := newMemory()
	one, two := m.replica(t, counter(addOne), nil), m.replica(t, counter(onlyFromTwo), nil)
	one.hear("later", "o")
	one.hear("latest", "o")
	for _, r := range []*replica{m.replica(t, counter(addOne), nil), two} { // one writes, the other might only look
		before := m.sum(t, "o")
		var ends []bus.End
		r.Deliver(heardAt(t, "1", fmt.Sprint("first", before), "o", &ends))
		r.Run(1)
		if sum := m.sum(t, "o"); len(ends) != 1 || ends[0] != bus.Acked || sum != before+1 {
			t.Errorf("it ended %v and left %d, want %d", ends, sum, before+1)
		}
	}
}

func TestAnAnswerGivenBeforeIsGivenAlsoWhenTheCommandWouldFailNow(t *testing.T) {
	m := newMemory()
	r := m.replica(t, counter(addOne), nil)
	ctx := idempotency.NewContext(t.Context(), idempotency.Key{Caller: "c", Method: "m", Value: "k", Fingerprint: []byte("f")})
	first, err := r.add(ctx, "o", 5)
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.add(ctx, "o", -1) // refused, unless it was done before
	if err != nil || !proto.Equal(first, again) || m.sum(t, "o") != 5 {
		t.Errorf("the second answer is %v, %v and left %d; the first was %v", again, err, m.sum(t, "o"), first)
	}
	if _, err := r.add(t.Context(), "o", -1); errs.ReasonOf(err) != "NEGATIVE" {
		t.Errorf("without a key: %v", err)
	}
}

func TestAResultThatIsFoldedAgainChangesNothing(t *testing.T) {
	m := newMemory()
	var calls []*effect.Call
	r := m.replica(t, charging(func(context.Context, react.Call, charge) (string, error) { return "done", nil }),
		func(_ []*outbox.Event, c []*effect.Call) { calls = append(calls, c...) })
	r.hear("e", "o1")
	if len(calls) != 1 {
		t.Fatalf("%d calls were recorded", len(calls))
	}
	result, err := r.Perform(t.Context(), calls[0])
	if err != nil {
		t.Fatal(err)
	}
	var sums []int64
	for range 3 {
		r.Fold(calls[0], result, func(err error) {
			if err != nil {
				t.Error(err)
			}
		})
		r.Run(1)
		sums = append(sums, m.sum(t, "o1"))
	}
	if sums[0] == 0 || sums[1] != sums[0] || sums[2] != sums[0] || m.Count("effects") != 0 {
		t.Errorf("the sums after each are %v, %d calls are left", sums, m.Count("effects"))
	}
}

func TestAfterMistakesBatchesReadForAWhile(t *testing.T) {
	m := newMemory()
	one, two := m.replica(t, counter(addOne), nil), m.replica(t, counter(addOne), nil)
	event := 0
	hear := func(r *replica) (read bool) {
		before := m.reads
		event++
		r.hear(fmt.Sprint("e", event), "o")
		return m.reads > before
	}
	hear(one)
	hear(two)
	mistakes := 0
	for range 6 { // each time another has changed it, the distrust lasts longer
		hear(one)
		mistakes++
		read := 0
		for hear(one) {
			read++
		}
		if read != 1<<(mistakes-1) {
			t.Errorf("after %d mistakes %d batches read", mistakes, read)
		}
		for hear(two) {
		}
		hear(two)
	}
	if int64(event) != m.sum(t, "o") {
		t.Errorf("%d events left %d", event, m.sum(t, "o"))
	}
}

// lists are aggregates whose state could be changed in place.
var lists = react.NewKind("lists", []sqldb.Column{{Name: "words", Type: sqldb.Text}},
	func(words []string) []any { return []any{strings.Join(words, " ")} },
	func(s sqldb.Scanner, meta ...any) ([]string, error) {
		var text string
		err := s.Scan(append(meta, &text)...)
		return strings.Fields(text), err
	}).Remembered()

func TestASimulationFindsAStepThatChangesAStateInPlace(t *testing.T) {
	m := newMemory()
	machine := react.NewMachine("payment")
	react.On(machine, func(_ *react.View, e *inventoryv1.StockHeld) []react.Ref { return []react.Ref{lists.Ref("l")} },
		func(v *react.View, _ *inventoryv1.StockHeld) error {
			words, ok := lists.Get(v, "l")
			if !ok {
				lists.Put(v, "l", []string{"good"})
				return nil
			}
			words[0] = "bad"
			return errs.E(errs.Internal, "", "and then it fails")
		})
	r := m.replica(t, machine, nil)
	r.hear("e1", "o")
	defer func() {
		if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "in place") {
			t.Errorf("it was not found: %v", p)
		}
	}()
	r.hear("e2", "o")
}
