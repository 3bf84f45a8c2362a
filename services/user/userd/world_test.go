package userd_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

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
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/user/userd"
)

const patience = 20 * time.Second

// begun is when everybody is registered.
var begun = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// world is the whole service behind the chain that guards it, on TCP.
type world struct {
	userv1.UserServiceClient
	t       *testing.T
	db      *sqldb.DB
	bus     *bus.Bus
	signer  *auth.Signer
	service userv1.UserServiceClient // as another service sees it
	end     func()                   // ends the service before its time

	mu    sync.Mutex
	heard []proto.Message
	came  chan struct{} // closed and made anew when something is heard
}

func each(t *testing.T, body func(t *testing.T, w *world)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) {
		body(t, newWorld(t, func() *sqldb.DB { return open("user") }))
	})
}

func newWorld(t *testing.T, open func() *sqldb.DB) *world {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	w := &world{t: t, came: make(chan struct{})}
	b, err := bus.Open(t.Context(), bustest.Config(t), log)
	w.must(err)
	t.Cleanup(func() { w.stop(b.Close) })
	w.bus = b
	for _, name := range []string{"auth", "user"} {
		w.must(b.EnsureStream(t.Context(), bus.Stream{Name: outbox.Stream(name), Subjects: []string{"waybill." + name + ".>"}}))
	}
	sub, err := b.Consume(t.Context(), bus.Consumer{Stream: outbox.Stream("user"), Durable: "test"}, reacttest.Singly(t, w.hear))
	w.must(err)
	t.Cleanup(func() { w.stop(sub.Stop) })
	unit, err := userd.New(t.Context(), &app.Env{
		Log: log, Bus: b,
		OpenDB: func(context.Context, string) (*sqldb.DB, error) { w.db = open(); return w.db, nil },
	}, userd.DefaultConfig())
	w.must(err)

	_, key, err := ed25519.GenerateKey(rand.Reader)
	w.must(err)
	w.signer, err = auth.NewSigner(key, time.Hour, nil)
	w.must(err)
	keys := auth.KeySet{Keys: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{w.signer.Public()}}}
	server, err := rpc.NewServer(rpc.Config{}, rpc.Deps{
		Log:      log,
		Verifier: auth.NewVerifier(auth.KeySourceFunc(func(context.Context) (auth.KeySet, error) { return keys, nil }), auth.VerifierConfig{}),
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
	w.UserServiceClient = userv1.NewUserServiceClient(conn)
	w.service = userv1.NewUserServiceClient(server.ConnAs(rpc.Gateway))
	return w
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

// next waits for the n-th event of the service, counted from 0.
func (w *world) next(n int) proto.Message {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		heard, came := w.heard, w.came
		w.mu.Unlock()
		if len(heard) > n {
			return heard[n]
		}
		select {
		case <-came:
		case <-deadline:
			w.t.Fatalf("there is no event %d", n)
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

// publish puts an event of the auth service into its stream, as its relay would.
func (w *world) publish(version, aggregate string, e proto.Message) {
	w.t.Helper()
	data, err := proto.Marshal(e)
	w.must(err)
	typ := string(e.ProtoReflect().Descriptor().FullName())
	id := newID()
	_, err = w.bus.Publish(w.t.Context(), outbox.Stream("auth"), bus.Msg{
		ID: id, Subject: outbox.Subject(typ, aggregate), Data: data,
		Header: map[string]string{outbox.HeaderID: id, outbox.HeaderType: typ, outbox.HeaderSubject: aggregate, outbox.HeaderVersion: version},
	})
	w.must(err)
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// somebody is a registered person and their signed calls.
type somebody struct {
	id  string
	ctx context.Context
}

// stranger signs calls of a person of whom the service has not heard.
func (w *world) stranger(role auth.Role) somebody {
	w.t.Helper()
	id := newID()
	token, _, err := w.signer.Sign(auth.Caller{UserID: id, Role: role, SessionID: newID()})
	w.must(err)
	return somebody{id, metadata.AppendToOutgoingContext(w.t.Context(), "authorization", "Bearer "+token)}
}

func registered(s somebody, name string, role optionsv1.Role, n int) *authv1.UserRegistered {
	return &authv1.UserRegistered{
		UserId: s.id, Email: name + "@example.com", DisplayName: "Ms " + name, Role: role, RegisteredAt: timestamppb.New(begun.Add(time.Duration(n) * time.Minute)),
	}
}

// register has a person registered, n minutes after the beginning.
func (w *world) register(name string, role optionsv1.Role, n int) somebody {
	w.t.Helper()
	s := w.stranger(map[optionsv1.Role]auth.Role{
		optionsv1.Role_ROLE_CUSTOMER: auth.Customer, optionsv1.Role_ROLE_STAFF: auth.Staff, optionsv1.Role_ROLE_ADMIN: auth.Admin,
	}[role])
	w.publish("1", s.id, registered(s, name, role, n))
	w.eventually("the registration of "+name, func() bool { return w.count(`SELECT count(*) FROM users WHERE id = ?`, s.id) == 1 })
	return s
}

func (w *world) count(query string, args ...any) int64 {
	w.t.Helper()
	var n int64
	w.must(w.db.QueryRow(context.Background(), query, args...).Scan(&n))
	return n
}

func (w *world) get(as somebody, id string) (*userv1.User, error) {
	return w.GetUser(as.ctx, &userv1.GetUserRequest{UserId: id})
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
