package bus_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/telemetry/telemetrytest"
)

// shop is what a service called shop does on a broker: it keeps its stream, hears
// that of the bank, and tells its replicas of changes.
func shop() bus.Use {
	return bus.Use{
		Streams:   []bus.Stream{events("SHOP")},
		Consumers: []bus.Consumer{{Stream: "BANK", Durable: "shop"}},
		Topics:    []string{"shop"},
	}
}

func bank() bus.Use { return bus.Use{Streams: []bus.Stream{events("BANK")}} }

func userFor(name string, u bus.Use) bustest.User {
	publish, subscribe := u.Permissions()
	return bustest.User{Name: name, Password: name + "-password", Publish: publish, Subscribe: subscribe}
}

// openAs gives a Bus of a user; change may be nil.
func openAs(t *testing.T, ns *server.Server, user string, change func(*bus.Config)) (*bus.Bus, *telemetrytest.Buffer) {
	t.Helper()
	log := &telemetrytest.Buffer{}
	cfg := bus.Config{URL: ns.ClientURL(), User: user, Password: user + "-password", ReconnectWait: 10 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	b, err := bus.Open(within(t), cfg, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = b.Close(ctx) // a broker that refuses may also not let it end well
	})
	return b, log
}

func wantDenied(t *testing.T, err error, subject string) {
	t.Helper()
	if errs.KindOf(err) != errs.PermissionDenied || errs.ReasonOf(err) != bus.ReasonDenied || !strings.Contains(err.Error(), subject) {
		t.Errorf("error %v, want PermissionDenied with reason %s that names %s", err, bus.ReasonDenied, subject)
	}
}

func TestAUserWithExactlyItsPermissionsCanDoItsWork(t *testing.T) {
	t.Parallel()
	ns := bustest.ServeUsers(t, []bustest.User{userFor("shop", shop()), userFor("bank", bank())}, nil)
	inBank, _ := openAs(t, ns, "bank", nil)
	ensure(t, inBank, events("BANK"))
	inShop, _ := openAs(t, ns, "shop", nil)
	ensure(t, inShop, events("SHOP"))
	changed := events("SHOP")
	changed.MaxBytes *= 2
	ensure(t, inShop, changed)

	paid, _ := consume(t, inShop, bus.Consumer{Stream: "BANK", Durable: "shop"})
	publish(t, inBank, "BANK", msg("BANK", "a", 1))
	d := next(t, paid)
	if err := d.Nak(0); err != nil {
		t.Fatal(err)
	}
	d = next(t, paid)
	ack(t, d)
	eventually(t, "the acknowledgement arrives", func() bool {
		i, err := inShop.ConsumerInfo(within(t), "BANK", "shop")
		return err == nil && i.AckedSeq == 1
	})
	if _, err := inShop.PublishBatch(within(t), "SHOP", []bus.Msg{msg("SHOP", "a", 1), msg("SHOP", "b", 2)}); err != nil {
		t.Error(err)
	}
	if i, err := inShop.StreamInfo(within(t), "SHOP"); err != nil || i.Messages != 2 {
		t.Errorf("stream info %+v, %v", i, err)
	}
	if gaps, err := inShop.Gaps(within(t), "SHOP"); err != nil || len(gaps) > 0 {
		t.Errorf("gaps %v, %v", gaps, err)
	}
	if read, err := inShop.ReadStream(within(t), "SHOP", []uint64{2}); err != nil || read[0].ID != msg("SHOP", "b", 2).ID {
		t.Errorf("read %v, %v", read, err)
	}
	heard := make(chan []byte, 1)
	stop, err := inShop.Listen("shop", func(data []byte) { heard <- data })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := inShop.Notify("shop", []byte("changed")); err != nil {
		t.Fatal(err)
	}
	next(t, heard)
	for _, b := range []*bus.Bus{inBank, inShop} {
		if n := b.Stats().Refusals; n != 0 || b.Refused() != nil {
			t.Errorf("%d refusals, %v", n, b.Refused())
		}
	}
}

func TestWhatAUserMayNotDoIsRefusedAtOnceWithTheSubject(t *testing.T) {
	t.Parallel()
	ns := bustest.ServeUsers(t, []bustest.User{userFor("shop", shop()), userFor("bank", bank())}, nil)
	inBank, _ := openAs(t, ns, "bank", nil)
	ensure(t, inBank, events("BANK"))
	b, log := openAs(t, ns, "shop", nil)

	_, err := b.Publish(within(t), "BANK", msg("BANK", "a", 1))
	wantDenied(t, err, "test.BANK.a")
	if bus.Class(err) != bus.Retry {
		t.Errorf("class %v: an event must not be set aside because permissions are wrong", bus.Class(err))
	}
	_, err = b.StreamInfo(within(t), "BANK")
	wantDenied(t, err, "$JS.API.STREAM.INFO.BANK")
	if err := b.EnsureStream(within(t), events("OTHER")); err != nil {
		t.Errorf("a stream that may not be made: %v, want nil, since permissions can be mended", err)
	}
	wantDenied(t, b.Refused(), "$JS.API.STREAM.INFO.OTHER")
	if err := b.Ready(); errs.KindOf(err) != errs.Unavailable || errs.ReasonOf(err) != bus.ReasonDenied {
		t.Errorf("ready says %v", err)
	}
	if !strings.Contains(log.String(), "$JS.API.STREAM.INFO.OTHER") || strings.Contains(log.String(), "shop-password") {
		t.Error("the log does not name what was refused, or tells the password")
	}
	stop, err := b.Listen("bank", func([]byte) {})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	eventually(t, "the refused subscription is told", func() bool { return strings.Contains(log.String(), "waybill.notify.bank") })
}

func TestPermissionsThatAreMendedNeedNoRestart(t *testing.T) {
	t.Parallel()
	wrong := userFor("shop", bus.Use{})
	mend := make(chan *server.Options, 1)
	ns := bustest.ServeUsers(t, []bustest.User{wrong}, func(o *server.Options) { mend <- o.Clone() })
	b, _ := openAs(t, ns, "shop", nil)
	heard := make(chan []byte, 64)
	stop, err := b.Listen("shop", func(data []byte) { heard <- data })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if err := b.EnsureStream(within(t), events("SHOP")); err != nil {
		t.Fatal(err)
	}
	if b.Refused() == nil {
		t.Fatal("nothing was refused")
	}
	opts := <-mend
	opts.Port = ns.Addr().(*net.TCPAddr).Port
	opts.Users = bustest.NATSUsers([]bustest.User{userFor("shop", shop())})
	if err := ns.ReloadOptions(opts); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bus is ready again", func() bool { return b.Ready() == nil && b.Refused() == nil })
	publish(t, b, "SHOP", msg("SHOP", "a", 1))
	eventually(t, "notifications are heard", func() bool {
		if err := b.Notify("shop", nil); err != nil {
			t.Fatal(err)
		}
		select {
		case <-heard:
			return true
		default:
			return false
		}
	})
}

func TestAWrongPasswordIsToldAndNotSilence(t *testing.T) {
	t.Parallel()
	ns := bustest.ServeUsers(t, []bustest.User{userFor("shop", shop())}, nil)
	for name, change := range map[string]func(*bus.Config){
		"wrong password": func(c *bus.Config) { c.Password = "guess" },
		"nobody":         func(c *bus.Config) { c.User, c.Password = "", "" },
	} {
		b, log := openAs(t, ns, "shop", change)
		eventually(t, name+" is refused", func() bool { return errs.ReasonOf(b.Refused()) == bus.ReasonDenied })
		if b.Ready() == nil {
			t.Errorf("%s: ready", name)
		}
		if !strings.Contains(log.String(), "does not let") || strings.Contains(log.String(), "guess") {
			t.Errorf("%s: the log does not say it, or says too much: %s", name, log.String())
		}
	}
}

// TestTheBrokerRefusesWhatNoServiceDoes plays a service that was taken over: it
// has its user, and tries to go beyond it.
func TestTheBrokerRefusesWhatNoServiceDoes(t *testing.T) {
	t.Parallel()
	ns := bustest.ServeUsers(t, []bustest.User{userFor("shop", shop()), userFor("bank", bank())}, nil)
	inBank, _ := openAs(t, ns, "bank", nil)
	ensure(t, inBank, events("BANK"))
	publish(t, inBank, "BANK", msg("BANK", "a", 1))
	inShop, _ := openAs(t, ns, "shop", nil)
	ensure(t, inShop, events("SHOP"))

	if _, err := nats.Connect(ns.ClientURL()); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("anonymous: %v", err)
	}
	refused := make(chan error, 64)
	nc, err := nats.Connect(ns.ClientURL(), nats.UserInfo("shop", "shop-password"), nats.CustomInboxPrefix("_INBOX.shop"),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	for _, subject := range []string{
		"test.BANK.a", "anything", "$SYS.REQ.SERVER.PING", "waybill.notify.bank", "_INBOX.bank.x", "$JS.API.INFO",
		"$JS.API.STREAM.DELETE.SHOP", "$JS.API.STREAM.PURGE.SHOP", "$JS.API.STREAM.DELETE.BANK", "$JS.API.STREAM.PURGE.BANK",
		"$JS.API.STREAM.UPDATE.BANK", "$JS.API.STREAM.CREATE.BANK", "$JS.API.STREAM.INFO.BANK", "$JS.API.STREAM.MSG.GET.BANK", "$JS.API.STREAM.MSG.DELETE.SHOP",
		"$JS.API.DIRECT.GET.BANK", "$JS.API.STREAM.SNAPSHOT.SHOP", "$JS.API.STREAM.RESTORE.BANK",
		"$JS.API.STREAM.LIST", "$JS.API.STREAM.NAMES", "$JS.API.CONSUMER.LIST.BANK", "$JS.API.CONSUMER.DELETE.BANK.shop", "$JS.API.CONSUMER.DURABLE.CREATE.BANK.shop",
		"$JS.API.CONSUMER.CREATE.BANK", "$JS.API.CONSUMER.CREATE.BANK.other", "$JS.API.CONSUMER.CREATE.SHOP.bank", "$JS.API.CONSUMER.MSG.NEXT.BANK.other",
		"$JS.ACK.BANK.other.1.1.1.1.1", "$JS.API.STREAM.LEADER.STEPDOWN.SHOP",
	} {
		if err := nc.PublishRequest(subject, "_INBOX.shop.answer", []byte("{}")); err != nil {
			t.Fatal(err)
		}
		if err := next(t, refused); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subject+`"`) {
			t.Errorf("publish to %s: %v", subject, err)
		}
	}
	for _, subject := range []string{">", "*", "*.>", "$SYS.>", "$JS.>", "$JS.API.>", "$JS.EVENT.>", "_INBOX.>", "_INBOX.bank.>", "_INBOX.*.x", "test.>", "test.BANK.>", "waybill.notify.>", "waybill.notify.bank"} {
		if _, err := nc.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		if err := next(t, refused); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subject+`"`) {
			t.Errorf("subscribe to %s: %v", subject, err)
		}
	}
	for _, b := range []*bus.Bus{inBank, inShop} {
		if err := b.Ready(); err != nil {
			t.Errorf("the attempts left a mark: %v", err)
		}
	}
	if i, err := inBank.StreamInfo(within(t), "BANK"); err != nil || i.Messages != 1 || i.Consumers != 0 {
		t.Errorf("the bank's stream: %+v, %v", i, err)
	}
}

// TestWhatABrokerRepublishesIsNotHandled closes the way that permissions leave open: a
// user who may change the settings of its stream can have the broker put its
// messages into another's.
func TestWhatABrokerRepublishesIsNotHandled(t *testing.T) {
	t.Parallel()
	ns := bustest.ServeUsers(t, []bustest.User{userFor("shop", shop()), userFor("bank", bank())}, nil)
	inBank, _ := openAs(t, ns, "bank", nil)
	ensure(t, inBank, events("BANK"))
	inShop, log := openAs(t, ns, "shop", nil)
	ensure(t, inShop, events("SHOP"))
	paid, _ := consume(t, inShop, bus.Consumer{Stream: "BANK", Durable: "shop"})

	taken, err := nats.Connect(ns.ClientURL(), nats.UserInfo("shop", "shop-password"), nats.CustomInboxPrefix("_INBOX.shop"))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	js, err := jetstream.New(taken)
	if err != nil {
		t.Fatal(err)
	}
	s, err := js.Stream(within(t), "SHOP")
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	cfg.RePublish = &jetstream.RePublish{Source: "test.SHOP.forged", Destination: "test.BANK.forged"}
	if _, err := js.UpdateStream(within(t), cfg); err != nil {
		t.Fatal(err)
	}
	forged := nats.NewMsg("test.SHOP.forged")
	forged.Header.Set(jetstream.MsgIDHeader, "forged")
	forged.Header.Set("Nats-Stream", "BANK")
	if err := taken.PublishMsg(forged); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the forged message is in the bank's stream", func() bool {
		i, err := inBank.StreamInfo(within(t), "BANK")
		return err == nil && i.Messages == 1
	})
	publish(t, inBank, "BANK", msg("BANK", "a", 1))
	if d := next(t, paid); d.ID != "BANK-a-1" {
		t.Errorf("handled %s", d.ID)
	}
	if !strings.Contains(log.String(), "put into the stream by the settings of another") {
		t.Error("nobody was told")
	}
}

func TestTheConnectionToTheBrokerCanHaveTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca.crt")
	pair := ca.issue(t, dir, "server")
	ca.issue(t, dir, "client")
	other := newAuthority(t, dir, "other.crt")
	other.issue(t, dir, "stranger")
	ns := bustest.ServeUsers(t, []bustest.User{userFor("shop", shop())}, func(o *server.Options) {
		o.TLS, o.TLSTimeout, o.TLSVerify = true, 5, true
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool, MinVersion: tls.VersionTLS13}
	})
	file := func(name string) string { return filepath.Join(dir, name) }
	b, _ := openAs(t, ns, "shop", func(c *bus.Config) {
		c.CAFile, c.CertFile, c.KeyFile = file("ca.crt"), file("client.crt"), file("client.key")
	})
	ensure(t, b, events("SHOP"))
	publish(t, b, "SHOP", msg("SHOP", "a", 1))

	for name, change := range map[string]func(*bus.Config){
		"no certificate": func(c *bus.Config) { c.CAFile = file("ca.crt") },
		"a stranger's certificate": func(c *bus.Config) {
			c.CAFile, c.CertFile, c.KeyFile = file("ca.crt"), file("stranger.crt"), file("stranger.key")
		},
		"a broker of another authority": func(c *bus.Config) {
			c.CAFile, c.CertFile, c.KeyFile = file("other.crt"), file("client.crt"), file("client.key")
		},
		"no authority, and so no secure": func(*bus.Config) {},
	} {
		b, log := openAs(t, ns, "shop", change)
		eventually(t, name+" is told", func() bool { return b.Ready() != nil && strings.Contains(log.String(), "event bus cannot be reached") })
	}
	for name, change := range map[string]func(*bus.Config){
		"a file that is not there": func(c *bus.Config) { c.CAFile = file("nothing.crt") },
		"a file that is none":      func(c *bus.Config) { c.CAFile = file("client.key") },
		"a certificate, no key":    func(c *bus.Config) { c.CertFile = file("client.crt") },
		"the key of another":       func(c *bus.Config) { c.CertFile, c.KeyFile = file("client.crt"), file("server.key") },
		"an embedded broker":       func(c *bus.Config) { c.URL, c.Dir, c.User, c.CAFile = "", dir, "", file("ca.crt") },
		"a user that is a pattern": func(c *bus.Config) { c.User = "shop.>" },
	} {
		cfg := bus.Config{URL: ns.ClientURL(), User: "shop", Password: "shop-password"}
		change(&cfg)
		b, err := bus.Open(within(t), cfg, nil)
		if err == nil {
			_ = b.Close(within(t))
		}
		if errs.ReasonOf(err) != bus.ReasonConfig {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T, dir, file string) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool(), cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: file}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}}
	a.key, a.cert = sign(t, a.cert, nil)
	a.pool.AddCert(a.cert)
	writePEM(t, filepath.Join(dir, file), "CERTIFICATE", a.cert.Raw)
	return a
}

// issue makes <name>.crt and <name>.key.
func (a *authority) issue(t *testing.T, dir, name string) tls.Certificate {
	t.Helper()
	key, cert := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, a)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, name+".crt"), "CERTIFICATE", cert.Raw)
	writePEM(t, filepath.Join(dir, name+".key"), "PRIVATE KEY", der)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// sign makes a key and a certificate of what it is given, signed by a or by itself.
func sign(t *testing.T, what *x509.Certificate, by *authority) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := what, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, what, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return key, cert
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}
