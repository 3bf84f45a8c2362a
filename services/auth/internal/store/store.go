package store

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/auth"
)

// Store reads what the machine has written.
type Store struct{ db *sqldb.DB }

// New gives a Store on db.
func New(db *sqldb.DB) *Store { return &Store{db} }

var (
	accountColumns = "a." + strings.Join(Accounts.Columns(), ", a.")
	sessionColumns = strings.Join(Sessions.Columns(), ", ")
)

// ByEmail finds the account that signs in with an address; ok is false if none
// does.
func (s *Store) ByEmail(ctx context.Context, emailID string) (userID string, a auth.Account, ok bool, err error) {
	return s.account(ctx, `SELECT `+accountColumns+` FROM emails e JOIN accounts a ON a.id = e.user_id WHERE e.id = ?`, emailID)
}

// Account finds an account by its user; ok is false if there is none.
func (s *Store) Account(ctx context.Context, userID string) (a auth.Account, ok bool, err error) {
	_, a, ok, err = s.account(ctx, `SELECT `+accountColumns+` FROM accounts a WHERE a.id = ?`, userID)
	return a, ok, err
}

func (s *Store) account(ctx context.Context, query, arg string) (userID string, a auth.Account, ok bool, err error) {
	var version, eventSeq int64
	a, err = scanAccount(s.db.QueryRow(ctx, query, arg), &userID, &version, &eventSeq)
	if errors.Is(err, sqldb.ErrNoRows) {
		return "", a, false, nil
	}
	return userID, a, err == nil, err
}

// Session is a session and its id.
type Session struct {
	ID string
	auth.Session
}

// sessions declares the list of a person's sessions.
var sessions = listing.New(listing.Spec[Session]{
	Name: "sessions", Order: "create_time desc", Key: "id", KeyOf: func(s Session) string { return s.ID }, Owner: "user_id",
	Fields: map[string]listing.Field[Session]{
		"create_time": {Column: "created_at", Type: listing.Time, Sort: func(s Session) any { return s.Created }},
	},
})

// Sessions gives a page of the open sessions of q.Owner, newest first, and the
// token of the next page.
func (s *Store) Sessions(ctx context.Context, q listing.Query, now time.Time) ([]Session, string, error) {
	if q.Owner == "" {
		return nil, "", errs.E(errs.Internal, "", "a list of sessions needs an owner")
	}
	page, err := sessions.Parse(q)
	if err != nil {
		return nil, "", err
	}
	var all []Session
	err = s.each(ctx, `SELECT `+sessionColumns+` FROM sessions WHERE revoked_at IS NULL AND expires_at > ? AND `+page.SQL,
		append([]any{now}, page.Args...), func(r sqldb.Scanner) error {
			var one Session
			var version, eventSeq int64
			var err error
			one.Session, err = scanSession(r, &one.ID, &version, &eventSeq)
			all = append(all, one)
			return err
		})
	if err != nil {
		return nil, "", err
	}
	all, next := sessions.Cut(page, all)
	return all, next, nil
}

// Revocation says when a session was ended.
type Revocation struct {
	SessionID string
	At        time.Time
}

// Revoked gives the sessions that were ended after since, oldest first.
func (s *Store) Revoked(ctx context.Context, since time.Time) ([]Revocation, error) {
	var all []Revocation
	err := s.each(ctx, `SELECT id, revoked_at FROM sessions WHERE revoked_at > ? ORDER BY revoked_at, id`, []any{since}, func(r sqldb.Scanner) error {
		var one Revocation
		err := r.Scan(&one.SessionID, &one.At)
		all = append(all, one)
		return err
	})
	return all, err
}

// Ring gives the key ring; the zero Ring if there is none yet.
func (s *Store) Ring(ctx context.Context) (auth.Ring, error) {
	var id string
	var version, eventSeq int64
	r, err := scanRing(s.db.QueryRow(ctx, `SELECT `+strings.Join(Rings.Columns(), ", ")+` FROM rings WHERE id = ?`, RingID), &id, &version, &eventSeq)
	if errors.Is(err, sqldb.ErrNoRows) {
		return auth.Ring{}, nil
	}
	return r, err
}

// Forget deletes what nobody can ask for any more: sessions that were over before
// the given time, and addresses that are free again.
func (s *Store) Forget(ctx context.Context, before time.Time) error {
	if _, err := s.db.Exec(ctx, `DELETE FROM sessions WHERE expires_at < ?`, before); err != nil {
		return err
	}
	_, err := s.db.Exec(ctx, `DELETE FROM emails WHERE user_id = ''`)
	return err
}

func (s *Store) each(ctx context.Context, query string, args []any, fn func(sqldb.Scanner) error) error {
	rows, err := s.db.Query(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
