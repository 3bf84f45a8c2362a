// Package keys holds the secrets of the auth service: it seals them for the
// database, signs access tokens with the key whose turn it is, and makes refresh
// tokens.
package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	"github.com/waybill-dev/waybill/platform/errs"
)

// A Box seals secrets with AES-256-GCM. A Box without a secret leaves them as
// they are; then whoever reads the database can sign tokens.
type Box struct{ aead cipher.AEAD }

// The first byte of what a Box gives says how to read it.
const (
	plain  = 0
	sealed = 1
)

// NewBox makes a Box of a secret text, "" for none.
func NewBox(secret string) (*Box, error) {
	if secret == "" {
		return &Box{}, nil
	}
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "waybill auth keys at rest", 32)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	return &Box{aead}, nil
}

// Seal gives data in the form in which it is stored under a name.
func (b *Box) Seal(name string, data []byte) []byte {
	if b.aead == nil {
		return append([]byte{plain}, data...)
	}
	nonce := make([]byte, b.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails
	return b.aead.Seal(append([]byte{sealed}, nonce...), nonce, data, []byte(name))
}

// Open gives back what was sealed under the name. What was stored plain is read
// also by a Box with a secret, so that one can be introduced later. It fails with
// FailedPrecondition when the secret is not the one it was sealed with.
func (b *Box) Open(name string, stored []byte) ([]byte, error) {
	switch {
	case len(stored) > 0 && stored[0] == plain:
		return stored[1:], nil
	case b.aead == nil:
		return nil, errs.E(errs.FailedPrecondition, "KEY_SECRET_MISSING", "the signing keys are sealed; auth.key_secret is needed to open them")
	case len(stored) < 1+b.aead.NonceSize() || stored[0] != sealed:
		return nil, errs.E(errs.FailedPrecondition, "KEYS_CORRUPT", "the stored key %s cannot be read", name)
	}
	nonce, body := stored[1:1+b.aead.NonceSize()], stored[1+b.aead.NonceSize():]
	data, err := b.aead.Open(nil, nonce, body, []byte(name))
	if err != nil {
		return nil, errs.Wrap(err, errs.FailedPrecondition, "KEY_SECRET_WRONG", "the signing keys were sealed with another auth.key_secret")
	}
	return data, nil
}
