package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/internal/sim"
	"github.com/waybill-dev/waybill/platform/errs"
)

type simOptions struct {
	seed    uint64
	seeds   int
	orders  int
	faults  string
	json    bool
	verbose bool
}

func newSim() *cobra.Command {
	o := &simOptions{seed: 1, orders: 40}
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Run the services in simulated worlds in which everything goes wrong",
		Long: `Run the services' own code in worlds made of memory, with a clock that jumps, a
broker that duplicates, reorders, delays, drops and forgets, processes that crash,
pause and disagree about the time, an unreliable payment provider and carrier, and
customers who change their minds. Then all is healed, and every order has to end
and to agree with the money, the stock and the parcel.

A seed is a world: the same seed is the same run, step by step. The faults are a
choice of the seed (swarm), all, none, or a list. The exit code is 0 only if nothing
was violated; what was is printed with the orders' waybills and the command that
runs that world again.`,
		Example: `  waybill sim --seeds=500                          five hundred worlds, from seed 1 on
  waybill sim --seed=7 --faults=all --verbose      one world, step by step
  waybill sim --seed=7 --faults=crash,provider`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	fs := cmd.Flags()
	fs.Uint64Var(&o.seed, "seed", o.seed, "the first world")
	fs.IntVar(&o.seeds, "seeds", 1, "worlds, from the first on")
	fs.IntVar(&o.orders, "orders", o.orders, "orders in each world")
	fs.StringVar(&o.faults, "faults", "swarm", "what goes wrong: swarm, all, none, or a list")
	fs.BoolVar(&o.json, "json", false, "print JSON")
	fs.BoolVar(&o.verbose, "verbose", false, "print every step of the worlds that failed, or of the one there is")
	return cmd
}

func (o *simOptions) run(cmd *cobra.Command) error {
	faults, err := sim.ParseFaults(o.faults)
	if err != nil {
		return &usageError{err}
	}
	if o.seeds < 1 || o.orders < 1 || o.orders > 10_000 {
		return &usageError{errs.E(errs.Invalid, "NOT_POSITIVE", "--seeds must be at least 1, --orders 1 to 10000")}
	}
	progress := newBar(cmd.ErrOrStderr(), "worlds", o.seeds)
	defer progress.stop()
	done := 0
	var last *sim.Result
	report, err := sim.Many(cmd.Context(), o.seed, o.seeds, sim.Options{Orders: o.orders, Faults: faults, Keep: o.verbose}, func(r *sim.Result) {
		done++
		last = r
		progress.set(done)
	})
	if err != nil {
		return err
	}
	progress.stop()
	out := cmd.OutOrStdout()
	if o.json {
		err = printAny(out, report)
	} else {
		printWorlds(out, report, o.verbose)
		if o.verbose && o.seeds == 1 && len(report.Failed) == 0 {
			fmt.Fprintln(out, strings.Join(last.Story, "\n"))
		}
	}
	if err != nil {
		return err
	}
	if n := len(report.Failed); n > 0 {
		return errs.E(errs.FailedPrecondition, "VIOLATED", "%d of %d worlds went wrong", n, report.Seeds)
	}
	return nil
}

func printWorlds(out io.Writer, r *sim.Report, verbose bool) {
	for _, one := range r.Failed {
		fmt.Fprintln(out, one.Replay())
		for _, v := range one.Violations {
			fmt.Fprintf(out, "  %s\n", v)
		}
		for id, lines := range one.Waybills {
			fmt.Fprintf(out, "\n  waybill of order %s\n    %s\n", id, strings.Join(lines, "\n    "))
		}
		if verbose {
			fmt.Fprintln(out, strings.Join(one.Story, "\n"))
		}
		fmt.Fprintln(out)
	}
	for _, what := range sim.Sorted(r.Counts) {
		if what != "events" {
			fmt.Fprintf(out, "%10d %s\n", r.Counts[what], what)
		}
	}
	fmt.Fprintf(out, "%d worlds (seeds %d to %d), %d orders, %d events in %s: %d went wrong\n",
		r.Seeds, r.First, r.Last, r.Orders, r.Events, r.Wall.Round(time.Millisecond), len(r.Failed))
}
