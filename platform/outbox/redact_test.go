package outbox_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

func TestRedactionTakesWhatIsSensitiveAndLeavesTheRest(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("redact", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
		registered := &authv1.UserRegistered{UserId: "u1", Email: "ann@example.com", DisplayName: "Ann", Role: 1}
		placed := &orderv1.OrderPlaced{OrderId: "u1", UserId: "u1", PaymentToken: "tok_ok", ShipTo: &typev1.Address{Recipient: "Ann"}, Lines: []*orderv1.OrderLine{{Sku: "S"}}}
		store(t, db, "e1", "u1", 1, registered)
		store(t, db, "e2", "u1", 2, placed)
		store(t, db, "e3", "u2", 1, registered)
		exec(t, db, `INSERT INTO dead_letters (dead_letter_id, event_id, type, aggregate_id, stream, stream_seq, payload, reason, detail, attempts, cause, traceparent, created_at)
			VALUES ('d1', 'e9', 'waybill.auth.v1.UserRegistered', 'u1', 'S', 1, ?, '', '', 1, '', '', ?), ('d2', 'e8', 'waybill.future.v1.Unknown', 'u1', 'S', 1, ?, '', '', 1, '', '', ?)`,
			encode(t, registered), time.Now(), []byte("Ann"), time.Now())

		if err := outbox.Redact(t.Context(), db, "u1"); errs.KindOf(err) != errs.Unavailable {
			t.Fatalf("before they are published: %v", err)
		}
		if got := payload(t, db, `SELECT payload FROM outbox WHERE event_id = 'e1'`); !bytes.Equal(got, encode(t, registered)) {
			t.Error("an event was redacted before it was published")
		}
		exec(t, db, `DELETE FROM outbox_pending`)
		for range 2 {
			if err := outbox.Redact(t.Context(), db, "u1"); err != nil {
				t.Fatal(err)
			}
		}
		for query, want := range map[string]proto.Message{
			`SELECT payload FROM outbox WHERE event_id = 'e1'`:             &authv1.UserRegistered{UserId: "u1", Role: 1},
			`SELECT payload FROM outbox WHERE event_id = 'e2'`:             &orderv1.OrderPlaced{OrderId: "u1", UserId: "u1", Lines: []*orderv1.OrderLine{{Sku: "S"}}},
			`SELECT payload FROM outbox WHERE event_id = 'e3'`:             registered,
			`SELECT payload FROM dead_letters WHERE dead_letter_id = 'd1'`: &authv1.UserRegistered{UserId: "u1", Role: 1},
		} {
			got := want.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(payload(t, db, query), got); err != nil || !proto.Equal(got, want) {
				t.Errorf("%s gives %v, %v", query, got, err)
			}
		}
		if got := payload(t, db, `SELECT payload FROM dead_letters WHERE dead_letter_id = 'd2'`); len(got) != 0 {
			t.Errorf("of an event that nobody knows %q is left", got)
		}
	})
}

func store(t *testing.T, db *sqldb.DB, eventID, aggregateID string, version int64, e proto.Message) {
	t.Helper()
	var b sqldb.Batch
	outbox.Append(&b, []*outbox.Event{{
		ID: eventID, Type: string(e.ProtoReflect().Descriptor().FullName()), AggregateID: aggregateID, Version: version, Payload: encode(t, e), Time: time.Now(),
	}})
	tx, err := db.Begin(t.Context())
	if err == nil {
		err = tx.Commit(t.Context(), &b)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func exec(t *testing.T, db *sqldb.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.Exec(context.Background(), query, args...); err != nil {
		t.Fatal(err)
	}
}

func payload(t *testing.T, db *sqldb.DB, query string) (data []byte) {
	t.Helper()
	if err := db.QueryRow(t.Context(), query).Scan(&data); err != nil {
		t.Fatal(err)
	}
	return data
}
