package outbox_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
)

func TestWhatAStreamLosesIsPublishedAgain(t *testing.T) {
	for name, lose := range map[string]func(*forgetful){
		"its tail, while nobody looked": func(b *forgetful) { b.msgs = b.msgs[:len(b.msgs)/2] },
		"all of it": func(b *forgetful) {
			b.msgs, b.created = nil, b.created.Add(time.Hour)
		},
		"all of it, and more was published since": func(b *forgetful) {
			b.msgs, b.created = make([]bus.Msg, 12), b.created.Add(time.Hour)
		},
	} {
		t.Run(name, func(t *testing.T) {
			sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
				db := open("refill", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
				b := &forgetful{created: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
				for i, until := range []int{1, 2, 6, 10} { // alone, and four in a message
					for n := b.count(); n < until; n++ {
						store(t, db, fmt.Sprintf("e%d", n), fmt.Sprintf("u%d", n), 1, &authv1.UserRegistered{UserId: "u"})
					}
					relayUntil(t, db, b, func() bool { return b.has(until) && pendingRows(t, db) == 0 })
					if len(b.msgs) != i+1 {
						t.Fatalf("%d messages for %d events", len(b.msgs), until)
					}
				}

				b.mu.Lock()
				lose(b)
				b.mu.Unlock()
				store(t, db, "later", "u-later", 1, &authv1.UserRegistered{UserId: "u"})
				relayUntil(t, db, b, func() bool {
					for i := range 10 {
						if !b.holds(fmt.Sprintf("e%d", i)) {
							return false
						}
					}
					return b.holds("later") && pendingRows(t, db) == 0
				})

				// Now all is well, and nothing is published for a third time.
				published := b.count()
				store(t, db, "last", "u-last", 1, &authv1.UserRegistered{UserId: "u"})
				relayUntil(t, db, b, func() bool { return b.holds("last") && pendingRows(t, db) == 0 })
				if again := b.count() - published; again != 1 {
					t.Errorf("%d events were published for one", again)
				}
			})
		})
	}
}

func TestNothingIsPublishedBeforeTheStreamWasLookedAt(t *testing.T) {
	db := sqldbtest.SQLite(t)("refill", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
	b := &forgetful{away: true}
	store(t, db, "e1", "u1", 1, &authv1.UserRegistered{UserId: "u"})
	relayUntil(t, db, b, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.asked < 3 {
			return false
		}
		if len(b.msgs) > 0 {
			t.Error("an event was published to a stream nobody knows")
		}
		b.away = false
		return true
	})
	relayUntil(t, db, b, func() bool { return b.holds("e1") })
}

// What an audit costs must not grow with the number of events in a message.
func TestAnAuditReadsABoundedNumberOfEvents(t *testing.T) {
	const perMessage = 128
	db := sqldbtest.SQLite(t)("audit", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
	b := &forgetful{created: time.Unix(7, 0), msgs: slices.Repeat([]bus.Msg{batchOf(perMessage)}, 3000)}
	var relay *outbox.Relay
	var read []int // when each question was asked; the first is no audit
	relayUntil(t, db, b, func() bool {
		relay.Audit()
		b.mu.Lock()
		defer b.mu.Unlock()
		read = b.readAt
		return len(read) > 3
	}, func(r *outbox.Relay) { relay = r })
	for i, enough := range []int{2048 * 8 / perMessage, 512 * 8 / perMessage} {
		if n := read[i+2] - read[i+1]; n < enough || n > enough+16+64 {
			t.Errorf("audit %d read %d messages of %d events each", i+1, n, perMessage)
		}
	}
}

// A mark that fails must not wait for the next event to be tried again.
func TestAMarkThatFailedIsMadeLater(t *testing.T) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		db := open("marks", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
		store(t, db, "e1", "u1", 1, &authv1.UserRegistered{UserId: "u"})
		// The broker tells nothing, so that nothing but time makes the relay try.
		relayUntil(t, db, &forgetful{away: true}, func() bool { return pendingRows(t, db) == 0 }, func(r *outbox.Relay) { r.Unmarked(1) })
	})
}

// relayUntil runs a relay until the condition holds.
func relayUntil(t *testing.T, db *sqldb.DB, b *forgetful, holds func() bool, change ...func(*outbox.Relay)) {
	t.Helper()
	r := outbox.NewRelay(outbox.Config{Service: "auth", Owner: "test", DB: db, Bus: b, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	for _, c := range change {
		c(r)
	}
	if err := r.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not in time; the stream holds %v", b.msgs)
		}
	}
}

func pendingRows(t *testing.T, db *sqldb.DB) (n int64) {
	t.Helper()
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM outbox_pending`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// forgetful is a bus whose stream can lose what it has acknowledged.
type forgetful struct {
	mu      sync.Mutex
	created time.Time
	msgs    []bus.Msg
	total   int // events that were published
	asked   int
	read    int   // messages
	readAt  []int // when it was asked
	away    bool
}

// PublishAsync implements outbox.Publisher.
func (b *forgetful) PublishAsync(_ string, m bus.Msg, done func(uint64, error)) {
	b.mu.Lock()
	b.msgs = append(b.msgs, m)
	b.total += len(idsIn(m))
	seq := uint64(len(b.msgs))
	b.mu.Unlock()
	go done(seq, nil)
}

// Notify implements outbox.Notifier.
func (b *forgetful) Notify(string, []byte) error { return nil }

// Listen implements outbox.Notifier.
func (b *forgetful) Listen(string, func([]byte)) (func(), error) { return func() {}, nil }

// StreamInfo implements outbox.Inspector.
func (b *forgetful) StreamInfo(context.Context, string) (bus.StreamInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	b.readAt = append(b.readAt, b.read)
	if b.away {
		return bus.StreamInfo{}, errs.E(errs.NotFound, "", "no stream")
	}
	return bus.StreamInfo{Created: b.created, FirstSeq: 1, LastSeq: uint64(len(b.msgs))}, nil
}

// Gaps implements outbox.Inspector.
func (b *forgetful) Gaps(context.Context, string) ([]bus.Span, error) { return nil, nil }

// ReadStream implements outbox.Inspector.
func (b *forgetful) ReadStream(_ context.Context, _ string, seqs []uint64) ([]*bus.Msg, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.read += len(seqs)
	msgs := make([]*bus.Msg, len(seqs))
	for i, seq := range seqs {
		if seq > 0 && seq <= uint64(len(b.msgs)) {
			msgs[i] = &b.msgs[seq-1]
		}
	}
	return msgs, nil
}

func (b *forgetful) has(n int) bool { return b.count() >= n }

func (b *forgetful) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total
}

func (b *forgetful) holds(id string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.msgs, func(m bus.Msg) bool { return slices.Contains(idsIn(m), id) })
}

// idsIn gives the ids of the events of a message.
func idsIn(m bus.Msg) (ids []string) {
	events, _ := outbox.Open(bus.NewDelivery(m, theStream, 1, 1, time.Now(), nil))
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	return ids
}
