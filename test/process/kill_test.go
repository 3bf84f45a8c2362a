package process_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/waybill-dev/waybill/internal/rest"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
)

// rush keeps placing orders and remembers what was answered.
type rush struct {
	mu       sync.Mutex
	next     int
	unsure   map[string]int      // keys without an answer, and the number of their order
	accepted map[string]string   // key -> order
	numbers  map[string]int      // of the accepted keys
	wrong    []error             // answers that a good order must not get
	enough   chan struct{}       // closed when so many were accepted
	left     int                 // until then
	orders   map[string]struct{} // accepted
	pace     <-chan time.Time    // of placing orders; nil: as fast as they are answered
}

func newRush() *rush {
	return &rush{unsure: map[string]int{}, accepted: map[string]string{}, numbers: map[string]int{}, orders: map[string]struct{}{}}
}

// until begins a round that is over when n more orders were accepted.
func (r *rush) until(n int) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left, r.enough = n, make(chan struct{})
	return r.enough
}

// take gives the next order to place: one of those without an answer, or a new one.
func (r *rush) take() (n int, key string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, n := range r.unsure {
		delete(r.unsure, key)
		return n, key
	}
	r.next++
	return r.next, uuid.NewString()
}

// answered notes what became of an order.
func (r *rush) answered(n int, key, order string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var re *rest.Error
	switch {
	case err == nil:
		r.accepted[key], r.numbers[key], r.orders[order] = order, n, struct{}{}
		if r.left--; r.left == 0 {
			close(r.enough)
		}
	case unsure(err), errors.As(err, &re) && re.Status >= 502 && re.Status <= 504, !errors.As(err, &re) && n%2 == 1: // the last: the connection broke
		r.unsure[key] = n
	default:
		r.wrong = append(r.wrong, err)
	}
}

// begin has orders placed until end is called. more waits until n more of them were
// accepted.
func (r *rush) begin(t *testing.T, s *server, p *people) (more func(n int), end func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	wait := r.run(ctx, s, p)
	more = func(n int) {
		t.Helper()
		select {
		case <-r.until(n):
		case <-time.After(patience):
			t.Fatalf("orders are not accepted any more: %v", r.wrong)
		}
	}
	return more, func() { stop(); wait() }
}

// run places orders with several hands, every other one over REST, until ctx ends.
func (r *rush) run(ctx context.Context, s *server, p *people) (wait func()) {
	conn := s.dial()
	var hands sync.WaitGroup
	for range 8 {
		hands.Go(func() {
			for ctx.Err() == nil {
				if r.pace != nil {
					<-r.pace
				}
				n, key := r.take()
				var id string
				var err error
				if n%2 == 1 {
					o, e := s.placeREST(p, n, key)
					id, err = o.GetOrderId(), e
				} else {
					o, e := s.place(conn, p, n, key)
					id, err = o.GetOrderId(), e
				}
				r.answered(n, key, id, err)
			}
		})
	}
	return hands.Wait
}

func (r *rush) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []string
	for id := range r.orders {
		list = append(list, id)
	}
	return list
}

// settle places again what had no answer, and fails the test for wrong answers.
func (r *rush) settle(t *testing.T, s *server, p *people) {
	t.Helper()
	conn := s.dial()
	for key, n := range r.unsure {
		o, err := s.place(conn, p, n, key)
		if err != nil {
			t.Fatalf("an order without an answer was not accepted when it was placed again: %v", err)
		}
		r.orders[o.GetOrderId()] = struct{}{}
	}
	again := 0
	for key, order := range r.accepted {
		if again++; again > 20 {
			break
		}
		if o, err := s.place(conn, p, r.numbers[key], key); err != nil || o.GetOrderId() != order {
			t.Errorf("the key of order %s gives %s (%v) when it is used again", order, o.GetOrderId(), err)
		}
	}
	for _, err := range r.wrong {
		t.Errorf("a good order was refused: %v", err)
	}
}

func TestEveryAcceptedOrderEndsThoughTheServerIsKilledTenTimes(t *testing.T) {
	eachDatabase(t, func(t *testing.T, data string, db []string) {
		kills, perRound := 10, 30
		if proving() {
			kills, perRound = 25, 20
		}
		var args []string
		for _, d := range db {
			args = append(args, "--db", d)
		}
		args = append(args, "--data", data)
		env := settings(t)
		s := serve(t, env, args...)
		p := s.open()
		r := newRush()
		for round := range kills {
			enough := r.until(perRound)
			ctx, stop := context.WithCancel(t.Context())
			wait := r.run(ctx, s, p)
			select {
			case <-enough:
			case <-time.After(patience):
				stop()
				t.Fatalf("round %d: orders are not accepted any more: %v", round, r.wrong)
			}
			s.kill() // in the midst of it
			stop()
			wait()
			s = serve(t, env, args...) // it is killed while it still clears up
		}
		begun := time.Now()
		r.settle(t, s, p)
		s.awaitOver(p, r.all(), patience)
		took := time.Since(begun)
		if code := s.terminate(); code != 0 {
			t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, s.log.tail(20))
		}
		balance(t, db, data)
		t.Logf("PROVE kills=%d orders=%d over_after=%s", kills, len(r.orders), took.Round(time.Millisecond))
	})
}

func TestOrdersEndThoughTheStreamsAreLost(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, data string, db []string) {
		args := []string{"--data", data}
		for _, d := range db {
			args = append(args, "--db", d)
		}
		env := settings(t)
		s := serve(t, env, args...)
		p := s.open()
		r := newRush()
		enough := r.until(40)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		wait := r.run(ctx, s, p)
		<-enough
		s.kill()
		stop()
		wait()
		if err := os.RemoveAll(filepath.Join(data, "nats")); err != nil {
			t.Fatal(err)
		}
		s = serve(t, env, args...)
		r.settle(t, s, p)
		s.awaitOver(p, r.all(), patience)
		if code := s.terminate(); code != 0 {
			t.Errorf("exit code %d, want 0\n%s", code, s.log.tail(20))
		}
		balance(t, db, data)
	})
}

func TestSIGTERMFinishesWhatIsUnderWayAndExitsWithZero(t *testing.T) {
	t.Parallel()
	data, env := t.TempDir(), settings(t)
	s := serve(t, env, "--data", data)
	p := s.open()
	r := newRush()
	enough := r.until(40)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	wait := r.run(ctx, s, p)
	<-enough
	code := s.terminate()
	stop()
	wait()
	if code != 0 {
		t.Errorf("exit code %d, want 0\n%s", code, s.log.tail(20))
	}
	for _, line := range strings.Split(s.log.text(), "\n") {
		if strings.Contains(line, `"level":"ERROR"`) {
			t.Errorf("an orderly stop logs an error: %s", line)
		}
	}
	s = serve(t, env, "--data", data)
	r.settle(t, s, p)
	s.awaitOver(p, r.all(), patience)
	if code := s.terminate(); code != 0 {
		t.Errorf("exit code %d of an idle server, want 0\n%s", code, s.log.tail(20))
	}
	balance(t, nil, data)
}

// eachDatabase runs body on SQLite and on a PostgreSQL that keeps what it commits.
func eachDatabase(t *testing.T, body func(t *testing.T, data string, db []string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		body(t, t.TempDir(), nil)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		body(t, t.TempDir(), []string{newDatabase(t)})
	})
}

// newDatabase makes an empty database on PostgreSQL and gives its URL.
func newDatabase(t *testing.T) string {
	t.Helper()
	server := sqldbtest.StartPostgres(t, true)
	conn, err := pgx.Connect(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	name := "process_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	if _, err := conn.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		conn, err := pgx.Connect(ctx, server)
		if err == nil {
			defer conn.Close(ctx)
			_, err = conn.Exec(ctx, "DROP DATABASE "+name+" WITH (FORCE)")
		}
		if err != nil {
			t.Errorf("drop database: %v", err)
		}
	})
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	return u.String()
}
