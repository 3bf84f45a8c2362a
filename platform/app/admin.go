package app

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/pprof"
	"sync"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
)

// readyTimeout is how long /readyz waits for all units together.
const readyTimeout = 2 * time.Second

// admin is the server of the admin port. It is meant for operators and probes
// and must not be reachable from outside.
type admin struct {
	srv    *http.Server
	failed chan error
	served chan struct{}
}

// serveAdmin serves on lis from now on.
func serveAdmin(lis net.Listener, a *App, metrics http.Handler) *admin {
	mux := http.NewServeMux()
	// Liveness says only that the process answers: were it tied to a database,
	// its outage would restart every pod.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", a.serveReady)
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	ad := &admin{
		srv:    &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10},
		failed: make(chan error, 1),
		served: make(chan struct{}),
	}
	go func() {
		defer close(ad.served)
		if err := ad.srv.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			ad.failed <- err
		}
	}()
	return ad
}

// stop ends the server; a request that does not end in time is cut.
func (ad *admin) stop(ctx context.Context) error {
	// Scrapes are short; a profile that runs for half a minute must not delay the end.
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := ad.srv.Shutdown(short); err != nil {
		_ = ad.srv.Close()
	}
	<-ad.served
	return nil
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready bool        `json:"ready"`
	State string      `json:"state"` // "starting", "running" or "stopping"
	Parts []PartState `json:"parts"`
}

// PartState is what one unit says of itself.
type PartState struct {
	Name  string `json:"name"`
	Ready bool   `json:"ready"`
	Error string `json:"error,omitempty"`
}

// Readiness asks every unit that was started, all at once, and gives up on those
// that do not answer in time. The process is ready when it has started, is not
// stopping, and no unit objects.
func (a *App) Readiness(ctx context.Context) Readiness {
	a.mu.Lock()
	st, units := a.state, a.started
	a.mu.Unlock()
	out := Readiness{Ready: a.ready.Load(), State: "running", Parts: make([]PartState, len(units))}
	switch {
	case st == stateStopping:
		out.State = "stopping"
	case !out.Ready:
		out.State = "starting"
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for i, u := range units {
		out.Parts[i] = PartState{Name: u.Name, Ready: true}
		if u.Ready == nil {
			continue
		}
		wg.Go(func() {
			if err := askReady(ctx, u); err != nil {
				out.Parts[i].Ready, out.Parts[i].Error = false, err.Error()
			}
		})
	}
	wg.Wait()
	for _, p := range out.Parts {
		out.Ready = out.Ready && p.Ready
	}
	return out
}

// askReady does not wait for a unit that ignores ctx.
func askReady(ctx context.Context, u *Unit) error {
	done := make(chan error, 1)
	go func() { done <- u.Ready(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errs.Wrap(ctx.Err(), errs.DeadlineExceeded, "NO_ANSWER", "no answer in time")
	}
}

// serveReady answers 200 or 503 with a Readiness.
func (a *App) serveReady(w http.ResponseWriter, r *http.Request) {
	state := a.Readiness(r.Context())
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !state.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(state)
}
