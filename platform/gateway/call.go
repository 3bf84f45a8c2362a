package gateway

import (
	"context"
	"encoding/hex"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// call is one request on its way through the gateway.
type call struct {
	recorder
	ctx       context.Context
	begun     time.Time
	span      trace.Span
	requestID string
	client    netip.Addr
	pattern   string // what was matched, "" for nothing
	route     *route // the method, nil when none matched

	sent           http.Header // as the client sent them
	body           []byte
	timeout        time.Duration // asked for by Grpc-Timeout, 0 if it was not
	idempotencyKey string
	lastEventID    string
	wantsEvents    bool
	credentials    bool // an Authorization header was sent
}

type callKey struct{}

// callFrom gives the call whose context ctx is; nil outside of one.
func callFrom(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

// context gives the call's context, or the request's as long as there is none.
func (c *call) context(r *http.Request) context.Context {
	if c.ctx == nil {
		return r.Context()
	}
	return c.ctx
}

// method gives the request's method if it is a usual one: anybody can make up
// others, and each would be a new series of metrics.
func (c *call) method(r *http.Request) string {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return r.Method
	}
	return "_OTHER"
}

// rebuild makes the request that grpc-gateway sees: the same path and query, but
// only the headers that are meant for services, and a body that was read already.
func (c *call) rebuild(r *http.Request) *http.Request {
	r2 := r.WithContext(context.WithValue(c.ctx, callKey{}, c))
	r2.Header = make(http.Header, 4)
	r2.Header[headerRequestID] = []string{c.requestID}
	if a := r.Header[headerAuthorization]; len(a) == 1 {
		r2.Header[headerAuthorization] = a
	}
	if c.idempotencyKey != "" {
		r2.Header[headerIdempotencyKey] = []string{c.idempotencyKey}
	}
	if c.client.IsValid() {
		r2.Header[headerClientIP] = []string{c.client.String()}
	}
	if r.Method == http.MethodHead {
		r2.Method = http.MethodGet // net/http leaves the body out
	}
	// grpc-gateway would forward both as x-forwarded-*; the client's address goes its own way.
	r2.Host, r2.RemoteAddr = "", ""
	r2.Body, r2.ContentLength = http.NoBody, 0
	if len(c.body) > 0 {
		r2.Body, r2.ContentLength = &body{data: c.body}, int64(len(c.body))
	}
	return r2
}

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status  int
	written int64
}

// WriteHeader remembers the status; 1xx are none.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write counts the bytes.
func (w *recorder) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.written += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// newRequestID makes 16 random hex digits: enough to find a line in a log by.
func newRequestID() string {
	var b [8]byte
	n := rand.Uint64()
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
	return hex.EncodeToString(b[:])
}

func stack() string { return string(debug.Stack()) }
