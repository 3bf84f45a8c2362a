package app

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/bus"
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

	Now      func() time.Time
	Tracer   trace.Tracer
	Meter    metric.Meter
	Owner    string // names this process among the replicas of its services
	MaxBatch int    // messages per transaction; 0 is the default
}
