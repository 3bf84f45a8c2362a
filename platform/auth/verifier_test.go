package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"math/big"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/errs"
)

var alice = Caller{UserID: "u-alice", Role: Customer, SessionID: "s-1"}

// clock is a time that tests move by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// source is a KeySource whose answers tests change and whose calls they count.
type source struct {
	mu    sync.Mutex
	set   KeySet
	err   error
	calls atomic.Int64
}

func (s *source) Keys(context.Context) (KeySet, error) {
	s.calls.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set, s.err
}

func (s *source) answer(err error, revoked []string, keys ...jose.JSONWebKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set, s.err = KeySet{Keys: jose.JSONWebKeySet{Keys: keys}, Revoked: revoked}, err
}

type bench struct {
	*clock
	*source
	key      ed25519.PrivateKey
	signer   *Signer
	verifier *Verifier
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{clock: newClock(), source: &source{}}
	b.key, b.signer = b.newSigner(t)
	b.answer(nil, nil, b.signer.Public())
	b.verifier = NewVerifier(b.source, VerifierConfig{Now: b.Now})
	return b
}

func (b *bench) newSigner(t testing.TB) (ed25519.PrivateKey, *Signer) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSigner(key, 10*time.Minute, b.Now)
	if err != nil {
		t.Fatal(err)
	}
	return key, s
}

func sign(t testing.TB, s *Signer, c Caller) string {
	t.Helper()
	token, _, err := s.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func (b *bench) verify(token string) error {
	_, _, err := b.verifier.Verify(context.Background(), token)
	return err
}

func wantReason(t *testing.T, err error, reason string) {
	t.Helper()
	if got := errs.ReasonOf(err); got != reason {
		t.Fatalf("got %v (reason %q), want reason %q", err, got, reason)
	}
}

func TestASignedTokenNamesItsCaller(t *testing.T) {
	b := newBench(t)
	for range 2 { // the second time it is remembered
		got, until, err := b.verifier.Verify(t.Context(), sign(t, b.signer, alice))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(alice, got); diff != "" {
			t.Error(diff)
		}
		if want := b.Now().Add(10*time.Minute + leeway); !until.Equal(want) {
			t.Errorf("ends %s, want %s", until, want)
		}
	}
}

func TestASignerRefusesWhatIsNoUser(t *testing.T) {
	b := newBench(t)
	for _, c := range []Caller{{}, {UserID: "u", Role: Customer}, {SessionID: "s", Role: Customer}, {UserID: "u", SessionID: "s", Role: Service}, {UserID: "u", SessionID: "s"}} {
		if _, _, err := b.signer.Sign(c); err == nil {
			t.Errorf("signed %+v", c)
		}
	}
	if _, err := NewSigner(b.key, 2*time.Hour, nil); err == nil {
		t.Error("a token of two hours was allowed")
	}
	if _, err := NewSigner(b.key[:12], time.Minute, nil); err == nil {
		t.Error("a short key was allowed")
	}
}

type m = map[string]any

func with(base m, k string, v any) m {
	c := maps.Clone(base)
	if v == nil {
		delete(c, k)
	} else {
		c[k] = v
	}
	return c
}

// forge makes a token of any header and payload; sign gives its signature.
func forge(header, payload any, sign func(input []byte) []byte) string {
	part := func(v any) string {
		b, ok := v.([]byte)
		if !ok {
			b, _ = json.Marshal(v)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	input := part(header) + "." + part(payload)
	return input + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(input)))
}

// TestForgedTokensAreRefused is the table of what attackers send: hazards A2 to
// A5. Each case differs from a good token in one thing only, which the first
// case proves to be good.
func TestForgedTokensAreRefused(t *testing.T) {
	b := newBench(t)
	pub := b.signer.Public()
	kid, now := pub.KeyID, b.Now().Unix()
	ours := func(in []byte) []byte { return ed25519.Sign(b.key, in) }
	mac := func(key []byte) func([]byte) []byte {
		return func(in []byte) []byte { h := hmac.New(sha256.New, key); h.Write(in); return h.Sum(nil) }
	}
	_, strange, _ := ed25519.GenerateKey(rand.Reader)
	theirs := func(in []byte) []byte { return ed25519.Sign(strange, in) }
	curve, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	onCurve := func(in []byte) []byte {
		h := sha256.Sum256(in)
		s, _ := ecdsa.SignASN1(rand.Reader, curve, h[:])
		return s
	}
	pubJSON, _ := pub.MarshalJSON()
	own, _ := PublicKey(strange.Public().(ed25519.PublicKey))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: b.Now().Add(time.Hour)}
	cert := must(x509.CreateCertificate(rand.Reader, template, template, strange.Public(), strange))

	head := m{"alg": "EdDSA", "kid": kid, "typ": tokenType}
	body := m{"iss": Issuer, "aud": Audience, "sub": "u1", "role": "customer", "sid": "s1", "token_use": "access", "jti": "j", "iat": now, "exp": now + 600}
	good := forge(head, body, ours)
	if err := b.verify(good); err != nil {
		t.Fatalf("the good token is refused: %v", err)
	}
	inList := forge(head, with(body, "aud", []string{"other", Audience}), ours)
	if err := b.verify(inList); err != nil {
		t.Fatalf("a list of audiences is refused: %v", err)
	}
	calls := b.calls.Load()

	parts := strings.Split(good, ".")
	raw := func(s string) []byte { return []byte(s) }
	for name, token := range map[string]string{
		"alg none":                      forge(with(head, "alg", "none"), body, func([]byte) []byte { return nil }),
		"alg none, signed":              forge(with(head, "alg", "none"), body, ours),
		"alg None":                      forge(with(head, "alg", "None"), body, ours),
		"alg missing":                   forge(with(head, "alg", nil), body, ours),
		"HS256 with the public key":     forge(with(head, "alg", "HS256"), body, mac(pub.Key.(ed25519.PublicKey))),
		"HS256 with the published key":  forge(with(head, "alg", "HS256"), body, mac(pubJSON)),
		"HS256 with nothing":            forge(with(head, "alg", "HS256"), body, mac(nil)),
		"ES256":                         forge(with(head, "alg", "ES256"), body, onCurve),
		"EdDSA signed on another curve": forge(head, body, onCurve),
		"another key under our key id":  forge(head, body, theirs),
		"no signature":                  forge(head, body, func([]byte) []byte { return nil }),
		"signature stripped":            parts[0] + "." + parts[1] + ".",
		"payload swapped":               parts[0] + "." + base64.RawURLEncoding.EncodeToString(raw(`{"sub":"admin"}`)) + "." + parts[2],
		"its own key in jwk":            forge(with(head, "jwk", own), body, theirs),
		"our key in jwk":                forge(with(head, "jwk", pub), body, ours),
		"jku":                           forge(with(head, "jku", "https://evil.example/keys"), body, ours),
		"x5u":                           forge(with(head, "x5u", "https://evil.example/cert"), body, ours),
		"x5c":                           forge(with(head, "x5c", [][]byte{cert}), body, ours),
		"x5c of its own key":            forge(with(head, "x5c", [][]byte{cert}), body, theirs),
		"x5c that is none":              forge(with(head, "x5c", []string{"AAAA"}), body, ours),
		"crit":                          forge(with(head, "crit", []string{"exp"}), body, ours),
		"b64 false":                     forge(with(head, "b64", false), body, ours),
		"kid is a path":                 forge(with(head, "kid", "../../etc/passwd"), body, ours),
		"kid is SQL":                    forge(with(head, "kid", "' OR 1=1 --"), body, ours),
		"kid is unknown":                forge(with(head, "kid", "k2"), body, ours),
		"kid is empty":                  forge(with(head, "kid", ""), body, ours),
		"kid is missing":                forge(with(head, "kid", nil), body, ours),
		"kid is a number":               forge(with(head, "kid", 7), body, ours),
		"typ JWT":                       forge(with(head, "typ", "JWT"), body, ours),
		"typ missing":                   forge(with(head, "typ", nil), body, ours),
		"refresh token":                 forge(head, with(body, "token_use", "refresh"), ours),
		"token_use missing":             forge(head, with(body, "token_use", nil), ours),
		"nbf in the future":             forge(head, with(body, "nbf", now+61), ours),
		"iat in the future":             forge(head, with(body, "iat", now+61), ours),
		"iat at the end of time":        forge(head, with(body, "iat", int64(1)<<62), ours),
		"iat missing":                   forge(head, with(body, "iat", nil), ours),
		"exp missing":                   forge(head, with(body, "exp", nil), ours),
		"exp as a string":               forge(head, with(body, "exp", "99999999999"), ours),
		"exp 1e300":                     forge(head, with(body, "exp", json.Number("1e300")), ours),
		"exp a fraction":                forge(head, with(body, "exp", json.Number("1767324545.5")), ours),
		"exp beyond 64 bits":            forge(head, with(body, "exp", json.Number("9223372036854775808")), ours),
		"exp at the end of time":        forge(head, with(body, "exp", int64(math.MaxInt64)), ours),
		"lives two hours":               forge(head, with(body, "exp", now+7200), ours),
		"exp twice":                     forge(head, raw(strings.Replace(string(must(json.Marshal(body))), `"exp":`, `"exp":1,"exp":`, 1)), ours),
		"sub missing":                   forge(head, with(body, "sub", nil), ours),
		"sid missing":                   forge(head, with(body, "sid", nil), ours),
		"role missing":                  forge(head, with(body, "role", nil), ours),
		"role service":                  forge(head, with(body, "role", "service"), ours),
		"role root":                     forge(head, with(body, "role", "root"), ours),
		"aud missing":                   forge(head, with(body, "aud", nil), ours),
		"aud other":                     forge(head, with(body, "aud", "other"), ours),
		"aud a number":                  forge(head, with(body, "aud", 1), ours),
		"iss missing":                   forge(head, with(body, "iss", nil), ours),
		"iss other":                     forge(head, with(body, "iss", "https://evil.example"), ours),
		"payload no object":             forge(head, []int{1}, ours),
		"payload empty":                 forge(head, raw(""), ours),
		"header no JSON":                forge(raw("x"), body, ours),
		"empty":                         "",
		"two parts":                     parts[0] + "." + parts[1],
		"four parts":                    good + ".x",
		"a space at the end":            good + " ",
		"padding":                       good + "=",
		"JSON serialization":            `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
	} {
		t.Run(name, func(t *testing.T) { wantReason(t, b.verify(token), "TOKEN_INVALID") })
	}
	if got := b.calls.Load() - calls; got != 0 {
		t.Errorf("forged tokens caused %d fetches within %s of the first", got, unknownAfter)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestATokenEndsOneLeewayAfterItsTime(t *testing.T) {
	b := newBench(t)
	fresh, remembered := sign(t, b.signer, alice), sign(t, b.signer, alice)
	if err := b.verify(remembered); err != nil {
		t.Fatal(err)
	}
	b.advance(10*time.Minute + leeway - time.Second)
	if err := b.verify(remembered); err != nil {
		t.Fatalf("within the leeway: %v", err)
	}
	b.advance(time.Second)
	wantReason(t, b.verify(remembered), "TOKEN_EXPIRED")
	wantReason(t, b.verify(fresh), "TOKEN_EXPIRED")
	if n := b.verifier.cache.len(); n != 0 {
		t.Errorf("%d expired tokens are remembered", n)
	}
}

func TestLongTokensCostNothing(t *testing.T) {
	b := newBench(t)
	for name, token := range map[string]string{
		"1 MB of dots": strings.Repeat(".", 1<<20),
		"20 KB":        strings.Repeat("a", 20<<10),
		"20 KB signed": forge(m{"alg": "EdDSA", "kid": b.signer.Public().KeyID, "typ": tokenType}, m{"x": strings.Repeat("a", 20<<10)}, func(in []byte) []byte { return ed25519.Sign(b.key, in) }),
	} {
		t.Run(name, func(t *testing.T) {
			wantReason(t, b.verify(token), "TOKEN_INVALID")
			if _, err := Bearer([]string{"Bearer " + token}); err == nil {
				t.Error("the header was taken")
			}
			got := testing.Benchmark(func(bb *testing.B) {
				for bb.Loop() {
					_ = b.verify(token)
				}
			})
			if got.AllocedBytesPerOp() > 1<<20 {
				t.Errorf("%d bytes are allocated", got.AllocedBytesPerOp())
			}
		})
	}
}

func TestARevokedSessionIsRefusedEvenWhenRemembered(t *testing.T) {
	b := newBench(t)
	token, other := sign(t, b.signer, alice), sign(t, b.signer, Caller{UserID: "u2", Role: Staff, SessionID: "s-2"})
	if err := b.verify(token); err != nil {
		t.Fatal(err)
	}
	b.answer(nil, []string{alice.SessionID}, b.signer.Public())
	b.advance(staleAfter) // the next call waits for the keys
	wantReason(t, b.verify(token), "SESSION_REVOKED")
	if err := b.verify(other); err != nil {
		t.Errorf("another session: %v", err)
	}
}

func TestRotationRefusesNoTokenUntilTheOldKeyIsRemoved(t *testing.T) {
	b := newBench(t)
	_, next := b.newSigner(t)
	old := sign(t, b.signer, alice)
	if err := b.verify(old); err != nil {
		t.Fatal(err)
	}
	// The new key is published, then used.
	b.answer(nil, nil, b.signer.Public(), next.Public())
	b.advance(unknownAfter)
	fresh := sign(t, next, alice)
	for _, token := range []string{fresh, old} {
		if err := b.verify(token); err != nil {
			t.Fatalf("during the rotation: %v", err)
		}
	}
	b.answer(nil, nil, next.Public())
	b.advance(staleAfter)
	wantReason(t, b.verify(old), "TOKEN_INVALID")
	if err := b.verify(fresh); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
}

func TestAFloodOfUnknownKeysFetchesOncePerInterval(t *testing.T) {
	b := newBench(t)
	if err := b.verify(sign(t, b.signer, alice)); err != nil {
		t.Fatal(err)
	}
	_, strange := b.newSigner(t)
	flood := func() {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 250 {
					if errs.KindOf(b.verify(sign(t, strange, alice))) != errs.Unauthenticated {
						t.Error("a strange token was not refused")
					}
				}
			})
		}
		all.Wait()
	}
	before := b.calls.Load()
	flood()
	if got := b.calls.Load() - before; got != 0 {
		t.Errorf("%d fetches right after a fetch", got)
	}
	b.advance(unknownAfter)
	flood()
	if got := b.calls.Load() - before; got != 1 {
		t.Errorf("%d fetches in the second interval, want 1", got)
	}
}

func TestKnownKeysAreServedOnWhileTheSourceIsAway(t *testing.T) {
	b := newBench(t)
	if err := b.verify(sign(t, b.signer, alice)); err != nil {
		t.Fatal(err)
	}
	b.answer(errors.New("gone"), nil)
	for range 20 {
		b.advance(staleAfter)
		if err := b.verify(sign(t, b.signer, alice)); err != nil {
			t.Fatal(err)
		}
	}
	_, next := b.newSigner(t)
	err := b.verify(sign(t, next, alice))
	if errs.KindOf(err) != errs.Unavailable {
		t.Errorf("a key that may be new is %v, want unavailable", err)
	}
	before := b.calls.Load()
	for range 100 {
		_ = b.verify(sign(t, b.signer, alice))
	}
	if got := b.calls.Load() - before; got != 0 {
		t.Errorf("a source that just failed was asked %d times", got)
	}
}

func TestWithoutAnyKeysTheAnswerIsUnavailable(t *testing.T) {
	b := newBench(t)
	b.answer(errors.New("secret host name"), nil)
	err := b.verify(sign(t, b.signer, alice))
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Unavailable || strings.Contains(e.Message, "secret") {
		t.Fatalf("got %#v", err)
	}
	b.answer(nil, nil, b.signer.Public())
	b.advance(retryAfter)
	if err := b.verify(sign(t, b.signer, alice)); err != nil {
		t.Errorf("after the source came back: %v", err)
	}
}

func TestManyCallersShareOneFetch(t *testing.T) {
	b := newBench(t)
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var calls atomic.Int64
	v := NewVerifier(KeySourceFunc(func(ctx context.Context) (KeySet, error) {
		calls.Add(1)
		once.Do(func() { close(entered) })
		<-release
		return b.Keys(ctx)
	}), VerifierConfig{Now: b.Now})
	token := sign(t, b.signer, alice)
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			if _, _, err := v.Verify(context.Background(), token); err != nil {
				t.Error(err)
			}
		})
	}
	<-entered
	// A caller that gives up does not take the fetch with it.
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := v.Verify(gone, token); errs.KindOf(err) != errs.Unavailable {
		t.Errorf("the caller that left got %v", err)
	}
	close(release)
	all.Wait()
	if n := calls.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestACallerThatFoundNoKeysBeforeAFetchEndedTakesItsResult(t *testing.T) {
	var calls int
	away := errors.New("away")
	r := &keyring{now: newClock().Now, source: KeySourceFunc(func(context.Context) (KeySet, error) {
		calls++
		return KeySet{}, away
	})}
	seen := r.last.Load()
	for range 2 {
		if err := r.wait(t.Context(), r.fetch(seen)); !errors.Is(err, away) {
			t.Errorf("got %v", err)
		}
	}
	if calls != 1 {
		t.Errorf("%d fetches", calls)
	}
	if _ = r.wait(t.Context(), r.fetch(r.last.Load())); calls != 2 {
		t.Errorf("%d fetches, the last for one who knows of the first", calls)
	}
}

func TestOnlyOurKindOfKeysIsTakenFromTheSource(t *testing.T) {
	b := newBench(t)
	curve, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	enc := b.signer.Public()
	enc.Use = "enc"
	nameless := b.signer.Public()
	nameless.KeyID = ""
	b.answer(nil, nil, enc, nameless, jose.JSONWebKey{Key: []byte("secret"), KeyID: "h", Algorithm: "HS256"}, jose.JSONWebKey{Key: &curve.PublicKey, KeyID: "e"})
	wantReason(t, b.verify(sign(t, b.signer, alice)), "TOKEN_INVALID")
	if n := len(b.verifier.ring.snap.Load().keys); n != 0 {
		t.Errorf("%d keys were taken", n)
	}
}

func TestTheCacheForgetsTheTokenUsedLongestAgo(t *testing.T) {
	c := newLRU(2)
	sum := func(s string) [32]byte { return sha256.Sum256([]byte(s)) }
	c.put(sum("a"), verified{kid: "a"})
	c.put(sum("b"), verified{kid: "b"})
	c.get(sum("a"))
	c.put(sum("c"), verified{kid: "c"})
	c.put(sum("c"), verified{kid: "d"})
	if _, ok := c.get(sum("b")); ok || c.len() != 2 {
		t.Errorf("b is remembered: %v, %d entries", ok, c.len())
	}
	if v, ok := c.get(sum("c")); !ok || v.kid != "d" {
		t.Errorf("c is %+v, %v", v, ok)
	}
	if _, ok := c.get(sum("a")); !ok {
		t.Error("a was forgotten")
	}
}

func BenchmarkVerify(b *testing.B) {
	bench := newBench(b)
	token := sign(b, bench.signer, alice)
	b.Run("remembered", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := bench.verify(token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			bench.verifier.cache = newLRU(1)
			if err := bench.verify(token); err != nil {
				b.Fatal(err)
			}
		}
	})
}
