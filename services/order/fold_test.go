package order

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
)

// scheduled is an order of which shipping spoke first, a minute before it was heard.
func scheduled() (Recorded, time.Time) {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	d := DefaultDeadlines()
	placed := PlacedEvent("o", Details{UserID: "u"}, "tok", at)
	details := Details{UserID: "u", CreatedAt: at}
	event := &shippingv1.ShipmentScheduled{OrderId: "o", ShipmentId: "s", Carrier: "Post", TrackingNumber: "1Z"}
	in, _ := Read(event)
	heard := at.Add(2 * time.Minute)
	o, out, _ := d.Apply("o", d.New(at), in, heard)
	first, second := PlacedEntry(details, "r"), Entry(in, out)
	first.Sequence, first.Time = 1, timestamppb.New(at)
	second.Sequence, second.Time, second.EventId, second.CauseId = 2, timestamppb.New(at.Add(time.Minute)), "e", "c"
	return Recorded{
		ID:      "o",
		Rows:    Rows{Order: o, Version: 2, Said: 2, Details: details, DetailsVersion: 1},
		Waybill: []*orderv1.WaybillEntry{first, second},
		Taken:   map[string]time.Time{"e": heard},
		Heard:   map[string]Event{"e": {ID: "e", Cause: "c", Time: at.Add(time.Minute), Message: event}},
		Said:    map[int64]Event{1: {Message: placed}, 2: {Message: &orderv1.OrderCompleted{OrderId: "o"}}},
	}, heard
}

func TestAFoldKnowsWhenSomethingTookEffectOrLeavesItAsItIs(t *testing.T) {
	r, heard := scheduled()
	f := DefaultDeadlines().Fold(r, time.Time{})
	if len(f.Differs)+len(f.Wrong) != 0 || f.Events != 3 || !f.Rows.Order.SagaOverAt.Equal(heard) {
		t.Fatalf("got %+v", f)
	}
	r.Taken = nil
	r.Rows.Order.UpdatedAt, r.Rows.Order.SagaOverAt = heard.Add(time.Hour), heard.Add(time.Hour)
	f = DefaultDeadlines().Fold(r, time.Time{})
	if len(f.Differs)+len(f.Wrong) != 0 || f.Rows.Order != r.Rows.Order {
		t.Errorf("when nobody knows: %+v", f)
	}
	r.Rows = Rows{}
	f = DefaultDeadlines().Fold(r, time.Time{})
	if len(f.Differs) != 2 || len(f.Wrong) != 0 || f.Rows.Order.SagaOverAt.IsZero() || f.Rows.Order.UpdatedAt.IsZero() {
		t.Errorf("when there is no row either: %+v", f)
	}
}

func TestAFoldLacksWhatShouldBeKeptAndLeavesAloneWhatNeedNot(t *testing.T) {
	r, heard := scheduled()
	r.Heard = nil
	if f := DefaultDeadlines().Fold(r, heard.Add(-time.Hour)); !f.Lacks || f.TooOld || len(f.Wrong) != 1 {
		t.Errorf("of a young event: %+v", f)
	}
	if f := DefaultDeadlines().Fold(r, heard); f.Lacks || !f.TooOld || len(f.Wrong)+len(f.Differs) != 0 {
		t.Errorf("of an old event: %+v", f)
	}
	r, _ = scheduled()
	r.Said[3] = Event{Message: &orderv1.OrderDelivered{}}
	if f := DefaultDeadlines().Fold(r, time.Time{}); len(f.Wrong) != 1 {
		t.Errorf("with an event that nothing made it emit: %+v", f)
	}
}
