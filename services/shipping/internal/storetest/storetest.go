// Package storetest says what the shipping service's store must do on every
// database. The rows are written through a real reactor, as the service does it.
package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/shipping"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
)

// Run runs the suite on databases that open opens.
func Run(t *testing.T, open sqldbtest.Opener) {
	b := bustest.Embedded(t).Open()
	for name, test := range map[string]func(*testing.T, *fixture){
		"a shipment comes back as it was put":                    comesBack,
		"every state can be stored, no other":                    everyState,
		"tracking numbers and ids are unique":                    unique,
		"shipments of others are as absent as those never there": othersAreAbsent,
		"orders are found by their tracking numbers":             byTracking,
		"addresses of erased users go once their parcels ended":  erasure,
		"lists are filtered, sorted and cut into pages":          lists,
		"page tokens are good for one caller and one query":      pageTokens,
		"filters that cannot be meant are refused":               badFilters,
	} {
		t.Run(name, func(t *testing.T) {
			db := open("shipping_"+uuid.NewString()[:8], sqldbtest.Migration{Name: "platform", FS: react.Migrations()},
				sqldbtest.Migration{Name: "shipping", FS: store.Migrations()})
			test(t, newFixture(t, db, b))
		})
	}
}

// noon is a time that both databases hold exactly.
var noon = time.Date(2026, 11, 23, 12, 0, 0, 123456000, time.UTC)

type fixture struct {
	t     *testing.T
	db    *sqldb.DB
	store *store.Store
	r     *react.Reactor
}

func newFixture(t *testing.T, db *sqldb.DB, b *bus.Bus) *fixture {
	t.Helper()
	return &fixture{t: t, db: db, store: store.New(db), r: reacttest.Reactor(t, react.Config{Machine: react.NewMachine("shipping"), DB: db, Bus: b})}
}

// sample gives a user's n-th shipment, created n minutes after noon.
func sample(user string, n int, s shipping.State) shipping.Shipment {
	at := noon.Add(time.Duration(n) * time.Minute)
	return shipping.Shipment{
		OrderID: uuid.Must(uuid.NewV7()).String(), ID: uuid.NewString(), UserID: user, State: s, Placed: true, Paid: true,
		ShipTo:  &typev1.Address{Recipient: "Ada", Lines: []string{"Weg 1", "Haus 2"}, Locality: "Kiel", PostalCode: "24103", RegionCode: "DE"},
		Created: at, Updated: at,
	}
}

func (f *fixture) put(shipments ...shipping.Shipment) {
	f.t.Helper()
	for _, s := range shipments {
		if err := f.try(s); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) try(s shipping.Shipment) error {
	return f.do(func(v *react.View) error { store.Put(v, s); return nil }, store.Shipments.Ref(s.OrderID))
}

func (f *fixture) do(step func(v *react.View) error, refs ...react.Ref) error {
	_, err := react.Do(f.t.Context(), f.r, func(*react.View) []react.Ref { return refs },
		func(v *react.View) (*shippingv1.Shipment, error) { return &shippingv1.Shipment{}, step(v) })
	return err
}

func (f *fixture) equal(want, got any) {
	f.t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		f.t.Errorf("-want +got:\n%s", diff)
	}
}

func comesBack(t *testing.T, f *fixture) {
	full := sample("u1", 0, shipping.Lost)
	full.Undo, full.Booked, full.LostLate = true, true, true
	full.Carrier, full.Tracking, full.Reason = "Möwe & Söhne", "WB-1", "it's \"lost\" %"
	full.BookedAt, full.ReturnAt, full.Updated = noon.Add(time.Second), noon.Add(time.Hour), noon.Add(2*time.Hour)
	full.Scanned = 1 << 40
	for i := range shipping.MaxScans {
		full.Scans = append(full.Scans, &shippingv1.Scan{
			ScanId: fmt.Sprint("scan-", i), Kind: shippingv1.ScanKind_SCAN_KIND_IN_TRANSIT, ScanTime: timestamppb.New(noon), Location: "Köln ☂",
			ReportTime: timestamppb.New(noon.Add(time.Duration(i) * time.Second)),
		})
	}
	paidFirst := shipping.Shipment{OrderID: uuid.NewString(), Paid: true, Created: noon, Updated: noon}
	placedFirst := sample("u1", 1, shipping.New)
	placedFirst.ID, placedFirst.Paid = "", false
	for _, s := range []shipping.Shipment{full, paidFirst, placedFirst} {
		f.put(s)
		if err := f.do(func(v *react.View) error {
			got, ok := store.Shipments.Get(v, s.OrderID)
			if !ok {
				t.Error("it is not there")
			}
			f.equal(s, got)
			return nil
		}, store.Shipments.Ref(s.OrderID)); err != nil {
			t.Fatal(err)
		}
		got, err := f.store.OfOrder(t.Context(), s.OrderID)
		if err != nil {
			t.Fatal(err)
		}
		f.equal(store.Stored{Shipment: s, Version: 1}, got)
	}
	got, err := f.store.Get(t.Context(), full.ID, "u1")
	if err != nil {
		t.Fatal(err)
	}
	f.equal(store.Stored{Shipment: full, Version: 1}, got)
	full.ShipTo, full.Scans = nil, nil
	f.put(full)
	if got, err = f.store.Get(t.Context(), full.ID, ""); err != nil {
		t.Fatal(err)
	}
	f.equal(store.Stored{Shipment: full, Version: 2}, got)
	for order, want := range map[string]*typev1.Address{full.OrderID: nil, placedFirst.OrderID: placedFirst.ShipTo} {
		address, err := f.store.Address(t.Context(), order)
		if err != nil {
			t.Fatal(err)
		}
		f.equal(want, address)
	}
	if _, err := f.store.OfOrder(t.Context(), "nobody's"); !errors.Is(err, sqldb.ErrNoRows) {
		t.Errorf("an order never heard of: %v", err)
	}
}

func everyState(t *testing.T, f *fixture) {
	for i, s := range shipping.States() {
		x := sample("u", i, s)
		f.put(x)
		got, err := f.store.Get(t.Context(), x.ID, "")
		if err != nil || got.State != s {
			t.Errorf("%s came back as %s, %v", s, got.State, err)
		}
	}
	if err := f.try(sample("u", 0, shipping.State(len(shipping.States())))); err == nil {
		t.Error("a state that does not exist was stored")
	}
}

func unique(t *testing.T, f *fixture) {
	first := sample("u1", 0, shipping.Scheduled)
	first.Tracking = "T1"
	f.put(first)
	second := sample("u2", 1, shipping.Scheduled)
	second.Tracking = "T1"
	if err := f.try(second); err == nil {
		t.Error("two parcels with one tracking number")
	}
	second.Tracking, second.ID = "T2", first.ID
	if err := f.try(second); err == nil {
		t.Error("two parcels with one id")
	}
	// Those that have neither do not disturb each other.
	for range 3 {
		f.put(shipping.Shipment{OrderID: uuid.NewString(), Paid: true, Created: noon, Updated: noon})
	}
}

func othersAreAbsent(t *testing.T, f *fixture) {
	s := sample("u1", 0, shipping.Scheduled)
	f.put(s)
	if _, err := f.store.Get(t.Context(), s.ID, "u1"); err != nil {
		t.Fatal(err)
	}
	_, foreign := f.store.Get(t.Context(), s.ID, "u2")
	never := uuid.NewString()
	_, absent := f.store.Get(t.Context(), never, "u1")
	if errs.KindOf(foreign) != errs.NotFound || errs.KindOf(absent) != errs.NotFound {
		t.Fatalf("foreign: %v, absent: %v", foreign, absent)
	}
	if a, b := strings.ReplaceAll(foreign.Error(), s.ID, "X"), strings.ReplaceAll(absent.Error(), never, "X"); a != b {
		t.Errorf("they can be told apart: %q, %q", a, b)
	}
}

func byTracking(t *testing.T, f *fixture) {
	want := map[string]string{}
	numbers := []string{"UNKNOWN"}
	for i := range 5 {
		s := sample("u", i, shipping.Dispatched)
		s.Tracking = fmt.Sprint("T", i)
		f.put(s)
		want[s.Tracking] = s.OrderID
		numbers = append(numbers, s.Tracking, s.Tracking)
	}
	got, err := f.store.Orders(t.Context(), numbers)
	if err != nil {
		t.Fatal(err)
	}
	f.equal(want, got)
	if got, err = f.store.Orders(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("of no numbers: %v, %v", got, err)
	}
	if got, err = f.store.Orders(t.Context(), []string{""}); err != nil || len(got) != 0 {
		t.Errorf("of an empty number: %v, %v", got, err)
	}
}

func erasure(t *testing.T, f *fixture) {
	ended, running, other := sample("u1", 0, shipping.Delivered), sample("u1", 1, shipping.Returning), sample("u2", 0, shipping.Delivered)
	f.put(ended, running, other)
	ids := func(got []string, err error) []string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	erase := func(open bool) {
		t.Helper()
		if err := f.do(func(v *react.View) error {
			store.Erasures.Put(v, "u1", store.Erasure{ErasedAt: noon, Open: open})
			return nil
		}, store.Erasures.Ref("u1")); err != nil {
			t.Fatal(err)
		}
	}
	f.equal([]string(nil), ids(f.store.ToErase(t.Context(), 10)))
	erase(true)
	f.equal([]string{ended.OrderID}, ids(f.store.ToErase(t.Context(), 10)))
	ended.ShipTo = nil
	f.put(ended)
	f.equal([]string(nil), ids(f.store.Erased(t.Context(), noon.Add(time.Hour), 10)))
	for _, s := range shipping.States() {
		running.State = s
		f.put(running)
		var want []string
		if s.Final() {
			want = []string{running.OrderID}
		}
		f.equal(want, ids(f.store.ToErase(t.Context(), 10)))
	}
	running.ShipTo = nil
	f.put(running)
	f.equal([]string(nil), ids(f.store.Erased(t.Context(), noon, 10)))
	f.equal([]string{"u1"}, ids(f.store.Erased(t.Context(), noon.Add(time.Second), 10)))
	erase(false)
	f.equal([]string(nil), ids(f.store.Erased(t.Context(), noon.Add(time.Second), 10)))
}

func lists(t *testing.T, f *fixture) {
	var all []shipping.Shipment
	for i := range 7 {
		s := sample("u1", i, shipping.Scheduled)
		s.Carrier, s.Tracking = "Post", fmt.Sprint("T", i)
		if i%2 == 1 {
			s.State, s.Carrier = shipping.CallingOff, "Kurier"
		}
		all = append(all, s)
	}
	all[0].State = shipping.Booking
	all[0].Tracking = ""
	f.put(all...)
	f.put(sample("u2", 100, shipping.Lost))
	unborn := sample("u1", 50, shipping.New) // nothing to show yet
	unborn.ID = ""
	f.put(unborn)
	for name, c := range map[string]struct {
		q    listing.Query
		want []int
	}{
		"newest first":          {listing.Query{Owner: "u1"}, []int{6, 5, 4, 3, 2, 1, 0}},
		"by status":             {listing.Query{Owner: "u1", Filter: `status = "SCHEDULED"`}, []int{6, 5, 4, 3, 2, 1}},
		"by status, long name":  {listing.Query{Owner: "u1", Filter: `status = SHIPMENT_STATUS_PENDING`}, []int{0}},
		"by carrier":            {listing.Query{Owner: "u1", Filter: `carrier = "Kurier"`}, []int{5, 3, 1}},
		"by tracking number":    {listing.Query{Owner: "u1", Filter: `tracking_number = "T4"`}, []int{4}},
		"without a number":      {listing.Query{Owner: "u1", Filter: `tracking_number = ""`}, []int{0}},
		"by order":              {listing.Query{Owner: "u1", Filter: `order_id = "` + all[2].OrderID + `"`}, []int{2}},
		"by time":               {listing.Query{Owner: "u1", Filter: `create_time >= "2026-11-23T12:04:00Z"`, OrderBy: "create_time"}, []int{4, 5, 6}},
		"of a user, for staff":  {listing.Query{Filter: `user_id = "u1"`, PageSize: 2}, []int{6, 5, 4, 3, 2, 1, 0}},
		"oldest first in pages": {listing.Query{Owner: "u1", OrderBy: "create_time asc", PageSize: 3}, []int{0, 1, 2, 3, 4, 5, 6}},
		"of somebody else":      {listing.Query{Owner: "u3"}, nil},
	} {
		var got []string
		for pages := 1; ; pages++ {
			rows, next, err := f.store.List(t.Context(), c.q)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, s := range rows {
				got = append(got, s.OrderID)
			}
			if next == "" {
				break
			}
			if pages > 10 {
				t.Fatalf("%s: the pages do not end", name)
			}
			c.q.PageToken = next
		}
		var want []string
		for _, i := range c.want {
			want = append(want, all[i].OrderID)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func pageTokens(t *testing.T, f *fixture) {
	for i := range 3 {
		f.put(sample("u1", i, shipping.Lost), sample("u2", i, shipping.Lost))
	}
	_, token, err := f.store.List(t.Context(), listing.Query{Owner: "u1", PageSize: 1})
	if err != nil || token == "" {
		t.Fatalf("token %q, %v", token, err)
	}
	for name, q := range map[string]listing.Query{
		"of somebody else":    {Owner: "u2", PageSize: 1, PageToken: token},
		"with another filter": {Owner: "u1", PageSize: 1, PageToken: token, Filter: "status = LOST"},
		"in another order":    {Owner: "u1", PageSize: 1, PageToken: token, OrderBy: "create_time"},
		"invented":            {Owner: "u1", PageSize: 1, PageToken: "AAAA"},
	} {
		if _, _, err := f.store.List(t.Context(), q); errs.KindOf(err) != errs.Invalid {
			t.Errorf("a token %s: %v", name, err)
		}
	}
}

func badFilters(t *testing.T, f *fixture) {
	for _, q := range []listing.Query{
		{Filter: "status = GONE"}, {Filter: "status > PENDING"}, {Filter: "weight = 5"}, {Filter: `create_time > "yesterday"`},
		{Filter: "status ="}, {Filter: `'; DROP TABLE shipments; --`}, {Filter: `user_id = "u1"`, Owner: "u2"},
		{OrderBy: "status"}, {OrderBy: "create_time sideways"}, {PageSize: -1},
	} {
		if _, _, err := f.store.List(t.Context(), q); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%+v: %v", q, err)
		}
	}
	var wrong *errs.Error
	_, _, err := f.store.List(t.Context(), listing.Query{Filter: "x", OrderBy: "y"})
	if !errors.As(err, &wrong) || !slices.ContainsFunc(wrong.Fields, func(f errs.Field) bool { return f.Path == "order_by" }) || len(wrong.Fields) != 2 {
		t.Errorf("both fields at fault are named: %v", err)
	}
}
