package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/waybill-dev/waybill/cmd/waybill/internal/load"
	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/errs"
)

// mostWrong is how many wrong things are printed for people; JSON has them all.
const mostWrong = 20

// books adds what does not add up in the databases of a process that has stopped.
func (o *loadOptions) books(ctx context.Context, cfg node.Config, to *load.Invariants) error {
	limited, cancel := context.WithTimeout(ctx, o.check)
	defer cancel()
	f, err := node.Inspect(limited, cfg)
	if err != nil {
		if limited.Err() != nil {
			return ctx.Err() // too much for the time there is, unless somebody wants an end
		}
		return err
	}
	to.Books, to.Wrong = true, append(to.Wrong, f.Wrong...)
	return nil
}

// tell prints what was measured, as far as it is there, and gives the error with
// which the command ends.
func (o *loadOptions) tell(out io.Writer, rep *load.Report, err error) error {
	if rep == nil {
		return err
	}
	if o.json {
		err = errors.Join(err, printAny(out, rep))
	} else {
		err = errors.Join(err, printFigures(out, rep))
	}
	if i := rep.Invariants; i != nil && len(i.Wrong) > 0 {
		wrong := errs.E(errs.FailedPrecondition, "ORDERS_WRONG", "after this load %d things are not as they must be, see above", len(i.Wrong))
		err = errors.Join(wrong, err)
	}
	return err
}

func printFigures(out io.Writer, r *load.Report) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\tper second\tp50 ms\tp95 ms\tp99 ms\tmax ms\t\n")
	fmt.Fprintf(w, "created\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", r.CreatedPerSecond, r.CreateMS.P50, r.CreateMS.P95, r.CreateMS.P99, r.CreateMS.Max)
	fmt.Fprintf(w, "completed\t%.0f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", r.CompletedPerSecond, r.CompleteMS.P50, r.CompleteMS.P95, r.CompleteMS.P99, r.CompleteMS.Max)
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\ncpu %.2f s per 1000 orders (whole machine %.2f), rss %.0f MiB (%.0f at 10 s, %.0f at most)\n",
		r.CPUSecondsPer1000, r.MachineCPUPer1000, r.RSSMiB, r.RSSMiBAt10s, r.RSSMiBMax)
	for _, c := range slices.Sorted(maps.Keys(r.Errors)) {
		fmt.Fprintf(out, "errors: %d %s\n", r.Errors[c], c)
	}
	if r.Invariants == nil {
		return nil
	}
	return printInvariants(out, r.Invariants)
}

// printInvariants says in a line what was looked at and what came of it, and below
// what is wrong.
func printInvariants(out io.Writer, i *load.Invariants) error {
	all := fmt.Sprintf("checked %d orders", i.Orders)
	if i.Orders < i.Placed {
		all = fmt.Sprintf("checked %d of %d orders", i.Orders, i.Placed)
	}
	switch {
	case len(i.Wrong) == 1:
		fmt.Fprintf(out, "%s: one thing is wrong", all)
	case len(i.Wrong) > 0:
		fmt.Fprintf(out, "%s: %d things are wrong", all, len(i.Wrong))
	case i.Orders < i.Placed: // what is lost and doubled may be among the others
		fmt.Fprintf(out, "%s, there was no time for more: nothing wrong with these", all)
	default:
		fmt.Fprintf(out, "%s: nothing lost, nothing doubled, no gap in a waybill", all)
	}
	if len(i.Wrong) == 0 && i.Books {
		fmt.Fprint(out, ", money and stock add up")
	}
	if i.Open > 0 {
		fmt.Fprintf(out, "; %d are not over", i.Open)
	}
	fmt.Fprintln(out)
	for _, w := range i.Wrong[:min(len(i.Wrong), mostWrong)] {
		fmt.Fprintln(out, " ", w)
	}
	if more := len(i.Wrong) - mostWrong; more > 0 {
		fmt.Fprintf(out, "  and %d more; --json lists all\n", more)
	}
	return nil
}
