package inventory_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/services/inventory"
)

var update = flag.Bool("update", false, "write docs/saga-inventory.md")

// Every state with every input has a rule, the rule can be carried out, and what
// comes of it is what its action promises.
func TestEveryStateAnswersEveryInput(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	lines := []inventory.Line{{ProductID: "p", Quantity: 2}}
	for _, state := range inventory.States() {
		for _, in := range inventory.Inputs() {
			for _, late := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%s/late=%v", orNone(state), in, late), func(t *testing.T) {
					rule, ok := inventory.Rules(state, in)
					if !ok {
						t.Fatalf("no rule for %s of a hold that is %q", in, state)
					}
					if rule.Why == "" {
						t.Error("the rule does not say why")
					}
					h, s := standing(state, lines, now, late)
					d, err := inventory.Decide(h, inventory.Request{OrderID: "o", Input: in, Lines: lines, Now: now, TTL: time.Minute},
						func(string) (inventory.Stock, bool) { return s, true })
					if rule.Do == inventory.Alarm {
						if errs.KindOf(err) != errs.FailedPrecondition {
							t.Fatalf("an impossible input gave %v", err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					if in == inventory.PaymentReversed && len(d.Events) != 1 {
						t.Errorf("PaymentReversed must be answered by one StockReleased, got %d events", len(d.Events))
					}
					if !d.Changed && len(d.Stock)+len(d.Movements) > 0 {
						t.Error("stock moved although the hold did not change")
					}
					if d.Changed && !strings.Contains(rule.Do.Outcomes(), string(d.Hold.State)) {
						t.Errorf("became %s, which %q does not promise", d.Hold.State, rule.Do.Outcomes())
					}
					for _, e := range d.Events {
						name := string(e.ProtoReflect().Descriptor().Name())
						if !strings.Contains(rule.Do.Outcomes()+rule.Why, name) {
							t.Errorf("emitted %s, which %q does not promise", name, rule.Do)
						}
					}
				})
			}
		}
	}
}

// standing gives a hold in a state and the stock that goes with it.
func standing(state inventory.State, lines []inventory.Line, now time.Time, late bool) (inventory.Hold, inventory.Stock) {
	h := inventory.Hold{State: state, ExpiresAt: now.Add(time.Second)}
	if late {
		h.ExpiresAt = now
	}
	s := inventory.Stock{OnHand: 10}
	if late && state != inventory.Held {
		s.OnHand = 1 // and nothing to be had
	}
	switch state {
	case inventory.Held:
		h.Lines, s.Held = lines, lines[0].Quantity
	case inventory.Committed, inventory.Expired, inventory.Released, inventory.RestockedHold:
		h.Lines = lines
	}
	return h, s
}

func TestUnknownStatesAreRefused(t *testing.T) {
	_, err := inventory.Decide(inventory.Hold{State: "FROZEN"}, inventory.Request{Input: inventory.OrderPlaced}, nil)
	if errs.KindOf(err) != errs.Internal || err == nil {
		t.Fatalf("got %v, want an internal error", err)
	}
}

// The page of the documentation is made of the table, so it cannot be wrong.
func TestTheDocumentedTableIsTheTable(t *testing.T) {
	const file = "../../docs/saga-inventory.md"
	want := document()
	if *update {
		if err := os.MkdirAll("../../docs", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; run go test ./services/inventory -update", err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("%s is not what the table says; run go test ./services/inventory -update (-want +got):\n%s", file, diff)
	}
}

func document() string {
	var b strings.Builder
	b.WriteString("# Inventory: the table of holds\n\n" +
		"<!-- Made by go test ./services/inventory -update; do not edit. -->\n\n" +
		"A hold is what is set aside for one order. Rows are the states it can be in, and below each input is what it leads to. Every pair has a rule;\n" +
		"a test fails for one that has none.\n\n")
	for _, in := range inventory.Inputs() {
		fmt.Fprintf(&b, "## %s\n\n| state | action | leads to | why |\n|---|---|---|---|\n", title(in))
		for _, s := range inventory.States() {
			r, _ := inventory.Rules(s, in)
			leads := r.Do.Outcomes()
			if leads == "" {
				leads = "·"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", orNone(s), r.Do, leads, r.Why)
		}
		b.WriteString("\n")
	}
	b.WriteString("*answer again* repeats the event that is named; *ignore* says nothing; *alarm* makes a dead letter, which an operator sees.\n")
	return b.String()
}

func title(in inventory.Input) string {
	if in == inventory.Due {
		return "Its time is over (sweep)"
	}
	return string(in)
}

func orNone(s inventory.State) string {
	if s == inventory.None {
		return "(none)"
	}
	return string(s)
}
