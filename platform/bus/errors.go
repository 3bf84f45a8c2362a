package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybill-dev/waybill/platform/errs"
)

// The reasons of the bus's errors (errs.ReasonOf).
const (
	ReasonConfig      = "BUS_CONFIG"       // the config makes no sense or the embedded broker does not start
	ReasonDenied      = "BUS_DENIED"       // the broker does not allow it to this user
	ReasonUnavailable = "BUS_UNAVAILABLE"  // no broker, no stream yet, or it refuses for the moment
	ReasonTimeout     = "BUS_TIMEOUT"      // no answer in time: the message may be stored
	ReasonFull        = "BUS_FULL"         // the stream refuses more until old messages go
	ReasonTooLarge    = "BUS_TOO_LARGE"    // the message exceeds the stream's or the broker's limit
	ReasonWrongStream = "BUS_WRONG_STREAM" // another stream owns the subject
	ReasonInvalid     = "BUS_INVALID"      // the subject or a header cannot be sent
	ReasonClosed      = "BUS_CLOSED"       // this Bus or Subscription was closed
)

// An ErrorClass says what a publisher should do about an error.
type ErrorClass uint8

// The classes. Everything not known to be hopeless is Retry.
const (
	Retry       ErrorClass = iota // publish again later, under the same ID
	TooLarge                      // never fits; set it aside
	WrongStream                   // streams and subjects do not match: a fault of the deployment
	Invalid                       // can never be sent as it is; set it aside
	Closed                        // this Bus is closed; another process will publish it
)

var classNames = [...]string{"retry", "too large", "wrong stream", "invalid", "closed"}

// String gives the class's name, as in "too large".
func (c ErrorClass) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// Class tells what to do about an error of Publish, PublishAsync or PublishBatch.
func Class(err error) ErrorClass {
	switch errs.ReasonOf(err) {
	case ReasonTooLarge:
		return TooLarge
	case ReasonWrongStream:
		return WrongStream
	case ReasonInvalid:
		return Invalid
	case ReasonClosed:
		return Closed
	}
	return Retry
}

var errClosed = errs.E(errs.Unavailable, ReasonClosed, "event bus is closed")

func unavailable(err error) error {
	return errs.Wrap(err, errs.Unavailable, ReasonUnavailable, "event bus is not available: %v", err)
}

// The broker's error codes that the client library has no name for.
const (
	codeUnavailable    jetstream.ErrorCode = 10008
	codeInsufficient   jetstream.ErrorCode = 10023
	codeWrongStream    jetstream.ErrorCode = 10060
	codeStoreFailed    jetstream.ErrorCode = 10077
	codeHeaderTooLarge jetstream.ErrorCode = 10097
	codeBatchPartial   jetstream.ErrorCode = 10176
	codeBatchDisabled  jetstream.ErrorCode = 10174
	codeBatchHeader    jetstream.ErrorCode = 10177
	codeBatchTooLarge  jetstream.ErrorCode = 10199
	codeBatchDuplicate jetstream.ErrorCode = 10201
)

// classified turns what the client or the broker said about a publish into an
// error of this package.
func classified(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errs.ReasonOf(err) == ReasonDenied:
		return err
	case errors.As(err, &api):
		switch api.ErrorCode {
		case jetstream.JSErrCodeStreamMessageExceedsMaximum, codeHeaderTooLarge:
			return errs.Wrap(err, errs.Invalid, ReasonTooLarge, "message is larger than its stream allows")
		case codeWrongStream:
			return errs.Wrap(err, errs.FailedPrecondition, ReasonWrongStream, "another stream owns the subject")
		case codeStoreFailed:
			return errs.Wrap(err, errs.ResourceExhausted, ReasonFull, "stream takes no more: %s", api.Description)
		}
		return errs.Wrap(err, errs.Unavailable, ReasonUnavailable, "event bus refused the message: %s", api.Description)
	case errors.Is(err, nats.ErrMaxPayload):
		return errs.Wrap(err, errs.Invalid, ReasonTooLarge, "message is larger than the broker allows")
	case errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg), errors.Is(err, nats.ErrInvalidMsg):
		return errs.Wrap(err, errs.Invalid, ReasonInvalid, "message cannot be sent: %v", err)
	case errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return errs.Wrap(err, errs.DeadlineExceeded, ReasonTimeout, "no answer from the event bus in time")
	case errors.Is(err, context.Canceled):
		return errs.Wrap(err, errs.Canceled, ReasonTimeout, "gave up waiting for the event bus")
	case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrConnectionDraining):
		return errs.Wrap(err, errs.Unavailable, ReasonClosed, "event bus is closed")
	case errors.Is(err, nats.ErrNoResponders):
		return errs.Wrap(err, errs.Unavailable, ReasonUnavailable, "no stream takes the subject (yet)")
	}
	return unavailable(err)
}
