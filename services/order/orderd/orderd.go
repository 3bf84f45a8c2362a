// Package orderd puts the order service together. It is the one place that knows
// both the service and the platform it stands on.
package orderd

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/react"
	platformrpc "github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/watch"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order"
	"github.com/waybill-dev/waybill/services/order/internal/rpc"
	"github.com/waybill-dev/waybill/services/order/internal/saga"
	"github.com/waybill-dev/waybill/services/order/internal/store"
)

// New opens and migrates the database of the order service and builds the service
// on env. It starts nothing: that is for whoever runs the unit. After an error
// nothing is left open.
func New(ctx context.Context, env *app.Env, cfg Config) (*app.Unit, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return env.WithDB(ctx, "order", func(db *sqldb.DB) (*app.Unit, error) { return build(ctx, env, cfg, db) })
}

func build(ctx context.Context, env *app.Env, cfg Config, db *sqldb.DB) (*app.Unit, error) {
	if err := Migrate(ctx, db); err != nil {
		return nil, err
	}
	hub := watch.New(env.Bus, "order", env.Log)
	orders := store.New(db)
	s, err := saga.New(saga.Config{
		Log: env.Log, DB: db, Store: orders, Hub: hub, Meter: env.Meter,
		Quoter:    quoter{inventoryv1.NewInventoryServiceClient(env.Conn("order", "inventory"))},
		Deadlines: order.Deadlines(cfg.Deadline), SweepEvery: cfg.SweepEvery,
	})
	if err != nil {
		return nil, err
	}
	reactor, err := env.Reactor(s.Machine(), db)
	if err != nil {
		return nil, err
	}
	s.Bind(reactor)
	server := rpc.New(rpc.Config{Saga: s, Store: orders, Hub: hub, Recheck: cfg.Recheck, MaxWatched: cfg.MaxWatched})
	return &app.Unit{
		Name:     "order",
		Register: func(r grpc.ServiceRegistrar) { orderv1.RegisterOrderServiceServer(r, server) },
		Start: func(ctx context.Context) error {
			if err := hub.Start(); err != nil {
				return err
			}
			return reactor.Start(ctx)
		},
		Ready: reactor.Ready,
		Stop: func(ctx context.Context) error {
			err := reactor.Stop(ctx)
			hub.Close()
			return errors.Join(err, db.Close())
		},
	}, nil
}

// Migrate brings the database of the order service up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	if err := db.Migrate(ctx, "platform", react.Migrations()); err != nil {
		return err
	}
	return db.Migrate(ctx, "order", store.Migrations())
}

// Check gives what is wrong with the waybills of an order database, one line
// each; nil if there is nothing. It changes nothing and may run beside the service.
func Check(ctx context.Context, db *sqldb.DB) ([]string, error) {
	return store.New(db).Check(ctx)
}

// quoter asks the inventory service for prices.
type quoter struct {
	client inventoryv1.InventoryServiceClient
}

// Quote implements saga.Quoter. Errors are those of inventory, as *errs.Error.
func (q quoter) Quote(ctx context.Context, req *inventoryv1.QuoteRequest) (*inventoryv1.QuoteResponse, error) {
	resp, err := q.client.Quote(ctx, req)
	return resp, platformrpc.FromStatus(err)
}
