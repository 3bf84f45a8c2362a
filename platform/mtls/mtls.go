// Package mtls proves who is at the two ends of a connection between services:
// TLS 1.3 on both, each with a certificate of the same authority that names an
// account (see ID). Certificates are read from a directory and read again when
// they change, so they may live for minutes and the authority itself may change
// while connections come and go.
package mtls

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// Names of the files in the directory, those of a kubernetes.io/tls Secret as
// cert-manager writes it. ca.crt may hold several certificates: while an
// authority is replaced, the old one and the new one.
const (
	CertFile = "tls.crt"
	KeyFile  = "tls.key"
	CAFile   = "ca.crt"
)

// Config is how certificates are found and who is believed.
type Config struct {
	Dir      string        // holds the three files
	Peers    Peers         // the accounts that may be at the other end
	Interval time.Duration // between two looks at the files; 0 is 5 s
	Log      *slog.Logger
	Meter    metric.MeterProvider // nil: no metrics
	Now      func() time.Time     // nil: time.Now
}

// An Identity is the certificate of this process, and its way to judge those of
// others. It is safe for concurrent use.
type Identity struct {
	cfg  Config
	id   ID
	good atomic.Pointer[material]

	mu     sync.Mutex // held while the files are looked at
	looked atomic.Int64
	seen   [sha256.Size]byte // what was looked at last, good or bad

	reloads metric.Int64Counter
	stop    context.CancelFunc
	stopped chan struct{}
}

// material is what the files hold; it never changes.
type material struct {
	cert tls.Certificate
	pool *x509.CertPool
}

// Open reads the files and goes on watching them until Close. It fails if they
// are not there, do not belong together, are not valid now, or do not say who
// this is.
func Open(cfg Config) (*Identity, error) {
	if cfg.Interval == 0 {
		cfg.Interval = 5 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Meter == nil {
		cfg.Meter = noop.NewMeterProvider()
	}
	i := &Identity{cfg: cfg, stopped: make(chan struct{})}
	files, err := read(cfg.Dir)
	if err != nil {
		return nil, err
	}
	m, id, err := i.judge(files)
	if err != nil {
		return nil, fmt.Errorf("certificates in %s: %w", cfg.Dir, err)
	}
	i.id, i.seen = id, files.sum()
	i.good.Store(m)
	i.looked.Store(cfg.Now().UnixNano())
	if err := i.observe(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	i.stop = cancel
	go i.watch(ctx)
	return i, nil
}

// Close ends the watch. Connections and configurations stay as they are.
func (i *Identity) Close() error {
	i.stop()
	<-i.stopped
	return nil
}

// ID tells who this process is.
func (i *Identity) ID() ID { return i.id }

// Services gives the services that this process may serve and speak for.
func (i *Identity) Services() []string { return i.cfg.Peers.Of(i.id.Account) }

func (i *Identity) observe() error {
	m := i.cfg.Meter.Meter("waybill")
	var err error
	i.reloads, err = m.Int64Counter("waybill.tls.reloads", metric.WithDescription("changed certificate files, by whether they were taken (good) or not (bad)"))
	if err != nil {
		return err
	}
	_, err = m.Int64ObservableGauge("waybill.tls.not_after", metric.WithUnit("s"), metric.WithDescription("when the certificate in use ends, in seconds since 1970"),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			o.Observe(i.good.Load().cert.Leaf.NotAfter.Unix())
			return nil
		}))
	return err
}

// watch looks at the files now and then, so that what is wrong with them is known
// before the next handshake needs them.
func (i *Identity) watch(ctx context.Context) {
	defer close(i.stopped)
	tick := time.NewTicker(i.cfg.Interval)
	defer tick.Stop()
	expired := false
	for {
		select {
		case <-tick.C:
			i.look()
			if leaf := i.good.Load().cert.Leaf; i.cfg.Now().After(leaf.NotAfter) != expired {
				if expired = !expired; expired {
					i.cfg.Log.ErrorContext(ctx, "the certificate in use has expired and there is no good new one: other services refuse this process",
						slog.String("dir", i.cfg.Dir), slog.Time("not_after", leaf.NotAfter))
				}
			}
		case <-ctx.Done():
			return
		}
	}
}

// current gives what the next handshake uses. It looks at the files itself when
// nobody has for a fifth of the interval, so that a new certificate is used soon.
func (i *Identity) current() *material {
	if i.cfg.Now().UnixNano()-i.looked.Load() > int64(i.cfg.Interval)/5 {
		i.look()
	}
	return i.good.Load()
}

// look takes what the files hold now if it is new and good, and keeps what is in
// use otherwise: files are written one after the other, and a pair of which one
// half is new must not stop anybody.
func (i *Identity) look() {
	if !i.mu.TryLock() {
		return // somebody is at it
	}
	defer i.mu.Unlock()
	defer func() { i.looked.Store(i.cfg.Now().UnixNano()) }()
	files, err := read(i.cfg.Dir)
	sum := files.sum()
	if err == nil && sum == i.seen {
		return
	}
	var m *material
	if err == nil {
		var id ID
		if m, id, err = i.judge(files); err == nil && id != i.id {
			err = fmt.Errorf("they are of %s, but this process is %s; restart it to give it another name", id, i.id)
		}
	}
	ctx := context.Background()
	if err != nil {
		if sum == i.seen { // told already
			return
		}
		i.seen = sum
		i.reloads.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", "bad")))
		i.cfg.Log.WarnContext(ctx, "the new certificate files are not good; the last good ones stay in use",
			slog.String("dir", i.cfg.Dir), slog.Any("error", err), slog.Time("not_after", i.good.Load().cert.Leaf.NotAfter))
		return
	}
	i.seen = sum
	i.good.Store(m)
	i.reloads.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", "good")))
	i.cfg.Log.InfoContext(ctx, "new certificates", slog.String("id", i.id.String()), slog.Time("not_after", m.cert.Leaf.NotAfter))
}

// files is what lies in the directory.
type files struct{ cert, key, ca []byte }

func read(dir string) (f files, err error) {
	var failed [3]error
	f.cert, failed[0] = os.ReadFile(filepath.Join(dir, CertFile))
	f.key, failed[1] = os.ReadFile(filepath.Join(dir, KeyFile))
	f.ca, failed[2] = os.ReadFile(filepath.Join(dir, CAFile))
	if err := errors.Join(failed[:]...); err != nil {
		return f, fmt.Errorf("a certificate directory holds %s, %s and %s: %w", CertFile, KeyFile, CAFile, err)
	}
	return f, nil
}

func (f files) sum() [sha256.Size]byte {
	return sha256.Sum256(bytes.Join([][]byte{f.cert, f.key, f.ca}, []byte{0}))
}

// judge takes the files apart and tells what is wrong with them.
func (i *Identity) judge(f files) (*material, ID, error) {
	cert, err := tls.X509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, ID{}, fmt.Errorf("%s and %s: %w", CertFile, KeyFile, err)
	}
	id, err := idOf(cert.Leaf)
	if err != nil {
		return nil, ID{}, fmt.Errorf("%s: %w", CertFile, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(f.ca) {
		return nil, ID{}, fmt.Errorf("%s holds no certificate", CAFile)
	}
	m := &material{cert, pool}
	chain, err := parse(cert.Certificate)
	if err != nil {
		return nil, ID{}, fmt.Errorf("%s: %w", CertFile, err)
	}
	for use, usage := range map[string]x509.ExtKeyUsage{"to serve": x509.ExtKeyUsageServerAuth, "to call": x509.ExtKeyUsageClientAuth} {
		if err := m.verify(chain, usage, i.cfg.Now()); err != nil {
			return nil, ID{}, fmt.Errorf("%s cannot be used %s: %w", CertFile, use, err)
		}
	}
	return m, id, nil
}

func parse(der [][]byte) ([]*x509.Certificate, error) {
	all := make([]*x509.Certificate, 0, len(der))
	for _, d := range der {
		c, err := x509.ParseCertificate(d)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

// verify holds a chain against the authorities believed in, and says plainly when
// it is a matter of clocks.
func (m *material) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	leaf := chain[0]
	switch {
	case now.Before(leaf.NotBefore):
		return fmt.Errorf("it is not valid before %s, and here it is %s: are the clocks right?", stamp(leaf.NotBefore), stamp(now))
	case now.After(leaf.NotAfter):
		return fmt.Errorf("it has expired at %s, and here it is %s", stamp(leaf.NotAfter), stamp(now))
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: m.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: now})
	return err
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Server gives the configuration of the serving side. Whoever has no certificate
// of the authority, made for clients, that names a known account of the same
// trust domain and namespace, gets no connection.
func (i *Identity) Server() *tls.Config {
	base := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		m := i.current()
		return &tls.Config{
			MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
			Certificates: []tls.Certificate{m.cert},
			ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: m.pool,
			Time: i.cfg.Now,
			// A resumed session would not see that its authority is gone.
			SessionTicketsDisabled: true,
			VerifyConnection: func(cs tls.ConnectionState) error {
				_, err := i.account(cs.PeerCertificates)
				if err != nil {
					return fmt.Errorf("mtls: the client's certificate: %w", err)
				}
				return nil
			},
		}, nil
	}
	return base
}

// Client gives the configuration of the calling side for servers of one service:
// whoever cannot prove that its account serves it is not called.
func (i *Identity) Client(service string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Time: i.cfg.Now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &i.current().cert, nil
		},
		// The usual check would be of host names, against authorities that cannot
		// change. VerifyConnection does all of it: chain, time, usage and account.
		InsecureSkipVerify: true, //nolint:gosec // G402: see above; VerifyConnection runs on every handshake
		VerifyConnection: func(cs tls.ConnectionState) error {
			if err := i.server(service, cs.PeerCertificates); err != nil {
				return fmt.Errorf("mtls: the certificate of the server that was found for %s: %w", service, err)
			}
			return nil
		},
	}
}

// server judges the certificates of a server.
func (i *Identity) server(service string, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("there is none")
	}
	if err := i.current().verify(chain, x509.ExtKeyUsageServerAuth, i.cfg.Now()); err != nil {
		return err
	}
	account, err := i.account(chain)
	if err != nil {
		return err
	}
	if !slices.Contains(i.cfg.Peers.Of(account), service) {
		return fmt.Errorf("account %s does not serve %s; tls.peers says which accounts do", account, service)
	}
	return nil
}

// account gives whose a verified chain is: an account of our own trust domain and
// namespace that we know.
func (i *Identity) account(chain []*x509.Certificate) (string, error) {
	if len(chain) == 0 {
		return "", errors.New("there is none")
	}
	id, err := idOf(chain[0])
	if err != nil {
		return "", err
	}
	if id.TrustDomain != i.id.TrustDomain || id.Namespace != i.id.Namespace {
		return "", fmt.Errorf("%s is not of spiffe://%s/ns/%s", id, i.id.TrustDomain, i.id.Namespace)
	}
	if len(i.cfg.Peers.Of(id.Account)) == 0 {
		return "", fmt.Errorf("account %s is none of those that tls.peers names", id.Account)
	}
	return id.Account, nil
}

// PeerServices gives the services that the other end of a connection speaks for,
// which its certificate has proved in the handshake; none for any other kind of
// connection.
func (i *Identity) PeerServices(cs *tls.ConnectionState) []string {
	if cs == nil || len(cs.VerifiedChains) == 0 {
		return nil
	}
	account, err := i.account(cs.PeerCertificates)
	if err != nil {
		return nil
	}
	return i.cfg.Peers.Of(account)
}
