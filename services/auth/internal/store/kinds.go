// Package store keeps accounts, sessions and the key ring in SQL: how each is
// laid out, and the questions that are asked of them. What may happen to them is
// said in the package above.
package store

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	"github.com/waybill-dev/waybill/services/auth"
)

//go:embed migrations
var migrations embed.FS

// Migrations holds the tables of this service.
func Migrations() fs.FS { return sqldb.Embedded(migrations) }

// Accounts are how people sign in, by user id. All events of a person are emitted
// by their account, so that they are numbered in one row.
var Accounts = react.NewKind("accounts", []sqldb.Column{
	{Name: "email_id", Type: sqldb.Text},
	{Name: "role", Type: sqldb.Int},
	{Name: "password_hash", Type: sqldb.Text},
	{Name: "password_serial", Type: sqldb.Int},
	{Name: "sessions", Type: sqldb.Text},
	{Name: "erased", Type: sqldb.Bool},
	{Name: "created_at", Type: sqldb.Time},
	{Name: "updated_at", Type: sqldb.Time},
}, func(a auth.Account) []any {
	return []any{a.EmailID, int64(a.Role), a.PasswordHash, a.PasswordSerial, strings.Join(a.Sessions, " "), a.Erased, a.Created, a.Updated}
}, scanAccount)

func scanAccount(s sqldb.Scanner, meta ...any) (a auth.Account, err error) {
	var role int64
	var sessions string
	err = s.Scan(append(meta, &a.EmailID, &role, &a.PasswordHash, &a.PasswordSerial, &sessions, &a.Erased, &a.Created, &a.Updated)...)
	a.Role, a.Sessions = optionsv1.Role(role), strings.Fields(sessions)
	return a, err
}

// Email is the claim of an account to an address; "" when the address is free.
type Email struct{ UserID string }

// Emails are the addresses in use, by their keys. They are why no two accounts
// have the same address.
var Emails = react.NewKind("emails", []sqldb.Column{{Name: "user_id", Type: sqldb.Text}},
	func(e Email) []any { return []any{e.UserID} },
	func(s sqldb.Scanner, meta ...any) (e Email, err error) {
		err = s.Scan(append(meta, &e.UserID)...)
		return e, err
	})

// Sessions are the sessions, by session id.
var Sessions = react.NewKind("sessions", []sqldb.Column{
	{Name: "user_id", Type: sqldb.Text},
	{Name: "user_agent", Type: sqldb.Text},
	{Name: "token_hash", Type: sqldb.Bytes, Nullable: true},
	{Name: "previous_hash", Type: sqldb.Bytes, Nullable: true},
	{Name: "created_at", Type: sqldb.Time},
	{Name: "refreshed_at", Type: sqldb.Time},
	{Name: "expires_at", Type: sqldb.Time},
	{Name: "revoked_at", Type: sqldb.Time, Nullable: true},
}, func(s auth.Session) []any {
	var revoked any
	if !s.Revoked.IsZero() {
		revoked = s.Revoked
	}
	return []any{s.UserID, s.UserAgent, bytesOrNil(s.Token), bytesOrNil(s.Previous), s.Created, s.Refreshed, s.Expires, revoked}
}, scanSession)

func scanSession(sc sqldb.Scanner, meta ...any) (s auth.Session, err error) {
	var revoked *time.Time
	err = sc.Scan(append(meta, &s.UserID, &s.UserAgent, &s.Token, &s.Previous, &s.Created, &s.Refreshed, &s.Expires, &revoked)...)
	if revoked != nil {
		s.Revoked = *revoked
	}
	return s, err
}

// bytesOrNil keeps an absent hash apart from an empty one.
func bytesOrNil(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

// RingID is the id of the one ring.
const RingID = "ring"

// Rings holds the key ring, in one row.
var Rings = react.NewKind("rings", []sqldb.Column{{Name: "data", Type: sqldb.Text}},
	func(r auth.Ring) []any {
		data, err := json.Marshal(r) //nolint:gosec // the secrets in it are sealed, as far as the operator wishes
		if err != nil {
			panic(fmt.Sprintf("the key ring cannot be stored: %v", err)) // plain values always can
		}
		return []any{string(data)}
	}, scanRing)

func scanRing(s sqldb.Scanner, meta ...any) (r auth.Ring, err error) {
	var data string
	if err := s.Scan(append(meta, &data)...); err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(data), &r); err != nil {
		return r, fmt.Errorf("the stored key ring cannot be read: %w", err)
	}
	return r, nil
}
