package rpc

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
	"github.com/waybill-dev/waybill/platform/telemetry/telemetrytest"
)

var (
	alice = auth.Caller{UserID: "u-alice", Role: auth.Customer, SessionID: "s-a"}
	bob   = auth.Caller{UserID: "u-bob", Role: auth.Customer, SessionID: "s-b"}
	sam   = auth.Caller{UserID: "u-sam", Role: auth.Staff, SessionID: "s-s"}
	ada   = auth.Caller{UserID: "u-ada", Role: auth.Admin, SessionID: "s-d"}
)

// echo answers with what it got, or does what a test wants.
type echo struct {
	echov1.UnimplementedEchoServiceServer
	unary func(context.Context, *echov1.Message) (*echov1.Message, error)
	watch func(*echov1.Message, grpc.ServerStreamingServer[echov1.Message]) error
	talk  func(grpc.BidiStreamingServer[echov1.Message, echov1.Message]) error

	upload func(grpc.ClientStreamingServer[echov1.Message, echov1.Line]) error
}

func (e *echo) do(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
	if e.unary != nil {
		return e.unary(ctx, m)
	}
	return m, nil
}

func (e *echo) Anybody(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
	return e.do(ctx, m)
}
func (e *echo) Customers(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
	return e.do(ctx, m)
}
func (e *echo) Write(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
	return e.do(ctx, m)
}
func (e *echo) Staff(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
	return e.do(ctx, m)
}
func (e *echo) OrderOnly(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
	return e.do(ctx, m)
}
func (e *echo) AnyService(ctx context.Context, m *echov1.Message) (*echov1.Message, error) {
	return e.do(ctx, m)
}
func (e *echo) Watch(m *echov1.Message, out grpc.ServerStreamingServer[echov1.Message]) error {
	if e.watch != nil {
		return e.watch(m, out)
	}
	return out.Send(m)
}
func (e *echo) Upload(s grpc.ClientStreamingServer[echov1.Message, echov1.Line]) error {
	if e.upload != nil {
		return e.upload(s)
	}
	for n := uint32(0); ; n++ {
		if _, err := s.Recv(); errors.Is(err, io.EOF) {
			return s.SendAndClose(&echov1.Line{Sku: "uploaded", Quantity: n})
		} else if err != nil {
			return err
		}
	}
}
func (e *echo) Talk(s grpc.BidiStreamingServer[echov1.Message, echov1.Message]) error {
	if e.talk != nil {
		return e.talk(s)
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.Send(m); err != nil {
			return err
		}
	}
}

// world is a server with an echo service, on TCP and within the process.
type world struct {
	*Server
	echo   *echo
	logs   *telemetrytest.Buffer
	signer *auth.Signer
	addr   string
	tcp    *grpc.ClientConn
}

type option func(*Config, *Deps)

func newWorld(t testing.TB, opts ...option) *world {
	t.Helper()
	w := &world{echo: &echo{}, logs: &telemetrytest.Buffer{}}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if w.signer, err = auth.NewSigner(key, 10*time.Minute, nil); err != nil {
		t.Fatal(err)
	}
	keys := auth.KeySet{Keys: jose.JSONWebKeySet{Keys: []jose.JSONWebKey{w.signer.Public()}}, Revoked: []string{"s-revoked"}}
	cfg := Config{}
	deps := Deps{
		Log:      slog.New(slog.NewJSONHandler(w.logs, nil)),
		Verifier: auth.NewVerifier(auth.KeySourceFunc(func(context.Context) (auth.KeySet, error) { return keys, nil }), auth.VerifierConfig{}),
	}
	for _, o := range opts {
		o(&cfg, &deps)
	}
	if w.Server, err = NewServer(cfg, deps); err != nil {
		t.Fatal(err)
	}
	echov1.RegisterEchoServiceServer(w, w.echo)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = lis.Addr().String()
	if err := w.Build(); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- w.Serve(lis) }()
	w.tcp = w.dial(t, DialConfig{})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return w
}

func (w *world) dial(t testing.TB, cfg DialConfig) *grpc.ClientConn {
	t.Helper()
	conn, err := Dial("static:///"+w.addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// plain is a client that adds nothing to a call.
func (w *world) plain(t testing.TB) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (w *world) token(t testing.TB, c auth.Caller) string {
	t.Helper()
	token, _, err := w.signer.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// as gives a context whose calls bring c's token.
func (w *world) as(t testing.TB, c auth.Caller) context.Context {
	t.Helper()
	return withToken(t.Context(), w.token(t, c))
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, authorization, "Bearer "+token)
}

// everywhere runs a test over TCP and within the process.
func (w *world) everywhere(t *testing.T, test func(t *testing.T, conn grpc.ClientConnInterface)) {
	t.Run("tcp", func(t *testing.T) { test(t, w.tcp) })
	t.Run("in process", func(t *testing.T) { test(t, w.Conn()) })
}

func client(conn grpc.ClientConnInterface) echov1.EchoServiceClient {
	return echov1.NewEchoServiceClient(conn)
}

func wantError(t *testing.T, err error, kind errs.Kind, reason string) {
	t.Helper()
	got := FromStatus(err)
	if err == nil || errs.KindOf(got) != kind || errs.ReasonOf(got) != reason {
		t.Fatalf("got %v (%s, %s), want %s, %s", err, errs.KindOf(got), errs.ReasonOf(got), kind, reason)
	}
}

func wantNoError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
