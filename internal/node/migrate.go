package node

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/auth/authd"
	"github.com/waybill-dev/waybill/services/inventory/inventoryd"
	"github.com/waybill-dev/waybill/services/order/orderd"
	"github.com/waybill-dev/waybill/services/payment/paymentd"
	"github.com/waybill-dev/waybill/services/shipping/shippingd"
	"github.com/waybill-dev/waybill/services/user/userd"
)

// The values of Config.Migrate.
const (
	MigrateAuto = "auto" // a process brings its databases up to date when it starts
	MigrateOff  = "off"  // it only looks whether they are, and refuses to start otherwise
)

// MigrateOptions say how Migrate goes about it. The zero value is a good choice.
type MigrateOptions struct {
	// Wait is how long to wait for a database that cannot be reached yet.
	Wait time.Duration
	// Log hears of every wait; nil for nobody.
	Log *slog.Logger
	// Done hears of each set of tables that is up to date: the version it had and
	// the one it has; nil for nobody.
	Done func(service, tables string, from, to int64)
}

// Migrate brings the databases of the services of cfg up to date, whatever
// cfg.Migrate says. It needs the databases only: no broker, no ports, no
// certificates. Processes that do it at the same time wait for each other, and
// those that serve on Postgres need not be stopped. The error is Unavailable when
// a database could not be reached in time.
func Migrate(ctx context.Context, cfg Config, opts MigrateOptions) error {
	cfg.TLS, cfg.Migrate = TLSConfig{}, MigrateAuto
	if err := cfg.Validate(); err != nil {
		return err
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Done == nil {
		opts.Done = func(string, string, int64, int64) {}
	}
	deadline := time.Now().Add(opts.Wait)
	for _, service := range cfg.run() {
		migrate := migrations(service)
		if migrate == nil {
			continue
		}
		for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
			err := migrateOne(ctx, &cfg, service, migrate, opts)
			if err == nil {
				break
			}
			err = fmt.Errorf("migrate the database of %s: %w", service, err)
			if !sqldb.Unavailable(err) || time.Until(deadline) <= 0 {
				return err
			}
			opts.Log.Info("waiting for the database", "service", service, "error", err)
			timer := time.NewTimer(min(pause, time.Until(deadline)))
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return err
			}
		}
	}
	return nil
}

func migrateOne(ctx context.Context, cfg *Config, service string, migrate func(context.Context, *sqldb.DB) error, opts MigrateOptions) error {
	c := cfg.sqldb(service, opts.Log)
	c.MaxConns = 1
	c.Migrated = func(tables string, from, to int64) { opts.Done(service, tables, from, to) }
	db, err := sqldb.Open(ctx, c)
	if err != nil {
		return err
	}
	defer db.Close()
	return migrate(ctx, db)
}

// migrations gives what brings a service's database up to date, nil for one
// without a database.
func migrations(service string) func(context.Context, *sqldb.DB) error {
	switch service {
	case "auth":
		return authd.Migrate
	case "user":
		return userd.Migrate
	case "inventory":
		return inventoryd.Migrate
	case "payment":
		return paymentd.Migrate
	case "shipping":
		return shippingd.Migrate
	case "order":
		return orderd.Migrate
	}
	return nil
}

// sqldb gives the configuration of a service's database.
func (c *Config) sqldb(service string, log *slog.Logger) sqldb.Config {
	dsn, schema := c.database(service)
	cfg := sqldb.Config{URL: dsn, Schema: schema, Log: log, CheckOnly: c.Migrate == MigrateOff}
	if schema != "" {
		cfg.MaxConns = c.DBConns
	}
	return cfg
}

// adviseMigration adds what to do about tables that are too old.
func adviseMigration(err error) error {
	if errs.ReasonOf(err) == sqldb.ReasonDatabaseOlder {
		return fmt.Errorf("%w; run 'waybill migrate' with the same settings, or start with --migrate=auto", err)
	}
	return err
}
