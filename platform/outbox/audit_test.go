package outbox_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
)

func TestMain(m *testing.M) { os.Exit(bustest.Main(m)) }

// A site is a relay and a reader on a broker that keeps its streams in files.
type site struct {
	t        *testing.T
	broker   *bustest.Server
	bus      *bus.Bus
	db       *sqldb.DB
	relay    *outbox.Relay
	limit    int64 // of the stream in bytes
	events   int
	repaired atomic.Int64
	read     chan string // ids that the reader got
	seen     map[string]bool
}

const theStream = "WAYBILL_AUTH"

func newSite(t *testing.T, always bool) *site {
	t.Helper()
	s := &site{t: t, broker: bustest.StartServer(t), read: make(chan string, 1<<16), seen: map[string]bool{}}
	if always {
		s.broker.Kill()
		s.broker.SyncAlways()
		s.broker.Start()
	}
	s.db = sqldbtest.SQLite(t)("audit", sqldbtest.Migration{Name: "platform", FS: react.Migrations()})
	return s
}

// open connects, relays and reads.
func (s *site) open() {
	s.t.Helper()
	var err error
	log := slog.New(slog.NewTextHandler(s.t.Output(), nil))
	cfg := bus.Config{URL: s.broker.URL(), ReconnectWait: 10 * time.Millisecond, AckTimeout: 2 * time.Second}
	if s.bus, err = bus.Open(s.t.Context(), cfg, log); err != nil {
		s.t.Fatal(err)
	}
	if err := s.bus.EnsureStream(s.t.Context(), bus.Stream{Name: theStream, Subjects: []string{"waybill.auth.>"}, MaxBytes: s.limit}); err != nil {
		s.t.Fatal(err)
	}
	_, err = s.bus.Consume(s.t.Context(), bus.Consumer{Stream: theStream, Durable: "reader", AckWait: time.Second, Heartbeat: 500 * time.Millisecond},
		reacttest.Singly(s.t, func(d *bus.Delivery) {
			s.read <- d.ID
			_ = d.Ack()
		}))
	if err != nil {
		s.t.Fatal(err)
	}
	s.relay = outbox.NewRelay(outbox.Config{
		Service: "auth", Owner: "test", DB: s.db, Bus: s.bus, Now: time.Now, Log: log,
		Repaired: func(n int64) { s.repaired.Add(n) },
	})
	if err := s.relay.Start(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) close() {
	s.t.Helper()
	if err := s.relay.Stop(s.t.Context()); err != nil {
		s.t.Error(err)
	}
	if err := s.bus.Close(s.t.Context()); err != nil {
		s.t.Logf("close: %v", err) // the broker may be away
	}
}

// say commits n events.
func (s *site) say(n int) {
	for range n {
		store(s.t, s.db, fmt.Sprintf("e%d", s.events), fmt.Sprintf("u%d", s.events%7), int64(1+s.events/7), &authv1.UserRegistered{UserId: fmt.Sprint(s.events)})
		s.events++
	}
}

func (s *site) until(what string, holds func() bool) {
	s.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			s.t.Fatalf("%s: not in time; %d of %d events read, %d repaired", what, len(s.seen), s.events, s.repaired.Load())
		}
	}
}

// marked waits until every event is marked as published.
func (s *site) marked() {
	s.t.Helper()
	s.until("all is marked", func() bool { return pendingRows(s.t, s.db) == 0 })
}

// heard waits until the reader has got every event.
func (s *site) heard() {
	s.t.Helper()
	s.until("all is read", func() bool {
		for len(s.read) > 0 {
			s.seen[<-s.read] = true
		}
		return len(s.seen) == s.events
	})
}

// missing gives how many committed events the stream does not have.
func (s *site) missing() (n int) {
	s.t.Helper()
	info, err := s.bus.StreamInfo(s.t.Context(), theStream)
	if err != nil {
		s.t.Fatal(err)
	}
	var seqs []uint64
	for seq := info.FirstSeq; seq <= info.LastSeq && seq > 0; seq++ {
		seqs = append(seqs, seq)
	}
	msgs, err := s.bus.ReadStream(s.t.Context(), theStream, seqs)
	if err != nil {
		s.t.Fatal(err)
	}
	has := map[string]bool{}
	for _, m := range msgs {
		if m == nil {
			continue
		}
		for _, id := range idsIn(*m) {
			has[id] = true
		}
	}
	for i := range s.events {
		if !has[fmt.Sprintf("e%d", i)] {
			n++
		}
	}
	return n
}

// files gives the stream's message files, the newest last.
func (s *site) files() []string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.broker.Dir(), "jetstream", "*", "streams", theStream, "msgs", "*.blk"))
	if err != nil || len(files) == 0 {
		s.t.Fatalf("no files of the stream: %v", err)
	}
	slices.Sort(files)
	return files
}

// eachSync runs body on brokers that force messages to disk now and then, and always.
func eachSync(t *testing.T, body func(t *testing.T, always bool)) {
	for name, always := range map[string]bool{"sync every 100 ms": false, "sync always": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body(t, always)
		})
	}
}

const many = 500

func TestWhatABrokersFilesLoseIsPublishedAgain(t *testing.T) {
	for name, lose := range map[string]func(s *site){
		"the newest file is cut short": func(s *site) {
			files := s.files()
			last := files[len(files)-1]
			info, err := os.Stat(last)
			if err == nil {
				err = os.Truncate(last, max(0, info.Size()-4096))
			}
			if err != nil {
				s.t.Fatal(err)
			}
		},
		"one bit is another": func(s *site) {
			files := s.files()
			last := files[len(files)-1]
			data, err := os.ReadFile(last)
			if err == nil {
				data[len(data)/2] ^= 1
				err = os.WriteFile(last, data, 0o600)
			}
			if err != nil {
				s.t.Fatal(err)
			}
		},
		"the stream's directory is gone": func(s *site) {
			if err := os.RemoveAll(filepath.Dir(filepath.Dir(s.files()[0]))); err != nil {
				s.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachSync(t, func(t *testing.T, always bool) {
				for when, running := range map[string]bool{"while the relay runs": true, "while nobody looks": false} {
					t.Run(when, func(t *testing.T) {
						s := newSite(t, always)
						s.open()
						s.say(many)
						s.marked()
						s.heard()
						if !running {
							s.close()
						}
						s.broker.Kill()
						lose(s)
						s.broker.Start()
						if !running {
							s.open()
						}
						s.say(10)
						s.until("the loss is repaired", func() bool { return s.repaired.Load() > 0 })
						s.marked()
						s.heard()
						if n := s.missing(); n > 0 {
							t.Errorf("%d events are missing after the audit", n)
						}
						t.Logf("PROVE losses=1 repaired=%d events=%d missing=%d", s.repaired.Load(), s.events, s.missing())
						s.close()
					})
				}
			})
		})
	}
}

func TestAnOlderCopyOfTheStreamIsNoticedAlsoWhenItHasGrownSince(t *testing.T) {
	eachSync(t, func(t *testing.T, always bool) {
		s := newSite(t, always)
		s.open()
		s.say(many)
		s.marked()
		s.close()
		s.broker.Kill()
		copied := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(copied, os.DirFS(s.broker.Dir())); err != nil {
			t.Fatal(err)
		}
		s.broker.Start()
		s.open()
		s.say(100)
		s.marked()
		s.until("the newest marks are written down", func() bool {
			var text string
			s.say(1)
			s.relay.Audit()
			err := s.db.QueryRow(t.Context(), `SELECT owner FROM leases WHERE name = 'outbox marks'`).Scan(&text)
			return err == nil && len(text) > 0
		})
		s.marked()
		s.heard()
		s.close()

		s.broker.Kill()
		if err := os.RemoveAll(s.broker.Dir()); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(s.broker.Dir(), os.DirFS(copied)); err != nil {
			t.Fatal(err)
		}
		s.broker.Start()
		other, err := bus.Open(t.Context(), bus.Config{URL: s.broker.URL()}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 300 { // events that somebody published before the relay looked
			m := bus.Msg{ID: fmt.Sprintf("x%d", i), Subject: "waybill.auth.x.v1.1", Header: map[string]string{outbox.HeaderSequence: fmt.Sprint(1_000_000 + i)}}
			if _, err := other.Publish(t.Context(), theStream, m); err != nil {
				t.Fatal(err)
			}
		}
		if err := other.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.open()
		s.until("the loss is repaired", func() bool { return s.repaired.Load() >= 100 })
		s.marked()
		if n := s.missing(); n > 0 {
			t.Errorf("%d events are missing after the audit", n)
		}
		t.Logf("PROVE losses=1 repaired=%d events=%d missing=%d", s.repaired.Load(), s.events, s.missing())
		s.close()
	})
}

func TestAFullStreamRefusesAndEventsWaitUntilThereIsRoom(t *testing.T) {
	eachSync(t, func(t *testing.T, always bool) {
		s := newSite(t, always)
		s.limit = 32 << 10
		s.open()
		s.say(many)
		s.until("the stream refuses", func() bool { return s.bus.Stats().Failed > 0 })
		if pendingRows(t, s.db) == 0 {
			t.Error("all is marked as published though the stream is full")
		}
		if err := s.bus.EnsureStream(t.Context(), bus.Stream{Name: theStream, Subjects: []string{"waybill.auth.>"}}); err != nil {
			t.Fatal(err)
		}
		s.marked()
		s.heard()
		if n := s.missing(); n > 0 {
			t.Errorf("%d events are missing", n)
		}
		s.relay.Audit()
		t.Logf("PROVE losses=1 repaired=0 events=%d missing=%d", s.events, s.missing())
		s.close()
		if n := s.repaired.Load(); n > 0 {
			t.Errorf("%d events were taken for lost", n)
		}
	})
}

func TestAnAuditOfAGoodStreamRepairsNothing(t *testing.T) {
	s := newSite(t, false)
	s.open()
	for range 5 {
		s.say(100)
		s.relay.Audit()
		s.marked()
	}
	s.relay.Audit()
	s.heard()
	s.close()
	s.open() // another process, which reads what was written down
	s.say(1)
	s.marked()
	s.relay.Audit()
	s.close()
	if n := s.repaired.Load(); n > 0 {
		t.Errorf("%d events were taken for lost", n)
	}
	var gaps string
	if err := s.db.QueryRow(t.Context(), `SELECT owner FROM leases WHERE name = 'outbox gaps'`).Scan(&gaps); err != nil || gaps != "" {
		t.Errorf("gaps %q, %v", gaps, err)
	}
}
