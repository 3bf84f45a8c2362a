package rpc

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
)

// MetadataClientIP is the header in which a trusted proxy, such as the gateway
// in a process of its own, says whose call it brings.
const MetadataClientIP = "x-waybill-client-ip"

// MetadataService is the header in which a process that speaks for several
// services says which of them calls. It is believed as far as the certificate of
// the process goes.
const MetadataService = "x-waybill-service"

// Gateway is the service that brings the calls of people. What comes from it
// without MetadataService is a person's call, or an anonymous one.
const Gateway = "gateway"

// authorization is the one header from which tokens are taken.
const authorization = "authorization"

// A Verifier tells whose an access token is and when it ends; auth.Verifier is one.
type Verifier interface {
	Verify(ctx context.Context, token string) (auth.Caller, time.Time, error)
}

// origin is where a call comes from. A call over TCP cannot set it: it lies in
// the context of the process, not in metadata.
type origin struct {
	services []string // the service whose Conn it is, none for the gateway's
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

// As gives conn for the calls of one service of this process. A server that
// knows the process by its certificate takes the calls as that service's, and
// refuses them if the certificate is not good for it; any other server takes no
// notice.
func As(conn grpc.ClientConnInterface, service string) grpc.ClientConnInterface {
	return speaker{conn, service}
}

type speaker struct {
	conn    grpc.ClientConnInterface
	service string
}

// Invoke implements grpc.ClientConnInterface.
func (s speaker) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return s.conn.Invoke(metadata.AppendToOutgoingContext(ctx, MetadataService, s.service), method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface.
func (s speaker) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return s.conn.NewStream(metadata.AppendToOutgoingContext(ctx, MetadataService, s.service), desc, method, opts...)
}

// identity is who a call comes from: proved by where it comes from (services, ip)
// or claimed and yet to be verified (token).
type identity struct {
	services  []string // the services that may be calling, as a rule one; none when a person calls, be it through the gateway
	ip        netip.Addr
	inProcess bool
}

// service names who calls, "" for a person.
func (id identity) service() string {
	if len(id.services) == 1 {
		return id.services[0]
	}
	return strings.Join(id.services, "+")
}

// locate finds out where a call comes from. It fails with PermissionDenied if the
// call pretends to come from a service that it does not come from.
func (s *Server) locate(ctx context.Context) (id identity, client context.Context, err error) {
	if client = inprocgrpc.ClientContext(ctx); client != nil {
		id.inProcess = true
		if o, ok := client.Value(originKey{}).(*origin); ok {
			id.services = o.services
		}
		id.ip = ClientIP(client)
		return id, client, nil
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return id, nil, nil
	}
	if at, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
		id.ip = at.Addr().Unmap()
	}
	if _, public := p.AuthInfo.(publicInfo); public {
		id.ip = behind(ctx, s.public.ProxyHops, id.ip)
		return id, nil, nil
	}
	proxy := slices.ContainsFunc(s.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(id.ip) })
	if with, proved := p.AuthInfo.(peerInfo); proved {
		if id.services, err = speaking(ctx, with.services); err != nil {
			return id, nil, err
		}
		proxy = slices.Contains(with.services, Gateway)
	}
	if said := metadata.ValueFromIncomingContext(ctx, MetadataClientIP); proxy && len(said) == 1 {
		if ip, err := netip.ParseAddr(said[0]); err == nil {
			id.ip = ip.Unmap()
		}
	}
	return id, nil, nil
}

// speaking tells which of the services that a peer has proved makes the call.
func speaking(ctx context.Context, proved []string) ([]string, error) {
	said := metadata.ValueFromIncomingContext(ctx, MetadataService)
	switch {
	case len(said) == 0 && slices.Contains(proved, Gateway):
		return nil, nil
	case len(said) == 0:
		return proved, nil
	case len(said) == 1 && slices.Contains(proved, said[0]):
		return said, nil
	}
	return nil, errs.E(errs.PermissionDenied, "SERVICE_NOT_PROVED", "the certificate of the caller is not good for the service that it says it is")
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
		c.Service = id.service()
		ctx = context.WithValue(ctx, tokenKey{}, token)
	case len(id.services) > 0:
		c = auth.Caller{Role: auth.Service, Service: id.service()}
	default:
		return ctx, c, until, false, nil
	}
	return auth.WithCaller(ctx, c), c, until, true, nil
}
