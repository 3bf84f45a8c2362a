package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/config"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/services/order/orderd"
)

func newProjection() *cobra.Command {
	cmd := &cobra.Command{
		Use: "projection", Short: "Hold the rows of orders against the events they come from", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newProjectionRebuild())
	return cmd
}

func newProjectionRebuild() *cobra.Command {
	cfg := node.DefaultConfig()
	var check, asJSON bool
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Make the rows of orders anew from their events",
		Long: `Fold every order anew from its events, as the outboxes of order, inventory, payment
and shipping keep them for a week, in the order of its waybill, and put the rows
that are shown for it in place of those that differ. With --check nothing is
written. Events, waybills and all other tables are never touched. It may run beside
serving processes on Postgres; a SQLite file belongs to the process that serves from
it.

Each order that differs is named, with what differs. An order whose waybill and
events contradict each other is left as it is, and one of which some events are not
kept any more is only counted. The exit code is 0 only if no order differs, or,
without --check, if all that did were mended.`,
		Example: `  waybill projection rebuild --check --db postgres://waybill@localhost/waybill
  waybill projection rebuild --data data`,
		Args: noArgs,
	}
	config.Bind(cmd, &cfg)
	cmd.Flags().BoolVar(&check, "check", false, "only find what differs")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if done, err := settings(cmd, &cfg); done || err != nil {
			return err
		}
		r, err := node.Project(cmd.Context(), cfg, check)
		if r == nil {
			return err
		}
		if asJSON {
			printed := printAny(cmd.OutOrStdout(), r)
			if err == nil {
				err = printed
			}
		} else {
			printRebuilt(cmd, r)
		}
		if err == nil && r.Left() > 0 {
			err = errs.E(errs.FailedPrecondition, "ORDERS_DIFFER", "%d orders are not what their events make them", r.Left())
		}
		return err
	}
	return cmd
}

func printRebuilt(cmd *cobra.Command, r *orderd.Report) {
	out := cmd.OutOrStdout()
	for _, d := range r.Differ {
		for _, what := range d.What {
			fmt.Fprintf(out, "order %s: %s\n", d.OrderID, what)
		}
		switch {
		case d.Rebuilt:
			fmt.Fprintf(out, "order %s was rebuilt\n", d.OrderID)
		case d.Undecided:
			fmt.Fprintf(out, "order %s is left as it is: its waybill and the events do not agree\n", d.OrderID)
		}
	}
	fmt.Fprintf(out, "%d orders folded from %d events, %d left alone because their events are not kept any more: %d differ", r.Orders, r.Events, r.TooOld, len(r.Differ))
	if r.Rebuilt > 0 {
		fmt.Fprintf(out, ", %d of them rebuilt", r.Rebuilt)
	}
	fmt.Fprintln(out)
}
