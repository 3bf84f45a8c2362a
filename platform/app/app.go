// Package app runs the units of a process: it starts them in order, each when the
// one before is ready, serves an admin port, and stops them in reverse order.
//
// On a signal or when a unit fails, readiness goes false first, so that load
// balancers look elsewhere; then, after an optional delay, everything stops
// under one deadline.
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
)

// Config says how a process is run.
type Config struct {
	Units     []*Unit
	Registrar grpc.ServiceRegistrar // where units register; may be nil when none does
	Log       *slog.Logger          // nil discards

	Admin   net.Listener // the admin port, see Listen; nil serves none. App closes it
	Metrics http.Handler // /metrics of the admin port; may be nil

	StartTimeout time.Duration // for all units together; 0 is one minute
	DrainDelay   time.Duration // between readiness going false and stopping, for load balancers to notice; a failing unit ends it
	StopTimeout  time.Duration // for all units together; 0 is 20 seconds

	// ReadyChanged hears when the process as a whole becomes ready and when it
	// no longer is because it stops, for the gRPC health service.
	ReadyChanged func(ready bool)

	// Started is called when every unit is ready, before Run waits.
	Started func()
}

// App is the running process. Make one with New.
type App struct {
	cfg      Config
	admin    *admin
	ready    atomic.Bool  // every unit was started and stopping has not begun
	starting atomic.Value // string: the unit being started

	stopOnce sync.Once
	stopErr  error         // set before stopped is closed
	stopped  chan struct{} // closed when everything has stopped

	mu        sync.Mutex
	state     state
	started   []*Unit            // in order of starting
	cutStart  context.CancelFunc // ends a Start under way
	startDone chan struct{}      // closed when Start returns
}

type state int

const (
	stateNew state = iota
	stateStarted
	stateStopping
)

// New prepares a process and starts nothing.
func New(cfg Config) *App {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.StartTimeout == 0 {
		cfg.StartTimeout = time.Minute
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = 20 * time.Second
	}
	if cfg.ReadyChanged == nil {
		cfg.ReadyChanged = func(bool) {}
	}
	a := &App{cfg: cfg, stopped: make(chan struct{})}
	a.starting.Store("")
	return a
}

// Run starts everything, waits until ctx ends or a unit fails, and stops
// everything. The error is nil after an orderly end by ctx; else it names the
// unit that would not start, failed, or would not stop.
func Run(ctx context.Context, cfg Config) error {
	a := New(cfg)
	if err := a.Start(ctx); err != nil {
		return errors.Join(err, a.Stop(context.WithoutCancel(ctx)))
	}
	if cfg.Started != nil {
		cfg.Started()
	}
	cause := a.Wait(ctx)
	a.beginStop(cause)
	if cause == nil && cfg.DrainDelay > 0 {
		delay := time.NewTimer(cfg.DrainDelay)
		defer delay.Stop()
		select {
		case <-delay.C:
		case err := <-a.failure(context.WithoutCancel(ctx)):
			cause = err
		}
	}
	return errors.Join(cause, a.Stop(context.WithoutCancel(ctx)))
}

// Start starts the units in order, each when the one before is ready. An error
// names the unit; Stop then undoes what was started. Starting twice is an error.
func (a *App) Start(ctx context.Context) error {
	a.mu.Lock()
	if a.state != stateNew {
		a.mu.Unlock()
		return errors.New("app: started or stopped already")
	}
	a.state = stateStarted
	ctx, a.cutStart = context.WithTimeout(ctx, a.cfg.StartTimeout)
	defer a.cutStart()
	a.startDone = make(chan struct{})
	defer close(a.startDone)
	if a.cfg.Admin != nil {
		a.admin = serveAdmin(a.cfg.Admin, a, a.cfg.Metrics)
	}
	a.mu.Unlock()

	for _, u := range a.cfg.Units {
		if u.Register == nil {
			continue
		}
		if a.cfg.Registrar == nil {
			return fmt.Errorf("start %s: it has gRPC services, but there is no server", u.Name)
		}
		u.Register(a.cfg.Registrar)
	}
	for _, u := range a.cfg.Units {
		if err := a.startUnit(ctx, u); err != nil {
			return fmt.Errorf("start %s: %w", u.Name, err)
		}
	}
	a.starting.Store("")
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state != stateStarted {
		return errors.New("app: stopped while starting")
	}
	a.ready.Store(true)
	a.cfg.ReadyChanged(true)
	return nil
}

// startUnit starts one unit and waits until it is ready.
func (a *App) startUnit(ctx context.Context, u *Unit) error {
	begun := time.Now()
	a.starting.Store(u.Name)
	a.mu.Lock()
	if a.state != stateStarted {
		a.mu.Unlock()
		return errors.New("app: stopped while starting")
	}
	a.started = append(a.started, u)
	a.mu.Unlock()
	if u.Start != nil {
		if err := u.Start(ctx); err != nil {
			return err
		}
	}
	if err := waitReady(ctx, u); err != nil {
		return err
	}
	a.cfg.Log.DebugContext(ctx, "unit started", "unit", u.Name, "took", time.Since(begun))
	return nil
}

// readyPoll is how often a unit that is not ready yet is asked again.
const readyPoll = 5 * time.Millisecond

// waitReady asks the unit until it is ready or ctx ends.
func waitReady(ctx context.Context, u *Unit) error {
	if u.Ready == nil {
		return nil
	}
	var failed <-chan error
	if u.Failed != nil {
		failed = u.Failed()
	}
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := u.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case ferr := <-failed:
			return orEnded(ferr)
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		}
	}
}

// orEnded gives a word to a unit that ended without one.
func orEnded(err error) error {
	if err == nil {
		return errors.New("it ended by itself")
	}
	return err
}

// Wait returns nil when ctx ends, or the error of the unit that failed first, with its name.
func (a *App) Wait(ctx context.Context) error {
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	select {
	case <-ctx.Done():
		return nil
	case err := <-a.failure(watch):
		return err
	}
}

// failure gives a channel that gets the first failure of a unit until ctx ends.
func (a *App) failure(ctx context.Context) <-chan error {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(chan error, len(a.started)+1)
	watch := func(name string, ch <-chan error) {
		select {
		case err := <-ch:
			out <- fmt.Errorf("%s failed: %w", name, orEnded(err))
		case <-ctx.Done():
		case <-a.stopped:
		}
	}
	for _, u := range a.started {
		if u.Failed != nil {
			go watch(u.Name, u.Failed())
		}
	}
	if a.admin != nil {
		go watch("admin server", a.admin.failed)
	}
	return out
}

// beginStop makes the process unready; the first caller is heard.
func (a *App) beginStop(cause error) {
	a.mu.Lock()
	first := a.state != stateStopping
	a.state = stateStopping
	a.mu.Unlock()
	if !first {
		return
	}
	if a.ready.Swap(false) {
		a.cfg.ReadyChanged(false)
	}
	if cause != nil {
		a.cfg.Log.Error("stopping", "cause", cause)
	} else {
		a.cfg.Log.Info("stopping")
	}
}

// Stop makes the process unready and stops what was started, last first, under
// the one deadline of Config.StopTimeout and ctx. A unit that does not stop in
// time is named and left behind. Calling Stop again, from anywhere, waits for
// the first call and gives the same error; without Start it does nothing but
// close the admin port. A Start that is under way is cut short.
func (a *App) Stop(ctx context.Context) error {
	a.beginStop(nil)
	a.stopOnce.Do(func() {
		a.stopErr = a.stopAll(ctx)
		close(a.stopped)
	})
	return a.stopErr
}

func (a *App) stopAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.StopTimeout)
	defer cancel()
	a.mu.Lock()
	cut, done := a.cutStart, a.startDone
	a.mu.Unlock()
	if cut != nil {
		cut()
		select {
		case <-done:
		case <-ctx.Done(): // the unit that hangs is named below
		}
	}
	a.mu.Lock()
	units, ad := a.started, a.admin
	a.mu.Unlock()
	var errList []error
	for _, u := range slices.Backward(units) {
		if u.Stop == nil {
			continue
		}
		begun := time.Now()
		if err := stopUnit(ctx, u); err != nil {
			errList = append(errList, fmt.Errorf("stop %s: %w", u.Name, err))
		}
		a.cfg.Log.Debug("unit stopped", "unit", u.Name, "took", time.Since(begun))
	}
	switch {
	case ad != nil:
		errList = append(errList, ad.stop(ctx))
	case a.cfg.Admin != nil:
		_ = a.cfg.Admin.Close()
	}
	return errors.Join(errList...)
}

// stopUnit gives up on a unit that does not keep to ctx.
func stopUnit(ctx context.Context, u *Unit) error {
	done := make(chan error, 1)
	go func() { done <- u.Stop(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done: // both were ready
		return err
	case <-time.After(lastChance):
		return errors.New("it did not stop in time")
	}
}

// lastChance is left to a unit that returns as soon as its ctx has ended.
const lastChance = 100 * time.Millisecond

// Signals gives a context that ends with the first SIGINT or SIGTERM. After that
// the signals have their usual effect again, so a second one ends the process at once.
func Signals(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
