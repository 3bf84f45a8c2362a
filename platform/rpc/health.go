package rpc

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// attend looks after the health of the services until the last of those who
// called it calls what it gives.
func (s *Server) attend() (leave func()) {
	s.attending.Lock()
	defer s.attending.Unlock()
	if s.listeners++; s.listeners == 1 {
		ctx, cancel := context.WithCancel(context.Background())
		watched := make(chan struct{})
		// The first look comes before the first connection: a client that asks for the
		// health of a server that is up must not hear that it is not.
		last := map[string]bool{}
		s.checkReadiness(ctx, last)
		go func() { defer close(watched); s.watchReadiness(ctx, last) }()
		s.unattend = func() { cancel(); <-watched }
	}
	return func() {
		s.attending.Lock()
		defer s.attending.Unlock()
		if s.listeners--; s.listeners == 0 {
			s.unattend()
		}
	}
}

// watchReadiness keeps the health service true until ctx ends; last is what a
// first look has found.
func (s *Server) watchReadiness(ctx context.Context, last map[string]bool) {
	tick := time.NewTicker(s.cfg.ReadyInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.checkReadiness(ctx, last)
		case <-ctx.Done():
			return
		}
	}
}

// checkReadiness asks every service once. The empty name, which stands for the
// whole server, is SERVING when all are.
func (s *Server) checkReadiness(ctx context.Context, last map[string]bool) {
	s.mu.Lock()
	services := s.services
	s.mu.Unlock()
	whole := true
	for _, svc := range services {
		var err error
		if svc.ready != nil {
			within, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
			err = svc.ready(within)
			cancel()
		}
		if ctx.Err() != nil {
			return
		}
		name, was := svc.desc.ServiceName, last[svc.desc.ServiceName]
		if err != nil && was {
			s.deps.Log.WarnContext(ctx, "service is no longer ready", slog.String("service", name), slog.Any("error", err))
		}
		if err == nil && !was {
			s.deps.Log.InfoContext(ctx, "service is ready", slog.String("service", name))
		}
		last[name] = err == nil
		whole = whole && err == nil
		s.health.SetServingStatus(name, serving(err == nil))
	}
	s.health.SetServingStatus("", serving(whole))
}

func serving(ready bool) grpc_health_v1.HealthCheckResponse_ServingStatus {
	if ready {
		return grpc_health_v1.HealthCheckResponse_SERVING
	}
	return grpc_health_v1.HealthCheckResponse_NOT_SERVING
}

// reflector registers the reflection services, within the chain like all others.
type reflector struct {
	*grpc.Server
	s *Server
}

// RegisterService implements grpc.ServiceRegistrar.
func (r *reflector) RegisterService(desc *grpc.ServiceDesc, impl any) {
	ms, err := methods(desc)
	if err != nil { // without its contract nothing is registered
		r.s.deps.Log.Error("reflection is not available", slog.Any("error", err))
		return
	}
	r.Server.RegisterService(r.s.guard(desc, ms, nil), impl)
}
