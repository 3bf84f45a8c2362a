package bustest

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/bus"
)

// A Broker is what a test runs on.
type Broker struct {
	// Server is the broker's process; nil if it is embedded.
	Server *Server

	tb   testing.TB
	dir  string
	only *bus.Bus // the embedded broker has one Bus
}

// Seldom is how often the brokers of tests force their streams to disk. The
// server arms the timer for it before it has stored it, so that on a busy machine
// a short one fires in between, which the race detector reports; and tests kill
// processes, which loses nothing that was written.
const Seldom = 10 * time.Second

// Config gives the configuration of an embedded broker with an empty directory,
// for tests that open the Bus themselves.
func Config(tb testing.TB) bus.Config {
	return bus.Config{Dir: tb.TempDir(), SyncInterval: Seldom}
}

// Each runs body once on an embedded broker and once on one in a process of its
// own. open gives a Bus that is closed at the end of the test; on the embedded
// broker every call gives the same one.
func Each(t *testing.T, body func(t *testing.T, open func() *bus.Bus)) {
	t.Helper()
	EachBroker(t, func(t *testing.T, k *Broker) { body(t, func() *bus.Bus { return k.Open() }) })
}

// EachBroker is Each for tests that do more with the broker than connect to it.
func EachBroker(t *testing.T, body func(t *testing.T, k *Broker)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) { body(t, Embedded(t)) })
	t.Run("external", func(t *testing.T) { body(t, External(t)) })
}

// Embedded gives a broker in this process, with an empty directory.
func Embedded(tb testing.TB) *Broker { return &Broker{tb: tb, dir: tb.TempDir()} }

// External gives a broker in a process of its own, with an empty directory.
func External(tb testing.TB) *Broker {
	tb.Helper()
	return &Broker{tb: tb, Server: StartServer(tb)}
}

// Open gives a Bus on the broker that is closed at the end of the test. On the
// embedded broker that is the same one until it is closed by Restart.
func (k *Broker) Open(change ...func(*bus.Config)) *bus.Bus {
	k.tb.Helper()
	if k.only != nil {
		return k.only
	}
	cfg := bus.Config{Dir: k.dir, SyncInterval: Seldom, Name: k.tb.Name(), ReconnectWait: 10 * time.Millisecond}
	if k.Server != nil {
		cfg.URL = k.Server.URL()
	}
	for _, fn := range change {
		fn(&cfg)
	}
	b, err := bus.Open(k.tb.Context(), cfg, testLog(k.tb))
	if err != nil {
		k.tb.Fatalf("open the bus: %v", err)
	}
	if k.Server == nil {
		k.only = b
	}
	k.tb.Cleanup(func() { k.close(b) })
	return b
}

// Restart stops the broker and starts it again with what it had stored, and
// gives a Bus on it. An external broker is killed, and b lives on; the embedded
// one is closed together with its Bus.
func (k *Broker) Restart(b *bus.Bus) *bus.Bus {
	k.tb.Helper()
	if k.Server != nil {
		k.Server.Kill()
		k.Server.Start()
		return b
	}
	k.close(b)
	k.only = nil
	return k.Open()
}

func (k *Broker) close(b *bus.Bus) {
	// The test's own context has ended when cleanups run.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		k.tb.Errorf("close the bus: %v", err)
	}
}

// testLog writes to the test's output, where it shows if the test fails.
func testLog(tb testing.TB) *slog.Logger {
	w := &testWriter{out: tb.Output()}
	tb.Cleanup(w.stop)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// testWriter drops what comes after the end of the test, which must not write any more.
type testWriter struct {
	mu  sync.Mutex
	out io.Writer
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.out == nil {
		return len(p), nil
	}
	return w.out.Write(p)
}

func (w *testWriter) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = nil
}
