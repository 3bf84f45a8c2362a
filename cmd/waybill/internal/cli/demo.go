package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/cmd/waybill/internal/demo"
	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/telemetry"
	"github.com/waybill-dev/waybill/services/inventory/csvimport"
	"github.com/waybill-dev/waybill/test/data"
)

func newDemo() *cobra.Command {
	var scale int
	var keep, verbose bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start everything in a temporary directory and play a day at a shop",
		Long: `Start Waybill in a temporary directory, import a product list, sign customers up,
place orders over REST that end in every possible way, watch them over server-sent
events until all have ended, and check that no cent and no unit went astray. The
exit code is 0 only if everything ended as it should have.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := os.MkdirTemp("", "waybill-demo-")
			if err != nil {
				return err
			}
			if keep {
				fmt.Fprintf(cmd.ErrOrStderr(), "data is kept in %s\n", dir)
			} else {
				defer os.RemoveAll(dir)
			}
			products, err := csvimport.Parse(bytes.NewReader(data.Products))
			if err != nil {
				return fmt.Errorf("the product list that is shipped: %w", err)
			}
			cfg := localConfig(dir, verbose)
			// The outside world of the demo is quick: it has half a minute for a day.
			cfg.Payment.ProviderTimeout = 300 * time.Millisecond
			cfg.Shipping.ScanEvery = 100 * time.Millisecond
			return withNode(cmd.Context(), cfg, func(ctx context.Context, n *node.Node) error {
				conn, err := rpc.Dial("static:///"+n.GRPCAddr(), rpc.DialConfig{})
				if err != nil {
					return err
				}
				defer conn.Close()
				bar := newBar(cmd.ErrOrStderr(), "orders", 0)
				var once sync.Once
				defer func() { bar.stop() }()
				return demo.Run(ctx, demo.Config{
					Base: n.HTTPURL(), Conn: conn, AdminEmail: cfg.Admin.Email, AdminPassword: cfg.Admin.Password.Reveal(),
					Products: products, Customers: 12, Scale: scale, Out: cmd.OutOrStdout(), Check: n.Check,
					Progress: func(done, total int) {
						once.Do(func() { bar = newBar(cmd.ErrOrStderr(), "orders", total) })
						bar.set(done)
						if done == total {
							bar.stop()
						}
					},
				})
			})
		},
	}
	cmd.Flags().IntVar(&scale, "scale", 1, "how often the script of 204 orders is played")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep the data when done")
	cmd.Flags().BoolVar(&verbose, "verbose", false, "log what happens")
	return cmd
}

// localConfig gives a process of its own on loopback ports that are free.
func localConfig(dir string, verbose bool) node.Config {
	cfg := node.DefaultConfig()
	cfg.Data = dir
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.AdminAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Admin.Email, cfg.Admin.Password = "admin@example.com", telemetry.Secret(rand.Text())
	cfg.Log.Level = slog.LevelError
	if verbose {
		cfg.Log.Level = slog.LevelInfo
	}
	return cfg
}

// withNode runs a node, calls fn once it serves, and stops it again.
func withNode(ctx context.Context, cfg node.Config, fn func(context.Context, *node.Node) error) error {
	tuneMemory()
	n, err := node.New(ctx, cfg)
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(run) }()
	use, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	select {
	case <-n.Started():
		err = fn(use, n)
		stop()
		return errors.Join(err, <-ended)
	case err := <-ended:
		return errors.Join(err, errors.New("the server did not start"))
	case <-ctx.Done():
		stop()
		return errors.Join(ctx.Err(), <-ended)
	}
}
