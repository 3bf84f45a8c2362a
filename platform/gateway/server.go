package gateway

import (
	"context"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// ServerConfig is how the HTTP server of a Gateway works. A field left zero takes
// the default in its comment.
type ServerConfig struct {
	HeaderTimeout time.Duration // for a client to send its headers: 5 s
	IdleTimeout   time.Duration // of a connection between two requests: 60 s
	MaxHeader     int           // bytes of headers beyond which a connection is dropped with 431: 16 KiB
	BaseContext   context.Context
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
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: cfg.HeaderTimeout,
		IdleTimeout:       cfg.IdleTimeout,
		MaxHeaderBytes:    cfg.MaxHeader,
		ErrorLog:          errorLog,
	}
	if cfg.BaseContext != nil {
		srv.BaseContext = func(net.Listener) context.Context { return cfg.BaseContext }
	}
	return srv
}
