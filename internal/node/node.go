package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waybill-dev/waybill/internal/topology"
	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/discovery"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/mtls"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/telemetry"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
)

// A Node is one process of Waybill, put together and not yet running.
type Node struct {
	cfg   Config
	local []string // services that run here

	tel    *telemetry.Telemetry
	self   *mtls.Identity // nil: plain text
	bus    *bus.Bus
	server *rpc.Server
	units  []*app.Unit
	http   net.Listener
	grpc   net.Listener
	public net.Listener
	admin  net.Listener

	dbs     map[string]*sqldb.DB
	remotes map[string]*grpc.ClientConn
	undo    []func(context.Context) error
	started chan struct{}
}

// New opens what the process stands on (ports, databases, broker) and builds its
// services, migrating their databases. If it fails, everything is closed again.
func New(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, local: cfg.run(), dbs: map[string]*sqldb.DB{}, remotes: map[string]*grpc.ClientConn{}, started: make(chan struct{})}
	err := n.open(ctx)
	if err == nil {
		err = n.build(ctx)
	}
	if err != nil {
		_ = n.Close(context.WithoutCancel(ctx)) // what counts is why it was not built
		return nil, err
	}
	return n, nil
}

// open prepares telemetry, ports and the broker.
func (n *Node) open(ctx context.Context) (err error) {
	instance := instanceName()
	n.tel, err = telemetry.Setup(ctx, telemetry.Config{
		ServiceName: n.name(), Namespace: "waybill", Instance: instance, Version: Version(),
		SampleRatio: n.cfg.Trace.Ratio, OTLPEndpoint: n.cfg.Trace.Endpoint, OTLPInsecure: n.cfg.Trace.Insecure,
		Log: telemetry.LogConfig{Level: n.cfg.Log.Level, Format: n.cfg.Log.Format},
	})
	if err != nil {
		return err
	}
	n.onClose(n.tel.Shutdown)
	if err := n.identify(); err != nil {
		return err
	}
	if n.runs("gateway") {
		if n.http, err = n.listen("REST", "http-addr", n.cfg.HTTPAddr); err != nil {
			return err
		}
	}
	if n.grpc, err = n.listen("gRPC", "grpc-addr", n.cfg.GRPCAddr); err != nil {
		return err
	}
	if n.cfg.PublicGRPCAddr != "" && !n.runs("gateway") {
		return errs.E(errs.Invalid, "INVALID_CONFIG", "public_grpc_addr is of the gateway, which does not run here: take it away or add gateway to services")
	}
	if n.public, err = n.listen("public gRPC", "public-grpc-addr", n.cfg.PublicGRPCAddr); err != nil {
		return err
	}
	if n.admin, err = n.listen("admin", "admin-addr", n.cfg.AdminAddr); err != nil {
		return err
	}
	if n.needsBus() {
		if n.bus, err = bus.Open(ctx, n.cfg.bus(instance), n.tel.Log); err != nil {
			return fmt.Errorf("open the broker: %w", err)
		}
		n.onClose(n.bus.Close)
	}
	return nil
}

// name is what the process is called in traces: its service when it runs just one.
func (n *Node) name() string {
	if len(n.local) == 1 {
		return n.local[0]
	}
	return "waybill"
}

// needsBus tells whether any service here has events.
func (n *Node) needsBus() bool {
	return slices.ContainsFunc(n.local, func(s string) bool { return s != "gateway" })
}

// listen opens a port; "" opens none.
func (n *Node) listen(what, flag, addr string) (net.Listener, error) {
	if addr == "" {
		return nil, nil //nolint:nilnil // no port is wanted
	}
	lis, err := app.Listen(what, flag, addr)
	if err != nil {
		return nil, err
	}
	n.onClose(func(context.Context) error {
		if err := lis.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return lis, nil
}

// build makes the server and the units.
func (n *Node) build(ctx context.Context) error {
	var err error
	if n.server, err = n.newServer(); err != nil {
		return err
	}
	env := &app.Env{
		Log: n.tel.Log, Bus: n.bus, OpenDB: n.openDB, Conn: n.conn, Now: time.Now,
		Meter: n.tel.Meter.Meter("waybill"), Owner: uuid.NewString(), MaxBatch: n.cfg.BatchSize, Audit: n.cfg.Audit,
	}
	ops := newOperations()
	var gateway *app.Unit
	for _, name := range n.local {
		if name == "gateway" {
			if gateway, err = n.gateway(); err != nil {
				return fmt.Errorf("build the gateway: %w", err)
			}
			continue
		}
		own := *env
		own.Tracer = n.tel.Tracer.Tracer("waybill/" + name) // tells the services of one process apart
		own.MaxAttempts = n.cfg.MaxAttempts
		ops.hook(&own, name)
		u, err := n.service(ctx, name, &own)
		if err != nil {
			return fmt.Errorf("build the %s service: %w", name, adviseMigration(err))
		}
		n.units = append(n.units, u)
		if u.Register != nil {
			u.Register(n.server.Registrar(u.Ready))
		}
	}
	n.serveOperations(ops)
	n.publish()
	if err := n.server.Build(); err != nil {
		return err
	}
	if err := n.observe(); err != nil {
		return err
	}
	served := func(err error) bool { return err == nil || errors.Is(err, grpc.ErrServerStopped) }
	if n.grpc != nil {
		n.units = append(n.units, app.ServeUnit("grpc", func() error { return n.server.Serve(n.grpc) }, n.server.Stop, served))
	}
	if n.public != nil {
		n.units = append(n.units, app.ServeUnit("public grpc", func() error { return n.server.ServePublic(n.public) }, n.server.Stop, served))
	}
	if gateway != nil {
		n.units = append(n.units, gateway)
	}
	return nil
}

// Run starts everything, serves until ctx ends or a part fails, and stops
// everything. It may be called once.
func (n *Node) Run(ctx context.Context) error {
	units := make([]*app.Unit, len(n.units))
	for i, u := range n.units {
		own := *u
		own.Register = nil // done in build, each with its readiness
		units[i] = &own
	}
	err := app.Run(ctx, app.Config{
		Units: units, Log: n.tel.Log, Admin: n.admin, Metrics: n.tel.Metrics(),
		DrainDelay: n.cfg.DrainDelay, StopTimeout: n.cfg.StopTimeout,
		Started: func() { close(n.started) },
		ReadyChanged: func(ready bool) {
			if !ready {
				n.server.Drain()
			}
		},
	})
	return errors.Join(err, n.Close(context.WithoutCancel(ctx)))
}

// Started is closed when everything serves.
func (n *Node) Started() <-chan struct{} { return n.started }

// Close gives back what New opened, the last first. It is called by Run, and may
// be called instead of it.
func (n *Node) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.StopTimeout)
	defer cancel()
	var all error
	for i := len(n.undo) - 1; i >= 0; i-- {
		all = errors.Join(all, n.undo[i](ctx))
	}
	n.undo = nil
	return all
}

func (n *Node) onClose(fn func(context.Context) error) { n.undo = append(n.undo, fn) }

// Log gives the process's logger.
func (n *Node) Log() *slog.Logger { return n.tel.Log }

// HTTPURL gives the base URL of the REST interface, or "" if there is none.
func (n *Node) HTTPURL() string {
	if n.http == nil {
		return ""
	}
	return "http://" + dialable(n.http.Addr())
}

// GRPCAddr gives host:port of the gRPC interface.
func (n *Node) GRPCAddr() string { return dialable(n.grpc.Addr()) }

// PublicGRPCAddr gives host:port of the gRPC interface for people, or "" if there
// is none.
func (n *Node) PublicGRPCAddr() string {
	if n.public == nil {
		return ""
	}
	return dialable(n.public.Addr())
}

// AdminURL gives the base URL of the admin port.
func (n *Node) AdminURL() string { return "http://" + dialable(n.admin.Addr()) }

// dialable turns the address of a listener on all interfaces into one to dial.
func dialable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

func (n *Node) runs(service string) bool { return slices.Contains(n.local, service) }

// openDB opens the database of a service.
func (n *Node) openDB(ctx context.Context, service string) (*sqldb.DB, error) {
	db, err := sqldb.Open(ctx, n.cfg.sqldb(service, n.tel.Log))
	if err != nil {
		return nil, err
	}
	n.dbs[service] = db
	// A unit closes its database when it stops, but one that was never started is
	// never stopped. Closing twice is harmless.
	n.onClose(func(context.Context) error { return db.Close() })
	return db, nil
}

// conn gives a channel between two services, in this process or to another.
func (n *Node) conn(from, to string) grpc.ClientConnInterface {
	if !topology.MayCall(from, to) {
		return broken{fmt.Errorf("%s is not declared to call %s: say so in internal/topology", from, to)}
	}
	if n.runs(to) {
		return n.server.ConnAs(from)
	}
	return rpc.As(n.remote(to), from)
}

// remote gives the one channel to a service that runs elsewhere.
func (n *Node) remote(to string) grpc.ClientConnInterface {
	if c, ok := n.remotes[to]; ok {
		return c
	}
	target := n.cfg.upstreams()[to]
	cfg := rpc.DialConfig{ForwardToken: true, Patience: patience, Tracer: n.tel.Tracer}
	if n.self != nil {
		cfg.TLS = n.self.Client(to)
	}
	c, err := rpc.Dial(target, cfg)
	if err != nil {
		return broken{fmt.Errorf("--upstream %s=%s: %w", to, target, err)}
	}
	n.remotes[to] = c
	n.onClose(func(context.Context) error { return c.Close() })
	return c
}

// patience is how long calls wait when no server of another service is ready. It
// is longer than the DNS takes to tell of a new one and shorter than the deadline
// of a request, so that its caller hears what is wrong.
const patience = discovery.Interval + 2*time.Second

// broken is a channel that cannot be made; every call says why.
type broken struct{ err error }

// Invoke implements grpc.ClientConnInterface.
func (b broken) Invoke(context.Context, string, any, any, ...grpc.CallOption) error { return b.err }

// NewStream implements grpc.ClientConnInterface.
func (b broken) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, b.err
}

// keys asks the auth service for the keys that sign tokens and the sessions that
// were revoked.
func (n *Node) keys(ctx context.Context) (auth.KeySet, error) {
	client := authv1.NewAuthServiceClient(n.conn(n.local[0], "auth"))
	ctx = rpc.InOwnName(ctx)
	resp, err := client.JWKS(ctx, &authv1.JWKSRequest{})
	if err != nil {
		return auth.KeySet{}, err
	}
	var set auth.KeySet
	for _, k := range resp.GetKeys() {
		data, err := protojson.Marshal(k)
		if err != nil {
			return auth.KeySet{}, err
		}
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(data); err != nil {
			return auth.KeySet{}, fmt.Errorf("key %s: %w", k.GetKid(), err)
		}
		set.Keys.Keys = append(set.Keys.Keys, key)
	}
	revoked, err := client.ListRevokedSessions(ctx, &authv1.ListRevokedSessionsRequest{})
	if err != nil {
		// Where services do not prove who they are, the list cannot be had; tokens of
		// revoked sessions then stay good until they expire.
		if k := errs.KindOf(rpc.FromStatus(err)); n.self == nil && (k == errs.PermissionDenied || k == errs.Unauthenticated) {
			return set, nil
		}
		return auth.KeySet{}, err
	}
	for _, s := range revoked.GetSessions() {
		set.Revoked = append(set.Revoked, s.GetSessionId())
	}
	return set, nil
}

func instanceName() string {
	if host, err := os.Hostname(); err == nil && host != "" {
		return host
	}
	return uuid.NewString()
}
