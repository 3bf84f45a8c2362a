package system_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"github.com/waybill-dev/waybill/internal/node"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
)

// An authority plays the auth service in a process of its own, so that a test can
// sign whatever it likes with a key that Waybill believes in.
type authority struct {
	authv1.UnimplementedAuthServiceServer
	key, next ed25519.PrivateKey // both published; a third one is not
	unknown   ed25519.PrivateKey
}

// revokedSession has ended, as the authority says.
const revokedSession = "0190aaaa-0000-7000-8000-00000000dead"

func newAuthority() (*authority, error) {
	a := &authority{}
	for _, k := range []*ed25519.PrivateKey{&a.key, &a.next, &a.unknown} {
		var err error
		if _, *k, err = ed25519.GenerateKey(rand.Reader); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// serve answers for the rest of the test binary.
func (a *authority) serve() (addr string, err error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s := grpc.NewServer()
	authv1.RegisterAuthServiceServer(s, a)
	grpc_health_v1.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(lis) }()
	return lis.Addr().String(), nil
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func public(k ed25519.PrivateKey) []byte { return k.Public().(ed25519.PublicKey) }

// kid names a key.
func kid(k ed25519.PrivateKey) string { return "test-" + encode(public(k)[:8]) }

// JWKS publishes two of the three keys.
func (a *authority) JWKS(context.Context, *authv1.JWKSRequest) (*authv1.JWKSResponse, error) {
	resp := &authv1.JWKSResponse{}
	for _, k := range []ed25519.PrivateKey{a.key, a.next} {
		resp.Keys = append(resp.Keys, &authv1.JsonWebKey{Kty: "OKP", Crv: "Ed25519", X: encode(public(k)), Kid: kid(k), Alg: "EdDSA", Use: "sig"})
	}
	return resp, nil
}

// ListRevokedSessions tells of one.
func (a *authority) ListRevokedSessions(context.Context, *authv1.ListRevokedSessionsRequest) (*authv1.ListRevokedSessionsResponse, error) {
	return &authv1.ListRevokedSessionsResponse{Sessions: []*authv1.RevokedSession{{SessionId: revokedSession}}, RetentionSeconds: 660}, nil
}

type fields = map[string]any

// claims gives those of a good access token.
func claims(userID, role string) fields {
	now := time.Now().Unix()
	return fields{
		"iss": "waybill", "aud": []string{"waybill"}, "sub": userID, "role": role, "sid": uuid.NewString(), "token_use": "access",
		"jti": uuid.NewString(), "iat": now, "nbf": now, "exp": now + 600,
	}
}

// with gives other claims; nil takes one away.
func (a *authority) with(change fields) fields {
	c := claims(uuid.NewString(), "customer")
	maps.Copy(c, change)
	for name, v := range change {
		if v == nil {
			delete(c, name)
		}
	}
	return c
}

// unsigned gives the first two parts of a token.
func unsigned(header, claims fields) string {
	h, err := json.Marshal(header)
	if err != nil {
		panic(err) // maps of plain values
	}
	c, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return encode(h) + "." + encode(c)
}

// header gives that of a good access token.
func header(k ed25519.PrivateKey, change fields) fields {
	h := fields{"alg": "EdDSA", "typ": "at+jwt", "kid": kid(k)}
	maps.Copy(h, change)
	return h
}

func sign(k ed25519.PrivateKey, header, claims fields) string {
	text := unsigned(header, claims)
	return text + "." + encode(ed25519.Sign(k, []byte(text)))
}

// token gives a good token.
func (a *authority) token(userID, role string) string {
	return sign(a.key, header(a.key, nil), claims(userID, role))
}

// guarded is a world without an auth service of its own: the authority is it.
var guarded struct {
	once      sync.Once
	world     *world
	authority *authority
	err       error
}

func getGuarded(t *testing.T) (*world, *authority) {
	t.Helper()
	guarded.once.Do(func() {
		var addr string
		guarded.authority, guarded.err = newAuthority()
		if guarded.err == nil {
			addr, guarded.err = guarded.authority.serve()
		}
		if guarded.err != nil {
			return
		}
		guarded.world, guarded.err = start(func(c *node.Config) {
			atDesk(c)
			c.Admin = node.AdminConfig{}
			c.Services = []string{"user", "inventory", "payment", "shipping", "order", "gateway"}
			c.Upstream = []string{"auth=static:///" + addr}
		})
		if guarded.err == nil {
			id := uuid.NewString()
			guarded.world.admin = &user{id: id, token: guarded.authority.token(id, "admin")}
		}
	})
	if err := guarded.err; err != nil {
		t.Fatal(errors.Join(fmt.Errorf("the guarded world: %w", err)))
	}
	return guarded.world, guarded.authority
}
