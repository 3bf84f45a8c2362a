package auth_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/services/auth"
)

// limits are those of the default configuration.
var limits = auth.Limits{
	Pair:    auth.Limit{Burst: 10, Every: time.Minute},
	Account: auth.Limit{Burst: 20, Every: 30 * time.Second},
	Address: auth.Limit{Burst: 100, Every: 5 * time.Second},
}

type guessing struct {
	*auth.Throttle
	now time.Time
}

func newGuessing() *guessing {
	g := &guessing{now: noon}
	g.Throttle = auth.NewThrottle(limits, func() time.Time { return g.now })
	return g
}

// try tries a password and gives how long to wait, 0 if it was looked at.
func (g *guessing) try(t *testing.T, account, address string, r auth.Result) time.Duration {
	t.Helper()
	done, err := g.Attempt(account, address)
	if err == nil {
		done(r)
		return 0
	}
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.ResourceExhausted || e.Reason != "TOO_MANY_ATTEMPTS" || e.RetryAfter <= 0 {
		t.Fatalf("got %v", err)
	}
	return e.RetryAfter
}

func TestWrongPasswordsFromOneAddressAreStoppedAndForgiven(t *testing.T) {
	g := newGuessing()
	n := 0
	for g.try(t, "ann", "1.1.1.1", auth.Wrong) == 0 {
		n++
	}
	if n != 10 {
		t.Errorf("%d wrong passwords are borne", n)
	}
	if wait := g.try(t, "ann", "1.1.1.1", auth.Passed); wait != time.Minute {
		t.Errorf("the right one waits for %s", wait)
	}
	if wait := g.try(t, "ann", "2.2.2.2", auth.Passed); wait != 0 {
		t.Errorf("the owner, elsewhere, waits for %s", wait)
	}
	if wait := g.try(t, "bob", "1.1.1.1", auth.Passed); wait != 0 {
		t.Errorf("another account waits for %s", wait)
	}
	g.now = g.now.Add(time.Minute)
	if wait := g.try(t, "ann", "1.1.1.1", auth.Passed); wait != 0 {
		t.Errorf("after the wait there is another of %s", wait)
	}
}

func TestGuessingFromManyAddressesIsStoppedAndLocksNobodyOut(t *testing.T) {
	g := newGuessing()
	if wait := g.try(t, "ann", "home", auth.Passed); wait != 0 {
		t.Fatal(wait)
	}
	n := 0
	for g.try(t, "ann", fmt.Sprint("bot ", n), auth.Wrong) == 0 {
		n++
	}
	if n != 20 {
		t.Errorf("%d wrong passwords are borne", n)
	}
	if wait := g.try(t, "ann", "home", auth.Passed); wait != 0 {
		t.Errorf("an address that signed in before waits for %s", wait)
	}
	wait := g.try(t, "ann", "hotel", auth.Passed)
	if wait <= 0 || wait > 30*time.Second {
		t.Errorf("a new address waits for %s", wait)
	}
	g.now = g.now.Add(wait)
	if wait := g.try(t, "ann", "hotel", auth.Passed); wait != 0 {
		t.Errorf("after the wait there is another of %s", wait)
	}
}

func TestOneAddressCannotTryAllAccounts(t *testing.T) {
	g := newGuessing()
	n := 0
	for g.try(t, fmt.Sprint("user ", n), "1.1.1.1", auth.Wrong) == 0 {
		n++
	}
	if n != 100 {
		t.Errorf("%d wrong passwords are borne", n)
	}
	if wait := g.try(t, "user 0", "2.2.2.2", auth.Passed); wait != 0 {
		t.Errorf("another address waits for %s", wait)
	}
}

func TestRightPasswordsAndThoseNotLookedAtCostNothing(t *testing.T) {
	g := newGuessing()
	for range 1000 {
		if g.try(t, "ann", "1.1.1.1", auth.Passed)+g.try(t, "bob", "1.1.1.1", auth.Void) != 0 {
			t.Fatal("stopped")
		}
	}
	for i := range 20 {
		g.try(t, "bob", fmt.Sprint("bot ", i), auth.Wrong)
	}
	if g.try(t, "bob", "1.1.1.1", auth.Passed) == 0 {
		t.Error("an address is known although no password was right from there")
	}
}

func TestAttemptsUnderWayCount(t *testing.T) {
	g := newGuessing()
	var open []func(auth.Result)
	for {
		done, err := g.Attempt("ann", "1.1.1.1")
		if err != nil {
			break
		}
		open = append(open, done)
	}
	if len(open) != 10 {
		t.Errorf("%d at once", len(open))
	}
	for _, done := range open {
		done(auth.Passed)
	}
	if g.try(t, "ann", "1.1.1.1", auth.Passed) != 0 {
		t.Error("they count still")
	}
}

func TestWithoutAnAddressTheAccountIsLimited(t *testing.T) {
	g := newGuessing()
	n := 0
	for g.try(t, "ann", "", auth.Wrong) == 0 {
		n++
	}
	if n != 10 {
		t.Errorf("%d wrong passwords are borne", n)
	}
	g.try(t, "bob", "", auth.Passed)
	for i := range 20 {
		g.try(t, "bob", fmt.Sprint("bot ", i), auth.Wrong)
	}
	if g.try(t, "bob", "", auth.Passed) == 0 {
		t.Error("nowhere is a known address")
	}
}

func TestMemoryIsBoundedAndClocksMayGoBack(t *testing.T) {
	g := newGuessing()
	for i := range 1 << 17 {
		g.try(t, "ann", fmt.Sprint(i), auth.Void)
	}
	g.now = g.now.Add(-time.Hour)
	if wait := g.try(t, "ann", "1.1.1.1", auth.Passed); wait != 0 {
		t.Errorf("waits for %s", wait)
	}
}
