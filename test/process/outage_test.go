package process_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
)

func TestAnUnreachablePostgresAtTheStartIsAClearError(t *testing.T) {
	t.Parallel()
	const password = "p4ssw0rd-of-the-database"
	r := run(t, nil, "", "serve", "--data", t.TempDir(), "--http-addr=127.0.0.1:0", "--grpc-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0",
		"--db", "postgres://waybill:"+password+"@127.0.0.1:1/waybill")
	r.refused(t, 1, "the database is not available", "127.0.0.1:1", "connection refused")
	if strings.Contains(r.out+r.errOut, password) {
		t.Error("the password is shown")
	}
}

func TestPostgresMayGoAwayAndComeBack(t *testing.T) {
	t.Parallel()
	line := startLine(t, newDatabase(t))
	s := serve(t, settings(t), "--data", t.TempDir(), "--db", line.url())
	p := s.open()
	conn := s.dial()
	if _, err := s.place(conn, p, 0, uuid.NewString()); err != nil {
		t.Fatal(err)
	}

	line.cut()
	await(t, "readiness gets lost", patience, func() bool {
		status, body := s.readiness()
		return status == 503 && strings.Contains(body, `"name":"order","ready":false`)
	})
	if status, _ := s.get(s.admin + "/healthz"); status != 200 {
		t.Errorf("liveness %d without a database, want 200: a restart would not help", status)
	}
	key := uuid.NewString()
	_, err := s.place(conn, p, 0, key)
	if k := errs.KindOf(err); k != errs.Unavailable {
		t.Errorf("without a database an order is answered with %v: %v, want %v", k, err, errs.Unavailable)
	}

	line.mend()
	await(t, "readiness comes back", patience, func() bool {
		status, _ := s.readiness()
		return status == 200
	})
	var accepted string
	await(t, "the order is accepted", patience, func() bool {
		o, err := s.place(conn, p, 0, key)
		accepted = o.GetOrderId()
		return err == nil
	})
	s.awaitOver(p, []string{accepted}, patience)
	if code := s.terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestABrokerMayComeLateAndGoAwayAndComeBack(t *testing.T) {
	t.Parallel()
	broker := bustest.StartServer(t)
	address := broker.URL()
	broker.Kill()

	data := t.TempDir()
	s := serve(t, settings(t), "--data", data, "--nats", address)
	if status, body := s.readiness(); status != 200 {
		t.Errorf("without a broker /readyz says %d %s, want 200: orders are accepted all the same", status, body)
	}
	p := s.open()
	conn := s.dial()
	place := func(n int) (orders []string) {
		t.Helper()
		for i := range n {
			o, err := s.place(conn, p, i, uuid.NewString())
			if err != nil {
				t.Fatalf("without a broker an order is refused: %v", err)
			}
			orders = append(orders, o.GetOrderId())
		}
		return orders
	}
	orders := place(6)
	_, metrics := s.get(s.admin + "/metrics")
	for _, want := range []string{"\nwaybill_bus_connected 0\n", "\nwaybill_outbox_pending{service=\"order\"} 6\n", "\nwaybill_dead_letters{service=\"order\"} 0\n"} {
		if !strings.Contains(metrics, want) {
			t.Errorf("without a broker the metrics do not say %q", want)
		}
	}
	broker.Start()
	s.awaitOver(p, orders, patience)

	broker.Kill()
	orders = place(6)
	broker.Start()
	orders = append(orders, place(6)...)
	s.awaitOver(p, orders, patience)
	if code := s.terminate(); code != 0 {
		t.Errorf("exit code %d, want 0\n%s", code, s.log.tail(20))
	}
	balance(t, nil, data)
}

func TestAServerWithoutItsBrokerStopsInTime(t *testing.T) {
	t.Parallel()
	s := serve(t, settings(t), "--data", t.TempDir(), "--nats", "nats://127.0.0.1:1", "--stop-timeout=5s")
	p := s.open()
	if _, err := s.place(s.dial(), p, 0, uuid.NewString()); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	code := s.terminate()
	if code != 0 {
		t.Errorf("exit code %d after %s, want 0\n%s", code, time.Since(begun), s.log.tail(20))
	}
}

// A line leads to the PostgreSQL server over TCP and can be cut.
type line struct {
	t      *testing.T
	addr   string
	name   string // of the database
	socket string

	mu    sync.Mutex
	lis   net.Listener
	conns map[net.Conn]bool
	busy  sync.WaitGroup

	// strike, when set, sees everything that is said; what it gives true for is not
	// passed on, and the connection is cut.
	strike atomic.Pointer[func(answer bool, data []byte) bool]
}

// startLine makes a line to the database of a URL, in this process.
func startLine(t *testing.T, database string) *line {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	l := &line{t: t, name: strings.TrimPrefix(u.Path, "/"), addr: "127.0.0.1:0", conns: map[net.Conn]bool{}}
	if host := u.Query().Get("host"); strings.HasPrefix(host, "/") {
		l.socket = filepath.Join(host, ".s.PGSQL.5432")
	} else {
		t.Skip("the server of WAYBILL_TEST_POSTGRES is not on a socket of this machine")
	}
	l.mend()
	t.Cleanup(func() {
		l.cut()
		l.busy.Wait()
	})
	return l
}

func (l *line) url() string { return fmt.Sprintf("postgres://postgres:secret@%s/%s", l.addr, l.name) }

// cut breaks all connections and refuses new ones.
func (l *line) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.lis.Close()
	for c := range l.conns {
		_ = c.Close()
	}
	l.conns = map[net.Conn]bool{}
}

// mend takes connections again, at the same address.
func (l *line) mend() {
	l.t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", l.addr)
	if err != nil {
		l.t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lis, l.addr = lis, lis.Addr().String()
	l.busy.Go(func() {
		for {
			near, err := lis.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", l.socket)
			if err != nil {
				_ = near.Close()
				continue
			}
			l.join(near, far)
		}
	})
}

// watched is one direction of a line.
type watched struct {
	io.Reader
	line   *line
	answer bool
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if strike := w.line.strike.Load(); n > 0 && strike != nil && (*strike)(w.answer, p[:n]) {
		return 0, io.ErrUnexpectedEOF
	}
	return n, err
}

func (l *line) join(near, far net.Conn) {
	l.mu.Lock()
	l.conns[near], l.conns[far] = true, true
	l.mu.Unlock()
	for i, way := range [][2]net.Conn{{near, far}, {far, near}} {
		l.busy.Go(func() {
			_, _ = io.Copy(way[0], &watched{way[1], l, i == 0})
			_ = way[0].Close()
			_ = way[1].Close()
			l.mu.Lock()
			delete(l.conns, way[0])
			l.mu.Unlock()
		})
	}
}
