package mtls

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/telemetry/telemetrytest"
)

func logTo(l *telemetrytest.Buffer) *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func TestAnIDIsWrittenInOneWayOnly(t *testing.T) {
	t.Parallel()
	good := "spiffe://cluster.local/ns/shop/sa/waybill-order"
	id := must[ID](t)(ParseID(must[*url.URL](t)(url.Parse(good))))
	if want := (ID{"cluster.local", "shop", "waybill-order"}); id != want || id.String() != good || id.URI().String() != good {
		t.Errorf("%s became %+v, %s, %s", good, id, id, id.URI())
	}
	for _, bad := range []string{
		"", "order", "https://cluster.local/ns/shop/sa/order", "SPIFFE2://cluster.local/ns/shop/sa/order",
		"spiffe://cluster.local", "spiffe:///ns/shop/sa/order", "spiffe://cluster.local/ns/shop", "spiffe://cluster.local/ns/shop/sa/",
		"spiffe://cluster.local/ns//sa/order", "spiffe://cluster.local/ns/shop/sa/order/", "spiffe://cluster.local/ns/shop/sa/order/x",
		"spiffe://cluster.local//ns/shop/sa/order", "spiffe://cluster.local/sa/order/ns/shop", "spiffe://Cluster.local/ns/shop/sa/order",
		"spiffe://cluster.local:443/ns/shop/sa/order", "spiffe://u@cluster.local/ns/shop/sa/order", "spiffe://cluster.local/ns/shop/sa/order?x=1",
		"spiffe://cluster.local/ns/shop/sa/order#x", "spiffe://cluster.local/ns/shop/sa/%6Frder", "spiffe://cluster.local/ns/shop/sa/or%2Fder",
		"spiffe://cluster.local/ns/../sa/order", "spiffe://cluster.local/ns/shop/sa/or der", "spiffe://cluster.local/ns/shop/sa/*", "spiffe:opaque",
	} {
		u, err := url.Parse(bad)
		if err != nil {
			continue
		}
		if id, err := ParseID(u); err == nil {
			t.Errorf("%q became %s", bad, id)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://cluster.local/ns/shop/sa/order")
	f.Add("spiffe://cluster.local/ns/shop/sa/%6Frder")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := url.Parse(s)
		if err != nil {
			return
		}
		id, err := ParseID(u)
		if err != nil {
			return
		}
		if again := must[ID](t)(ParseID(id.URI())); again != id || strings.Count(id.String(), "/") != 6 {
			t.Errorf("%q became %s", s, id)
		}
	})
}

func TestPeersAreReadStrictly(t *testing.T) {
	t.Parallel()
	got := must[Peers](t)(ParsePeers("waybill-order=order", " waybill-back=payment+shipping"))
	if diff := cmp.Diff(Peers{"waybill-order": {"order"}, "waybill-back": {"payment", "shipping"}}, got); diff != "" {
		t.Error(diff)
	}
	for _, bad := range [][]string{{""}, {"order"}, {"=order"}, {"order="}, {"order=a+"}, {"order=+a"}, {"or der=a"}, {"order=a", "order=b"}, {"*=order"}} {
		if p, err := ParsePeers(bad...); err == nil {
			t.Errorf("%q became %v", bad, p)
		}
	}
}

func TestAnAuthorityIsReadInEveryForm(t *testing.T) {
	t.Parallel()
	// As the template functions of Helm make it: RSA, PKCS #1.
	key := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "helm"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert := encode("CERTIFICATE", must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)))
	private := encode("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
	ours := newAuthority(t)
	ec := encode("EC PRIVATE KEY", must[[]byte](t)(x509.MarshalECPrivateKey(ours.key.(*ecdsa.PrivateKey))))
	for name, files := range map[string]map[string][]byte{
		"a Secret of Kubernetes":     {CertFile: cert, KeyFile: private},
		"with the bundle beside it":  {CertFile: cert, KeyFile: private, CAFile: cert},
		"by its own names":           {CAFile: cert, "ca.key": private},
		"with a key of the old form": {CAFile: ours.PEM(), "ca.key": ec},
	} {
		dir := t.TempDir()
		for n, data := range files {
			ok(t, os.WriteFile(filepath.Join(dir, n), data, 0o600))
		}
		a, err := LoadAuthority(dir)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := must[Pair](t)(a.Issue(shop("order"), time.Hour, time.Now()))
		newParty(t, p, a)
	}
	saved := t.TempDir()
	ok(t, ours.Save(saved))
	if info := must[fs.FileInfo](t)(os.Stat(filepath.Join(saved, "ca.key"))); info.Mode().Perm() != 0o600 {
		t.Errorf("the key may be read by others: %s", info.Mode())
	}
	again := must[*Authority](t)(LoadAuthority(saved))
	if !again.cert.Equal(ours.cert) {
		t.Error("another authority came back")
	}
}

func TestAnAuthorityThatCannotBeOneIsRefused(t *testing.T) {
	t.Parallel()
	a, b := newAuthority(t), newAuthority(t)
	leaf := issue(t, a, shop("order"), nil)
	private := must[[]byte](t)(encodeKey(b.key))
	for want, files := range map[string]map[string][]byte{
		"do not belong together":  {CAFile: a.PEM(), "ca.key": private},
		"not one of an authority": {CAFile: leaf.Cert, "ca.key": leaf.Key},
		"there is no certificate": {CAFile: []byte("x"), "ca.key": private},
		"there is no key":         {CAFile: a.PEM(), "ca.key": []byte("x")},
		"is not a private key":    {CAFile: a.PEM(), "ca.key": a.PEM()},
	} {
		dir := t.TempDir()
		for n, data := range files {
			ok(t, os.WriteFile(filepath.Join(dir, n), data, 0o600))
		}
		_, err := LoadAuthority(dir)
		wantText(t, err, want)
	}
	if _, err := LoadAuthority(t.TempDir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestACertificateEndsWithItsAuthority(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	p := must[Pair](t)(a.Issue(shop("order"), 24*time.Hour, time.Now()))
	if !p.NotAfter.Equal(a.NotAfter()) {
		t.Errorf("it ends at %s, the authority at %s", p.NotAfter, a.NotAfter())
	}
	if _, err := a.Issue(shop("order"), time.Hour, time.Now().Add(3*time.Hour)); err == nil {
		t.Error("a dead authority made a certificate")
	}
	if _, err := a.Issue(ID{"x", "y", "a/b"}, time.Hour, time.Now()); err == nil {
		t.Error("an account with a slash got a certificate")
	}
}
