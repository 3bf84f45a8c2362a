package auth_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/errs"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	"github.com/waybill-dev/waybill/services/auth"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestNewPasswordsHaveTenTo128CharactersAfterNormalization(t *testing.T) {
	decomposed := "e\u0301" // two runes that are one letter
	for _, c := range []struct {
		name, password string
		good           bool
	}{
		{"one character", "x", false},
		{"nine", strings.Repeat("x", 9), false},
		{"ten", strings.Repeat("x", 10), true},
		{"128", strings.Repeat("x", 128), true},
		{"129", strings.Repeat("x", 129), false},
		{"ten of four bytes", strings.Repeat("😀", 10), true},
		{"128 of four bytes", strings.Repeat("😀", 128), true},
		{"five letters in ten runes", strings.Repeat(decomposed, 5), false},
		{"ten letters in twenty runes", strings.Repeat(decomposed, 10), true},
		{"NUL", "0123456789\x00", false},
		{"half a surrogate pair", "0123456789\xed\xa0\x80", false},
		{"no UTF-8", "0123456789\xff", false},
		{"blanks", strings.Repeat(" ", 10), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := auth.CheckPassword("password", c.password)
			if (err == nil) != c.good || err != nil && (errs.KindOf(err) != errs.Invalid || errs.ReasonOf(err) != "WEAK_PASSWORD") {
				t.Errorf("got %v, want good = %v", err, c.good)
			}
		})
	}
}

func TestTheSameLettersAreTheSamePassword(t *testing.T) {
	if a, b := auth.NormalizePassword("caf\u00e9 au lait"), auth.NormalizePassword("cafe\u0301 au lait"); a != b {
		t.Errorf("%q is not %q", a, b)
	}
	if auth.NormalizePassword("Password12") == auth.NormalizePassword("password12") {
		t.Error("capitals do not matter")
	}
}

func TestAddressesAreComparedWithoutCapitals(t *testing.T) {
	for _, a := range []string{"Ann@Example.COM", " ann@example.com ", "ANN@EXAMPLE.com"} {
		if got := auth.FoldEmail(a); got != "ann@example.com" {
			t.Errorf("%q becomes %q", a, got)
		}
	}
}

func TestSigningInOnceTooOftenEndsTheOldestSession(t *testing.T) {
	a := auth.NewAccount("e", "h", optionsv1.Role_ROLE_CUSTOMER, noon)
	for i := range auth.MaxSessions {
		if len(a.Crowded()) != 0 {
			t.Fatalf("crowded with %d sessions", i)
		}
		var over []string
		if a, over = a.SignIn(fmt.Sprint(i), noon); len(over) != 0 {
			t.Fatalf("%v ended", over)
		}
	}
	crowded := slices.Clone(a.Crowded())
	before := slices.Clone(a.Sessions)
	b, over := a.SignIn("new", noon)
	if !slices.Equal(over, []string{"0"}) || !slices.Equal(crowded, over) || len(b.Sessions) != auth.MaxSessions {
		t.Errorf("ended %v, foretold %v, %d are left", over, crowded, len(b.Sessions))
	}
	if !slices.Equal(a.Sessions, before) {
		t.Error("the state before was changed")
	}
}

func TestWhatEndsSessions(t *testing.T) {
	a := auth.NewAccount("e", "h", optionsv1.Role_ROLE_CUSTOMER, noon)
	for _, id := range []string{"a", "b", "c"} {
		a, _ = a.SignIn(id, noon)
	}
	later := noon.Add(time.Hour)
	b, ended := a.ChangePassword("h2", "b", later)
	if !slices.Equal(ended, []string{"a", "c"}) || !slices.Equal(b.Sessions, []string{"b"}) || b.PasswordHash != "h2" || b.PasswordSerial != 2 {
		t.Errorf("a new password ends %v and leaves %+v", ended, b)
	}
	c, ended := a.SetRole(optionsv1.Role_ROLE_STAFF, later)
	if len(ended) != 3 || len(c.Sessions) != 0 || c.Role != optionsv1.Role_ROLE_STAFF {
		t.Errorf("a new role ends %v and leaves %+v", ended, c)
	}
	d, ended := a.Erase(later)
	want := auth.Account{Role: a.Role, PasswordSerial: 2, Erased: true, Created: noon, Updated: later}
	if diff := cmp.Diff(want, d); diff != "" || len(ended) != 3 {
		t.Errorf("erasing ends %v and leaves: %s", ended, diff)
	}
	if e := a.SignOut(later, "x"); !e.Updated.Equal(noon) {
		t.Error("ending nothing is a change")
	}
	if len(a.Sessions) != 3 {
		t.Error("the state before was changed")
	}
}

func TestRefreshInEveryState(t *testing.T) {
	policy := auth.Policy{SessionTTL: time.Hour, Grace: 10 * time.Second}
	t1, t2, t3 := []byte("t1"), []byte("t2"), []byte("t3")
	opened := auth.NewSession("u", "agent", t1, policy, noon)
	turned, _ := opened.Refresh(t1, t2, policy, noon.Add(time.Minute))
	at := func(d time.Duration) time.Time { return noon.Add(time.Minute + d) }
	for _, c := range []struct {
		name      string
		session   auth.Session
		token     []byte
		successor []byte
		now       time.Time
		want      auth.Outcome
	}{
		{"first token", opened, t1, t2, at(0), auth.Renewed},
		{"second token", turned, t2, t3, at(time.Second), auth.Renewed},
		{"first token again at once", turned, t1, t2, at(0), auth.Repeated},
		{"first token again at the end of the grace", turned, t1, t2, at(10 * time.Second), auth.Repeated},
		{"first token after the grace", turned, t1, t2, at(10*time.Second + 1), auth.Reused},
		{"a token of before that", turned, []byte("t0"), t1, at(0), auth.Reused},
		{"last moment", opened, t1, t2, noon.Add(time.Hour - 1), auth.Renewed},
		{"expired", opened, t1, t2, noon.Add(time.Hour), auth.Ended},
		{"spent and expired", turned, t1, t2, at(2 * time.Hour), auth.Ended},
		{"revoked", opened.Revoke(noon), t1, t2, at(0), auth.Ended},
		{"erased", opened.Erase(noon), nil, t2, at(0), auth.Ended},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := c.session
			after, got := c.session.Refresh(c.token, c.successor, policy, c.now)
			if got != c.want {
				t.Fatalf("outcome %d, want %d", got, c.want)
			}
			switch got {
			case auth.Renewed:
				if string(after.Token) != string(c.successor) || string(after.Previous) != string(c.token) || !after.Expires.Equal(c.now.Add(time.Hour)) {
					t.Errorf("got %+v", after)
				}
			case auth.Reused:
				if after.Open(c.now) || !after.Revoked.Equal(c.now) {
					t.Errorf("the session is still open: %+v", after)
				}
			default:
				if diff := cmp.Diff(before, after); diff != "" {
					t.Errorf("something changed: %s", diff)
				}
			}
		})
	}
}

func TestASessionIsRevokedOnce(t *testing.T) {
	s := auth.NewSession("u", "agent", []byte("t"), auth.Policy{SessionTTL: time.Hour}, noon).Revoke(noon).Revoke(noon.Add(time.Minute))
	if !s.Revoked.Equal(noon) {
		t.Errorf("revoked at %s", s.Revoked)
	}
}
