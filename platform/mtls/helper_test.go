package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/waybill-dev/waybill/platform/telemetry/telemetrytest"
)

// shop is the system of these tests.
func shop(account string) ID {
	return ID{TrustDomain: "example.org", Namespace: "shop", Account: account}
}

var everyone = Peers{"order": {"order"}, "back": {"payment", "shipping"}, "notification": {"notification"}}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newAuthority(t testing.TB) *Authority {
	t.Helper()
	return must[*Authority](t)(NewAuthority("test", time.Hour, time.Now()))
}

// party is one process with its directory.
type party struct {
	*Identity
	dir    string
	logs   *telemetrytest.Buffer
	meters *sdk.ManualReader
}

// newParty opens what pair holds. Looks at the files are the test's own: the
// watch is slower than any test, and Now never makes current look.
func newParty(t testing.TB, pair Pair, authorities ...*Authority) *party {
	t.Helper()
	p := &party{dir: t.TempDir(), logs: &telemetrytest.Buffer{}, meters: sdk.NewManualReader()}
	ok(t, pair.Write(p.dir, authorities...))
	p.Identity = must[*Identity](t)(Open(Config{
		Dir: p.dir, Peers: everyone, Interval: 24 * time.Hour, Log: slog.New(slog.NewTextHandler(p.logs, nil)),
		Meter: sdk.NewMeterProvider(sdk.WithReader(p.meters)),
	}))
	t.Cleanup(func() { ok(t, p.Close()) })
	return p
}

func (p *party) reloads(t *testing.T, outcome string) int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	ok(t, p.meters.Collect(t.Context(), &all))
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			if m.Name != "waybill.tls.reloads" {
				continue
			}
			for _, d := range m.Data.(metricdata.Sum[int64]).DataPoints {
				if v, _ := d.Attributes.Value("outcome"); v.AsString() == outcome {
					return d.Value
				}
			}
		}
	}
	return 0
}

// issue gives a certificate of id, changed.
func issue(t testing.TB, a *Authority, id ID, change func(*x509.Certificate)) Pair {
	t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: id.Account}, URIs: []*url.URL{id.URI()},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	return must[Pair](t)(a.issue(template))
}

// connect has a client and a server speak: both sides' errors, and what the
// server found out about its client.
func connect(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, atServer, atClient error) {
	t.Helper()
	lis := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer lis.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := lis.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		s := tls.Server(conn, server)
		if err = s.HandshakeContext(t.Context()); err == nil {
			state = s.ConnectionState()
			_, err = s.Write([]byte("!"))
		}
		served <- err
	}()
	conn := must[net.Conn](t)(net.Dial("tcp", lis.Addr().String()))
	defer conn.Close()
	c := tls.Client(conn, client)
	if atClient = c.HandshakeContext(t.Context()); atClient == nil {
		// In TLS 1.3 a client hears of its refusal with the first bytes it reads.
		_, atClient = io.ReadFull(c, make([]byte, 1))
	}
	_ = conn.Close()
	atServer = <-served // after this the state is known
	return state, atServer, atClient
}

func wantText(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want …%s…", err, text)
	}
}

// raw is a client that presents whatever it is given and believes every server.
func raw(t testing.TB, p *Pair) *tls.Config {
	t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	if p != nil {
		cert := must[tls.Certificate](t)(tls.X509KeyPair(p.Cert, p.Key))
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return cfg
}

var errNone = errors.New("no error")
