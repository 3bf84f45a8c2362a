package rpc

import (
	"crypto/rand"
	"log/slog"
	"time"

	"context"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"

	"github.com/waybill-dev/waybill/platform/errs"
)

// logFailure writes the one line of a failed call. What a caller did wrong is
// told by its reason alone: messages may quote the request.
func (s *Server) logFailure(c *call, e *errs.Error, took time.Duration, traceID, stack string) {
	level := slog.LevelWarn
	more := []slog.Attr{slog.String("reason", e.Reason)}
	if !trace.SpanContextFromContext(c.ctx).IsValid() { // else the log adds it
		more = append(more, slog.String("trace_id", traceID))
	}
	switch e.Kind {
	case errs.Internal:
		level = slog.LevelError
		more = append(more, slog.String("error", e.Error()))
	case errs.Unavailable, errs.DeadlineExceeded, errs.Unauthenticated:
		more = append(more, slog.String("error", e.Error()))
	case errs.Canceled:
		level = slog.LevelInfo
	}
	if stack != "" {
		more = append(more, slog.String("stack", stack))
	}
	s.log(c, level, Code(e.Kind), took, more...)
}

// log writes one line: ids only.
func (s *Server) log(c *call, level slog.Level, code codes.Code, took time.Duration, more ...slog.Attr) {
	attrs := make([]slog.Attr, 0, 12)
	attrs = append(attrs, slog.String("method", c.name), slog.String("code", code.String()), slog.Duration("took", took))
	if c.caller.UserID != "" {
		attrs = append(attrs, slog.String("user_id", c.caller.UserID), slog.String("role", string(c.caller.Role)))
	}
	if from := c.id.service(); from != "" {
		attrs = append(attrs, slog.String("from_service", from))
	}
	if c.id.ip.IsValid() {
		attrs = append(attrs, slog.String("ip", c.id.ip.String()))
	}
	s.deps.Log.LogAttrs(c.ctx, level, "call", append(attrs, more...)...)
}

// traceID gives the id under which a failure is found again in traces and logs;
// without a trace it is a fresh one.
func traceID(ctx context.Context) string {
	if id := trace.SpanContextFromContext(ctx).TraceID(); id.IsValid() {
		return id.String()
	}
	var id trace.TraceID
	_, _ = rand.Read(id[:]) // never fails
	return id.String()
}
