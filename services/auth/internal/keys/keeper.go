package keys

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	domain "github.com/waybill-dev/waybill/services/auth"
)

// freshFor is how old the ring in memory may be. Keys are published long before
// they are used, so a replica that is this much behind misses nothing.
const freshFor = 10 * time.Second

// secretName is the name under which the ring's secret is sealed.
const secretName = "secret"

// Fresh gives a new signing key, sealed.
func (b *Box) Fresh() domain.Key {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err) // the system's randomness never fails
	}
	jwk, err := auth.PublicKey(public)
	if err != nil {
		panic(err) // an Ed25519 key always has a thumbprint
	}
	return domain.Key{ID: jwk.KeyID, Public: public, Private: b.Seal(jwk.KeyID, private.Seed())}
}

// FreshSecret gives a new secret for a ring, sealed.
func (b *Box) FreshSecret() []byte {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	return b.Seal(secretName, secret)
}

// A Keeper keeps the ring at hand.
type Keeper struct {
	box  *Box
	load func(context.Context) (domain.Ring, error)
	ttl  time.Duration
	now  func() time.Time
	log  *slog.Logger

	mu      sync.Mutex
	at      time.Time
	ring    domain.Ring
	signers map[string]*auth.Signer
	secrets *Secrets
}

// NewKeeper makes a Keeper of the ring that load gives; access tokens live for ttl.
func NewKeeper(box *Box, load func(context.Context) (domain.Ring, error), ttl time.Duration, now func() time.Time, log *slog.Logger) *Keeper {
	return &Keeper{box: box, load: load, ttl: ttl, now: now, log: log, signers: map[string]*auth.Signer{}}
}

// current gives the ring, read again if it is old. While the database is away the
// last ring is good.
func (k *Keeper) current(ctx context.Context) (domain.Ring, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	age := now.Sub(k.at)
	if k.secrets != nil && age >= 0 && age < freshFor {
		return k.ring, nil
	}
	ring, err := k.load(ctx)
	if err == nil && k.secrets == nil {
		var secret []byte
		if secret, err = k.box.Open(secretName, ring.Secret); err == nil {
			k.secrets = NewSecrets(secret)
		}
	}
	if err != nil {
		if k.secrets == nil || errs.KindOf(err) == errs.Canceled {
			return domain.Ring{}, err
		}
		k.log.Warn("the key ring cannot be read; the last one is used on", "error", err)
	} else {
		k.ring = ring
	}
	k.at = now
	return k.ring, nil
}

// Secrets gives what refresh tokens and e-mail keys are made with.
func (k *Keeper) Secrets(ctx context.Context) (*Secrets, error) {
	if _, err := k.current(ctx); err != nil {
		return nil, err
	}
	return k.secrets, nil // set once, before current first succeeds
}

// Sign makes an access token with the key whose turn it is.
func (k *Keeper) Sign(ctx context.Context, c auth.Caller) (token string, expires time.Time, err error) {
	ring, err := k.current(ctx)
	if err != nil {
		return "", time.Time{}, err
	}
	key, ok := ring.Signing(k.now())
	if !ok {
		return "", time.Time{}, fmt.Errorf("keys: no key signs at this time")
	}
	signer, err := k.signer(key)
	if err != nil {
		return "", time.Time{}, err
	}
	return signer.Sign(c)
}

func (k *Keeper) signer(key domain.Key) (*auth.Signer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s, ok := k.signers[key.ID]; ok {
		return s, nil
	}
	seed, err := k.box.Open(key.ID, key.Private)
	if err != nil {
		return nil, err
	}
	if len(seed) != ed25519.SeedSize {
		return nil, errs.E(errs.FailedPrecondition, "KEYS_CORRUPT", "the stored key %s cannot be read", key.ID)
	}
	s, err := auth.NewSigner(ed25519.NewKeyFromSeed(seed), k.ttl, k.now)
	if err != nil {
		return nil, err
	}
	clear(k.signers) // one key signs at a time
	k.signers[key.ID] = s
	return s, nil
}

// Public gives all published keys.
func (k *Keeper) Public(ctx context.Context) ([]*authv1.JsonWebKey, error) {
	ring, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	keys := make([]*authv1.JsonWebKey, len(ring.Keys))
	for i, key := range ring.Keys {
		keys[i] = &authv1.JsonWebKey{
			Kty: "OKP", Crv: "Ed25519", Alg: "EdDSA", Use: "sig", Kid: key.ID, X: base64.RawURLEncoding.EncodeToString(key.Public),
		}
	}
	return keys, nil
}
