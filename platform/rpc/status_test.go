package rpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waybill-dev/waybill/platform/errs"
)

func TestEveryKindSurvivesTheWire(t *testing.T) {
	seen := map[codes.Code]bool{}
	for k := errs.Internal; k <= errs.Canceled; k++ {
		t.Run(k.String(), func(t *testing.T) {
			code := Code(k)
			if seen[code] || Kind(code) != k {
				t.Fatalf("kind %s has code %s, which has kind %s", k, code, Kind(code))
			}
			seen[code] = true
			in := &errs.Error{Kind: k, Reason: "SOME_REASON", Message: "some text", RetryAfter: 3 * time.Second,
				Fields: []errs.Field{{Path: "lines[0].quantity", Problem: "must be at least 1"}},
				Meta:   map[string]string{"order_id": "o1"}, Err: errors.New("secret")}
			want := *in
			want.Err = nil
			if k == errs.Internal {
				want.Reason, want.Message, want.Fields, want.Meta = "INTERNAL", "internal error", nil, map[string]string{"trace_id": "t1"}
			}
			got := FromStatus(Status(fmt.Errorf("wrapped: %w", in), "t1").Err())
			if diff := cmp.Diff(&want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, code := range []codes.Code{codes.Unknown, codes.DataLoss, codes.Code(99)} {
		if Kind(code) != errs.Internal {
			t.Errorf("%s is %s", code, Kind(code))
		}
	}
	if Code(errs.Kind(200)) != codes.Internal {
		t.Errorf("an unknown kind is %s", Code(errs.Kind(200)))
	}
}

func TestNothingOfAFaultReachesTheCaller(t *testing.T) {
	const secret = "pq: relation accounts at db-7.internal"
	for name, c := range map[string]struct {
		err  error
		code codes.Code
	}{
		"unknown":                {errors.New(secret), codes.Internal},
		"internal":               {errs.E(errs.Internal, "X", secret).WithMeta("host", secret).WithFields(errs.Field{Path: secret}), codes.Internal},
		"hidden cause":           {errs.Wrap(errors.New(secret), errs.Unavailable, "DB_AWAY", "try again"), codes.Unavailable},
		"context":                {fmt.Errorf(secret+": %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		"canceled":               {fmt.Errorf(secret+": %w", context.Canceled), codes.Canceled},
		"another system's":       {status.Error(codes.Unavailable, secret), codes.Unavailable},
		"another system's fault": {status.Error(codes.DataLoss, secret), codes.Internal},
		"another domain's":       {foreign(t, secret), codes.NotFound},
		"a fault passed on":      {Status(errs.E(errs.Internal, "X", secret), "t0").Err(), codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			st := Status(c.err, "t1")
			if st.Code() != c.code || strings.Contains(fmt.Sprint(st.Proto()), "db-7") {
				t.Errorf("got %v", st.Proto())
			}
		})
	}
}

func foreign(t *testing.T, text string) error {
	t.Helper()
	st, err := status.New(codes.NotFound, text).WithDetails(&errdetails.ErrorInfo{Domain: "other.example", Reason: text},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: text}}})
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

func TestAnAnswerOfAnotherServiceIsPassedOnAsItIs(t *testing.T) {
	want := errs.E(errs.FailedPrecondition, "ORDER_SHIPPED", "the order has left").WithMeta("order_id", "o1")
	got := Status(Status(want, "").Err(), "")
	if diff := cmp.Diff(want, FromStatus(got.Err())); diff != "" {
		t.Error(diff)
	}
}

func TestNoErrorIsNoStatus(t *testing.T) {
	if Status(nil, "") != nil || FromStatus(nil) != nil {
		t.Error("nil became an error")
	}
}

func TestTheDetailsOfAnAnswerAreBounded(t *testing.T) {
	e := errs.E(errs.Invalid, "INVALID", "bad")
	for range 1000 {
		e.Fields = append(e.Fields, errs.Field{Path: "f", Problem: "p"})
	}
	var got *errs.Error
	errors.As(FromStatus(Status(e, "").Err()), &got)
	if len(got.Fields) != maxFields {
		t.Errorf("%d fields", len(got.Fields))
	}
}

func TestTextThatIsNotUTF8StillGivesACode(t *testing.T) {
	if st := Status(errs.E(errs.NotFound, "X", "no").WithMeta("k", "\xff"), ""); st.Code() != codes.NotFound {
		t.Errorf("got %v", st)
	}
}

func TestWhatIsUnavailableIsWorthAnotherTryLater(t *testing.T) {
	for name, err := range map[string]error{
		"no server answers": status.Error(codes.Unavailable, "name resolver error: produced zero addresses"),
		"a service says so": errs.E(errs.Unavailable, "AWAY", "not now"),
	} {
		t.Run(name, func(t *testing.T) {
			var e *errs.Error
			if !errors.As(FromStatus(Status(err, "t1").Err()), &e) || e.RetryAfter != retryUnavailable {
				t.Errorf("callers are told to come back after %s, want %s", e.RetryAfter, retryUnavailable)
			}
		})
	}
}
