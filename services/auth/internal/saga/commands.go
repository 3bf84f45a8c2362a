package saga

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	access "github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	"github.com/waybill-dev/waybill/services/auth"
	"github.com/waybill-dev/waybill/services/auth/internal/keys"
	"github.com/waybill-dev/waybill/services/auth/internal/password"
	"github.com/waybill-dev/waybill/services/auth/internal/store"
)

// Deps is what Commands stand on.
type Deps struct {
	Reactor  *react.Reactor
	Store    *store.Store
	Keeper   *keys.Keeper
	Box      *keys.Box
	Hasher   *password.Hasher
	Throttle *auth.Throttle
	Policy   auth.Policy
	Rotation auth.Rotation
	Log      *slog.Logger
}

// Commands are what callers may order. Passwords are hashed before and tokens
// signed after the step, which itself only moves values.
type Commands struct{ Deps }

// NewCommands gives the commands of a service whose reactor runs.
func NewCommands(d Deps) *Commands { return &Commands{d} }

// Client is where a call comes from.
type Client struct {
	Address string // as far as it can be trusted, or ""
	Agent   string // what the client calls itself
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

// EnsureRing sees to it that there are keys to sign with.
func (c *Commands) EnsureRing(ctx context.Context) error {
	_, err := react.Do(ctx, c.Reactor,
		func(*react.View) []react.Ref { return []react.Ref{store.Rings.Ref(store.RingID)} },
		func(v *react.View) (*emptypb.Empty, error) {
			turn(v, c.Box, c.Rotation)
			return &emptypb.Empty{}, nil
		})
	if err != nil {
		return err
	}
	_, err = c.Keeper.Secrets(ctx) // tells a wrong key_secret at start, not at the first call
	return err
}

// EnsureAdmin opens the account of the first admin, unless the address has an
// account: that one is left as it is.
func (c *Commands) EnsureAdmin(ctx context.Context, email, pass string) error {
	if email == "" && pass == "" {
		return nil
	}
	if err := auth.CheckPassword("admin password", pass); err != nil {
		return err
	}
	found, err := c.find(ctx, email)
	if err != nil {
		return err
	}
	if found.userID != "" {
		if found.account.Role != optionsv1.Role_ROLE_ADMIN {
			c.Log.Warn("the address of the first admin belongs to an account that is none; it is left as it is", "user_id", found.userID)
			return nil
		}
		c.Log.Info("the first admin exists; its password is not changed", "user_id", found.userID)
		return nil
	}
	userID, err := c.register(ctx, email, pass, "Admin", optionsv1.Role_ROLE_ADMIN, nil)
	if errs.KindOf(err) == errs.AlreadyExists { // another replica was faster
		return nil
	}
	if err == nil {
		c.Log.Info("the first admin was made", "user_id", userID)
	}
	return err
}

// SignUp opens a customer's account and its first session.
func (c *Commands) SignUp(ctx context.Context, req *authv1.SignUpRequest, client Client) (*authv1.SignUpResponse, error) {
	if err := auth.CheckPassword("password", req.GetPassword()); err != nil {
		return nil, err
	}
	found, err := c.find(ctx, req.GetEmail())
	if err != nil {
		return nil, err
	}
	if found.userID != "" {
		return nil, emailTaken() // before the costly hash
	}
	opened := &session{client: client}
	userID, err := c.register(ctx, req.GetEmail(), req.GetPassword(), req.GetDisplayName(), optionsv1.Role_ROLE_CUSTOMER, opened)
	if err != nil {
		return nil, err
	}
	tokens, err := c.tokens(ctx, userID, optionsv1.Role_ROLE_CUSTOMER, opened.first, opened.expires)
	return &authv1.SignUpResponse{UserId: userID, Tokens: tokens}, err
}

// session is a session to be opened along with an account.
type session struct {
	client  Client
	first   keys.Refresh
	expires time.Time
}

// register opens an account, with a session unless with is nil.
func (c *Commands) register(ctx context.Context, email, pass, displayName string, role optionsv1.Role, with *session) (string, error) {
	secrets, err := c.Keeper.Secrets(ctx)
	if err != nil {
		return "", err
	}
	hash, err := c.Hasher.Hash(ctx, auth.NormalizePassword(pass))
	if err != nil {
		return "", err
	}
	userID, sessionID, address := newID(), newID(), auth.FoldEmail(email)
	emailID := secrets.EmailID(address)
	if with != nil {
		with.first = secrets.First(sessionID)
	}
	answer, err := react.Do(ctx, c.Reactor,
		func(*react.View) []react.Ref {
			return []react.Ref{store.Emails.Ref(emailID), store.Accounts.Ref(userID), store.Sessions.Ref(sessionID)}
		},
		func(v *react.View) (*authv1.Tokens, error) {
			if e, _ := store.Emails.Get(v, emailID); e.UserID != "" {
				return nil, emailTaken()
			}
			store.Emails.Put(v, emailID, store.Email{UserID: userID})
			a := auth.NewAccount(emailID, hash, role, v.Now())
			answer := &authv1.Tokens{}
			if with != nil {
				s := auth.NewSession(userID, with.client.Agent, with.first.Hash(), c.Policy, v.Now())
				store.Sessions.Put(v, sessionID, s)
				a, _ = a.SignIn(sessionID, v.Now())
				answer.RefreshExpireTime = timestamppb.New(s.Expires)
			}
			store.Accounts.Put(v, userID, a)
			v.Emit(store.Accounts.Ref(userID), &authv1.UserRegistered{
				UserId: userID, Email: address, DisplayName: displayName, Role: role, RegisteredAt: timestamppb.New(v.Now()),
			})
			return answer, nil
		})
	if err == nil && with != nil {
		with.expires = answer.GetRefreshExpireTime().AsTime()
	}
	return userID, err
}

func emailTaken() error {
	return errs.E(errs.AlreadyExists, "EMAIL_TAKEN", "this address has an account; sign in instead").
		WithFields(errs.Field{Path: "email", Problem: "has an account"})
}

// found is an account as it was before the step; userID is "" if there is none.
type found struct {
	userID  string
	emailID string
	account auth.Account
}

func (c *Commands) find(ctx context.Context, email string) (f found, err error) {
	secrets, err := c.Keeper.Secrets(ctx)
	if err != nil {
		return f, err
	}
	f.emailID = secrets.EmailID(auth.FoldEmail(email))
	f.userID, f.account, _, err = c.Store.ByEmail(ctx, f.emailID)
	return f, err
}

// LogIn opens a session for who knows the password. An unknown address takes the
// same time and gives the same answer as a wrong password.
func (c *Commands) LogIn(ctx context.Context, req *authv1.LogInRequest, client Client) (*authv1.LogInResponse, error) {
	f, err := c.find(ctx, req.GetEmail())
	if err != nil {
		return nil, err
	}
	stale, err := c.verify(ctx, f.emailID, client.Address, f.account.PasswordHash, req.GetPassword(), wrongCredentials())
	if err != nil {
		return nil, err
	}
	rehash := ""
	if stale {
		if rehash, err = c.Hasher.Hash(ctx, auth.NormalizePassword(req.GetPassword())); err != nil {
			rehash = "" // another time
		}
	}
	secrets, err := c.Keeper.Secrets(ctx)
	if err != nil {
		return nil, err
	}
	sessionID := newID()
	first := secrets.First(sessionID)
	answer, err := react.Do(ctx, c.Reactor,
		func(v *react.View) []react.Ref {
			refs := []react.Ref{store.Accounts.Ref(f.userID), store.Sessions.Ref(sessionID)}
			if a, ok := store.Accounts.Get(v, f.userID); ok {
				for _, id := range a.Crowded() {
					refs = append(refs, store.Sessions.Ref(id))
				}
			}
			return refs
		},
		func(v *react.View) (*authv1.LogInResponse, error) {
			a, ok := store.Accounts.Get(v, f.userID)
			if !ok || a.Erased || a.PasswordSerial != f.account.PasswordSerial {
				return nil, wrongCredentials() // it was changed while the password was checked
			}
			if rehash != "" && a.PasswordHash == f.account.PasswordHash {
				a = a.Rehash(rehash, v.Now())
			}
			a, over := a.SignIn(sessionID, v.Now())
			end(v, f.userID, over)
			store.Accounts.Put(v, f.userID, a)
			s := auth.NewSession(f.userID, client.Agent, first.Hash(), c.Policy, v.Now())
			store.Sessions.Put(v, sessionID, s)
			return &authv1.LogInResponse{UserId: f.userID, Role: a.Role, Tokens: &authv1.Tokens{RefreshExpireTime: timestamppb.New(s.Expires)}}, nil
		})
	if err != nil {
		return nil, err
	}
	answer.Tokens, err = c.tokens(ctx, answer.GetUserId(), answer.GetRole(), first, answer.GetTokens().GetRefreshExpireTime().AsTime())
	return answer, err
}

// verify checks a password within the limits; wrong is the error if it is not the
// one.
func (c *Commands) verify(ctx context.Context, account, address, hash, pass string, wrong error) (stale bool, err error) {
	done, err := c.Throttle.Attempt(account, address)
	if err != nil {
		return false, err
	}
	result := auth.Void
	defer func() { done(result) }()
	ok, stale, err := c.Hasher.Check(ctx, hash, auth.NormalizePassword(pass))
	switch {
	case err != nil:
		return false, err
	case !ok:
		result = auth.Wrong
		return false, wrong
	}
	result = auth.Passed
	return stale, nil
}

func wrongCredentials() error {
	return errs.E(errs.Unauthenticated, "WRONG_CREDENTIALS", "address or password is wrong")
}

// tokens makes the pair that a client is given.
func (c *Commands) tokens(ctx context.Context, userID string, role optionsv1.Role, refresh keys.Refresh, refreshExpires time.Time) (*authv1.Tokens, error) {
	token, expires, err := c.Keeper.Sign(ctx, access.Caller{UserID: userID, Role: RoleName(role), SessionID: refresh.SessionID})
	if err != nil {
		return nil, err
	}
	return &authv1.Tokens{
		AccessToken: token, TokenType: "Bearer", AccessExpireTime: timestamppb.New(expires),
		RefreshToken: refresh.Text(), RefreshExpireTime: timestamppb.New(refreshExpires), SessionId: refresh.SessionID,
	}, nil
}

// RoleName gives a role as it stands in tokens.
func RoleName(r optionsv1.Role) access.Role {
	switch r {
	case optionsv1.Role_ROLE_ADMIN:
		return access.Admin
	case optionsv1.Role_ROLE_STAFF:
		return access.Staff
	default:
		return access.Customer
	}
}

// Refresh spends a refresh token and gives the next pair. A token that was spent
// before ends its session, since two people have it.
func (c *Commands) Refresh(ctx context.Context, text string) (*authv1.Tokens, error) {
	secrets, err := c.Keeper.Secrets(ctx)
	if err != nil {
		return nil, err
	}
	token, ok := secrets.Parse(text)
	if !ok {
		return nil, refreshRefused()
	}
	next := secrets.Next(token)
	// The answer without Tokens says that the session was ended, which must be kept
	// and so cannot be an error of the step.
	answer, err := react.Do(ctx, c.Reactor,
		func(v *react.View) []react.Ref { return withOwner(v, token.SessionID) },
		func(v *react.View) (*authv1.LogInResponse, error) {
			s, ok := store.Sessions.Get(v, token.SessionID)
			if !ok {
				return nil, refreshRefused()
			}
			a, _ := store.Accounts.Get(v, s.UserID)
			s, outcome := s.Refresh(token.Hash(), next.Hash(), c.Policy, v.Now())
			switch outcome {
			case auth.Ended:
				return nil, refreshRefused()
			case auth.Reused:
				c.signOut(v, token.SessionID)
				return &authv1.LogInResponse{UserId: s.UserID}, nil
			case auth.Renewed:
				store.Sessions.Put(v, token.SessionID, s)
			case auth.Repeated: // the state is that of the first time
			}
			return &authv1.LogInResponse{UserId: s.UserID, Role: a.Role, Tokens: &authv1.Tokens{RefreshExpireTime: timestamppb.New(s.Expires)}}, nil
		})
	if err != nil {
		return nil, err
	}
	if answer.GetTokens() == nil {
		c.Log.Warn("a spent refresh token was used again; its session was ended", "user_id", answer.GetUserId(), "session_id", token.SessionID)
		return nil, refreshRefused()
	}
	return c.tokens(ctx, answer.GetUserId(), answer.GetRole(), next, answer.GetTokens().GetRefreshExpireTime().AsTime())
}

func refreshRefused() error {
	return errs.E(errs.Unauthenticated, "REFRESH_TOKEN_INVALID", "the refresh token is not good; sign in again")
}

// withOwner names a session and, once it is loaded, its account.
func withOwner(v *react.View, sessionID string) []react.Ref {
	refs := []react.Ref{store.Sessions.Ref(sessionID)}
	if s, ok := store.Sessions.Get(v, sessionID); ok {
		refs = append(refs, store.Accounts.Ref(s.UserID))
	}
	return refs
}

// signOut ends a session that is loaded, if it is open.
func (c *Commands) signOut(v *react.View, sessionID string) {
	s, ok := store.Sessions.Get(v, sessionID)
	if !ok {
		return
	}
	if a, ok := store.Accounts.Get(v, s.UserID); ok {
		end(v, s.UserID, []string{sessionID})
		store.Accounts.Put(v, s.UserID, a.SignOut(v.Now(), sessionID))
	}
}

// LogOut ends the session of a refresh token. Any token that was given out for it
// will do; others end nothing.
func (c *Commands) LogOut(ctx context.Context, text string) (*authv1.LogOutResponse, error) {
	secrets, err := c.Keeper.Secrets(ctx)
	if err != nil {
		return nil, err
	}
	token, ok := secrets.Parse(text)
	if !ok {
		return &authv1.LogOutResponse{}, nil
	}
	return react.Do(ctx, c.Reactor,
		func(v *react.View) []react.Ref { return withOwner(v, token.SessionID) },
		func(v *react.View) (*authv1.LogOutResponse, error) {
			c.signOut(v, token.SessionID)
			return &authv1.LogOutResponse{}, nil
		})
}

// RevokeSession ends a session of the owner; the owner "" may end anybody's.
func (c *Commands) RevokeSession(ctx context.Context, owner, sessionID string) (*authv1.RevokeSessionResponse, error) {
	return react.Do(ctx, c.Reactor,
		func(v *react.View) []react.Ref { return withOwner(v, sessionID) },
		func(v *react.View) (*authv1.RevokeSessionResponse, error) {
			s, ok := store.Sessions.Get(v, sessionID)
			if !ok || owner != "" && s.UserID != owner {
				return nil, errs.E(errs.NotFound, "SESSION_NOT_FOUND", "there is no session %s", sessionID)
			}
			c.signOut(v, sessionID)
			return &authv1.RevokeSessionResponse{}, nil
		})
}

// ChangePassword gives the caller another password and ends their other sessions.
func (c *Commands) ChangePassword(ctx context.Context, caller access.Caller, req *authv1.ChangePasswordRequest, client Client) (*authv1.ChangePasswordResponse, error) {
	if err := auth.CheckPassword("new_password", req.GetNewPassword()); err != nil {
		return nil, err
	}
	before, ok, err := c.Store.Account(ctx, caller.UserID)
	if err != nil {
		return nil, err
	}
	if !ok || before.Erased {
		return nil, userNotFound(caller.UserID)
	}
	wrong := errs.E(errs.Invalid, "WRONG_PASSWORD", "current_password is wrong").
		WithFields(errs.Field{Path: "current_password", Problem: "is wrong"})
	if _, err := c.verify(ctx, before.EmailID, client.Address, before.PasswordHash, req.GetCurrentPassword(), wrong); err != nil {
		return nil, err
	}
	hash, err := c.Hasher.Hash(ctx, auth.NormalizePassword(req.GetNewPassword()))
	if err != nil {
		return nil, err
	}
	return react.Do(ctx, c.Reactor,
		func(v *react.View) []react.Ref { return withSessions(v, caller.UserID) },
		func(v *react.View) (*authv1.ChangePasswordResponse, error) {
			a, _ := store.Accounts.Get(v, caller.UserID)
			if a.PasswordSerial != before.PasswordSerial {
				return nil, errs.E(errs.Aborted, "PASSWORD_CHANGED", "the password was changed meanwhile; try again")
			}
			a, ended := a.ChangePassword(hash, caller.SessionID, v.Now())
			end(v, caller.UserID, ended)
			store.Accounts.Put(v, caller.UserID, a)
			return &authv1.ChangePasswordResponse{}, nil
		})
}

// SetRole gives somebody another role and ends their sessions, so that the role
// holds at once.
func (c *Commands) SetRole(ctx context.Context, caller access.Caller, userID string, role optionsv1.Role) (*authv1.SetUserRoleResponse, error) {
	if caller.UserID == userID {
		return nil, errs.E(errs.FailedPrecondition, "OWN_ROLE", "nobody changes their own role; ask another admin")
	}
	return react.Do(ctx, c.Reactor,
		func(v *react.View) []react.Ref { return withSessions(v, userID) },
		func(v *react.View) (*authv1.SetUserRoleResponse, error) {
			a, ok := store.Accounts.Get(v, userID)
			if !ok || a.Erased {
				return nil, userNotFound(userID)
			}
			if a.Role == role {
				return &authv1.SetUserRoleResponse{}, nil
			}
			a, ended := a.SetRole(role, v.Now())
			end(v, userID, ended)
			store.Accounts.Put(v, userID, a)
			v.Emit(store.Accounts.Ref(userID), &authv1.UserRoleChanged{UserId: userID, Role: role, ChangedAt: timestamppb.New(v.Now())})
			return &authv1.SetUserRoleResponse{}, nil
		})
}

func userNotFound(userID string) error {
	return errs.E(errs.NotFound, "USER_NOT_FOUND", "there is no user %s", userID)
}
