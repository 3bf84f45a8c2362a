package auth

import (
	"bytes"
	"time"
)

// Policy says how long sessions and tokens are good.
type Policy struct {
	SessionTTL time.Duration // how long a session lives after its last refresh
	Grace      time.Duration // how long a spent refresh token still gives its successor
}

// Session is one sign-in on one device. It has one good refresh token at a time;
// what is kept of it is a hash.
type Session struct {
	UserID    string
	UserAgent string
	Token     []byte    // hash of the good refresh token
	Previous  []byte    // hash of the one before; nil at first
	Created   time.Time // when it was opened
	Refreshed time.Time // when Token took the place of Previous, at first Created
	Expires   time.Time
	Revoked   time.Time // zero while it is open
}

// NewSession opens a session.
func NewSession(userID, userAgent string, token []byte, p Policy, now time.Time) Session {
	return Session{UserID: userID, UserAgent: userAgent, Token: token, Created: now, Refreshed: now, Expires: now.Add(p.SessionTTL)}
}

// Open reports whether the session is good at this time.
func (s Session) Open(now time.Time) bool { return s.Revoked.IsZero() && now.Before(s.Expires) }

// Revoke ends the session.
func (s Session) Revoke(now time.Time) Session {
	if s.Revoked.IsZero() {
		s.Revoked = now
	}
	return s
}

// Outcome is what came of a refresh.
type Outcome uint8

// The outcomes.
const (
	Ended    Outcome = iota // the session was over; nothing happens
	Renewed                 // the token was good; its successor is good now
	Repeated                // the token was spent just now; its successor is given again
	Reused                  // the token was spent before: two people have it, and the session is over
)

// Refresh spends a refresh token of this session. Token and successor are hashes;
// the caller has made sure that the token was once given out for this session.
func (s Session) Refresh(token, successor []byte, p Policy, now time.Time) (Session, Outcome) {
	switch {
	case !s.Open(now):
		return s, Ended
	case bytes.Equal(token, s.Token):
		s.Previous, s.Token = s.Token, successor
		s.Refreshed, s.Expires = now, now.Add(p.SessionTTL)
		return s, Renewed
	case bytes.Equal(token, s.Previous) && now.Sub(s.Refreshed) <= p.Grace:
		return s, Repeated
	}
	return s.Revoke(now), Reused
}

// Erase takes away what the session says about a person.
func (s Session) Erase(now time.Time) Session {
	s = s.Revoke(now)
	s.UserAgent, s.Token, s.Previous = "", nil, nil
	return s
}
