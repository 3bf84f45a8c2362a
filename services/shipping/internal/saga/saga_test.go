package saga_test

import (
	"context"
	"io"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/shipping"
	st "github.com/waybill-dev/waybill/services/shipping/internal/shippingtest"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
	"github.com/waybill-dev/waybill/services/shipping/shippingd"
)

func TestMain(m *testing.M) { os.Exit(bustest.Main(m)) }

// The kinds of scans, in the order of a parcel's life.
const (
	pickedUp  = shippingv1.ScanKind_SCAN_KIND_PICKED_UP
	inTransit = shippingv1.ScanKind_SCAN_KIND_IN_TRANSIT
	delivered = shippingv1.ScanKind_SCAN_KIND_DELIVERED
	lost      = shippingv1.ScanKind_SCAN_KIND_LOST
	returned  = shippingv1.ScanKind_SCAN_KIND_RETURNED
)

// told gives the names of the events that were heard about an order.
func told(w *st.World, orderID string) []string {
	var names []string
	for _, e := range w.Ear.Heard(orderID) {
		names = append(names, string(e.ProtoReflect().Descriptor().Name()))
	}
	return names
}

func equal(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func await[E proto.Message](w *st.World, orderID string, n int) E {
	w.T.Helper()
	return reacttest.Await[E](w.Ear, orderID, n)
}

func TestOrderAndPaymentMayComeInEitherOrder(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		for _, paidFirst := range []bool{false, true} {
			id := st.NewOrder()
			events := []proto.Message{st.Placed(id, "ann", "NO"), st.Paid(id)}
			if paidFirst {
				events[0], events[1] = events[1], events[0]
			}
			w.Say(events[0])
			reacttest.Until(t, "the first event is noted", func() bool { _, ok := w.Row(id); return ok })
			if s, _ := w.Row(id); s.ID != "" {
				t.Errorf("half an order has shipment %s", s.ID)
			}
			w.Say(events[1])
			e := await[*shippingv1.ShipmentScheduled](w, id, 1)
			s := w.In(id, shipping.Scheduled)
			if e.GetShipmentId() != s.ID || e.GetTrackingNumber() != s.Tracking || e.GetCarrier() == "" || s.UserID != "ann" {
				t.Errorf("told %v, stored %+v", e, s)
			}
			equal(t, st.Address("NO"), w.Carrier.Booked("book:"+s.ID))
			equal(t, []string{"ShipmentScheduled"}, told(w, id))
		}
		if n := w.Carrier.Bookings(); n != 2 {
			t.Errorf("%d parcels were booked for two orders", n)
		}
	})
}

func TestAnOrderUndoneBeforeItWasHeardOfIsNeverSent(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		id := st.NewOrder()
		w.Say(st.Undo(id))
		first := await[*shippingv1.ShipmentCancelled](w, id, 1)
		equal(t, &shippingv1.ShipmentCancelled{OrderId: id, Noop: true}, first)
		w.Say(st.Placed(id, "ann", "NO"), st.Paid(id), st.Undo(id))
		equal(t, first, await[*shippingv1.ShipmentCancelled](w, id, 2))
		w.Scheduled("bob") // by then the events of the other would have had an effect
		s, _ := w.Row(id)
		if s.State != shipping.Cancelled || s.ShipTo != nil || s.ID != "" || w.Carrier.Bookings() != 1 {
			t.Errorf("%+v, %d parcels booked", s, w.Carrier.Bookings())
		}
	})
}

func TestARejectedOrderIsClosedWithoutAWord(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		id := st.NewOrder()
		w.Say(st.Placed(id, "ann", "NO"), &orderv1.OrderRejected{OrderId: id})
		s := w.In(id, shipping.Cancelled)
		w.Scheduled("bob")
		equal(t, []string(nil), told(w, id))
		w.Say(&userv1.UserErased{UserId: "ann"})
		reacttest.Until(t, "its address goes with the user", func() bool { s, _ = w.Row(id); return s.ShipTo == nil })
	})
}

func TestNobodyDeliversToAntarctica(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		id := w.Order("ann", "AQ")
		e := await[*shippingv1.ShipmentRefused](w, id, 1)
		if e.GetReason() != "address_not_served" || e.GetShipmentId() == "" {
			t.Errorf("told %v", e)
		}
		w.Say(st.Undo(id))
		equal(t, &shippingv1.ShipmentCancelled{OrderId: id, ShipmentId: e.GetShipmentId(), Noop: true}, await[*shippingv1.ShipmentCancelled](w, id, 1))
		equal(t, []string{"ShipmentRefused", "ShipmentCancelled"}, told(w, id))
	})
}

func TestAParcelIsCalledOffUntilItIsFetched(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		before, after := w.Scheduled("ann"), w.Scheduled("bob")
		w.Scanned(after.GetTrackingNumber(), pickedUp)
		w.Say(st.Undo(before.GetOrderId()), st.Undo(after.GetOrderId()))
		off := await[*shippingv1.ShipmentCancelled](w, before.GetOrderId(), 1)
		equal(t, &shippingv1.ShipmentCancelled{OrderId: before.GetOrderId(), ShipmentId: before.GetShipmentId()}, off)
		denied := await[*shippingv1.ShipmentCancelRefused](w, after.GetOrderId(), 1)
		if denied.GetReason() != "already_dispatched" {
			t.Errorf("told %v", denied)
		}
		// Asked again, each says the same again.
		w.Say(st.Undo(before.GetOrderId()), st.Undo(after.GetOrderId()))
		equal(t, off, await[*shippingv1.ShipmentCancelled](w, before.GetOrderId(), 2))
		equal(t, denied, await[*shippingv1.ShipmentCancelRefused](w, after.GetOrderId(), 2))
		if resp := w.Report(w.Scan(before.GetTrackingNumber(), pickedUp)); len(resp.GetRejected()) != 1 || resp.GetRejected()[0].GetReason() != "SHIPMENT_CANCELLED" {
			t.Errorf("a scan of what was called off: %v", resp)
		}
	})
}

func TestACarrierThatRefusesToBeCalledOffDelivers(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		w.Carrier.Late()
		s := w.Scheduled("ann")
		id := s.GetOrderId()
		w.Say(st.Undo(id))
		await[*shippingv1.ShipmentCancelRefused](w, id, 1)
		w.Scanned(s.GetTrackingNumber(), pickedUp, delivered)
		await[*shippingv1.ShipmentDelivered](w, id, 1)
		equal(t, []string{"ShipmentScheduled", "ShipmentCancelRefused", "ShipmentDispatched", "ShipmentDelivered"}, told(w, id))
	})
}

func TestAFailingCarrierIsAskedAgainWithTheSameKey(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		w.Carrier.Fail(func(_ context.Context, _, _ string, nth int) error {
			if nth <= 2 {
				return io.ErrUnexpectedEOF
			}
			return nil
		})
		s := w.Scheduled("ann")
		if n := w.Carrier.Asked("book:" + s.GetShipmentId()); n != 3 || w.Carrier.Bookings() != 1 {
			t.Errorf("asked %d times under the one key, %d parcels booked", n, w.Carrier.Bookings())
		}
		w.Say(st.Undo(s.GetOrderId()))
		await[*shippingv1.ShipmentCancelled](w, s.GetOrderId(), 1)
		if n := w.Carrier.Asked("call-off:" + s.GetShipmentId()); n != 3 {
			t.Errorf("called off %d times under the one key", n)
		}
	})
}

func TestACarrierThatHangsIsAskedAgain(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t), func(c *shippingd.Config) { c.CarrierTimeout = 5 * time.Millisecond })
	w.Carrier.Fail(func(ctx context.Context, _, _ string, nth int) error {
		if nth == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	w.Scheduled("ann")
}

func TestAnAcceptanceWithoutATrackingNumberIsNoAnswer(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t))
	w.Carrier.Forgetful(true)
	w.Carrier.Fail(func(_ context.Context, _, _ string, nth int) error { w.Carrier.Forgetful(nth == 1); return nil })
	if s := w.Scheduled("ann"); s.GetTrackingNumber() == "" || w.Carrier.Bookings() != 1 {
		t.Errorf("told %v, %d parcels booked", s, w.Carrier.Bookings())
	}
}

// held makes the carrier wait with its answers to one kind of request; each of
// them is told on the first channel, and closing the second lets all go.
func held(w *st.World, what string) (asked <-chan string, release chan struct{}) {
	a, release := make(chan string, 16), make(chan struct{})
	w.Carrier.Fail(func(ctx context.Context, x, key string, _ int) error {
		if x != what {
			return nil
		}
		a <- key
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return a, release
}

func TestAWishToUndoWaitsForTheCarriersAnswer(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		asked, release := held(w, "book")
		id := w.Order("ann", "DE")
		<-asked
		w.Say(st.Undo(id), st.Undo(id))
		reacttest.Until(t, "the wish is noted", func() bool { s, _ := w.Row(id); return s.Undo })
		equal(t, []string(nil), told(w, id))
		close(release)
		off := await[*shippingv1.ShipmentCancelled](w, id, 1)
		if off.GetNoop() || off.GetShipmentId() == "" {
			t.Errorf("answered %v", off)
		}
		equal(t, []string{"ShipmentScheduled", "ShipmentCancelled"}, told(w, id))
	})
}

func TestARefusalAnswersTheWishToUndo(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t))
	asked, release := held(w, "book")
	id := w.Order("ann", "AQ")
	<-asked
	w.Say(st.Undo(id))
	reacttest.Until(t, "the wish is noted", func() bool { s, _ := w.Row(id); return s.Undo })
	close(release)
	if off := await[*shippingv1.ShipmentCancelled](w, id, 1); !off.GetNoop() {
		t.Errorf("answered %v", off)
	}
	equal(t, []string{"ShipmentCancelled"}, told(w, id))
}

func TestAPickUpWinsAgainstACallOffUnderWay(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		s := w.Scheduled("ann")
		id := s.GetOrderId()
		asked, release := held(w, "call off")
		w.Carrier.Late()
		w.Say(st.Undo(id))
		<-asked
		w.Scanned(s.GetTrackingNumber(), pickedUp)
		await[*shippingv1.ShipmentDispatched](w, id, 1)
		close(release)
		w.Scanned(s.GetTrackingNumber(), delivered)
		await[*shippingv1.ShipmentDelivered](w, id, 1)
		equal(t, []string{"ShipmentScheduled", "ShipmentCancelRefused", "ShipmentDispatched", "ShipmentDelivered"}, told(w, id))
	})
}

func TestARestartInTheMiddleOfABookingBooksOnce(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		asked, _ := held(w, "book")
		id := w.Order("ann", "DE")
		key := <-asked
		w.Stop()
		w.Carrier.Fail(nil)
		w.Start()
		s := await[*shippingv1.ShipmentScheduled](w, id, 1)
		if key != "book:"+s.GetShipmentId() || w.Carrier.Bookings() != 1 || w.Carrier.Asked(key) < 2 {
			t.Errorf("booked under %s for %s, %d parcels, asked %d times", key, s.GetShipmentId(), w.Carrier.Bookings(), w.Carrier.Asked(key))
		}
	})
}

func TestRepeatedEventsHaveOneEffect(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		id := st.NewOrder()
		thrice := func(e proto.Message) {
			reacttest.Send(t, w.Bus, e, 3) // the broker delivers one event again
			w.Say(proto.CloneOf(e))        // or its service tells it again, as another
		}
		thrice(st.Placed(id, "ann", "DE"))
		thrice(st.Paid(id))
		s := await[*shippingv1.ShipmentScheduled](w, id, 1)
		scan := w.Scan(s.GetTrackingNumber(), delivered)
		for i, want := range []*shippingv1.ReportScansResponse{{AcceptedCount: 1, DuplicateCount: 1}, {DuplicateCount: 2}} {
			if got := w.Report(scan, scan); !proto.Equal(want, got) {
				t.Errorf("report %d: %v", i, got)
			}
		}
		reacttest.Send(t, w.Bus, st.Back(id), 3)
		w.In(id, shipping.Returning)
		w.Scanned(s.GetTrackingNumber(), returned)
		back := await[*shippingv1.ShipmentReturned](w, id, 1)
		w.Say(st.Back(id))
		equal(t, back, await[*shippingv1.ShipmentReturned](w, id, 2))
		reacttest.Send(t, w.Bus, &userv1.UserErased{UserId: "ann"}, 3)
		w.Say(&userv1.UserErased{UserId: "ann"})
		reacttest.Until(t, "the address is gone", func() bool { s, _ := w.Row(id); return s.ShipTo == nil })
		equal(t, []string{"ShipmentScheduled", "ShipmentDispatched", "ShipmentDelivered", "ShipmentReturned", "ShipmentReturned"}, told(w, id))
		if w.Carrier.Bookings() != 1 {
			t.Errorf("%d parcels were booked", w.Carrier.Bookings())
		}
	})
}

func TestTheCarrierIsAskedWhereAParcelIs(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		w.Carrier.Step(time.Hour)
		s := w.Scheduled("ann")
		id := s.GetOrderId()
		for _, c := range []struct {
			state shipping.State
			told  []string
		}{
			{shipping.Dispatched, []string{"ShipmentScheduled", "ShipmentDispatched"}},
			{shipping.Delivered, []string{"ShipmentScheduled", "ShipmentDispatched", "ShipmentDelivered"}},
		} {
			w.Advance(90 * time.Minute)
			w.In(id, c.state)
			await[proto.Message](w, id, len(c.told))
			equal(t, c.told, told(w, id))
		}
		row := w.In(id, shipping.Delivered)
		if at := await[*shippingv1.ShipmentDispatched](w, id, 1).GetDispatchedAt().AsTime(); !at.Equal(row.BookedAt.Add(time.Hour)) {
			t.Errorf("booked at %s, fetched at %s", row.BookedAt, at)
		}
		var kinds []shippingv1.ScanKind
		for _, scan := range row.Scans {
			kinds = append(kinds, scan.GetKind())
			if scan.GetReportTime() == nil || scan.GetReportTime().AsTime().Before(scan.GetScanTime().AsTime()) {
				t.Errorf("seen at %v, reported at %v", scan.GetScanTime(), scan.GetReportTime())
			}
		}
		equal(t, []shippingv1.ScanKind{pickedUp, inTransit, delivered}, kinds)
		w.Say(st.Back(id))
		w.In(id, shipping.Returning)
		w.Advance(150 * time.Minute)
		await[*shippingv1.ShipmentReturned](w, id, 1)
		w.In(id, shipping.Returned)
	}, func(c *shippingd.Config) { c.ScanEvery = 2 * time.Millisecond })
}

func TestAParcelCalledOffTooLateIsStillFollowed(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t), func(c *shippingd.Config) { c.ScanEvery = 2 * time.Millisecond })
	w.Carrier.Step(time.Hour)
	w.Carrier.Late()
	asked, release := held(w, "book")
	id := w.Order("ann", "DE")
	<-asked
	w.Say(st.Undo(id))
	reacttest.Until(t, "the wish is noted", func() bool { s, _ := w.Row(id); return s.Undo })
	close(release)
	await[*shippingv1.ShipmentCancelRefused](w, id, 1)
	w.Advance(4 * time.Hour)
	await[*shippingv1.ShipmentDelivered](w, id, 1)
}

func TestALostParcelIsToldByWhenItWasLost(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		early, late := w.Scheduled("ann"), w.Scheduled("bob")
		w.Scanned(early.GetTrackingNumber(), lost)
		w.Scanned(late.GetTrackingNumber(), pickedUp, lost)
		if e := await[*shippingv1.ShipmentLost](w, early.GetOrderId(), 1); e.GetAfterDispatch() {
			t.Errorf("told %v", e)
		}
		if e := await[*shippingv1.ShipmentLost](w, late.GetOrderId(), 1); !e.GetAfterDispatch() {
			t.Errorf("told %v", e)
		}
		w.Say(st.Undo(early.GetOrderId()), st.Undo(late.GetOrderId()))
		await[*shippingv1.ShipmentCancelled](w, early.GetOrderId(), 1)
		await[*shippingv1.ShipmentCancelRefused](w, late.GetOrderId(), 1)
		// People decide: the customer gets their money, and the parcel is written off as returned.
		w.Say(st.Back(late.GetOrderId()))
		w.In(late.GetOrderId(), shipping.Returning)
		w.Scanned(late.GetTrackingNumber(), returned)
		await[*shippingv1.ShipmentReturned](w, late.GetOrderId(), 1)
	})
}

func TestScansAreReportedOneByOneOrMany(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		s := w.Scheduled("ann")
		number := s.GetTrackingNumber()
		known, early, ahead := w.Scan(number, pickedUp), w.Scan(number, returned), w.Scan(number, delivered)
		ahead.ScanTime = timestamppb.New(w.Now().Add(2 * time.Minute))
		stranger := w.Scan("NEVER-HEARD-OF", pickedUp)
		var many []*shippingv1.ReportScansRequest
		for range 250 {
			many = append(many, w.Scan(number, inTransit))
		}
		got := w.Report(append([]*shippingv1.ReportScansRequest{known, early, ahead, stranger, known}, many...)...)
		want := &shippingv1.ReportScansResponse{AcceptedCount: 251, DuplicateCount: 1, Rejected: []*shippingv1.RejectedScan{
			{ScanId: early.GetScanId(), Reason: "SHIPMENT_DISPATCHED"},
			{ScanId: stranger.GetScanId(), Reason: "UNKNOWN_TRACKING_NUMBER"},
			{ScanId: ahead.GetScanId(), Reason: "SCAN_IN_THE_FUTURE"},
		}}
		equal(t, want, got)
		row := w.In(s.GetOrderId(), shipping.Dispatched)
		if row.Scanned != 251 || len(row.Scans) != shipping.MaxScans || row.Scans[0].GetReportTime() == nil {
			t.Errorf("%d scans counted, %d kept", row.Scanned, len(row.Scans))
		}
		equal(t, []string{"ShipmentScheduled", "ShipmentDispatched"}, told(w, s.GetOrderId()))
		if got := w.Report(); !proto.Equal(got, &shippingv1.ReportScansResponse{}) {
			t.Errorf("no scans at all: %v", got)
		}
	})
}

func TestAnErasedUsersAddressesGoWhenTheirParcelsHaveEnded(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		done, running, other := w.Scheduled("ann"), w.Scheduled("ann"), w.Scheduled("bob")
		w.Scanned(done.GetTrackingNumber(), delivered)
		w.Scanned(other.GetTrackingNumber(), delivered)
		w.Say(&userv1.UserErased{UserId: "ann"})
		gone := func(orderID string) func() bool {
			return func() bool { s, _ := w.Row(orderID); return s.ShipTo == nil }
		}
		reacttest.Until(t, "the address of the delivered parcel is gone", gone(done.GetOrderId()))
		if gone(running.GetOrderId())() || gone(other.GetOrderId())() {
			t.Error("an address is gone that is needed, or of somebody else")
		}
		w.Scanned(running.GetTrackingNumber(), pickedUp, delivered)
		reacttest.Until(t, "the other address is gone too", gone(running.GetOrderId()))
		w.Advance(2 * time.Hour)
		reacttest.Until(t, "the erasure is over", func() bool {
			var open int64
			if err := w.DB.QueryRow(t.Context(), "SELECT count(*) FROM erasures WHERE open").Scan(&open); err != nil {
				t.Fatal(err)
			}
			return open == 0
		})
	})
}

func TestWhatIsPublishedHoldsNothingPersonal(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t))
	s := w.Scheduled("ann")
	w.Scanned(s.GetTrackingNumber(), pickedUp, delivered)
	w.Say(st.Back(s.GetOrderId()))
	w.In(s.GetOrderId(), shipping.Returning)
	w.Scanned(s.GetTrackingNumber(), returned)
	await[*shippingv1.ShipmentReturned](w, s.GetOrderId(), 1)
	for _, table := range []string{"outbox", "effects", "dead_letters"} {
		rows, err := w.DB.Query(t.Context(), "SELECT payload FROM "+table)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var payload []byte
			if err := rows.Scan(&payload); err != nil {
				t.Fatal(err)
			}
			for _, word := range []string{"Ada", "Weg 1", "Kiel", "24103"} {
				if containsText(payload, word) {
					t.Errorf("%s holds %q: %s", table, word, payload)
				}
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
}

func containsText(data []byte, word string) bool {
	for i := range len(data) - len(word) + 1 {
		if string(data[i:i+len(word)]) == word {
			return true
		}
	}
	return false
}

// Cancellations race pick-ups in every way there is: each order ends on one side,
// and was told so.
func TestCancellationsRacePickUps(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		var all []*shippingv1.ShipmentScheduled
		for range 40 {
			all = append(all, w.Scheduled("ann"))
		}
		undone := make(chan struct{})
		go func() {
			defer close(undone)
			for _, s := range all {
				w.Say(st.Undo(s.GetOrderId()))
			}
		}()
		for _, s := range all {
			w.Report(w.Scan(s.GetTrackingNumber(), pickedUp))
		}
		<-undone
		counts := map[shipping.State]int{}
		for _, s := range all {
			id := s.GetOrderId()
			var row store.Stored
			reacttest.Until(t, "the race of "+id+" is decided", func() bool {
				row, _ = w.Row(id)
				answers := reacttest.All[*shippingv1.ShipmentCancelled](w.Ear.Heard(id))
				denials := reacttest.All[*shippingv1.ShipmentCancelRefused](w.Ear.Heard(id))
				return len(answers)+len(denials) == 1
			})
			counts[row.State]++
			dispatched := len(reacttest.All[*shippingv1.ShipmentDispatched](w.Ear.Heard(id))) == 1
			cancelled := len(reacttest.All[*shippingv1.ShipmentCancelled](w.Ear.Heard(id))) == 1
			if dispatched == cancelled || cancelled != (row.State == shipping.Cancelled) {
				t.Errorf("%s: told %v", row.State, told(w, id))
			}
		}
		t.Logf("ends: %v", counts)
	})
}
