package authd_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/rpc"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
)

func TestSigningUpOpensAnAccountAndASession(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		resp, err := w.SignUp(metadata.AppendToOutgoingContext(t.Context(), "x-waybill-user-agent", "Firefox/1.0 "+strings.Repeat("x", 300)),
			&authv1.SignUpRequest{Email: "Ann@Example.com", Password: right, DisplayName: "Ann"})
		w.must(err)
		tokens := resp.GetTokens()
		if tokens.GetTokenType() != "Bearer" || tokens.GetRefreshToken() == "" || tokens.GetSessionId() == "" ||
			!tokens.GetAccessExpireTime().AsTime().Equal(w.now.Add(10*time.Minute)) || !tokens.GetRefreshExpireTime().AsTime().Equal(w.now.Add(30*24*time.Hour)) {
			t.Errorf("got %v", tokens)
		}
		want := &authv1.UserRegistered{
			UserId: resp.GetUserId(), Email: "ann@example.com", DisplayName: "Ann", Role: optionsv1.Role_ROLE_CUSTOMER, RegisteredAt: timestamppb.New(w.now),
		}
		w.waitFor("the registration", func(heard []proto.Message) bool { return len(heard) > 0 })
		if diff := cmp.Diff(proto.Message(want), w.events()[0], protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		list, err := w.ListSessions(w.with(tokens), &authv1.ListSessionsRequest{})
		w.must(err)
		session := &authv1.Session{
			SessionId: tokens.GetSessionId(), UserId: resp.GetUserId(), UserAgent: "Firefox/1.0 " + strings.Repeat("x", 188), Current: true,
			CreateTime: timestamppb.New(w.now), LastRefreshTime: timestamppb.New(w.now), ExpireTime: tokens.GetRefreshExpireTime(),
		}
		if diff := cmp.Diff([]*authv1.Session{session}, list.GetSessions(), protocmp.Transform()); diff != "" {
			t.Error(diff)
		}
		if n := w.count(`SELECT count(*) FROM accounts WHERE email_id LIKE '%example%' OR password_hash NOT LIKE '$argon2id$v=19$%'`); n != 0 {
			t.Error("the account holds an address or no proper hash")
		}
		in := w.mustLogIn("aNN", right)
		if in.GetUserId() != resp.GetUserId() || in.GetRole() != optionsv1.Role_ROLE_CUSTOMER || in.GetTokens().GetSessionId() == tokens.GetSessionId() {
			t.Errorf("got %v", in)
		}
	})
}

func TestAnAddressHasOneAccount(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.signUp("ann")
		_, err := w.SignUp(t.Context(), &authv1.SignUpRequest{Email: "ANN@example.com", Password: right, DisplayName: "x"})
		e := w.refused("the same address", err, codes.AlreadyExists, "EMAIL_TAKEN")
		if strings.Contains(e.Error(), "@") {
			t.Errorf("the answer holds the address: %v", e)
		}
		var all sync.WaitGroup
		results := make([]error, 20)
		for i := range results {
			all.Go(func() {
				_, results[i] = w.SignUp(t.Context(), &authv1.SignUpRequest{Email: "bob@example.com", Password: right, DisplayName: "x"})
			})
		}
		all.Wait()
		opened := 0
		for _, err := range results {
			if err == nil {
				opened++
			} else {
				w.refused("one of many", err, codes.AlreadyExists, "EMAIL_TAKEN")
			}
		}
		if n := w.count(`SELECT count(*) FROM accounts`); opened != 1 || n != 2 {
			t.Errorf("%d of 20 opened an account, there are %d", opened, n)
		}
	})
}

func TestBadSignUpsNameTheFieldAndLeaveNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for _, c := range []struct{ name, email, password, display, field string }{
			{"no address", "", right, "x", "email"},
			{"no address at all", "ann", right, "x", "email"},
			{"an address of 300 characters", strings.Repeat("a", 300) + "@example.com", right, "x", "email"},
			{"a password of one character", "a@example.com", "x", "x", "password"},
			{"a password of 129 characters", "a@example.com", strings.Repeat("x", 129), "x", "password"},
			{"a password with NUL", "a@example.com", "0123456789\x00", "x", "password"},
			{"five letters in ten runes", "a@example.com", strings.Repeat("e\u0301", 5), "x", "password"},
			{"no name", "a@example.com", right, "", "display_name"},
			{"a name of two lines", "a@example.com", right, "a\nb", "display_name"},
			{"a name written backwards", "a@example.com", right, "a\u202eb", "display_name"},
		} {
			_, err := w.SignUp(t.Context(), &authv1.SignUpRequest{Email: c.email, Password: c.password, DisplayName: c.display})
			e := w.refused(c.name, err, codes.InvalidArgument, "")
			if len(e.Fields) == 0 || e.Fields[0].Path != c.field {
				t.Errorf("%s: names %v, want %s", c.name, e.Fields, c.field)
			}
		}
		if n := w.count(`SELECT (SELECT count(*) FROM accounts) + (SELECT count(*) FROM emails) + (SELECT count(*) FROM sessions) + (SELECT count(*) FROM outbox)`); n != 0 {
			t.Errorf("%d rows are left", n)
		}
	})
}

func TestPasswordsAreComparedLetterByLetterAndWhole(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		long := strings.Repeat("x", 72)
		for i, c := range []struct {
			chosen, typed string
			good          bool
		}{
			{"cafe\u0301 au lait", "caf\u00e9 au lait", true},
			{long + "a", long + "b", false},
			{long + "a", long, false},
			{right, strings.ToUpper(right), false},
			{right, right + " ", false},
		} {
			name := fmt.Sprintf("user%d", i)
			_, err := w.SignUp(t.Context(), &authv1.SignUpRequest{Email: name + "@example.com", Password: c.chosen, DisplayName: name})
			w.must(err)
			if _, err = w.logIn(name, c.typed); (err == nil) != c.good {
				t.Errorf("%q with %q: %v", c.chosen, c.typed, err)
			}
		}
	})
}

func TestAnUnknownAddressIsAnsweredLikeAWrongPassword(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.signUp("ann")
		_, wrong := w.logIn("ann", "not the password")
		_, unknown := w.logIn("nobody", "not the password")
		_, nonsense := w.LogIn(t.Context(), &authv1.LogInRequest{Email: "' OR 1=1 --", Password: "x"})
		for name, err := range map[string]error{"wrong": wrong, "unknown": unknown, "nonsense": nonsense} {
			e := w.refused(name, err, codes.Unauthenticated, "WRONG_CREDENTIALS")
			if e.Error() != w.refused("wrong", wrong, codes.Unauthenticated, "").Error() {
				t.Errorf("%s: %v", name, e)
			}
		}
	})
}

func TestGuessingIsStoppedAndTheOwnerStillGetsIn(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.signUp("ann")
		try := func(address, name, password string) error {
			_, err := w.LogIn(w.from(address), &authv1.LogInRequest{Email: name + "@example.com", Password: password})
			return err
		}
		stopped := 0
		for range 20 {
			if rpc.Code(w.errOf(try("192.0.2.1", "ann", "guess"))) == codes.ResourceExhausted {
				stopped++
			}
		}
		if stopped == 0 {
			t.Fatal("20 wrong passwords are borne")
		}
		e := w.refused("the next", try("192.0.2.1", "ann", right), codes.ResourceExhausted, "TOO_MANY_ATTEMPTS")
		if e.RetryAfter <= 0 {
			t.Error("it does not say when to come back")
		}
		w.must(try("192.0.2.2", "ann", right))
		for i := range 20 {
			_ = try(fmt.Sprintf("198.51.100.%d", i), "ann", "guess")
		}
		w.must(try("192.0.2.2", "ann", right)) // it signed in from there before
		e = w.refused("from a new address", try("192.0.2.3", "ann", right), codes.ResourceExhausted, "TOO_MANY_ATTEMPTS")
		w.pass(e.RetryAfter)
		w.must(try("192.0.2.3", "ann", right))

		n := 0
		for ; n < 200 && rpc.Code(w.errOf(try("203.0.113.9", fmt.Sprintf("user%d", n), "guess"))) == codes.Unauthenticated; n++ {
		}
		if n != 100 {
			t.Errorf("one address may guess %d times", n)
		}
	})
}

func TestARefreshTokenWorksOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		first := w.signUp("ann").GetTokens()
		w.pass(time.Minute)
		second, err := w.refresh(first)
		w.must(err)
		if second.GetRefreshToken() == first.GetRefreshToken() || second.GetAccessToken() == first.GetAccessToken() || second.GetSessionId() != first.GetSessionId() ||
			!second.GetRefreshExpireTime().AsTime().Equal(w.now.Add(30*24*time.Hour)) {
			t.Errorf("got %v after %v", second, first)
		}
		w.pass(10 * time.Second)
		again, err := w.refresh(first) // the answer was lost
		w.must(err)
		if again.GetRefreshToken() != second.GetRefreshToken() {
			t.Error("the same token gave another successor")
		}
		third, err := w.refresh(again)
		w.must(err)
		other := w.mustLogIn("ann", right).GetTokens()

		w.pass(11 * time.Second)
		_, err = w.refresh(second) // stolen
		w.refused("a spent token", err, codes.Unauthenticated, "REFRESH_TOKEN_INVALID")
		_, err = w.refresh(third)
		w.refused("the rightful token", err, codes.Unauthenticated, "REFRESH_TOKEN_INVALID")
		w.waitFor("the end of the session", func(heard []proto.Message) bool {
			for _, e := range heard {
				if r, ok := e.(*authv1.SessionRevoked); ok && r.GetSessionId() == first.GetSessionId() {
					return true
				}
			}
			return false
		})
		if w.good(third) {
			t.Error("access tokens of the session are still taken")
		}
		if !w.good(other) {
			t.Error("another session was ended too")
		}
	})
}

func TestATokenTwoGenerationsOldEndsTheSessionAtOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		first := w.signUp("ann").GetTokens()
		second, err := w.refresh(first)
		w.must(err)
		third, err := w.refresh(second)
		w.must(err)
		_, err = w.refresh(first)
		w.refused("the first", err, codes.Unauthenticated, "")
		_, err = w.refresh(third)
		w.refused("the third", err, codes.Unauthenticated, "")
	})
}

func TestRefreshingInParallelGivesOneSuccessor(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		first := w.signUp("ann").GetTokens()
		var all sync.WaitGroup
		got := make([]string, 50)
		for i := range got {
			all.Go(func() {
				tokens, err := w.refresh(first)
				if err != nil {
					t.Error(err)
				}
				got[i] = tokens.GetRefreshToken()
			})
		}
		all.Wait()
		for _, s := range got {
			if s == "" || s != got[0] {
				t.Fatalf("successors %q and %q", s, got[0])
			}
		}
	})
}

func TestTokensAreGoodForOnePurposeOnly(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		tokens := w.signUp("ann").GetTokens()
		_, err := w.refresh(&authv1.Tokens{RefreshToken: tokens.GetAccessToken()})
		w.refused("an access token as refresh token", err, codes.Unauthenticated, "REFRESH_TOKEN_INVALID")
		_, err = w.ListSessions(w.with(&authv1.Tokens{AccessToken: tokens.GetRefreshToken()}), &authv1.ListSessionsRequest{})
		w.refused("a refresh token as access token", err, codes.Unauthenticated, "")
		for _, junk := range []string{"x", strings.Repeat("A", 86), strings.Repeat("A", 512)} {
			_, err = w.refresh(&authv1.Tokens{RefreshToken: junk})
			w.refused(junk, err, codes.Unauthenticated, "REFRESH_TOKEN_INVALID")
		}
		_, err = w.refresh(&authv1.Tokens{RefreshToken: strings.Repeat("A", 2049)})
		w.refused("too long", err, codes.InvalidArgument, "")
		if !w.good(tokens) {
			t.Error("the session suffered")
		}
	})
}

func TestASessionEndsByItself(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		idle := w.signUp("ann").GetTokens()
		busy := w.mustLogIn("ann", right).GetTokens()
		for range 4 {
			w.pass(29 * 24 * time.Hour)
			var err error
			busy, err = w.refresh(busy)
			w.must(err)
		}
		_, err := w.refresh(idle)
		w.refused("an idle session", err, codes.Unauthenticated, "REFRESH_TOKEN_INVALID")
		w.eventually("forgetting it", func() bool { return w.count(`SELECT count(*) FROM sessions`) == 1 })
		w.mustLogIn("ann", right)
	})
}

func TestLoggingOutEndsTheSessionAndIsNeverAnError(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		tokens := w.signUp("ann").GetTokens()
		other := w.mustLogIn("ann", right).GetTokens()
		for _, text := range []string{tokens.GetRefreshToken(), tokens.GetRefreshToken(), "unknown"} {
			_, err := w.LogOut(t.Context(), &authv1.LogOutRequest{RefreshToken: text})
			w.must(err)
		}
		_, err := w.refresh(tokens)
		w.refused("refreshing", err, codes.Unauthenticated, "")
		if w.good(tokens) || !w.good(other) {
			t.Error("the wrong session was ended")
		}
		revoked, err := w.service.ListRevokedSessions(t.Context(), &authv1.ListRevokedSessionsRequest{})
		w.must(err)
		if n := len(revoked.GetSessions()); n != 1 || revoked.GetSessions()[0].GetSessionId() != tokens.GetSessionId() || revoked.GetRetentionSeconds() != 660 {
			t.Errorf("got %v", revoked)
		}
		w.pass(11 * time.Minute)
		if revoked, err = w.service.ListRevokedSessions(t.Context(), &authv1.ListRevokedSessionsRequest{}); err != nil || len(revoked.GetSessions()) != 0 {
			t.Errorf("after the life of its tokens: %v, %v", revoked, err)
		}
	})
}

func TestPeopleEndTheirOwnSessionsOnly(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ann, bob := w.signUp("ann").GetTokens(), w.signUp("bob").GetTokens()
		end := func(as *authv1.Tokens, id string) error {
			_, err := w.RevokeSession(w.with(as), &authv1.RevokeSessionRequest{SessionId: id})
			return err
		}
		foreign := w.refused("bob's session", end(ann, bob.GetSessionId()), codes.NotFound, "SESSION_NOT_FOUND")
		id := newID()
		unknown := w.refused("no session", end(ann, id), codes.NotFound, "SESSION_NOT_FOUND")
		if strings.ReplaceAll(foreign.Message, bob.GetSessionId(), id) != unknown.Message {
			t.Errorf("%q is not %q", foreign.Message, unknown.Message)
		}
		if !w.good(bob) {
			t.Error("bob's session was ended")
		}
		other := w.mustLogIn("ann", right).GetTokens()
		w.must(end(ann, other.GetSessionId()))
		w.must(end(ann, other.GetSessionId()))
		if w.good(other) || !w.good(ann) {
			t.Error("the wrong session was ended")
		}
	})
}

func TestSessionsAreListedNewestFirst(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		w.signUp("bob")
		tokens := w.signUp("ann").GetTokens()
		want := []string{tokens.GetSessionId()}
		for range 4 {
			w.pass(time.Second)
			want = append([]string{w.mustLogIn("ann", right).GetTokens().GetSessionId()}, want...)
		}
		var got []string
		var first string
		req := &authv1.ListSessionsRequest{PageSize: 2}
		for {
			page, err := w.ListSessions(w.with(tokens), req)
			w.must(err)
			for _, s := range page.GetSessions() {
				got = append(got, s.GetSessionId())
				if s.GetCurrent() != (s.GetSessionId() == tokens.GetSessionId()) {
					t.Errorf("current is wrong for %v", s)
				}
			}
			if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
				break
			}
			first = req.GetPageToken()
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		_, err := w.ListSessions(w.with(w.mustLogIn("bob", right).GetTokens()), &authv1.ListSessionsRequest{PageSize: 2, PageToken: first})
		w.refused("ann's page token", err, codes.InvalidArgument, "")
		_, err = w.ListSessions(t.Context(), &authv1.ListSessionsRequest{})
		w.refused("nobody", err, codes.Unauthenticated, "")
	})
}

func TestOneSignInTooManyEndsTheOldestSession(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		oldest := w.signUp("ann").GetTokens()
		var last *authv1.Tokens
		for range 20 {
			last = w.mustLogIn("ann", right).GetTokens()
		}
		if w.good(oldest) || !w.good(last) {
			t.Error("the wrong session was ended")
		}
		if n := w.count(`SELECT count(*) FROM sessions WHERE revoked_at IS NULL`); n != 20 {
			t.Errorf("%d sessions are open", n)
		}
	})
}

func TestANewPasswordEndsAllOtherSessions(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		mine := w.signUp("ann").GetTokens()
		other := w.mustLogIn("ann", right).GetTokens()
		change := func(from, to string) error {
			_, err := w.ChangePassword(w.with(mine), &authv1.ChangePasswordRequest{CurrentPassword: from, NewPassword: to})
			return err
		}
		e := w.refused("a wrong password", change("wrong", "a new password"), codes.InvalidArgument, "WRONG_PASSWORD")
		if len(e.Fields) != 1 || e.Fields[0].Path != "current_password" {
			t.Errorf("names %v", e.Fields)
		}
		w.refused("a weak password", change(right, "short"), codes.InvalidArgument, "")
		w.must(change(right, "a new password"))
		if !w.good(mine) || w.good(other) {
			t.Error("the wrong sessions were ended")
		}
		_, err := w.logIn("ann", right)
		w.refused("the old password", err, codes.Unauthenticated, "WRONG_CREDENTIALS")
		w.mustLogIn("ann", "a new password")
		stopped := false
		for range 20 {
			if err := change("wrong", "a new password"); rpc.Code(w.errOf(err)) == codes.ResourceExhausted {
				stopped = true
			}
		}
		if !stopped {
			t.Error("the present password can be guessed")
		}
	})
}

// admin starts the service anew with a first admin, and signs them in.
func (w *world) admin() *authv1.LogInResponse {
	w.t.Helper()
	w.end()
	cfg := w.cfg
	cfg.AdminEmail, cfg.AdminPassword = "root@example.com", right
	w.start(cfg)
	return w.mustLogIn("root", right)
}

func TestAnotherRoleHoldsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		root := w.admin()
		ann := w.signUp("ann")
		set := func(as *authv1.Tokens, userID string, role optionsv1.Role) error {
			_, err := w.SetUserRole(w.with(as), &authv1.SetUserRoleRequest{UserId: userID, Role: role})
			return err
		}
		w.refused("a customer", set(ann.GetTokens(), ann.GetUserId(), optionsv1.Role_ROLE_ADMIN), codes.PermissionDenied, "")
		w.refused("one's own role", set(root.GetTokens(), root.GetUserId(), optionsv1.Role_ROLE_STAFF), codes.FailedPrecondition, "OWN_ROLE")
		w.refused("nobody's role", set(root.GetTokens(), newID(), optionsv1.Role_ROLE_STAFF), codes.NotFound, "USER_NOT_FOUND")
		w.refused("no role", set(root.GetTokens(), ann.GetUserId(), optionsv1.Role_ROLE_UNSPECIFIED), codes.InvalidArgument, "")
		w.must(set(root.GetTokens(), ann.GetUserId(), optionsv1.Role_ROLE_CUSTOMER)) // the one she has
		if _, err := w.refresh(ann.GetTokens()); err != nil {
			t.Errorf("her session ended for nothing: %v", err)
		}
		w.must(set(root.GetTokens(), ann.GetUserId(), optionsv1.Role_ROLE_STAFF))
		w.waitFor("the change", func(heard []proto.Message) bool {
			for _, e := range heard {
				if c, ok := e.(*authv1.UserRoleChanged); ok && c.GetUserId() == ann.GetUserId() && c.GetRole() == optionsv1.Role_ROLE_STAFF {
					return true
				}
			}
			return false
		})
		if w.good(ann.GetTokens()) {
			t.Error("a token with the old role is taken")
		}
		staff := w.mustLogIn("ann", right)
		if staff.GetRole() != optionsv1.Role_ROLE_STAFF {
			t.Errorf("her role is %s", staff.GetRole())
		}
		bob := w.signUp("bob").GetTokens()
		_, err := w.RevokeSession(w.with(staff.GetTokens()), &authv1.RevokeSessionRequest{SessionId: bob.GetSessionId()})
		w.refused("staff ending bob's session", err, codes.NotFound, "SESSION_NOT_FOUND")
		_, err = w.RevokeSession(w.with(root.GetTokens()), &authv1.RevokeSessionRequest{SessionId: bob.GetSessionId()})
		w.must(err)
		if w.good(bob) {
			t.Error("bob's session is open")
		}
	})
}

func TestOnlyServicesAskForRevokedSessions(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		ann := w.signUp("ann").GetTokens()
		for name, ctx := range map[string]context.Context{"nobody": t.Context(), "a customer": w.with(ann)} {
			if _, err := w.ListRevokedSessions(ctx, &authv1.ListRevokedSessionsRequest{}); err == nil {
				t.Errorf("%s may", name)
			}
		}
	})
}
