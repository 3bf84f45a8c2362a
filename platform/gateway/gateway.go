// Package gateway is the REST edge: HTTP and JSON in, gRPC out. It talks to
// services over grpc.ClientConnInterface and cannot tell whether they live in this
// process or in another.
//
// It trusts nothing it is sent. What reaches a service is built anew: the
// metadata from an allow-list of headers, the message from JSON that has been
// held against its descriptor (unknown, repeated and misspelt fields, numbers in
// the wrong form, text that is no text are errors that name the field), the query
// from parameters that exist. Sizes and times have limits, and every error has
// one shape, google.rpc.Status as JSON.
//
// What a method is (its path and body, streaming, keyed, taking a raw body) is read
// from the contract's descriptors and options, so a new method needs nothing
// here. grpc-gateway's runtime decodes query parameters and field masks and maps
// codes. Its ServeMux and the handlers its plugin generates are not used: they
// cannot refuse what they do not know, cannot write event streams, and cost half
// as much again per request.
package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/waybill-dev/waybill/platform/errs"
)

// Config is how a Gateway works. A field left zero takes the default in its
// comment.
type Config struct {
	Services []Service // at least one

	Timeout     time.Duration // of a unary call without Grpc-Timeout: 10 s
	MaxTimeout  time.Duration // of any unary call: 30 s
	BodyTimeout time.Duration // for a client to send its whole body, and to take a whole answer: 10 s and three times that
	Heartbeat   time.Duration // between two signs of life on an event stream: 15 s

	MaxBody   int64 // bytes of a request's body: 1 MiB
	MaxHeader int   // bytes of a request's headers: 16 KiB

	PerIP       Rate     // requests of one address: no limit
	ProxyHops   int      // trusted proxies in front, whose X-Forwarded-For entries are believed: none
	CORSOrigins []string // origins that browsers may call from, "*" is any: none
	AccessLog   bool     // log every request at Info; otherwise at Debug, and failures of ours at Warn

	OpenAPI []byte           // the OpenAPI document, served at /openapi.json
	Docs    []byte           // the page made from it, served at /docs; nil, as OpenAPI then has to be, serves neither
	Routes  map[string]Route // further paths by their exact path, or by a prefix that ends in "/"

	Tracer trace.TracerProvider // nil: no traces
	Meter  metric.MeterProvider // nil: no metrics

	// NewTicker replaces the clock of heartbeats in tests: it gives ticks until stop is called.
	NewTicker func(d time.Duration) (ticks <-chan time.Time, stop func())
	// NewRequestID replaces how the id of a request without one is made.
	NewRequestID func() string
}

// A Service is one gRPC service that is offered as REST: every method of it that
// the contract gives a path.
type Service struct {
	Name string // full name, as in "waybill.order.v1.OrderService"
	Conn grpc.ClientConnInterface
}

// A Route is a path that is served by something else than a service. Limits,
// security headers, rate limit, log and traces apply to it, JSON rules do not.
type Route struct {
	Methods []string // empty: GET and HEAD
	Handler http.Handler
}

func (c *Config) setDefaults() error {
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	c.MaxTimeout = cmp.Or(c.MaxTimeout, max(30*time.Second, c.Timeout))
	c.BodyTimeout = cmp.Or(c.BodyTimeout, 10*time.Second)
	c.Heartbeat = cmp.Or(c.Heartbeat, 15*time.Second)
	c.MaxBody = cmp.Or(c.MaxBody, 1<<20)
	c.MaxHeader = cmp.Or(c.MaxHeader, 16<<10)
	if c.NewTicker == nil {
		c.NewTicker = func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTicker(d)
			return t.C, t.Stop
		}
	}
	if c.NewRequestID == nil {
		c.NewRequestID = newRequestID
	}
	switch {
	case len(c.Services) == 0:
		return errors.New("gateway: no services")
	case c.Timeout < 0 || c.MaxTimeout < c.Timeout || c.BodyTimeout < 0 || c.Heartbeat < 0 || c.MaxBody < 0 || c.MaxHeader < 0:
		return errors.New("gateway: a limit is negative, or Timeout beyond MaxTimeout")
	case c.ProxyHops < 0:
		return errors.New("gateway: ProxyHops is negative")
	}
	return c.PerIP.check()
}

// Gateway is the http.Handler. Make one with New.
type Gateway struct {
	cfg     Config
	log     *slog.Logger
	paths   *node
	fixed   map[string]Route
	prefix  []string // of fixed, longest first
	limit   *limiter
	cors    map[string]bool
	observe *observer
	encoder *encoder

	stopOnce sync.Once
	stopping chan struct{} // closed when streams must end
}

// New builds a Gateway over the services. It fails when a service is not linked
// into the program, its options contradict its messages, or of the OpenAPI document
// and its page only one is given.
func New(cfg Config, log *slog.Logger) (*Gateway, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	g := &Gateway{cfg: cfg, log: log, paths: newNode(), fixed: map[string]Route{}, limit: newLimiter(cfg.PerIP), cors: map[string]bool{}, encoder: &encoder{}, stopping: make(chan struct{})}
	for _, o := range cfg.CORSOrigins {
		g.cors[o] = true
	}
	var err error
	if g.observe, err = newObserver(cfg.Tracer, cfg.Meter); err != nil {
		return nil, err
	}
	routes, err := findRoutes(cfg.Services)
	if err != nil {
		return nil, err
	}
	for _, r := range routes {
		if err := g.paths.add(r); err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	return g, g.addFixed()
}

// addFixed fills the table of paths that no service has.
func (g *Gateway) addFixed() error {
	if (g.cfg.OpenAPI == nil) != (g.cfg.Docs == nil) {
		return errors.New("gateway: the OpenAPI document and its page are served together or not at all")
	}
	if g.cfg.OpenAPI != nil {
		for path, r := range docRoutes(g.cfg.OpenAPI, g.cfg.Docs) {
			g.fixed[path] = r
		}
	}
	for path, r := range g.cfg.Routes {
		if _, taken := g.fixed[path]; taken || !strings.HasPrefix(path, "/") || r.Handler == nil {
			return fmt.Errorf("gateway: the route %q is taken, has no slash in front or no handler", path)
		}
		g.fixed[path] = r
	}
	for path, r := range g.fixed {
		if len(r.Methods) == 0 {
			r.Methods = []string{http.MethodGet, http.MethodHead}
			g.fixed[path] = r
		}
		if strings.HasSuffix(path, "/") && path != "/" {
			g.prefix = append(g.prefix, path)
		}
	}
	slices.SortFunc(g.prefix, func(a, b string) int { return len(b) - len(a) })
	return nil
}

// findFixed gives the route of a path that no service has.
func (g *Gateway) findFixed(path string) (Route, string, bool) {
	if r, ok := g.fixed[path]; ok {
		return r, path, true
	}
	for _, p := range g.prefix {
		if strings.HasPrefix(path, p) {
			return g.fixed[p], p, true
		}
	}
	return Route{}, "", false
}

// ServeHTTP answers one request.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := &call{recorder: recorder{ResponseWriter: w}, begun: time.Now()}
	defer g.finish(c, r)
	// net/http leaves the deadline of the request before on the connection.
	g.setWriteDeadline(c, 3*g.cfg.BodyTimeout)
	if err := g.admit(c, r); err != nil {
		g.writeError(c, r, err)
		return
	}
	if g.handleCORS(c, r) {
		return
	}
	if fixed, path, ok := g.findFixed(r.URL.Path); ok {
		c.pattern = path
		g.serveFixed(c, r, fixed)
		return
	}
	found, values := g.paths.find(r.URL.Path, c.values[:0])
	if found == nil {
		g.writeError(c, r, errs.E(errs.NotFound, "NO_SUCH_PATH", "there is nothing at this path; /docs lists what there is"))
		return
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // net/http leaves the body out
	}
	for _, route := range found {
		if route.httpMethod == method {
			g.serve(c, r, route, values)
			return
		}
	}
	c.pattern = found[0].path
	c.Header().Set("Allow", strings.Join(methods(found), ", "))
	g.writeError(c, r, methodNotAllowed(r.Method))
}

// serve answers a request to a method of a service: it holds the request against
// the contract, makes the call, and writes what comes of it.
func (g *Gateway) serve(c *call, r *http.Request, route *route, values []string) {
	c.route, c.pattern = route, route.path
	c.setSpanName(route)
	var err error
	if c.body, err = g.readBody(c, r); err != nil {
		g.writeError(c, r, err)
		return
	}
	in, err := route.request(c, r, values)
	if err != nil {
		g.writeError(c, r, err)
		return
	}
	ctx := metadata.NewOutgoingContext(c.ctx, c.metadata())
	if timeout := g.timeoutOf(c, route); timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if route.streaming {
		g.serveStream(ctx, c, r, in)
		return
	}
	g.serveUnary(ctx, c, r, in)
}

// timeoutOf gives how long the call may take; 0 is for ever, which only streams may.
func (g *Gateway) timeoutOf(c *call, r *route) time.Duration {
	switch {
	case r.streaming:
		return c.timeout
	case c.timeout == 0:
		return g.cfg.Timeout
	}
	return min(c.timeout, g.cfg.MaxTimeout)
}

// serveFixed hands the request to a handler that is no service's.
func (g *Gateway) serveFixed(c *call, r *http.Request, fixed Route) {
	if !slices.Contains(fixed.Methods, r.Method) {
		c.Header().Set("Allow", strings.Join(fixed.Methods, ", "))
		g.writeError(c, r, methodNotAllowed(r.Method))
		return
	}
	if r.ContentLength > g.cfg.MaxBody {
		g.writeError(c, r, bodyTooLarge(g.cfg.MaxBody))
		return
	}
	r.Body = http.MaxBytesReader(c.recorder.ResponseWriter, r.Body, g.cfg.MaxBody)
	fixed.Handler.ServeHTTP(c, r.WithContext(c.ctx))
}

// finish ends the span, counts, logs, and turns a panic into an answer.
func (g *Gateway) finish(c *call, r *http.Request) {
	if p := recover(); p != nil {
		if p == http.ErrAbortHandler { //nolint:errorlint // a sentinel that is panicked, never wrapped
			g.observe.end(c, r)
			panic(p)
		}
		g.log.ErrorContext(c.context(r), "panic in the gateway", "panic", fmt.Sprint(p), "request_id", c.requestID, "stack", stack())
		if c.status == 0 {
			g.writeError(c, r, errs.E(errs.Internal, "PANIC", "panic"))
		}
	}
	g.observe.end(c, r)
	level := slog.LevelDebug
	switch {
	case c.status >= http.StatusInternalServerError:
		level = slog.LevelWarn
	case g.cfg.AccessLog:
		level = slog.LevelInfo
	}
	ctx := c.context(r)
	if !g.log.Enabled(ctx, level) {
		return
	}
	// The path and the query may hold what people typed, so only the pattern is logged.
	g.log.LogAttrs(ctx, level, "http", slog.String("method", c.method(r)), slog.String("route", c.pattern), slog.Int("status", c.status),
		slog.Duration("took", time.Since(c.begun)), slog.Int64("bytes", c.written), slog.String("request_id", c.requestID))
}
