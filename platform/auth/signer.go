package auth

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/google/uuid"
)

// What every access token of Waybill says of itself.
const (
	Issuer      = "waybill"
	Audience    = "waybill"
	tokenType   = "at+jwt" // RFC 9068; keeps other JWTs of the same key from passing as access tokens
	accessUse   = "access"
	signatures  = jose.EdDSA
	maxTokenLen = 8 << 10
)

// claims is the payload of an access token. Times are whole seconds: anything
// else than a plain integer does not decode.
type claims struct {
	Issuer    string   `json:"iss"`
	Audience  audience `json:"aud"`
	Subject   string   `json:"sub"`
	Role      Role     `json:"role"`
	Session   string   `json:"sid"`
	Use       string   `json:"token_use"`
	ID        string   `json:"jti"`
	IssuedAt  *int64   `json:"iat"`
	NotBefore *int64   `json:"nbf,omitempty"`
	Expires   *int64   `json:"exp"`
}

// audience is one string or a list of them, as RFC 7519 allows.
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[]string)(a))
	}
	var one string
	if err := json.Unmarshal(b, &one); err != nil {
		return err
	}
	*a = audience{one}
	return nil
}

// A Signer makes access tokens.
type Signer struct {
	signer jose.Signer
	public jose.JSONWebKey
	ttl    time.Duration
	now    func() time.Time
}

// NewSigner makes a signer whose tokens live for ttl, at most an hour: a token
// cannot be taken back, only its session revoked. A nil now is time.Now.
func NewSigner(key ed25519.PrivateKey, ttl time.Duration, now func() time.Time) (*Signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("auth: an Ed25519 private key has %d bytes, not %d", ed25519.PrivateKeySize, len(key))
	}
	if ttl <= 0 || ttl > maxLifetime {
		return nil, fmt.Errorf("auth: access tokens may live for up to %s, not %s", maxLifetime, ttl)
	}
	if now == nil {
		now = time.Now
	}
	public, err := PublicKey(key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	s, err := jose.NewSigner(
		jose.SigningKey{Algorithm: signatures, Key: jose.JSONWebKey{Key: key, KeyID: public.KeyID}},
		(&jose.SignerOptions{}).WithType(tokenType))
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	return &Signer{signer: s, public: public, ttl: ttl, now: now}, nil
}

// PublicKey gives the form in which key is published; its id is its thumbprint
// (RFC 7638), so the same key always has the same id.
func PublicKey(key ed25519.PublicKey) (jose.JSONWebKey, error) {
	k := jose.JSONWebKey{Key: key, Algorithm: string(signatures), Use: "sig"}
	sum, err := k.Thumbprint(crypto.SHA256)
	if err != nil {
		return k, fmt.Errorf("auth: %w", err)
	}
	k.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	return k, nil
}

// Public gives the key that verifies the signer's tokens.
func (s *Signer) Public() jose.JSONWebKey { return s.public }

// Sign makes an access token for c, who must be a user, and says when it ends.
func (s *Signer) Sign(c Caller) (token string, expires time.Time, err error) {
	if c.UserID == "" || c.SessionID == "" || !userRole(c.Role) {
		return "", time.Time{}, fmt.Errorf("auth: a token needs a user, a session and a user's role, not %+v", c)
	}
	now := s.now()
	iat, exp := now.Unix(), now.Add(s.ttl).Unix()
	payload, err := json.Marshal(claims{
		Issuer: Issuer, Audience: audience{Audience}, Subject: c.UserID, Role: c.Role, Session: c.SessionID,
		Use: accessUse, ID: uuid.NewString(), IssuedAt: &iat, NotBefore: &iat, Expires: &exp,
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("auth: %w", err)
	}
	jws, err := s.signer.Sign(payload)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("auth: %w", err)
	}
	token, err = jws.CompactSerialize()
	return token, time.Unix(exp, 0), err
}

func userRole(r Role) bool { return r == Customer || r == Staff || r == Admin }
