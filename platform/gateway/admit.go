package gateway

import (
	"context"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
)

// Headers by the names net/http gives them.
const (
	headerAuthorization  = "Authorization"
	headerIdempotencyKey = "Idempotency-Key"
	headerRequestID      = "X-Request-Id"
	headerLastEventID    = "Last-Event-Id"
	headerForwardedFor   = "X-Forwarded-For"
	headerGRPCTimeout    = "Grpc-Timeout"
	headerTraceparent    = "Traceparent"
	headerTracestate     = "Tracestate"
)

// admit looks at everything but path and body: sizes, credentials, limits. It
// fills in c and sets the headers every answer has.
func (g *Gateway) admit(c *call, r *http.Request) error {
	c.ctx, c.sent = r.Context(), r.Header
	c.requestID = requestID(r.Header[headerRequestID])
	if c.requestID == "" {
		c.requestID = g.cfg.NewRequestID()
	}
	c.ids[0] = c.requestID
	setSecurityHeaders(c, r.URL.Path)
	c.client = clientIP(r, g.cfg.ProxyHops)
	c.ctx = g.observe.begin(c, r)
	if c.client.IsValid() {
		c.ctx = rpc.WithClientIP(c.ctx, c.client)
	}
	if headerSize(r) > g.cfg.MaxHeader {
		return httpError(http.StatusRequestHeaderFieldsTooLarge, errs.E(errs.ResourceExhausted, "HEADERS_TOO_LARGE",
			"the headers are larger than %d bytes", g.cfg.MaxHeader))
	}
	if wait := g.limit.take(c.client, c.begun); wait > 0 {
		return errs.E(errs.ResourceExhausted, "RATE_LIMITED", "too many requests; wait %d s", ceilSeconds(wait)).WithRetryAfter(wait)
	}
	if a := r.Header[headerAuthorization]; len(a) > 0 {
		c.credentials = true
		if len(a) > 1 {
			return errs.E(errs.Unauthenticated, "AUTHORIZATION_AMBIGUOUS", "send one Authorization header, not %d", len(a))
		}
	}
	c.wantsEvents = acceptsEvents(r.Header["Accept"])
	return g.readCallHeaders(c, r)
}

// readCallHeaders reads the headers that steer a call.
func (g *Gateway) readCallHeaders(c *call, r *http.Request) error {
	if v, ok := r.Header[headerGRPCTimeout]; ok {
		d, err := parseTimeout(v)
		if err != nil {
			return err
		}
		c.timeout = d
	}
	if v, ok := r.Header[headerIdempotencyKey]; ok {
		if len(v) != 1 || !printable(v[0], 255) {
			return badHeader("Idempotency-Key", "IDEMPOTENCY_KEY_INVALID", "must be one header of 1 to 255 printable ASCII characters, best a UUID")
		}
		c.idempotencyKey = v[0]
	}
	if v, ok := r.Header[headerLastEventID]; ok && (len(v) > 1 || v[0] != "") {
		if len(v) != 1 || !printable(v[0], 1024) {
			return badHeader("Last-Event-ID", "LAST_EVENT_ID_INVALID", "must be the id of an event of this stream")
		}
		c.lastEventID = v[0]
	}
	return nil
}

func badHeader(name, reason, problem string) error {
	return errs.E(errs.Invalid, reason, "the header %s %s", name, problem).WithFields(errs.Field{Path: name, Problem: problem})
}

// printable reports whether s is 1 to limit printable ASCII characters.
func printable(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// requestID gives the id a client chose, if it is one that can be logged.
func requestID(v []string) string {
	if len(v) != 1 || v[0] == "" || len(v[0]) > 64 {
		return ""
	}
	for i := range len(v[0]) {
		switch c := v[0][i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return ""
		}
	}
	return v[0]
}

// headerSize counts as HTTP/1.1 sends it, as nearly as can be told afterwards.
func headerSize(r *http.Request) int {
	n := len(r.Method) + len(r.RequestURI) + len(r.Host)
	for k, vs := range r.Header {
		for _, v := range vs {
			n += len(k) + len(v) + 4
		}
	}
	return n
}

// acceptsEvents reports whether a client wants server-sent events.
func acceptsEvents(accept []string) bool {
	for _, a := range accept {
		for part := range strings.SplitSeq(a, ",") {
			if kind, _, _ := strings.Cut(part, ";"); strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") {
				return true
			}
		}
	}
	return false
}

// clientIP gives the address of the client: the other end of the connection, or
// what the outermost of so many trusted proxies saw. Entries further left in
// X-Forwarded-For were written by the client, who may write anything.
func clientIP(r *http.Request, hops int) netip.Addr {
	var ip netip.Addr
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		ip = at.Addr().Unmap()
	}
	if hops == 0 || len(r.Header[headerForwardedFor]) == 0 {
		return ip
	}
	entries := strings.Split(strings.Join(r.Header[headerForwardedFor], ","), ",")
	at := max(len(entries)-hops, 0)
	if said, err := netip.ParseAddr(strings.TrimSpace(entries[at])); err == nil {
		return said.Unmap().WithZone("")
	}
	return ip
}

// parseTimeout reads Grpc-Timeout: up to eight digits and a unit.
func parseTimeout(v []string) (time.Duration, error) {
	bad := badHeader("Grpc-Timeout", "GRPC_TIMEOUT_INVALID", "must be 1 to 8 digits and a unit of H, M, S, m, u or n, as in 5S")
	if len(v) != 1 || len(v[0]) < 2 || len(v[0]) > 9 {
		return 0, bad
	}
	var unit time.Duration
	switch v[0][len(v[0])-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, bad
	}
	n := time.Duration(0)
	for _, c := range v[0][:len(v[0])-1] {
		if c < '0' || c > '9' {
			return 0, bad
		}
		n = n*10 + time.Duration(c-'0')
	}
	const most = 24 * time.Hour // more overflows, and is capped anyway
	if n > most/unit {
		return most, nil
	}
	return max(n*unit, 1), nil //nolint:durationcheck // n is a count; 0 is out of time already
}

// readBody reads the body of a request to a service: at most MaxBody bytes
// within BodyTimeout. Methods that take none must come without.
func (g *Gateway) readBody(c *call, r *http.Request) ([]byte, error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil, nil
	}
	if r.ContentLength > g.cfg.MaxBody {
		c.Header().Set("Connection", "close") // rather than read the rest of it
		return nil, bodyTooLarge(g.cfg.MaxBody)
	}
	conn := http.NewResponseController(c.recorder.ResponseWriter)
	_ = conn.SetReadDeadline(time.Now().Add(g.cfg.BodyTimeout))
	size := max(r.ContentLength, 512)
	data := make([]byte, 0, size+1) // the one byte more is where EOF is found
	limited := http.MaxBytesReader(c.recorder.ResponseWriter, r.Body, g.cfg.MaxBody)
	for {
		if len(data) == cap(data) {
			data = append(data, 0)[:len(data)]
		}
		n, err := limited.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			_ = conn.SetReadDeadline(time.Time{})
			return data, nil
		}
		c.Header().Set("Connection", "close")
		return nil, bodyError(err, g.cfg.MaxBody)
	}
}

// bodyError says why a body could not be read.
func bodyError(err error, limit int64) error {
	var large *http.MaxBytesError
	var timeout net.Error
	switch {
	case errors.As(err, &large):
		return bodyTooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return httpError(http.StatusRequestTimeout, errs.Wrap(err, errs.DeadlineExceeded, "BODY_TOO_SLOW", "the body did not arrive in time"))
	case errors.Is(err, context.Canceled):
		return err
	}
	return errs.Wrap(err, errs.Invalid, "BODY_INCOMPLETE", "the body ended too early")
}

func bodyTooLarge(limit int64) error {
	return httpError(http.StatusRequestEntityTooLarge, errs.E(errs.ResourceExhausted, "BODY_TOO_LARGE", "the body is larger than %d bytes", limit))
}

// checkContentType wants JSON in UTF-8.
func checkContentType(h http.Header) error {
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err == nil && len(h["Content-Type"]) == 1 && kind == "application/json" {
		if cs, ok := params["charset"]; !ok || strings.EqualFold(cs, "utf-8") {
			return nil
		}
	}
	return httpError(http.StatusUnsupportedMediaType, errs.E(errs.Invalid, "UNSUPPORTED_MEDIA_TYPE",
		"send the body as JSON, with the header Content-Type: application/json").
		WithFields(errs.Field{Path: "Content-Type", Problem: "must be application/json"}))
}

// setWriteDeadline bounds how long a client may take its answer.
func (g *Gateway) setWriteDeadline(c *call, d time.Duration) {
	_ = http.NewResponseController(c.recorder.ResponseWriter).SetWriteDeadline(time.Now().Add(d))
}

// isText reports whether a text may become a string of a message.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
