package app

import (
	"context"

	"google.golang.org/grpc"
)

// A Unit is a part of the process with a life of its own: a service, a server, a
// relay. Every field but Name may be nil.
type Unit struct {
	// Name appears in logs, in /readyz and in errors.
	Name string

	// Register adds the unit's gRPC services, before any unit is started.
	Register func(grpc.ServiceRegistrar)

	// Start brings the unit up and returns when it serves. It must not keep ctx
	// for later: ctx ends when starting is over.
	Start func(ctx context.Context) error

	// Ready says what keeps the unit from doing its work, or nil. It must be cheap,
	// must keep to ctx and must not ask other services: readiness is about what is
	// the unit's own. It is called from several goroutines.
	Ready func(ctx context.Context) error

	// Failed gives a channel on which the unit says, once, that it cannot go on.
	// A nil error and a closed channel mean the same as an error: a unit that
	// is not asked to stop must run.
	Failed func() <-chan error

	// Stop takes the unit down within ctx. It is called once, and only if Start was
	// called: also when Start failed, so that it undoes the half of it that was done.
	Stop func(ctx context.Context) error
}
