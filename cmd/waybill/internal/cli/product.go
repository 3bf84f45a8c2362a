package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/platform/rpc"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/inventory/csvimport"
)

func newProduct() *cobra.Command {
	c := &client{}
	cmd := &cobra.Command{Use: "product", Short: "Import and list products", Args: noArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	c.flags(cmd)
	cmd.AddCommand(c.productImport(), c.productList())
	return cmd
}

func (c *client) productImport() *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE",
		Short: "Import a product list from CSV; all of it or nothing",
		Long: `Import products from a CSV file, or from standard input if FILE is "-". The first
line names the columns: sku, name, description, category, price, currency, stock.
Nothing is imported unless every line is good; errors name line and column.`,
		Example: "  waybill product import products.csv",
		Args:    exactArgs("FILE"),
		RunE: c.run(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			products, err := csvimport.Parse(in)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			bar := newBar(cmd.ErrOrStderr(), "importing", len(products))
			defer bar.stop()
			stream, err := inventoryv1.NewInventoryServiceClient(c.conn).ImportProducts(ctx)
			if err != nil {
				return err
			}
			for i, p := range products {
				if err := stream.Send(p); err != nil {
					break // CloseAndRecv says why
				}
				bar.set(i + 1)
			}
			resp, err := stream.CloseAndRecv()
			if err != nil {
				return err
			}
			bar.stop()
			if c.json {
				return printJSON(cmd.OutOrStdout(), resp)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d products imported\n", resp.GetImportedCount())
			return err
		}),
	}
}

func (c *client) productList() *cobra.Command {
	var filter, order string
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List products",
		Example: `  waybill product list --filter 'category = "kitchen/boards"' --order-by name --limit 20`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			defer c.close()
			conn, err := c.connect() // anybody may look at the catalogue
			if err != nil {
				return err
			}
			all := &inventoryv1.ListProductsResponse{}
			req := &inventoryv1.ListProductsRequest{PageSize: 100, Filter: filter, OrderBy: order}
			for {
				page, err := inventoryv1.NewInventoryServiceClient(conn).ListProducts(cmd.Context(), req)
				if err != nil {
					return rpc.FromStatus(err)
				}
				all.Products = append(all.Products, page.GetProducts()...)
				req.PageToken = page.GetNextPageToken()
				if req.GetPageToken() == "" || limit > 0 && len(all.GetProducts()) >= limit {
					break
				}
			}
			if limit > 0 && len(all.GetProducts()) > limit {
				all.Products = all.GetProducts()[:limit]
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			return productTable(cmd.OutOrStdout(), all.GetProducts())
		},
	}
	cmd.Flags().StringVar(&filter, "filter", "", "which products, in the filter language of AIP-160")
	cmd.Flags().StringVar(&order, "order-by", "", "in which order, as in 'name desc'")
	cmd.Flags().IntVar(&limit, "limit", 0, "how many at most; 0 is all")
	return cmd
}

func productTable(out io.Writer, products []*inventoryv1.Product) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "PRODUCT\tSKU\tNAME\tPRICE\tAVAILABLE")
	for _, p := range products {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\n", p.GetProductId(), p.GetSku(), p.GetName(), money(p.GetPrice()), p.GetAvailable())
	}
	return w.Flush()
}

// money prints an amount as people write it.
func money(m *typev1.Money) string {
	if m == nil {
		return ""
	}
	scale, ok := csvimport.Scale(m.GetCurrencyCode())
	if !ok {
		scale = 2
	}
	units, sign := m.GetMinorUnits(), ""
	if units < 0 {
		units, sign = -units, "-"
	}
	pow := int64(1)
	for range scale {
		pow *= 10
	}
	if scale == 0 {
		return fmt.Sprintf("%s%d %s", sign, units, m.GetCurrencyCode())
	}
	return fmt.Sprintf("%s%d.%0*d %s", sign, units/pow, scale, units%pow, m.GetCurrencyCode())
}
