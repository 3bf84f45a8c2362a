package auth

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/waybill-dev/waybill/platform/errs"
)

const (
	// leeway is how far the clocks of two machines may differ.
	leeway = 60 * time.Second
	// maxLifetime bounds what a wrongly issued token can do.
	maxLifetime = time.Hour
	// defaultCacheSize is about 4 MB at most.
	defaultCacheSize = 16384
)

// A Verifier tells who a token belongs to. It is safe for concurrent use.
type Verifier struct {
	ring  keyring
	now   func() time.Time
	cache *lru
}

// VerifierConfig is how a Verifier works; the zero value is good.
type VerifierConfig struct {
	CacheSize int              // verified tokens remembered, 0 for 16384
	Now       func() time.Time // nil for time.Now
}

// NewVerifier makes a verifier that takes its keys from source. It asks nothing
// before the first token arrives.
func NewVerifier(source KeySource, cfg VerifierConfig) *Verifier {
	if cfg.CacheSize <= 0 {
		cfg.CacheSize = defaultCacheSize
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Verifier{ring: keyring{source: source, now: cfg.Now}, now: cfg.Now, cache: newLRU(cfg.CacheSize)}
}

// verified is what was found out about a token. It holds as long as the key
// that signed it is published.
type verified struct {
	caller   Caller
	notAfter time.Time
	kid      string
	key      ed25519.PublicKey
}

// Verify gives the caller whom the access token names, and when it ends. Tokens
// whose session was revoked or whose key is no longer published are refused on
// every call, remembered or not. Errors are Unauthenticated, or Unavailable
// when there are no keys to verify with.
func (v *Verifier) Verify(ctx context.Context, token string) (Caller, time.Time, error) {
	if len(token) > maxTokenLen {
		return Caller{}, time.Time{}, invalid(fmt.Errorf("token of %d bytes", len(token)))
	}
	snap, err := v.ring.current(ctx)
	if err != nil {
		return Caller{}, time.Time{}, err
	}
	now := v.now()
	sum := sha256.Sum256([]byte(token))
	known, ok := v.cache.get(sum)
	if !ok || !bytes.Equal(snap.keys[known.kid], known.key) {
		if known, err = v.verify(ctx, snap, token, now); err != nil {
			return Caller{}, time.Time{}, err
		}
		v.cache.put(sum, known)
	}
	if _, revoked := snap.revoked[known.caller.SessionID]; revoked {
		return Caller{}, time.Time{}, errs.E(errs.Unauthenticated, "SESSION_REVOKED", "the session has ended; sign in again")
	}
	if !now.Before(known.notAfter) {
		v.cache.drop(sum)
		return Caller{}, time.Time{}, expired()
	}
	return known.caller, known.notAfter, nil
}

// verify does the whole work for a token not seen before.
func (v *Verifier) verify(ctx context.Context, snap *snapshot, token string, now time.Time) (verified, error) {
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{signatures})
	if err != nil {
		return verified{}, invalid(err)
	}
	header := jws.Signatures[0].Protected
	if err := checkHeader(header); err != nil {
		return verified{}, invalid(err)
	}
	key, ok := snap.keys[header.KeyID]
	if !ok {
		if snap, err = v.ring.refresh(ctx); err != nil {
			return verified{}, err
		}
		if key, ok = snap.keys[header.KeyID]; !ok {
			return verified{}, invalid(errors.New("unknown key id"))
		}
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return verified{}, invalid(err)
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return verified{}, invalid(fmt.Errorf("claims: %w", err))
	}
	if err := c.check(now); err != nil {
		return verified{}, err
	}
	return verified{
		caller:   Caller{UserID: c.Subject, Role: c.Role, SessionID: c.Session},
		notAfter: time.Unix(*c.Expires, 0).Add(leeway),
		kid:      header.KeyID,
		key:      key,
	}, nil
}

// checkHeader refuses every way in which a token could bring its own key.
func checkHeader(h jose.Header) error {
	if h.JSONWebKey != nil {
		return errors.New("header holds a key")
	}
	if _, err := h.Certificates(x509.VerifyOptions{}); !errors.Is(err, jose.ErrMissingX5cHeader) {
		return errors.New("header holds certificates")
	}
	for name := range h.ExtraHeaders {
		if name != jose.HeaderType {
			return fmt.Errorf("header holds %.20q", name)
		}
	}
	if typ, _ := h.ExtraHeaders[jose.HeaderType].(string); typ != tokenType {
		return fmt.Errorf("type %.20q is not %s", typ, tokenType)
	}
	if h.KeyID == "" {
		return errors.New("no key id")
	}
	return nil
}

func (c *claims) check(now time.Time) error {
	switch {
	case c.Issuer != Issuer:
		return invalid(errors.New("other issuer"))
	case !slices.Contains(c.Audience, Audience):
		return invalid(errors.New("other audience"))
	case c.Use != accessUse:
		return invalid(errors.New("not an access token"))
	case c.Subject == "" || c.Session == "":
		return invalid(errors.New("no subject or no session"))
	case !userRole(c.Role):
		return invalid(errors.New("not a user's role"))
	case c.IssuedAt == nil || c.Expires == nil:
		return invalid(errors.New("no iat or no exp"))
	}
	iat, exp, late, early := *c.IssuedAt, *c.Expires, now.Add(-leeway).Unix(), now.Add(leeway).Unix()
	switch {
	// Both are checked against now before they are subtracted, so that nothing overflows.
	case exp <= late:
		return expired()
	case iat > early || c.NotBefore != nil && *c.NotBefore > early:
		return invalid(errors.New("not valid yet"))
	case exp > early+int64(maxLifetime/time.Second) || iat < late-int64(maxLifetime/time.Second):
		return invalid(errors.New("lives too long"))
	}
	return nil
}

// invalid hides from the caller what is wrong: only an attacker needs to know.
func invalid(err error) error {
	return errs.Wrap(err, errs.Unauthenticated, "TOKEN_INVALID", "the access token is not valid; sign in again")
}

func expired() error {
	return errs.E(errs.Unauthenticated, "TOKEN_EXPIRED", "the access token has expired; get a new one")
}
