package inventoryd_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/inventory/inventoryd"
)

// world is the whole service behind the chain that guards it, on TCP.
type world struct {
	inventoryv1.InventoryServiceClient
	t        testing.TB
	db       *sqldb.DB // the one the service uses
	bus      *bus.Bus
	staff    context.Context
	customer context.Context
	anybody  context.Context
}

func each(t *testing.T, body func(t *testing.T, w *world)) {
	sqldbtest.Each(t, func(t *testing.T, open sqldbtest.Opener) { on(t, open, body) })
}

// on runs body on one database and then checks the books.
func on(t *testing.T, open sqldbtest.Opener, body func(t *testing.T, w *world)) {
	w := newWorld(t, func() *sqldb.DB { return open("inventory") })
	body(t, w)
	bad, err := inventoryd.Check(t.Context(), w.db)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bad {
		t.Error(b)
	}
}

func newWorld(t testing.TB, open func() *sqldb.DB) *world {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	b, err := bus.Open(t.Context(), bustest.Config(t), log)
	must(err)
	t.Cleanup(func() { stop(t, b.Close) })
	w := &world{t: t, bus: b}
	unit, err := inventoryd.New(t.Context(), &app.Env{
		Log: log, Bus: b,
		OpenDB: func(context.Context, string) (*sqldb.DB, error) { w.db = open(); return w.db, nil },
	}, inventoryd.DefaultConfig())
	must(err)

	_, key, err := ed25519.GenerateKey(rand.Reader)
	must(err)
	signer, err := auth.NewSigner(key, time.Hour, nil)
	must(err)
	keys := auth.KeySet{Keys: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{signer.Public()}}}
	server, err := rpc.NewServer(rpc.Config{}, rpc.Deps{
		Log:      log,
		Verifier: auth.NewVerifier(auth.KeySourceFunc(func(context.Context) (auth.KeySet, error) { return keys, nil }), auth.VerifierConfig{}),
	})
	must(err)
	unit.Register(server.Registrar(unit.Ready))
	must(server.Build())
	t.Cleanup(func() { stop(t, unit.Stop) })
	must(unit.Start(t.Context()))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	t.Cleanup(func() {
		stop(t, server.Stop)
		must(<-served)
	})
	conn, err := rpc.Dial("static:///"+lis.Addr().String(), rpc.DialConfig{})
	must(err)
	t.Cleanup(func() { _ = conn.Close() })
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() { // it knows of the server's health
		if !conn.WaitForStateChange(t.Context(), state) {
			t.Fatal("the server does not become ready")
		}
	}
	w.InventoryServiceClient = inventoryv1.NewInventoryServiceClient(conn)

	as := func(c auth.Caller) context.Context {
		token, _, err := signer.Sign(c)
		must(err)
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
	}
	w.anybody = t.Context()
	w.staff = as(auth.Caller{UserID: newID(), Role: auth.Staff, SessionID: newID()})
	w.customer = as(auth.Caller{UserID: newID(), Role: auth.Customer, SessionID: newID()})
	return w
}

func stop(t testing.TB, fn func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := fn(ctx); err != nil {
		t.Errorf("stopping: %v", err)
	}
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func eur(n int64) *typev1.Money { return &typev1.Money{MinorUnits: n, CurrencyCode: "EUR"} }

// create adds a product; change may alter the request.
func (w *world) create(change ...func(*inventoryv1.CreateProductRequest)) *inventoryv1.Product {
	w.t.Helper()
	req := &inventoryv1.CreateProductRequest{
		RequestId: newID(), Sku: "SKU-" + newID(), Name: "Oak board", Description: "Two\nlines", Category: "kitchen", Price: eur(1250), InitialStock: 10,
	}
	for _, c := range change {
		c(req)
	}
	p, err := w.CreateProduct(w.staff, req)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
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
	if err := w.db.QueryRow(context.Background(), query, args...).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}
