// Package storetest says what the auth store must do on every database.
package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	"github.com/waybill-dev/waybill/services/auth"
	"github.com/waybill-dev/waybill/services/auth/internal/store"
)

// Open opens an auth database of this name with its tables and nothing in them.
func Open(open sqldbtest.Opener, name string) *sqldb.DB {
	return open(name,
		sqldbtest.Migration{Name: "platform", FS: react.Migrations()},
		sqldbtest.Migration{Name: "auth", FS: store.Migrations()})
}

// noon is when everything in this suite begins; to the microsecond, which is
// what databases keep.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

// bench is a store and a way to write into it.
type bench struct {
	*store.Store
	t *testing.T
	r *react.Reactor
}

func newBench(t *testing.T, open sqldbtest.Opener, name string) *bench {
	t.Helper()
	db := Open(open, name)
	log := slog.New(slog.DiscardHandler)
	b, err := bus.Open(t.Context(), bustest.Config(t), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return &bench{Store: store.New(db), t: t, r: reacttest.Reactor(t, react.Config{Machine: react.NewMachine("auth"), DB: db, Bus: b})}
}

// put writes in one step. The refs are those it writes.
func (b *bench) put(step func(v *react.View), refs ...react.Ref) {
	b.t.Helper()
	_, err := react.Do(b.t.Context(), b.r, func(*react.View) []react.Ref { return refs }, func(v *react.View) (*emptypb.Empty, error) {
		step(v)
		return &emptypb.Empty{}, nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) account(id string, a auth.Account) {
	b.t.Helper()
	b.put(func(v *react.View) {
		store.Accounts.Put(v, id, a)
		if a.EmailID != "" {
			store.Emails.Put(v, a.EmailID, store.Email{UserID: id})
		}
	}, store.Accounts.Ref(id), store.Emails.Ref(a.EmailID))
}

func (b *bench) session(id string, s auth.Session) {
	b.t.Helper()
	b.put(func(v *react.View) { store.Sessions.Put(v, id, s) }, store.Sessions.Ref(id))
}

// Run runs the suite on the databases that open opens.
func Run(t *testing.T, open sqldbtest.Opener) {
	for i, c := range []struct {
		name string
		test func(*testing.T, *bench)
	}{
		{"an account comes back as it was put and is found by its address", accounts},
		{"a session comes back as it was put, absent hashes absent", roundTrip},
		{"lists hold the owner's open sessions, newest first", lists},
		{"revoked sessions are told from a time on", revoked},
		{"the ring comes back as it was put", rings},
		{"what is over is forgotten and nothing else", forget},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newBench(t, open, fmt.Sprint("auth", i))) })
	}
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func accounts(t *testing.T, b *bench) {
	a := auth.Account{
		EmailID: "e1", Role: optionsv1.Role_ROLE_STAFF, PasswordHash: "$argon2id$it's", PasswordSerial: 7, Sessions: []string{"s1", "s2"},
		Created: noon, Updated: noon.Add(time.Second),
	}
	b.account("u1", a)
	b.account("u2", auth.Account{EmailID: "e2", Role: optionsv1.Role_ROLE_CUSTOMER, Created: noon, Updated: noon})
	id, got, ok, err := b.ByEmail(t.Context(), "e1")
	if id != "u1" || !ok || err != nil {
		t.Fatalf("found %q, %v, %v", id, ok, err)
	}
	same(t, "by address", a, got)
	got, ok, err = b.Account(t.Context(), "u1")
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	same(t, "by id", a, got)
	a, _ = a.Erase(noon)
	b.put(func(v *react.View) {
		store.Accounts.Put(v, "u1", a)
		store.Emails.Put(v, "e1", store.Email{})
	}, store.Accounts.Ref("u1"), store.Emails.Ref("e1"))
	if got, _, err = b.Account(t.Context(), "u1"); err != nil {
		t.Fatal(err)
	}
	same(t, "erased", a, got)
	for _, emailID := range []string{"e1", "", "e9"} {
		if id, _, ok, err := b.ByEmail(t.Context(), emailID); id != "" || ok || err != nil {
			t.Errorf("%q finds %q, %v, %v", emailID, id, ok, err)
		}
	}
	if _, ok, err := b.Account(t.Context(), "u9"); ok || err != nil {
		t.Errorf("found nobody: %v, %v", ok, err)
	}
}

func roundTrip(t *testing.T, b *bench) {
	for i, s := range []auth.Session{
		{UserID: "u", UserAgent: "a 'b' \"c\" 幅", Token: []byte{0, 1, 255}, Previous: []byte{2}, Created: noon, Refreshed: noon.Add(1000), Expires: noon.Add(time.Hour)},
		{UserID: "u", Token: []byte{1}, Created: noon.Add(time.Minute), Refreshed: noon, Expires: noon.Add(time.Hour)},
		{UserID: "u", Created: noon.Add(2 * time.Minute), Refreshed: noon, Expires: noon.Add(time.Hour)},
	} {
		id := fmt.Sprint("s", i)
		b.session(id, s)
		got, _, err := b.Sessions(t.Context(), listing.Query{Owner: "u", PageSize: 1}, noon)
		if err != nil || len(got) != 1 {
			t.Fatal(got, err)
		}
		same(t, id, store.Session{ID: id, Session: s}, got[0])
		if s.Previous == nil && got[0].Previous != nil {
			t.Error("an absent hash became an empty one")
		}
	}
}

func lists(t *testing.T, b *bench) {
	for i := range 7 {
		s := auth.NewSession([]string{"ann", "bob"}[i/5], "", []byte{1}, auth.Policy{SessionTTL: time.Duration(i+1) * time.Hour}, noon.Add(time.Duration(i)*time.Second))
		if i == 2 {
			s = s.Revoke(noon)
		}
		b.session(fmt.Sprint("s", i), s)
	}
	var got []string
	q := listing.Query{Owner: "ann", PageSize: 1}
	for {
		page, next, err := b.Sessions(t.Context(), q, noon.Add(time.Hour+time.Minute)) // s0 has expired
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page {
			got = append(got, s.ID)
		}
		if q.PageToken = next; next == "" {
			break
		}
	}
	same(t, "ann's sessions", []string{"s4", "s3", "s1"}, got)
	if _, _, err := b.Sessions(t.Context(), listing.Query{}, noon); errs.KindOf(err) != errs.Internal {
		t.Errorf("a list of nobody's sessions: %v", err)
	}
	if _, _, err := b.Sessions(t.Context(), listing.Query{Owner: "ann", PageToken: "x"}, noon); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a junk token: %v", err)
	}
}

func revoked(t *testing.T, b *bench) {
	for i := range 4 {
		s := auth.NewSession("u", "", []byte{1}, auth.Policy{SessionTTL: time.Hour}, noon)
		if i > 0 {
			s = s.Revoke(noon.Add(time.Duration(-i) * time.Minute))
		}
		b.session(fmt.Sprint("s", i), s)
	}
	got, err := b.Revoked(t.Context(), noon.Add(-3*time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	same(t, "revoked", []store.Revocation{{SessionID: "s2", At: noon.Add(-2 * time.Minute)}, {SessionID: "s1", At: noon.Add(-time.Minute)}}, got)
}

func rings(t *testing.T, b *bench) {
	got, err := b.Ring(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same(t, "no ring", auth.Ring{}, got)
	want := auth.Ring{Secret: []byte{0, 255}, Keys: []auth.Key{{ID: "k1", Public: []byte{1}, Private: []byte{0, 2}, Published: noon, From: noon.Add(time.Hour)}}}
	b.put(func(v *react.View) { store.Rings.Put(v, store.RingID, want) }, store.Rings.Ref(store.RingID))
	if got, err = b.Ring(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "the ring", want, got)
}

func forget(t *testing.T, b *bench) {
	b.session("old", auth.NewSession("u", "", []byte{1}, auth.Policy{SessionTTL: time.Hour}, noon.Add(-2*time.Hour)))
	b.session("live", auth.NewSession("u", "", []byte{1}, auth.Policy{SessionTTL: time.Hour}, noon))
	b.account("u", auth.Account{EmailID: "taken", Role: optionsv1.Role_ROLE_CUSTOMER, Created: noon, Updated: noon})
	b.put(func(v *react.View) { store.Emails.Put(v, "free", store.Email{}) }, store.Emails.Ref("free"))
	if err := b.Forget(t.Context(), noon); err != nil {
		t.Fatal(err)
	}
	b.put(func(v *react.View) {
		for id, want := range map[string]bool{"old": false, "live": true} {
			if _, ok := store.Sessions.Get(v, id); ok != want {
				t.Errorf("session %s is there: %v", id, ok)
			}
		}
		for id, want := range map[string]bool{"free": false, "taken": true} {
			if _, ok := store.Emails.Get(v, id); ok != want {
				t.Errorf("address %s is there: %v", id, ok)
			}
		}
	}, store.Sessions.Ref("old"), store.Sessions.Ref("live"), store.Emails.Ref("free"), store.Emails.Ref("taken"))
}
