package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/cmd/waybill/internal/demo"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order/orderd"
)

func newSaga() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:   "saga",
		Short: "See orders that do not move, and do something about them",
		Long: `See orders that wait for longer than they should and whom they wait for, ask for it
again, or have them undone. Staff may look and cancel, admins may retry. Ask a server
that runs the gateway: it reaches all services.`,
		Example: `  waybill saga stuck
  waybill saga retry 0190…
  waybill saga cancel 0190… --reason 'the carrier lost our booking'`,
		Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.flags(cmd)
	cmd.AddCommand(c.sagaStuck(), c.sagaRetry(), c.sagaCancel())
	return cmd
}

func (c *client) sagaStuck() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use: "stuck", Short: "List orders that wait for longer than they should, and for whom", Args: noArgs,
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			all := &orderv1.ListStuckOrdersResponse{}
			req := &orderv1.ListStuckOrdersRequest{PageSize: int32(min(max(limit, 1), 100))}
			for {
				page, err := c.orders().ListStuckOrders(ctx, req)
				if err != nil {
					return err
				}
				all.Orders = append(all.Orders, page.GetOrders()...)
				req.PageToken = page.GetNextPageToken()
				if req.GetPageToken() == "" || len(all.GetOrders()) >= limit {
					break
				}
			}
			all.Orders = all.GetOrders()[:min(limit, len(all.GetOrders()))]
			if c.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			if len(all.GetOrders()) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "no order waits for longer than it should")
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ORDER\tSTATUS\tWAITS FOR\tSINCE\tASKED AGAIN\tDEADLINE")
			for _, o := range all.GetOrders() {
				fmt.Fprintf(w, "%s\t%s\t%s %s\t%s\t%d\t%s\n", o.GetOrderId(), demo.Status(o.GetStatus()), o.GetWaitsFor(), o.GetWhat(), when(o.GetUpdateTime()),
					o.GetReminders(), when(o.GetDeadline()))
			}
			return w.Flush()
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "how many at most")
	return cmd
}

func (c *client) sagaRetry() *cobra.Command {
	var requestID string
	cmd := &cobra.Command{
		Use: "retry ORDER_ID", Short: "Have what an order waits for tried again now", Args: exactArgs("ORDER_ID"),
		Long: `Have what an order waits for tried again now. For an order that is undone or returned
it is asked again. One that goes forward waits for something that is tried by itself
until it is done or given up: what services gave up about it is tried again. If
nothing was, the error says what may be done.`,
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if requestID == "" {
				requestID = uuid.NewString()
			}
			order, err := c.orders().RetryOrder(ctx, &orderv1.RetryOrderRequest{OrderId: args[0], RequestId: requestID})
			if errs.ReasonOf(rpc.FromStatus(err)) == "NOTHING_TO_RETRY" {
				order, err = c.retryLetters(ctx, cmd.OutOrStdout(), args[0], rpc.FromStatus(err))
			}
			if order == nil {
				return err
			}
			return errors.Join(err, c.show(cmd.OutOrStdout(), order))
		}),
	}
	cmd.Flags().StringVar(&requestID, "request-id", "", "makes repeating safe; default: a new UUID")
	return cmd
}

// retryLetters has all that the services of the saga gave up about an order tried
// again, and gives the order as it is then. If nothing was given up, the error is
// refused, and if something fails again, it says what.
func (c *client) retryLetters(ctx context.Context, out io.Writer, orderID string, refused error) (*orderv1.Order, error) {
	tried, mute := false, ""
	var failed error
	for _, s := range orderd.Sources() {
		letters, err := c.letters(ctx, s, fmt.Sprintf("aggregate_id = %q", orderID), "first_time", 100)
		if err != nil {
			mute += fmt.Sprintf("\n  %s cannot be asked what it gave up about it: %s", s, rpc.FromStatus(err))
			continue
		}
		if len(letters) == 0 {
			continue
		}
		tried = true
		req := &opsv1.RedriveDeadLettersRequest{Service: s, RequestId: uuid.NewString(), Reason: "waybill saga retry " + orderID}
		for _, l := range letters {
			req.DeadLetterIds = append(req.DeadLetterIds, l.GetDeadLetterId())
		}
		o, err := c.redriven(ctx, req, 10*time.Second)
		if err != nil {
			return nil, err
		}
		if !c.json {
			fmt.Fprintf(out, "messages that %s had given up: %d done, %d failed again, %d still waiting\n", s, o.Redriven, o.Failed, o.Waiting)
		}
		for _, a := range o.failures {
			failed = errors.Join(failed, errs.E(errs.FailedPrecondition, "REDRIVE_FAILED", "%s failed again at %s: %s; see waybill dlq get %s %s",
				s, shortType(a.GetType()), a.GetOutcome(), s, a.GetDeadLetterId()))
		}
	}
	switch {
	case tried:
		order, err := c.orders().GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: orderID})
		if err != nil {
			return nil, errors.Join(failed, err)
		}
		return order, failed
	case mute != "":
		return nil, fmt.Errorf("%w%s", refused, mute)
	}
	return nil, fmt.Errorf("%w\n  none of %s gave anything up about it", refused, strings.Join(orderd.Sources(), ", "))
}

func (c *client) sagaCancel() *cobra.Command {
	req := &orderv1.CancelOrderRequest{}
	cmd := &cobra.Command{
		Use: "cancel ORDER_ID", Short: "Have an order undone, whatever it waits for; not once its parcel is on its way", Args: exactArgs("ORDER_ID"),
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if req.GetReason() == "" {
				return &usageError{errors.New("--reason is required: it stands on the order")}
			}
			if req.OrderId = args[0]; req.GetRequestId() == "" {
				req.RequestId = uuid.NewString()
			}
			order, err := c.orders().CancelOrder(ctx, req)
			if err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), order)
		}),
	}
	cmd.Flags().StringVar(&req.Reason, "reason", "", "why; the customer can read it")
	cmd.Flags().StringVar(&req.RequestId, "request-id", "", "makes repeating safe; default: a new UUID")
	return cmd
}
