package mtls

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// backdate is how far the clocks of two machines may differ when a certificate is
// fresh.
const backdate = time.Minute

// An Authority makes certificates, for trials and tests. In production a program
// made for it does, such as cert-manager.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

// NewAuthority makes an authority that is good for ttl. Its key is ECDSA P-256,
// which everything that speaks TLS 1.3 understands; Ed25519 is refused by some.
func NewAuthority(name string, ttl time.Duration, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(ttl),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert, key, encode("CERTIFICATE", der)}, nil
}

// LoadAuthority reads an authority from a directory: ca.crt and ca.key, or
// tls.crt and tls.key as a Secret of Kubernetes holds them. The error is
// os.ErrNotExist when there is neither.
func LoadAuthority(dir string) (*Authority, error) {
	var missing error
	for _, names := range [][2]string{{CAFile, "ca.key"}, {CertFile, KeyFile}} {
		cert, err := os.ReadFile(filepath.Join(dir, names[0]))
		key, err2 := os.ReadFile(filepath.Join(dir, names[1]))
		if err = errors.Join(err, err2); err != nil {
			missing = errors.Join(missing, err)
			continue
		}
		a, err := parseAuthority(cert, key)
		if err != nil {
			return nil, fmt.Errorf("the authority in %s: %s and %s: %w", dir, names[0], names[1], err)
		}
		return a, nil
	}
	return nil, fmt.Errorf("there is no authority in %s: %w", dir, missing)
}

func parseAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("there is no certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	if !cert.IsCA {
		return nil, errors.New("the certificate is not one of an authority")
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, err
	}
	public, ok := cert.PublicKey.(interface{ Equal(x crypto.PublicKey) bool })
	if !ok || !public.Equal(key.Public()) {
		return nil, errors.New("certificate and key do not belong together")
	}
	return &Authority{cert, key, encode("CERTIFICATE", cert.Raw)}, nil
}

// parseKey reads a private key in any of the forms in use.
func parseKey(data []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, errors.New("there is no key")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("a %s is not a private key", block.Type)
	}
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", key)
	}
	return signer, nil
}

// PEM gives the authority's certificate.
func (a *Authority) PEM() []byte { return a.pem }

// NotAfter tells when the authority's certificate ends.
func (a *Authority) NotAfter() time.Time { return a.cert.NotAfter }

// Save writes ca.crt and ca.key to a directory; the key is readable by its owner
// only.
func (a *Authority) Save(dir string) error {
	key, err := encodeKey(a.key)
	if err != nil {
		return err
	}
	return write(dir, file{"ca.key", key, 0o600}, file{CAFile, a.pem, 0o644})
}

// A Pair is a certificate with its key, as PEM.
type Pair struct {
	Cert, Key []byte
	NotAfter  time.Time
}

// Issue makes a certificate for id with a key of its own, for both ends of a
// connection. It is good for ttl, but never longer than the authority's own.
func (a *Authority) Issue(id ID, ttl time.Duration, now time.Time) (Pair, error) {
	if err := id.Validate(); err != nil {
		return Pair{}, err
	}
	end := now.Add(ttl)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	return a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: id.Account}, URIs: []*url.URL{id.URI()},
		NotBefore: now.Add(-backdate), NotAfter: end,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// issue signs any template.
func (a *Authority) issue(template *x509.Certificate) (Pair, error) {
	if !template.NotAfter.After(template.NotBefore) {
		return Pair{}, fmt.Errorf("the certificate would have ended at %s already", stamp(template.NotAfter))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	if template.SerialNumber, err = newSerial(); err != nil {
		return Pair{}, err
	}
	template.BasicConstraintsValid = true
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return Pair{}, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: encode("CERTIFICATE", der), Key: keyPEM, NotAfter: template.NotAfter}, nil
}

// Write puts a pair and the certificates of the authorities to believe in into a
// directory, each file at once; the key is readable by its owner only.
func (p Pair) Write(dir string, authorities ...*Authority) error {
	var ca bytes.Buffer
	for _, a := range authorities {
		ca.Write(a.pem)
	}
	return write(dir, file{CAFile, ca.Bytes(), 0o644}, file{KeyFile, p.Key, 0o600}, file{CertFile, p.Cert, 0o644})
}

type file struct {
	name string
	data []byte
	mode os.FileMode
}

// write replaces files one after the other; a reader sees each old or new, never
// in part.
func write(dir string, all ...file) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	for _, f := range all {
		if err := replace(filepath.Join(dir, f.name), f); err != nil {
			return err
		}
	}
	return nil
}

func replace(path string, f file) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+f.name+"-*") // for its owner only
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	_, err = tmp.Write(f.data)
	if err = errors.Join(err, tmp.Chmod(f.mode), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return encode("PRIVATE KEY", der), nil
}
