// Package saga is what the user service does: the events it hears and what
// callers may order. It decides nothing itself; that is done by the package
// services/user.
package saga

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/user"
	"github.com/waybill-dev/waybill/services/user/internal/store"
)

// Name is the service's name: in streams, subjects and the names of consumers.
const Name = "user"

// Machine gives all that the user service reacts to.
func Machine(db *sqldb.DB) *react.Machine {
	m := react.NewMachine(Name)
	react.Redacting(m, db)

	react.On(m, func(_ *react.View, e *authv1.UserRegistered) []react.Ref {
		return profile(e.GetUserId())
	}, func(v *react.View, e *authv1.UserRegistered) error {
		if _, known := store.Users.Get(v, e.GetUserId()); known {
			return nil
		}
		role := e.GetRole()
		if role == optionsv1.Role_ROLE_UNSPECIFIED {
			return errs.E(errs.Invalid, "NO_ROLE", "user %s was registered without a role", e.GetUserId())
		}
		at := e.GetRegisteredAt().AsTime()
		store.Users.Put(v, e.GetUserId(), user.Profile{
			Email: e.GetEmail(), DisplayName: e.GetDisplayName(), Role: role, RoleSeq: v.Cause().Version, Created: at, Updated: at,
		})
		return nil
	})

	react.On(m, func(_ *react.View, e *authv1.UserRoleChanged) []react.Ref {
		return profile(e.GetUserId())
	}, func(v *react.View, e *authv1.UserRoleChanged) error {
		p, ok := store.Users.Get(v, e.GetUserId())
		if !ok {
			// Overtook the registration, which is on its way: let it come again.
			return errs.E(errs.Unavailable, "NOT_REGISTERED_YET", "the registration of user %s has not arrived yet", e.GetUserId())
		}
		if p, changed := p.SetRole(e.GetRole(), v.Cause().Version, v.Now()); changed {
			store.Users.Put(v, e.GetUserId(), p)
		}
		return nil
	})
	return m
}

func profile(userID string) []react.Ref { return []react.Ref{store.Users.Ref(userID)} }

// Commands are what callers may order.
type Commands struct{ r *react.Reactor }

// NewCommands gives the commands of a service whose reactor runs.
func NewCommands(r *react.Reactor) *Commands { return &Commands{r} }

// own gives the profile that caller may change. Staff see everybody.
func own(v *react.View, caller auth.Caller, userID string) (user.Profile, error) {
	p, ok := store.Users.Get(v, userID)
	self := caller.UserID == userID
	switch {
	case !self && caller.Role == auth.Customer:
		return p, user.NotFound(userID)
	case !ok && self:
		return p, user.Pending()
	case !ok || p.Erased:
		return p, user.NotFound(userID)
	case !self && caller.Role != auth.Admin && p.Role != optionsv1.Role_ROLE_CUSTOMER:
		return p, errs.E(errs.PermissionDenied, "ADMIN_NEEDED", "only admins may change the profiles of staff and admins")
	}
	return p, nil
}

// Update changes fields of a profile. A patch that changes nothing succeeds and
// leaves no trace.
func (c *Commands) Update(ctx context.Context, caller auth.Caller, req *userv1.UpdateUserRequest) (*userv1.User, error) {
	id := req.GetUserId()
	return react.Do(ctx, c.r, func(*react.View) []react.Ref { return profile(id) }, func(v *react.View) (*userv1.User, error) {
		p, err := own(v, caller, id)
		if err != nil {
			return nil, err
		}
		if err := user.CheckEtag(req.GetEtag(), id, store.Users.Version(v, id)); err != nil {
			return nil, err
		}
		p, changed, err := p.Patch(req.GetUser(), req.GetUpdateMask().GetPaths(), v.Now())
		if err != nil {
			return nil, err
		}
		if len(changed) > 0 {
			store.Users.Put(v, id, p)
			v.Emit(store.Users.Ref(id), &userv1.UserUpdated{
				UserId: id, DisplayName: p.DisplayName, ChangedFields: changed, UpdatedAt: timestamppb.New(v.Now()),
			})
		}
		return ToUser(store.User{ID: id, Version: store.Users.Version(v, id), Profile: p}), nil
	})
}

// Erase takes away everything personal, here and, through the event, everywhere.
// Erasing once more changes nothing.
func (c *Commands) Erase(ctx context.Context, caller auth.Caller, req *userv1.DeleteUserRequest) (*userv1.DeleteUserResponse, error) {
	id := req.GetUserId()
	return react.Do(ctx, c.r, func(*react.View) []react.Ref { return profile(id) }, func(v *react.View) (*userv1.DeleteUserResponse, error) {
		if p, ok := store.Users.Get(v, id); ok && p.Erased && (caller.UserID == id || caller.Role != auth.Customer) {
			return &userv1.DeleteUserResponse{}, nil
		}
		p, err := own(v, caller, id)
		if err != nil {
			return nil, err
		}
		if err := user.CheckEtag(req.GetEtag(), id, store.Users.Version(v, id)); err != nil {
			return nil, err
		}
		store.Users.Put(v, id, p.Erase(v.Now()))
		v.Emit(store.Users.Ref(id), &userv1.UserErased{UserId: id, ErasedAt: timestamppb.New(v.Now())})
		react.Redact(v, store.Users.Ref(id))
		return &userv1.DeleteUserResponse{}, nil
	})
}

// ToUser gives a profile in the form of the contract.
func ToUser(u store.User) *userv1.User {
	return &userv1.User{
		UserId: u.ID, Email: u.Email, DisplayName: u.DisplayName, Role: u.Role, Addresses: u.Addresses,
		CreateTime: timestamppb.New(u.Created), UpdateTime: timestamppb.New(u.Updated), Version: u.Version, Etag: user.Etag(u.ID, u.Version),
	}
}
