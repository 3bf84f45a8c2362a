// Package authd puts the auth service together. It is the one place that knows
// both the service and the platform it stands on.
package authd

import (
	"context"
	"errors"
	"runtime"
	"time"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/telemetry"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	"github.com/waybill-dev/waybill/services/auth"
	"github.com/waybill-dev/waybill/services/auth/internal/keys"
	"github.com/waybill-dev/waybill/services/auth/internal/password"
	"github.com/waybill-dev/waybill/services/auth/internal/rpc"
	"github.com/waybill-dev/waybill/services/auth/internal/saga"
	"github.com/waybill-dev/waybill/services/auth/internal/store"
)

// Config says how the auth service works. Start from DefaultConfig.
type Config struct {
	AccessTTL    time.Duration `key:"access_ttl" help:"how long an access token is good, 5 to 10 minutes"`
	SessionTTL   time.Duration `key:"session_ttl" help:"how long a session lives after it was last renewed"`
	RefreshGrace time.Duration `help:"how long a spent refresh token still gives its successor, for answers that were lost"`

	RotateEvery  time.Duration    `help:"how long a signing key is used"`
	PublishAhead time.Duration    `help:"how long before its use a signing key is published"`
	KeySecret    telemetry.Secret `help:"seals the signing keys in the database; without it they lie there in the open"`

	SweepEvery time.Duration `help:"how often to look whether a signing key is due and what can be forgotten"`

	HashMemory   int           `help:"KiB of memory of one argon2id hash"`
	HashTime     int           `help:"passes of one argon2id hash"`
	HashThreads  int           `help:"threads of one argon2id hash"`
	HashParallel int           `help:"argon2id hashes at once"`
	HashWait     time.Duration `help:"how long a sign-in waits for its turn before it is refused"`

	PairFailures    int           `help:"wrong passwords for one account from one address at once"`
	PairEvery       time.Duration `help:"how often one more is borne"`
	AccountFailures int           `help:"wrong passwords for one account from everywhere at once"`
	AccountEvery    time.Duration `help:"how often one more is borne"`
	AddressFailures int           `help:"wrong passwords from one address for all accounts at once"`
	AddressEvery    time.Duration `help:"how often one more is borne"`

	// AdminEmail and AdminPassword open the account of the first admin when the
	// service starts and the address has none. They are set by whoever builds the
	// process.
	AdminEmail    string           `key:"-"`
	AdminPassword telemetry.Secret `key:"-"`
}

// DefaultConfig gives the configuration of a service that is told nothing. The
// cost of a hash is the least that OWASP recommends.
func DefaultConfig() Config {
	return Config{
		AccessTTL: 10 * time.Minute, SessionTTL: 30 * 24 * time.Hour, RefreshGrace: 10 * time.Second,
		RotateEvery: 30 * 24 * time.Hour, PublishAhead: time.Hour, SweepEvery: time.Minute,
		HashMemory: 19456, HashTime: 2, HashThreads: 1, HashParallel: min(4, max(2, runtime.GOMAXPROCS(0))), HashWait: 3 * time.Second,
		PairFailures: 10, PairEvery: time.Minute,
		AccountFailures: 20, AccountEvery: 30 * time.Second,
		AddressFailures: 100, AddressEvery: 5 * time.Second,
	}
}

// leeway is how far the clocks of two machines may differ; verifiers grant it.
const leeway = time.Minute

// minAhead is longer than any verifier keeps a set of keys.
const minAhead = 5 * time.Minute

// Validate says what cannot be meant.
func (c *Config) Validate() error {
	var fields []errs.Field
	check := func(ok bool, path, problem string) {
		if !ok {
			fields = append(fields, errs.Field{Path: path, Problem: problem})
		}
	}
	check(c.AccessTTL >= 5*time.Minute && c.AccessTTL <= 10*time.Minute, "access_ttl", "must be 5 to 10 minutes")
	check(c.SessionTTL >= c.AccessTTL, "session_ttl", "must not be shorter than access_ttl")
	check(c.RefreshGrace >= 0 && c.RefreshGrace <= time.Minute, "refresh_grace", "must be 0 to 1 minute")
	check(c.PublishAhead >= minAhead, "publish_ahead", "must be at least 5 minutes, so that everybody knows the key in time")
	check(c.RotateEvery >= 2*c.PublishAhead, "rotate_every", "must be at least twice publish_ahead")
	check(c.SweepEvery > 0 && c.SweepEvery <= c.PublishAhead, "sweep_every", "must be positive and not longer than publish_ahead")
	check(c.HashMemory >= 8 && c.HashMemory <= 4<<20, "hash_memory", "must be 8 KiB to 4 GiB")
	check(c.HashTime >= 1 && c.HashTime <= 100, "hash_time", "must be 1 to 100")
	check(c.HashThreads >= 1 && c.HashThreads <= 64 && c.HashMemory >= 8*c.HashThreads, "hash_threads", "must be 1 to 64, with 8 KiB of memory for each")
	check(c.HashParallel >= 1 && c.HashParallel <= 64, "hash_parallel", "must be 1 to 64")
	check(c.HashWait >= 0 && c.HashWait <= time.Minute, "hash_wait", "must be 0 to 1 minute")
	check(c.PairFailures >= 1 && c.PairEvery > 0, "pair_failures", "and pair_every must be positive")
	check(c.AccountFailures >= 1 && c.AccountEvery > 0, "account_failures", "and account_every must be positive")
	check(c.AddressFailures >= 1 && c.AddressEvery > 0, "address_failures", "and address_every must be positive")
	check((c.AdminEmail == "") == (c.AdminPassword == ""), "admin_email", "and admin_password come together or not at all")
	if len(fields) == 0 {
		return nil
	}
	return errs.E(errs.Invalid, "INVALID_CONFIG", "the configuration of the auth service cannot be meant").WithFields(fields...)
}

// New opens and migrates the database of the auth service and builds the service
// on env. It starts nothing: that is for whoever runs the unit. After an error
// nothing is left open.
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
	now := env.Now
	if now == nil {
		now = time.Now
	}
	box, err := keys.NewBox(cfg.KeySecret.Reveal())
	if err != nil {
		return nil, err
	}
	s := store.New(db)
	rotation := auth.Rotation{Every: cfg.RotateEvery, Ahead: cfg.PublishAhead, Keep: cfg.AccessTTL + 2*leeway}
	reactor, err := env.Reactor(saga.Machine(db, s, box, rotation, cfg.SweepEvery), db)
	if err != nil {
		return nil, err
	}
	keeper := keys.NewKeeper(box, s.Ring, cfg.AccessTTL, now, env.Log)
	commands := saga.NewCommands(saga.Deps{
		Reactor: reactor, Store: s, Keeper: keeper, Box: box, Log: env.Log, Rotation: rotation,
		Hasher: password.New(password.Config{
			Params:   password.Params{Memory: uint32(cfg.HashMemory), Time: uint32(cfg.HashTime), Threads: uint8(cfg.HashThreads)},
			Parallel: cfg.HashParallel, Wait: cfg.HashWait,
		}),
		Throttle: auth.NewThrottle(auth.Limits{
			Pair:    auth.Limit{Burst: cfg.PairFailures, Every: cfg.PairEvery},
			Account: auth.Limit{Burst: cfg.AccountFailures, Every: cfg.AccountEvery},
			Address: auth.Limit{Burst: cfg.AddressFailures, Every: cfg.AddressEvery},
		}, now),
		Policy: auth.Policy{SessionTTL: cfg.SessionTTL, Grace: cfg.RefreshGrace},
	})
	server := rpc.New(s, commands, keeper, cfg.AccessTTL+leeway, now)
	return &app.Unit{
		Name:     saga.Name,
		Register: func(r grpc.ServiceRegistrar) { authv1.RegisterAuthServiceServer(r, server) },
		Start: func(ctx context.Context) error {
			if err := reactor.Start(ctx); err != nil {
				return err
			}
			if err := commands.EnsureRing(ctx); err != nil {
				return err
			}
			return commands.EnsureAdmin(ctx, cfg.AdminEmail, cfg.AdminPassword.Reveal())
		},
		Ready: reactor.Ready,
		Stop: func(ctx context.Context) error {
			return errors.Join(reactor.Stop(ctx), db.Close())
		},
	}, nil
}

// Migrate brings the database of the auth service up to date.
func Migrate(ctx context.Context, db *sqldb.DB) error {
	if err := db.Migrate(ctx, "platform", react.Migrations()); err != nil {
		return err
	}
	return db.Migrate(ctx, saga.Name, store.Migrations())
}
