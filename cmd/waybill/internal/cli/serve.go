package cli

import (
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/config"
)

func newServe() *cobra.Command {
	cfg := node.DefaultConfig()
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run all services, or some of them",
		Long: `Run Waybill. Without flags all services run in this process, with SQLite and a
broker of its own under ./data: nothing needs to be installed.

Every setting may come from a flag, from the environment (--grpc-addr is
WAYBILL_GRPC_ADDR) or from a YAML file (--config). --print-config shows them all.
The first administrator is made of WAYBILL_ADMIN_EMAIL and WAYBILL_ADMIN_PASSWORD.`,
		Example: `  waybill serve
  waybill serve --db postgres://waybill@localhost/waybill --nats nats://localhost:4222
  waybill serve --services order,payment --upstream inventory=dns:///inventory:9090`,
		Args: noArgs,
	}
	config.Bind(cmd, &cfg)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if done, err := settings(cmd, &cfg); done || err != nil {
			return err
		}
		tuneMemory()
		n, err := node.New(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		go func() {
			select {
			case <-n.Started():
				n.Log().Info("serving", "rest", n.HTTPURL(), "grpc", n.GRPCAddr(), "public_grpc", n.PublicGRPCAddr(), "admin", n.AdminURL(), "version", node.Version())
			case <-cmd.Context().Done():
			}
		}()
		return n.Run(cmd.Context())
	}
	return cmd
}

func newMigrate() *cobra.Command {
	cfg := node.DefaultConfig()
	opts := node.MigrateOptions{}
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the databases up to date and exit",
		Long: `Bring the databases of the services named by --services up to date and exit. Only
the databases are needed, no broker and no ports. Serving does the same at its
start; use this where that is to happen before (--migrate=off). Migrations run
under a lock, so that several processes may start at once, and processes of the
previous release go on serving on the new tables.`,
		Example: `  waybill migrate --db postgres://waybill@localhost/waybill
  waybill migrate --services order,payment --wait 2m`,
		Args: noArgs,
	}
	config.Bind(cmd, &cfg)
	cmd.Flags().DurationVar(&opts.Wait, "wait", 0, "how long to wait for a database that cannot be reached yet")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if done, err := settings(cmd, &cfg); done || err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		opts.Log = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
		opts.Done = func(service, tables string, from, to int64) {
			if from == to {
				fmt.Fprintf(out, "%s: tables of %s are up to date (version %d)\n", service, tables, to)
			} else {
				fmt.Fprintf(out, "%s: tables of %s went from version %d to %d\n", service, tables, from, to)
			}
		}
		if err := node.Migrate(cmd.Context(), cfg, opts); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out, "databases are up to date")
		return err
	}
	return cmd
}

// settings loads the configuration; it is done when only that was asked for.
func settings(cmd *cobra.Command, cfg *node.Config) (done bool, err error) {
	if err := config.Load(cmd, cfg, config.AlsoKnown(&clientSettings{})); err != nil {
		return true, err
	}
	switch {
	case config.PrintRequested(cmd):
		return true, config.Print(cmd.OutOrStdout(), cfg)
	case config.CheckRequested(cmd):
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "the configuration is good")
		return true, err
	}
	return false, nil
}

// clientSettings are the variables that the client commands read; they may be
// set where a server is started.
type clientSettings struct {
	Server   string `help:"gRPC address of the server"`
	Home     string `help:"where sessions are kept"`
	Password string `help:"password to log in with" secret:"true"`
}
