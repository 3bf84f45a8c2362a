package cli

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/cmd/waybill/internal/demo"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

func newSaga() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{
		Use:   "saga",
		Short: "See orders that do not move, and do something about them",
		Long: `See orders that wait for longer than they should and whom they wait for, ask for it
again, or have them undone. Staff may look and cancel, admins may retry.`,
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
		Use: "retry ORDER_ID", Short: "Ask again, now, for what an order that is undone or returned waits for", Args: exactArgs("ORDER_ID"),
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if requestID == "" {
				requestID = uuid.NewString()
			}
			order, err := c.orders().RetryOrder(ctx, &orderv1.RetryOrderRequest{OrderId: args[0], RequestId: requestID})
			if err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), order)
		}),
	}
	cmd.Flags().StringVar(&requestID, "request-id", "", "makes repeating safe; default: a new UUID")
	return cmd
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
