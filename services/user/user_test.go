package user_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/waybill-dev/waybill/platform/errs"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/user"
)

var (
	noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	home = &typev1.Address{Recipient: "Ann", Lines: []string{"1 High St"}, Locality: "Oxford", RegionCode: "GB"}
	work = &typev1.Address{Recipient: "Ann", Lines: []string{"2 Low St"}, Locality: "Oxford", RegionCode: "GB"}
)

func ann() user.Profile {
	return user.Profile{
		Email: "ann@example.com", DisplayName: "Ann", Role: optionsv1.Role_ROLE_CUSTOMER, RoleSeq: 1,
		Addresses: []*typev1.Address{home}, Created: noon, Updated: noon,
	}
}

func TestAPatchChangesWhatItNames(t *testing.T) {
	later := noon.Add(time.Hour)
	for _, c := range []struct {
		name    string
		patch   *userv1.UserPatch
		paths   []string
		want    func(*user.Profile)
		changed []string
	}{
		{"the name", &userv1.UserPatch{DisplayName: "A"}, []string{"display_name"}, func(p *user.Profile) { p.DisplayName = "A" }, []string{"display_name"}},
		{"what is not named stays", &userv1.UserPatch{DisplayName: "A", Addresses: []*typev1.Address{work}}, []string{"display_name"},
			func(p *user.Profile) { p.DisplayName = "A" }, []string{"display_name"}},
		{"the addresses as a whole", &userv1.UserPatch{Addresses: []*typev1.Address{work, home}}, []string{"addresses"},
			func(p *user.Profile) { p.Addresses = []*typev1.Address{work, home} }, []string{"addresses"}},
		{"no addresses any more", &userv1.UserPatch{}, []string{"addresses"}, func(p *user.Profile) { p.Addresses = nil }, []string{"addresses"}},
		{"without paths all that is set", &userv1.UserPatch{DisplayName: "A", Addresses: []*typev1.Address{work}}, nil,
			func(p *user.Profile) { p.DisplayName, p.Addresses = "A", []*typev1.Address{work} }, []string{"display_name", "addresses"}},
		{"nothing", &userv1.UserPatch{}, nil, nil, nil},
		{"the same", &userv1.UserPatch{DisplayName: "Ann", Addresses: []*typev1.Address{home}}, []string{"display_name", "addresses"}, nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := ann()
			if c.want != nil {
				c.want(&want)
				want.Updated = later
			}
			got, changed, err := ann().Patch(c.patch, c.paths, later)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(c.changed, changed); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBadPatchesNameTheField(t *testing.T) {
	for name, c := range map[string]struct {
		patch *userv1.UserPatch
		paths []string
		field string
	}{
		"everything":         {&userv1.UserPatch{DisplayName: "A"}, []string{"*"}, "update_mask"},
		"an immutable field": {&userv1.UserPatch{DisplayName: "A"}, []string{"display_name", "email"}, "update_mask"},
		"an unknown field":   {&userv1.UserPatch{}, []string{"colour"}, "update_mask"},
		"no name":            {&userv1.UserPatch{}, []string{"display_name"}, "user.display_name"},
		"too many addresses": {&userv1.UserPatch{Addresses: make([]*typev1.Address, 21)}, nil, "user.addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			before := ann()
			p, changed, err := before.Patch(c.patch, c.paths, noon)
			e, ok := err.(*errs.Error) //nolint:errorlint // it is made right there
			if !ok || e.Kind != errs.Invalid || len(e.Fields) != 1 || e.Fields[0].Path != c.field || changed != nil {
				t.Errorf("got %+v, %v, %v", p, changed, err)
			}
		})
	}
}

func TestTheLastRoleCountsWhateverComesFirst(t *testing.T) {
	p, changed := ann().SetRole(optionsv1.Role_ROLE_STAFF, 5, noon)
	if !changed || p.Role != optionsv1.Role_ROLE_STAFF {
		t.Fatalf("got %+v", p)
	}
	if q, changed := p.SetRole(optionsv1.Role_ROLE_ADMIN, 4, noon); changed || q.Role != optionsv1.Role_ROLE_STAFF {
		t.Errorf("an older one changed it: %+v", q)
	}
	if _, changed := p.Erase(noon).SetRole(optionsv1.Role_ROLE_ADMIN, 6, noon); changed {
		t.Error("an erased person has another role")
	}
}

func TestErasingLeavesATombstone(t *testing.T) {
	later := noon.Add(time.Hour)
	want := user.Profile{Role: optionsv1.Role_ROLE_CUSTOMER, RoleSeq: 1, Erased: true, Created: noon, Updated: later}
	if diff := cmp.Diff(want, ann().Erase(later), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestEtagsAreOfOneVersionOfOneProfile(t *testing.T) {
	tag := user.Etag("u1", 1)
	if user.Etag("u1", 2) == tag || user.Etag("u2", 1) == tag || user.Etag("u1", 1) != tag {
		t.Error("etags do not tell versions apart")
	}
	if user.CheckEtag("", "u1", 1) != nil || user.CheckEtag(tag, "u1", 1) != nil {
		t.Error("a good etag is refused")
	}
	if err := user.CheckEtag(tag, "u1", 2); errs.KindOf(err) != errs.Aborted || errs.ReasonOf(err) != "ETAG_MISMATCH" {
		t.Errorf("got %v", err)
	}
}
