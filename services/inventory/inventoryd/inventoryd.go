// Package inventoryd puts the inventory service together. It is the one place
// that knows both the service and the platform it stands on.
package inventoryd

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/watch"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	"github.com/waybill-dev/waybill/services/inventory/internal/rpc"
	"github.com/waybill-dev/waybill/services/inventory/internal/saga"
	"github.com/waybill-dev/waybill/services/inventory/internal/store"
)

// Config says how the inventory service works. Start from DefaultConfig.
type Config struct {
	HoldTTL    time.Duration `help:"how long stock is held for an order that is not paid"`
	SweepEvery time.Duration `help:"how often to look for holds whose time is over"`
}

// DefaultConfig gives the configuration of a service that is told nothing.
func DefaultConfig() Config {
	return Config{HoldTTL: 15 * time.Minute, SweepEvery: time.Second}
}

// Validate says what cannot be meant.
func (c Config) Validate() error {
	if c.HoldTTL <= 0 || c.SweepEvery <= 0 {
		return errors.New("inventory: hold_ttl and sweep_every must be positive")
	}
	return nil
}

// New opens and migrates the database of the inventory service and builds the
// service on env. It starts nothing: that is for whoever runs the unit. After an
// error nothing is left open.
func New(ctx context.Context, env *app.Env, cfg Config) (*app.Unit, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return env.WithDB(ctx, saga.Name, func(db *sqldb.DB) (*app.Unit, error) { return build(ctx, env, cfg, db) })
}

func build(ctx context.Context, env *app.Env, cfg Config, db *sqldb.DB) (*app.Unit, error) {
	if err := Migrate(ctx, db); err != nil {
		return nil, err
	}
	hub := watch.New(env.Bus, "stock", env.Log)
	feed := watch.NewFeed(hub.Publish)
	steps := saga.Config{HoldTTL: cfg.HoldTTL, SweepEvery: cfg.SweepEvery, Changed: feed.Changed, Meter: env.Meter}
	s := store.New(db)
	machine, err := saga.Machine(s, steps)
	if err != nil {
		return nil, err
	}
	reactor, err := env.Reactor(machine, db)
	if err != nil {
		return nil, err
	}
	newID := env.NewID
	if newID == nil {
		newID = func() string { return uuid.Must(uuid.NewV7()).String() }
	}
	server := rpc.New(s, saga.NewCommands(reactor, newID, steps), hub)
	return &app.Unit{
		Name:     saga.Name,
		Register: func(r grpc.ServiceRegistrar) { inventoryv1.RegisterInventoryServiceServer(r, server) },
		Start: func(ctx context.Context) error {
			feed.Start()
			if err := hub.Start(); err != nil {
				return err
			}
			return reactor.Start(ctx)
		},
		Ready: reactor.Ready,
		Stop: func(ctx context.Context) error {
			err := reactor.Stop(ctx)
			err = errors.Join(err, feed.Stop(ctx))
			hub.Close()
			return errors.Join(err, db.Close())
		},
	}, nil
}

// Migrate brings the database of the inventory service up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	if err := db.Migrate(ctx, "platform", react.Migrations()); err != nil {
		return err
	}
	return db.Migrate(ctx, saga.Name, store.Migrations())
}

// Check holds the books of an inventory database against each other: movements
// against stock on hand, live holds against stock held, sold orders against
// movements. It gives one line per violation, none if the books balance.
func Check(ctx context.Context, db *sqldb.DB) ([]string, error) {
	return store.New(db).Check(ctx)
}
