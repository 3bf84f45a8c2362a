package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/cmd/waybill/internal/demo"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

func newOrder() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{Use: "order", Short: "Place, list, watch and cancel orders", Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.flags(cmd)
	cmd.AddCommand(c.orderPlace(), c.orderGet(), c.orderList(), c.orderWatch(), c.orderCancel(), c.orderWaybill())
	return cmd
}

func (c *client) orders() orderv1.OrderServiceClient { return orderv1.NewOrderServiceClient(c.conn) }

// fromTheFirst has a watch tell also what happened before it began.
const fromTheFirst = "0"

func (c *client) orderPlace() *cobra.Command {
	var lines []string
	var token, requestID string
	var watch bool
	to := &typev1.Address{}
	cmd := &cobra.Command{
		Use:   "place",
		Short: "Place an order",
		Long: `Place an order. --line may be given several times, as PRODUCT_ID or
PRODUCT_ID=QUANTITY. Pay with tok_ok, or see how an order is undone with
tok_declined, tok_capture_fails, or --region AQ, where no carrier goes.`,
		Example: "  waybill order place --line 0190…=2 --recipient 'Ann Lee' --address '12 Harbour St' --city Bergen --postal-code 5003 --region NO",
		Args:    noArgs,
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			req := &orderv1.CreateOrderRequest{RequestId: requestID, PaymentToken: token, ShipTo: to}
			if req.GetRequestId() == "" {
				req.RequestId = uuid.NewString()
			}
			if len(lines) == 0 {
				return &usageError{errors.New("at least one --line is required")}
			}
			for _, l := range lines {
				id, quantity, ok := strings.Cut(l, "=")
				n := int64(1)
				if ok {
					var err error
					if n, err = strconv.ParseInt(quantity, 10, 32); err != nil {
						return &usageError{fmt.Errorf("--line %s: the quantity is no whole number", l)}
					}
				}
				req.Lines = append(req.Lines, &orderv1.CreateOrderLine{ProductId: id, Quantity: int32(n)})
			}
			order, err := c.orders().CreateOrder(ctx, req)
			if err != nil {
				return err
			}
			if watch {
				return c.follow(ctx, cmd.OutOrStdout(), order.GetOrderId(), fromTheFirst)
			}
			return c.show(cmd.OutOrStdout(), order)
		}),
	}
	fs := cmd.Flags()
	fs.StringArrayVar(&lines, "line", nil, "PRODUCT_ID[=QUANTITY]")
	fs.StringVar(&token, "payment-token", "tok_ok", "token of the payment provider")
	fs.StringVar(&requestID, "request-id", "", "makes repeating safe: the same id is the same order; default: a new UUID")
	fs.StringVar(&to.Recipient, "recipient", "", "who gets the parcel")
	fs.StringArrayVar(&to.Lines, "address", nil, "street and number; may be repeated")
	fs.StringVar(&to.Locality, "city", "", "city")
	fs.StringVar(&to.PostalCode, "postal-code", "", "postal code")
	fs.StringVar(&to.RegionCode, "region", "", "country, two letters")
	fs.BoolVar(&watch, "watch", false, "follow the order until it has ended")
	return cmd
}

func (c *client) orderGet() *cobra.Command {
	return &cobra.Command{
		Use: "get ORDER_ID", Short: "Show an order", Args: exactArgs("ORDER_ID"),
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			order, err := c.orders().GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: args[0]})
			if err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), order)
		}),
	}
}

func (c *client) orderList() *cobra.Command {
	var filter, orderBy string
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List orders: yours, or all if you are staff", Args: noArgs,
		Example: `  waybill order list --filter 'status = "CANCELLED"'`,
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, _ []string) error {
			all := &orderv1.ListOrdersResponse{}
			req := &orderv1.ListOrdersRequest{PageSize: int32(min(limit, 100)), Filter: filter, OrderBy: orderBy}
			for {
				page, err := c.orders().ListOrders(ctx, req)
				if err != nil {
					return err
				}
				all.Orders = append(all.Orders, page.GetOrders()...)
				req.PageToken = page.GetNextPageToken()
				if req.GetPageToken() == "" || len(all.GetOrders()) >= limit {
					break
				}
			}
			if len(all.GetOrders()) > limit {
				all.Orders = all.GetOrders()[:limit]
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ORDER\tPLACED\tSTATUS\tTOTAL")
			for _, o := range all.GetOrders() {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.GetOrderId(), o.GetCreateTime().AsTime().Format(time.DateTime), demo.Status(o.GetStatus()), money(o.GetTotal()))
			}
			return w.Flush()
		}),
	}
	cmd.Flags().StringVar(&filter, "filter", "", "which orders, in the filter language of AIP-160")
	cmd.Flags().StringVar(&orderBy, "order-by", "", "in which order, as in 'create_time desc'")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at most")
	return cmd
}

func (c *client) orderWatch() *cobra.Command {
	var from string
	cmd := &cobra.Command{
		Use: "watch ORDER_ID", Short: "Follow an order until it has ended", Args: exactArgs("ORDER_ID"),
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			return c.follow(ctx, cmd.OutOrStdout(), args[0], from)
		}),
	}
	cmd.Flags().StringVar(&from, "resume-token", "", "go on after this point")
	return cmd
}

func (c *client) orderCancel() *cobra.Command {
	var reason, requestID string
	cmd := &cobra.Command{
		Use: "cancel ORDER_ID", Short: "Ask for an order to be undone", Args: exactArgs("ORDER_ID"),
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if requestID == "" {
				requestID = uuid.NewString()
			}
			order, err := c.orders().CancelOrder(ctx, &orderv1.CancelOrderRequest{OrderId: args[0], Reason: reason, RequestId: requestID})
			if err != nil {
				return err
			}
			return c.show(cmd.OutOrStdout(), order)
		}),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	cmd.Flags().StringVar(&requestID, "request-id", "", "makes repeating safe; default: a new UUID")
	return cmd
}

func (c *client) orderWaybill() *cobra.Command {
	return &cobra.Command{
		Use: "waybill ORDER_ID", Short: "Show what each service did for an order, when, why, and in which trace", Args: exactArgs("ORDER_ID"),
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			bill, err := c.orders().GetWaybill(ctx, &orderv1.GetWaybillRequest{OrderId: args[0]})
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), bill)
			}
			demo.PrintWaybill(cmd.OutOrStdout(), bill)
			return nil
		}),
	}
}

// follow prints each entry of an order's waybill as it is stamped.
func (c *client) follow(ctx context.Context, out io.Writer, orderID, from string) error {
	stream, err := c.orders().WatchOrder(ctx, &orderv1.WatchOrderRequest{OrderId: orderID, ResumeToken: from})
	if err != nil {
		return err
	}
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if c.json {
			if err := printJSON(out, msg); err != nil {
				return err
			}
			continue
		}
		e := msg.GetEntry()
		if e == nil {
			fmt.Fprintf(out, "%s is %s\n", orderID, demo.Status(msg.GetOrder().GetStatus()))
			continue
		}
		fmt.Fprintf(out, "%s  %-9s  %-24s  %-10s  %s\n", e.GetTime().AsTime().Format("15:04:05.000"), e.GetService(), e.GetEvent(), demo.Status(e.GetToStatus()), e.GetDetail())
	}
}

func (c *client) show(out io.Writer, o *orderv1.Order) error {
	if c.json {
		return printJSON(out, o)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "order\t%s\nstatus\t%s\n", o.GetOrderId(), demo.Status(o.GetStatus()))
	if o.GetReason() != orderv1.OrderReason_ORDER_REASON_UNSPECIFIED {
		fmt.Fprintf(w, "reason\t%s %s\n", strings.TrimPrefix(o.GetReason().String(), "ORDER_REASON_"), o.GetReasonDetail())
	}
	for _, l := range o.GetLines() {
		fmt.Fprintf(w, "line\t%d × %s (%s) at %s\n", l.GetQuantity(), l.GetName(), l.GetSku(), money(l.GetUnitPrice()))
	}
	fmt.Fprintf(w, "total\t%s\n", money(o.GetTotal()))
	if o.GetTrackingNumber() != "" {
		fmt.Fprintf(w, "tracking\t%s\n", o.GetTrackingNumber())
	}
	return w.Flush()
}
