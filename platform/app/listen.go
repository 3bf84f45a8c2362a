package app

import (
	"context"
	"errors"
	"net"
	"syscall"

	"github.com/waybill-dev/waybill/platform/errs"
)

// Listen opens a TCP port. Its error says for what the port was wanted, why it
// cannot be had, and which flag chooses another one.
func Listen(what, flag, addr string) (net.Listener, error) {
	lis, err := net.Listen("tcp", addr) //nolint:noctx // a port is free or not, there is nothing to wait for
	switch {
	case err == nil:
		return lis, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, errs.Wrap(err, errs.FailedPrecondition, "PORT_IN_USE",
			"%s: the address %s is in use, perhaps by another waybill; stop that one or choose another address with --%s", what, addr, flag)
	case errors.Is(err, syscall.EACCES):
		return nil, errs.Wrap(err, errs.FailedPrecondition, "PORT_FORBIDDEN",
			"%s: this user may not listen on %s; choose a port above 1023 with --%s", what, addr, flag)
	}
	return nil, errs.Wrap(err, errs.Invalid, "BAD_ADDRESS", "%s: cannot listen on %q, which --%s says; an address is [host]:port, as in :8080", what, addr, flag)
}

// ServeUnit makes a unit of a server that runs on a listener until it is shut
// down. serve must return when shutdown was called; any other return is a failure
// of the unit, unless the error is one that isClosed knows.
func ServeUnit(name string, serve func() error, shutdown func(context.Context) error, isClosed func(error) bool) *Unit {
	failed := make(chan error, 1)
	done := make(chan struct{})
	return &Unit{
		Name: name,
		Start: func(context.Context) error {
			go func() {
				defer close(done)
				if err := serve(); !isClosed(err) {
					failed <- orEnded(err)
				}
			}()
			return nil
		},
		Failed: func() <-chan error { return failed },
		Stop: func(ctx context.Context) error {
			err := shutdown(ctx)
			select {
			case <-done:
			case <-ctx.Done():
				err = errors.Join(err, ctx.Err())
			}
			return err
		},
	}
}
