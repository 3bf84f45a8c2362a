package keys

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"

	"github.com/google/uuid"
)

const (
	coreLen = 32 // 256 bits that cannot be guessed
	markLen = 16
)

var b64 = base64.RawURLEncoding.Strict()

// Secrets makes and recognises refresh tokens, and gives e-mail addresses the
// keys under which they are stored.
//
// A refresh token is the session's id, 256 random bits, and a mark that proves it
// was given out here: so a token nobody was ever given cannot end a session. The
// successor's bits are derived from those of the token it follows, so that giving
// the same successor again needs no plaintext to be kept. The database holds
// hashes only; with all of it, the secret included, no good token can be made.
type Secrets struct{ mark, next, email []byte }

// NewSecrets derives everything from one secret.
func NewSecrets(secret []byte) *Secrets {
	derive := func(label string) []byte { return mac(secret, []byte(label)) }
	return &Secrets{mark: derive("refresh mark"), next: derive("refresh successor"), email: derive("email")}
}

func mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	for _, p := range parts {
		m.Write(p)
	}
	return m.Sum(nil)
}

// A Refresh is one refresh token.
type Refresh struct {
	SessionID string
	text      string
	core      []byte
}

// Text is what the client is given.
func (r Refresh) Text() string { return r.text }

// Hash is what is stored.
func (r Refresh) Hash() []byte {
	sum := sha256.Sum256([]byte(r.text))
	return sum[:]
}

// First gives the first refresh token of a session.
func (s *Secrets) First(sessionID string) Refresh {
	core := make([]byte, coreLen)
	_, _ = rand.Read(core) // never fails
	return s.token(uuid.MustParse(sessionID), core)
}

// Next gives the successor of a token, every time the same.
func (s *Secrets) Next(r Refresh) Refresh {
	id := uuid.MustParse(r.SessionID)
	return s.token(id, mac(s.next, id[:], r.core))
}

func (s *Secrets) token(id uuid.UUID, core []byte) Refresh {
	body := append(id[:], core...)
	return Refresh{
		SessionID: id.String(), core: core,
		text: b64.EncodeToString(append(body, mac(s.mark, body)[:markLen]...)),
	}
}

// Parse reads a token and reports whether it was given out here.
func (s *Secrets) Parse(text string) (Refresh, bool) {
	data, err := b64.DecodeString(text)
	if err != nil || len(data) != len(uuid.UUID{})+coreLen+markLen || len(text) != b64.EncodedLen(len(data)) {
		return Refresh{}, false
	}
	body, mark := data[:len(data)-markLen], data[len(data)-markLen:]
	if subtle.ConstantTimeCompare(mark, mac(s.mark, body)[:markLen]) != 1 {
		return Refresh{}, false
	}
	id := uuid.UUID(body[:len(uuid.UUID{})])
	return Refresh{SessionID: id.String(), text: text, core: body[len(id):]}, true
}

// EmailID gives the key under which an address, folded, is stored.
func (s *Secrets) EmailID(folded string) string {
	return hex.EncodeToString(mac(s.email, []byte(folded)))
}
