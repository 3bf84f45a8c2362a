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
	"google.golang.org/grpc/metadata"

	"github.com/waybill-dev/waybill/platform/rpc"
)

// call is one request on its way through the gateway, and the ResponseWriter that
// handlers of other routes get.
type call struct {
	recorder
	ctx       context.Context //nolint:containedctx // a call is as long-lived as its context
	begun     time.Time
	span      trace.Span
	requestID string
	ids       [2]string // request id and client address, where headers and metadata point to
	values    [4]string // of the path's variables: room for as many as paths have
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

// metadata gives what services are told beside the message. It is made anew, so
// no header of the client is in it that was not put there on purpose.
func (c *call) metadata() metadata.MD {
	md := make(metadata.MD, 4)
	md["x-request-id"] = c.ids[0:1:1]
	if a := c.sent[headerAuthorization]; len(a) == 1 && printable(a[0], len(a[0])) {
		md["authorization"] = a
	}
	if c.idempotencyKey != "" {
		md["idempotency-key"] = []string{c.idempotencyKey}
	}
	if c.client.IsValid() {
		c.ids[1] = c.client.String()
		md[rpc.MetadataClientIP] = c.ids[1:2:2]
	}
	return md
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
