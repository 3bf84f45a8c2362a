// Package store keeps profiles in SQL: how they are laid out, and the questions
// that are asked of them. What may happen to them is said in the package above.
package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/user"
)

//go:embed migrations
var migrations embed.FS

// Migrations holds the tables of this service.
func Migrations() fs.FS { return sqldb.Embedded(migrations) }

// Users are the profiles, by user id. The address book is kept as the contract's
// own encoding of it, for nothing in it is ever searched.
var Users = react.NewKind("users", []sqldb.Column{
	{Name: "email", Type: sqldb.Text},
	{Name: "display_name", Type: sqldb.Text},
	{Name: "role", Type: sqldb.Int},
	{Name: "role_seq", Type: sqldb.Int},
	{Name: "addresses", Type: sqldb.Bytes, Nullable: true},
	{Name: "erased", Type: sqldb.Bool},
	{Name: "created_at", Type: sqldb.Time},
	{Name: "updated_at", Type: sqldb.Time},
}, func(p user.Profile) []any {
	var addresses any
	if len(p.Addresses) > 0 {
		data, err := proto.Marshal(&userv1.UserPatch{Addresses: p.Addresses})
		if err != nil {
			panic(fmt.Sprintf("an address book cannot be stored: %v", err)) // what came over the wire always can
		}
		addresses = data
	}
	return []any{p.Email, p.DisplayName, int64(p.Role), p.RoleSeq, addresses, p.Erased, p.Created, p.Updated}
}, scanProfile)

func scanProfile(s sqldb.Scanner, meta ...any) (p user.Profile, err error) {
	var role int64
	var addresses []byte
	if err := s.Scan(append(meta, &p.Email, &p.DisplayName, &role, &p.RoleSeq, &addresses, &p.Erased, &p.Created, &p.Updated)...); err != nil {
		return p, err
	}
	p.Role = optionsv1.Role(role)
	if len(addresses) > 0 {
		var book userv1.UserPatch
		if err := proto.Unmarshal(addresses, &book); err != nil {
			return p, fmt.Errorf("a stored address book cannot be read: %w", err)
		}
		p.Addresses = book.GetAddresses()
	}
	return p, nil
}

// User is a profile, whose it is and how often it was changed.
type User struct {
	ID      string
	Version int64
	user.Profile
}

// Store reads what the machine has written.
type Store struct{ db *sqldb.DB }

// New gives a Store on db.
func New(db *sqldb.DB) *Store { return &Store{db} }

var columns = strings.Join(Users.Columns(), ", ")

func scan(s sqldb.Scanner) (User, error) {
	var u User
	var eventSeq int64
	p, err := scanProfile(s, &u.ID, &u.Version, &eventSeq)
	u.Profile = p
	return u, err
}

// Get gives the profile of a person whom owner may see; the owner "" sees all.
// ok is false if there is none, and for tombstones u.Erased is true.
func (s *Store) Get(ctx context.Context, userID, owner string) (u User, ok bool, err error) {
	query, args := `SELECT `+columns+` FROM users WHERE id = ?`, []any{userID}
	if owner != "" {
		query, args = query+` AND id = ?`, append(args, owner)
	}
	u, err = scan(s.db.QueryRow(ctx, query, args...))
	if errors.Is(err, sqldb.ErrNoRows) {
		return User{}, false, nil
	}
	return u, err == nil, err
}

// Batch gives those of the people who exist, by id.
func (s *Store) Batch(ctx context.Context, userIDs []string) (map[string]User, error) {
	found := make(map[string]User, len(userIDs))
	if len(userIDs) == 0 {
		return found, nil
	}
	marks, args := sqldb.In(userIDs)
	users, err := sqldb.All(ctx, s.db, `SELECT `+columns+` FROM users WHERE id IN (`+marks+`) AND NOT erased`, args, scan)
	for _, u := range users {
		found[u.ID] = u
	}
	return found, err
}

// users declares what callers may filter and sort people by.
var users = listing.New(listing.Spec[User]{
	Name: "users", Order: "create_time", Key: "id", KeyOf: func(u User) string { return u.ID }, Owner: "id",
	Fields: map[string]listing.Field[User]{
		"email":        {Column: "email", Sort: func(u User) any { return u.Email }},
		"display_name": {Column: "display_name", Sort: func(u User) any { return u.DisplayName }},
		"role":         {Column: "role", Type: listing.Enum, Values: listing.EnumValues(optionsv1.Role(0).Descriptor())},
		"create_time":  {Column: "created_at", Type: listing.Time, Sort: func(u User) any { return u.Created }},
	},
})

// List gives a page of people and the token of the next one, "" if there is none.
// A query that cannot be meant fails with Invalid.
func (s *Store) List(ctx context.Context, q listing.Query) ([]User, string, error) {
	page, err := users.Parse(q)
	if err != nil {
		return nil, "", err
	}
	all, err := sqldb.All(ctx, s.db, `SELECT `+columns+` FROM users WHERE NOT erased AND `+page.SQL, page.Args, scan)
	if err != nil {
		return nil, "", err
	}
	all, next := users.Cut(page, all)
	return all, next, nil
}
