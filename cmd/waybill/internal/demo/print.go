package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/waybill-dev/waybill/internal/rest"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// result is how one scene ended.
type result struct {
	scene    scene
	order    *orderv1.Order
	customer *rest.Client
	took     time.Duration
}

// table prints how many orders ended in which way, and how long it took them.
func table(out io.Writer, results []*result) {
	byOutcome := map[string][]time.Duration{}
	for _, r := range results {
		byOutcome[r.scene.outcome] = append(byOutcome[r.scene.outcome], r.took)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "OUTCOME\tCOUNT\tP50\tP99\t")
	for _, a := range acts {
		took := byOutcome[a.scene.outcome]
		slices.Sort(took)
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t\n", a.scene.outcome, len(took), quantile(took, 0.5), quantile(took, 0.99))
	}
	fmt.Fprintf(w, "all\t%d\t\t\t\n", len(results))
	_ = w.Flush()
	fmt.Fprintln(out)
}

func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Round(time.Millisecond)
}

// waybills prints the whole waybill of a delivered order and of one that was
// undone because the carrier refused it.
func (d *demo) waybills(ctx context.Context, results []*result) error {
	for _, want := range []struct {
		outcome, title string
	}{
		{"delivered", "The waybill of an order that was delivered"},
		{"cancelled, carrier refused", "The waybill of an order that was undone because the carrier refused it"},
	} {
		i := slices.IndexFunc(results, func(r *result) bool { return r.scene.outcome == want.outcome })
		if i < 0 {
			return fmt.Errorf("no order ended %s", want.outcome)
		}
		r := results[i]
		var bill orderv1.Waybill
		if err := r.customer.Do(ctx, http.MethodGet, "/v1/orders/"+r.order.GetOrderId()+"/waybill", "", nil, &bill); err != nil {
			return fmt.Errorf("read a waybill: %w", err)
		}
		fmt.Fprintf(d.cfg.Out, "%s: %s\n\n", want.title, bill.GetOrderId())
		PrintWaybill(d.cfg.Out, &bill)
	}
	return nil
}

// PrintWaybill prints a waybill as a table, times counted from the first entry.
func PrintWaybill(out io.Writer, bill *orderv1.Waybill) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "#\tAFTER\tSERVICE\tEVENT\tSTATUS\tTRACE\tDETAIL")
	var first time.Time
	for _, e := range bill.GetEntries() {
		at := e.GetTime().AsTime()
		if first.IsZero() {
			first = at
		}
		status := Status(e.GetToStatus())
		if e.GetFromStatus() == e.GetToStatus() {
			status = "·"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%.8s\t%s\n", e.GetSequence(), at.Sub(first).Round(100*time.Microsecond), e.GetService(), e.GetEvent(), status,
			e.GetTraceId(), e.GetDetail())
	}
	_ = w.Flush()
	fmt.Fprintln(out)
}

// Status gives an order status without its prefix, "SCHEDULED".
func Status(s orderv1.OrderStatus) string { return strings.TrimPrefix(s.String(), "ORDER_STATUS_") }

// audit compares every end with the script and asks the books.
func (d *demo) audit(ctx context.Context, results []*result) error {
	var wrong []error
	for _, r := range results {
		if r.order.GetStatus() != r.scene.status || r.order.GetReason() != r.scene.reason {
			wrong = append(wrong, fmt.Errorf("order %s should be %s but is %s %s", r.order.GetOrderId(), r.scene.outcome, Status(r.order.GetStatus()), r.order.GetReason()))
		}
	}
	if len(wrong) == 0 {
		fmt.Fprintf(d.cfg.Out, "all %d orders ended as they should\n", len(results))
	}
	violations, err := d.cfg.Check(ctx)
	if err != nil {
		return fmt.Errorf("check the books: %w", err)
	}
	for _, v := range violations {
		wrong = append(wrong, errors.New(v))
	}
	if len(violations) == 0 {
		fmt.Fprintln(d.cfg.Out, "the ledger balances to the cent and the stock to the unit")
	}
	return errors.Join(wrong...)
}
