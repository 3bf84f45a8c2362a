package system_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"

	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

const listOrders = orderv1.OrderService_ListOrders_FullMethodName

// unauthenticated is the answer to everybody who is nobody.
var unauthenticated = refusal{code: codes.Unauthenticated}

// knock lists orders with whatever headers a test makes up.
func knock(t *testing.T, d door, w *world, token string, nameValue ...string) answer {
	t.Helper()
	a, err := d.call(withHeaders(soon(t), nameValue...), w, token, listOrders, &orderv1.ListOrdersRequest{}, &orderv1.ListOrdersResponse{})
	must(t, err)
	return a
}

func TestNobodyGetsInWithoutAToken(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	throughBoth(t, func(t *testing.T, d door) {
		for name, authorization := range map[string][]string{
			"A1 none":                 nil,
			"A1 empty":                {""},
			"A1 scheme alone":         {"Bearer"},
			"A1 scheme and blank":     {"Bearer "},
			"A1 another scheme":       {"Basic " + encode([]byte("admin:admin"))},
			"A1 no scheme":            {u.token},
			"A1 two tokens in one":    {"Bearer " + u.token + " " + u.token},
			"A1 a list of them":       {"Bearer " + u.token + ", Bearer " + u.token},
			"A1 not a token":          {"Bearer null"},
			"A5 a refresh token":      {"Bearer " + u.refresh},
			"A7 twice":                {"Bearer " + u.token, "Bearer " + u.token},
			"A7 a good and a bad one": {"Bearer " + u.token, "Bearer x.y.z"},
		} {
			t.Run(name, func(t *testing.T) {
				var headers []string
				for _, h := range authorization {
					headers = append(headers, "authorization", h)
				}
				unauthenticated.check(t, knock(t, d, w, "", headers...))
			})
		}
		if a := knock(t, d, w, u.token); a.code != codes.OK {
			t.Errorf("a good token: %+v", a)
		}
	})
}

func TestATokenInTheURLIsNone(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	for _, q := range []string{"access_token", "token", "authorization", "bearer"} {
		r, err := http.NewRequestWithContext(soon(t), http.MethodGet, w.base+"/v1/orders?"+q+"="+u.token, nil)
		must(t, err)
		a, err := w.do(r)
		must(t, err)
		if a.http != http.StatusUnauthorized && a.http != http.StatusBadRequest {
			t.Errorf("%s: %d", q, a.http)
		}
		if strings.Contains(a.text, u.token) {
			t.Errorf("%s: the answer repeats the token", q)
		}
	}
}

// TestATokenBesideTheHeaderIsIgnored is the other half of A7: what grpc-gateway
// would forward as a second authorization never reaches a service.
func TestATokenBesideTheHeaderIsIgnored(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	unauthenticated.check(t, knock(t, restDoor{}, w, "", "Grpc-Metadata-Authorization", "Bearer "+u.token))
	if a := knock(t, restDoor{}, w, u.token, "Grpc-Metadata-Authorization", "Bearer "+w.admin.token); a.http != http.StatusOK {
		t.Errorf("a good token beside an ignored header: %d %s", a.http, a.text)
	}
}

func TestForgedTokensAreRefused(t *testing.T) {
	t.Parallel()
	w, a := getGuarded(t)
	now := time.Now().Unix()
	tokenOf := func(change fields) string { return sign(a.key, header(a.key, nil), a.with(change)) }
	headed := func(change fields) string { return sign(a.key, header(a.key, change), a.with(nil)) }
	good := tokenOf(nil)
	parts := strings.Split(good, ".")
	text := unsigned(header(a.key, fields{"alg": "HS256"}), a.with(nil))
	mac := hmac.New(sha256.New, public(a.key))
	mac.Write([]byte(text))
	jwk := fields{"kty": "OKP", "crv": "Ed25519", "x": encode(public(a.unknown)), "alg": "EdDSA"}
	bad := map[string]string{
		"A2 alg none":                          unsigned(header(a.key, fields{"alg": "none"}), a.with(nil)) + ".",
		"A2 alg None and a signature":          headed(fields{"alg": "None"}),
		"A2 HS256 with the public key":         text + "." + encode(mac.Sum(nil)),
		"A2 ES256 on another curve":            es256(t, a, elliptic.P384()),
		"A2 ES256":                             es256(t, a, elliptic.P256()),
		"A2 signature cut off":                 parts[0] + "." + parts[1] + ".",
		"A2 signature of other claims":         unsigned(header(a.key, nil), a.with(fields{"role": "admin"})) + "." + parts[2],
		"A2 critical extension":                headed(fields{"crit": []string{"exp"}}),
		"A2 two signatures as JSON":            `{"payload":"` + parts[1] + `"}`,
		"A3 key in the header":                 sign(a.unknown, header(a.unknown, fields{"jwk": jwk}), a.with(nil)),
		"A3 key in the header, known id":       sign(a.unknown, header(a.key, fields{"jwk": jwk}), a.with(nil)),
		"A3 jku":                               headed(fields{"jku": w.base + "/.well-known/jwks.json"}),
		"A3 x5u":                               headed(fields{"x5u": "https://attacker.example/cert"}),
		"A3 x5c":                               headed(fields{"x5c": []string{"MIIB"}}),
		"A3 kid is a path":                     headed(fields{"kid": "../../etc/passwd"}),
		"A3 kid is SQL":                        headed(fields{"kid": "' OR 1=1 --"}),
		"A3 kid is a number":                   headed(fields{"kid": 7}),
		"A3 kid unknown":                       sign(a.unknown, header(a.unknown, nil), a.with(nil)),
		"A3 kid missing":                       headed(fields{"kid": ""}),
		"A3 known id, unknown key":             sign(a.unknown, header(a.key, nil), a.with(nil)),
		"A3 another type of token":             headed(fields{"typ": "JWT"}),
		"A4 expired beyond the leeway":         tokenOf(fields{"exp": now - 61, "iat": now - 600, "nbf": now - 600}),
		"A4 not yet":                           tokenOf(fields{"nbf": now + 120}),
		"A4 issued in the future":              tokenOf(fields{"iat": now + 3600, "exp": now + 7200}),
		"A4 without exp":                       tokenOf(fields{"exp": nil}),
		"A4 without sub":                       tokenOf(fields{"sub": nil}),
		"A4 without aud":                       tokenOf(fields{"aud": nil}),
		"A4 without session":                   tokenOf(fields{"sid": nil}),
		"A4 of another issuer":                 tokenOf(fields{"iss": "somebody"}),
		"A4 for another audience":              tokenOf(fields{"aud": "elsewhere"}),
		"A4 exp is text":                       tokenOf(fields{"exp": "never"}),
		"A4 exp is 1e300":                      tokenOf(fields{"exp": 1e300}),
		"A4 exp is the greatest number":        tokenOf(fields{"exp": int64(math.MaxInt64)}),
		"A4 lives for a year":                  tokenOf(fields{"exp": now + 365*86400}),
		"A4 the role of a service":             tokenOf(fields{"role": "service"}),
		"A4 a role nobody has":                 tokenOf(fields{"role": "root"}),
		"A5 a refresh token of the same key":   tokenOf(fields{"token_use": "refresh"}),
		"A5 an id token of the same key":       tokenOf(fields{"token_use": "id"}),
		"A6 of 20 KB, were it not too long":    tokenOf(fields{"pad": strings.Repeat("x", 9<<10)}),
		"A8 of a session that has ended":       tokenOf(fields{"sid": revokedSession}),
		"A9 signed with a key that is retired": sign(a.unknown, header(a.unknown, nil), a.with(nil)),
	}
	throughBoth(t, func(t *testing.T, d door) {
		for name, token := range bad {
			t.Run(name, func(t *testing.T) {
				unauthenticated.check(t, knock(t, d, w, token))
			})
		}
		for name, token := range map[string]string{
			"good":                   good,
			"A4 expired, in leeway":  tokenOf(fields{"exp": now - 30, "iat": now - 600, "nbf": now - 600}),
			"A9 signed with the old": sign(a.key, header(a.key, nil), a.with(nil)),
			"A9 signed with the new": sign(a.next, header(a.next, nil), a.with(nil)),
			"aud as one text":        tokenOf(fields{"aud": "waybill"}),
		} {
			t.Run(name, func(t *testing.T) {
				if got := knock(t, d, w, token); got.code != codes.OK {
					t.Errorf("%s %s: %s", got.code, got.reason, got.message)
				}
			})
		}
	})
}

// es256 signs with an elliptic curve under the id of the good key.
func es256(t *testing.T, a *authority, curve elliptic.Curve) string {
	t.Helper()
	k, err := ecdsa.GenerateKey(curve, rand.Reader)
	must(t, err)
	text := unsigned(header(a.key, fields{"alg": "ES256"}), a.with(nil))
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
	must(t, err)
	size := (curve.Params().BitSize + 7) / 8
	return text + "." + encode(append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...))
}

func TestHugeTokensAreTurnedAwayAtTheDoor(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	for name, token := range map[string]string{"A6 a megabyte of dots": strings.Repeat(".", 1<<20), "A6 20 KB": strings.Repeat("a", 20<<10)} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(soon(t), http.MethodGet, w.base+"/v1/orders", nil)
			must(t, err)
			r.Header.Set("Authorization", "Bearer "+token)
			switch a, err := w.do(r); {
			case err != nil: // the connection was closed before all of it was sent
			case a.http != http.StatusRequestHeaderFieldsTooLarge && a.http != http.StatusUnauthorized:
				t.Errorf("REST: %d %s", a.http, a.text)
			}
			a, err := grpcDoor{}.call(soon(t), w, token, listOrders, &orderv1.ListOrdersRequest{}, &orderv1.ListOrdersResponse{})
			if err != nil || a.code == codes.OK || a.code == codes.DeadlineExceeded {
				t.Errorf("gRPC: %+v, %v", a, err)
			}
		})
	}
	if a := knock(t, grpcDoor{}, w, w.admin.token); a.code != codes.OK {
		t.Errorf("afterwards the server does not answer others: %+v", a)
	}
}

func TestTokensOfStrangersNameNobody(t *testing.T) {
	t.Parallel()
	w, a := getGuarded(t)
	throughBoth(t, func(t *testing.T, d door) {
		id := uuid.NewString()
		u := &user{id: id, token: a.token(id, "customer")}
		got := ask(t, d, w, u, listOrders, &orderv1.ListOrdersRequest{}, &orderv1.ListOrdersResponse{})
		if len(got.GetOrders()) != 0 {
			t.Errorf("somebody who never ordered has %v", got.GetOrders())
		}
	})
}
