package cli

import (
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/config"
	"github.com/waybill-dev/waybill/platform/errs"
)

func newCheck() *cobra.Command {
	cfg := node.DefaultConfig()
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Hold the books of the services against each other",
		Long: `Read the databases of all services and say what does not add up: waybills against
orders, ledger against payments, stock against its movements, the events that each
service said and keeps for a week, and for every order what order, payment and
inventory say about its money and its goods. Nothing is changed. It may run beside
serving processes on Postgres; a SQLite file belongs to the process that serves
from it. --services checks some of them; an order is compared with what is there.

The exit code is 0 only if everything adds up. Each thing that does not is a line
with the order it is about.`,
		Example: `  waybill check --db postgres://waybill@localhost/waybill
  waybill check --services order,payment --db order=postgres://…,payment=postgres://… --json`,
		Args: noArgs,
	}
	config.Bind(cmd, &cfg)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if done, err := settings(cmd, &cfg); done || err != nil {
			return err
		}
		f, err := node.Inspect(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		if asJSON {
			err = printAny(cmd.OutOrStdout(), f)
		} else {
			err = printFindings(cmd, f)
		}
		if err != nil {
			return err
		}
		if len(f.Wrong) > 0 {
			return errs.E(errs.FailedPrecondition, "BOOKS_WRONG", "%d things do not add up", len(f.Wrong))
		}
		return nil
	}
	return cmd
}

func printFindings(cmd *cobra.Command, f *node.Findings) error {
	out := cmd.OutOrStdout()
	total := 0
	for _, status := range slices.Sorted(maps.Keys(f.Orders)) {
		total += f.Orders[status]
		fmt.Fprintf(out, "%8d %s\n", f.Orders[status], status)
	}
	for _, w := range f.Wrong {
		fmt.Fprintln(out, w)
	}
	if len(f.Wrong) > 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "%d orders, %d of them not over: everything adds up\n", total, f.Open)
	return err
}
