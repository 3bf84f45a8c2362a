package bus

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/waybill-dev/waybill/platform/errs"
)

const startTimeout = 30 * time.Second

// startServer starts the embedded broker and returns once it takes connections.
// unlock gives its directory back and must be called after WaitForShutdown.
func startServer(ctx context.Context, cfg Config, log *slog.Logger) (_ *server.Server, unlock func() error, _ error) {
	fail := func(err error, format string, a ...any) (*server.Server, func() error, error) {
		return nil, nil, errs.Wrap(err, errs.FailedPrecondition, ReasonConfig, "embedded event bus: "+format, a...)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return fail(err, "%v", err)
	}
	// The broker itself does not notice a second one on the same files.
	unlock, err := lockFile(filepath.Join(cfg.Dir, "LOCK"))
	if err != nil {
		return fail(err, "directory %s is in use by another process, or cannot be locked: %v", cfg.Dir, err)
	}
	logger := &serverLog{log: log, fatal: make(chan struct{})}
	ns, err := server.NewServer(&server.Options{
		ServerName:         "waybill-embedded",
		DontListen:         true,
		NoSigs:             true,
		JetStream:          true,
		StoreDir:           cfg.Dir,
		JetStreamMaxStore:  cfg.MaxStore,
		JetStreamMaxMemory: 64 << 20, // no stream lives in memory; the default would be most of the machine's
		SyncInterval:       cfg.SyncInterval,
		SyncAlways:         cfg.SyncAlways,
		MaxPayload:         maxPayload,
	})
	if err != nil {
		return fail(joinUnlock(err, unlock), "%v", err)
	}
	ns.SetLoggerV2(logger, false, false, false)
	go ns.Start()
	abandon := func(err error) error {
		ns.Shutdown()
		ns.WaitForShutdown()
		return joinUnlock(err, unlock)
	}
	deadline := time.Now().Add(min(startTimeout, remaining(ctx, startTimeout)))
	for !ns.ReadyForConnections(100 * time.Millisecond) {
		select {
		case <-logger.fatal:
			return fail(abandon(nil), "%s", logger.reason())
		case <-ctx.Done():
			return fail(abandon(ctx.Err()), "start was given up: %v", ctx.Err())
		default:
		}
		if time.Now().After(deadline) {
			return fail(abandon(nil), "not ready after %v", startTimeout)
		}
	}
	select {
	case <-logger.fatal:
		return fail(abandon(nil), "%s", logger.reason())
	default:
	}
	if !ns.JetStreamEnabled() {
		return fail(abandon(nil), "streams could not be opened in %s", cfg.Dir)
	}
	return ns, unlock, nil
}

// maxPayload is the largest message of the embedded broker, headers included;
// it is also what a NATS server allows unless it is told otherwise.
const maxPayload = 1 << 20

func joinUnlock(err error, unlock func() error) error {
	if e := unlock(); err == nil {
		return e
	}
	return err
}

// serverLog puts the embedded broker's log into ours. Its notices (banner and
// all) go below our debug lines: a broker inside the process should not talk
// unless something is wrong.
type serverLog struct {
	log   *slog.Logger
	once  sync.Once
	fatal chan struct{} // closed at the first fatal line, which must not end the process
	why   string
}

const levelTrace = slog.LevelDebug - 4

func (l *serverLog) reason() string { return l.why }

func (l *serverLog) write(level slog.Level, format string, v []any) string {
	text := redact(strings.TrimSpace(fmt.Sprintf(format, v...)))
	l.log.Log(context.Background(), level, text, "component", "nats-server") //nolint:sloglint // the broker's own words
	return text
}

func (l *serverLog) Noticef(format string, v ...any) { l.write(levelTrace, format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.write(slog.LevelWarn, format, v) }
func (l *serverLog) Errorf(format string, v ...any)  { l.write(slog.LevelError, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.write(levelTrace, format, v) }
func (l *serverLog) Tracef(format string, v ...any)  { l.write(levelTrace, format, v) }
func (l *serverLog) Fatalf(format string, v ...any) {
	text := l.write(slog.LevelError, format, v)
	l.once.Do(func() { l.why = text; close(l.fatal) })
}

var userinfo = regexp.MustCompile(`://[^/@\s]+@`)

// redact hides logins in URLs that a library put into a text.
func redact(text string) string {
	if !strings.Contains(text, "@") {
		return text
	}
	return userinfo.ReplaceAllString(text, "://***@")
}
