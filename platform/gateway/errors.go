package gateway

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
)

// statusError is an error with an HTTP status of its own.
type statusError struct {
	status int
	error
}

// Unwrap gives the error without the status.
func (e statusError) Unwrap() error { return e.error }

func httpError(status int, err error) error { return statusError{status, err} }

func methodNotAllowed(method string) error {
	return httpError(http.StatusMethodNotAllowed, errs.E(errs.Unimplemented, "METHOD_NOT_ALLOWED", "this path does not take %s", printableMethod(method)))
}

// printableMethod keeps what a client made up out of the answer.
func printableMethod(m string) string {
	if len(m) > 10 {
		return "this method"
	}
	return m
}

// errorBody is google.rpc.Status as JSON, with the name of the code beside its number.
type errorBody struct {
	Code    int               `json:"code"`
	Status  string            `json:"status"`
	Message string            `json:"message"`
	Details []json.RawMessage `json:"details"`
}

// HTTPStatus gives the HTTP status of an error's code and reason.
func HTTPStatus(c codes.Code, reason string) int {
	if c == codes.FailedPrecondition && reason == "IDEMPOTENCY_KEY_REUSED" {
		return http.StatusUnprocessableEntity
	}
	return runtime.HTTPStatusFromCode(c)
}

// toStatus gives what a caller may see of err: the errors of services as they
// are, our own, and of those of libraries only the kind, since their texts name
// hosts and addresses.
func toStatus(err error, traceID string) (*status.Status, int) {
	var own statusError
	forced := 0
	if errors.As(err, &own) {
		forced, err = own.status, own.error
	}
	if st, ok := status.FromError(err); ok && !fromWaybill(st) {
		if st.Code() == codes.ResourceExhausted && strings.Contains(st.Message(), "larger than max") {
			forced, err = http.StatusRequestEntityTooLarge, errs.E(errs.ResourceExhausted, "BODY_TOO_LARGE", "the request is too large")
		}
	}
	st := rpc.Status(rpc.FromStatus(err), traceID)
	if forced == 0 {
		forced = HTTPStatus(st.Code(), reasonOf(st))
	}
	return st, forced
}

// fromWaybill reports whether a server of ours made the status.
func fromWaybill(st *status.Status) bool { return reasonOf(st) != "" }

func reasonOf(st *status.Status) string {
	for _, d := range st.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok && i.GetDomain() == rpc.Domain {
			return i.GetReason()
		}
	}
	return ""
}

// cleaned makes a text of protojson readable.
func cleaned(s string) string {
	s = strings.TrimPrefix(s, "proto:")
	s = strings.TrimLeft(s, " \u00a0")
	if strings.HasPrefix(s, "(line ") {
		if _, rest, ok := strings.Cut(s, "): "); ok {
			s = rest
		}
	}
	return strings.ReplaceAll(s, "\u00a0", " ")
}

// bodyOf gives the body of an error's answer.
func bodyOf(st *status.Status) errorBody {
	b := errorBody{Code: int(st.Code()), Status: code.Code(st.Code()).String(), Message: st.Message(), Details: []json.RawMessage{}}
	for _, d := range st.Proto().GetDetails() {
		if j, err := (protojson.MarshalOptions{UseProtoNames: true}).Marshal(d); err == nil {
			b.Details = append(b.Details, j)
		}
	}
	return b
}

// retryAfter gives the seconds a caller should wait, 0 for no word about it.
func retryAfter(st *status.Status) int {
	for _, d := range st.Details() {
		if i, ok := d.(*errdetails.RetryInfo); ok && i.GetRetryDelay().AsDuration() > 0 {
			return ceilSeconds(i.GetRetryDelay().AsDuration())
		}
	}
	return 0
}

func ceilSeconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// writeError answers with err. What went out already stays: then only the connection can end.
func (g *Gateway) writeError(c *call, r *http.Request, err error) {
	st, httpStatus := toStatus(err, c.traceID())
	if st.Code() == codes.Internal || st.Code() == codes.Unknown {
		g.log.ErrorContext(c.context(r), "request failed", "error", err, "route", c.pattern, "request_id", c.requestID)
	}
	if c.status != 0 {
		return
	}
	h := c.Header()
	h.Del("Content-Length")
	h.Set("Content-Type", "application/json")
	if httpStatus == http.StatusUnauthorized {
		challenge := `Bearer realm="waybill"`
		if c.credentials {
			challenge += `, error="invalid_token"`
		}
		h.Set("WWW-Authenticate", challenge)
	}
	if s := retryAfter(st); s > 0 {
		h.Set("Retry-After", strconv.Itoa(s))
	}
	b, jerr := json.Marshal(bodyOf(st))
	if jerr != nil { // a detail that is no JSON
		b = []byte(`{"code":13,"status":"INTERNAL","message":"internal error","details":[]}`)
	}
	c.WriteHeader(httpStatus)
	_, _ = c.Write(append(b, '\n'))
}
