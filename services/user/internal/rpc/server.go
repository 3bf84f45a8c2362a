// Package rpc speaks waybill.user.v1. It translates and nothing more: who may
// call, what a valid request is and how errors travel is done around it, what
// happens is decided below it.
package rpc

import (
	"context"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/user"
	"github.com/waybill-dev/waybill/services/user/internal/saga"
	"github.com/waybill-dev/waybill/services/user/internal/store"
)

// Server answers the calls of UserService.
type Server struct {
	userv1.UnimplementedUserServiceServer
	store    *store.Store
	commands *saga.Commands
}

// New gives a Server that reads from s and orders from c.
func New(s *store.Store, c *saga.Commands) *Server { return &Server{store: s, commands: c} }

// GetUser reads one profile.
func (s *Server) GetUser(ctx context.Context, req *userv1.GetUserRequest) (*userv1.User, error) {
	u, ok, err := s.store.Get(ctx, req.GetUserId(), auth.Owner(ctx))
	switch caller, _ := auth.FromContext(ctx); {
	case err != nil:
		return nil, err
	case ok && !u.Erased:
		return saga.ToUser(u), nil
	case !ok && caller.UserID == req.GetUserId():
		return nil, user.Pending()
	}
	return nil, user.NotFound(req.GetUserId())
}

// ListUsers reads a page of profiles.
func (s *Server) ListUsers(ctx context.Context, req *userv1.ListUsersRequest) (*userv1.ListUsersResponse, error) {
	found, next, err := s.store.List(ctx, listing.Query{
		PageSize: req.GetPageSize(), PageToken: req.GetPageToken(), Filter: req.GetFilter(), OrderBy: req.GetOrderBy(), Owner: auth.Owner(ctx),
	})
	if err != nil {
		return nil, err
	}
	out := &userv1.ListUsersResponse{NextPageToken: next, Users: make([]*userv1.User, len(found))}
	for i, u := range found {
		out.Users[i] = saga.ToUser(u)
	}
	return out, nil
}

// BatchGetUsers reads many profiles at once.
func (s *Server) BatchGetUsers(ctx context.Context, req *userv1.BatchGetUsersRequest) (*userv1.BatchGetUsersResponse, error) {
	found, err := s.store.Batch(ctx, req.GetUserIds())
	if err != nil {
		return nil, err
	}
	out := &userv1.BatchGetUsersResponse{}
	for _, id := range req.GetUserIds() {
		if u, ok := found[id]; ok {
			out.Users = append(out.Users, saga.ToUser(u))
		}
	}
	return out, nil
}

// UpdateUser changes the named fields of a profile.
func (s *Server) UpdateUser(ctx context.Context, req *userv1.UpdateUserRequest) (*userv1.User, error) {
	caller, err := person(ctx)
	if err != nil {
		return nil, err
	}
	return s.commands.Update(ctx, caller, req)
}

// DeleteUser erases a person.
func (s *Server) DeleteUser(ctx context.Context, req *userv1.DeleteUserRequest) (*userv1.DeleteUserResponse, error) {
	caller, err := person(ctx)
	if err != nil {
		return nil, err
	}
	return s.commands.Erase(ctx, caller, req)
}

// person gives the caller, who must be a person.
func person(ctx context.Context) (auth.Caller, error) {
	caller, ok := auth.FromContext(ctx)
	if !ok || caller.UserID == "" {
		return caller, errs.E(errs.Unauthenticated, "NOT_SIGNED_IN", "sign in first")
	}
	return caller, nil
}
