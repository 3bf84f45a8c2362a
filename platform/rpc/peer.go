package rpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"

	"google.golang.org/grpc/credentials"
)

// proving makes TLS connections whose calls know the services at the other end.
type proving struct {
	credentials.TransportCredentials
	s *Server
}

// peerInfo is what a handshake has proved.
type peerInfo struct {
	credentials.TLSInfo
	services []string
}

// ServerHandshake finds out once per connection who the peer is. Who is refused
// is told little; the log says why.
func (p *proving) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := p.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		if !errors.Is(err, io.EOF) { // whoever only knocks, as load balancers do, is no news
			p.s.deps.Log.LogAttrs(context.Background(), slog.LevelWarn, "TLS handshake failed",
				slog.String("ip", addressOf(raw.RemoteAddr())), slog.Any("error", err))
		}
		return nil, nil, err
	}
	with, ok := info.(credentials.TLSInfo)
	if !ok || p.s.deps.PeerServices == nil {
		return conn, info, nil
	}
	return conn, peerInfo{with, p.s.deps.PeerServices(&with.State)}, nil
}

// Clone implements credentials.TransportCredentials.
func (p *proving) Clone() credentials.TransportCredentials {
	return &proving{p.TransportCredentials.Clone(), p.s}
}

func addressOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}
