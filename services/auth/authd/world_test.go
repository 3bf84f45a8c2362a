package authd_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/platform/telemetry/telemetrytest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	"github.com/waybill-dev/waybill/services/auth/authd"
)

const (
	patience = 20 * time.Second
	right    = "correct horse battery"
)

// world is the whole service behind the chain that guards it, on TCP, with a
// clock of its own. Access tokens are verified with the keys it publishes.
type world struct {
	authv1.AuthServiceClient
	t       testing.TB
	open    func() *sqldb.DB
	db      *sqldb.DB // the one the service uses
	bus     *bus.Bus
	cfg     authd.Config
	log     *telemetrytest.Buffer
	service authv1.AuthServiceClient // as another service sees it
	end     func()                   // ends the service before its time

	mu    sync.Mutex
	now   time.Time
	heard []proto.Message
	came  chan struct{} // closed and made anew when something is heard
}

// config is cheap to hash with.
func config() authd.Config {
	cfg := authd.DefaultConfig()
	cfg.HashMemory, cfg.HashTime, cfg.SweepEvery = 64, 1, 10*time.Millisecond
	return cfg
}

func each(t *testing.T, body func(t *testing.T, w *world)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		w := newWorld(t, func() *sqldb.DB { return open("auth") })
		w.start(config())
		body(t, w)
		for _, secret := range []string{right, "@example.com", "eyJ"} {
			if strings.Contains(w.log.String(), secret) {
				t.Errorf("the log holds %q", secret)
			}
		}
	})
}

func newWorld(t testing.TB, open func() *sqldb.DB) *world {
	t.Helper()
	w := &world{t: t, open: open, log: &telemetrytest.Buffer{}, now: time.Now().UTC().Truncate(time.Second), came: make(chan struct{})}
	b, err := bus.Open(t.Context(), bustest.Config(t), slog.New(slog.DiscardHandler))
	w.must(err)
	t.Cleanup(func() { w.stop(b.Close) })
	w.bus = b
	for _, name := range []string{"auth", "user"} {
		w.must(b.EnsureStream(t.Context(), bus.Stream{Name: outbox.Stream(name), Subjects: []string{"waybill." + name + ".>"}}))
	}
	sub, err := b.Consume(t.Context(), bus.Consumer{Stream: outbox.Stream("auth"), Durable: "test"}, reacttest.Singly(t, w.hear))
	w.must(err)
	t.Cleanup(func() { w.stop(sub.Stop) })
	return w
}

// start builds the service and serves it until end.
func (w *world) start(cfg authd.Config) {
	t := w.t
	t.Helper()
	w.cfg = cfg
	unit, err := authd.New(t.Context(), w.env(), cfg)
	w.must(err)
	var server *rpc.Server
	server, err = rpc.NewServer(rpc.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, rpc.Deps{
		Log: slog.New(slog.DiscardHandler), Now: w.clock,
		Verifier: auth.NewVerifier(auth.KeySourceFunc(func(ctx context.Context) (auth.KeySet, error) {
			return keySet(ctx, authv1.NewAuthServiceClient(server.ConnAs("order")))
		}), auth.VerifierConfig{Now: w.clock}),
	})
	w.must(err)
	unit.Register(server.Registrar(unit.Ready))
	w.must(server.Build())
	w.must(unit.Start(t.Context()))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	conn, err := rpc.Dial("static:///"+lis.Addr().String(), rpc.DialConfig{})
	w.must(err)
	var once sync.Once
	w.end = func() {
		once.Do(func() {
			_ = conn.Close()
			w.stop(server.Stop)
			if err := <-served; err != nil {
				t.Error(err)
			}
			w.stop(unit.Stop)
		})
	}
	t.Cleanup(w.end)
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() { // it knows of the server's health
		if !conn.WaitForStateChange(t.Context(), state) {
			t.Fatal("the server does not become ready")
		}
	}
	w.AuthServiceClient = authv1.NewAuthServiceClient(conn)
	w.service = authv1.NewAuthServiceClient(server.ConnAs("order"))
}

// env is the ground the service is built on.
func (w *world) env() *app.Env {
	return &app.Env{
		Log: slog.New(slog.NewTextHandler(w.log, nil)), Bus: w.bus, Now: w.clock,
		OpenDB: func(context.Context, string) (*sqldb.DB, error) { w.db = w.open(); return w.db, nil },
	}
}

// keySet asks the service for what a verifier needs.
func keySet(ctx context.Context, client authv1.AuthServiceClient) (set auth.KeySet, err error) {
	public, err := client.JWKS(ctx, &authv1.JWKSRequest{})
	if err != nil {
		return set, err
	}
	data, err := protojson.Marshal(public) // its JSON is a JSON Web Key Set
	if err != nil {
		return set, err
	}
	if err := json.Unmarshal(data, &set.Keys); err != nil {
		return set, err
	}
	revoked, err := client.ListRevokedSessions(ctx, &authv1.ListRevokedSessionsRequest{})
	for _, s := range revoked.GetSessions() {
		set.Revoked = append(set.Revoked, s.GetSessionId())
	}
	return set, err
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stop(fn func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := fn(ctx); err != nil {
		w.t.Errorf("stopping: %v", err)
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// pass lets time pass.
func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) hear(d *bus.Delivery) {
	_ = d.Ack()
	e := reacttest.Event(w.t, d)
	if e == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard = append(w.heard, e)
	close(w.came)
	w.came = make(chan struct{})
}

// events gives what was heard so far.
func (w *world) events() []proto.Message {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.heard)
}

// waitFor waits until the condition holds; it is asked again after every event.
func (w *world) waitFor(what string, holds func(heard []proto.Message) bool) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		ok, came := holds(w.heard), w.came
		w.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-came:
		case <-deadline:
			w.t.Fatalf("%s did not happen", what)
		}
	}
}

// eventually waits for something that no event tells of.
func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			w.t.Fatalf("%s did not happen", what)
		}
	}
}

// publish puts an event of another service into its stream, as its relay would.
func (w *world) publish(aggregate string, e proto.Message) {
	w.t.Helper()
	data, err := proto.Marshal(e)
	w.must(err)
	typ := string(e.ProtoReflect().Descriptor().FullName())
	id := newID()
	_, err = w.bus.Publish(w.t.Context(), outbox.Stream(outbox.Producer(typ)), bus.Msg{
		ID: id, Subject: outbox.Subject(typ, aggregate), Data: data,
		Header: map[string]string{outbox.HeaderID: id, outbox.HeaderType: typ, outbox.HeaderSubject: aggregate, outbox.HeaderVersion: "1"},
	})
	w.must(err)
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// from says from which address the calls of a context come.
func (w *world) from(address string) context.Context {
	return metadata.AppendToOutgoingContext(w.t.Context(), rpc.MetadataClientIP, address)
}

// with signs calls with an access token.
func (w *world) with(tokens *authv1.Tokens) context.Context {
	return metadata.AppendToOutgoingContext(w.t.Context(), "authorization", "Bearer "+tokens.GetAccessToken())
}

// signUp opens an account of this name.
func (w *world) signUp(name string) *authv1.SignUpResponse {
	w.t.Helper()
	resp, err := w.SignUp(w.t.Context(), &authv1.SignUpRequest{Email: name + "@example.com", Password: right, DisplayName: "Ms " + name})
	w.must(err)
	return resp
}

func (w *world) logIn(name, password string) (*authv1.LogInResponse, error) {
	return w.LogIn(w.t.Context(), &authv1.LogInRequest{Email: name + "@example.com", Password: password})
}

func (w *world) mustLogIn(name, password string) *authv1.LogInResponse {
	w.t.Helper()
	resp, err := w.logIn(name, password)
	w.must(err)
	return resp
}

func (w *world) refresh(tokens *authv1.Tokens) (*authv1.Tokens, error) {
	resp, err := w.RefreshToken(w.t.Context(), &authv1.RefreshTokenRequest{RefreshToken: tokens.GetRefreshToken()})
	return resp.GetTokens(), err
}

// good reports whether an access token is taken, by verifiers that have seen what
// there is to see.
func (w *world) good(tokens *authv1.Tokens) bool {
	w.t.Helper()
	w.pass(46 * time.Second) // no verifier trusts older keys without asking
	_, err := w.ListSessions(w.with(tokens), &authv1.ListSessionsRequest{})
	if err != nil {
		w.refused("a call", err, codes.Unauthenticated, "")
	}
	return err == nil
}

// refused checks that a call failed so, and gives the error.
func (w *world) refused(what string, err error, code codes.Code, reason string) *errs.Error {
	w.t.Helper()
	var e *errs.Error
	if err == nil || !errors.As(rpc.FromStatus(err), &e) {
		w.t.Errorf("%s: got %v, want %s", what, err, code)
		return &errs.Error{}
	}
	if rpc.Code(e.Kind) != code || reason != "" && e.Reason != reason {
		w.t.Errorf("%s: got %s %s (%s), want %s %s", what, rpc.Code(e.Kind), e.Reason, e.Message, code, reason)
	}
	return e
}

func (w *world) count(query string, args ...any) int64 {
	w.t.Helper()
	var n int64
	w.must(w.db.QueryRow(context.Background(), query, args...).Scan(&n))
	return n
}

func (w *world) text(query string, args ...any) string {
	w.t.Helper()
	var s string
	w.must(w.db.QueryRow(context.Background(), query, args...).Scan(&s))
	return s
}

// errOf gives the kind of a call's error.
func (w *world) errOf(err error) errs.Kind { return errs.KindOf(rpc.FromStatus(err)) }
