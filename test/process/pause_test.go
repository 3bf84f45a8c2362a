package process_test

import (
	"bytes"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/bus/bustest"
)

// underLoad runs body while orders come, then waits until all that were accepted
// are over and checks the books.
func underLoad(t *testing.T, s *server, data string, db []string, body func(p *people, more func(n int))) {
	t.Helper()
	p, r := s.open(), newRush()
	more, end := r.begin(t, s, p)
	more(20)
	body(p, more)
	more(20)
	end()
	begun := time.Now()
	r.settle(t, s, p)
	s.awaitOver(p, r.all(), patience)
	took := time.Since(begun)
	if code := s.terminate(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, s.log.tail(20))
	}
	inspect(t, db, data)
	t.Logf("PROVE orders=%d over_after=%s", len(r.orders), took.Round(time.Millisecond))
}

// lasting lets a disturbance last.
func lasting(d time.Duration) { <-time.After(d) }

func TestAServerAndABrokerMayStandStill(t *testing.T) {
	t.Parallel()
	data, broker := t.TempDir(), bustest.StartServer(t)
	s := serve(t, settings(t), "--data", data, "--nats", broker.URL())
	rounds := 1
	if proving() {
		rounds = 5
	}
	underLoad(t, s, data, nil, func(_ *people, more func(int)) {
		for n := range rounds {
			still := time.Duration(n+1) * time.Second
			if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			lasting(still)
			if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			more(5)
			broker.Signal(syscall.SIGSTOP)
			lasting(still)
			broker.Signal(syscall.SIGCONT)
			more(5)
		}
	})
	t.Logf("PROVE pauses=%d", 2*rounds)
}

func TestABrokerMayBeKilledAndStayAway(t *testing.T) {
	t.Parallel()
	data, broker := t.TempDir(), bustest.StartServer(t)
	s := serve(t, settings(t), "--data", data, "--nats", broker.URL())
	away := time.Second
	if proving() {
		away = 20 * time.Second
	}
	underLoad(t, s, data, nil, func(_ *people, more func(int)) {
		broker.Kill()
		more(20) // accepted without a broker
		lasting(away)
		broker.Start()
		for range 3 {
			more(10)
			broker.Kill()
			broker.Start()
		}
	})
	t.Log("PROVE kills=4")
}

// TestALostAnswerToACommitLosesAndDoublesNothing cuts the connection to Postgres in
// the moment of a commit: half of the times it has been done and nobody hears of
// it, half of the times it has not.
func TestALostAnswerToACommitLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	database, data := newDatabase(t), t.TempDir()
	line := startLine(t, database)
	s := serve(t, settings(t), "--data", data, "--db", line.url())
	cuts := int64(6)
	if proving() {
		cuts = 40
	}
	var done, undone atomic.Int64
	underLoad(t, s, data, []string{database}, func(_ *people, more func(int)) {
		for n := range cuts {
			var struck atomic.Bool
			hit := make(chan struct{})
			strike := func(answer bool, said []byte) bool {
				want := n%2 == 0
				if answer != want || answer && !bytes.Contains(said, []byte("COMMIT\x00")) || !answer && len(said) < 512 {
					return false
				}
				if struck.Swap(true) {
					return false
				}
				close(hit)
				return true
			}
			line.strike.Store(&strike)
			select {
			case <-hit:
			case <-time.After(patience):
				t.Fatal("nothing is committed")
			}
			line.strike.Store(nil)
			if n%2 == 0 {
				done.Add(1)
			} else {
				undone.Add(1)
			}
			more(3)
		}
	})
	t.Logf("PROVE cuts=%d done=%d undone=%d", cuts, done.Load(), undone.Load())
}
