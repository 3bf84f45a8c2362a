package auth

import (
	"strings"

	"github.com/waybill-dev/waybill/platform/errs"
)

// Bearer gives the token of the authorization headers of a call, "" if there
// are none. Two headers are refused, whatever they hold: one part of the system
// might believe the first and another the second. Errors are Unauthenticated.
func Bearer(headers []string) (string, error) {
	if len(headers) == 0 {
		return "", nil
	}
	if len(headers) > 1 {
		return "", errs.E(errs.Unauthenticated, "AUTHORIZATION_AMBIGUOUS", "send exactly one authorization header")
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "bearer") || token == "" || len(token) > maxTokenLen || strings.ContainsAny(token, " ,\t") {
		return "", errs.E(errs.Unauthenticated, "AUTHORIZATION_MALFORMED", "the authorization header must read: Bearer <access token>")
	}
	return token, nil
}
