package rpc

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/waybill-dev/waybill/platform/errs"
)

// Domain is the domain of every ErrorInfo that Waybill sends.
const Domain = "waybill"

// maxFields bounds the details of one answer, which travels in a header.
const maxFields = 32

// retryUnavailable is when to try again what is unavailable, if nobody knows
// better: as when there is no server of a service just now.
const retryUnavailable = time.Second

// kinds is the one table between kinds and codes. Its row gives the text for
// callers when there is none they may read.
var kinds = [...]struct {
	kind errs.Kind
	code codes.Code
	text string
}{
	{errs.Internal, codes.Internal, "internal error"},
	{errs.Invalid, codes.InvalidArgument, "the request is not valid"},
	{errs.NotFound, codes.NotFound, "not found"},
	{errs.AlreadyExists, codes.AlreadyExists, "it exists already"},
	{errs.FailedPrecondition, codes.FailedPrecondition, "the present state does not allow it"},
	{errs.Aborted, codes.Aborted, "another call was faster; try again"},
	{errs.Unauthenticated, codes.Unauthenticated, "sign in first"},
	{errs.PermissionDenied, codes.PermissionDenied, "not allowed"},
	{errs.ResourceExhausted, codes.ResourceExhausted, "a limit was reached"},
	{errs.Unavailable, codes.Unavailable, "not available just now; try again"},
	{errs.DeadlineExceeded, codes.DeadlineExceeded, "out of time; whether it took effect is unknown"},
	{errs.Unimplemented, codes.Unimplemented, "there is no such operation"},
	{errs.OutOfRange, codes.OutOfRange, "out of range"},
	{errs.Canceled, codes.Canceled, "the call was canceled"},
}

// Code gives the code of a kind.
func Code(k errs.Kind) codes.Code {
	for _, row := range kinds {
		if row.kind == k {
			return row.code
		}
	}
	return codes.Internal
}

// Kind gives the kind of a code; Unknown and DataLoss, which Waybill never
// sends, are Internal.
func Kind(c codes.Code) errs.Kind {
	for _, row := range kinds {
		if row.code == c {
			return row.kind
		}
	}
	return errs.Internal
}

func text(k errs.Kind) string {
	for _, row := range kinds {
		if row.kind == k {
			return row.text
		}
	}
	return text(errs.Internal)
}

func reason(k errs.Kind) string { return strings.ReplaceAll(strings.ToUpper(k.String()), " ", "_") }

// Status gives what a caller sees of err: the code of its kind, its message, and
// ErrorInfo, BadRequest and RetryInfo as far as there is something to say; to what
// is unavailable callers are always told when to come back. Of
// internal errors a caller sees traceID and nothing else. It is nil for nil.
func Status(err error, traceID string) *status.Status {
	if err == nil {
		return nil
	}
	return toStatus(classify(err), traceID)
}

func toStatus(e *errs.Error, traceID string) *status.Status {
	code := Code(e.Kind)
	info := &errdetails.ErrorInfo{Domain: Domain, Reason: cmp.Or(e.Reason, reason(e.Kind)), Metadata: e.Meta}
	message := cmp.Or(e.Message, text(e.Kind))
	if code == codes.Internal {
		message = text(errs.Internal)
		info.Reason, info.Metadata = reason(errs.Internal), nil
		if traceID != "" {
			info.Metadata = map[string]string{"trace_id": traceID}
		}
	}
	details := []protoadapt.MessageV1{info}
	if len(e.Fields) > 0 && code != codes.Internal {
		bad := &errdetails.BadRequest{}
		for _, f := range e.Fields[:min(len(e.Fields), maxFields)] {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Path, Description: f.Problem})
		}
		details = append(details, bad)
	}
	retry := e.RetryAfter
	if retry == 0 && code == codes.Unavailable {
		retry = retryUnavailable
	}
	if retry > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retry)})
	}
	bare := status.New(code, message)
	full, err := bare.WithDetails(details...)
	if err != nil { // a detail does not encode: text that is not UTF-8
		return bare
	}
	return full
}

// FromStatus turns the error of a client back into what the server returned,
// an *errs.Error. Errors that do not come from a server of Waybill keep their
// kind, but their text goes no further than the log.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	return classify(err)
}

// classify gives err as an *errs.Error.
func classify(err error) *errs.Error {
	var e *errs.Error
	if errors.As(err, &e) {
		return e
	}
	if st, ok := status.FromError(err); ok {
		return fromStatus(st, err)
	}
	k := errs.KindOf(err)
	return &errs.Error{Kind: k, Reason: reason(k), Message: text(k), Err: err}
}

// ours reports whether err is a status that a server of Waybill has made.
func ours(err error) bool {
	st, ok := status.FromError(err)
	return ok && slices.ContainsFunc(st.Details(), func(d any) bool {
		info, ok := d.(*errdetails.ErrorInfo)
		return ok && info.GetDomain() == Domain
	})
}

func fromStatus(st *status.Status, err error) *errs.Error {
	k := Kind(st.Code())
	e := &errs.Error{Kind: k, Reason: reason(k), Message: text(k)}
	ours := false
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == Domain {
				ours = true
				e.Reason, e.Message, e.Meta = d.GetReason(), st.Message(), d.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.Fields = append(e.Fields, errs.Field{Path: v.GetField(), Problem: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = max(0, min(d.GetRetryDelay().AsDuration(), time.Hour))
		}
	}
	if !ours {
		e.Err, e.Fields = err, nil
	}
	return e
}
