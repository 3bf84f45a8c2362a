package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

func TestOnlyCallsThatMayBeRepeatedAreRetried(t *testing.T) {
	w := newWorld(t)
	var calls atomic.Int64
	w.echo.unary = func(context.Context, *echov1.Message) (*echov1.Message, error) {
		calls.Add(1)
		return nil, errs.E(errs.Unavailable, "AWAY", "away")
	}
	ctx := w.as(t, sam)
	for method, want := range map[string]int64{
		echov1.EchoService_Customers_FullMethodName: 3, // READ
		echov1.EchoService_Write_FullMethodName:     3, // KEYED
		echov1.EchoService_Staff_FullMethodName:     1, // NONE
	} {
		conn := w.dial(t, DialConfig{}) // a fresh one, whose retries are not yet throttled
		calls.Store(0)
		wantError(t, anyCall(ctx, conn, method), errs.Unavailable, "AWAY")
		if got := calls.Load(); got != want {
			t.Errorf("%s was tried %d times, want %d", method, got, want)
		}
	}
	w.echo.unary = func(context.Context, *echov1.Message) (*echov1.Message, error) {
		calls.Add(1)
		return nil, errs.E(errs.Aborted, "RACE", "lost")
	}
	calls.Store(0)
	wantError(t, anyCall(ctx, w.tcp, echov1.EchoService_Customers_FullMethodName), errs.Aborted, "RACE")
	if got := calls.Load(); got != 1 {
		t.Errorf("another failure was tried %d times", got)
	}
}

// TestRetriesDoNotBecomeAStorm is hazard 85.
func TestRetriesDoNotBecomeAStorm(t *testing.T) {
	w := newWorld(t)
	var tries atomic.Int64
	w.echo.unary = func(context.Context, *echov1.Message) (*echov1.Message, error) {
		tries.Add(1)
		return nil, errs.E(errs.Unavailable, "AWAY", "away")
	}
	const calls = 2000 // the first 100 failures are those of a server that has just died
	for range calls {
		_, err := client(w.tcp).Anybody(t.Context(), &echov1.Message{})
		wantError(t, err, errs.Unavailable, "AWAY")
	}
	if n := tries.Load(); n > calls*11/10 {
		t.Errorf("%d calls became %d tries", calls, n)
	}
}

func TestTheServiceConfigFollowsTheContract(t *testing.T) {
	text := serviceConfig(time.Second)
	var got config
	wantNoError(t, json.Unmarshal([]byte(text), &got))
	names := map[string]bool{}
	for _, n := range got.Methods[0].Name {
		names[n.Service+"/"+n.Method] = true
	}
	echoName := echov1.EchoService_ServiceDesc.ServiceName
	for method, want := range map[string]bool{"Anybody": true, "Write": true, "OrderOnly": true, "Watch": true, "Staff": false, "Talk": false} {
		if names[echoName+"/"+method] != want {
			t.Errorf("%s is repeatable: %v", method, !want)
		}
	}
	if names["waybill.platform.rpc.echo.v1.NoIdempotencyService/Do"] || names["grpc.health.v1.Health/Check"] {
		t.Error("a method that does not say so is repeatable")
	}
	if got.Methods[0].Retry.MaxAttempts > 5 || strings.Contains(text, "hedging") || !got.Methods[0].WaitForReady {
		t.Errorf("got %s", text)
	}
}

func TestACallWithoutADeadlineGetsOneFromItsClient(t *testing.T) {
	w := newWorld(t)
	ends := make(chan time.Duration, 1)
	w.recordDeadline(ends)
	_, err := client(w.dial(t, DialConfig{Timeout: 3 * time.Second})).Anybody(t.Context(), &echov1.Message{})
	wantNoError(t, err)
	if left := <-ends; left > 3*time.Second {
		t.Errorf("the handler had %s", left)
	}
}

func TestATargetThatCannotWorkIsNotDialled(t *testing.T) {
	for _, target := range []string{"", "order", "http://order:1", "static:///"} {
		if conn, err := Dial(target, DialConfig{}); err == nil {
			_ = conn.Close()
			t.Errorf("%q was dialled", target)
		}
	}
}

// TestCallsGoOnlyToServersThatAreReady has one server of two say that it is not.
func TestCallsGoOnlyToServersThatAreReady(t *testing.T) {
	good := newWorld(t)
	var reached atomic.Int64
	good.echo.unary = func(_ context.Context, m *echov1.Message) (*echov1.Message, error) {
		reached.Add(1)
		return m, nil
	}
	bad := newServer(t, Config{})
	echov1.RegisterEchoServiceServer(bad.Registrar(func(context.Context) error { return errs.E(errs.Unavailable, "AWAY", "no database") }), &echo{})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	wantNoError(t, err)
	go func() { _ = bad.Serve(lis) }()
	conn, err := Dial("static:///"+lis.Addr().String()+","+good.addr, DialConfig{})
	wantNoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 50 {
		_, err := client(conn).Anybody(ctx, &echov1.Message{}, grpc.WaitForReady(true))
		wantNoError(t, err)
	}
	if n := reached.Load(); n != 50 {
		t.Errorf("the server that is ready got %d of 50 calls", n)
	}
}

func TestTLSOnBothSides(t *testing.T) {
	cert, pool := selfSigned(t)
	w := newWorld(t, func(c *Config, _ *Deps) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}
	})
	_, err := client(w.dial(t, DialConfig{TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}})).Anybody(t.Context(), &echov1.Message{})
	wantNoError(t, err)
	for name, cfg := range map[string]DialConfig{"plain text": {}, "another authority": {TLS: &tls.Config{RootCAs: x509.NewCertPool()}}, "old TLS": {TLS: &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS12}}} {
		if _, err := client(w.dial(t, cfg)).Anybody(t.Context(), &echov1.Message{}); errs.KindOf(FromStatus(err)) != errs.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	wantNoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	wantNoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	wantNoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
