package auth

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"github.com/waybill-dev/waybill/platform/errs"
)

// A KeySet is what a verifier needs to know: the keys that sign tokens, and the
// sessions whose tokens are no longer good although they have not ended yet.
type KeySet struct {
	Keys    jose.JSONWebKeySet
	Revoked []string // session ids
}

// A KeySource tells the present KeySet, as a rule by asking the auth service.
type KeySource interface {
	Keys(ctx context.Context) (KeySet, error)
}

// KeySourceFunc makes a function a KeySource.
type KeySourceFunc func(ctx context.Context) (KeySet, error)

// Keys calls f.
func (f KeySourceFunc) Keys(ctx context.Context) (KeySet, error) { return f(ctx) }

// How fresh the keys are. A revoked session is refused everywhere within
// staleAfter while the source answers; when it does not, the last known keys
// stay good, for no token outlives maxLifetime.
const (
	refreshAfter = 15 * time.Second // older keys are refreshed behind the caller's back
	staleAfter   = 45 * time.Second // older ones while the caller waits
	retryAfter   = time.Second      // between tries when the source fails
	unknownAfter = 10 * time.Second // between tries because of a key id nobody knows
	fetchTimeout = 5 * time.Second
	staleWait    = 2 * time.Second
)

// snapshot is a KeySet as it was at one time; it never changes.
type snapshot struct {
	at      time.Time
	keys    map[string]ed25519.PublicKey
	revoked map[string]struct{}
}

// keyring keeps the last good snapshot and fetches the next one: never two
// fetches at once, never more often than the intervals above allow.
type keyring struct {
	source KeySource
	now    func() time.Time
	snap   atomic.Pointer[snapshot]
	last   atomic.Pointer[attempt]
	flight singleflight.Group
}

type attempt struct {
	at  time.Time
	err error
}

// current gives a snapshot that is fresh, or the last one if there is no better.
func (r *keyring) current(ctx context.Context) (*snapshot, error) {
	last := r.last.Load()
	snap, now := r.snap.Load(), r.now()
	failed := last.failedSince(now.Add(-retryAfter))
	switch {
	case snap == nil:
		if failed != nil {
			return nil, unavailable(failed)
		}
		if err := r.wait(ctx, r.fetch(last)); err != nil {
			return nil, unavailable(err)
		}
		return r.snap.Load(), nil
	case now.Sub(snap.at) < refreshAfter, failed != nil:
		return snap, nil
	case now.Sub(snap.at) < staleAfter:
		r.fetch(last)
		return snap, nil
	}
	// The source may be away; the old snapshot is then served on.
	ctx, cancel := context.WithTimeout(ctx, staleWait)
	defer cancel()
	_ = r.wait(ctx, r.fetch(last))
	return r.snap.Load(), nil
}

// refresh fetches because a snapshot lacks a key, unless that was just done. It
// gives the snapshot to look into, which may be the same one.
func (r *keyring) refresh(ctx context.Context) (*snapshot, error) {
	last := r.last.Load()
	if last != nil && last.at.After(r.now().Add(-unknownAfter)) {
		if last.err != nil {
			return nil, unavailable(last.err)
		}
		return r.snap.Load(), nil
	}
	if err := r.wait(ctx, r.fetch(last)); err != nil {
		return nil, unavailable(err)
	}
	return r.snap.Load(), nil
}

// failedSince gives the error of an attempt after t; nil is no attempt.
func (a *attempt) failedSince(t time.Time) error {
	if a != nil && a.at.After(t) {
		return a.err
	}
	return nil
}

// fetch starts a fetch, or joins the one under way, unless one ended since the
// caller looked at the last attempt: that one's result is as good. It outlives the
// call that started it, since others wait for it too.
func (r *keyring) fetch(seen *attempt) <-chan singleflight.Result {
	return r.flight.DoChan("keys", func() (any, error) {
		if last := r.last.Load(); last != seen {
			return nil, last.err
		}
		ctx, cancel := context.WithTimeout(context.Background(), fetchTimeout)
		defer cancel()
		set, err := r.source.Keys(ctx)
		now := r.now()
		if err == nil {
			r.snap.Store(newSnapshot(set, now))
		}
		r.last.Store(&attempt{at: now, err: err})
		return nil, err
	})
}

func (r *keyring) wait(ctx context.Context, c <-chan singleflight.Result) error {
	select {
	case res := <-c:
		return res.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// newSnapshot keeps the Ed25519 signing keys of set; what else is published
// there is for others.
func newSnapshot(set KeySet, now time.Time) *snapshot {
	s := &snapshot{at: now, keys: map[string]ed25519.PublicKey{}, revoked: map[string]struct{}{}}
	for _, k := range set.Keys.Keys {
		key, ok := k.Key.(ed25519.PublicKey)
		if ok && k.KeyID != "" && len(key) == ed25519.PublicKeySize &&
			(k.Algorithm == "" || k.Algorithm == string(signatures)) && (k.Use == "" || k.Use == "sig") {
			s.keys[k.KeyID] = key
		}
	}
	for _, sid := range set.Revoked {
		s.revoked[sid] = struct{}{}
	}
	return s
}

func unavailable(err error) error {
	return errs.Wrap(fmt.Errorf("fetching the token keys: %w", err), errs.Unavailable, "KEYS_UNAVAILABLE",
		"tokens cannot be checked just now; try again").WithRetryAfter(retryAfter)
}
