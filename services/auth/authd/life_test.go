package authd_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/platform/telemetry/telemetrytest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/auth/authd"
)

func TestKeysRotateWithoutRefusingATokenAndAreRemovedInTheEnd(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ctx := t.Context()
		published := func() []string {
			resp, err := w.JWKS(ctx, &authv1.JWKSRequest{})
			w.must(err)
			var kids []string
			for _, k := range resp.GetKeys() {
				kids = append(kids, k.GetKid())
			}
			return kids
		}
		first := published()
		if len(first) != 1 {
			t.Fatalf("%d keys at first", len(first))
		}
		w.signUp("ann")
		w.pass(30*24*time.Hour - 59*time.Minute)
		w.eventually("publishing the next key", func() bool { return strings.Count(w.text(`SELECT data FROM rings`), `"id"`) == 2 })
		w.pass(time.Minute)
		if got := published(); len(got) != 2 || got[0] != first[0] {
			t.Fatalf("published are %v", got)
		}
		old := w.mustLogIn("ann", right).GetTokens() // still the old key
		var last *authv1.Tokens
		for range 70 {
			w.pass(time.Minute)
			tokens := w.mustLogIn("ann", right).GetTokens()
			for _, one := range []*authv1.Tokens{tokens, last} {
				if one == nil {
					continue
				}
				if _, err := w.ListSessions(w.with(one), &authv1.ListSessionsRequest{}); err != nil {
					t.Fatalf("%s: %v", w.now, err)
				}
			}
			last = tokens
		}
		w.pass(2 * time.Minute)
		w.eventually("removing the old key", func() bool { return strings.Count(w.text(`SELECT data FROM rings`), `"id"`) == 1 })
		w.pass(time.Minute)
		if got := published(); len(got) != 1 || got[0] == first[0] {
			t.Errorf("published are %v", got)
		}
		if w.good(old) {
			t.Error("a token of a removed key is taken")
		}
		if !w.good(w.mustLogIn("ann", right).GetTokens()) {
			t.Error("a token of the new key is refused")
		}
	})
}

func TestTheFirstAdminIsMadeOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := w.admin()
		if root.GetRole() != optionsv1.Role_ROLE_ADMIN {
			t.Fatalf("the role is %s", root.GetRole())
		}
		w.waitFor("the registration", func(heard []proto.Message) bool { return len(heard) == 1 })
		want := &authv1.UserRegistered{UserId: root.GetUserId(), Email: "root@example.com", DisplayName: "Admin", Role: optionsv1.Role_ROLE_ADMIN, RegisteredAt: timestamppb.New(w.now)}
		if diff := cmp.Diff(proto.Message(want), w.events()[0], protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		ann := w.signUp("ann")

		w.end()
		cfg := w.cfg
		cfg.AdminPassword = "another password"
		w.start(cfg)
		_, err := w.logIn("root", "another password")
		w.refused("the new password of the environment", err, codes.Unauthenticated, "WRONG_CREDENTIALS")
		if again := w.mustLogIn("root", right); again.GetUserId() != root.GetUserId() {
			t.Error("another admin was made")
		}
		if !strings.Contains(w.log.String(), "its password is not changed") {
			t.Error("nothing in the log says so")
		}

		w.end()
		cfg.AdminEmail = "ann@example.com"
		w.start(cfg)
		if in := w.mustLogIn("ann", right); in.GetRole() != optionsv1.Role_ROLE_CUSTOMER || in.GetUserId() != ann.GetUserId() {
			t.Errorf("a customer became %s", in.GetRole())
		}
	})
}

func TestAWeakAdminPasswordIsToldAtStart(t *testing.T) {
	w := newWorld(t, sqliteOpen(t))
	cfg := config()
	cfg.AdminEmail, cfg.AdminPassword = "root@example.com", "short"
	unit, err := authd.New(t.Context(), w.env(), cfg)
	w.must(err)
	if err = unit.Start(t.Context()); errs.ReasonOf(err) != "WEAK_PASSWORD" || strings.Contains(err.Error(), "short") {
		t.Errorf("got %v", err)
	}
	w.stop(unit.Stop)
}

func sqliteOpen(t *testing.T) func() *sqldb.DB {
	open := sqldbtest.SQLite(t)
	return func() *sqldb.DB { return open("auth") }
}

func TestSealedKeysNeedTheirSecret(t *testing.T) {
	w := newWorld(t, sqliteOpen(t))
	cfg := config()
	cfg.KeySecret = "kept elsewhere"
	w.start(cfg)
	tokens := w.signUp("ann").GetTokens()
	w.end()
	for secret, reason := range map[string]string{"": "KEY_SECRET_MISSING", "wrong": "KEY_SECRET_WRONG"} {
		other := cfg
		other.KeySecret = ""
		if secret != "" {
			other.KeySecret = "wrong"
		}
		unit, err := authd.New(t.Context(), w.env(), other)
		w.must(err)
		if err := unit.Start(t.Context()); errs.ReasonOf(err) != reason || errs.KindOf(err) != errs.FailedPrecondition {
			t.Errorf("with the secret %q: %v", secret, err)
		}
		w.stop(unit.Stop)
	}
	w.start(cfg)
	if !w.good(tokens) {
		t.Error("a token of before the restart is refused")
	}
	if _, err := w.refresh(tokens); err != nil {
		t.Errorf("a refresh token of before the restart: %v", err)
	}
	w.mustLogIn("ann", right)
}

func TestHashesAreMadeAnewWhenTheirCostChanges(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.signUp("ann")
		before := w.text(`SELECT password_hash FROM accounts`)
		w.mustLogIn("ann", right)
		if w.text(`SELECT password_hash FROM accounts`) != before {
			t.Error("it changed without need")
		}
		w.end()
		cfg := w.cfg
		cfg.HashMemory = authd.DefaultConfig().HashMemory
		cfg.HashTime = authd.DefaultConfig().HashTime
		w.start(cfg)
		_, err := w.logIn("ann", "wrong")
		w.refused("a wrong password", err, codes.Unauthenticated, "")
		if w.text(`SELECT password_hash FROM accounts`) != before {
			t.Error("a wrong password changed the hash")
		}
		w.mustLogIn("ann", right)
		if got := w.text(`SELECT password_hash FROM accounts`); !regexp.MustCompile(`^\$argon2id\$v=19\$m=19456,t=2,p=1\$[^$]{22}\$[^$]{43}$`).MatchString(got) {
			t.Errorf("the hash is %s", got)
		}
		w.mustLogIn("ann", right)
	})
}

func TestErasureLeavesNothingToSignInWithAndNoName(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ann, bob := w.signUp("ann"), w.signUp("bob")
		w.publish(ann.GetUserId(), &userv1.UserErased{UserId: ann.GetUserId(), ErasedAt: timestamppb.New(w.now)})
		w.waitFor("the end of her session", func(heard []proto.Message) bool {
			for _, e := range heard {
				if r, ok := e.(*authv1.SessionRevoked); ok && r.GetUserId() == ann.GetUserId() {
					return true
				}
			}
			return false
		})
		_, err := w.logIn("ann", right)
		w.refused("signing in", err, codes.Unauthenticated, "WRONG_CREDENTIALS")
		_, err = w.refresh(ann.GetTokens())
		w.refused("refreshing", err, codes.Unauthenticated, "REFRESH_TOKEN_INVALID")
		w.publish(ann.GetUserId(), &userv1.UserErased{UserId: ann.GetUserId(), ErasedAt: timestamppb.New(w.now)}) // once more
		w.publish(newID(), &userv1.UserErased{UserId: newID(), ErasedAt: timestamppb.New(w.now)})                 // nobody
		w.eventually("taking her name out of events", func() bool {
			w.pass(time.Second)
			return w.count(`SELECT count(*) FROM outbox WHERE aggregate_id = ? AND type LIKE '%UserRegistered' AND length(payload) > 60`, ann.GetUserId()) == 0
		})
		if n := w.count(`SELECT count(*) FROM accounts WHERE id = ? AND erased AND email_id = '' AND password_hash = '' AND sessions = ''`, ann.GetUserId()); n != 1 {
			t.Error("her account is not empty")
		}
		if w.good(ann.GetTokens()) || !w.good(bob.GetTokens()) {
			t.Error("the wrong tokens are taken")
		}
		again := w.signUp("ann") // the address is free
		if again.GetUserId() == ann.GetUserId() {
			t.Error("she is back")
		}
		if n := w.count(`SELECT count(*) FROM dead_letters`); n != 0 {
			t.Errorf("%d dead letters", n)
		}
	})
}

// The whole file is searched, free pages and all.
func TestErasureLeavesNoPlaintextInTheFile(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, nil)
	w.open = func() *sqldb.DB {
		db, err := sqldb.Open(context.Background(), sqldb.Config{URL: "sqlite://" + filepath.Join(dir, "auth.db")})
		w.must(err)
		return db
	}
	w.start(config())
	var users []string
	for _, name := range []string{"ann", "bob", "cleo"} {
		users = append(users, w.signUp(name).GetUserId())
	}
	w.publish(users[1], &userv1.UserErased{UserId: users[1], ErasedAt: timestamppb.New(w.now)})
	w.eventually("taking his name out of events", func() bool {
		w.pass(time.Second)
		return w.count(`SELECT count(*) FROM outbox WHERE type LIKE '%UserRegistered' AND length(payload) < 60`) == 1
	})
	w.end()
	found := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, word := range []string{"ann@example", "Ms ann", "bob@example", "Ms bob", right} {
			found[word] = found[word] || bytes.Contains(data, []byte(word))
		}
		return err
	})
	w.must(err)
	want := map[string]bool{"ann@example": true, "Ms ann": true, "bob@example": false, "Ms bob": false, right: false} // ann proves that the search works
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
}

func TestReplicasShareKeysAndSessions(t *testing.T) {
	open := sqldbtest.Postgres(t, false)
	a := newWorld(t, func() *sqldb.DB { return open("auth") })
	a.start(config())
	b := &world{t: t, open: a.open, bus: a.bus, log: &telemetrytest.Buffer{}, now: a.now, came: make(chan struct{})}
	b.start(config())
	tokens := a.signUp("ann").GetTokens()
	if _, err := b.ListSessions(b.with(tokens), &authv1.ListSessionsRequest{}); err != nil {
		t.Errorf("the other replica refuses the access token: %v", err)
	}
	x, err := a.refresh(tokens)
	a.must(err)
	y, err := b.refresh(tokens)
	a.must(err)
	if x.GetRefreshToken() != y.GetRefreshToken() {
		t.Error("two successors")
	}
	b.mustLogIn("ann", right)
}

func TestConfigurationsThatCannotBeMeantAreRefused(t *testing.T) {
	good := authd.DefaultConfig()
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*authd.Config){
		"access_ttl":       func(c *authd.Config) { c.AccessTTL = time.Hour },
		"session_ttl":      func(c *authd.Config) { c.SessionTTL = time.Minute },
		"refresh_grace":    func(c *authd.Config) { c.RefreshGrace = time.Hour },
		"publish_ahead":    func(c *authd.Config) { c.PublishAhead = time.Minute },
		"rotate_every":     func(c *authd.Config) { c.RotateEvery = time.Hour },
		"sweep_every":      func(c *authd.Config) { c.SweepEvery = 2 * time.Hour },
		"hash_memory":      func(c *authd.Config) { c.HashMemory = 0 },
		"hash_time":        func(c *authd.Config) { c.HashTime = 0 },
		"hash_threads":     func(c *authd.Config) { c.HashThreads = 0 },
		"hash_parallel":    func(c *authd.Config) { c.HashParallel = 0 },
		"hash_wait":        func(c *authd.Config) { c.HashWait = -1 },
		"pair_failures":    func(c *authd.Config) { c.PairEvery = 0 },
		"account_failures": func(c *authd.Config) { c.AccountFailures = 0 },
		"address_failures": func(c *authd.Config) { c.AddressEvery = 0 },
		"admin_email":      func(c *authd.Config) { c.AdminPassword = right },
	} {
		c := good
		change(&c)
		var e *errs.Error
		if err := c.Validate(); err == nil {
			t.Errorf("%s is taken", name)
		} else if errors.As(err, &e); e == nil || e.Fields[0].Path != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}
