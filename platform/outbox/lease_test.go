package outbox_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
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
