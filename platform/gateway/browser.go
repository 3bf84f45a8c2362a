package gateway

import (
	"net/http"
	"slices"
	"strings"
)

// Values of headers that every answer has, made once.
var (
	nosniff  = []string{"nosniff"}
	noStore  = []string{"no-store"}
	aMinute  = []string{"public, max-age=60"}
	jsonType = []string{"application/json"}
	vary     = []string{"Origin"}
)

// setSecurityHeaders tells browsers what not to do with an answer. What is under
// /v1 belongs to somebody and is kept nowhere; public keys may be kept a minute.
func setSecurityHeaders(c *call, path string) {
	h := c.Header()
	h["X-Content-Type-Options"] = nosniff
	h[headerRequestID] = c.ids[0:1:1]
	switch {
	case strings.HasPrefix(path, "/v1"):
		h["Cache-Control"] = noStore
	case strings.HasPrefix(path, "/.well-known/"):
		h["Cache-Control"] = aMinute
	}
}

// Headers of CORS answers.
const (
	corsMethods = "GET, HEAD, POST, PUT, PATCH, DELETE"
	corsHeaders = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id, Grpc-Timeout, Traceparent, Tracestate"
	corsExposed = "X-Request-Id, Retry-After, WWW-Authenticate"
)

// handleCORS lets browsers of the configured origins call, without cookies: tokens
// travel in a header, which no browser sends by itself. It reports whether the
// request was a preflight and is answered.
func (g *Gateway) handleCORS(c *call, r *http.Request) bool {
	if len(g.cors) == 0 {
		return false
	}
	h := c.Header()
	h["Vary"] = vary
	origin := r.Header["Origin"]
	if len(origin) != 1 || !g.cors[origin[0]] && !g.cors["*"] {
		return false
	}
	allowed := origin[0]
	if g.cors["*"] {
		allowed = "*"
	}
	h.Set("Access-Control-Allow-Origin", allowed)
	h.Set("Access-Control-Expose-Headers", corsExposed)
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	if slices.Contains(strings.Split(corsMethods, ", "), r.Header.Get("Access-Control-Request-Method")) {
		h.Set("Access-Control-Allow-Methods", corsMethods)
		h.Set("Access-Control-Allow-Headers", corsHeaders)
		h.Set("Access-Control-Max-Age", "600")
	}
	c.pattern = "(preflight)"
	c.WriteHeader(http.StatusNoContent)
	return true
}
