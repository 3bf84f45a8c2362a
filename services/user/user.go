// Package user is what the shop knows about people: profiles and address books.
// A profile is a value; what happens to it is a pure function.
package user

import (
	"crypto/sha256"
	"encoding/base64"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/errs"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
)

// MaxAddresses is how long an address book may be.
const MaxAddresses = 20

// Profile is one person. Change it only through its methods.
type Profile struct {
	Email       string
	DisplayName string
	Role        optionsv1.Role
	RoleSeq     int64 // number of the event that set Role; an older one does not
	Addresses   []*typev1.Address
	Erased      bool // nothing personal is left; the row stays so that nothing revives the person
	Created     time.Time
	Updated     time.Time
}

// The fields that a patch may change, by their names in the contract.
const (
	FieldDisplayName = "display_name"
	FieldAddresses   = "addresses"
)

// Patch changes the fields named in paths, or those that are set if there are no
// paths. It gives the fields that really changed.
func (p Profile) Patch(patch *userv1.UserPatch, paths []string, now time.Time) (Profile, []string, error) {
	if len(paths) == 0 {
		if patch.GetDisplayName() != "" {
			paths = append(paths, FieldDisplayName)
		}
		if len(patch.GetAddresses()) > 0 {
			paths = append(paths, FieldAddresses)
		}
	}
	var changed []string
	for _, path := range paths {
		switch path {
		case FieldDisplayName:
			if patch.GetDisplayName() == "" {
				return p, nil, invalid("user.display_name", "must have 1 to 100 characters")
			}
			if p.DisplayName != patch.GetDisplayName() {
				p.DisplayName, changed = patch.GetDisplayName(), append(changed, path)
			}
		case FieldAddresses:
			if len(patch.GetAddresses()) > MaxAddresses {
				return p, nil, invalid("user.addresses", "must have at most 20 entries")
			}
			if !sameAddresses(p.Addresses, patch.GetAddresses()) {
				p.Addresses, changed = patch.GetAddresses(), append(changed, path)
			}
		default:
			return p, nil, invalid("update_mask", "names "+strconv.Quote(path)+"; there are display_name and addresses")
		}
	}
	if len(changed) > 0 {
		p.Updated = now
	}
	return p, changed, nil
}

func invalid(path, problem string) error {
	return errs.E(errs.Invalid, "INVALID_PATCH", "%s %s", path, problem).WithFields(errs.Field{Path: path, Problem: problem})
}

func sameAddresses(a, b []*typev1.Address) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !proto.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}

// SetRole takes over a role from the event with this number.
func (p Profile) SetRole(role optionsv1.Role, seq int64, now time.Time) (Profile, bool) {
	if p.Erased || seq <= p.RoleSeq {
		return p, false
	}
	p.Role, p.RoleSeq, p.Updated = role, seq, now
	return p, true
}

// Erase leaves a tombstone.
func (p Profile) Erase(now time.Time) Profile {
	return Profile{Role: p.Role, RoleSeq: p.RoleSeq, Erased: true, Created: p.Created, Updated: now}
}

// Etag names one version of one profile.
func Etag(userID string, version int64) string {
	sum := sha256.Sum256([]byte(userID + "/" + strconv.FormatInt(version, 10)))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// CheckEtag fails with Aborted if the caller's etag, unless empty, is not that of
// the version.
func CheckEtag(given, userID string, version int64) error {
	if given == "" || given == Etag(userID, version) {
		return nil
	}
	return errs.E(errs.Aborted, "ETAG_MISMATCH", "the profile has changed since you read it; read it again and repeat the change")
}

// NotFound is the error for a person who does not exist, was erased, or is none of
// the caller's business.
func NotFound(userID string) error {
	return errs.E(errs.NotFound, "USER_NOT_FOUND", "there is no user %s", userID)
}

// Pending is the error for the caller's own profile when the event of their
// sign-up has not arrived yet: they exist, their profile does in a moment.
func Pending() error {
	return errs.E(errs.Unavailable, "PROFILE_PENDING", "your profile is being made; try again in a moment").WithRetryAfter(200 * time.Millisecond)
}
