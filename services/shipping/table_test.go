package shipping

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

var update = flag.Bool("update", false, "write docs/saga-shipping.md anew")

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func messages() []Message {
	all := make([]Message, messageCount)
	for i := range all {
		all[i] = Message(i)
	}
	return all
}

// shipmentIn gives a usual shipment in a state.
func shipmentIn(s State) Shipment {
	x := Shipment{OrderID: "o", State: s, Created: noon, Updated: noon}
	if s == New {
		return Shipment{OrderID: "o"}
	}
	x.ID, x.UserID, x.Placed, x.Paid, x.ShipTo = "s", "u", true, true, &typev1.Address{RegionCode: "NO"}
	if s != Booking && s != Refused {
		x.Booked, x.Carrier, x.Tracking, x.BookedAt = true, "c", "T1", noon
	}
	x.Undo = s == CallingOff || s == Cancelled
	x.LostLate = s == Lost
	return x
}

func inputOf(m Message) Input {
	in := Input{Message: m}
	switch m {
	case OrderPlaced:
		in.UserID, in.ShipTo = "u", &typev1.Address{RegionCode: "NO"}
	case BookingAccepted:
		in.Carrier, in.Number = "c", "T1"
	case BookingRefused:
		in.Reason = "address_not_served"
	}
	for k := range shippingv1.ScanKind_name {
		kind := shippingv1.ScanKind(k)
		if scan, ok := OfScan(kind); ok && scan == m {
			in.Scan = &shippingv1.Scan{ScanId: kind.String(), Kind: kind, ScanTime: timestamppb.New(noon)}
		}
	}
	return in
}

func env() Env {
	n := 0
	return Env{Now: noon, NewID: func() string { n++; return fmt.Sprintf("id-%d", n) }}
}

func TestEveryMessageHasARuleInEveryState(t *testing.T) {
	for _, s := range States() {
		for _, m := range messages() {
			if RuleFor(s, m) == noRule {
				t.Errorf("no rule for %s in %s", m, s)
			}
		}
	}
	if RuleFor(200, OrderPlaced) != Alarm || RuleFor(New, 200) != Alarm {
		t.Error("a state or message of a later build does not alarm")
	}
}

func TestARuleDoesWhatItsNameSays(t *testing.T) {
	for _, s := range States() {
		for _, m := range messages() {
			before := shipmentIn(s)
			after, out := before.On(inputOf(m), env())
			r := RuleFor(s, m)
			still := r == Ignore || r == Alarm || r == Reject || r == Reply || r == Deny || r == ReplyBack
			if still != !out.Changed {
				t.Errorf("%s in %s (%s): changed = %v", m, s, r, out.Changed)
			}
			if !out.Changed {
				if diff := cmp.Diff(before, after, protocmp.Transform()); diff != "" {
					t.Errorf("%s in %s (%s) changed the shipment unsaid:\n%s", m, s, r, diff)
				}
			}
			if out.Alarm != (r == Alarm) {
				t.Errorf("%s in %s: alarm = %v", m, s, out.Alarm)
			}
			if (out.Rejects != "") != (r == Reject || r == Alarm && inputOf(m).Scan != nil) {
				t.Errorf("%s in %s: rejects %q", m, s, out.Rejects)
			}
			for _, e := range out.Events {
				if id := e.ProtoReflect().Get(e.ProtoReflect().Descriptor().Fields().ByName("order_id")).String(); id != "o" {
					t.Errorf("%T names order %q", e, id)
				}
			}
		}
	}
}

func TestOrderAndPaymentMayComeInEitherOrder(t *testing.T) {
	for _, order := range [][]Message{{OrderPlaced, PaymentCaptured}, {PaymentCaptured, OrderPlaced}} {
		s := Shipment{OrderID: "o"}
		var out Outcome
		for _, m := range order {
			s, out = s.On(inputOf(m), env())
		}
		if s.State != Booking || len(out.Calls) != 1 || out.Calls[0] != Book || s.UserID != "u" {
			t.Errorf("%v: %s with calls %v", order, s.State, out.Calls)
		}
	}
}

func TestAWishToUndoIsAlwaysAnsweredOnce(t *testing.T) {
	for _, s := range States() {
		x, out := shipmentIn(s).On(inputOf(OrderCancelling), env())
		answers := count(out.Events)
		// What is still under way is answered when the carrier has spoken.
		for answers == 0 {
			m := BookingAccepted
			if x.State == CallingOff {
				m = CallOffDone
			}
			x, out = x.On(inputOf(m), env())
			answers += count(out.Events)
			if x.State == s {
				break
			}
		}
		if answers != 1 {
			t.Errorf("in %s the wish was answered %d times", s, answers)
		}
		again, out := x.On(inputOf(OrderCancelling), env())
		if n := count(out.Events); n != 1 {
			t.Errorf("in %s a repeated wish was answered %d times (%s)", s, n, again.State)
		}
	}
}

func TestAParcelThatLeftWhileItWasCalledOffIsToldTwice(t *testing.T) {
	x, out := shipmentIn(CallingOff).On(inputOf(ScanPickedUp), env())
	if x.State != Dispatched || len(out.Events) != 2 {
		t.Fatalf("%s with %d events", x.State, len(out.Events))
	}
	if _, ok := out.Events[0].(*shippingv1.ShipmentCancelRefused); !ok {
		t.Errorf("first event is a %T", out.Events[0])
	}
	if _, ok := out.Events[1].(*shippingv1.ShipmentDispatched); !ok {
		t.Errorf("second event is a %T", out.Events[1])
	}
	_, late := x.On(inputOf(CallOffRefused), env())
	if len(late.Events) != 0 {
		t.Error("the carrier's late refusal is told once more")
	}
}

func TestAScanCountsOnce(t *testing.T) {
	x, _ := shipmentIn(Scheduled).On(inputOf(ScanPickedUp), env())
	y, out := x.On(inputOf(ScanPickedUp), env())
	if !out.Known || out.Changed || len(y.Scans) != 1 {
		t.Errorf("known %v, changed %v, %d scans", out.Known, out.Changed, len(y.Scans))
	}
}

// Whatever comes in whatever order: a parcel is never both on its way and
// answered as called off, and an order hears of each stage once.
func TestRandomHistoriesKeepTheirPromises(t *testing.T) {
	for seed := range uint64(2000) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := Shipment{OrderID: "o"}
		told := map[string]int{}
		for range 40 {
			m := Message(rnd.IntN(int(messageCount)))
			var out Outcome
			s, out = s.On(inputOf(m), env())
			for _, e := range out.Events {
				told[string(e.ProtoReflect().Descriptor().Name())]++
			}
		}
		if told["ShipmentDispatched"] > 0 && told["ShipmentCancelled"] > 0 {
			t.Fatalf("seed %d: dispatched and called off: %v", seed, told)
		}
		for _, once := range []string{"ShipmentScheduled", "ShipmentDispatched", "ShipmentDelivered", "ShipmentRefused", "ShipmentLost"} {
			if told[once] > 1 {
				t.Fatalf("seed %d: %s told %d times", seed, once, told[once])
			}
		}
	}
}

func count(events []proto.Message) (answers int) {
	for _, e := range events {
		switch e.(type) {
		case *shippingv1.ShipmentCancelled, *shippingv1.ShipmentCancelRefused:
			answers++
		}
	}
	return answers
}

func TestTheDocumentedTableIsTheTable(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "saga-shipping.md")
	var b strings.Builder
	b.WriteString("# The shipment's table\n\nWritten by `go test ./services/shipping -update` from `services/shipping/table.go`; a test compares the two.\n\n" +
		"Each cell says what a shipment in a state (column) does about a message (row); the rules are explained beside their names in the code.\n\n| message |")
	for _, s := range States() {
		fmt.Fprintf(&b, " %s |", s)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", int(stateCount)) + "\n")
	for _, m := range messages() {
		fmt.Fprintf(&b, "| %s |", m)
		for _, s := range States() {
			switch r := RuleFor(s, m); r {
			case Ignore:
				b.WriteString(" · |")
			case Alarm:
				b.WriteString(" **alarm** |")
			default:
				fmt.Fprintf(&b, " %s |", r)
			}
		}
		b.WriteString("\n")
	}
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; write it with go test ./services/shipping -update", err)
	}
	if diff := cmp.Diff(b.String(), string(got)); diff != "" {
		t.Errorf("docs/saga-shipping.md is not what the code does; write it anew with -update\n%s", diff)
	}
}
