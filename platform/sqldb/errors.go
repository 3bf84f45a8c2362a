package sqldb

import (
	"context"
	"errors"

	"github.com/waybill-dev/waybill/platform/errs"
)

// The errors of this package, for errors.Is.
var (
	// ErrNoRows: a Row was scanned, but there is none.
	ErrNoRows = errors.New("sqldb: no rows")
	// ErrDuplicate: a unique key exists already.
	ErrDuplicate = errors.New("sqldb: the key exists already")
	// ErrMissing: a row does not exist, or not in the version it should have.
	ErrMissing = errors.New("sqldb: a row is not there as expected")
	// ErrSerialization: the transaction lost a race and may be repeated.
	ErrSerialization = errors.New("sqldb: lost a race with another transaction")
	// ErrUnavailable: the database cannot be reached or cannot take more.
	ErrUnavailable = errors.New("sqldb: the database is not available")
	// ErrCommitUnknown: the connection died while a commit was under way.
	ErrCommitUnknown = errors.New("sqldb: the outcome of the commit is unknown")
	// ErrCommitted: a callback failed although the transaction was committed.
	ErrCommitted = errors.New("sqldb: committed, but a callback failed")
	// ErrTxDone: the transaction has ended or failed before.
	ErrTxDone = errors.New("sqldb: the transaction is over")
)

// Retryable reports whether err is a lost race (serialization failure, deadlock,
// lock timeout, busy), so that running the same transaction again may succeed.
func Retryable(err error) bool { return errors.Is(err, ErrSerialization) }

// Unavailable reports whether err means that the database is away: connection
// lost or refused, server shutting down, full disk.
func Unavailable(err error) bool { return errors.Is(err, ErrUnavailable) }

// Ambiguous reports whether err leaves open if the transaction was committed.
// Repeat the whole operation in a way that notices its own earlier success, by
// an idempotency key or an inbox row.
func Ambiguous(err error) bool { return errors.Is(err, ErrCommitUnknown) }

// fault ties a cause to the error of this package that it amounts to.
type fault struct {
	is    []error
	cause error
}

func (f *fault) Error() string   { return f.is[0].Error() + ": " + f.cause.Error() }
func (f *fault) Unwrap() []error { return append([]error{f.cause}, f.is...) }

func duplicate(cause error) error { return &fault{is: []error{ErrDuplicate}, cause: cause} }

func conflict(cause error) error {
	return errs.Wrap(&fault{is: []error{ErrSerialization}, cause: cause}, errs.Aborted, "DATABASE_CONFLICT", "another change came first; try again")
}

func unavailable(cause error) error {
	return errs.Wrap(&fault{is: []error{ErrUnavailable}, cause: cause}, errs.Unavailable, "DATABASE_UNAVAILABLE", "the database is not available")
}

func timedOut(cause error) error {
	return errs.Wrap(cause, errs.DeadlineExceeded, "DATABASE_TIMEOUT", "the database took too long")
}

// unknown marks the failure of a commit that may have happened.
func unknown(cause error) error {
	return errs.Wrap(&fault{is: []error{ErrCommitUnknown, ErrUnavailable}, cause: cause}, errs.Unavailable, "COMMIT_UNKNOWN",
		"it is not known whether the change was kept; repeat it with the same key")
}

func committed(cause error) error { return &fault{is: []error{ErrCommitted}, cause: cause} }

// isContext reports whether err is the end of a context.
func isContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
