package payment_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/services/payment"
)

var update = flag.Bool("update", false, "write docs/saga-payment.md anew")

// cell says what a payment in a state does about a message.
func cell(t *testing.T, s payment.State, m payment.Message) (to payment.State, text string) {
	w := &world{now: epoch}
	p := reach(t, w, s)
	w.now = w.now.Add(time.Second)
	next, out, err := p.On(input(p, m, w.now), w.env())
	if err != nil {
		return s, "refuse"
	}
	text = out.Rule.String()
	var more []string
	for _, e := range out.Events {
		more = append(more, string(e.ProtoReflect().Descriptor().Name()))
	}
	for _, c := range out.Calls {
		what := strings.ToLower(strings.TrimPrefix(c.Request.Operation.String(), "PAYMENT_OPERATION_"))
		if c.Query {
			what = "query of " + what
		}
		more = append(more, "→ "+what)
	}
	for _, e := range out.Entries {
		more = append(more, "book "+e.Booking.String())
	}
	if len(more) > 0 {
		text += ": " + strings.Join(more, ", ")
	}
	return next.State, text
}

func document(t *testing.T) string {
	var b strings.Builder
	b.WriteString("# The payment of an order\n\n")
	b.WriteString("Generated from the code by `go test ./services/payment -update`; do not edit.\n\n")
	b.WriteString("Every message in every state has a rule. A rule that reads `ignore` keeps everything as it is; `alarm` does too and calls people; `refuse` fails the command.\n")
	b.WriteString("What a wish to undo (ShipmentCancelled, ShipmentReturned) finds under way, it waits for: the outcome then leads on to voiding or refunding, and PaymentReversed answers the wish.\n")
	b.WriteString("`→` is a call to the provider, made after the commit under a key that never changes. The tables show the usual case; a wish noted before changes what outcomes lead to.\n\n")
	b.WriteString("```mermaid\nstateDiagram-v2\n    [*] --> NEW\n")
	type edge struct{ from, to payment.State }
	labels := map[edge][]string{}
	var edges []edge
	var tables strings.Builder
	pairs := 0
	for _, s := range payment.States() {
		quiet := map[string][]string{}
		fmt.Fprintf(&tables, "\n## %s\n\n| message | next state | what is done |\n|---|---|---|\n", s)
		for _, m := range payment.Messages() {
			pairs++
			to, text := cell(t, s, m)
			if text == "ignore" || text == "alarm" {
				quiet[text] = append(quiet[text], m.String())
				continue
			}
			next := to.String()
			if to == s {
				next = "stays"
			} else {
				e := edge{s, to}
				if labels[e] == nil {
					edges = append(edges, e)
				}
				labels[e] = append(labels[e], m.String())
			}
			fmt.Fprintf(&tables, "| %s | %s | %s |\n", m, next, text)
		}
		for _, k := range []string{"ignore", "alarm"} {
			if len(quiet[k]) > 0 {
				fmt.Fprintf(&tables, "| %s | stays | %s |\n", strings.Join(quiet[k], ", "), k)
			}
		}
	}
	for _, e := range edges {
		fmt.Fprintf(&b, "    %s --> %s: %s\n", e.from, e.to, strings.Join(slices.Compact(labels[e]), " / "))
	}
	b.WriteString("```\n\n")
	fmt.Fprintf(&b, "%d states, %d messages, %d pairs.\n", len(payment.States()), len(payment.Messages()), pairs)
	b.WriteString(tables.String())
	return b.String()
}

func TestTheDocumentSaysWhatTheTableDoes(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "saga-payment.md")
	got := document(t)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("run go test ./services/payment -update and look at the difference:\n%s", diff)
	}
}
