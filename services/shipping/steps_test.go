package shipping

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/errs"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
)

// play gives a shipment messages one after the other, and all that comes of them.
func play(s Shipment, messages ...Message) (Shipment, Outcome) {
	var all Outcome
	for _, m := range messages {
		next, out := s.On(inputOf(m), env())
		s = next
		all.Events, all.Calls, all.Alarm = append(all.Events, out.Events...), append(all.Calls, out.Calls...), all.Alarm || out.Alarm
	}
	return s, all
}

func names(events []proto.Message) []string {
	var all []string
	for _, e := range events {
		all = append(all, string(e.ProtoReflect().Descriptor().Name()))
	}
	return all
}

func TestWhatIsToldOnTheUsualWays(t *testing.T) {
	booked := []Message{OrderPlaced, PaymentCaptured, BookingAccepted}
	for name, c := range map[string]struct {
		messages []Message
		state    State
		told     []string
		asked    []Call
	}{
		"delivered": {append(booked, ScanPickedUp, ScanInTransit, ScanDelivered), Delivered,
			[]string{"ShipmentScheduled", "ShipmentDispatched", "ShipmentDelivered"}, []Call{Book, Track}},
		"delivered, the pick-up was missed": {append(booked, ScanDelivered), Delivered,
			[]string{"ShipmentScheduled", "ShipmentDispatched", "ShipmentDelivered"}, []Call{Book, Track}},
		"returned": {append(booked, ScanDelivered, ReturnRequested, ScanReturnPickedUp, ScanReturned), Returned,
			[]string{"ShipmentScheduled", "ShipmentDispatched", "ShipmentDelivered", "ShipmentReturned"}, []Call{Book, Track, Track}},
		"refused, then undone": {[]Message{OrderPlaced, PaymentCaptured, BookingRefused, OrderCancelling}, Refused,
			[]string{"ShipmentRefused", "ShipmentCancelled"}, []Call{Book}},
		"undone before it was paid": {[]Message{OrderPlaced, OrderCancelling, PaymentCaptured}, Cancelled, []string{"ShipmentCancelled"}, nil},
		"rejected":                  {[]Message{OrderPlaced, OrderRejected}, Cancelled, nil, nil},
		"rejected before it came":   {[]Message{OrderRejected, OrderPlaced}, Cancelled, nil, nil},
		"undone while it was booked": {[]Message{OrderPlaced, PaymentCaptured, OrderCancelling, OrderCancelling, BookingAccepted, CallOffDone}, Cancelled,
			[]string{"ShipmentScheduled", "ShipmentCancelled"}, []Call{Book, Track, CallOff}},
		"called off too late while it was booked": {[]Message{OrderPlaced, PaymentCaptured, OrderCancelling, BookingAccepted, CallOffRefused, ScanPickedUp}, Dispatched,
			[]string{"ShipmentScheduled", "ShipmentCancelRefused", "ShipmentDispatched"}, []Call{Book, Track, CallOff}},
		"called off": {append(booked, OrderCancelling, OrderCancelling, CallOffDone), Cancelled,
			[]string{"ShipmentScheduled", "ShipmentCancelled"}, []Call{Book, Track, CallOff}},
		"wished undone on its way": {append(booked, ScanPickedUp, OrderCancelling, ScanDelivered), Delivered,
			[]string{"ShipmentScheduled", "ShipmentDispatched", "ShipmentCancelRefused", "ShipmentDelivered"}, []Call{Book, Track}},
		"lost, then undone": {append(booked, ScanLost, OrderCancelling), Lost,
			[]string{"ShipmentScheduled", "ShipmentLost", "ShipmentCancelled"}, []Call{Book, Track}},
		"lost while called off": {append(booked, OrderCancelling, ScanLost, CallOffDone), Lost,
			[]string{"ShipmentScheduled", "ShipmentCancelled"}, []Call{Book, Track, CallOff}},
		"lost on its way, asked back, found": {append(booked, ScanPickedUp, ScanLost, ReturnRequested, ScanReturned), Returned,
			[]string{"ShipmentScheduled", "ShipmentDispatched", "ShipmentLost", "ShipmentReturned"}, []Call{Book, Track, Track}},
	} {
		s, all := play(Shipment{OrderID: "o"}, c.messages...)
		if s.State != c.state || all.Alarm {
			t.Errorf("%s: ends %s, alarm %v", name, s.State, all.Alarm)
		}
		if diff := cmp.Diff(c.told, names(all.Events)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(c.asked, all.Calls); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestAnOrderThatIsUndoneBeforeItCameLeavesNoAddress(t *testing.T) {
	s, _ := play(Shipment{OrderID: "o"}, OrderCancelling, OrderPlaced, PaymentCaptured)
	if s.State != Cancelled || s.ShipTo != nil || s.UserID != "" || s.ID != "" {
		t.Errorf("%+v", s)
	}
}

func TestAReturnOfWhatWasLostInTheHouseIsAnAlarm(t *testing.T) {
	s, _ := play(shipmentIn(Scheduled), ScanLost)
	if _, out := s.On(inputOf(ReturnRequested), env()); !out.Alarm || out.Changed {
		t.Errorf("%+v", out)
	}
}

func TestAStepLeavesItsInputsAlone(t *testing.T) {
	for _, s := range States() {
		for _, m := range messages() {
			before, in := shipmentIn(s), inputOf(m)
			before.Scans = append(make([]*shippingv1.Scan, 0, 8), &shippingv1.Scan{ScanId: "first", ScanTime: timestamppb.New(noon)})
			kept := proto.CloneOf(in.Scan)
			spare := before.Scans[:2:2]
			before.On(in, env())
			if !proto.Equal(kept, in.Scan) {
				t.Errorf("%s in %s changed the scan it was given", m, s)
			}
			if spare[1] != nil {
				t.Errorf("%s in %s wrote behind the scans it was given", m, s)
			}
		}
	}
}

func TestTheLastScansAreKeptAndAllAreCounted(t *testing.T) {
	s := shipmentIn(Dispatched)
	for i := range MaxScans + 5 {
		in := inputOf(ScanInTransit)
		in.Scan.ScanId = fmt.Sprint(i)
		var out Outcome
		if s, out = s.On(in, env()); !out.Changed {
			t.Fatalf("scan %d was dropped", i)
		}
	}
	if len(s.Scans) != MaxScans || s.Scans[0].GetScanId() != "5" || s.Scanned != MaxScans+5 {
		t.Errorf("%d scans from %s, %d counted", len(s.Scans), s.Scans[0].GetScanId(), s.Scanned)
	}
	want := proto.CloneOf(s.Scans[0])
	want.ReportTime = timestamppb.New(noon)
	if diff := cmp.Diff(want, s.Scans[0], protocmp.Transform()); diff != "" {
		t.Errorf("it does not say when it was reported:\n%s", diff)
	}
	if s, out := s.On(inputOf(ScanDelivered), env()); s.State != Delivered || !out.Changed {
		t.Errorf("a parcel with many scans cannot arrive: %s", s.State)
	}
}

func TestARepeatedAnswerIsTheSameAnswer(t *testing.T) {
	back := shipmentIn(Returning)
	in := inputOf(ScanReturned)
	in.Scan.ScanTime = timestamppb.New(noon.Add(-time.Hour))
	back, first := back.On(in, env())
	_, again := back.On(inputOf(ReturnRequested), env())
	if diff := cmp.Diff(first.Events, again.Events, protocmp.Transform()); diff != "" {
		t.Errorf("returned (-first +again):\n%s", diff)
	}
	off := shipmentIn(CallingOff)
	off, first = off.On(inputOf(CallOffDone), env())
	_, again = off.On(inputOf(OrderCancelling), env())
	if diff := cmp.Diff(first.Events, again.Events, protocmp.Transform()); diff != "" {
		t.Errorf("called off (-first +again):\n%s", diff)
	}
}

func TestAnAcceptanceNeedsATrackingNumber(t *testing.T) {
	for _, a := range []Answer{{Accepted: true}, {Accepted: true, Carrier: "c"}, {Accepted: true, Carrier: "c", Tracking: "a b"}, {Accepted: true, Tracking: "T1"}} {
		if errs.KindOf(a.Check()) != errs.Unavailable {
			t.Errorf("%+v: %v", a, a.Check())
		}
	}
	for _, a := range []Answer{{Reason: "no"}, {Accepted: true, Carrier: "c", Tracking: "T-1"}} {
		if err := a.Check(); err != nil {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

func TestEveryStateHasANameAndAStatus(t *testing.T) {
	for _, s := range States() {
		if s.String() == "" || s.Status() == shippingv1.ShipmentStatus_SHIPMENT_STATUS_UNSPECIFIED {
			t.Errorf("state %d is %q, %s", s, s, s.Status())
		}
	}
	if stateCount.String() != "UNKNOWN" || stateCount.Status() != shippingv1.ShipmentStatus_SHIPMENT_STATUS_UNSPECIFIED || messageCount.String() != "unknown" {
		t.Error("a state of a later build has a name")
	}
}
