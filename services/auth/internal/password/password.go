// Package password hashes passwords with argon2id, so that what is stored tells
// as little as possible about them.
package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/waybill-dev/waybill/platform/errs"
)

const (
	saltLen = 16
	tagLen  = 32
)

// Params are the cost of one hash.
type Params struct {
	Memory  uint32 // KiB
	Time    uint32 // passes
	Threads uint8
}

// Config is how a Hasher works.
type Config struct {
	Params
	Parallel int           // hashes at once; each takes Memory
	Wait     time.Duration // how long a caller waits for its turn

	// KDF replaces argon2id, for tests that count or hold it.
	KDF func(password, salt []byte, p Params) []byte
}

// A Hasher makes and checks hashes. It is safe for concurrent use and never
// hashes more at once than it was told, so that its memory is bounded.
type Hasher struct {
	cfg   Config
	slots chan struct{}
	dummy string
}

// New makes a Hasher.
func New(cfg Config) *Hasher {
	if cfg.KDF == nil {
		cfg.KDF = func(password, salt []byte, p Params) []byte {
			return argon2.IDKey(password, salt, p.Time, p.Memory, p.Threads, tagLen)
		}
	}
	h := &Hasher{cfg: cfg, slots: make(chan struct{}, max(cfg.Parallel, 1))}
	// The dummy is the hash of nothing: no password gives this tag, and finding
	// that out takes as long as finding out that a password is wrong.
	h.dummy = phc{cfg.Params, random(saltLen), random(tagLen)}.String()
	return h
}

// Hash gives the PHC string of a password under a new salt. It fails with
// ResourceExhausted when too many others are being hashed.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	p := phc{Params: h.cfg.Params, salt: random(saltLen)}
	tag, err := h.derive(ctx, password, p)
	p.tag = tag
	return p.String(), err
}

// Check reports whether hash is of password, and whether it should be made anew
// because it was made with other parameters. A hash of "", as of nobody, takes as
// long as any other and is of no password. Errors are as of Hash.
func (h *Hasher) Check(ctx context.Context, hash, password string) (ok, stale bool, err error) {
	known := hash != ""
	if !known {
		hash = h.dummy
	}
	p, err := parse(hash)
	if err != nil {
		return false, false, err
	}
	tag, err := h.derive(ctx, password, p)
	if err != nil {
		return false, false, err
	}
	ok = subtle.ConstantTimeCompare(tag, p.tag) == 1 && known
	return ok, p.Params != h.cfg.Params, nil
}

func (h *Hasher) derive(ctx context.Context, password string, p phc) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
	default:
		wait := time.NewTimer(h.cfg.Wait)
		defer wait.Stop()
		select {
		case h.slots <- struct{}{}:
		case <-wait.C:
			return nil, errs.E(errs.ResourceExhausted, "BUSY", "too many people are signing in just now; try again").WithRetryAfter(time.Second)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer func() { <-h.slots }()
	return h.cfg.KDF([]byte(password), p.salt, p.Params), nil
}

// phc is a hash in the PHC string format:
// $argon2id$v=19$m=19456,t=2,p=1$<salt>$<tag>.
type phc struct {
	Params
	salt, tag []byte
}

var b64 = base64.RawStdEncoding.Strict()

func (p phc) String() string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.Memory, p.Time, p.Threads,
		b64.EncodeToString(p.salt), b64.EncodeToString(p.tag))
}

func parse(s string) (phc, error) {
	bad := func(what string) (phc, error) { // never shows the hash
		return phc{}, fmt.Errorf("password: a stored hash cannot be read: %s", what)
	}
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v="+strconv.Itoa(argon2.Version) {
		return bad("format")
	}
	var p phc
	numbers := strings.Split(parts[3], ",")
	if len(numbers) != 3 {
		return bad("parameters")
	}
	for i, want := range []struct {
		name string
		bits int
		set  func(uint64)
	}{
		{"m=", 32, func(n uint64) { p.Memory = uint32(n) }},
		{"t=", 32, func(n uint64) { p.Time = uint32(n) }},
		{"p=", 8, func(n uint64) { p.Threads = uint8(n) }},
	} {
		text, ok := strings.CutPrefix(numbers[i], want.name)
		n, err := strconv.ParseUint(text, 10, want.bits)
		if !ok || err != nil || n == 0 {
			return bad("parameters")
		}
		want.set(n)
	}
	var err error
	if p.salt, err = b64.DecodeString(parts[4]); err != nil || len(p.salt) != saltLen {
		return bad("salt")
	}
	if p.tag, err = b64.DecodeString(parts[5]); err != nil || len(p.tag) != tagLen {
		return bad("tag")
	}
	return p, nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
