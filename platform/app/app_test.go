package app

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// diary keeps what happened, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func (d *diary) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, ", ")
}

// unit writes its life into the diary.
func (d *diary) unit(name string) *Unit {
	return &Unit{
		Name:  name,
		Start: func(context.Context) error { d.add("start " + name); return nil },
		Stop:  func(context.Context) error { d.add("stop " + name); return nil },
	}
}

// runUntilStarted runs until every unit is ready, then ends ctx.
func runUntilStarted(t *testing.T, cfg Config) error {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cfg.Started = cancel
	return Run(ctx, cfg)
}

func TestUnitsStartInOrderAndStopInReverse(t *testing.T) {
	var d diary
	cfg := Config{Units: []*Unit{d.unit("a"), d.unit("b"), d.unit("c")}, ReadyChanged: func(r bool) {
		if r {
			d.add("ready")
		} else {
			d.add("unready")
		}
	}}
	if err := runUntilStarted(t, cfg); err != nil {
		t.Fatal(err)
	}
	want := "start a, start b, start c, ready, unready, stop c, stop b, stop a"
	if got := d.text(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAUnitIsStartedWhenTheOneBeforeIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		slow, asked := d.unit("slow"), 0
		slow.Ready = func(context.Context) error {
			if asked++; asked < 4 {
				return errors.New("warming up")
			}
			d.add("slow is ready")
			return nil
		}
		if err := runUntilStarted(t, Config{Units: []*Unit{slow, d.unit("next")}}); err != nil {
			t.Fatal(err)
		}
		if want := "start slow, slow is ready, start next, stop next, stop slow"; d.text() != want {
			t.Errorf("got %s", d.text())
		}
	})
}

func TestAUnitThatDoesNotStartIsNamedAndWhatStartedIsUndone(t *testing.T) {
	var d diary
	bad := d.unit("bad")
	bad.Start = func(context.Context) error { d.add("start bad"); return errors.New("no database") }
	err := Run(t.Context(), Config{Units: []*Unit{d.unit("a"), bad, d.unit("c")}})
	if err == nil || err.Error() != "start bad: no database" {
		t.Errorf("got %v", err)
	}
	if want := "start a, start bad, stop bad, stop a"; d.text() != want {
		t.Errorf("got %s", d.text())
	}
}

func TestAUnitThatDoesNotBecomeReadySaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &Unit{Name: "db", Ready: func(context.Context) error { return errors.New("connection refused") }}
		err := Run(t.Context(), Config{Units: []*Unit{u}, StartTimeout: time.Second})
		if err == nil || err.Error() != "start db: not ready: connection refused" {
			t.Errorf("got %v", err)
		}
	})
}

func TestAUnitThatFailsStopsAllAndIsNamed(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"with an error": {errors.New("disk full"), "b failed: disk full"},
		"without":       {nil, "b failed: it ended by itself"},
	} {
		var d diary
		failed := make(chan error, 1)
		b := d.unit("b")
		b.Failed = func() <-chan error { return failed }
		ctx, cancel := context.WithCancel(t.Context())
		err := Run(ctx, Config{Units: []*Unit{d.unit("a"), b, d.unit("c")}, Started: func() { failed <- c.err }, DrainDelay: time.Hour})
		cancel()
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v", name, err)
		}
		if !strings.HasSuffix(d.text(), "stop c, stop b, stop a") {
			t.Errorf("%s: %s", name, d.text())
		}
	}
}

func TestAUnitThatFailsWhileItStartsIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan error, 1)
		failed <- errors.New("boom")
		u := &Unit{Name: "u", Ready: func(context.Context) error { return errors.New("not yet") }, Failed: func() <-chan error { return failed }}
		err := Run(t.Context(), Config{Units: []*Unit{u}})
		if err == nil || err.Error() != "start u: boom" {
			t.Errorf("got %v", err)
		}
	})
}

func TestReadinessGoesFalseADelayBeforeAnythingStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var unready, stopped time.Time
		u := &Unit{Name: "u", Stop: func(context.Context) error { stopped = time.Now(); return nil }}
		cfg := Config{Units: []*Unit{u}, DrainDelay: 7 * time.Second, ReadyChanged: func(r bool) {
			if !r {
				unready = time.Now()
			}
		}}
		if err := runUntilStarted(t, cfg); err != nil {
			t.Fatal(err)
		}
		if got := stopped.Sub(unready); got != 7*time.Second {
			t.Errorf("stopped %v after", got)
		}
	})
}

func TestOneDeadlineHoldsForAllAndAUnitThatHangsIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		hung, free := d.unit("hung"), make(chan struct{})
		hung.Stop = func(context.Context) error { <-free; return nil }
		begun := time.Now()
		err := runUntilStarted(t, Config{Units: []*Unit{d.unit("a"), hung}, StopTimeout: 3 * time.Second})
		if err == nil || err.Error() != "stop hung: it did not stop in time" {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begun); took > 4*time.Second {
			t.Errorf("took %v", took)
		}
		if !strings.HasSuffix(d.text(), "stop a") {
			t.Errorf("the others were not stopped: %s", d.text())
		}
		close(free)
	})
}

func TestErrorsOfStoppingNameTheirUnits(t *testing.T) {
	var d diary
	a, b := d.unit("a"), d.unit("b")
	a.Stop = func(context.Context) error { return errors.New("one") }
	b.Stop = func(context.Context) error { return errors.New("two") }
	err := runUntilStarted(t, Config{Units: []*Unit{a, b}})
	if err == nil || err.Error() != "stop b: two\nstop a: one" {
		t.Errorf("got %v", err)
	}
}

func TestStopWorksTwiceAndWithoutStart(t *testing.T) {
	var d diary
	a := New(Config{Units: []*Unit{d.unit("a")}})
	for range 2 {
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if d.text() != "" {
		t.Errorf("without Start: %s", d.text())
	}
	if err := a.Start(t.Context()); err == nil {
		t.Error("it can be started after Stop")
	}

	lis := listen(t)
	a = New(Config{Units: []*Unit{d.unit("a")}, Admin: lis})
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := a.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if want := "start a, stop a"; d.text() != want {
		t.Errorf("got %s", d.text())
	}
	if err := a.Start(t.Context()); err == nil {
		t.Error("it can be started twice")
	}
}

func TestStopCutsAStartShort(t *testing.T) {
	var d diary
	starting := make(chan struct{})
	slow := d.unit("slow")
	slow.Start = func(ctx context.Context) error { close(starting); <-ctx.Done(); return ctx.Err() }
	a := New(Config{Units: []*Unit{slow, d.unit("never")}})
	errCh := make(chan error, 1)
	go func() { errCh <- a.Start(context.Background()) }()
	<-starting
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-errCh; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if want := "stop slow"; d.text() != want {
		t.Errorf("got %s", d.text())
	}
}

// registrar counts what is registered.
type registrar struct{ d *diary }

func (r registrar) RegisterService(s *grpc.ServiceDesc, _ any) { r.d.add("register " + s.ServiceName) }

func TestServicesAreRegisteredBeforeAnythingStarts(t *testing.T) {
	var d diary
	units := []*Unit{d.unit("a"), d.unit("b")}
	units[1].Register = func(r grpc.ServiceRegistrar) { r.RegisterService(&grpc.ServiceDesc{ServiceName: "B"}, nil) }
	if err := runUntilStarted(t, Config{Units: units, Registrar: registrar{&d}}); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(d.text(), "register B, start a") {
		t.Errorf("got %s", d.text())
	}
	if err := Run(t.Context(), Config{Units: units}); err == nil || !strings.Contains(err.Error(), "start b") {
		t.Errorf("without a server: %v", err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	lis, err := Listen("admin", "admin-addr", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

// get asks the admin port and leaves no connection behind.
func get(t *testing.T, lis net.Listener, path string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + lis.Addr().String() + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestTheAdminPortTellsWhatIsNotReadyAndLivesOn(t *testing.T) {
	lis := listen(t)
	var mu sync.Mutex
	var broken error
	setBroken := func(err error) { mu.Lock(); broken = err; mu.Unlock() }
	u := &Unit{Name: "order", Ready: func(context.Context) error { mu.Lock(); defer mu.Unlock(); return broken }}
	var a *App
	late := &Unit{Name: "late", Start: func(context.Context) error {
		if code, body := get(t, lis, "/readyz"); code != 503 || !strings.Contains(body, `"state":"starting"`) {
			t.Errorf("while starting: %d %s", code, body)
		}
		return nil
	}, Stop: func(context.Context) error {
		if code, body := get(t, lis, "/readyz"); code != 503 || !strings.Contains(body, `"state":"stopping"`) {
			t.Errorf("while stopping: %d %s", code, body)
		}
		if code, _ := get(t, lis, "/healthz"); code != 200 {
			t.Errorf("while stopping: healthz %d", code)
		}
		return nil
	}}
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("metric 1")) })
	a = New(Config{Units: []*Unit{u, late}, Admin: lis, Metrics: metrics})
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code, body := get(t, lis, "/readyz"); code != 200 || !strings.Contains(body, `"ready":true`) {
		t.Errorf("%d %s", code, body)
	}
	setBroken(errors.New("database is away"))
	code, body := get(t, lis, "/readyz")
	var got Readiness
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	want := Readiness{State: "running", Parts: []PartState{{Name: "order", Error: "database is away"}, {Name: "late", Ready: true}}}
	if diff := cmp.Diff(want, got); code != 503 || diff != "" {
		t.Errorf("%d %s", code, diff)
	}
	for path, want := range map[string]string{"/healthz": "ok", "/metrics": "metric 1", "/debug/pprof/": "goroutine", "/debug/pprof/cmdline": ""} {
		if code, body := get(t, lis, path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s with a broken unit: %d", path, code)
		}
	}
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAUnitThatDoesNotAnswerIsNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		var hang bool
		u := &Unit{Name: "u", Ready: func(context.Context) error {
			if hang {
				<-free
			}
			return nil
		}}
		a := New(Config{Units: []*Unit{u}})
		if err := a.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		hang = true
		got := a.Readiness(t.Context())
		if got.Ready || got.Parts[0].Error == "" {
			t.Errorf("got %+v", got)
		}
		close(free)
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestAnOccupiedPortIsExplained(t *testing.T) {
	lis := listen(t)
	defer lis.Close()
	for name, c := range map[string]struct {
		addr string
		kind errs.Kind
		want []string
	}{
		"occupied": {lis.Addr().String(), errs.FailedPrecondition, []string{"REST", lis.Addr().String(), "in use", "--rest-addr"}},
		"nonsense": {"nonsense", errs.Invalid, []string{`"nonsense"`, "--rest-addr", "[host]:port"}},
	} {
		_, err := Listen("REST", "rest-addr", c.addr)
		if errs.KindOf(err) != c.kind || err == nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var e *errs.Error
		errors.As(err, &e)
		for _, w := range c.want {
			if !strings.Contains(e.Message, w) {
				t.Errorf("%s: no %q in %q", name, w, e.Message)
			}
		}
	}
}

func TestTheFirstSignalEndsTheContext(t *testing.T) {
	ctx, stop := Signals(t.Context())
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
}

func TestAServerIsAUnit(t *testing.T) {
	lis := listen(t)
	srv := &http.Server{Handler: http.NotFoundHandler()}
	u := ServeUnit("rest", func() error { return srv.Serve(lis) }, srv.Shutdown, func(err error) bool { return errors.Is(err, http.ErrServerClosed) })
	if err := runUntilStarted(t, Config{Units: []*Unit{u}}); err != nil {
		t.Error(err)
	}

	lis = listen(t)
	srv = &http.Server{Handler: http.NotFoundHandler()}
	u = ServeUnit("rest", func() error { return srv.Serve(lis) }, srv.Shutdown, func(err error) bool { return errors.Is(err, http.ErrServerClosed) })
	err := Run(t.Context(), Config{Units: []*Unit{u}, Started: func() { _ = lis.Close() }})
	if err == nil || !strings.HasPrefix(err.Error(), "rest failed:") {
		t.Errorf("a listener that broke: %v", err)
	}
}
