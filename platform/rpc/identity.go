package rpc

import (
	"context"
	"net/netip"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/waybill-dev/waybill/platform/auth"
)

// MetadataClientIP is the header in which a trusted proxy, such as the gateway
// in a process of its own, says whose call it brings.
const MetadataClientIP = "x-waybill-client-ip"

// authorization is the one header from which tokens are taken.
const authorization = "authorization"

// A Verifier tells whose an access token is and when it ends; auth.Verifier is one.
type Verifier interface {
	Verify(ctx context.Context, token string) (auth.Caller, time.Time, error)
}

// origin is where a call comes from. A call over TCP cannot set it: it lies in
// the context of the process, not in metadata.
type origin struct {
	service string // the service whose Conn it is, "" for the gateway's
}

type (
	originKey   struct{}
	tokenKey    struct{}
	clientIPKey struct{}
)

// WithClientIP gives a context for in-process calls that says from which address
// the client of the gateway comes; limits are counted by it.
func WithClientIP(ctx context.Context, ip netip.Addr) context.Context {
	return context.WithValue(ctx, clientIPKey{}, ip.Unmap())
}

// ClientIP gives the address of the client, as far as it can be trusted: what
// the gateway said, or the other end of the connection. It is the zero Addr if
// there is none.
func ClientIP(ctx context.Context) netip.Addr {
	ip, _ := ctx.Value(clientIPKey{}).(netip.Addr)
	return ip
}

// InOwnName gives a context whose calls are made by the service itself even
// though a user's call caused them: the user's token is not forwarded.
func InOwnName(ctx context.Context) context.Context {
	return context.WithValue(ctx, tokenKey{}, "")
}

func tokenFrom(ctx context.Context) string {
	token, _ := ctx.Value(tokenKey{}).(string)
	return token
}

// identity is who a call comes from: proved by where it comes from (service, ip)
// or claimed and yet to be verified (token).
type identity struct {
	service   string
	ip        netip.Addr
	inProcess bool
}

// locate finds out where a call comes from.
func (s *Server) locate(ctx context.Context) (id identity, client context.Context) {
	if client = inprocgrpc.ClientContext(ctx); client != nil {
		id.inProcess = true
		if o, ok := client.Value(originKey{}).(*origin); ok {
			id.service = o.service
		}
		id.ip = ClientIP(client)
		return id, client
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return id, nil
	}
	if s.deps.PeerService != nil {
		id.service = s.deps.PeerService(p)
	}
	if at, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
		id.ip = at.Addr().Unmap()
	}
	for _, proxy := range s.cfg.TrustedProxies {
		if !proxy.Contains(id.ip) {
			continue
		}
		if said := metadata.ValueFromIncomingContext(ctx, MetadataClientIP); len(said) == 1 {
			if ip, err := netip.ParseAddr(said[0]); err == nil {
				id.ip = ip.Unmap()
			}
		}
		break
	}
	return id, nil
}

// authenticate finds out who calls. It gives a context with the caller, and when
// the caller's credentials end. A token that is sent must be good, also where
// none is needed. known is false for the anonymous.
func (s *Server) authenticate(ctx, client context.Context, id identity) (_ context.Context, c auth.Caller, until time.Time, known bool, err error) {
	token, err := auth.Bearer(metadata.ValueFromIncomingContext(ctx, authorization))
	if err != nil {
		return ctx, c, until, false, err
	}
	if token == "" && client != nil {
		token = tokenFrom(client)
	}
	switch {
	case token != "":
		if c, until, err = s.deps.Verifier.Verify(ctx, token); err != nil {
			return ctx, auth.Caller{}, until, false, err
		}
		c.Service = id.service
		ctx = context.WithValue(ctx, tokenKey{}, token)
	case id.service != "":
		c = auth.Caller{Role: auth.Service, Service: id.service}
	default:
		return ctx, c, until, false, nil
	}
	return auth.WithCaller(ctx, c), c, until, true, nil
}
