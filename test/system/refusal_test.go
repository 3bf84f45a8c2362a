package system_test

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
)

// A refusal is the answer a bad request should get.
type refusal struct {
	code   codes.Code
	reason string // "" for any
	field  string // that the answer must name, "" for none
	http   int    // 0 for the usual one of code
}

var httpOf = map[codes.Code]int{
	codes.InvalidArgument: 400, codes.FailedPrecondition: 400, codes.OutOfRange: 400, codes.Unauthenticated: 401, codes.PermissionDenied: 403,
	codes.NotFound: 404, codes.AlreadyExists: 409, codes.Aborted: 409, codes.ResourceExhausted: 429, codes.Unimplemented: 501,
	codes.Unavailable: 503, codes.DeadlineExceeded: 504,
}

// leaks are the marks of what goes on inside; no answer may hold any.
var leaks = regexp.MustCompile(`(?i)sqlite|postgres|pgx|sqlstate|\bselect\b.*\bfrom\b|insert into|constraint failed|unique constraint|goroutine|panic|\.go:\d|runtime error|nil pointer|/tmp/|/home/|/usr/|127\.0\.0\.1|localhost|jetstream|nats|proto:|protobuf|0xc0|argon2|stack|dial tcp|connection refused`)

// check fails unless the answer is the refusal, says what to mend and tells
// nothing of what goes on inside.
func (want refusal) check(t *testing.T, a answer) {
	t.Helper()
	if a.code != want.code {
		t.Errorf("code %s, want %s: %s", a.code, want.code, a.text)
	}
	status := want.http
	if status == 0 {
		status = httpOf[want.code]
	}
	if a.http != 0 && a.http != status {
		t.Errorf("HTTP status %d, want %d: %s", a.http, status, a.text)
	}
	if want.reason != "" && a.reason != want.reason {
		t.Errorf("reason %q, want %q: %s", a.reason, want.reason, a.text)
	}
	if want.field != "" && a.fields[want.field] == "" {
		t.Errorf("the answer does not name %s: %s", want.field, a.text)
	}
	if len(strings.Fields(a.message)) < 3 {
		t.Errorf("the message %q tells nobody what to mend", a.message)
	}
	if leak := leaks.FindString(a.text); leak != "" {
		t.Errorf("the answer tells of %q: %s", leak, a.text)
	}
	if hits := found([]byte(a.text)); len(hits) > 0 {
		t.Errorf("the answer repeats %v", hits)
	}
	if a.http == http.StatusUnauthorized && !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") {
		t.Errorf("401 without WWW-Authenticate: %v", a.header)
	}
	if a.http == http.StatusTooManyRequests && a.header.Get("Retry-After") == "" {
		t.Errorf("429 without Retry-After: %s", a.text)
	}
}

func invalid(field string) refusal {
	return refusal{code: codes.InvalidArgument, field: field}
}
