package auth

import (
	"slices"
	"time"
)

// Rotation says when signing keys come and go.
type Rotation struct {
	Every time.Duration // how long a key signs
	Ahead time.Duration // how long before that it is published; longer than anybody keeps the old set
	Keep  time.Duration // how long after that it stays published: the life of a token and the leeway of clocks
}

// Key is a key that signs access tokens. Private is sealed.
type Key struct {
	ID        string    `json:"id"`
	Public    []byte    `json:"public"`
	Private   []byte    `json:"private"`
	Published time.Time `json:"published"`
	From      time.Time `json:"from"` // when it begins to sign
}

// Ring is all keys of the service, the oldest first. It is one value, so that
// replicas agree on it.
type Ring struct {
	Secret []byte `json:"secret"` // sealed; refresh tokens and e-mail keys are derived from it
	Keys   []Key  `json:"keys"`
}

// Signing gives the key that signs at this time: the one that began last.
func (r Ring) Signing(now time.Time) (Key, bool) {
	for _, k := range slices.Backward(r.Keys) {
		if !k.From.After(now) {
			return k, true
		}
	}
	return Key{}, false
}

// Turn brings the ring up to date: it publishes the next key when it is time, and
// drops those that no token can need any more. It reports whether anything
// changed. Fresh makes a key; the first one begins at once.
func (r Ring) Turn(now time.Time, p Rotation, fresh func() Key) (Ring, bool) {
	keys := slices.Clone(r.Keys)
	if n := len(keys); n == 0 || !now.Before(keys[n-1].From.Add(p.Every-p.Ahead)) {
		k := fresh()
		k.Published, k.From = now, now
		if n > 0 {
			k.From = now.Add(p.Ahead)
			if planned := keys[n-1].From.Add(p.Every); planned.After(k.From) {
				k.From = planned
			}
		}
		keys = append(keys, k)
	}
	for len(keys) > 1 && now.After(keys[1].From.Add(p.Keep)) {
		keys = keys[1:]
	}
	changed := len(keys) != len(r.Keys) || len(keys) > 0 && keys[0].ID != r.Keys[0].ID
	r.Keys = keys
	return r, changed
}
