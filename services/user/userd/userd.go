// Package userd puts the user service together. It is the one place that knows
// both the service and the platform it stands on.
package userd

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/user/internal/rpc"
	"github.com/waybill-dev/waybill/services/user/internal/saga"
	"github.com/waybill-dev/waybill/services/user/internal/store"
)

// Config says how the user service works; there is nothing to choose yet.
type Config struct{}

// DefaultConfig gives the configuration of a service that is told nothing.
func DefaultConfig() Config { return Config{} }

// New opens and migrates the database of the user service and builds the service
// on env. It starts nothing: that is for whoever runs the unit. After an error
// nothing is left open.
func New(ctx context.Context, env *app.Env, _ Config) (*app.Unit, error) {
	return env.WithDB(ctx, saga.Name, func(db *sqldb.DB) (*app.Unit, error) { return build(ctx, env, db) })
}

func build(ctx context.Context, env *app.Env, db *sqldb.DB) (*app.Unit, error) {
	if err := Migrate(ctx, db); err != nil {
		return nil, err
	}
	reactor, err := env.Reactor(saga.Machine(db), db)
	if err != nil {
		return nil, err
	}
	server := rpc.New(store.New(db), saga.NewCommands(reactor))
	return &app.Unit{
		Name:     saga.Name,
		Register: func(r grpc.ServiceRegistrar) { userv1.RegisterUserServiceServer(r, server) },
		Start:    reactor.Start,
		Ready:    reactor.Ready,
		Stop:     func(ctx context.Context) error { return errors.Join(reactor.Stop(ctx), db.Close()) },
	}, nil
}

// Migrate brings the database of the user service up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	if err := db.Migrate(ctx, "platform", react.Migrations()); err != nil {
		return err
	}
	return db.Migrate(ctx, saga.Name, store.Migrations())
}
