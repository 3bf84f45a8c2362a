package orderd_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/waybill-dev/waybill/platform/auth/authtest"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/ordertest"
	"github.com/waybill-dev/waybill/services/order/orderd"
)

// A past is an order service whose neighbours keep what they said.
type past struct {
	*ordertest.World
	dbs  map[string]*sqldb.DB
	open sqldbtest.Opener
}

func newPast(t *testing.T, open sqldbtest.Opener) *past {
	t.Helper()
	p := &past{dbs: map[string]*sqldb.DB{}, open: open}
	for _, name := range orderd.Sources()[1:] {
		p.dbs[name] = open(name, sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
	}
	p.World = ordertest.New(t, open)
	p.Keep = func(e *outbox.Event) {
		db := p.dbs[outbox.Producer(e.Type)]
		if db == nil || count(t, db, `SELECT count(*) FROM outbox WHERE event_id = ?`, e.ID) > 0 {
			return
		}
		e.Version = 1 + count(t, db, `SELECT count(*) FROM outbox WHERE aggregate_id = ?`, e.AggregateID)
		if err := db.InTx(t.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			var b sqldb.Batch
			outbox.Append(&b, []*outbox.Event{e})
			return tx.Send(ctx, &b)
		}); err != nil {
			t.Error(err)
		}
	}
	return p
}

func count(t *testing.T, db *sqldb.DB, query string, args ...any) (n int64) {
	t.Helper()
	if err := db.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Error(err)
	}
	return n
}

// rebuild runs Rebuild, beside the service or without it.
func (p *past) rebuild(check bool) *orderd.Report {
	p.T.Helper()
	p.dbs["order"] = p.DB
	r, err := orderd.Rebuild(p.T.Context(), p.dbs, orderd.DefaultConfig(), check)
	if err != nil {
		p.T.Fatal(err)
	}
	return r
}

// leave stops the service and opens its database without it.
func (p *past) leave() {
	p.T.Helper()
	p.Stop()
	p.DB = p.open("order")
}

func (p *past) exec(db *sqldb.DB, query string, args ...any) {
	p.T.Helper()
	if n, err := db.Exec(p.T.Context(), query, args...); err != nil || n == 0 {
		p.T.Fatalf("%s: %d rows, %v", query, n, err)
	}
}

func (p *past) audit() []*orderd.Audited {
	p.T.Helper()
	all, err := orderd.Audit(p.T.Context(), p.DB)
	if err != nil {
		p.T.Fatal(err)
	}
	return all
}

func (p *past) cancel(user, id, words string) *orderv1.Order {
	p.T.Helper()
	o, err := p.Orders.CancelOrder(authtest.As(p.T.Context(), user), &orderv1.CancelOrderRequest{RequestId: uuid.NewString(), OrderId: id, Reason: words})
	if err != nil {
		p.T.Fatal(err)
	}
	return o
}

func (p *past) sendBack(user, id, words string) {
	p.T.Helper()
	_, err := p.Orders.ReturnOrder(authtest.As(p.T.Context(), user), &orderv1.ReturnOrderRequest{RequestId: uuid.NewString(), OrderId: id, Reason: words})
	if err != nil {
		p.T.Fatal(err)
	}
}

// live plays orders of every kind, and gives how many.
func (p *past) live() (orders int) {
	p.T.Helper()
	in := func(user string, s order.Status) string {
		orders++
		return p.PlaceIn(user, s).GetOrderId()
	}
	for _, s := range order.Statuses() {
		in("u1", s)
	}
	for i, s := range []order.Status{order.Placed, order.Held, order.Authorized, order.Committed, order.Captured, order.Scheduled} {
		id := in("u1", s)
		p.cancel([]string{"u1", "staff"}[i%2], id, "changed my mind")
		p.SayEach(id, ordertest.Undo(id)...)
	}
	for name, events := range map[string]func(id string) []proto.Message{
		"declined": func(id string) []proto.Message {
			return []proto.Message{&inventoryv1.StockHeld{OrderId: id}, &paymentv1.PaymentDeclined{OrderId: id, PaymentId: "p-d", Reason: "no\tcover"}}
		},
		"expired": func(id string) []proto.Message {
			return []proto.Message{&inventoryv1.StockHeld{OrderId: id}, &inventoryv1.StockExpired{OrderId: id}}
		},
		"capture fails": func(id string) []proto.Message {
			return append(ordertest.Happy(id)[:3], &paymentv1.PaymentCaptureFailed{OrderId: id, PaymentId: ordertest.PaymentID, Reason: "4242 4242 4242 4242"})
		},
		"refused": func(id string) []proto.Message {
			return append(ordertest.Happy(id)[:4], &shippingv1.ShipmentRefused{OrderId: id, ShipmentId: ordertest.ShipmentID, Reason: "too far"})
		},
		"lost": func(id string) []proto.Message {
			return append(ordertest.Happy(id)[:5], &shippingv1.ShipmentLost{OrderId: id, ShipmentId: ordertest.ShipmentID})
		},
	} {
		p.T.Log(name)
		id := in("u1", order.Placed)
		p.SayEach(id, append(events(id), ordertest.Undo(id)...)...)
	}
	// What comes late, in the wrong order, twice, or never should.
	id := in("u1", order.Placed)
	h := ordertest.Happy(id)
	p.SayEach(id, &paymentv1.PaymentUnknown{OrderId: id, PaymentId: ordertest.PaymentID}, h[1], h[0], h[4], h[3], h[2], h[6], h[5],
		&paymentv1.PaymentRefunded{OrderId: id, PaymentId: ordertest.PaymentID}, &shippingv1.ShipmentCancelled{OrderId: id})
	id = in("u1", order.Placed)
	same := uuid.NewString()
	for range 3 {
		p.SayAs(same, &inventoryv1.StockHeld{OrderId: id})
	}
	p.SayEach(id, &inventoryv1.StockReleased{OrderId: id})
	p.AwaitVersion(id, 3)
	// A cancellation that is too late, with the parcel further than the order knew.
	id = in("u1", order.Scheduled)
	p.cancel("u1", id, "")
	p.SayEach(id, ordertest.Happy(id)[5], &shippingv1.ShipmentCancelRefused{OrderId: id, ShipmentId: ordertest.ShipmentID, Reason: "on its way"}, ordertest.Happy(id)[6])
	p.sendBack("u1", id, "too blue")
	p.SayEach(id, ordertest.BackHome(id)...)
	id = in("u1", order.Delivered) // back without a word
	p.SayEach(id, ordertest.BackHome(id)...)
	return orders + p.forget() + p.wait()
}

// forget erases a user.
func (p *past) forget() int {
	p.T.Helper()
	ended := p.PlaceIn("gone", order.Delivered).GetOrderId()
	cancelled := p.PlaceIn("gone", order.Placed).GetOrderId()
	p.cancel("gone", cancelled, "it was for my late aunt")
	p.SayEach(cancelled, ordertest.Undo(cancelled)...)
	p.Say(&userv1.UserErased{UserId: "gone"})
	p.Eventually("the erasure is noted", func() bool { return p.Count("SELECT count(*) FROM erasures") == 1 })
	p.Stop() // sweeps over erasures are rare; the first comes at the start
	p.Start()
	for _, id := range []string{ended, cancelled} {
		p.Eventually("the address is gone, also from the events", func() bool {
			var e orderv1.OrderPlaced
			return p.Get(id).GetShipTo() == nil && p.Emitted(id, &e) && e.GetShipTo() == nil
		})
	}
	p.sendBack("staff", ended, "found at the door")
	p.SayEach(ended, ordertest.BackHome(ended)...)
	return 2
}

// wait lets deadlines pass.
func (p *past) wait() int {
	p.T.Helper()
	late, back := p.Place("u1").GetOrderId(), p.PlaceIn("u1", order.Returning).GetOrderId()
	p.Advance(time.Hour)
	p.Await(late, order.Cancelling)
	for range 2 {
		n := p.Get(late).GetVersion()
		p.Advance(time.Hour)
		p.AwaitVersion(late, n+1)
	}
	if _, err := p.Orders.RetryOrder(authtest.As(p.T.Context(), "admin"), &orderv1.RetryOrderRequest{RequestId: uuid.NewString(), OrderId: back}); err != nil {
		p.T.Fatal(err)
	}
	p.Eventually("what runs out has run out", func() bool {
		return p.Count("SELECT count(*) FROM orders WHERE timed AND status < ?", int64(order.Scheduled)) == 0
	})
	return 2
}

func TestEveryOrderFoldsToItsRows(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		p := newPast(t, open)
		orders := p.live()
		if r := p.rebuild(true); len(r.Differ) != 0 || r.Orders != orders || r.TooOld != 0 || r.Events < 5*orders {
			t.Fatalf("of %d orders: %+v", orders, r)
		}
		p.leave()
		all := p.audit()
		if r := p.rebuild(false); len(r.Differ) != 0 {
			t.Errorf("there was something to write: %+v", r)
		}
		equal(t, all, p.audit())
	})
}

func equal(t *testing.T, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestEveryColumnThatIsTamperedWithIsNamedAndMended(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		p := newPast(t, open)
		done := p.PlaceIn("u1", order.Delivered).GetOrderId()
		lost := p.Place("u1").GetOrderId()
		p.cancel("u1", lost, "changed my mind")
		p.leave()
		all := p.audit()
		never := time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
		for _, c := range []struct {
			id, change string
			args       []any
			want       string
		}{
			{done, `UPDATE orders SET version = version + 1 WHERE id = ?`, nil, "version is 9, and its events make it 8"},
			{done, `UPDATE orders SET version = version - 1 WHERE id = ?`, nil, "version is 7, and its events make it 8"},
			{done, `UPDATE orders SET event_seq = event_seq + 1 WHERE id = ?`, nil, "event_seq is 5, and its events make it 4"},
			{done, `UPDATE orders SET event_seq = event_seq - 1 WHERE id = ?`, nil, "event_seq is 3, and its events make it 4"},
			{done, `UPDATE orders SET status = 10 WHERE id = ?`, nil, "status is RETURNED, and its events make it DELIVERED"},
			{lost, `UPDATE orders SET reason = 10 WHERE id = ?`, nil, "reason is STAFF_REQUEST, and its events make it CUSTOMER_REQUEST"},
			{lost, `UPDATE orders SET words = 'no mind' WHERE id = ?`, nil, "words is not"},
			{done, `UPDATE orders SET shipment = 0 WHERE id = ?`, nil, "shipment is UNSPECIFIED, and its events make it DELIVERED"},
			{done, `UPDATE orders SET payment_id = 'mine' WHERE id = ?`, nil, "payment_id is mine"},
			{done, `UPDATE orders SET shipment_id = '' WHERE id = ?`, nil, "shipment_id is ,"},
			{done, `UPDATE orders SET tracking_number = '2Z' WHERE id = ?`, nil, "tracking_number is 2Z, and its events make it 1Z"},
			{done, `UPDATE orders SET timed = true, deadline_at = ? WHERE id = ?`, []any{never}, "timed is true"},
			{lost, `UPDATE orders SET timed = false, deadline_at = NULL WHERE id = ?`, nil, "timed is false"},
			{lost, `UPDATE orders SET reminders = 3 WHERE id = ?`, nil, "reminders is 3"},
			{done, `UPDATE orders SET saga_over_at = NULL WHERE id = ?`, nil, "saga_over_at is absent"},
			{done, `UPDATE orders SET saga_over_at = ? WHERE id = ?`, []any{never}, "saga_over_at is 2100-"},
			{lost, `UPDATE orders SET saga_over_at = ? WHERE id = ?`, []any{never}, "its events make it absent"},
			{done, `UPDATE orders SET updated_at = ? WHERE id = ?`, []any{never}, "updated_at is 2100-"},
			{done, `DELETE FROM orders WHERE id = ?`, nil, "there is no row in orders"},
			{done, `UPDATE order_details SET version = 2 WHERE id = ?`, nil, "version of the details is 2"},
			{done, `UPDATE order_details SET event_seq = 2 WHERE id = ?`, nil, "event_seq of the details is 2"},
			{done, `UPDATE order_details SET user_id = 'me' WHERE id = ?`, nil, "user_id is me, and its events make it u1"},
			{done, `UPDATE order_details SET created_at = ? WHERE id = ?`, []any{never}, "created_at is 2100-"},
			{done, `UPDATE order_details SET total_minor = 1 WHERE id = ?`, nil, "total_minor is 1, and its events make it 500"},
			{done, `UPDATE order_details SET total_currency = 'USD' WHERE id = ?`, nil, "total_currency is USD"},
			{done, `UPDATE order_details SET lines = ? WHERE id = ?`, []any{[]byte{}}, "lines is not"},
			{done, `UPDATE order_details SET lines = ? WHERE id = ?`, []any{[]byte{255}}, "lines is not"},
			{done, `UPDATE order_details SET ship_to = NULL WHERE id = ?`, nil, "ship_to is not"},
			{done, `UPDATE order_details SET ship_to = ? WHERE id = ?`, []any{[]byte{255}}, "ship_to is not"},
			{done, `DELETE FROM order_details WHERE id = ?`, nil, "there is no row in order_details"},
		} {
			p.exec(p.DB, c.change, append(c.args, c.id)...)
			for _, mend := range []bool{false, true} {
				r := p.rebuild(!mend)
				if len(r.Differ) != 1 || r.Differ[0].OrderID != c.id || r.Differ[0].Undecided || r.Differ[0].Rebuilt != mend || r.Orders != 2 ||
					!strings.Contains(strings.Join(r.Differ[0].What, "\n"), c.want) || r.Left() == 0 != mend {
					t.Fatalf("after %s, with mending %v: %+v", c.change, mend, r)
				}
			}
			if r := p.rebuild(true); len(r.Differ) != 0 {
				t.Fatalf("after %s and mending: %+v", c.change, r)
			}
			for i, o := range p.audit() { // what a deadline was is known from its row only
				if o.Deadline.IsZero() != all[i].Deadline.IsZero() {
					t.Errorf("after %s and mending, there is a deadline: %v", c.change, o.Deadline)
				}
				o.Deadline = all[i].Deadline
				equal(t, all[i], o)
			}
		}
	})
}

func TestNothingIsWrittenForAnOrderThatCannotBeDecided(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		p := newPast(t, open)
		var ids []string
		for n := range 8 {
			s := order.Delivered
			if n == 6 {
				s = order.Captured // by an entry without which no event is missed
			}
			ids = append(ids, p.PlaceIn("u1", s).GetOrderId())
		}
		p.leave()
		entry := func(id string, n int, change func(e *orderv1.WaybillEntry)) {
			e := proto.CloneOf(p.audit()[slices.Index(ids, id)].Waybill[n-1])
			change(e)
			data, _ := proto.Marshal(e)
			p.exec(p.DB, `UPDATE waybill_entries SET entry = ? WHERE order_id = ? AND sequence = ?`, data, id, n)
		}
		wants := []string{
			"of payment, of which entry 3 tells, is not in the outbox",
			"its event 2, which entry 6 made it emit, is not in the outbox",
			"its event 3 is OrderCompleted, and entry 7 makes it OrderDispatched",
			`entry 4 has to_status "CAPTURED", and its events make it "COMMITTED"`,
			`entry 5 has detail "5.01 EUR taken", and its events make it "5.00 EUR taken"`,
			"of payment is not the one of which entry 3 tells",
			"it was changed 5 times, and its waybill has 4 entries",
			"entry 2 of its waybill cannot be read",
		}
		p.exec(p.dbs["payment"], `DELETE FROM outbox WHERE aggregate_id = ? AND version = 1`, ids[0])
		p.exec(p.DB, `DELETE FROM outbox WHERE aggregate_id = ? AND version = 2`, ids[1])
		p.exec(p.DB, `UPDATE outbox SET type = 'waybill.order.v1.OrderCompleted' WHERE aggregate_id = ? AND version = 3`, ids[2])
		entry(ids[3], 4, func(e *orderv1.WaybillEntry) { e.ToStatus = order.Captured })
		entry(ids[4], 5, func(e *orderv1.WaybillEntry) { e.Detail = "5.01 EUR taken" })
		p.exec(p.dbs["payment"], `UPDATE outbox SET payload = ? WHERE aggregate_id = ? AND version = 1`, []byte{}, ids[5])
		p.exec(p.DB, `DELETE FROM waybill_entries WHERE order_id = ? AND sequence = 5`, ids[6])
		p.exec(p.DB, `UPDATE waybill_entries SET entry = ? WHERE order_id = ? AND sequence = 2`, []byte{255}, ids[7])
		for _, id := range ids {
			p.exec(p.DB, `UPDATE orders SET tracking_number = 'elsewhere' WHERE id = ?`, id)
		}
		for _, check := range []bool{true, false} {
			r := p.rebuild(check)
			if len(r.Differ) != len(ids) || r.Rebuilt != 0 || r.Left() != len(ids) {
				t.Fatalf("%+v", r)
			}
			for i, d := range r.Differ {
				if d.OrderID != ids[i] || !d.Undecided || !strings.Contains(strings.Join(d.What, "\n"), wants[i]) {
					t.Errorf("got %+v, want %q", d, wants[i])
				}
			}
		}
		if n := p.Count(`SELECT count(*) FROM orders WHERE tracking_number = 'elsewhere'`); n != int64(len(ids)) {
			t.Errorf("%d of %d orders are left as they were", n, len(ids))
		}
	})
}

func TestAnOrderWhoseEventsAreTooOldIsLeftAlone(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		p := newPast(t, open)
		p.Advance(-outbox.Retention - time.Hour)
		old := p.PlaceIn("u1", order.Delivered).GetOrderId()
		between := p.PlaceIn("u1", order.Delivered).GetOrderId()
		p.Advance(outbox.Retention + time.Hour)
		p.sendBack("u1", between, "too blue") // some of its events are kept, some are not
		p.PlaceIn("u1", order.Delivered)
		p.leave()
		if r := p.rebuild(true); r.Orders != 3 || len(r.Differ) != 0 {
			t.Errorf("as long as the old events are there: %+v", r)
		}
		for _, name := range orderd.Sources() {
			p.exec(p.dbs[name], `DELETE FROM outbox WHERE created_at < ?`, time.Now().Add(-outbox.Retention))
		}
		p.exec(p.DB, `UPDATE orders SET tracking_number = 'elsewhere' WHERE id = ?`, old)
		if r := p.rebuild(false); r.TooOld != 2 || r.Orders != 1 || len(r.Differ) != 0 {
			t.Errorf("afterwards: %+v", r)
		}
		if n := p.Count(`SELECT count(*) FROM orders WHERE id = ? AND tracking_number = 'elsewhere'`, old); n != 1 {
			t.Error("the old one was written")
		}
	})
}

func TestNothingSeemsWrongWhileOrdersChange(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		p := newPast(t, open)
		var ids []string
		for range 20 {
			ids = append(ids, p.Place("u1").GetOrderId())
		}
		p.dbs["order"] = p.DB
		said, looked := make(chan struct{}), make(chan error, 1)
		go func() {
			for n := 1; ; n++ {
				r, err := orderd.Rebuild(t.Context(), p.dbs, orderd.DefaultConfig(), false)
				if err == nil && (len(r.Differ) != 0 || r.Orders != len(ids)) {
					err = fmt.Errorf("look %d: %+v", n, r)
				}
				select {
				case <-said:
				default:
					if err == nil {
						continue
					}
				}
				looked <- err
				return
			}
		}()
		for k := range 7 {
			for _, id := range ids {
				p.Say(ordertest.Happy(id)[k])
			}
		}
		close(said)
		if err := <-looked; err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			p.Await(id, order.Delivered)
		}
		if r := p.rebuild(true); len(r.Differ) != 0 || r.Events != len(ids)*11 {
			t.Errorf("in the end: %+v", r)
		}
	})
}
