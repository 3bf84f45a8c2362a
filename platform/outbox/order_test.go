package outbox_test

import (
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
)

// recorder is a bus that takes everything and notes in which order.
type recorder struct {
	mu   sync.Mutex
	ids  []string
	msgs uint64
}

// PublishAsync implements outbox.Publisher.
func (b *recorder) PublishAsync(_ string, m bus.Msg, done func(uint64, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.msgs++
	b.ids = append(b.ids, idsIn(m)...)
	go done(b.msgs, nil)
}

// Notify implements outbox.Notifier.
func (b *recorder) Notify(string, []byte) error { return nil }

// Listen implements outbox.Notifier.
func (b *recorder) Listen(string, func([]byte)) (func(), error) { return func() {}, nil }

// published runs a relay, has next called again and again until it gives true, and
// tells what was published.
func published(t *testing.T, db *sqldb.DB, next func(r *outbox.Relay, caughtUp bool) bool) []string {
	t.Helper()
	b := &recorder{}
	r := outbox.NewRelay(outbox.Config{Service: "auth", Owner: "test", DB: db, Bus: b, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(30 * time.Second)
	for !next(r, pendingRows(t, db) == 0) {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("not in time")
		}
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	return b.ids
}

// commit writes the n-th event about an aggregate at a time and gives it as the
// relay is offered it.
func commit(t *testing.T, db *sqldb.DB, aggregate string, n int64, at time.Time) *outbox.Event {
	t.Helper()
	payload := encode(t, &authv1.UserRegistered{UserId: "u"})
	e := &outbox.Event{ID: fmt.Sprintf("%s-%d", aggregate, n), Type: "waybill.auth.v1.UserRegistered", AggregateID: aggregate, Version: n, Payload: payload, Time: at}
	var b sqldb.Batch
	outbox.Append(&b, []*outbox.Event{e})
	tx, err := db.Begin(t.Context())
	if err == nil {
		err = tx.Commit(t.Context(), &b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// Another replica commits an event, and before its word of it gets here this one
// commits the aggregate's next.
func TestAnEventFromMemoryDoesNotOvertakeWhatAnotherReplicaCommitted(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("order", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
		commit(t, db, "a", 1, time.Now())
		step := 0
		got := published(t, db, func(r *outbox.Relay, caughtUp bool) bool {
			if !caughtUp {
				return false
			}
			if step++; step == 1 { // it leads and has caught up
				commit(t, db, "a", 2, time.Now()) // elsewhere
				r.Offer([]*outbox.Event{commit(t, db, "a", 3, time.Now())})
			}
			return step > 1
		})
		if want := []string{"a-1", "a-2", "a-3"}; !slices.Equal(got, want) {
			t.Errorf("published %v, want %v", got, want)
		}
	})
}

// The clock of another replica is far ahead.
func TestAnEventFromTheFutureIsPublishedNow(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("future", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
		commit(t, db, "a", 1, time.Now().Add(time.Hour))
		commit(t, db, "a", 2, time.Now())
		got := published(t, db, func(_ *outbox.Relay, caughtUp bool) bool { return caughtUp })
		if want := []string{"a-1", "a-2"}; !slices.Equal(got, want) {
			t.Errorf("published %v, want %v", got, want)
		}
	})
}
