package order

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
)

var update = flag.Bool("update", false, "write docs/saga-order.md anew")

func TestEveryMessageHasARuleInEveryStatus(t *testing.T) {
	pairs := 0
	for _, m := range Messages() {
		for _, s := range Statuses() {
			pairs++
			r := RuleFor(s, m)
			switch r.Action {
			case Advance:
				if r.To == 0 || r.To == s {
					t.Errorf("%s in %s advances to %s", m, StatusName(s), StatusName(r.To))
				}
			case Resume:
				if s != Cancelling || r.To < Scheduled {
					t.Errorf("%s in %s resumes at %s", m, StatusName(s), StatusName(r.To))
				}
			case Remind, Note, Ignore, Refuse, Alarm:
				if r.To != 0 {
					t.Errorf("%s in %s is %s but goes to %s", m, StatusName(s), r.Action, StatusName(r.To))
				}
			default:
				t.Errorf("there is no rule for %s in %s", m, StatusName(s))
			}
			if wish := m == CancelRequested || m == ReturnRequested; r.Action == Refuse && !wish {
				t.Errorf("%s in %s is refused, but there is nobody to be told", m, StatusName(s))
			} else if wish && (r.Action == Alarm || r.Action == Note) {
				t.Errorf("the wish %s in %s is %s", m, StatusName(s), r.Action)
			}
		}
	}
	if want := len(orderv1.OrderStatus_name) - 1; len(Statuses()) != want {
		t.Errorf("the table knows %d statuses, the contract has %d", len(Statuses()), want)
	}
	t.Logf("%d pairs", pairs)
}

func TestThePairsOfTheTableDoWhatTheySay(t *testing.T) {
	d := DefaultDeadlines()
	for _, m := range Messages() {
		for _, s := range Statuses() {
			o := orderIn(s)
			got, out, err := d.Apply("o", o, Input{Message: m}, noon)
			r := RuleFor(s, m)
			if (err != nil) != (r.Action == Refuse) {
				t.Errorf("%s in %s: error %v", m, StatusName(s), err)
				continue
			}
			if out.From != s || (err == nil && got.Status != out.To) {
				t.Errorf("%s in %s: outcome %v, status %s", m, StatusName(s), out, StatusName(got.Status))
			}
			moved := r.Action == Advance || r.Action == Resume
			if !moved && got.Status != s {
				t.Errorf("%s in %s moved the order to %s", m, StatusName(s), StatusName(got.Status))
			}
			if moved && r.Action == Advance && got.Status != r.To {
				t.Errorf("%s in %s moved the order to %s, want %s", m, StatusName(s), StatusName(got.Status), StatusName(r.To))
			}
			if !moved && r.Action != Remind && len(out.Events) > 0 {
				t.Errorf("%s in %s emits %d events although nothing moved", m, StatusName(s), len(out.Events))
			}
			if r.Action == Alarm {
				o.UpdatedAt = got.UpdatedAt
				if diff := cmp.Diff(o, got); diff != "" {
					t.Errorf("the alarm %s in %s changed the order:\n%s", m, StatusName(s), diff)
				}
			}
			if err == nil && out.Changed() && SagaOver(got.Status) == got.SagaOverAt.IsZero() {
				t.Errorf("%s in %s: saga over at %v in %s", m, StatusName(s), got.SagaOverAt, StatusName(got.Status))
			}
			timed := got.Status < Scheduled || got.Status == Cancelling || got.Status == Returning
			if err == nil && out.Changed() && timed == got.Deadline.IsZero() {
				t.Errorf("%s in %s: deadline %v in %s", m, StatusName(s), got.Deadline, StatusName(got.Status))
			}
		}
	}
}

// Whoever adds an event to another service's contract has to say what it means to
// an order, if only that it means nothing.
func TestEveryEventOfTheSagaIsAMessage(t *testing.T) {
	notOurs := map[protoreflect.Name]string{
		"ProductCreated": "about products", "ProductUpdated": "about products", "ProductArchived": "about products", "StockAdjusted": "about products",
	}
	for _, file := range []protoreflect.FileDescriptor{
		inventoryv1.File_waybill_inventory_v1_inventory_events_proto,
		paymentv1.File_waybill_payment_v1_payment_events_proto,
		shippingv1.File_waybill_shipping_v1_shipping_events_proto,
	} {
		for i := range file.Messages().Len() {
			d := file.Messages().Get(i)
			if notOurs[d.Name()] != "" {
				continue
			}
			typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
			if err != nil {
				t.Fatal(err)
			}
			in, ok := Read(typ.New().Interface())
			if !ok {
				t.Errorf("%s is no message of the table", d.FullName())
				continue
			}
			if in.Message.String() != string(d.Name()) || in.Message.Service() != string(d.ParentFile().Package().Parent().Name()) {
				t.Errorf("%s is read as %s of %s", d.FullName(), in.Message, in.Message.Service())
			}
		}
	}
	if _, ok := Read(&orderv1.OrderPlaced{}); ok {
		t.Error("the order service hears its own events")
	}
	var lost proto.Message = &shippingv1.ShipmentLost{AfterDispatch: true}
	if in, _ := Read(lost); in.Message != ShipmentLostOnTheWay {
		t.Errorf("a parcel lost on the way is read as %s", in.Message)
	}
}

func TestTheDocumentedTableIsTheTable(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "saga-order.md")
	want := tableDocument()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it with go test ./services/order -update", err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("docs/saga-order.md is not what the code does; write it anew with go test ./services/order -update\n%s", diff)
	}
}

func tableDocument() string {
	var b strings.Builder
	b.WriteString(`# The order's table

Written by ` + "`go test ./services/order -update`" + ` from ` + "`services/order/table.go`" + `; a test compares the two.

Each cell says what a message (row) does to an order in a status (column):

| cell | meaning |
|---|---|
| → STATUS | the order moves on, with an entry on its waybill |
| ↩ STATUS | a cancellation came too late: the order goes on where its parcel is, at least at STATUS |
| again | what was asked for (undoing, return) is asked for again, after a growing wait |
| note | an entry on the waybill, nothing else |
| · | nothing new; if the message tells an id that was not known yet, it is noted |
| refuse | the caller gets FAILED_PRECONDITION with the reason |
| **alarm** | must not happen: entry on the waybill, log, metric; the order stays as it is |

`)
	header, rule := "| message |", "|---|"
	for _, s := range Statuses() {
		header += " " + StatusName(s) + " |"
		rule += "---|"
	}
	b.WriteString(header + "\n" + rule + "\n")
	for _, m := range Messages() {
		fmt.Fprintf(&b, "| %s |", m)
		for _, s := range Statuses() {
			r := RuleFor(s, m)
			cell := r.Action.String()
			switch r.Action {
			case Advance:
				cell = "→ " + StatusName(r.To)
			case Resume:
				cell = "↩ " + StatusName(r.To)
			case Remind:
				cell = "again"
			case Ignore:
				cell = "·"
			case Alarm:
				cell = "**alarm**"
			}
			fmt.Fprintf(&b, " %s |", cell)
		}
		b.WriteString("\n")
	}
	return b.String()
}
