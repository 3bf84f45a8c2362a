// Package shippingd puts the shipping service together. It is the one place that
// knows both the service and the platform it stands on.
package shippingd

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/watch"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping"
	"github.com/waybill-dev/waybill/services/shipping/internal/rpc"
	"github.com/waybill-dev/waybill/services/shipping/internal/saga"
	"github.com/waybill-dev/waybill/services/shipping/internal/simulator"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
)

// Config says how the shipping service works.
type Config struct {
	CarrierTimeout time.Duration `help:"how long one answer of the carrier may take; it is asked again then"`
	SweepEvery     time.Duration `help:"how often addresses of erased users are looked for"`
	Recheck        time.Duration `help:"how often a tracked shipment that is quiet is looked up in the database"`
	ScanEvery      time.Duration `help:"how often the simulated carrier moves a parcel on and is asked about it; 0: it never scans, scans are reported from outside"`
}

// DefaultConfig gives a carrier that delivers within a quarter of a minute.
func DefaultConfig() Config {
	return Config{CarrierTimeout: saga.DefaultPatience, SweepEvery: saga.DefaultSweepEvery, Recheck: rpc.DefaultRecheck, ScanEvery: 5 * time.Second}
}

// Validate says what cannot be meant.
func (c Config) Validate() error {
	if c.ScanEvery < 0 || c.Recheck <= 0 || c.CarrierTimeout <= 0 || c.SweepEvery <= 0 {
		return errs.E(errs.Invalid, "NOT_POSITIVE", "scan_every must not be negative; recheck, carrier_timeout and sweep_every must be positive")
	}
	return nil
}

// New opens and migrates the database of the shipping service and builds the
// service on env, with a simulated carrier. It starts nothing: that is for whoever
// runs the unit. After an error nothing is left open.
func New(ctx context.Context, env *app.Env, cfg Config) (*app.Unit, error) {
	now := env.Now
	if now == nil {
		now = time.Now
	}
	return NewWith(ctx, env, cfg, &simulator.Carrier{Step: cfg.ScanEvery, Now: now})
}

// NewWith is New with a carrier of one's own.
func NewWith(ctx context.Context, env *app.Env, cfg Config, carrier shipping.Carrier) (*app.Unit, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return env.WithDB(ctx, "shipping", func(db *sqldb.DB) (*app.Unit, error) { return build(ctx, env, cfg, db, carrier) })
}

func build(ctx context.Context, env *app.Env, cfg Config, db *sqldb.DB, carrier shipping.Carrier) (*app.Unit, error) {
	if err := Migrate(ctx, db); err != nil {
		return nil, err
	}
	now := env.Now
	if now == nil {
		now = time.Now
	}
	shipments := store.New(db)
	hub := watch.New(env.Bus, "shipping", env.Log)
	feed := watch.NewFeed(hub.Publish)
	machine, commands, err := saga.NewMachine(saga.Config{
		Carrier: carrier, Store: shipments, Log: env.Log, ScanEvery: cfg.ScanEvery, Patience: cfg.CarrierTimeout, SweepEvery: cfg.SweepEvery,
		Changed: feed.Changed, Meter: env.Meter,
	})
	if err != nil {
		return nil, err
	}
	reactor, err := env.Reactor(machine, db)
	if err != nil {
		return nil, err
	}
	server := &rpc.Server{Store: shipments, Reactor: reactor, Commands: commands, Hub: hub, Now: now, Recheck: cfg.Recheck}
	return &app.Unit{
		Name:     "shipping",
		Register: func(r grpc.ServiceRegistrar) { shippingv1.RegisterShippingServiceServer(r, server) },
		Start: func(ctx context.Context) error {
			feed.Start()
			if err := hub.Start(); err != nil {
				return err
			}
			return reactor.Start(ctx)
		},
		Ready: reactor.Ready,
		Stop: func(ctx context.Context) error {
			err := errors.Join(reactor.Stop(ctx), feed.Stop(ctx))
			hub.Close()
			return errors.Join(err, db.Close())
		},
	}, nil
}

// Migrate brings the database of the shipping service up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	if err := db.Migrate(ctx, "platform", react.Migrations()); err != nil {
		return err
	}
	return db.Migrate(ctx, "shipping", store.Migrations())
}
