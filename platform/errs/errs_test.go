package errs_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
)

func TestKindSurvivesWrapping(t *testing.T) {
	err := fmt.Errorf("load order: %w", errs.E(errs.NotFound, "ORDER_NOT_FOUND", "no order %s", "o1"))
	if got := errs.KindOf(err); got != errs.NotFound {
		t.Errorf("KindOf = %v, want not found", got)
	}
	if got := errs.ReasonOf(err); got != "ORDER_NOT_FOUND" {
		t.Errorf("ReasonOf = %q", got)
	}
}

func TestUnknownErrorsAreInternalAndContextErrorsKeepTheirMeaning(t *testing.T) {
	for err, want := range map[error]errs.Kind{
		io.EOF:                   errs.Internal,
		context.Canceled:         errs.Canceled,
		context.DeadlineExceeded: errs.DeadlineExceeded,
	} {
		if got := errs.KindOf(err); got != want {
			t.Errorf("KindOf(%v) = %v, want %v", err, got, want)
		}
	}
}

func TestWrapKeepsTheCauseForTheLogOnly(t *testing.T) {
	err := errs.Wrap(io.ErrUnexpectedEOF, errs.Unavailable, "DB_AWAY", "the database is away")
	if err.Message != "the database is away" {
		t.Errorf("Message = %q holds more than callers may see", err.Message)
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost")
	}
	if got := err.Error(); got != "the database is away: unexpected EOF" {
		t.Errorf("Error() = %q", got)
	}
}

func TestWithGivesCopies(t *testing.T) {
	base := errs.E(errs.Invalid, "BAD", "bad").WithMeta("a", "1")
	more := base.WithMeta("b", "2").WithFields(errs.Field{Path: "x", Problem: "y"}).WithRetryAfter(time.Second)
	if len(base.Meta) != 1 || len(base.Fields) != 0 || base.RetryAfter != 0 {
		t.Errorf("the original changed: %+v", base)
	}
	if len(more.Meta) != 2 || len(more.Fields) != 1 || more.RetryAfter != time.Second {
		t.Errorf("the copy misses something: %+v", more)
	}
}

func TestOnlyPermanentKindsAreDeadLetters(t *testing.T) {
	for k := errs.Internal; k <= errs.Canceled; k++ {
		err := errs.E(k, "R", "text")
		transient := k == errs.Internal || k == errs.Aborted || k == errs.ResourceExhausted || k == errs.Unavailable ||
			k == errs.DeadlineExceeded || k == errs.Canceled
		if errs.Permanent(err) == transient {
			t.Errorf("Permanent(%v) = %v", k, !transient)
		}
	}
}
