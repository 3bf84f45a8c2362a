package rpc

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/mtls"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

// realm is an authority and the accounts it knows.
type realm struct {
	authority *mtls.Authority
	peers     mtls.Peers
}

// newRealm has the accounts of a split of four, and one that serves the echo.
func newRealm(t testing.TB) *realm {
	t.Helper()
	a, err := mtls.NewAuthority("test", time.Hour, time.Now())
	wantNoErrorTB(t, err)
	return &realm{a, mtls.Peers{
		"echo": {"echo"}, "order": {"order"}, "payment": {"payment"}, "edge": {"gateway", "auth"}, "back": {"payment", "order"},
	}}
}

func wantNoErrorTB(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// issue writes a fresh certificate of account to dir.
func (r *realm) issue(account, dir string) error {
	p, err := r.authority.Issue(mtls.ID{TrustDomain: "example.org", Namespace: "shop", Account: account}, time.Hour, time.Now())
	if err != nil {
		return err
	}
	return p.Write(dir, r.authority)
}

// identity opens a fresh one of account.
func (r *realm) identity(t testing.TB, account string, interval time.Duration) (i *mtls.Identity, dir string) {
	t.Helper()
	dir = t.TempDir()
	wantNoErrorTB(t, r.issue(account, dir))
	i, err := mtls.Open(mtls.Config{Dir: dir, Peers: r.peers, Interval: interval, Log: slog.New(slog.DiscardHandler)})
	wantNoErrorTB(t, err)
	t.Cleanup(func() { _ = i.Close() })
	return i, dir
}

// serving makes a world's server that of account echo.
func (r *realm) serving(i *mtls.Identity) option {
	return func(c *Config, d *Deps) { c.TLS, d.PeerServices = i.Server(), i.PeerServices }
}

// from gives a connection to w of a process under account.
func (r *realm) from(t testing.TB, w *world, account string) *grpc.ClientConn {
	t.Helper()
	i, _ := r.identity(t, account, time.Hour)
	return w.dial(t, DialConfig{TLS: i.Client("echo")})
}

// TestAServiceMayCallWhatTheContractListsForIt is hazard E2, over real connections.
func TestAServiceMayCallWhatTheContractListsForIt(t *testing.T) {
	r := newRealm(t)
	i, _ := r.identity(t, "echo", time.Hour)
	w := newWorld(t, r.serving(i))
	edge, back := r.from(t, w, "edge"), r.from(t, w, "back")
	const a, c, wr, s, o, as = echov1.EchoService_Anybody_FullMethodName, echov1.EchoService_Customers_FullMethodName, echov1.EchoService_Write_FullMethodName,
		echov1.EchoService_Staff_FullMethodName, echov1.EchoService_OrderOnly_FullMethodName, echov1.EchoService_AnyService_FullMethodName
	order, payment := r.from(t, w, "order"), r.from(t, w, "payment")
	for _, row := range []struct {
		name   string
		conn   grpc.ClientConnInterface
		ctx    context.Context
		method string
		reason string // "" when it may
	}{
		{"order, listed", order, t.Context(), o, ""},
		{"order, listed, for a customer who may", order, w.as(t, alice), wr, ""},
		{"order, listed, for a customer who may not", order, w.as(t, alice), o, "NOT_ALLOWED"},
		{"order, any service", order, t.Context(), as, ""},
		{"order, not listed", order, t.Context(), s, "SERVICE_NOT_LISTED"},
		{"order, not listed, for an admin", order, w.as(t, ada), s, "SERVICE_NOT_LISTED"},
		{"order, public", order, t.Context(), a, "SERVICE_NOT_LISTED"},
		{"payment, not listed", payment, t.Context(), o, "SERVICE_NOT_LISTED"},
		{"payment, not listed, for a customer who may", payment, w.as(t, alice), wr, "SERVICE_NOT_LISTED"},
		{"payment that says it is order", As(payment, "order"), t.Context(), o, "SERVICE_NOT_PROVED"},
		{"payment that says it is the gateway", As(payment, Gateway), w.as(t, alice), c, "SERVICE_NOT_PROVED"},
		{"payment that says it is many", As(As(payment, "payment"), "order"), t.Context(), o, "SERVICE_NOT_PROVED"},
		{"two services, the one", As(back, "order"), t.Context(), o, ""},
		{"two services, the other", As(back, "payment"), t.Context(), o, "SERVICE_NOT_LISTED"},
		{"two services that do not say which", back, t.Context(), o, ""},
		{"the gateway for a customer", edge, w.as(t, alice), c, ""},
		{"the gateway for a customer who may not", edge, w.as(t, alice), s, "NOT_ALLOWED"},
		{"the gateway for staff", edge, w.as(t, sam), s, ""},
		{"the gateway for nobody, public", edge, t.Context(), a, ""},
		{"the gateway for nobody", edge, t.Context(), c, "TOKEN_MISSING"},
		{"the gateway for nobody, any service", edge, t.Context(), as, "TOKEN_MISSING"},
		{"the gateway in its own name", As(edge, Gateway), t.Context(), as, ""},
		{"who lives with the gateway", As(edge, "auth"), w.as(t, alice), c, "SERVICE_NOT_LISTED"},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := anyCall(row.ctx, row.conn, row.method)
			switch row.reason {
			case "":
				wantNoError(t, err)
			case "TOKEN_MISSING":
				wantError(t, err, errs.Unauthenticated, row.reason)
			default:
				wantError(t, err, errs.PermissionDenied, row.reason)
			}
		})
	}
}

func TestTheHandlerSeesWhichServiceCalls(t *testing.T) {
	r := newRealm(t)
	i, _ := r.identity(t, "echo", time.Hour)
	w := newWorld(t, r.serving(i))
	var got seen
	w.recordCaller(&got)
	for _, row := range []struct {
		conn grpc.ClientConnInterface
		ctx  context.Context
		want auth.Caller
	}{
		{r.from(t, w, "order"), t.Context(), auth.Caller{Role: auth.Service, Service: "order"}},
		{As(r.from(t, w, "back"), "order"), t.Context(), auth.Caller{Role: auth.Service, Service: "order"}},
		{r.from(t, w, "back"), t.Context(), auth.Caller{Role: auth.Service, Service: "payment+order"}},
		{r.from(t, w, "order"), w.as(t, alice), auth.Caller{UserID: alice.UserID, Role: alice.Role, SessionID: alice.SessionID, Service: "order"}},
		{r.from(t, w, "edge"), w.as(t, alice), alice},
	} {
		wantNoError(t, anyCall(row.ctx, row.conn, echov1.EchoService_Write_FullMethodName))
		if got.Caller != row.want {
			t.Errorf("got %+v, want %+v", got.Caller, row.want)
		}
	}
}

func TestOnlyTheGatewayTellsWhoseCallItBrings(t *testing.T) {
	r := newRealm(t)
	i, _ := r.identity(t, "echo", time.Hour)
	// The word of an address counts for nothing where there are certificates.
	w := newWorld(t, r.serving(i), func(c *Config, _ *Deps) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	var got seen
	w.recordCaller(&got)
	ctx := metadata.AppendToOutgoingContext(w.as(t, alice), MetadataClientIP, "203.0.113.7")
	for account, want := range map[string]string{"edge": "203.0.113.7", "order": "127.0.0.1"} {
		wantNoError(t, anyCall(ctx, r.from(t, w, account), echov1.EchoService_Write_FullMethodName))
		if got.IP.String() != want {
			t.Errorf("%s became %s", account, got.IP)
		}
	}
}

func TestWithoutACertificateThereIsNoConnection(t *testing.T) {
	r := newRealm(t)
	i, _ := r.identity(t, "echo", time.Hour)
	w := newWorld(t, r.serving(i))
	for name, cfg := range map[string]*tls.Config{"plain text": nil, "no certificate": {InsecureSkipVerify: true}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(w.as(t, alice), 10*time.Second)
			defer cancel()
			err := anyCall(ctx, w.dial(t, DialConfig{TLS: cfg}), echov1.EchoService_Customers_FullMethodName)
			if got := errs.KindOf(FromStatus(err)); got != errs.Unavailable {
				t.Errorf("got %v", err)
			}
		})
	}
	if !strings.Contains(w.logs.String(), "TLS handshake failed") {
		t.Error("the log does not tell of the refusal")
	}
	stranger, _ := newRealm(t).identity(t, "order", time.Hour)
	err := anyCall(t.Context(), w.dial(t, DialConfig{TLS: stranger.Client("echo")}), echov1.EchoService_OrderOnly_FullMethodName)
	if err == nil || !strings.Contains(err.Error(), "the certificate of the server that was found for echo") {
		t.Errorf("a client of another realm: %v", err)
	}
}

// TestCertificatesChangeUnderLoadWithoutAFailedCall is hazards 96 and E4: all
// certificates are replaced again and again, now and then with a half-written file
// in between, while connections are made anew all the time.
func TestCertificatesChangeUnderLoadWithoutAFailedCall(t *testing.T) {
	r := newRealm(t)
	server, serverDir := r.identity(t, "echo", 10*time.Millisecond)
	client, clientDir := r.identity(t, "order", 10*time.Millisecond)
	var handshakes atomic.Int64
	w := newWorld(t, r.serving(server), func(c *Config, d *Deps) {
		c.MaxConnAge = 50 * time.Millisecond
		d.PeerServices = func(cs *tls.ConnectionState) []string { handshakes.Add(1); return server.PeerServices(cs) }
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const callers, rounds = 4, 40
	failed := make(chan error, callers)
	var calls atomic.Int64
	for range callers {
		conn := w.dial(t, DialConfig{TLS: client.Client("echo"), Timeout: time.Minute})
		go func() {
			for ctx.Err() == nil {
				if err := anyCall(t.Context(), conn, echov1.EchoService_OrderOnly_FullMethodName); err != nil {
					failed <- err
					return
				}
				calls.Add(1)
			}
			failed <- nil
		}()
	}
	for round := range rounds {
		for account, dir := range map[string]string{"echo": serverDir, "order": clientDir} {
			if round%4 == 3 {
				wantNoError(t, halve(dir))
			} else {
				wantNoError(t, r.issue(account, dir))
			}
		}
		// Go on when connections were made with what lies there now.
		for from := handshakes.Load(); handshakes.Load() < from+callers; {
			select {
			case err := <-failed:
				t.Fatal(err)
			case <-time.After(time.Millisecond):
			}
		}
	}
	cancel()
	for range callers {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d calls over %d connections, %d rounds of certificates", calls.Load(), handshakes.Load(), rounds)
}

// halve leaves half of the certificate, as a writer that is interrupted does.
func halve(dir string) error {
	name := filepath.Join(dir, mtls.CertFile)
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, data[:len(data)/2], 0o600)
}
