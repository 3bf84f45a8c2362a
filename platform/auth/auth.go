// Package auth says who is calling: it signs and verifies access tokens and
// carries the verified caller in the context. It knows nothing of users' data;
// what a caller may do is declared per method in the contract.
package auth

import "context"

// A Role is what a caller is to Waybill.
type Role string

// The roles. Service is never read from a token: it is what a caller is that
// proved to be one of Waybill's own services and brings no user along.
const (
	Customer Role = "customer"
	Staff    Role = "staff"
	Admin    Role = "admin"
	Service  Role = "service"
)

// A Caller is who makes a call, as far as it was proved.
type Caller struct {
	UserID    string // the user, "" if a service calls on its own behalf
	Role      Role
	SessionID string // the session the user's token belongs to
	Service   string // the service that made the call, "" if it came from outside
}

type callerKey struct{}

// WithCaller gives a context that says c is calling. Only code that has proved
// it may say so: platform/rpc, and tests.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// FromContext gives the verified caller; false if the call is anonymous.
func FromContext(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	return c, ok
}

// Owner gives the user to whose things the caller is limited, "" for staff,
// admins and services, who see all. It belongs into the WHERE clause of every
// statement that reads or changes users' things. An anonymous caller owns
// nothing and gets Nobody, which equals no user id.
func Owner(ctx context.Context) string {
	c, ok := FromContext(ctx)
	switch {
	case !ok:
		return Nobody
	case c.Role == Staff, c.Role == Admin, c.Role == Service:
		return ""
	case c.UserID == "":
		return Nobody
	}
	return c.UserID
}

// Nobody is the owner of nothing.
const Nobody = "nobody"
