package bus

import (
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/waybill-dev/waybill/platform/errs"
)

// Config says which broker to use and how. The zero value of every field but
// Dir has a sensible meaning.
type Config struct {
	// URL names the brokers to connect to, as in "nats://a:4222,tls://b:4222".
	// Empty means the embedded broker. A user and password in it are used and
	// never shown.
	URL string

	// Dir holds the embedded broker's streams.
	Dir string
	// SyncInterval is how often the embedded broker forces streams to disk; 0 means 100 ms.
	SyncInterval time.Duration
	// SyncAlways forces every message to disk before it is acknowledged.
	SyncAlways bool
	// MaxStore bounds the embedded broker's disk; 0 means 16 GiB.
	MaxStore int64

	// Name is what the broker's operators see this connection as.
	Name string
	// CredentialsFile, User and Password, Token: how to log in; at most one of
	// them. The answers to a User go to its InboxPrefix.
	CredentialsFile string
	User, Password  string
	Token           string
	// CAFile, CertFile and KeyFile are PEM files for TLS; CertFile needs KeyFile.
	// With one of them the connection has TLS or does not come about. They are read
	// again at every connection.
	CAFile, CertFile, KeyFile string

	// Replicas is used for streams that do not say; 0 means 1. The embedded broker always has 1.
	Replicas int
	// Window is how many publishes may wait for their answer; 0 means 1024.
	Window int
	// AckTimeout is how long a publish waits for its answer; 0 means 5 s.
	AckTimeout time.Duration
	// ReconnectWait is the pause between attempts to connect, to which up to as
	// much again is added by chance; 0 means 500 ms.
	ReconnectWait time.Duration
}

// Embedded tells whether the broker is to run in this process.
func (c Config) Embedded() bool { return c.URL == "" }

// LogValue leaves out whatever could let a reader of the log in.
func (c Config) LogValue() slog.Value {
	if c.Embedded() {
		return slog.GroupValue(slog.Bool("embedded", true), slog.String("dir", c.Dir),
			slog.Duration("sync_interval", c.SyncInterval), slog.Bool("sync_always", c.SyncAlways), slog.Int64("max_store", c.MaxStore))
	}
	return slog.GroupValue(slog.Bool("embedded", false), slog.String("servers", c.servers()), slog.String("name", c.Name))
}

// String is what fmt prints; like LogValue it shows no secrets.
func (c Config) String() string {
	if c.Embedded() {
		return "embedded broker in " + c.Dir
	}
	return "broker at " + c.servers()
}

// complete fills in defaults, moves a login out of the URL and refuses what
// cannot work. Its errors never quote the URL, which may hold a password.
func (c *Config) complete() error {
	invalid := func(format string, a ...any) error {
		return errs.E(errs.Invalid, ReasonConfig, "event bus: "+format, a...)
	}
	setDefault(&c.SyncInterval, 100*time.Millisecond)
	setDefault(&c.MaxStore, 16<<30)
	setDefault(&c.Name, "waybill")
	setDefault(&c.Window, 1024)
	setDefault(&c.AckTimeout, 5*time.Second)
	setDefault(&c.ReconnectWait, 500*time.Millisecond)
	setDefault(&c.Replicas, 1)
	switch {
	case c.Embedded() && c.Dir == "":
		return invalid("the embedded broker needs a directory, or give the URL of a broker")
	case c.SyncInterval < 0 || c.MaxStore < 0 || c.Window < 0 || c.AckTimeout < 0 || c.ReconnectWait < 0 || c.Replicas < 0:
		return invalid("a limit or time is negative")
	case (c.CertFile == "") != (c.KeyFile == ""):
		return invalid("a certificate file needs a key file and the other way round")
	}
	var clean []string
	for part := range strings.SplitSeq(c.URL, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		u, err := url.Parse(part)
		if err != nil || u.Host == "" || (u.Scheme != "nats" && u.Scheme != "tls") {
			return invalid("the URL must look like nats://host:4222 or tls://host:4222")
		}
		if u.User != nil && c.User == "" {
			c.User = u.User.Username()
			c.Password, _ = u.User.Password()
		}
		u.User = nil
		clean = append(clean, u.String())
	}
	if c.URL = strings.Join(clean, ","); c.URL != "" {
		c.Dir = ""
	}
	logins := 0
	for _, set := range []bool{c.CredentialsFile != "", c.User != "", c.Token != ""} {
		if set {
			logins++
		}
	}
	switch {
	case logins > 1:
		return invalid("give a credentials file, a user or a token, but only one of them")
	case c.User != "" && !validSubject(c.User):
		return invalid("the user's name %q cannot be part of a subject: no blanks, wildcards or empty parts", c.User)
	case c.Embedded() && c.CAFile+c.CertFile != "":
		return invalid("the embedded broker has no network and no TLS: leave the files away, or give the URL of a broker")
	}
	return nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// servers gives the URLs without any login; complete has taken that out already,
// this also serves a Config that was never opened.
func (c Config) servers() string {
	var clean []string
	for part := range strings.SplitSeq(c.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(part))
		if err != nil || u.Host == "" { // what is not understood may be a password
			clean = append(clean, "(unreadable)")
			continue
		}
		u.User = nil
		clean = append(clean, u.String())
	}
	return strings.Join(clean, ",")
}

// options are the connection's settings: it never gives up, notices a dead
// broker within half a minute, and buffers nothing while it is away, so that a
// publish fails at once instead of going out when nobody counts on it any more.
func (b *Bus) options() []nats.Option {
	c := b.cfg
	opts := []nats.Option{
		nats.Name(c.Name),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(c.ReconnectWait),
		nats.ReconnectJitter(c.ReconnectWait, 2*c.ReconnectWait),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.Timeout(apiTimeout),
		nats.DrainTimeout(closeTimeout),
		nats.ConnectHandler(func(*nats.Conn) { b.connected(false) }),
		nats.ReconnectHandler(func(*nats.Conn) { b.connected(true) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { b.disconnected(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { b.connectFailed(err) }),
		nats.ClosedHandler(func(c *nats.Conn) { b.connClosed(c.LastError()) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) { b.asyncError(sub, err) }),
	}
	switch {
	case c.CredentialsFile != "":
		opts = append(opts, nats.UserCredentials(c.CredentialsFile))
	case c.User != "":
		opts = append(opts, nats.UserInfo(c.User, c.Password), nats.CustomInboxPrefix(InboxPrefix(c.User)))
	case c.Token != "":
		opts = append(opts, nats.Token(c.Token))
	}
	if c.CAFile != "" {
		opts = append(opts, nats.RootCAs(c.CAFile))
	}
	if c.CertFile != "" {
		opts = append(opts, nats.ClientCert(c.CertFile, c.KeyFile))
	}
	return opts
}
