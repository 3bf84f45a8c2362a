package mtls

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/telemetry/telemetrytest"
)

// TestWhoCannotProveWhoTheyAreGetsNoConnection is hazard E1, from the server's side.
func TestWhoCannotProveWhoTheyAreGetsNoConnection(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	server := newParty(t, issue(t, ours, shop("order"), nil), ours)
	selfSigned := func() Pair {
		key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		template := &x509.Certificate{
			SerialNumber: must[*Authority](t)(NewAuthority("x", time.Hour, time.Now())).cert.SerialNumber, URIs: []*url.URL{shop("order").URI()},
			NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}
		der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
		return Pair{Cert: encode("CERTIFICATE", der), Key: must[[]byte](t)(encodeKey(key))}
	}
	of := func(id ID, change func(*x509.Certificate)) *Pair { p := issue(t, ours, id, change); return &p }
	foreign := issue(t, theirs, shop("order"), nil)
	own := selfSigned()
	another := ID{TrustDomain: "example.com", Namespace: "shop", Account: "order"}
	elsewhere := ID{TrustDomain: "example.org", Namespace: "test", Account: "order"}
	for _, c := range []struct {
		name  string
		pair  *Pair
		limit uint16 // the highest version the client offers
		want  string // "" when it is let in
	}{
		{"a good one", of(shop("order"), nil), 0, ""},
		{"no certificate", nil, 0, "didn't provide a certificate"},
		{"self-signed", &own, 0, "unknown authority"},
		{"of another authority", &foreign, 0, "unknown authority"},
		{"expired", of(shop("order"), func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
		}), 0, "expired or is not yet valid"},
		{"not valid yet", of(shop("order"), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), 0, "expired or is not yet valid"},
		{"for servers only", of(shop("order"), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), 0, "incompatible key usage"},
		{"TLS 1.2", of(shop("order"), nil), tls.VersionTLS12, "unsupported versions"},
		{"without a name", of(shop("order"), func(c *x509.Certificate) { c.URIs = nil }), 0, "it has 0 URIs"},
		{"with two names", of(shop("order"), func(c *x509.Certificate) { c.URIs = append(c.URIs, shop("back").URI()) }), 0, "it has 2 URIs"},
		{"with a host name only", of(shop("order"), func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"order"} }), 0, "it has 0 URIs"},
		{"with a name of another form", of(shop("order"), func(c *x509.Certificate) {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/order"}}
		}), 0, "is not spiffe://"},
		{"with an authority's certificate", of(shop("order"), func(c *x509.Certificate) { c.IsCA = true }), 0, "of an authority"},
		{"of another trust domain", of(another, nil), 0, "is not of spiffe://example.org/ns/shop"},
		{"of another namespace", of(elsewhere, nil), 0, "is not of spiffe://example.org/ns/shop"},
		{"of an account nobody knows", of(shop("stranger"), nil), 0, "account stranger is none of those"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := raw(t, c.pair)
			client.MaxVersion = c.limit
			state, atServer, atClient := connect(t, server.Server(), client)
			if c.want == "" {
				ok(t, cmp.Or(atServer, atClient))
				if state.Version != tls.VersionTLS13 {
					t.Errorf("TLS version %x", state.Version)
				}
				return
			}
			wantText(t, atServer, c.want)
			wantText(t, cmp.Or(atClient, errNone), "tls: ")
		})
	}
}

// TestAClientCallsOnlyWhoServesWhatItWants is hazards E1 and E3, from the client's side.
func TestAClientCallsOnlyWhoServesWhatItWants(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	client := newParty(t, issue(t, ours, shop("order"), nil), ours)
	// A server that takes whoever comes, and presents anything.
	server := func(p Pair, limit uint16) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{must[tls.Certificate](t)(tls.X509KeyPair(p.Cert, p.Key))}, ClientAuth: tls.RequestClientCert, MaxVersion: limit}
	}
	for _, c := range []struct {
		name    string
		server  *tls.Config
		service string
		want    string
	}{
		{"a good one", server(issue(t, ours, shop("back"), nil), 0), "payment", ""},
		{"its other service", server(issue(t, ours, shop("back"), nil), 0), "shipping", ""},
		{"another service's", server(issue(t, ours, shop("notification"), nil), 0), "payment", "account notification does not serve payment"},
		{"its own", server(issue(t, ours, shop("order"), nil), 0), "payment", "account order does not serve payment"},
		{"of another authority", server(issue(t, theirs, shop("back"), nil), 0), "payment", "unknown authority"},
		{"expired", server(issue(t, ours, shop("back"), func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
		}), 0), "payment", "it has expired at"},
		{"not valid yet", server(issue(t, ours, shop("back"), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), 0), "payment", "are the clocks right?"},
		{"for clients only", server(issue(t, ours, shop("back"), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), 0), "payment", "incompatible key usage"},
		{"TLS 1.2", server(issue(t, ours, shop("back"), nil), tls.VersionTLS12), "payment", "protocol version not supported"},
		{"of an account nobody knows", server(issue(t, ours, shop("stranger"), nil), 0), "payment", "account stranger is none of those"},
		{"of another namespace", server(issue(t, ours, ID{TrustDomain: "example.org", Namespace: "test", Account: "back"}, nil), 0), "payment", "is not of spiffe://example.org/ns/shop"},
		{"with two names", server(issue(t, ours, shop("back"), func(c *x509.Certificate) { c.URIs = append(c.URIs, shop("order").URI()) }), 0), "payment", "it has 2 URIs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, atServer, atClient := connect(t, c.server, client.Client(c.service))
			if c.want == "" {
				ok(t, cmp.Or(atServer, atClient))
				return
			}
			wantText(t, atClient, c.want)
		})
	}
}

func TestTheServerKnowsWhichServicesItsClientSpeaksFor(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	server, client := newParty(t, issue(t, a, shop("order"), nil), a), newParty(t, issue(t, a, shop("back"), nil), a)
	state, atServer, atClient := connect(t, server.Server(), client.Client("order"))
	ok(t, cmp.Or(atServer, atClient))
	if got := strings.Join(server.PeerServices(&state), " "); got != "payment shipping" {
		t.Errorf("the peer speaks for %q", got)
	}
	unproved := state
	unproved.VerifiedChains = nil
	if got := server.PeerServices(&unproved); got != nil {
		t.Errorf("without a verified chain the peer speaks for %q", got)
	}
	if got := server.PeerServices(nil); got != nil {
		t.Errorf("without TLS the peer speaks for %q", got)
	}
}

// TestFilesThatAreNotGoodAreNotTaken is hazard E4: what is half written, does not
// belong together or is of somebody else changes nothing and is told once.
func TestFilesThatAreNotGoodAreNotTaken(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	client := newParty(t, issue(t, a, shop("back"), nil), a)
	fresh := issue(t, a, shop("order"), nil)
	for _, c := range []struct {
		name string
		put  map[string][]byte
		want string
	}{
		{"a certificate cut short", map[string][]byte{CertFile: fresh.Cert[:len(fresh.Cert)/2]}, "tls.crt and tls.key"},
		{"an empty certificate", map[string][]byte{CertFile: {}}, "tls.crt and tls.key"},
		{"a key without its certificate", map[string][]byte{KeyFile: fresh.Key}, "does not match"},
		{"a certificate without its key", map[string][]byte{CertFile: fresh.Cert}, "does not match"},
		{"a bundle that is empty", map[string][]byte{CAFile: {}}, "ca.crt holds no certificate"},
		{"a bundle of others", map[string][]byte{CAFile: other.PEM()}, "unknown authority"},
		{"a pair of another authority", pairOf(issue(t, other, shop("order"), nil)), "unknown authority"},
		{"a pair of another account", pairOf(issue(t, a, shop("back"), nil)), "restart it to give it another name"},
		{"a pair without a name", pairOf(issue(t, a, shop("order"), func(c *x509.Certificate) { c.URIs = nil })), "it has 0 URIs"},
		{"an expired pair", pairOf(issue(t, a, shop("order"), func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-time.Minute)
		})), "it has expired"},
		{"a pair of tomorrow", pairOf(issue(t, a, shop("order"), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })), "are the clocks right?"},
		{"a pair for servers only", pairOf(issue(t, a, shop("order"), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), "to call"},
		{"a pair for clients only", pairOf(issue(t, a, shop("order"), func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })), "to serve"},
		{"nothing", map[string][]byte{CertFile: nil, KeyFile: nil, CAFile: nil}, "no such file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newParty(t, issue(t, a, shop("order"), nil), a)
			before := p.good.Load().cert.Leaf.SerialNumber
			for name, data := range c.put {
				if data == nil {
					ok(t, os.Remove(filepath.Join(p.dir, name)))
				} else {
					ok(t, os.WriteFile(filepath.Join(p.dir, name), data, 0o600))
				}
			}
			p.look()
			p.look()
			if p.current().cert.Leaf.SerialNumber.Cmp(before) != 0 {
				t.Error("the bad files were taken")
			}
			if got := strings.Count(p.logs.String(), "are not good"); got != 1 || !strings.Contains(p.logs.String(), c.want) {
				t.Errorf("told %d times, want once with %q:\n%s", got, c.want, p.logs)
			}
			if bad, good := p.reloads(t, "bad"), p.reloads(t, "good"); bad != 1 || good != 0 {
				t.Errorf("%d bad and %d good reloads counted", bad, good)
			}
			_, atServer, atClient := connect(t, p.Server(), client.Client("order"))
			ok(t, cmp.Or(atServer, atClient))
			_, err := Open(Config{Dir: p.dir, Peers: everyone, Log: p.cfg.Log})
			if strings.Contains(c.want, "restart") { // as a start it is a good one
				ok(t, err)
			} else {
				wantText(t, err, c.want)
			}
		})
	}
}

func pairOf(p Pair) map[string][]byte { return map[string][]byte{CertFile: p.Cert, KeyFile: p.Key} }

func TestANewPairIsUsedByTheNextHandshake(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	server, client := newParty(t, issue(t, a, shop("order"), nil), a), newParty(t, issue(t, a, shop("back"), nil), a)
	cfg := server.Server()
	for range 3 {
		next := issue(t, a, shop("back"), nil)
		ok(t, next.Write(client.dir, a))
		client.look()
		state, atServer, atClient := connect(t, cfg, client.Client("order"))
		ok(t, cmp.Or(atServer, atClient))
		want := must[tls.Certificate](t)(tls.X509KeyPair(next.Cert, next.Key))
		if state.PeerCertificates[0].SerialNumber.Cmp(want.Leaf.SerialNumber) != 0 {
			t.Error("the handshake used another certificate")
		}
	}
	if got := client.reloads(t, "good"); got != 3 {
		t.Errorf("%d reloads counted", got)
	}
}

// TestTheAuthorityCanBeReplaced goes the way an operator goes: believe in both,
// make new certificates, believe in the new one only.
func TestTheAuthorityCanBeReplaced(t *testing.T) {
	t.Parallel()
	old, next := newAuthority(t), newAuthority(t)
	first := map[string]Pair{"order": issue(t, old, shop("order"), nil), "back": issue(t, old, shop("back"), nil)}
	second := map[string]Pair{"order": issue(t, next, shop("order"), nil), "back": issue(t, next, shop("back"), nil)}
	server, client := newParty(t, first["order"], old), newParty(t, first["back"], old)
	for _, step := range []struct {
		party *party
		pair  Pair
		roots []*Authority
	}{
		{server, first["order"], []*Authority{old, next}},
		{client, first["back"], []*Authority{old, next}},
		{client, second["back"], []*Authority{old, next}},
		{server, second["order"], []*Authority{old, next}},
		{server, second["order"], []*Authority{next}},
		{client, second["back"], []*Authority{next}},
	} {
		ok(t, step.pair.Write(step.party.dir, step.roots...))
		step.party.look()
		_, atServer, atClient := connect(t, server.Server(), client.Client("order"))
		ok(t, cmp.Or(atServer, atClient))
	}
	stale := first["back"]
	_, atServer, _ := connect(t, server.Server(), raw(t, &stale))
	wantText(t, atServer, "unknown authority")
}

func TestAHandshakeLooksForNewFilesItself(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	dir, logs, now := t.TempDir(), &telemetrytest.Buffer{}, time.Now()
	first, next := issue(t, a, shop("order"), nil), issue(t, a, shop("order"), nil)
	ok(t, first.Write(dir, a))
	i := must[*Identity](t)(Open(Config{Dir: dir, Peers: everyone, Interval: 10 * time.Minute, Log: logTo(logs), Now: func() time.Time { return now }}))
	defer i.Close()
	ok(t, next.Write(dir, a))
	before := i.current()
	if i.current() != before {
		t.Error("files were read for every handshake")
	}
	now = now.Add(2*time.Minute + time.Second)
	if i.current() == before {
		t.Error("nobody looked for new files")
	}
}

func TestTheWatchSeesNewFiles(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	dir, logs := t.TempDir(), &telemetrytest.Buffer{}
	p := issue(t, a, shop("order"), nil)
	ok(t, p.Write(dir, a))
	i := must[*Identity](t)(Open(Config{Dir: dir, Peers: everyone, Interval: time.Millisecond, Log: logTo(logs)}))
	defer i.Close()
	next := issue(t, a, shop("order"), nil)
	ok(t, next.Write(dir, a))
	want := must[tls.Certificate](t)(tls.X509KeyPair(next.Cert, next.Key)).Leaf.SerialNumber
	for tick := time.NewTicker(time.Millisecond); i.good.Load().cert.Leaf.SerialNumber.Cmp(want) != 0; {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("the new pair was never seen")
		}
	}
}
