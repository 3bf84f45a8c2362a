package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/term"
)

// Log formats.
const (
	FormatAuto = "auto" // text on a terminal, JSON elsewhere
	FormatText = "text"
	FormatJSON = "json"
)

// LogConfig says what is logged, where and how.
type LogConfig struct {
	Level  slog.Level // what is less is not written
	Format string     // FormatAuto, FormatText or FormatJSON; "" is FormatAuto
	Writer io.Writer  // nil is standard error
}

// NewLog makes a logger that adds trace_id and span_id of the context to each
// record and hides Secret values and attributes named like secrets. Line breaks
// in values are escaped in both formats. It fails on an unknown format.
func NewLog(cfg LogConfig) (*slog.Logger, error) {
	w := cfg.Writer
	if w == nil {
		w = os.Stderr
	}
	opts := &slog.HandlerOptions{Level: cfg.Level, ReplaceAttr: hide}
	var h slog.Handler
	switch cfg.Format {
	case FormatJSON:
		h = slog.NewJSONHandler(w, opts)
	case FormatText:
		h = slog.NewTextHandler(w, opts)
	case FormatAuto, "":
		if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			h = slog.NewTextHandler(w, opts)
		} else {
			h = slog.NewJSONHandler(w, opts)
		}
	default:
		return nil, fmt.Errorf("log format %q is unknown: use %s", cfg.Format, strings.Join([]string{FormatAuto, FormatText, FormatJSON}, ", "))
	}
	return slog.New(traceHandler{h}), nil
}

// hide replaces the values of attributes named like secrets.
func hide(_ []string, a slog.Attr) slog.Attr {
	if sensitive(a.Key) && a.Value.Kind() != slog.KindBool && a.Value.Kind() != slog.KindDuration && a.Value.Kind() != slog.KindInt64 {
		return slog.String(a.Key, redacted)
	}
	return a
}

// traceHandler adds the ids of the span in the context to each record.
type traceHandler struct{ slog.Handler }

// Handle adds the ids and passes the record on.
func (h traceHandler) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs keeps the wrapping.
func (h traceHandler) WithAttrs(as []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(as)}
}

// WithGroup keeps the wrapping.
func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}
