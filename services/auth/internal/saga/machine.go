// Package saga is what the auth service does: the events it hears, what time
// demands of it, and what callers may order. It decides nothing itself; that is
// done by the package services/auth.
package saga

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/auth"
	"github.com/waybill-dev/waybill/services/auth/internal/keys"
	"github.com/waybill-dev/waybill/services/auth/internal/store"
)

// Name is the service's name: in streams, subjects and the names of consumers.
const Name = "auth"

// forgetAfter is how long a session is kept after its end.
const forgetAfter = 24 * time.Hour

// Machine gives all that the auth service reacts to. Every so often it looks what
// time demands.
func Machine(db *sqldb.DB, s *store.Store, box *keys.Box, rotation auth.Rotation, every time.Duration) *react.Machine {
	m := react.NewMachine(Name)
	react.Redacting(m, db)

	react.On(m, func(v *react.View, e *userv1.UserErased) []react.Ref {
		return everything(v, e.GetUserId())
	}, func(v *react.View, e *userv1.UserErased) error {
		return erase(v, e.GetUserId())
	})

	react.Every(m, react.Sweep{
		Name:  "turn the key ring",
		Every: every,
		Due: func(ctx context.Context, now time.Time, _ int) ([]string, error) {
			ring, err := s.Ring(ctx)
			if err != nil {
				return nil, err
			}
			if _, due := ring.Turn(now, rotation, func() auth.Key { return auth.Key{} }); !due {
				return nil, nil
			}
			return []string{store.RingID}, nil
		},
		Needs: func(_ *react.View, id string) []react.Ref { return []react.Ref{store.Rings.Ref(id)} },
		Step:  func(v *react.View, _ string) error { turn(v, box, rotation); return nil },
	})

	react.Every(m, react.Sweep{
		Name:  "forget",
		Every: every,
		// Nobody else writes rows that are over, so deleting them needs no step.
		Due: func(ctx context.Context, now time.Time, _ int) ([]string, error) {
			return nil, s.Forget(ctx, now.Add(-forgetAfter))
		},
	})
	return m
}

// turn brings the ring up to date, and makes it if there is none.
func turn(v *react.View, box *keys.Box, rotation auth.Rotation) {
	ring, exists := store.Rings.Get(v, store.RingID)
	if !exists {
		ring.Secret = box.FreshSecret()
	}
	if ring, changed := ring.Turn(v.Now(), rotation, box.Fresh); changed {
		store.Rings.Put(v, store.RingID, ring)
	}
}

// everything names an account and, once it is loaded, all that belongs to it.
func everything(v *react.View, userID string) []react.Ref {
	refs := withSessions(v, userID)
	if a, ok := store.Accounts.Get(v, userID); ok && a.EmailID != "" {
		refs = append(refs, store.Emails.Ref(a.EmailID))
	}
	return refs
}

// withSessions names an account and, once it is loaded, its sessions.
func withSessions(v *react.View, userID string) []react.Ref {
	refs := []react.Ref{store.Accounts.Ref(userID)}
	if a, ok := store.Accounts.Get(v, userID); ok {
		for _, id := range a.Sessions {
			refs = append(refs, store.Sessions.Ref(id))
		}
	}
	return refs
}

// erase takes a person's credentials away and, later, their traces in events.
func erase(v *react.View, userID string) error {
	a, ok := store.Accounts.Get(v, userID)
	if !ok || a.Erased {
		return nil
	}
	emailID := a.EmailID
	a, ended := a.Erase(v.Now())
	store.Accounts.Put(v, userID, a)
	store.Emails.Put(v, emailID, store.Email{})
	end(v, userID, ended)
	for _, id := range ended {
		if s, ok := store.Sessions.Get(v, id); ok {
			store.Sessions.Put(v, id, s.Erase(v.Now()))
		}
	}
	react.Redact(v, store.Accounts.Ref(userID))
	return nil
}

// end revokes sessions of a user. The account must be one that is loaded.
func end(v *react.View, userID string, sessionIDs []string) {
	for _, id := range sessionIDs {
		s, ok := store.Sessions.Get(v, id)
		if !ok || !s.Open(v.Now()) {
			continue // it was over before, or forgotten
		}
		store.Sessions.Put(v, id, s.Revoke(v.Now()))
		v.Emit(store.Accounts.Ref(userID), &authv1.SessionRevoked{UserId: userID, SessionId: id, RevokedAt: timestamppb.New(v.Now())})
	}
}
