package outbox_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
)

// TestTheLeaseOfAProcessThatDiedIsFreeAtOnce has two relays whose clocks stand
// still, so that no lease ever runs out.
func TestTheLeaseOfAProcessThatDiedIsFreeAtOnce(t *testing.T) {
	server := sqldbtest.StartPostgres(t, false)
	first := sqldbtest.Postgres(t, false)("lease", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
	var schema string
	if err := first.QueryRow(t.Context(), "SELECT current_schema()").Scan(&schema); err != nil {
		t.Fatal(err)
	}
	second, err := sqldb.Open(t.Context(), sqldb.Config{URL: server, Schema: schema, AllowVolatile: true})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	now := time.Now()
	relay := func(owner string, db *sqldb.DB) *outbox.Relay {
		return outbox.NewRelay(outbox.Config{Service: "auth", Owner: owner, DB: db, Bus: &recorder{}, Now: func() time.Time { return now }, Log: slog.New(slog.DiscardHandler)})
	}
	a, b := relay("a", first), relay("b", second)
	if !a.Lead(t.Context()) {
		t.Fatal("the first has no lease")
	}
	for range 10 {
		if b.Lead(t.Context()) {
			t.Fatal("two lead")
		}
	}
	if err := first.Close(); err != nil { // as the end of its process would
		t.Fatal(err)
	}
	end := time.Now().Add(20 * time.Second)
	for !b.Lead(t.Context()) {
		if time.Now().After(end) {
			t.Fatal("the lease of the dead was not taken over")
		}
	}
	for range 10 {
		if relay("c", second).Lead(t.Context()) {
			t.Fatal("two lead")
		}
	}
}

// TestARelayThatLostItsLeaseMarksNothing has one that stood still between the
// broker's answer and the mark: the broker may have lost the event since.
func TestARelayThatLostItsLeaseMarksNothing(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("lease", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
		store(t, db, "e1", "u1", 1, &authv1.UserRegistered{UserId: "u"})
		b := &silent{published: make(chan func(uint64, error), 2)}
		r := outbox.NewRelay(outbox.Config{Service: "auth", Owner: "first", DB: db, Bus: b, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err := r.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		answer := <-b.published
		exec(t, db, `UPDATE leases SET owner = 'second', expires_at = ? WHERE name = 'outbox'`, time.Now().Add(time.Hour))
		answer(1, nil)
		if err := r.Stop(t.Context()); err != nil { // writes down what it was told
			t.Error(err)
		}
		var marks int64
		if err := db.QueryRow(t.Context(), `SELECT count(*) FROM leases WHERE name = 'outbox marks'`).Scan(&marks); err != nil {
			t.Fatal(err)
		}
		if n := pendingRows(t, db); n != 1 || marks != 1 {
			t.Errorf("%d events are pending, and marks were written %d times; want one and once", n, marks)
		}
	})
}

// silent is a bus that answers when the test does.
type silent struct {
	recorder

	published chan func(seq uint64, err error)
}

// PublishAsync implements outbox.Publisher.
func (b *silent) PublishAsync(_ string, _ bus.Msg, done func(uint64, error)) { b.published <- done }
