// Package storetest says what the user store must do on every database.
package storetest

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/user"
	"github.com/waybill-dev/waybill/services/user/internal/store"
)

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
	db := open(name,
		sqldbtest.Migration{Name: "platform", FS: react.Migrations()},
		sqldbtest.Migration{Name: "user", FS: store.Migrations()})
	log := slog.New(slog.DiscardHandler)
	b, err := bus.Open(t.Context(), bustest.Config(t), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.Background()) })
	return &bench{Store: store.New(db), t: t, r: reacttest.Reactor(t, react.Config{Machine: react.NewMachine("user"), DB: db, Bus: b})}
}

// put writes profiles, all in one step.
func (b *bench) put(profiles map[string]user.Profile) {
	b.t.Helper()
	_, err := react.Do(b.t.Context(), b.r, func(*react.View) []react.Ref {
		var refs []react.Ref
		for id := range profiles {
			refs = append(refs, store.Users.Ref(id))
		}
		return refs
	}, func(v *react.View) (*emptypb.Empty, error) {
		for id, p := range profiles {
			store.Users.Put(v, id, p)
		}
		return &emptypb.Empty{}, nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// Run runs the suite on the databases that open opens.
func Run(t *testing.T, open sqldbtest.Opener) {
	for i, c := range []struct {
		name string
		test func(*testing.T, *bench)
	}{
		{"a profile comes back as it was put, to its owner", roundTrip},
		{"many come back at once, without the erased", batch},
		{"lists are filtered and sorted alike, without the erased", lists},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newBench(t, open, fmt.Sprint("user", i))) })
	}
}

func same(t *testing.T, what string, want, got any) {
	t.Helper()
	if diff := cmp.Diff(want, got, protocmp.Transform(), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("%s: %s", what, diff)
	}
}

func profile(n int) user.Profile {
	return user.Profile{
		Email: fmt.Sprintf("user%d@example.com", n), DisplayName: []string{"Ann", "ann", "Öl 100%"}[n%3], Role: optionsv1.Role(1 + n%3), RoleSeq: int64(n),
		Created: noon.Add(time.Duration(n) * time.Minute), Updated: noon,
	}
}

func roundTrip(t *testing.T, b *bench) {
	full, bare, erased := profile(1), profile(2), profile(3).Erase(noon)
	full.DisplayName = `It's "good" — 幅`
	full.Addresses = []*typev1.Address{{Recipient: "Ann", Lines: []string{"1", "2"}, Locality: "Köln", RegionCode: "DE"}, {Recipient: "B"}}
	b.put(map[string]user.Profile{"u1": full, "u2": bare, "u3": erased})
	b.put(map[string]user.Profile{"u1": full})
	for id, want := range map[string]store.User{"u1": {ID: "u1", Version: 2, Profile: full}, "u2": {ID: "u2", Version: 1, Profile: bare}, "u3": {ID: "u3", Version: 1, Profile: erased}} {
		for _, owner := range []string{"", id} {
			got, ok, err := b.Get(t.Context(), id, owner)
			if !ok || err != nil {
				t.Fatal(ok, err)
			}
			same(t, id, want, got)
		}
		for _, owner := range []string{"u9", "nobody"} {
			if _, ok, err := b.Get(t.Context(), id, owner); ok || err != nil {
				t.Errorf("%s sees %s: %v", owner, id, err)
			}
		}
	}
	if _, ok, err := b.Get(t.Context(), "u9", ""); ok || err != nil {
		t.Errorf("found nobody: %v", err)
	}
}

func batch(t *testing.T, b *bench) {
	b.put(map[string]user.Profile{"u1": profile(1), "u2": profile(2), "u3": profile(3).Erase(noon)})
	got, err := b.Batch(t.Context(), []string{"u3", "u2", "u9", "' OR 1=1"})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "found", map[string]store.User{"u2": {ID: "u2", Version: 1, Profile: profile(2)}}, got)
}

func lists(t *testing.T, b *bench) {
	all := map[string]user.Profile{"gone": profile(20).Erase(noon)}
	for i := range 7 {
		all[fmt.Sprint("u", i)] = profile(i)
	}
	b.put(all)
	for _, c := range []struct {
		q    listing.Query
		want []string
	}{
		{listing.Query{}, []string{"u0", "u1", "u2", "u3", "u4", "u5", "u6"}},
		{listing.Query{OrderBy: "email desc"}, []string{"u6", "u5", "u4", "u3", "u2", "u1", "u0"}},
		{listing.Query{OrderBy: "display_name, create_time desc"}, []string{"u6", "u3", "u0", "u4", "u1", "u5", "u2"}},
		{listing.Query{Filter: `display_name:"ANN" AND NOT role = ROLE_STAFF`}, []string{"u0", "u3", "u6"}},
		{listing.Query{Filter: `display_name:"%"`}, []string{"u2", "u5"}},
		{listing.Query{Filter: `create_time >= "2026-03-01T12:05:00.123456Z"`}, []string{"u5", "u6"}},
		{listing.Query{Owner: "u3"}, []string{"u3"}},
		{listing.Query{Owner: "gone"}, nil},
	} {
		c.q.PageSize = 2
		var got []string
		for {
			page, next, err := b.List(t.Context(), c.q)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range page {
				got = append(got, u.ID)
			}
			if c.q.PageToken = next; next == "" {
				break
			}
		}
		same(t, fmt.Sprintf("%+v", c.q), c.want, got)
	}
	if _, _, err := b.List(t.Context(), listing.Query{Filter: "addresses = 1"}); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a filter that is none: %v", err)
	}
}
