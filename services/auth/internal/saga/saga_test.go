package saga_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	access "github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	"github.com/waybill-dev/waybill/services/auth"
	"github.com/waybill-dev/waybill/services/auth/internal/keys"
	"github.com/waybill-dev/waybill/services/auth/internal/password"
	"github.com/waybill-dev/waybill/services/auth/internal/saga"
	"github.com/waybill-dev/waybill/services/auth/internal/store"
	"github.com/waybill-dev/waybill/services/auth/internal/storetest"
)

const right = "correct horse battery"

// bench is the service's commands on SQLite, with a hash that a test watches.
type bench struct {
	*saga.Commands
	t     *testing.T
	store *store.Store
	hash  func(password, salt []byte, p password.Params) []byte
}

func newBench(t *testing.T) *bench {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	log := slog.New(slog.DiscardHandler)
	db := storetest.Open(sqldbtest.SQLite(t), "auth")
	b, err := bus.Open(t.Context(), bustest.Config(t), log)
	must(err)
	stop := func(fn func(context.Context) error) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := fn(ctx); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { stop(b.Close) })
	s := store.New(db)
	box, err := keys.NewBox("")
	must(err)
	rotation := auth.Rotation{Every: time.Hour, Ahead: time.Minute, Keep: time.Minute}
	r, err := react.New(react.Config{Machine: saga.Machine(db, s, box, rotation, time.Hour), DB: db, Bus: b, Log: log})
	must(err)
	must(r.Start(t.Context()))
	t.Cleanup(func() { stop(r.Stop) })
	w := &bench{t: t, store: s, hash: func(password, _ []byte, _ password.Params) []byte { return append(password, make([]byte, 32)...)[:32] }}
	plenty := auth.Limit{Burst: 1000, Every: time.Second}
	w.Commands = saga.NewCommands(saga.Deps{
		Reactor: r, Store: s, Box: box, Rotation: rotation, Log: log, Policy: auth.Policy{SessionTTL: time.Hour, Grace: 10 * time.Second},
		Keeper: keys.NewKeeper(box, s.Ring, 10*time.Minute, time.Now, log),
		Hasher: password.New(password.Config{
			Params: password.Params{Memory: 64, Time: 1, Threads: 1}, Parallel: 4, Wait: time.Second,
			KDF: func(pass, salt []byte, p password.Params) []byte { return w.hash(pass, salt, p) },
		}),
		Throttle: auth.NewThrottle(auth.Limits{Pair: plenty, Account: plenty, Address: plenty}, time.Now),
	})
	must(w.EnsureRing(t.Context()))
	_, err = w.SignUp(t.Context(), &authv1.SignUpRequest{Email: "ann@example.com", Password: right, DisplayName: "Ann"}, saga.Client{})
	must(err)
	return w
}

// Time tells nothing if the work is the same: the derivation runs once, with the
// same cost, whether or not there is such an account.
func TestAnUnknownAddressCostsTheSameHash(t *testing.T) {
	w := newBench(t)
	inner := w.hash
	var costs []password.Params
	w.hash = func(pass, salt []byte, p password.Params) []byte {
		costs = append(costs, p)
		return inner(pass, salt, p)
	}
	for _, email := range []string{"ann@example.com", "nobody@example.com"} {
		_, err := w.LogIn(t.Context(), &authv1.LogInRequest{Email: email, Password: "wrong"}, saga.Client{})
		if errs.ReasonOf(err) != "WRONG_CREDENTIALS" {
			t.Errorf("%s: %v", email, err)
		}
	}
	if len(costs) != 2 || costs[0] != costs[1] {
		t.Errorf("hashed with %v", costs)
	}
}

func TestAPasswordChangedWhileItIsCheckedIsNotGoodAnyMore(t *testing.T) {
	w := newBench(t)
	inner := w.hash
	in, err := w.LogIn(t.Context(), &authv1.LogInRequest{Email: "ann@example.com", Password: right}, saga.Client{})
	if err != nil {
		t.Fatal(err)
	}
	changed := false
	w.hash = func(pass, salt []byte, p password.Params) []byte {
		if !changed {
			changed = true
			_, err := w.ChangePassword(t.Context(), access.Caller{UserID: in.GetUserId(), Role: access.Customer, SessionID: in.GetTokens().GetSessionId()}, &authv1.ChangePasswordRequest{CurrentPassword: right, NewPassword: "another password"}, saga.Client{})
			if err != nil {
				t.Error(err)
			}
		}
		return inner(pass, salt, p)
	}
	_, err = w.LogIn(t.Context(), &authv1.LogInRequest{Email: "ann@example.com", Password: right}, saga.Client{})
	if errs.ReasonOf(err) != "WRONG_CREDENTIALS" {
		t.Errorf("got %v", err)
	}
}

func TestTheRingIsMadeOnce(t *testing.T) {
	w := newBench(t)
	before, err := w.store.Ring(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.EnsureRing(t.Context()); err != nil {
		t.Fatal(err)
	}
	after, err := w.store.Ring(t.Context())
	if err != nil || len(after.Keys) != 1 || after.Keys[0].ID != before.Keys[0].ID || string(after.Secret) != string(before.Secret) {
		t.Errorf("%+v became %+v, %v", before, after, err)
	}
}
