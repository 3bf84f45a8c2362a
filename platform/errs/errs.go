// Package errs is the one error type of Waybill: made where the fact is known,
// translated once at the edge (platform/rpc for callers, platform/react for
// messages). It imports nothing but the standard library, so domains may use it.
package errs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A Kind is the class of an error. It decides the gRPC code, the HTTP status and
// whether a message that caused it is tried again.
type Kind uint8

// The kinds, named after the canonical codes of google.rpc.Code.
const (
	Internal           Kind = iota // a fault of ours; its text never leaves the process
	Invalid                        // the request itself is wrong, whatever the state
	NotFound                       // no such thing, or not the caller's
	AlreadyExists                  // the thing to be created is there
	FailedPrecondition             // the state does not allow it; repeating will not help
	Aborted                        // lost a race; repeating may help
	Unauthenticated                // no valid credentials
	PermissionDenied               // valid credentials, but not enough
	ResourceExhausted              // a limit was reached; RetryAfter says when to come back
	Unavailable                    // something needed is away; repeating helps later
	DeadlineExceeded               // out of time; the effect is unknown
	Unimplemented                  // no such operation
	OutOfRange                     // a position outside what exists
	Canceled                       // the caller went away
)

var names = [...]string{
	"internal", "invalid", "not found", "already exists", "failed precondition", "aborted", "unauthenticated",
	"permission denied", "resource exhausted", "unavailable", "deadline exceeded", "unimplemented", "out of range", "canceled",
}

// String gives the kind's name in lower case, as in "not found".
func (k Kind) String() string {
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// A Field is one thing wrong with one field of a request.
type Field struct {
	Path    string // proto field path, as in "lines[0].quantity"
	Problem string // what is wrong and how to mend it
}

// Error carries what a caller may know (Kind, Reason, Message, Fields,
// RetryAfter, Meta) and what only the log may see (Err).
type Error struct {
	Kind       Kind
	Reason     string // machine-readable, UPPER_SNAKE_CASE, stable
	Message    string // for people; shown to callers unless Kind is Internal
	Fields     []Field
	RetryAfter time.Duration     // zero if there is nothing to say
	Meta       map[string]string // further facts for machines
	Err        error             // the cause; never shown to callers
}

// E makes an error. A %w in format sets Err and is left out of nothing: Message
// holds the whole text, so wrap only causes whose text callers may read; use
// Wrap for those they may not.
func E(k Kind, reason, format string, a ...any) *Error {
	err := fmt.Errorf(format, a...)
	return &Error{Kind: k, Reason: reason, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Wrap makes an error whose cause err is kept for the log and for errors.Is,
// while callers see only the given text.
func Wrap(err error, k Kind, reason, format string, a ...any) *Error {
	return &Error{Kind: k, Reason: reason, Message: fmt.Sprintf(format, a...), Err: err}
}

// WithFields gives a copy of e that names the fields at fault.
func (e *Error) WithFields(f ...Field) *Error {
	c := *e
	c.Fields = append(slices.Clone(e.Fields), f...)
	return &c
}

// WithRetryAfter gives a copy of e that says when repeating may help.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	c := *e
	c.RetryAfter = d
	return &c
}

// WithMeta gives a copy of e with one more fact for machines.
func (e *Error) WithMeta(key, value string) *Error {
	c := *e
	c.Meta = maps.Clone(e.Meta)
	if c.Meta == nil {
		c.Meta = map[string]string{}
	}
	c.Meta[key] = value
	return &c
}

// Error gives the whole text, cause included; it is for logs.
func (e *Error) Error() string {
	text := e.Message
	if text == "" {
		text = e.Kind.String()
	}
	if e.Err != nil && !strings.Contains(text, e.Err.Error()) {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf gives the kind of the first Error in err's chain; context errors are
// Canceled and DeadlineExceeded, everything else is Internal.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled):
		return Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	}
	return Internal
}

// ReasonOf gives the reason of the first Error in err's chain, or "".
func ReasonOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// Permanent reports whether repeating the same input must fail again, so that a
// message with this error belongs to the dead letters at once.
func Permanent(err error) bool {
	switch KindOf(err) {
	case Invalid, NotFound, AlreadyExists, FailedPrecondition, Unauthenticated, PermissionDenied, OutOfRange, Unimplemented:
		return true
	default:
		return false
	}
}
