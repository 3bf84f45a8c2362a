package rpc_test

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/auth/authtest"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping"
	st "github.com/waybill-dev/waybill/services/shipping/internal/shippingtest"
	"github.com/waybill-dev/waybill/services/shipping/shippingd"
)

func TestMain(m *testing.M) { os.Exit(bustest.Main(m)) }

const (
	pickedUp  = shippingv1.ScanKind_SCAN_KIND_PICKED_UP
	inTransit = shippingv1.ScanKind_SCAN_KIND_IN_TRANSIT
	delivered = shippingv1.ScanKind_SCAN_KIND_DELIVERED
	back      = shippingv1.ScanKind_SCAN_KIND_RETURN_PICKED_UP
	returned  = shippingv1.ScanKind_SCAN_KIND_RETURNED
)

func kind(err error) errs.Kind { return errs.KindOf(rpc.FromStatus(err)) }

func equal(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func within(t *testing.T, user string) context.Context {
	ctx, cancel := context.WithTimeout(authtest.As(t.Context(), user), reacttest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func TestAShipmentIsItsOwnersAndTheShops(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		s := w.Scheduled("ann")
		row := w.In(s.GetOrderId(), shipping.Scheduled)
		want := &shippingv1.Shipment{
			ShipmentId: s.GetShipmentId(), OrderId: s.GetOrderId(), UserId: "ann", Status: shippingv1.ShipmentStatus_SHIPMENT_STATUS_SCHEDULED,
			Carrier: s.GetCarrier(), TrackingNumber: s.GetTrackingNumber(), ShipTo: st.Address("DE"),
			CreateTime: timestamppb.New(row.Created), UpdateTime: timestamppb.New(row.Updated), Version: 3, Etag: "3",
		}
		for _, who := range []string{"ann", "staff", "admin"} {
			got, err := w.Shipments.GetShipment(within(t, who), &shippingv1.GetShipmentRequest{ShipmentId: s.GetShipmentId()})
			if err != nil {
				t.Fatalf("%s: %v", who, err)
			}
			equal(t, want, got)
		}
		never := uuid.NewString()
		_, foreign := w.Shipments.GetShipment(within(t, "bob"), &shippingv1.GetShipmentRequest{ShipmentId: s.GetShipmentId()})
		_, absent := w.Shipments.GetShipment(within(t, "bob"), &shippingv1.GetShipmentRequest{ShipmentId: never})
		if kind(foreign) != errs.NotFound || strings.ReplaceAll(foreign.Error(), s.GetShipmentId(), "X") != strings.ReplaceAll(absent.Error(), never, "X") {
			t.Errorf("foreign: %v, absent: %v", foreign, absent)
		}
		if err := first(w.Shipments.TrackShipment(within(t, "bob"), &shippingv1.TrackShipmentRequest{ShipmentId: s.GetShipmentId()})); kind(err) != errs.NotFound {
			t.Errorf("tracked by somebody else: %v", err)
		}
		if _, err := w.Shipments.GetShipment(t.Context(), &shippingv1.GetShipmentRequest{ShipmentId: s.GetShipmentId()}); kind(err) != errs.Unauthenticated {
			t.Errorf("without a token: %v", err)
		}
	})
}

// first gives the error with which a stream begins.
func first(stream grpc.ServerStreamingClient[shippingv1.TrackShipmentResponse], err error) error {
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

func TestListsHoldOnesOwnOnly(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		var mine []string
		for range 3 {
			mine = append(mine, w.Scheduled("ann").GetShipmentId())
		}
		other := w.Scheduled("bob").GetShipmentId()
		read := func(who string, req *shippingv1.ListShipmentsRequest) (ids []string) {
			t.Helper()
			for {
				page, err := w.Shipments.ListShipments(within(t, who), req)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range page.GetShipments() {
					ids = append(ids, s.GetShipmentId())
				}
				if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
					return ids
				}
			}
		}
		equal(t, mine, read("ann", &shippingv1.ListShipmentsRequest{PageSize: 2, OrderBy: "create_time"}))
		equal(t, append(mine, other), read("staff", &shippingv1.ListShipmentsRequest{PageSize: 1, OrderBy: "create_time", Filter: "status = SCHEDULED"}))
		equal(t, []string{other}, read("staff", &shippingv1.ListShipmentsRequest{Filter: `user_id = "bob"`}))
		page, err := w.Shipments.ListShipments(within(t, "ann"), &shippingv1.ListShipmentsRequest{PageSize: 1})
		if err != nil {
			t.Fatal(err)
		}
		for name, err := range map[string]error{
			"somebody else's page token": list(w, within(t, "bob"), &shippingv1.ListShipmentsRequest{PageSize: 1, PageToken: page.GetNextPageToken()}),
			"a customer asks for users":  list(w, within(t, "ann"), &shippingv1.ListShipmentsRequest{Filter: `user_id = "bob"`}),
		} {
			if kind(err) != errs.Invalid {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func list(w *st.World, ctx context.Context, req *shippingv1.ListShipmentsRequest) error { //nolint:revive // reads better
	_, err := w.Shipments.ListShipments(ctx, req)
	return err
}

// follower reads a stream of TrackShipment.
type follower struct {
	t      *testing.T
	stream grpc.ServerStreamingClient[shippingv1.TrackShipmentResponse]
}

func follow(t *testing.T, w *st.World, shipmentID, token string) follower {
	t.Helper()
	stream, err := w.Shipments.TrackShipment(within(t, "ann"), &shippingv1.TrackShipmentRequest{ShipmentId: shipmentID, ResumeToken: token})
	if err != nil {
		t.Fatal(err)
	}
	return follower{t, stream}
}

func (f follower) next() *shippingv1.TrackShipmentResponse {
	f.t.Helper()
	m, err := f.stream.Recv()
	if err != nil {
		f.t.Fatalf("the stream: %v", err)
	}
	return m
}

// rest gives what still comes until the stream ends by itself.
func (f follower) rest() (all []*shippingv1.TrackShipmentResponse) {
	f.t.Helper()
	for {
		m, err := f.stream.Recv()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			f.t.Fatalf("the stream: %v", err)
		}
		all = append(all, m)
	}
}

func scans(messages []*shippingv1.TrackShipmentResponse) (ids []string) {
	for _, m := range messages {
		if m.GetScan() != nil {
			ids = append(ids, m.GetScan().GetScanId())
		}
	}
	return ids
}

func TestAFollowedParcelSendsEachScanOnceFromAnyPointOn(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		s := w.Scheduled("ann")
		f := follow(t, w, s.GetShipmentId(), "")
		begin := f.next()
		if begin.GetScan() != nil || begin.GetShipment().GetStatus() != shippingv1.ShipmentStatus_SHIPMENT_STATUS_SCHEDULED {
			t.Errorf("first message %v", begin)
		}
		var want []string
		report := func(kinds ...shippingv1.ScanKind) { // in one transaction
			var all []*shippingv1.ReportScansRequest
			for _, k := range kinds {
				scan := w.Scan(s.GetTrackingNumber(), k)
				all, want = append(all, scan), append(want, scan.GetScanId())
			}
			if resp := w.Report(all...); int(resp.GetAcceptedCount()) != len(kinds) {
				t.Fatalf("reported: %v", resp)
			}
		}
		report(pickedUp)
		all := []*shippingv1.TrackShipmentResponse{f.next()}
		report(inTransit, inTransit, inTransit)
		report(delivered)
		all = append(all, f.rest()...)
		equal(t, want, scans(all))
		last := all[len(all)-1]
		if last.GetShipment().GetStatus() != shippingv1.ShipmentStatus_SHIPMENT_STATUS_DELIVERED || len(last.GetShipment().GetScans()) != len(want) {
			t.Errorf("last message %v", last)
		}
		// Wherever the stream broke, the rest comes, and nothing twice.
		equal(t, want, scans(follow(t, w, s.GetShipmentId(), begin.GetResumeToken()).rest()))
		for i, m := range all {
			equal(t, want[i+1:], append([]string{}, scans(follow(t, w, s.GetShipmentId(), m.GetResumeToken()).rest())...))
		}
		// A delivered parcel is told as it is; when it comes back it can be followed again.
		if again := follow(t, w, s.GetShipmentId(), "").rest(); len(again) != 1 || again[0].GetScan() != nil {
			t.Errorf("of a delivered parcel: %v", again)
		}
		w.Say(st.Back(s.GetOrderId()))
		w.In(s.GetOrderId(), shipping.Returning)
		f = follow(t, w, s.GetShipmentId(), last.GetResumeToken())
		if m := f.next(); m.GetScan() != nil || m.GetShipment().GetStatus() != shippingv1.ShipmentStatus_SHIPMENT_STATUS_RETURNING {
			t.Errorf("a change without a scan: %v", m)
		}
		want = nil
		report(back, returned)
		equal(t, want, scans(f.rest()))
	})
}

func TestResumeTokensOfOthersAreRefused(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t))
	young, old := w.Scheduled("ann"), w.Scheduled("ann")
	w.Scanned(old.GetTrackingNumber(), pickedUp, delivered)
	all := follow(t, w, old.GetShipmentId(), "").rest()
	for _, token := range []string{all[len(all)-1].GetResumeToken(), "1", "1.", ".1", "a.b", "-1.0", "01.0", "1.0.0", "1.0 ", "99999999999999999999.0"} {
		err := first(w.Shipments.TrackShipment(within(t, "ann"), &shippingv1.TrackShipmentRequest{ShipmentId: young.GetShipmentId(), ResumeToken: token}))
		var e *errs.Error
		if kind(err) != errs.Invalid || !errors.As(rpc.FromStatus(err), &e) || len(e.Fields) != 1 || e.Fields[0].Path != "resume_token" {
			t.Errorf("%q: %v", token, err)
		}
	}
}

func TestAChangeThatNobodyAnnouncedIsFoundInTime(t *testing.T) {
	st.Each(t, func(t *testing.T, w *st.World) {
		s := w.Scheduled("ann")
		f := follow(t, w, s.GetShipmentId(), "")
		f.next()
		// As a process does that dies between its commit and the notification.
		if _, err := w.DB.Exec(t.Context(), "UPDATE shipments SET version = version + 1, state = ? WHERE id = ?", int64(shipping.Lost), s.GetOrderId()); err != nil {
			t.Fatal(err)
		}
		if rest := f.rest(); len(rest) != 1 || rest[0].GetShipment().GetStatus() != shippingv1.ShipmentStatus_SHIPMENT_STATUS_LOST {
			t.Errorf("sent %v", rest)
		}
	}, func(c *shippingd.Config) { c.Recheck = 5 * time.Millisecond })
}

func TestAStreamEndsWhenTheServiceStops(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t))
	f := follow(t, w, w.Scheduled("ann").GetShipmentId(), "")
	f.next()
	w.Stop()
	if _, err := f.stream.Recv(); kind(err) != errs.Unavailable {
		t.Errorf("the stream ends with %v", err)
	}
}

func TestScansAreTakenFromTheShopOnly(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t))
	s := w.Scheduled("ann")
	if _, err := w.ReportAs("ann", w.Scan(s.GetTrackingNumber(), delivered)); kind(err) != errs.PermissionDenied {
		t.Errorf("reported by a customer: %v", err)
	}
	for _, who := range []string{"staff", "admin"} {
		if resp, err := w.ReportAs(who, w.Scan(s.GetTrackingNumber(), inTransit)); err != nil || resp.GetAcceptedCount() != 1 {
			t.Errorf("reported by %s: %v, %v", who, resp, err)
		}
	}
}

func TestScansThatCannotBeMeantAreRefused(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t))
	s := w.Scheduled("ann")
	for name, change := range map[string]func(*shippingv1.ReportScansRequest){
		"no id":           func(r *shippingv1.ReportScansRequest) { r.ScanId = "" },
		"a long id":       func(r *shippingv1.ReportScansRequest) { r.ScanId = strings.Repeat("x", 65) },
		"no number":       func(r *shippingv1.ReportScansRequest) { r.TrackingNumber = "" },
		"an odd number":   func(r *shippingv1.ReportScansRequest) { r.TrackingNumber = "a' OR 1" },
		"no kind":         func(r *shippingv1.ReportScansRequest) { r.Kind = 0 },
		"an unknown kind": func(r *shippingv1.ReportScansRequest) { r.Kind = 99 },
		"no time":         func(r *shippingv1.ReportScansRequest) { r.ScanTime = nil },
		"before 1970":     func(r *shippingv1.ReportScansRequest) { r.ScanTime = &timestamppb.Timestamp{Seconds: -1} },
		"a long place":    func(r *shippingv1.ReportScansRequest) { r.Location = strings.Repeat("x", 101) },
		"two lines":       func(r *shippingv1.ReportScansRequest) { r.Location = "a\nb" },
	} {
		scan := w.Scan(s.GetTrackingNumber(), pickedUp)
		change(scan)
		if _, err := w.ReportAs("staff", scan); kind(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if row, _ := w.Row(s.GetOrderId()); row.Scanned != 0 {
		t.Errorf("%d scans were stored", row.Scanned)
	}
}

func TestOneStreamTakesTenThousandScans(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t))
	s := w.Scheduled("ann")
	const limit = 10_000
	all := slices.Repeat([]*shippingv1.ReportScansRequest{w.Scan(s.GetTrackingNumber(), pickedUp)}, limit+1)
	resp, err := w.ReportAs("staff", all[:limit]...)
	if err != nil || resp.GetAcceptedCount() != 1 || resp.GetDuplicateCount() != limit-1 {
		t.Errorf("%d scans: %v, %v", limit, resp, err)
	}
	all[0] = w.Scan(s.GetTrackingNumber(), inTransit)
	if _, err := w.ReportAs("staff", all...); kind(err) != errs.ResourceExhausted {
		t.Errorf("%d scans: %v", limit+1, err)
	}
	if row, _ := w.Row(s.GetOrderId()); row.Scanned != 2 {
		t.Errorf("%d scans were stored; what came before the limit counts", row.Scanned)
	}
}

func TestScansOfABrokenStreamAreSentAgain(t *testing.T) {
	w := st.New(t, sqldbtest.SQLite(t))
	s := w.Scheduled("ann")
	var all []*shippingv1.ReportScansRequest
	for range 150 {
		all = append(all, w.Scan(s.GetTrackingNumber(), inTransit))
	}
	ctx, cancel := context.WithCancel(within(t, "staff"))
	stream, err := w.Shipments.ReportScans(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, scan := range all {
		if err := stream.Send(scan); err != nil {
			t.Fatal(err)
		}
	}
	reacttest.Until(t, "the first hundred are stored", func() bool { row, _ := w.Row(s.GetOrderId()); return row.Scanned == 100 })
	cancel()
	if resp := w.Report(all...); resp.GetAcceptedCount() != 50 || resp.GetDuplicateCount() != 100 {
		t.Errorf("sent again: %v", resp)
	}
}
