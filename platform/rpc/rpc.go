// Package rpc serves and calls the contract. One Server answers over TCP and
// over an in-process channel; every method passes the same chain on both:
//
//	recovery, log, metrics      one line and one measurement per call
//	encoding                    no compressed requests
//	deadline                    none may be without an end
//	identity                    whose token, which service
//	rate                        how often
//	access                      what the contract's `access` option says; default: nobody
//	streams                     how many at once
//	validation                  what the contract's field rules say
//	idempotency                 what the contract's `idempotency` option says
//	errors                      errs.Kind to status, nothing leaked
//
// The chain is laid around each method when its service is registered, so no
// way to the handler leads past it, and everything but the last three is decided
// before the request is even decoded.
package rpc

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/waybill-dev/waybill/platform/auth"
)

// Config is how a Server works. A field left zero takes the default in its
// comment.
type Config struct {
	Timeout        time.Duration // of a unary call that brings none: 10 s
	MaxTimeout     time.Duration // of any unary call: 30 s
	StreamMaxAge   time.Duration // after which a stream must be opened anew: 15 min
	MaxMessage     int           // bytes of one request: 1 MiB
	MaxHeaders     uint32        // bytes of all headers of one call: 16 KiB
	MaxStreams     uint32        // calls at once on one connection: 250
	StreamsPerUser int           // streaming calls at once of one user, or of one address without a user: 100
	ConnectTimeout time.Duration // for a connection to finish its handshakes: 10 s
	MaxConnAge     time.Duration // after which a client must connect anew, and so finds new servers: 5 min
	MaxConnIdle    time.Duration // after which a connection without calls is closed: 15 min
	ReadyInterval  time.Duration // between two looks at the readiness of each service: 1 s
	PerUser        Rate          // calls of one user: no limit
	PerIP          Rate          // calls of one address that brings no valid token: no limit
	Reflection     bool          // answer what services and methods there are: no
	TLS            *tls.Config   // nil: plain text

	// TrustedProxies are the addresses whose word on the address of the real
	// client (MetadataClientIP) is believed. Of peers with a certificate the
	// gateway is believed and nobody else.
	TrustedProxies []netip.Prefix
}

// Deps is what a Server needs of others. Verifier and Log are required.
type Deps struct {
	Log      *slog.Logger
	Verifier Verifier
	// PeerServices gives the services that the other end of a TLS connection
	// speaks for, as its certificate proves them. It is asked once per connection.
	// Nil: there are none.
	PeerServices func(*tls.ConnectionState) []string
	Tracer       trace.TracerProvider // nil: no traces
	Meter        metric.MeterProvider // nil: no metrics
	Now          func() time.Time     // nil: time.Now; deadlines always use the real clock
}

// withDefaults fills in what is zero and refuses what cannot be meant.
func (c Config) withDefaults() (Config, error) {
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	c.MaxTimeout = cmp.Or(c.MaxTimeout, max(30*time.Second, c.Timeout))
	c.StreamMaxAge = cmp.Or(c.StreamMaxAge, 15*time.Minute)
	c.MaxMessage = cmp.Or(c.MaxMessage, 1<<20)
	c.MaxHeaders = cmp.Or(c.MaxHeaders, 16<<10)
	c.MaxStreams = cmp.Or(c.MaxStreams, 250)
	c.StreamsPerUser = cmp.Or(c.StreamsPerUser, 100)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 10*time.Second)
	c.MaxConnAge = cmp.Or(c.MaxConnAge, 5*time.Minute)
	c.MaxConnIdle = cmp.Or(c.MaxConnIdle, 15*time.Minute)
	c.ReadyInterval = cmp.Or(c.ReadyInterval, time.Second)
	var err error
	for name, d := range map[string]time.Duration{"Timeout": c.Timeout, "MaxTimeout": c.MaxTimeout, "StreamMaxAge": c.StreamMaxAge,
		"ConnectTimeout": c.ConnectTimeout, "MaxConnAge": c.MaxConnAge, "MaxConnIdle": c.MaxConnIdle, "ReadyInterval": c.ReadyInterval} {
		if d < 0 {
			err = errors.Join(err, fmt.Errorf("rpc: %s is negative", name))
		}
	}
	if c.Timeout > c.MaxTimeout {
		err = errors.Join(err, fmt.Errorf("rpc: Timeout %s is beyond MaxTimeout %s", c.Timeout, c.MaxTimeout))
	}
	if c.MaxMessage < 1 || c.StreamsPerUser < 1 {
		err = errors.Join(err, errors.New("rpc: MaxMessage and StreamsPerUser must be positive"))
	}
	return c, errors.Join(err, c.PerUser.check(), c.PerIP.check())
}

// A Rate limits calls: PerSecond on average, Burst at once. The zero Rate does
// not limit.
type Rate struct {
	PerSecond float64
	Burst     int
}

func (r Rate) check() error {
	if r == (Rate{}) || r.PerSecond > 0 && !math.IsInf(r.PerSecond, 0) && r.Burst > 0 {
		return nil
	}
	return fmt.Errorf("rpc: a rate needs a positive number per second and a positive burst, not %+v", r)
}

var _ Verifier = (*auth.Verifier)(nil)
