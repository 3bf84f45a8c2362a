// Package storetest says what the order service's store must do on every
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
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/store"
)

// Run runs the suite on databases that open opens.
func Run(t *testing.T, open sqldbtest.Opener) {
	b := bustest.Embedded(t).Open()
	for name, test := range map[string]func(*testing.T, *fixture){
		"an order comes back as it was put":                       comesBack,
		"orders of others are as absent as those that never were": othersAreAbsent,
		"many orders are read at once":                            manyAtOnce,
		"a waybill is read from any entry on":                     waybillFromAnyEntry,
		"an entry is never written twice":                         entryOnce,
		"orders are due when their deadline has passed":           due,
		"addresses of erased users go once their orders ended":    erasure,
		"lists are filtered, sorted and cut into pages":           lists,
		"page tokens are good for one caller and one query":       pageTokens,
		"filters that cannot be meant are refused":                badFilters,
		"waybills that do not fit their orders are found":         check,
		"rows that changed meanwhile are not replaced":            replaceRows,
		"orders without rows and rows without waybills are found": lostRows,
		"it is known when events took effect":                     takenAt,
	} {
		t.Run(name, func(t *testing.T) {
			db := open("order_"+uuid.NewString()[:8], sqldbtest.Migration{Name: "platform", FS: react.Migrations()},
				sqldbtest.Migration{Name: "order", FS: store.Migrations()})
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
	return &fixture{t: t, db: db, store: store.New(db), r: reacttest.Reactor(t, react.Config{Machine: react.NewMachine("order"), DB: db, Bus: b})}
}

// whole is an order with its details.
type whole struct {
	id string
	o  order.Order
	d  order.Details
}

// sample gives the n-th order of a user, created n minutes after noon.
func sample(user string, n int) whole {
	at := noon.Add(time.Duration(n) * time.Minute)
	return whole{
		id: uuid.Must(uuid.NewV7()).String(),
		o:  order.DefaultDeadlines().New(at),
		d: order.Details{
			UserID: user, CreatedAt: at,
			Lines: []*orderv1.OrderLine{{
				ProductId: "p", Sku: "SKU", Name: "Kaffee, gemahlen ☕", Quantity: 2,
				UnitPrice: &typev1.Money{MinorUnits: 499, CurrencyCode: "EUR"}, Amount: &typev1.Money{MinorUnits: 998, CurrencyCode: "EUR"},
			}},
			Total:  &typev1.Money{MinorUnits: 998, CurrencyCode: "EUR"},
			ShipTo: &typev1.Address{Recipient: "Ada", Lines: []string{"Weg 1", "Haus 2"}, Locality: "Kiel", PostalCode: "24103", RegionCode: "DE"},
		},
	}
}

func (w whole) in(s order.Status) whole {
	w.o.Status = s
	if s >= order.Scheduled && s != order.Cancelling {
		w.o.SagaOverAt = w.o.UpdatedAt
		w.o.Deadline = time.Time{}
	}
	return w
}

func (w whole) proto(version int64) *orderv1.Order { return w.d.Fill(w.o.Proto(w.id, version)) }

func (f *fixture) put(orders ...whole) {
	f.t.Helper()
	for _, w := range orders {
		if err := f.do(func(v *react.View) error {
			store.Orders.Put(v, w.id, w.o)
			store.Details.Put(v, w.id, w.d)
			return nil
		}, store.Orders.Ref(w.id), store.Details.Ref(w.id)); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) do(step func(v *react.View) error, refs ...react.Ref) error {
	_, err := react.Do(f.t.Context(), f.r, func(*react.View) []react.Ref { return refs },
		func(v *react.View) (*orderv1.Order, error) { return &orderv1.Order{}, step(v) })
	return err
}

func (f *fixture) equal(want, got any) {
	f.t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		f.t.Errorf("-want +got:\n%s", diff)
	}
}

func comesBack(t *testing.T, f *fixture) {
	full := sample("u1", 0)
	full.o = order.Order{
		Status: order.Cancelling, Reason: orderv1.OrderReason_ORDER_REASON_STAFF_REQUEST, Words: "changed\nmind ' \" %", Shipment: order.Dispatched,
		PaymentID: "pay", ShipmentID: "ship", TrackingNumber: "1Z", Deadline: noon.Add(time.Hour), Reminders: 1 << 40, SagaOverAt: noon.Add(time.Second), UpdatedAt: noon,
	}
	bare := sample("u1", 1).in(order.Rejected)
	bare.d.ShipTo = nil
	bare.d.Total.MinorUnits = 100_000_000_000_000_000
	for _, w := range []whole{full, bare} {
		f.put(w)
		if err := f.do(func(v *react.View) error {
			o, _ := store.Orders.Get(v, w.id)
			d, _ := store.Details.Get(v, w.id)
			f.equal(w.o, o)
			f.equal(w.d, d)
			return nil
		}, store.Orders.Ref(w.id), store.Details.Ref(w.id)); err != nil {
			t.Fatal(err)
		}
		got, err := f.store.Get(t.Context(), "u1", w.id)
		if err != nil {
			t.Fatal(err)
		}
		f.equal(w.proto(1), got)
	}
	full.o.Status = order.Cancelled
	f.put(full)
	got, err := f.store.Get(t.Context(), "", full.id)
	if err != nil {
		t.Fatal(err)
	}
	f.equal(full.proto(2), got)
}

func othersAreAbsent(t *testing.T, f *fixture) {
	w := sample("u1", 0)
	f.put(w)
	_, foreign := f.store.Get(t.Context(), "u2", w.id)
	never := uuid.NewString()
	_, absent := f.store.Get(t.Context(), "u1", never)
	if errs.KindOf(foreign) != errs.NotFound || errs.KindOf(absent) != errs.NotFound {
		t.Fatalf("foreign: %v, absent: %v", foreign, absent)
	}
	if a, b := strings.ReplaceAll(foreign.Error(), w.id, "X"), strings.ReplaceAll(absent.Error(), never, "X"); a != b {
		t.Errorf("they can be told apart: %q, %q", a, b)
	}
	many, err := f.store.GetMany(t.Context(), "u2", []string{w.id})
	if err != nil || len(many) != 0 {
		t.Errorf("got %v, %v", many, err)
	}
}

func manyAtOnce(t *testing.T, f *fixture) {
	var orders []whole
	for i := range 5 {
		orders = append(orders, sample("u1", i))
	}
	f.put(orders...)
	ids := []string{orders[0].id, orders[3].id, orders[4].id}
	for range 1500 {
		ids = append(ids, uuid.NewString())
	}
	ids = append(ids, orders[1].id)
	got, err := f.store.GetMany(t.Context(), "u1", ids)
	if err != nil || len(got) != 4 {
		t.Fatalf("got %d orders, %v", len(got), err)
	}
	versions, err := f.store.Versions(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	f.equal(map[string]int64{orders[0].id: 1, orders[1].id: 1, orders[3].id: 1, orders[4].id: 1}, versions)
	if got, err = f.store.GetMany(t.Context(), "", nil); err != nil || len(got) != 0 {
		t.Errorf("of no ids: %v, %v", got, err)
	}
}

func (f *fixture) entry(id string, sequence int64) error {
	e := &orderv1.WaybillEntry{Sequence: sequence, Service: "inventory", Event: "stock_held", Detail: fmt.Sprint("entry ", sequence)}
	data, err := proto.Marshal(e)
	if err != nil {
		return err
	}
	return f.do(func(v *react.View) error { v.Append(store.Entries, id, sequence, data); return nil })
}

func waybillFromAnyEntry(t *testing.T, f *fixture) {
	for _, n := range []int64{2, 10, 1, 3} {
		if err := f.entry("a", n); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.entry("b", 1); err != nil {
		t.Fatal(err)
	}
	for after, want := range map[int64][]int64{0: {1, 2, 3, 10}, 2: {3, 10}, 10: nil} {
		entries, err := f.store.Entries(t.Context(), "a", after)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, e := range entries {
			got = append(got, e.GetSequence())
		}
		f.equal(want, got)
	}
}

func entryOnce(t *testing.T, f *fixture) {
	if err := f.entry("a", 1); err != nil {
		t.Fatal(err)
	}
	if err := f.entry("a", 1); err == nil {
		t.Error("a second entry with the same sequence was stored")
	}
}

func due(t *testing.T, f *fixture) {
	early, late, over := sample("u", 0), sample("u", 0), sample("u", 0).in(order.Scheduled)
	early.o.Deadline, late.o.Deadline = noon.Add(time.Minute), noon.Add(time.Hour)
	f.put(early, late, over)
	for at, want := range map[time.Time][]string{
		noon.Add(time.Minute - time.Microsecond): nil,
		noon.Add(time.Minute):                    {early.id},
		noon.Add(time.Hour):                      {early.id, late.id},
	} {
		got, err := f.store.Due(t.Context(), at, 10)
		if err != nil {
			t.Fatal(err)
		}
		f.equal(want, got)
	}
	if got, err := f.store.Due(t.Context(), noon.Add(time.Hour), 1); err != nil || len(got) != 1 {
		t.Errorf("limited to one: %v, %v", got, err)
	}
}

func erasure(t *testing.T, f *fixture) {
	ended, running, other := sample("u1", 0).in(order.Delivered), sample("u1", 1), sample("u2", 0).in(order.Delivered)
	f.put(ended, running, other)
	ids := func(got []string, err error) []string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	f.equal([]string(nil), ids(f.store.ToErase(t.Context(), 10)))
	if err := f.do(func(v *react.View) error {
		store.Erasures.Put(v, "u1", store.Erasure{ErasedAt: noon, Open: true})
		return nil
	}, store.Erasures.Ref("u1")); err != nil {
		t.Fatal(err)
	}
	f.equal([]string{ended.id}, ids(f.store.ToErase(t.Context(), 10)))
	ended.d.ShipTo = nil
	f.put(ended)
	f.equal([]string(nil), ids(f.store.ToErase(t.Context(), 10)))
	f.equal([]string(nil), ids(f.store.Erased(t.Context(), noon.Add(time.Hour), 10)))
	running = running.in(order.Returned)
	f.put(running)
	f.equal([]string{running.id}, ids(f.store.ToErase(t.Context(), 10)))
	running.d.ShipTo = nil
	f.put(running)
	f.equal([]string(nil), ids(f.store.Erased(t.Context(), noon, 10)))
	f.equal([]string{"u1"}, ids(f.store.Erased(t.Context(), noon.Add(time.Second), 10)))
}

func lists(t *testing.T, f *fixture) {
	var all []whole
	for i := range 7 {
		w := sample("u1", i)
		if i%2 == 1 {
			w = w.in(order.Cancelled)
			w.o.Reason = orderv1.OrderReason_ORDER_REASON_TIMED_OUT
			w.o.UpdatedAt = noon.Add(-time.Duration(i) * time.Hour)
		}
		all = append(all, w)
	}
	f.put(all...)
	f.put(sample("u2", 100))
	for name, c := range map[string]struct {
		q    listing.Query
		want []int
	}{
		"newest first":          {listing.Query{Owner: "u1"}, []int{6, 5, 4, 3, 2, 1, 0}},
		"by status":             {listing.Query{Owner: "u1", Filter: `status = "CANCELLED"`}, []int{5, 3, 1}},
		"by status, long name":  {listing.Query{Owner: "u1", Filter: `status = ORDER_STATUS_PLACED`}, []int{6, 4, 2, 0}},
		"by reason":             {listing.Query{Owner: "u1", Filter: `reason = TIMED_OUT`}, []int{5, 3, 1}},
		"saga over":             {listing.Query{Owner: "u1", Filter: `saga_over = true`}, []int{5, 3, 1}},
		"saga running":          {listing.Query{Owner: "u1", Filter: `saga_over = false AND NOT status = "REJECTED"`}, []int{6, 4, 2, 0}},
		"by time":               {listing.Query{Owner: "u1", Filter: `create_time >= "2026-11-23T12:04:00Z"`, OrderBy: "create_time"}, []int{4, 5, 6}},
		"by update":             {listing.Query{Owner: "u1", Filter: `status = "CANCELLED"`, OrderBy: "update_time"}, []int{5, 3, 1}},
		"of a user, for staff":  {listing.Query{Filter: `user_id = "u1"`, PageSize: 2}, []int{6, 5, 4, 3, 2, 1, 0}},
		"oldest first in pages": {listing.Query{Owner: "u1", OrderBy: "create_time asc", PageSize: 3}, []int{0, 1, 2, 3, 4, 5, 6}},
	} {
		var got []string
		for pages := 1; ; pages++ {
			rows, next, err := f.store.List(t.Context(), c.q)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for _, o := range rows {
				got = append(got, o.GetOrderId())
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
			want = append(want, all[i].id)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func pageTokens(t *testing.T, f *fixture) {
	for i := range 3 {
		f.put(sample("u1", i), sample("u2", i))
	}
	q := listing.Query{Owner: "u1", PageSize: 1}
	_, token, err := f.store.List(t.Context(), q)
	if err != nil || token == "" {
		t.Fatalf("token %q, %v", token, err)
	}
	for name, q := range map[string]listing.Query{
		"of somebody else":    {Owner: "u2", PageSize: 1, PageToken: token},
		"with another filter": {Owner: "u1", PageSize: 1, PageToken: token, Filter: "saga_over = false"},
		"in another order":    {Owner: "u1", PageSize: 1, PageToken: token, OrderBy: "update_time"},
		"invented":            {Owner: "u1", PageSize: 1, PageToken: "AAAA"},
	} {
		if _, _, err := f.store.List(t.Context(), q); errs.KindOf(err) != errs.Invalid {
			t.Errorf("a token %s: %v", name, err)
		}
	}
}

func badFilters(t *testing.T, f *fixture) {
	for _, q := range []listing.Query{
		{Filter: "status = LOST"}, {Filter: "status > PLACED"}, {Filter: "total = 5"}, {Filter: `create_time > "yesterday"`},
		{Filter: "status ="}, {Filter: `'; DROP TABLE orders; --`}, {Filter: `user_id = "u1"`, Owner: "u2"},
		{OrderBy: "status"}, {OrderBy: "create_time sideways"}, {PageSize: -1},
	} {
		if _, _, err := f.store.List(t.Context(), q); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%+v: %v", q, err)
		}
	}
	var wrong *errs.Error
	_, _, err := f.store.List(t.Context(), listing.Query{Filter: "x", OrderBy: "y"})
	if !errors.As(err, &wrong) || len(wrong.Fields) != 2 {
		t.Errorf("both fields at fault are named: %v", err)
	}
}

func check(t *testing.T, f *fixture) {
	good, short, lies := sample("u", 0), sample("u", 1), sample("u", 2)
	f.put(good, short, lies)
	for id, to := range map[string]order.Status{good.id: order.Placed, lies.id: order.Held} {
		data, err := proto.Marshal(&orderv1.WaybillEntry{Sequence: 1, ToStatus: to})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.do(func(v *react.View) error { v.Append(store.Entries, id, int64(1), data); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	wrong, err := f.store.Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(wrong)
	want := []string{
		"order " + short.id + " was changed 1 times, its waybill has 0 entries",
		"order " + lies.id + " is PLACED, its waybill ends with HELD",
	}
	slices.Sort(want)
	f.equal(want, wrong)
}
