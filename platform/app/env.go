package app

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// Env is the ground a service is built on. The process owns everything in it: a
// service closes only the databases it opened.
type Env struct {
	Log *slog.Logger
	Bus *bus.Bus

	// OpenDB opens the database of the named service, which that service then
	// owns: nobody else opens it.
	OpenDB func(ctx context.Context, service string) (*sqldb.DB, error)

	// Conn gives a channel from the service named from to the one named to,
	// in this process or over the network; the caller cannot tell which.
	Conn func(from, to string) grpc.ClientConnInterface

	// NewReactor makes the reactors; nil is react.New.
	NewReactor func(react.Config) (*react.Reactor, error)

	Now      func() time.Time
	NewID    func() string // default: UUIDs of version 7
	Tracer   trace.Tracer
	Meter    metric.Meter
	Owner    string        // names this process among the replicas of its services
	MaxBatch int           // messages per transaction; 0 is the default
	Audit    time.Duration // between two audits of a stream; 0 is the default

	// MaxAttempts is how often a step may fail before its event becomes a dead
	// letter; 0 is the default.
	MaxAttempts int
}

// WithDB opens the database of the named service and builds the service on it.
// After an error nothing is left open.
func (e *Env) WithDB(ctx context.Context, service string, build func(db *sqldb.DB) (*Unit, error)) (*Unit, error) {
	db, err := e.OpenDB(ctx, service)
	if err != nil {
		return nil, err
	}
	unit, err := build(db)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return unit, nil
}

// Reactor makes the reactor of a service that keeps its state in db.
func (e *Env) Reactor(m *react.Machine, db *sqldb.DB) (*react.Reactor, error) {
	build := e.NewReactor
	if build == nil {
		build = react.New
	}
	return build(react.Config{
		Machine: m, DB: db, Bus: e.Bus, Log: e.Log, Owner: e.Owner, MaxBatch: e.MaxBatch, Audit: e.Audit, Now: e.Now, NewID: e.NewID, Tracer: e.Tracer, Meter: e.Meter,
		MaxAttempts: e.MaxAttempts,
	})
}
