package userd_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/sqldb"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
)

const (
	customer = optionsv1.Role_ROLE_CUSTOMER
	staff    = optionsv1.Role_ROLE_STAFF
	admin    = optionsv1.Role_ROLE_ADMIN
)

func address(street string) *typev1.Address {
	return &typev1.Address{Recipient: "Ms ann", Lines: []string{street}, Locality: "Oxford", PostalCode: "OX1 1AA", RegionCode: "GB"}
}

func TestARegistrationMakesAProfile(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann", customer, 0)
		got, err := w.get(ann, ann.id)
		w.must(err)
		want := &userv1.User{
			UserId: ann.id, Email: "ann@example.com", DisplayName: "Ms ann", Role: customer,
			CreateTime: timestamppb.New(begun), UpdateTime: timestamppb.New(begun), Version: 1, Etag: got.GetEtag(),
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" || got.GetEtag() == "" {
			t.Error(diff)
		}
		again := registered(ann, "other", staff, 1)
		w.publish("1", ann.id, again) // a second one changes nothing
		w.register("bob", customer, 2)
		if got, err = w.get(ann, ann.id); err != nil || !proto.Equal(got, want) {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestWhoHasJustSignedUpIsToldToTryAgain(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ann := w.stranger(auth.Customer)
		// Called as the gateway would bring it, since clients repeat such calls by themselves.
		ctx, cancel := context.WithTimeout(ann.ctx, 300*time.Millisecond)
		defer cancel()
		_, err := w.service.GetUser(ctx, &userv1.GetUserRequest{UserId: ann.id})
		if e := w.refused("her own profile", err, codes.Unavailable, "PROFILE_PENDING"); e.RetryAfter <= 0 {
			t.Error("it does not say when")
		}
		_, err = w.get(ann, newID())
		w.refused("another", err, codes.NotFound, "USER_NOT_FOUND")
		w.publish("1", ann.id, registered(ann, "ann", customer, 0))
		w.eventually("her profile", func() bool { _, err := w.get(ann, ann.id); return err == nil })
	})
}

func TestPeopleSeeNobodyElse(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ann, bob := w.register("ann", customer, 0), w.register("bob", customer, 1)
		nobody := newID()
		for what, call := range map[string]func(id string) error{
			"get": func(id string) error { _, err := w.get(ann, id); return err },
			"update": func(id string) error {
				_, err := w.UpdateUser(ann.ctx, &userv1.UpdateUserRequest{UserId: id, User: &userv1.UserPatch{DisplayName: "x"}})
				return err
			},
			"delete": func(id string) error {
				_, err := w.DeleteUser(ann.ctx, &userv1.DeleteUserRequest{UserId: id})
				return err
			},
		} {
			foreign := w.refused(what+" bob", call(bob.id), codes.NotFound, "USER_NOT_FOUND")
			unknown := w.refused(what+" nobody", call(nobody), codes.NotFound, "USER_NOT_FOUND")
			if strings.ReplaceAll(foreign.Message, bob.id, nobody) != unknown.Message {
				t.Errorf("%q is not %q", foreign.Message, unknown.Message)
			}
		}
		_, err := w.ListUsers(ann.ctx, &userv1.ListUsersRequest{})
		w.refused("listing", err, codes.PermissionDenied, "")
		_, err = w.BatchGetUsers(ann.ctx, &userv1.BatchGetUsersRequest{UserIds: []string{ann.id}})
		w.refused("reading many", err, codes.PermissionDenied, "")
		_, err = w.GetUser(t.Context(), &userv1.GetUserRequest{UserId: ann.id})
		w.refused("nobody", err, codes.Unauthenticated, "")
		if got, err := w.get(bob, bob.id); err != nil || got.GetVersion() != 1 {
			t.Errorf("bob is %v, %v", got, err)
		}
	})
}

func TestAProfileIsChangedByItsOwner(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann", customer, 0)
		before, err := w.get(ann, ann.id)
		w.must(err)
		change := func(r *userv1.UpdateUserRequest) (*userv1.User, error) {
			r.UserId = ann.id
			return w.UpdateUser(ann.ctx, r)
		}
		after, err := change(&userv1.UpdateUserRequest{
			User:       &userv1.UserPatch{DisplayName: "Ann B.", Addresses: []*typev1.Address{address("1 High St")}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name", "addresses"}}, Etag: before.GetEtag(),
		})
		w.must(err)
		if after.GetDisplayName() != "Ann B." || len(after.GetAddresses()) != 1 || after.GetVersion() != 2 || after.GetEtag() == before.GetEtag() || after.GetEmail() != before.GetEmail() {
			t.Errorf("got %v", after)
		}
		read, err := w.get(ann, ann.id)
		w.must(err)
		if diff := cmp.Diff(after, read, protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		e, ok := w.next(0).(*userv1.UserUpdated)
		if !ok || e.GetUserId() != ann.id || e.GetDisplayName() != "Ann B." || !cmp.Equal(e.GetChangedFields(), []string{"display_name", "addresses"}) {
			t.Errorf("heard %v", w.next(0))
		}
		same, err := change(&userv1.UpdateUserRequest{User: &userv1.UserPatch{DisplayName: "Ann B."}})
		if err != nil || same.GetVersion() != 2 {
			t.Errorf("a change of nothing gives %v, %v", same, err)
		}
		_, err = change(&userv1.UpdateUserRequest{User: &userv1.UserPatch{DisplayName: "late"}, Etag: before.GetEtag()})
		w.refused("an old etag", err, codes.Aborted, "ETAG_MISMATCH")
		for name, r := range map[string]*userv1.UpdateUserRequest{
			"everything":         {User: &userv1.UserPatch{DisplayName: "x"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"*"}}},
			"an immutable field": {User: &userv1.UserPatch{DisplayName: "x"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"email"}}},
			"an unknown field":   {User: &userv1.UserPatch{DisplayName: "x"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"colour"}}},
			"no name":            {User: &userv1.UserPatch{}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}}},
			"no patch":           {},
			"a bad address":      {User: &userv1.UserPatch{Addresses: []*typev1.Address{{Recipient: "x"}}}},
			"21 addresses":       {User: &userv1.UserPatch{Addresses: slicesRepeat(address("1 High St"), 21)}},
			"a name of 2 lines":  {User: &userv1.UserPatch{DisplayName: "a\nb"}},
		} {
			_, err := change(r)
			w.refused(name, err, codes.InvalidArgument, "")
		}
		if got, err := w.get(ann, ann.id); err != nil || got.GetVersion() != 2 {
			t.Errorf("refused changes left %v, %v", got, err)
		}
	})
}

func slicesRepeat(a *typev1.Address, n int) []*typev1.Address {
	all := make([]*typev1.Address, n)
	for i := range all {
		all[i] = a
	}
	return all
}

func TestARoleIsWhatAuthSaidLast(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ann := w.register("ann", customer, 0)
		role := func(version string, r optionsv1.Role) {
			w.publish(version, ann.id, &authv1.UserRoleChanged{UserId: ann.id, Role: r, ChangedAt: timestamppb.New(begun)})
		}
		is := func(r optionsv1.Role) func() bool {
			return func() bool { got, err := w.get(ann, ann.id); return err == nil && got.GetRole() == r }
		}
		role("5", staff)
		w.eventually("her promotion", is(staff))
		role("3", admin) // late, and long overtaken
		role("7", customer)
		w.eventually("her demotion", is(customer))
		if n := w.count(`SELECT count(*) FROM dead_letters`); n != 0 {
			t.Errorf("%d dead letters", n)
		}
	})
}

func TestARoleThatOvertakesTheRegistrationWaitsForIt(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ann := w.stranger(auth.Customer)
		w.publish("2", ann.id, &authv1.UserRoleChanged{UserId: ann.id, Role: staff, ChangedAt: timestamppb.New(begun)})
		w.publish("1", ann.id, registered(ann, "ann", customer, 0))
		w.eventually("her promotion", func() bool { got, err := w.get(ann, ann.id); return err == nil && got.GetRole() == staff })
	})
}

func TestStaffListPeople(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		sam := w.register("sam", staff, 0)
		var customers []string
		for i := range 5 {
			customers = append(customers, w.register(fmt.Sprint("user", i), customer, i+1).id)
		}
		list := func(r *userv1.ListUsersRequest) (ids []string, err error) {
			for {
				page, err := w.ListUsers(sam.ctx, r)
				if err != nil {
					return nil, err
				}
				for _, u := range page.GetUsers() {
					ids = append(ids, u.GetUserId())
				}
				if r.PageToken = page.GetNextPageToken(); r.GetPageToken() == "" {
					return ids, nil
				}
			}
		}
		for _, c := range []struct {
			name string
			req  *userv1.ListUsersRequest
			want []string
		}{
			{"all", &userv1.ListUsersRequest{PageSize: 2}, append([]string{sam.id}, customers...)},
			{"customers, the last first", &userv1.ListUsersRequest{PageSize: 2, Filter: `role = ROLE_CUSTOMER`, OrderBy: "email desc"},
				[]string{customers[4], customers[3], customers[2], customers[1], customers[0]}},
			{"by name", &userv1.ListUsersRequest{Filter: `display_name:"USER3" OR email = "user1@example.com"`}, []string{customers[1], customers[3]}},
			{"by time", &userv1.ListUsersRequest{Filter: `create_time > "2026-03-01T12:04:00Z"`}, []string{customers[4]}},
		} {
			got, err := list(c.req)
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Errorf("%s: %v %s", c.name, err, diff)
			}
		}
		for name, r := range map[string]*userv1.ListUsersRequest{
			"filter": {Filter: `password = "x"`}, "order_by": {OrderBy: "role"}, "page_token": {PageToken: "x"}, "page_size": {PageSize: -1},
		} {
			_, err := list(r)
			e := w.refused(name, err, codes.InvalidArgument, "")
			if len(e.Fields) != 1 || e.Fields[0].Path != name {
				t.Errorf("%s: names %v", name, e.Fields)
			}
		}
		many, err := w.service.BatchGetUsers(t.Context(), &userv1.BatchGetUsersRequest{UserIds: []string{customers[3], newID(), customers[0]}})
		w.must(err)
		if us := many.GetUsers(); len(us) != 2 || us[0].GetUserId() != customers[3] || us[1].GetUserId() != customers[0] {
			t.Errorf("got %v", us)
		}
	})
}

func TestErasingAPersonLeavesATombstone(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		sam, ann := w.register("sam", staff, 0), w.register("ann", customer, 1)
		_, err := w.UpdateUser(ann.ctx, &userv1.UpdateUserRequest{UserId: ann.id, User: &userv1.UserPatch{DisplayName: "Ann B.", Addresses: []*typev1.Address{address("1 High St")}}})
		w.must(err)
		_, err = w.DeleteUser(ann.ctx, &userv1.DeleteUserRequest{UserId: ann.id, Etag: "old"})
		w.refused("an old etag", err, codes.Aborted, "ETAG_MISMATCH")
		for range 2 { // again changes nothing
			_, err = w.DeleteUser(ann.ctx, &userv1.DeleteUserRequest{UserId: ann.id})
			w.must(err)
		}
		if e, ok := w.next(1).(*userv1.UserErased); !ok || e.GetUserId() != ann.id {
			t.Errorf("heard %v", w.next(1))
		}
		_, err = w.get(ann, ann.id)
		w.refused("herself", err, codes.NotFound, "USER_NOT_FOUND")
		_, err = w.get(sam, ann.id)
		w.refused("staff", err, codes.NotFound, "USER_NOT_FOUND")
		_, err = w.UpdateUser(ann.ctx, &userv1.UpdateUserRequest{UserId: ann.id, User: &userv1.UserPatch{DisplayName: "back"}})
		w.refused("a change", err, codes.NotFound, "USER_NOT_FOUND")
		_, err = w.DeleteUser(sam.ctx, &userv1.DeleteUserRequest{UserId: newID()})
		w.refused("somebody who never was", err, codes.NotFound, "USER_NOT_FOUND")
		list, err := w.ListUsers(sam.ctx, &userv1.ListUsersRequest{})
		if err != nil || len(list.GetUsers()) != 1 {
			t.Errorf("listed are %v, %v", list, err)
		}
		w.publish("1", ann.id, registered(ann, "ann", customer, 0)) // an old copy does not revive her
		w.publish("2", ann.id, &authv1.UserRoleChanged{UserId: ann.id, Role: admin, ChangedAt: timestamppb.New(begun)})
		w.register("bob", customer, 2)
		if n := w.count(`SELECT count(*) FROM users WHERE id = ? AND erased AND email = '' AND display_name = '' AND addresses IS NULL AND role = 1`, ann.id); n != 1 {
			t.Error("her row is not a tombstone")
		}
		if n := w.count(`SELECT count(*) FROM outbox WHERE aggregate_id = ? AND type LIKE '%UserErased'`, ann.id); n != 1 {
			t.Errorf("%d times erased", n)
		}
	})
}

func TestStaffMayNotTouchStaff(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root, sam, sue, ann := w.register("root", admin, 0), w.register("sam", staff, 1), w.register("sue", staff, 2), w.register("ann", customer, 3)
		erase := func(as, whom somebody) error {
			_, err := w.DeleteUser(as.ctx, &userv1.DeleteUserRequest{UserId: whom.id})
			return err
		}
		w.refused("staff erasing staff", erase(sam, sue), codes.PermissionDenied, "ADMIN_NEEDED")
		w.refused("staff erasing an admin", erase(sam, root), codes.PermissionDenied, "ADMIN_NEEDED")
		w.must(erase(sam, ann))
		w.must(erase(root, sue))
		w.must(erase(sam, sam))
	})
}

// The whole file is searched, free pages and all.
func TestErasureLeavesNoPlaintextInTheFile(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, func() *sqldb.DB {
		db, err := sqldb.Open(context.Background(), sqldb.Config{URL: "sqlite://" + filepath.Join(dir, "user.db")})
		if err != nil {
			t.Fatal(err)
		}
		return db
	})
	ann, bob := w.register("ann", customer, 0), w.register("bob", customer, 1)
	for i, s := range []somebody{ann, bob} {
		name := []string{"Ann the First", "Bob the Second"}[i]
		_, err := w.UpdateUser(s.ctx, &userv1.UpdateUserRequest{UserId: s.id, User: &userv1.UserPatch{DisplayName: name, Addresses: []*typev1.Address{address(name + " St")}}})
		w.must(err)
	}
	_, err := w.DeleteUser(bob.ctx, &userv1.DeleteUserRequest{UserId: bob.id})
	w.must(err)
	w.eventually("taking his name out of events", func() bool {
		return w.count(`SELECT count(*) FROM effects`) == 0
	})
	w.end()
	found := map[string]bool{}
	w.must(filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, word := range []string{"ann@example", "Ann the First", "bob@example", "Bob the Second", "Ms bob"} {
			found[word] = found[word] || bytes.Contains(data, []byte(word))
		}
		return err
	}))
	want := map[string]bool{"ann@example": true, "Ann the First": true, "bob@example": false, "Bob the Second": false, "Ms bob": false} // ann proves that the search works
	if diff := cmp.Diff(want, found); diff != "" {
		t.Error(diff)
	}
}
