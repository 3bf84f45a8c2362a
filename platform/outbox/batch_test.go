package outbox_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	eventv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/event/v1"
)

func TestEventsShareMessagesUpToABound(t *testing.T) {
	db := sqldbtest.SQLite(t)("batch", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
	b := &forgetful{created: time.Now()}
	say := func(id, about string, bytes int) {
		store(t, db, id, about, 1, &authv1.UserRegistered{UserId: "u", Email: strings.Repeat("x", bytes)})
	}
	for i := range 300 {
		say(fmt.Sprintf("small%d", i), fmt.Sprintf("u%d", i), 1)
	}
	for i := range 3 {
		say(fmt.Sprintf("large%d", i), fmt.Sprintf("l%d", i), 100<<10)
	}
	say("same", "l0", 1) // waits for the one before
	store(t, db, "other", "o", 1, &authv1.UserRoleChanged{UserId: "u"})
	say("odd", "\xff", 1)
	relayUntil(t, db, b, func() bool { return pendingRows(t, db) == 0 })

	at := map[string]int{}
	for i, m := range b.msgs {
		ids := idsIn(m)
		if n := len(ids); n > 128 || len(m.Data) > 200<<10 {
			t.Errorf("message %d has %d events and %d bytes", i, n, len(m.Data))
		}
		for _, id := range ids {
			if _, twice := at[id]; twice {
				t.Errorf("%s was published twice", id)
			}
			at[id] = i
		}
	}
	if len(at) != 306 || len(b.msgs) > 110 {
		t.Errorf("%d events in %d messages", len(at), len(b.msgs))
	}
	if at["large0"] >= at["same"] {
		t.Error("an event travels with the one before it of its aggregate, or ahead of it")
	}
}

// The broker drops a message whose id it has seen a moment ago.
func TestABatchHasTheIDOfAnotherOnlyIfItHasTheSameEvents(t *testing.T) {
	of := func(ids ...string) string {
		var events []*outbox.Event
		for _, id := range ids {
			events = append(events, &outbox.Event{ID: id, Type: "waybill.auth.v1.UserRegistered", Time: time.Unix(7, 0)})
		}
		return outbox.Messages(events)[0].ID
	}
	if once, again := of("a", "b", "c"), of("a", "b", "c"); once != again {
		t.Errorf("the same batch has two ids, %s and %s", once, again)
	}
	seen := map[string][]string{}
	for _, ids := range [][]string{{"a", "b"}, {"a", "c"}, {"b", "c"}, {"a", "b", "c"}, {"a", "bc"}, {"ab", "c"}} {
		id := of(ids...)
		if seen[id] != nil {
			t.Errorf("%v and %v have the same id", ids, seen[id])
		}
		seen[id] = ids
	}
}

// ended is a delivery of m that tells how it ended.
func ended(m bus.Msg) (d *bus.Delivery, how func() string) {
	said := ""
	return bus.NewDelivery(m, theStream, 17, 3, time.Unix(5, 0), func(e bus.End, delay time.Duration) error {
		said += fmt.Sprint(map[bus.End]string{bus.Acked: "ack", bus.Nakked: "nak", bus.Termed: "term"}[e], delay)
		return nil
	}), func() string { return said }
}

func batchOf(n int) bus.Msg {
	b := &eventv1.EventBatch{Type: "waybill.auth.v1.UserRegistered"}
	for i := range n {
		b.Events = append(b.Events, &eventv1.Event{
			Id: fmt.Sprint("e", i), Subject: fmt.Sprint("u", i), Time: timestamppb.New(time.Unix(7, 1000)), AggregateVersion: 2, CausationId: "c", Hops: 3,
			Sequence: int64(10 + i), Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Data: []byte{byte(i)},
		})
	}
	data, err := proto.Marshal(b)
	if err != nil {
		panic(err)
	}
	return bus.Msg{Subject: "waybill.auth.user_registered.v1.batch", Header: map[string]string{outbox.HeaderType: "waybill.event.v1.EventBatch"}, Data: data}
}

func TestAnEventOfABatchIsAsIfItHadComeAlone(t *testing.T) {
	d, _ := ended(batchOf(2))
	parts, err := outbox.Open(d)
	if err != nil || len(parts) != 2 {
		t.Fatal(parts, err)
	}
	e := outbox.Event{
		Seq: 11, ID: "e1", Type: "waybill.auth.v1.UserRegistered", AggregateID: "u1", Version: 2, Cause: "c", Hops: 3,
		Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", Payload: []byte{1}, Time: time.Unix(7, 1000),
	}
	got, want := parts[1], e.Message()
	if got.ID != want.ID || got.Subject != want.Subject || string(got.Data) != string(want.Data) || fmt.Sprint(got.Headers()) != fmt.Sprint(want.Header) {
		t.Errorf("%+v, want %+v", got.Msg, want)
	}
	if got.Stream != theStream || got.Seq != 17 || got.Deliveries != 3 || !got.Time.Equal(time.Unix(5, 0)) {
		t.Errorf("%+v", got)
	}
}

func TestABatchEndsWhenAllOfItHasEnded(t *testing.T) {
	ack := func(d *bus.Delivery) error { return d.Ack() }
	nak := func(d *bus.Delivery) error { return d.Nak(time.Second) }
	later := func(d *bus.Delivery) error { return d.Nak(time.Minute) }
	term := func(d *bus.Delivery) error { return d.Term("hopeless") }
	for want, ends := range map[string][]func(*bus.Delivery) error{
		"ack0s":   {ack, term, ack},
		"nak1s":   {ack, nak, term},
		"nak1m0s": {nak, later, nak},
	} {
		d, how := ended(batchOf(len(ends)))
		parts, err := outbox.Open(d)
		if err != nil {
			t.Fatal(err)
		}
		for i, end := range ends {
			if how() != "" {
				t.Errorf("it ended with %s after %d of %d events", how(), i, len(ends))
			}
			if err := end(parts[i]); err != nil {
				t.Error(err)
			}
			_ = parts[i].Ack() // does nothing: it has ended
		}
		if how() != want {
			t.Errorf("it ended with %q, want %q", how(), want)
		}
	}
}

func TestAMessageThatIsNoBatchIsGivenAsItIs(t *testing.T) {
	d, _ := ended(bus.Msg{ID: "x", Header: map[string]string{outbox.HeaderType: "waybill.auth.v1.UserRegistered"}})
	if parts, err := outbox.Open(d); err != nil || len(parts) != 1 || parts[0] != d {
		t.Error(parts, err)
	}
}

func TestABatchThatCannotBeReadIsInvalid(t *testing.T) {
	for name, change := range map[string]func(m *bus.Msg){
		"no protobuf":             func(m *bus.Msg) { m.Data = []byte{0xff} },
		"no events":               func(m *bus.Msg) { *m = batchOf(0) },
		"another type's subject":  func(m *bus.Msg) { m.Subject = "waybill.auth.session_revoked.v1.batch" },
		"the subject of an event": func(m *bus.Msg) { m.Subject = outbox.Subject("waybill.auth.v1.UserRegistered", "u0") },
	} {
		m := batchOf(2)
		change(&m)
		d, how := ended(m)
		if parts, err := outbox.Open(d); errs.KindOf(err) != errs.Invalid || parts != nil || how() != "" {
			t.Errorf("%s: %v, %v, ended %q", name, parts, err, how())
		}
	}
}
