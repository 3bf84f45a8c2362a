// Package auth is who may come in: accounts with their passwords, sessions with
// their refresh tokens, and the ring of keys that sign access tokens. Everything
// here is a value; what happens to it is a pure function of it and of the time.
//
// The service knows people by id only. An e-mail address is kept as a keyed hash,
// which is enough to find the account that signs in with it.
package auth

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/waybill-dev/waybill/platform/errs"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
)

// MaxSessions is how many sessions a person may have; signing in once more ends
// the one opened first.
const MaxSessions = 20

// Account is how somebody signs in.
type Account struct {
	EmailID        string // the key under which the address is found; "" once erased
	Role           optionsv1.Role
	PasswordHash   string   // PHC string; "" once erased
	PasswordSerial int64    // rises with every new password
	Sessions       []string // those opened and not ended, oldest first; some may have expired
	Erased         bool
	Created        time.Time
	Updated        time.Time
}

// NewAccount opens an account.
func NewAccount(emailID, passwordHash string, role optionsv1.Role, now time.Time) Account {
	return Account{EmailID: emailID, Role: role, PasswordHash: passwordHash, PasswordSerial: 1, Created: now, Updated: now}
}

// SignIn notes a new session. The sessions it gives are to be ended: there would
// be too many.
func (a Account) SignIn(sessionID string, now time.Time) (Account, []string) {
	sessions := append(slices.Clone(a.Sessions), sessionID)
	over := max(0, len(sessions)-MaxSessions)
	a.Sessions, a.Updated = sessions[over:], now
	return a, sessions[:over:over]
}

// Crowded gives the sessions that the next SignIn ends.
func (a Account) Crowded() []string {
	return a.Sessions[:max(0, len(a.Sessions)+1-MaxSessions)]
}

// SignOut forgets sessions that were ended.
func (a Account) SignOut(now time.Time, sessionIDs ...string) Account {
	left := slices.DeleteFunc(slices.Clone(a.Sessions), func(id string) bool { return slices.Contains(sessionIDs, id) })
	if len(left) != len(a.Sessions) {
		a.Sessions, a.Updated = left, now
	}
	return a
}

// Rehash keeps the same password under another hash.
func (a Account) Rehash(passwordHash string, now time.Time) Account {
	a.PasswordHash, a.Updated = passwordHash, now
	return a
}

// ChangePassword takes another password. The sessions it gives are to be ended:
// all but the one in which it is changed.
func (a Account) ChangePassword(passwordHash, sessionID string, now time.Time) (Account, []string) {
	others := slices.DeleteFunc(slices.Clone(a.Sessions), func(id string) bool { return id == sessionID })
	a = a.SignOut(now, others...)
	a.PasswordHash, a.Updated = passwordHash, now
	a.PasswordSerial++
	return a, others
}

// SetRole gives the account another role. Its sessions are to be ended, so that
// the role holds at once.
func (a Account) SetRole(role optionsv1.Role, now time.Time) (Account, []string) {
	ended := a.Sessions
	a = a.SignOut(now, ended...)
	a.Role, a.Updated = role, now
	return a, ended
}

// Erase leaves nothing to sign in with. The sessions it gives are to be ended.
func (a Account) Erase(now time.Time) (Account, []string) {
	ended := a.Sessions
	return Account{Role: a.Role, PasswordSerial: a.PasswordSerial + 1, Erased: true, Created: a.Created, Updated: now}, ended
}

// FoldEmail gives an address in the one form in which it is compared.
func FoldEmail(address string) string {
	return strings.ToLower(norm.NFC.String(strings.TrimSpace(address)))
}

// How many characters a password has.
const (
	MinPassword = 10
	MaxPassword = 128
)

// NormalizePassword gives the form of a password that is hashed, in which the
// same letters typed on different machines are the same (NFC).
func NormalizePassword(password string) string { return norm.NFC.String(password) }

// CheckPassword says whether a new password, as typed, is good enough. The field
// is the name of the request's field, for the error.
func CheckPassword(field, password string) error {
	bad := func(problem string) error {
		return errs.E(errs.Invalid, "WEAK_PASSWORD", "%s %s", field, problem).WithFields(errs.Field{Path: field, Problem: problem})
	}
	if !utf8.ValidString(password) || strings.ContainsRune(password, 0) {
		return bad("must be text without the character NUL")
	}
	switch n := utf8.RuneCountInString(NormalizePassword(password)); {
	case n < MinPassword:
		return bad("must have at least 10 characters")
	case n > MaxPassword:
		return bad("must have at most 128 characters")
	}
	return nil
}
