// Package rpc speaks waybill.auth.v1. It translates and nothing more: who may
// call, what a valid request is and how errors travel is done around it, what
// happens is decided below it.
package rpc

import (
	"context"
	"net/netip"
	"strings"
	"time"
	"unicode"

	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/rpc"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	"github.com/waybill-dev/waybill/services/auth/internal/keys"
	"github.com/waybill-dev/waybill/services/auth/internal/saga"
	"github.com/waybill-dev/waybill/services/auth/internal/store"
)

// Server answers the calls of AuthService.
type Server struct {
	authv1.UnimplementedAuthServiceServer
	store     *store.Store
	commands  *saga.Commands
	keeper    *keys.Keeper
	retention time.Duration
	now       func() time.Time
}

// New gives a Server. Retention is for how long a session has to be refused after
// its end.
func New(s *store.Store, c *saga.Commands, k *keys.Keeper, retention time.Duration, now func() time.Time) *Server {
	return &Server{store: s, commands: c, keeper: k, retention: retention, now: now}
}

// SignUp opens an account and a session.
func (s *Server) SignUp(ctx context.Context, req *authv1.SignUpRequest) (*authv1.SignUpResponse, error) {
	return s.commands.SignUp(ctx, req, client(ctx))
}

// LogIn opens a session.
func (s *Server) LogIn(ctx context.Context, req *authv1.LogInRequest) (*authv1.LogInResponse, error) {
	return s.commands.LogIn(ctx, req, client(ctx))
}

// RefreshToken renews a session.
func (s *Server) RefreshToken(ctx context.Context, req *authv1.RefreshTokenRequest) (*authv1.RefreshTokenResponse, error) {
	tokens, err := s.commands.Refresh(ctx, req.GetRefreshToken())
	if err != nil {
		return nil, err
	}
	return &authv1.RefreshTokenResponse{Tokens: tokens}, nil
}

// LogOut ends a session by its refresh token.
func (s *Server) LogOut(ctx context.Context, req *authv1.LogOutRequest) (*authv1.LogOutResponse, error) {
	return s.commands.LogOut(ctx, req.GetRefreshToken())
}

// ChangePassword gives the caller another password.
func (s *Server) ChangePassword(ctx context.Context, req *authv1.ChangePasswordRequest) (*authv1.ChangePasswordResponse, error) {
	caller, err := user(ctx)
	if err != nil {
		return nil, err
	}
	return s.commands.ChangePassword(ctx, caller, req, client(ctx))
}

// ListSessions reads a page of the caller's sessions.
func (s *Server) ListSessions(ctx context.Context, req *authv1.ListSessionsRequest) (*authv1.ListSessionsResponse, error) {
	caller, err := user(ctx)
	if err != nil {
		return nil, err
	}
	page, next, err := s.store.Sessions(ctx, listing.Query{
		PageSize: req.GetPageSize(), PageToken: req.GetPageToken(), Owner: caller.UserID,
	}, s.now())
	if err != nil {
		return nil, err
	}
	out := &authv1.ListSessionsResponse{NextPageToken: next, Sessions: make([]*authv1.Session, len(page))}
	for i, one := range page {
		out.Sessions[i] = &authv1.Session{
			SessionId: one.ID, UserId: one.UserID, CreateTime: timestamppb.New(one.Created), LastRefreshTime: timestamppb.New(one.Refreshed),
			ExpireTime: timestamppb.New(one.Expires), UserAgent: one.UserAgent, Current: one.ID == caller.SessionID,
		}
	}
	return out, nil
}

// RevokeSession ends a session of the caller, or anybody's if the caller is admin.
func (s *Server) RevokeSession(ctx context.Context, req *authv1.RevokeSessionRequest) (*authv1.RevokeSessionResponse, error) {
	caller, err := user(ctx)
	if err != nil {
		return nil, err
	}
	owner := caller.UserID
	if caller.Role == auth.Admin {
		owner = ""
	}
	return s.commands.RevokeSession(ctx, owner, req.GetSessionId())
}

// SetUserRole gives somebody another role.
func (s *Server) SetUserRole(ctx context.Context, req *authv1.SetUserRoleRequest) (*authv1.SetUserRoleResponse, error) {
	caller, err := user(ctx)
	if err != nil {
		return nil, err
	}
	return s.commands.SetRole(ctx, caller, req.GetUserId(), req.GetRole())
}

// JWKS gives the public keys of access tokens.
func (s *Server) JWKS(ctx context.Context, _ *authv1.JWKSRequest) (*authv1.JWKSResponse, error) {
	public, err := s.keeper.Public(ctx)
	if err != nil {
		return nil, err
	}
	return &authv1.JWKSResponse{Keys: public}, nil
}

// ListRevokedSessions gives the sessions whose tokens must be refused although
// they have not expired.
func (s *Server) ListRevokedSessions(ctx context.Context, _ *authv1.ListRevokedSessionsRequest) (*authv1.ListRevokedSessionsResponse, error) {
	revoked, err := s.store.Revoked(ctx, s.now().Add(-s.retention))
	if err != nil {
		return nil, err
	}
	out := &authv1.ListRevokedSessionsResponse{RetentionSeconds: int64(s.retention / time.Second), Sessions: make([]*authv1.RevokedSession, len(revoked))}
	for i, one := range revoked {
		out.Sessions[i] = &authv1.RevokedSession{SessionId: one.SessionID, RevokeTime: timestamppb.New(one.At)}
	}
	return out, nil
}

// user gives the caller, who must be a person.
func user(ctx context.Context) (auth.Caller, error) {
	caller, ok := auth.FromContext(ctx)
	if !ok || caller.UserID == "" {
		return caller, errs.E(errs.Unauthenticated, "NOT_SIGNED_IN", "sign in first")
	}
	return caller, nil
}

// maxAgent is how much of a client's name is kept.
const maxAgent = 200

// client says where a call comes from.
func client(ctx context.Context) saga.Client {
	c := saga.Client{}
	if ip := rpc.ClientIP(ctx); ip.IsValid() {
		c.Address = network(ip)
	}
	for _, header := range []string{"x-waybill-user-agent", "user-agent"} {
		if said := metadata.ValueFromIncomingContext(ctx, header); len(said) > 0 {
			c.Agent = line(said[0], maxAgent)
			break
		}
	}
	return c
}

// network gives what counts as one address: an IPv4 address, or the /64 that an
// IPv6 customer has to themselves.
func network(ip netip.Addr) string {
	if ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// line gives the first runes of a text, those that can be printed.
func line(text string, limit int) string {
	var b strings.Builder
	n := 0
	for _, r := range strings.ToValidUTF8(text, "") {
		if !unicode.IsPrint(r) {
			continue
		}
		if n++; n > limit {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}
