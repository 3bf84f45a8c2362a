package gateway

import (
	"context"
	"io"
	"log" //nolint:depguard // what http.Server wants for its ErrorLog
	"log/slog"
	"net/http"
	"time"
)

// ServerConfig is how the HTTP server of a Gateway works. A field left zero takes
// the default in its comment.
type ServerConfig struct {
	HeaderTimeout time.Duration // for a client to send its headers: 5 s
	IdleTimeout   time.Duration // of a connection between two requests: 60 s
	MaxHeader     int           // bytes of headers beyond which a connection is dropped with 431: 16 KiB
}

// NewHTTPServer makes the server for a Gateway, with limits on everything a
// client can draw out: headers, idleness and, by the Gateway itself, bodies and
// answers. It has no WriteTimeout, since that would end event streams.
func NewHTTPServer(cfg ServerConfig, h http.Handler, logger *slog.Logger) *http.Server {
	if cfg.HeaderTimeout == 0 {
		cfg.HeaderTimeout = 5 * time.Second
	}
	if cfg.IdleTimeout == 0 {
		cfg.IdleTimeout = time.Minute
	}
	if cfg.MaxHeader == 0 {
		cfg.MaxHeader = 16 << 10
	}
	errorLog := log.New(io.Discard, "", 0)
	if logger != nil {
		errorLog = slog.NewLogLogger(logger.Handler(), slog.LevelDebug) // mostly what clients do wrong
	}
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: cfg.HeaderTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    cfg.MaxHeader,
		ErrorLog:          errorLog,
	}
}

// Shutdown stops the server of a Gateway: it takes no more connections, tells
// the clients of streams to come back elsewhere, and lets other requests finish
// as long as ctx lasts. What is left then is cut.
func (g *Gateway) Shutdown(ctx context.Context, srv *http.Server) error {
	g.stopOnce.Do(func() { close(g.stopping) })
	err := srv.Shutdown(ctx)
	if err != nil {
		_ = srv.Close()
	}
	return err
}
