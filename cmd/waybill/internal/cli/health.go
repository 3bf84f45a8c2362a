package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/waybill-dev/waybill/platform/errs"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
)

// everyService lists what a whole Waybill serves.
func everyService() []string {
	return []string{
		authv1.AuthService_ServiceDesc.ServiceName, userv1.UserService_ServiceDesc.ServiceName, inventoryv1.InventoryService_ServiceDesc.ServiceName,
		orderv1.OrderService_ServiceDesc.ServiceName, paymentv1.PaymentService_ServiceDesc.ServiceName, shippingv1.ShippingService_ServiceDesc.ServiceName,
	}
}

// Between two questions after the health of a server.
const healthEvery = 500 * time.Millisecond

func newHealth() *cobra.Command {
	c := &client{}
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "health [SERVICE...]",
		Short: "Ask a server which of its services can take calls",
		Long: `Ask a server for the health of the services named, as waybill.order.v1.OrderService,
or of all of them. The exit code is 0 only if every one can take calls. Nobody
needs to be logged in.`,
		Example: "  waybill health --server localhost:9090 --wait 30s",
		RunE: func(cmd *cobra.Command, services []string) error {
			defer c.close()
			conn, err := c.connect()
			if err != nil {
				return err
			}
			if len(services) == 0 {
				services = everyService()
			}
			h := askHealth(cmd.Context(), conn, services)
			for give := time.Now().Add(wait); !h.good() && time.Now().Before(give); h = askHealth(cmd.Context(), conn, services) {
				select {
				case <-time.After(healthEvery):
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				}
			}
			if err := h.print(cmd.OutOrStdout(), c.json); err != nil {
				return err
			}
			if !h.good() {
				return errs.E(errs.Unavailable, "NOT_SERVING", "%s cannot take calls at %s", strings.Join(h.bad(), ", "), c.server)
			}
			return nil
		},
	}
	c.flags(cmd)
	cmd.Flags().DurationVar(&wait, "wait", 0, "ask again so long, until all can take calls")
	return cmd
}

// health is what a server says of its services, in the order they were asked for.
type health []serviceHealth

type serviceHealth struct {
	Service string `json:"service"`
	Status  string `json:"status"`
	Error   string `json:"error,omitempty"`
}

func askHealth(ctx context.Context, conn grpc.ClientConnInterface, services []string) health {
	list := make(health, len(services))
	for i, s := range services {
		list[i] = serviceHealth{Service: s}
		resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: s})
		switch {
		case err == nil:
			list[i].Status = resp.GetStatus().String()
		case status.Code(err) == codes.NotFound:
			list[i].Status = grpc_health_v1.HealthCheckResponse_SERVICE_UNKNOWN.String()
		default:
			list[i].Status, list[i].Error = "UNREACHABLE", status.Convert(err).Message()
		}
	}
	return list
}

// bad names the services that cannot take calls.
func (h health) bad() []string {
	var list []string
	for _, s := range h {
		if s.Status != grpc_health_v1.HealthCheckResponse_SERVING.String() {
			list = append(list, s.Service)
		}
	}
	return list
}

func (h health) good() bool { return len(h.bad()) == 0 }

func (h health) print(w io.Writer, asJSON bool) error {
	if asJSON {
		return printAny(w, h)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tSTATUS\t")
	for _, s := range h {
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.Service, s.Status, s.Error)
	}
	return t.Flush()
}
