// Package paymentd puts the payment service together. It is the one place that
// knows both the service and the platform it stands on.
package paymentd

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/telemetry"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/rpc"
	"github.com/waybill-dev/waybill/services/payment/internal/saga"
	"github.com/waybill-dev/waybill/services/payment/internal/simulator"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
)

// Config says how the payment service works. Start from DefaultConfig.
type Config struct {
	ProviderTimeout time.Duration `help:"how long the payment provider has for one answer"`
	Margin          time.Duration `help:"what must be left of the time goods are held when the provider has answered, else the payment is declined"`
	FirstRetry      time.Duration `help:"wait before an outcome that is unknown is asked for; doubled each time"`
	MaxRetry        time.Duration `help:"longest wait between such questions"`
	GiveUp          time.Duration `help:"after which an outcome that is still unknown is left to people"`
	SimulatorDelay  time.Duration `help:"how long the simulated provider takes over the token tok_slow"`

	// Notices of the provider are signed with one of the two secrets; two, so
	// that they can be changed without a gap.
	WebhookSecret         telemetry.Secret `help:"secret with which the provider signs its notices; without one none is believed"`
	WebhookSecretPrevious telemetry.Secret `help:"the secret before that, while the provider may still use it"`
}

// DefaultConfig gives the configuration of a service that is told nothing. Without
// secrets no notice of a provider is believed.
func DefaultConfig() Config {
	p := payment.DefaultPolicy()
	return Config{
		ProviderTimeout: p.ProviderTimeout,
		Margin:          p.Margin,
		FirstRetry:      p.FirstRetry,
		MaxRetry:        p.MaxRetry,
		GiveUp:          p.GiveUp,
		SimulatorDelay:  simulator.DefaultSlowDelay,
	}
}

// Validate says what cannot be meant.
func (c Config) Validate() error {
	var err error
	if c.ProviderTimeout <= 0 || c.FirstRetry <= 0 || c.MaxRetry < c.FirstRetry || c.GiveUp <= 0 {
		err = errors.Join(err, errors.New("payment: the provider's timeout, the retries and the time to give up must be positive, and max-retry not below first-retry"))
	}
	if c.Margin < 0 || c.SimulatorDelay < 0 {
		err = errors.Join(err, errors.New("payment: margin and simulator delay must not be negative"))
	}
	return err
}

// New opens and migrates the database of the payment service and builds the
// service on env, with a simulated provider. It starts nothing: that is for
// whoever runs the unit. After an error nothing is left open.
func New(ctx context.Context, env *app.Env, cfg Config) (*app.Unit, error) {
	return NewWith(ctx, env, cfg, simulator.New(cfg.SimulatorDelay))
}

// NewWith is New with a provider of one's own.
func NewWith(ctx context.Context, env *app.Env, cfg Config, provider payment.Provider) (*app.Unit, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return env.WithDB(ctx, "payment", func(db *sqldb.DB) (*app.Unit, error) { return build(ctx, env, cfg, db, provider) })
}

func build(ctx context.Context, env *app.Env, cfg Config, db *sqldb.DB, provider payment.Provider) (*app.Unit, error) {
	if err := Migrate(ctx, db); err != nil {
		return nil, err
	}
	machine, commands, err := saga.NewMachine(saga.Config{
		Provider: provider,
		Policy: payment.Policy{
			ProviderTimeout: cfg.ProviderTimeout, Margin: cfg.Margin,
			FirstRetry: cfg.FirstRetry, MaxRetry: cfg.MaxRetry, GiveUp: cfg.GiveUp,
		},
		Log:   env.Log,
		Meter: env.Meter,
	})
	if err != nil {
		return nil, err
	}
	reactor, err := env.Reactor(machine, db)
	if err != nil {
		return nil, err
	}
	server := &rpc.Server{Store: store.New(db), Reactor: reactor, Commands: commands, Now: env.Now, Log: env.Log}
	if server.Now == nil {
		server.Now = time.Now
	}
	for _, s := range []telemetry.Secret{cfg.WebhookSecret, cfg.WebhookSecretPrevious} {
		if s != "" {
			server.Secrets = append(server.Secrets, s.Reveal())
		}
	}
	return &app.Unit{
		Name:     "payment",
		Register: func(r grpc.ServiceRegistrar) { paymentv1.RegisterPaymentServiceServer(r, server) },
		Start:    reactor.Start,
		Ready:    reactor.Ready,
		Stop:     func(ctx context.Context) error { return errors.Join(reactor.Stop(ctx), db.Close()) },
	}, nil
}

// Migrate brings the database of the payment service up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	if err := db.Migrate(ctx, "platform", react.Migrations()); err != nil {
		return err
	}
	return db.Migrate(ctx, "payment", store.Migrations())
}

// Check gives what is wrong with the books of the payment service, one line
// each; nil if they balance. It changes nothing and may run beside the service.
func Check(ctx context.Context, db *sqldb.DB) ([]string, error) {
	return store.New(db).Check(ctx)
}
