package rpc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"buf.build/go/protovalidate"
	"github.com/fullstorydev/grpchan/inprocgrpc"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waybill-dev/waybill/platform/errs"
)

// A Server serves the contract over TCP and within the process.
//
// Register the services, then Build, then Serve; Conn and ConnAs may be taken
// at any time and work from Build to Stop.
type Server struct {
	cfg  Config
	deps Deps

	gate           gate
	leave          func()
	perUser, perIP *limiter
	perUserStreams *counter
	duration       metric.Float64Histogram
	spans          *spans
	health         *health.Server
	rules          protovalidate.Validator

	attending sync.Mutex // held for the first look, too
	listeners int
	unattend  func()

	mu       sync.Mutex
	services []service
	public   *Public // nil: there is no public side
	failed   error   // of registrations
	stopped  bool
	built    atomic.Pointer[built]
}

// service is one registration.
type service struct {
	desc  *grpc.ServiceDesc
	impl  any
	ready func(context.Context) error
}

// built is what exists once all services are known.
type built struct {
	tcp    *grpc.Server
	public *grpc.Server // nil if there is no such side
	local  *inprocgrpc.Channel
}

// finish lets both transports take no more calls and waits for those under way.
func (b *built) finish() {
	var both sync.WaitGroup
	both.Go(b.tcp.GracefulStop)
	if b.public != nil {
		both.Go(b.public.GracefulStop)
	}
	both.Wait()
}

// cut ends all connections.
func (b *built) cut() {
	b.tcp.Stop()
	if b.public != nil {
		b.public.Stop()
	}
}

// NewServer makes a server without services. It fails if cfg cannot be meant or
// a dependency is missing.
func NewServer(cfg Config, deps Deps) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if deps.Log == nil || deps.Verifier == nil {
		return nil, errors.New("rpc: a server needs a log and a verifier")
	}
	if deps.Now == nil {
		deps.Now = time.Now
	}
	s := &Server{cfg: cfg, deps: deps, health: health.NewServer(), spans: newSpans(deps.Tracer, false)}
	s.leave = s.gate.leave
	s.perUser, s.perIP = newLimiter(cfg.PerUser, deps.Now), newLimiter(cfg.PerIP, deps.Now)
	s.perUserStreams = newCounter(cfg.StreamsPerUser)
	if s.duration, err = newDuration(deps.Meter); err != nil {
		return nil, err
	}
	return s, nil
}

// RegisterService registers a service that is ready as soon as the server is.
// What is wrong with it, Build tells.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) { s.register(desc, impl, nil) }

// Registrar gives a registrar whose services are SERVING, in the eyes of health
// checks, while ready returns nil. A nil ready always does.
func (s *Server) Registrar(ready func(context.Context) error) grpc.ServiceRegistrar {
	return &registrar{s, ready}
}

type registrar struct {
	s     *Server
	ready func(context.Context) error
}

func (r *registrar) RegisterService(desc *grpc.ServiceDesc, impl any) {
	r.s.register(desc, impl, r.ready)
}

func (s *Server) register(desc *grpc.ServiceDesc, impl any, ready func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.built.Load() != nil {
		s.failed = errors.Join(s.failed, fmt.Errorf("rpc: %s was registered after Build", desc.ServiceName))
		return
	}
	s.services = append(s.services, service{desc, impl, ready})
	s.health.SetServingStatus(desc.ServiceName, grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
}

// Build readies everything calls need, so that the first call is as fast as the
// others. It fails if a service is not in the contract, if a method does not say
// who may call it or what repeating it does, or if a field rule does not compile.
func (s *Server) Build() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.built.Load() != nil || s.failed != nil {
		return s.failed
	}
	if s.stopped {
		return grpc.ErrServerStopped
	}
	all := append(slices.Clone(s.services), service{desc: &grpc_health_v1.Health_ServiceDesc, impl: s.health})
	inputs := map[protoreflect.FullName]protoreflect.MessageDescriptor{}
	names := map[string]bool{}
	for i, svc := range all {
		ms, err := methods(svc.desc)
		if names[svc.desc.ServiceName] {
			err = errors.Join(err, fmt.Errorf("rpc: %s is registered twice", svc.desc.ServiceName))
		}
		names[svc.desc.ServiceName] = true
		if s.failed = errors.Join(s.failed, err); err == nil {
			all[i].desc = s.guard(svc.desc, ms, inputs)
		}
	}
	if s.failed != nil {
		return s.failed
	}
	var err error
	s.rules, err = protovalidate.New(protovalidate.WithDisableLazy(), protovalidate.WithMessageDescriptors(slices.Collect(maps.Values(inputs))...))
	if err == nil {
		err = s.tryRules(inputs)
	}
	if err != nil {
		s.failed = fmt.Errorf("rpc: field rules: %w", err)
		return s.failed
	}
	b, err := s.assemble(all)
	if err != nil {
		s.failed = err
		return err
	}
	s.built.Store(b)
	return nil
}

// assemble registers what is known to be good with both transports.
func (s *Server) assemble(all []service) (*built, error) {
	creds := insecure.NewCredentials()
	if s.cfg.TLS != nil {
		creds = &proving{credentials.NewTLS(s.cfg.TLS), s}
	}
	b := &built{tcp: grpc.NewServer(s.options(s.cfg.MaxStreams, creds)...), local: new(inprocgrpc.Channel).WithCloner(cloner{})}
	for _, svc := range all {
		b.tcp.RegisterService(svc.desc, svc.impl)
		b.local.RegisterService(svc.desc, svc.impl)
	}
	if s.cfg.Reflection {
		reflection.Register(&reflector{b.tcp, s})
	}
	if s.public == nil {
		return b, nil
	}
	var err error
	if b.public, err = s.assemblePublic(all); err != nil {
		b.tcp.Stop()
		return nil, err
	}
	return b, nil
}

// guard gives a copy of desc in which every handler has the chain around it.
func (s *Server) guard(desc *grpc.ServiceDesc, ms map[string]*method, inputs map[protoreflect.FullName]protoreflect.MessageDescriptor) *grpc.ServiceDesc {
	guarded := *desc
	guarded.Methods, guarded.Streams = slices.Clone(desc.Methods), slices.Clone(desc.Streams)
	for i, d := range guarded.Methods {
		guarded.Methods[i].Handler = s.unary(ms[d.MethodName], d.Handler)
	}
	for i, d := range guarded.Streams {
		guarded.Streams[i].Handler = s.stream(ms[d.StreamName], d.Handler)
	}
	for _, m := range ms {
		m.attributes()
		if !m.foreign && !m.forward {
			inputs[m.input.FullName()] = m.input
		}
	}
	return &guarded
}

func (s *Server) options(maxStreams uint32, creds credentials.TransportCredentials) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(s.cfg.MaxMessage),
		grpc.MaxHeaderListSize(s.cfg.MaxHeaders),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(s.cfg.ConnectTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: s.cfg.MaxConnIdle,
			MaxConnectionAge:  s.cfg.MaxConnAge, // gRPC spreads it by a tenth either way
			// Streams end by themselves before the connection is cut under them.
			MaxConnectionAgeGrace: s.cfg.StreamMaxAge + time.Minute,
			Time:                  time.Minute,
			Timeout:               20 * time.Second,
		}),
		grpc.NumStreamWorkers(64), // their stacks stay grown; more calls than that get goroutines of their own
	}
}

// minPing is how often a client may ask whether the server is alive. Clients of
// this package ask every keepaliveTime, which is more.
const (
	minPing       = 20 * time.Second
	keepaliveTime = 30 * time.Second
)

// Serve answers on lis until Stop and looks after the health of the services
// meanwhile. It builds the server if that was not done. It closes lis at its end
// and returns nil after Stop, also when Stop came first.
func (s *Server) Serve(lis net.Listener) error {
	if err := s.Build(); err != nil {
		if lis != nil {
			_ = lis.Close()
		}
		return unlessStopped(err)
	}
	defer s.attend()()
	return unlessStopped(s.built.Load().tcp.Serve(lis))
}

func unlessStopped(err error) error {
	if errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// Drain sends clients elsewhere: health checks say NOT_SERVING from now on. Whoever
// calls all the same is served, until Stop.
func (s *Server) Drain() { s.health.Shutdown() }

// Stop ends the server in the order that costs no client a call: health checks say
// NOT_SERVING, connections are told to take no new calls, streams that can be
// resumed end with UNAVAILABLE, and calls under way are finished. Other streams may
// finish too and are ended when most of the time that ctx has is over; when ctx
// ends before the rest has, it is cut off, and Stop returns ctx's error. It may be
// called at any time, also twice.
func (s *Server) Stop(ctx context.Context) error {
	s.Drain()
	s.mu.Lock()
	s.stopped = true
	b := s.built.Load()
	s.mu.Unlock()
	if b == nil {
		s.gate.drain(stopping(), true)
		return s.gate.close(ctx)
	}
	ended := make(chan error, 1)
	go func() {
		b.finish()
		ended <- s.gate.close(ctx)
	}()
	s.gate.drain(stopping(), false)
	var last <-chan time.Time
	if end, ok := ctx.Deadline(); ok {
		t := time.NewTimer(time.Until(end) * 3 / 4)
		defer t.Stop()
		last = t.C
	}
	select {
	case err := <-ended:
		return err
	case <-last:
	case <-ctx.Done():
	}
	s.gate.drain(stopping(), true)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		b.cut()
		return <-ended
	}
}

func unbuilt() error {
	return errs.E(errs.Unavailable, "SERVER_STARTING", "this server is starting; try again")
}
