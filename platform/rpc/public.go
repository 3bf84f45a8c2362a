package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Public is the side of a server that people reach: in plain text, without
// certificates, so that nobody there is a service. Tokens decide.
type Public struct {
	// Forward names the services that run elsewhere and the way to each, by their
	// full names (waybill.order.v1.OrderService). Their calls are handed on as they
	// are; who may call what is decided there.
	Forward map[string]grpc.ClientConnInterface
	// ProxyHops is how many trusted proxies stand in front. The address of the
	// client is then the one that the outermost of them has put into
	// x-forwarded-for. 0: the other end of the connection.
	ProxyHops int
	// MaxStreams is how many calls one connection may have at once: 250.
	MaxStreams uint32
}

// SetPublic has Build make the public side. It is served by ServePublic.
func (s *Server) SetPublic(p Public) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.built.Load() != nil {
		s.failed = errors.Join(s.failed, errors.New("rpc: SetPublic was called after Build"))
		return
	}
	if p.MaxStreams == 0 {
		p.MaxStreams = 250
	}
	s.public = &p
}

// ServePublic answers people on lis until Stop: calls of the services of this
// server, and of those that it forwards. It closes lis at its end and returns nil
// after Stop, also when Stop came first. SetPublic must have been called.
func (s *Server) ServePublic(lis net.Listener) error {
	err := s.Build()
	if b := s.built.Load(); err == nil && b.public != nil {
		defer s.attend()()
		return unlessStopped(b.public.Serve(lis))
	}
	_ = lis.Close()
	if err == nil {
		err = errors.New("rpc: this server has no public side")
	}
	return unlessStopped(err)
}

// assemblePublic registers what people may call.
func (s *Server) assemblePublic(all []service) (_ *grpc.Server, err error) {
	srv := grpc.NewServer(s.options(s.public.MaxStreams, publicCredentials{insecure.NewCredentials()})...)
	defer func() {
		if err != nil {
			srv.Stop()
		}
	}()
	for _, svc := range all {
		if svc.desc.ServiceName == grpc_health_v1.Health_ServiceDesc.ServiceName {
			svc.impl = &publicHealth{local: s.health, forward: s.public.Forward}
		}
		srv.RegisterService(svc.desc, svc.impl)
	}
	for _, name := range slices.Sorted(maps.Keys(s.public.Forward)) {
		if _, local := srv.GetServiceInfo()[name]; local {
			return nil, fmt.Errorf("rpc: %s is both served and forwarded", name)
		}
		desc, err := forwarding(name, s.public.Forward[name])
		if err != nil {
			return nil, err
		}
		ms, err := methods(desc)
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			m.forward = true
		}
		srv.RegisterService(s.guard(desc, ms, nil), nil)
	}
	if s.cfg.Reflection {
		reflection.Register(&reflector{srv, s})
	}
	return srv, nil
}

// publicCredentials mark the connections of the public side.
type publicCredentials struct {
	credentials.TransportCredentials
}

type publicInfo struct{ credentials.CommonAuthInfo }

// AuthType implements credentials.AuthInfo.
func (publicInfo) AuthType() string { return "public" }

// ServerHandshake exchanges nothing.
func (publicCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return conn, publicInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}}, nil
}

// Clone implements credentials.TransportCredentials.
func (c publicCredentials) Clone() credentials.TransportCredentials { return c }

// behind gives the address of a client behind hops proxies, each of which has
// added the address it saw to x-forwarded-for.
func behind(ctx context.Context, hops int, at netip.Addr) netip.Addr {
	said := metadata.ValueFromIncomingContext(ctx, "x-forwarded-for")
	if hops == 0 || len(said) == 0 {
		return at
	}
	entries := strings.Split(strings.Join(said, ","), ",")
	if ip, err := netip.ParseAddr(strings.TrimSpace(entries[max(len(entries)-hops, 0)])); err == nil {
		return ip.Unmap().WithZone("")
	}
	return at
}

// forwarding describes a service whose calls go on over conn. Messages are not
// looked into: an empty message keeps all it does not know, which is everything,
// and writes it as it was.
func forwarding(name string, conn grpc.ClientConnInterface) (*grpc.ServiceDesc, error) {
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if err != nil || !ok {
		return nil, fmt.Errorf("rpc: there is no contract for service %s", name)
	}
	desc := &grpc.ServiceDesc{ServiceName: name, Metadata: sd.ParentFile().Path()}
	for i := range sd.Methods().Len() {
		md := sd.Methods().Get(i)
		method := "/" + name + "/" + string(md.Name())
		if !md.IsStreamingClient() && !md.IsStreamingServer() {
			desc.Methods = append(desc.Methods, grpc.MethodDesc{MethodName: string(md.Name()), Handler: forwardUnary(conn, method)})
			continue
		}
		stream := grpc.StreamDesc{StreamName: string(md.Name()), ClientStreams: md.IsStreamingClient(), ServerStreams: md.IsStreamingServer()}
		stream.Handler = forwardStream(conn, stream, method)
		desc.Streams = append(desc.Streams, stream)
	}
	return desc, nil
}

func forwardUnary(conn grpc.ClientConnInterface, method string) grpc.MethodHandler {
	return func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		req, resp := new(emptypb.Empty), new(emptypb.Empty)
		if err := decode(req); err != nil {
			return nil, err
		}
		var header, trailer metadata.MD
		err := conn.Invoke(onward(ctx), method, req, resp, grpc.Header(&header), grpc.Trailer(&trailer))
		if failed := errors.Join(grpc.SetHeader(ctx, header), grpc.SetTrailer(ctx, trailer)); err == nil {
			err = failed
		}
		return resp, err
	}
}

func forwardStream(conn grpc.ClientConnInterface, desc grpc.StreamDesc, method string) grpc.StreamHandler {
	return func(_ any, in grpc.ServerStream) error {
		ctx, cancel := context.WithCancel(onward(in.Context()))
		defer cancel()
		out, err := conn.NewStream(ctx, &desc, method)
		if err != nil {
			return err
		}
		failed := make(chan error, 1)
		requests := func() {
			if err := forwardRequests(in, out, desc.ClientStreams); err != nil {
				failed <- err
				cancel()
			}
		}
		if desc.ClientStreams {
			go requests() // it ends with in, which ends when this returns
		} else {
			requests()
		}
		err = forwardAnswers(out, in)
		in.SetTrailer(out.Trailer())
		select {
		case first := <-failed: // what follows from it is no news
			return first
		default:
			return err
		}
	}
}

// forwardRequests hands the client's messages on, one at a time: the next is read
// when the one before has found room on its way.
func forwardRequests(in grpc.ServerStream, out grpc.ClientStream, many bool) error {
	for {
		m := new(emptypb.Empty)
		if err := in.RecvMsg(m); errors.Is(err, io.EOF) {
			return out.CloseSend()
		} else if err != nil {
			return err
		}
		if err := out.SendMsg(m); errors.Is(err, io.EOF) {
			return nil // the service has ended the call; its answer says why
		} else if err != nil {
			return err
		}
		if !many {
			return out.CloseSend()
		}
	}
}

// forwardAnswers hands the service's messages back in the same way, and its
// headers as soon as they are there.
func forwardAnswers(out grpc.ClientStream, in grpc.ServerStream) error {
	if header, err := out.Header(); err == nil && len(header) > 0 {
		if err := in.SendHeader(header); err != nil {
			return err
		}
	}
	for {
		m := new(emptypb.Empty)
		if err := out.RecvMsg(m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := in.SendMsg(m); err != nil {
			return err
		}
	}
}

// onward gives the context of a call that is handed on: the deadline and the trace
// go with it, and of the metadata what services are meant to see.
func onward(ctx context.Context) context.Context {
	md := metadata.MD{}
	for _, name := range []string{authorization, "x-request-id", "idempotency-key"} {
		if v := metadata.ValueFromIncomingContext(ctx, name); len(v) > 0 {
			md[name] = v
		}
	}
	if v := metadata.ValueFromIncomingContext(ctx, "user-agent"); len(v) > 0 {
		md["x-waybill-user-agent"] = v
	}
	if ip := ClientIP(ctx); ip.IsValid() {
		md[MetadataClientIP] = []string{ip.String()}
	}
	return metadata.NewOutgoingContext(ctx, md)
}
