package keys

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	domain "github.com/waybill-dev/waybill/services/auth"
)

func box(t *testing.T, secret string) *Box {
	t.Helper()
	b, err := NewBox(secret)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestOnlyTheSameSecretOpensABox(t *testing.T) {
	data := []byte("the private key")
	stored := box(t, "s3cret").Seal("k1", data)
	if bytes.Contains(stored, data) {
		t.Error("it lies in the open")
	}
	if got, err := box(t, "s3cret").Open("k1", stored); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %q, %v", got, err)
	}
	changed := slices.Clone(stored)
	changed[len(changed)-1] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"another secret": func() ([]byte, error) { return box(t, "other").Open("k1", stored) },
		"no secret":      func() ([]byte, error) { return box(t, "").Open("k1", stored) },
		"another name":   func() ([]byte, error) { return box(t, "s3cret").Open("k2", stored) },
		"a changed bit":  func() ([]byte, error) { return box(t, "s3cret").Open("k1", changed) },
		"cut off":        func() ([]byte, error) { return box(t, "s3cret").Open("k1", stored[:8]) },
		"nothing":        func() ([]byte, error) { return box(t, "s3cret").Open("k1", nil) },
		"unknown form":   func() ([]byte, error) { return box(t, "s3cret").Open("k1", append([]byte{9}, stored...)) },
	} {
		if got, err := open(); errs.KindOf(err) != errs.FailedPrecondition {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	if got, err := box(t, "introduced later").Open("k1", box(t, "").Seal("k1", data)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("what was stored plain: got %q, %v", got, err)
	}
}

func TestRefreshTokensAreRecognisedAndLeadToOneSuccessor(t *testing.T) {
	s := NewSecrets([]byte("server secret"))
	id := uuid.Must(uuid.NewV7()).String()
	first := s.First(id)
	parsed, ok := s.Parse(first.Text())
	if !ok || parsed.SessionID != id || !bytes.Equal(parsed.Hash(), first.Hash()) {
		t.Fatalf("got %+v, %v", parsed, ok)
	}
	next := s.Next(first)
	if again := s.Next(parsed); again.Text() != next.Text() || next.Text() == first.Text() || next.SessionID != id {
		t.Errorf("successors are %s and %s", next.Text(), again.Text())
	}
	if other := s.First(id); other.Text() == first.Text() || s.Next(other).Text() == next.Text() {
		t.Error("two tokens are the same")
	}
	if _, ok := NewSecrets([]byte("another")).Parse(first.Text()); ok {
		t.Error("a token of another server is taken")
	}
	raw, err := base64.RawURLEncoding.DecodeString(first.Text())
	if err != nil {
		t.Fatal(err)
	}
	for i := range raw {
		changed := slices.Clone(raw)
		changed[i] ^= 0x10
		if _, ok := s.Parse(base64.RawURLEncoding.EncodeToString(changed)); ok {
			t.Fatalf("byte %d may be changed", i)
		}
	}
	for _, bad := range []string{"", "x", first.Text() + "=", first.Text()[1:], first.Text() + "A", first.Text() + "\n", "eyJhbGciOiJFZERTQSJ9.e30.AAAA"} {
		if _, ok := s.Parse(bad); ok {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzRefreshTokensNeverPanic(f *testing.F) {
	s := NewSecrets([]byte("server secret"))
	f.Add(s.First(uuid.NewString()).Text())
	f.Fuzz(func(t *testing.T, text string) {
		if r, ok := s.Parse(text); ok && r.Text() != text {
			t.Errorf("%q is also %q", text, r.Text())
		}
	})
}

func TestEmailKeysAreOfTheServer(t *testing.T) {
	a, again, b := NewSecrets([]byte("a")), NewSecrets([]byte("a")), NewSecrets([]byte("b"))
	if a.EmailID("x@example.com") != again.EmailID("x@example.com") || a.EmailID("x@example.com") == b.EmailID("x@example.com") || a.EmailID("x") == a.EmailID("y") {
		t.Error("email keys are not what they should be")
	}
}

// stand is a keeper on a ring that a test turns.
type stand struct {
	*Keeper
	now   time.Time
	ring  domain.Ring
	err   error
	loads int
}

func newStand(t *testing.T, secret string) *stand {
	s := &stand{now: time.Now()}
	b := box(t, secret)
	s.ring.Secret = b.FreshSecret()
	s.Keeper = NewKeeper(b, func(context.Context) (domain.Ring, error) { s.loads++; return s.ring, s.err }, 10*time.Minute,
		func() time.Time { return s.now }, slog.New(slog.DiscardHandler))
	return s
}

// Keys makes the stand a source for verifiers.
func (s *stand) Keys(ctx context.Context) (set auth.KeySet, err error) {
	public, err := s.Public(ctx)
	for _, k := range public {
		data, _ := protojson.Marshal(k)
		var key jose.JSONWebKey
		if err := key.UnmarshalJSON(data); err != nil {
			return set, err
		}
		set.Keys.Keys = append(set.Keys.Keys, key)
	}
	return set, err
}

func TestTokensAreVerifiedThroughARotation(t *testing.T) {
	for _, secret := range []string{"", "sealed"} {
		s := newStand(t, secret)
		rotation := domain.Rotation{Every: 10 * time.Hour, Ahead: time.Hour, Keep: 12 * time.Minute}
		verifier := auth.NewVerifier(s, auth.VerifierConfig{Now: func() time.Time { return s.now }})
		caller := auth.Caller{UserID: "u", Role: auth.Customer, SessionID: "s"}
		var last, signedBy string
		turns := 0
		for range 40 * 12 {
			s.ring, _ = s.ring.Turn(s.now, rotation, s.box.Fresh)
			token, expires, err := s.Sign(t.Context(), caller)
			if err != nil {
				t.Fatal(err)
			}
			if d := expires.Sub(s.now); d > 10*time.Minute || d < 10*time.Minute-time.Second {
				t.Fatalf("the token lives for %s", d)
			}
			for _, one := range []string{token, last} {
				if one == "" {
					continue
				}
				if got, _, err := verifier.Verify(t.Context(), one); err != nil || got != caller {
					t.Fatalf("%+v, %v", got, err)
				}
			}
			if k, _ := s.ring.Signing(s.now); k.ID != signedBy {
				signedBy = k.ID
				turns++
			}
			last = token
			s.now = s.now.Add(5 * time.Minute)
		}
		if turns < 4 {
			t.Errorf("%d keys signed", turns)
		}
	}
}

func TestTheRingIsReadOnceInAWhileAndUsedOnWhenTheDatabaseIsAway(t *testing.T) {
	s := newStand(t, "")
	s.ring, _ = s.ring.Turn(s.now, domain.Rotation{Every: time.Hour, Ahead: time.Minute}, s.box.Fresh)
	for range 100 {
		if _, err := s.Public(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.loads != 1 {
		t.Errorf("read %d times", s.loads)
	}
	s.err = errors.New("away")
	s.now = s.now.Add(freshFor)
	if _, _, err := s.Sign(t.Context(), auth.Caller{UserID: "u", Role: auth.Admin, SessionID: "s"}); err != nil || s.loads != 2 {
		t.Errorf("read %d times, %v", s.loads, err)
	}
	fresh := newStand(t, "")
	fresh.err = errors.New("away")
	if _, err := fresh.Secrets(t.Context()); err == nil {
		t.Error("secrets out of nothing")
	}
}

func TestAWrongKeySecretIsToldAtOnce(t *testing.T) {
	s := newStand(t, "right")
	s.Keeper = NewKeeper(box(t, "wrong"), func(context.Context) (domain.Ring, error) { return s.ring, nil }, time.Minute, time.Now, slog.New(slog.DiscardHandler))
	if _, err := s.Secrets(t.Context()); errs.ReasonOf(err) != "KEY_SECRET_WRONG" {
		t.Errorf("got %v", err)
	}
}

func TestWithoutAKeyNothingIsSigned(t *testing.T) {
	s := newStand(t, "")
	if _, _, err := s.Sign(t.Context(), auth.Caller{UserID: "u", Role: auth.Admin, SessionID: "s"}); err == nil {
		t.Error("signed by nothing")
	}
	s.ring.Keys = []domain.Key{{ID: "k", Private: s.box.Seal("k", make([]byte, ed25519.SeedSize-1)), From: s.now}}
	s.now = s.now.Add(freshFor)
	if _, _, err := s.Sign(t.Context(), auth.Caller{UserID: "u", Role: auth.Admin, SessionID: "s"}); errs.ReasonOf(err) != "KEYS_CORRUPT" {
		t.Errorf("got %v", err)
	}
}
