package bus

import (
	"context"
	"errors"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/waybill-dev/waybill/platform/errs"
)

const (
	denialLasts = time.Minute      // how long a refused publish is held against the broker; what matters is tried again sooner
	provenAfter = 10 * time.Second // without a refusal since the connection; refusals come within milliseconds
	askAgain    = time.Second      // first pause before a refused subscription is asked for again
	askAgainMax = 30 * time.Second
)

// denials keeps what the broker does not allow this user. The client library
// only tells of it on the side: whoever published or asked would wait in vain.
type denials struct {
	mu      sync.Mutex
	current map[string]denial
	waiting map[*question]struct{}
	since   time.Time // of the connection; zero before the first
	proven  bool
	again   time.Duration
	pending bool // a new connection is due, which asks for the subscriptions again
}

type denial struct {
	err       error
	at        time.Time
	subscribe bool
}

// A question waits for an answer of the broker's administration.
type question struct {
	name   string // "<stream>" or "<stream>.<consumer>"
	cancel context.CancelCauseFunc
}

var violation = regexp.MustCompile(`(?i)permissions violation for (publish|subscription)(?: with reply of)?(?: to)? "([^"]+)"`)

// denied takes note of a refusal, tells whoever waits for what was refused, and
// gives nil if err is something else.
func (b *Bus) denied(err error) error {
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return nil
	}
	found := violation.FindStringSubmatch(err.Error())
	if found == nil {
		return nil
	}
	op, subject := strings.ToLower(found[1]), found[2]
	subscribe := op == "subscription"
	if subscribe {
		op = "subscribe"
	}
	refusal := errs.Wrap(err, errs.PermissionDenied, ReasonDenied,
		"the event bus does not allow %s to %s to %s; the broker's configuration has to allow it", b.cfg.login(), op, subject)
	b.refusals.Add(1)

	d := &b.denials
	d.mu.Lock()
	before, known := d.current[op+subject]
	news := !known || time.Since(before.at) > denialLasts
	if news {
		before.at = time.Now()
	}
	d.current[op+subject] = denial{err: refusal, at: time.Now(), subscribe: subscribe}
	for q := range d.waiting {
		if subscribe || strings.HasPrefix(subject, "$JS.API.") && strings.HasSuffix(subject, "."+q.name) {
			q.cancel(refusal)
		}
	}
	d.mu.Unlock()
	if news {
		b.log.Error("event bus does not allow it", "operation", op, "subject", subject, "user", b.cfg.login())
	}
	if subscribe {
		b.askAgain()
	} else {
		b.pub.fail(refusal, func(s slot) bool { return s.subject == subject })
	}
	return refusal
}

// askAgain connects anew after a while, because the broker decides on a
// subscription only once.
func (b *Bus) askAgain() {
	d := &b.denials
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pending {
		return
	}
	d.pending = true
	d.again = min(max(2*d.again, askAgain), askAgainMax)
	time.AfterFunc(d.again, func() {
		d.mu.Lock()
		d.pending = false
		d.mu.Unlock()
		if !b.closing.Load() {
			_ = b.conn.ForceReconnect() // fails only when there is no connection, and then one is being made
		}
	})
}

// allow forgets all refusals: a new connection may have other permissions.
func (d *denials) allow() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.current)
	d.since = time.Now()
}

// refuse notes that the broker did not let us in.
func (d *denials) refuse(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.current["connect"] = denial{err: err, at: time.Now(), subscribe: true}
}

// latest gives the last refusal that still stands, or nil.
func (d *denials) latest() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var last denial
	for key, v := range d.current {
		if !v.subscribe && time.Since(v.at) > denialLasts {
			delete(d.current, key)
		} else if v.at.After(last.at) {
			last = v
		}
	}
	return last.err
}

// Refused gives why the broker refuses this user, as a PermissionDenied error
// that names what it does not allow, until everything has worked once; from then
// on it gives nil. It is for readiness: a process whose user has the wrong
// permissions must not replace one that works, and one that works must not stop
// because permissions are being changed. It asks nobody and never blocks.
func (b *Bus) Refused() error {
	err := b.denials.latest()
	fine := err == nil && b.Ready() == nil
	d := &b.denials
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.proven {
		return nil
	}
	d.proven = fine && !d.since.IsZero() && time.Since(d.since) > provenAfter
	return err
}

// asking gives a context for a question about the stream, or about its consumer,
// that ends as soon as the broker refuses the question. result puts the refusal
// in the place of an error that only says that no answer came.
func (b *Bus) asking(ctx context.Context, stream, consumer string) (_ context.Context, result func(error) error) {
	q := &question{name: stream}
	if consumer != "" {
		q.name += "." + consumer
	}
	ctx, q.cancel = context.WithCancelCause(ctx)
	d := &b.denials
	d.mu.Lock()
	d.waiting[q] = struct{}{}
	d.mu.Unlock()
	return ctx, func(err error) error {
		d.mu.Lock()
		delete(d.waiting, q)
		d.mu.Unlock()
		cause := context.Cause(ctx)
		q.cancel(nil)
		if err != nil && errs.ReasonOf(cause) == ReasonDenied {
			return cause
		}
		return err
	}
}

// connectFailed tells of an attempt to connect that failed, once until there is
// a connection.
func (b *Bus) connectFailed(err error) {
	if b.closing.Load() || err == nil {
		return
	}
	level := slog.LevelWarn
	if keptOut(err) {
		err = errs.Wrap(err, errs.PermissionDenied, ReasonDenied, "the event bus does not let %s in: %v", b.cfg.login(), err)
		b.denials.refuse(err)
		level = slog.LevelError
	}
	if !b.told.Swap(true) {
		b.log.Log(b.ctx, level, "event bus cannot be reached", "error", err)
	}
}

// keptOut tells whether the broker refused the login.
func keptOut(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) ||
		errors.Is(err, nats.ErrAccountAuthExpired)
}

// login names the user for people.
func (c Config) login() string {
	switch {
	case c.User != "":
		return "user " + c.User
	case c.CredentialsFile != "":
		return "the user of " + c.CredentialsFile
	case c.Token != "":
		return "the token"
	}
	return "an anonymous user"
}
