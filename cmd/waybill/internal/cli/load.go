package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/pprof"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/cmd/waybill/internal/demo"
	"github.com/waybill-dev/waybill/cmd/waybill/internal/load"
	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// loadOptions are the flags of `waybill load`.
type loadOptions struct {
	cfg       load.Config
	self      bool
	db        []string
	nats      string
	batch     int
	server    string
	email     string
	password  string
	conns     int
	customers int
	products  int
	json      bool
	verbose   bool
	check     time.Duration
	dir       string
	profile   string
}

func newLoad() *cobra.Command {
	o := &loadOptions{}
	cmd := &cobra.Command{
		Use:   "load",
		Short: "Put a server under load and measure it",
		Long: `Place orders and measure how long placing takes, and how long until the saga of
each order is over: the shipment scheduled, or everything undone.

--in-flight N is a closed loop, in which the next order is placed when one is
over. --rate R is an open loop, in which orders are placed whatever happens, and
latency counts from when an order should have been placed.

Afterwards every order is looked at: it is there, once, its waybill has every step
from its request to where it is, and its total is the sum of its lines. With --self
the databases of the services are held against each other, too, as waybill check
does. The exit code is 0 only if nothing is wrong; errors and orders that are not
over are told and no reason to fail.

--self measures a process of its own, on SQLite and an embedded broker or on
--db and --nats. Otherwise --server is measured, with the account of an
administrator (WAYBILL_ADMIN_EMAIL, WAYBILL_ADMIN_PASSWORD).`,
		Example: `  waybill load --self --in-flight 50 --duration 20s
  waybill load --self --db postgres://waybill@localhost/waybill --rate 500 --json
  waybill load --server localhost:9090 --in-flight 200`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	fs := cmd.Flags()
	fs.IntVar(&o.cfg.InFlight, "in-flight", 0, "orders under way at any time (closed loop)")
	fs.Float64Var(&o.cfg.Rate, "rate", 0, "orders placed per second (open loop)")
	fs.DurationVar(&o.cfg.Duration, "duration", 10*time.Second, "how long orders are placed and counted")
	fs.DurationVar(&o.cfg.Warmup, "warmup", 2*time.Second, "how long orders are placed before they count")
	fs.DurationVar(&o.cfg.Settle, "settle", 30*time.Second, "how long to wait for orders under way at the end")
	fs.StringSliceVar(&o.cfg.Tokens, "payment-tokens", []string{"tok_ok"}, "tokens that orders are paid with, in turn")
	fs.BoolVar(&o.self, "self", false, "measure a process of its own, in a temporary directory")
	fs.StringArrayVar(&o.db, "db", nil, "with --self: database, as in waybill serve")
	fs.StringVar(&o.nats, "nats", "", "with --self: broker, as in waybill serve")
	fs.IntVar(&o.batch, "batch-size", 0, "with --self: messages per transaction, 1 switches batching off")
	fs.StringVar(&o.dir, "data", "", "with --self: directory for data, kept afterwards; default: a temporary one")
	fs.StringVar(&o.server, "server", env("WAYBILL_SERVER", "localhost:9090"), "gRPC address of the server (WAYBILL_SERVER)")
	fs.StringVar(&o.email, "email", os.Getenv("WAYBILL_ADMIN_EMAIL"), "account of an administrator (WAYBILL_ADMIN_EMAIL)")
	fs.IntVar(&o.conns, "connections", 4, "gRPC connections to the server")
	fs.IntVar(&o.customers, "customers", 8, "customers who place the orders")
	fs.IntVar(&o.products, "products", 200, "products that are made and ordered")
	fs.DurationVar(&o.check, "check", time.Minute, "how long orders are looked at when all is measured; 0: not at all, for a server that is to rest")
	fs.BoolVar(&o.json, "json", false, "print JSON")
	fs.BoolVar(&o.verbose, "verbose", false, "with --self: log what happens")
	fs.StringVar(&o.profile, "cpu-profile", "", "with --self: file for a CPU profile of the run")
	o.password = os.Getenv("WAYBILL_ADMIN_PASSWORD")
	return cmd
}

func (o *loadOptions) run(cmd *cobra.Command) error {
	if (o.cfg.InFlight > 0) == (o.cfg.Rate > 0) {
		return &usageError{errors.New("one of --in-flight and --rate is required, and not both")}
	}
	if o.customers < 1 || o.conns < 1 || o.products < 1 {
		return &usageError{errors.New("--customers, --connections and --products must be positive")}
	}
	if !o.self {
		if o.profile != "" {
			return &usageError{errors.New("--cpu-profile is of this process: use it with --self, or ask the server's admin port (/debug/pprof/profile)")}
		}
		if o.email == "" || o.password == "" {
			return errs.E(errs.Invalid, "NO_ADMIN", "to make products for the load, an administrator's account is needed: set WAYBILL_ADMIN_EMAIL and WAYBILL_ADMIN_PASSWORD, or use --self")
		}
		if err := o.prepare(cmd.Context(), o.server); err != nil {
			return err
		}
		rep, err := o.measure(cmd.Context(), cmd)
		return o.tell(cmd.OutOrStdout(), rep, err)
	}
	dir := o.dir
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "waybill-load-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	cfg := localConfig(dir, o.verbose)
	cfg.DB, cfg.NATS = o.db, o.nats
	if o.batch > 0 {
		cfg.BatchSize = o.batch
	}
	cfg.Shipping.ScanEvery = 0 // the saga is over when the shipment is scheduled
	cfg.Admin.Email = "load-" + uuid.NewString() + "@example.com"
	o.email, o.password = cfg.Admin.Email, cfg.Admin.Password.Reveal()
	var rep *load.Report
	err := withNode(cmd.Context(), cfg, func(ctx context.Context, n *node.Node) error {
		err := o.prepare(ctx, n.GRPCAddr())
		if err == nil {
			rep, err = o.measure(ctx, cmd)
		}
		return err
	})
	if err == nil && rep.Invariants != nil {
		err = o.books(cmd.Context(), cfg, rep.Invariants)
	}
	return o.tell(cmd.OutOrStdout(), rep, err)
}

// profiled runs fn and writes a CPU profile of it to path, unless that is empty.
func profiled(path string, fn func() error) error {
	if path == "" {
		return fn()
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	err = fn()
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}

// measure runs the load that is prepared and looks at its orders. It may fail and
// have a report.
func (o *loadOptions) measure(ctx context.Context, cmd *cobra.Command) (rep *load.Report, err error) {
	errOut := cmd.ErrOrStderr()
	live := isTerminal(errOut)
	o.cfg.Tick = func(p load.Progress) {
		if live {
			fmt.Fprintf(errOut, "\r\033[K%s", p)
		} else if o.verbose {
			fmt.Fprintln(errOut, p)
		}
	}
	var placed *load.Placed
	err = profiled(o.profile, func() (err error) {
		rep, placed, err = load.Run(ctx, o.cfg)
		return err
	})
	if live {
		fmt.Fprint(errOut, "\r\033[K")
	}
	if err != nil || o.check <= 0 || ctx.Err() != nil {
		return rep, err
	}
	rep.Invariants, err = placed.Check(ctx, o.check)
	return rep, err
}

// prepare connects, makes products and opens accounts for customers.
func (o *loadOptions) prepare(ctx context.Context, server string) error {
	for range o.conns {
		conn, err := rpc.Dial("static:///"+server, rpc.DialConfig{})
		if err != nil {
			return err
		}
		context.AfterFunc(ctx, func() { _ = conn.Close() })
		o.cfg.Conns = append(o.cfg.Conns, conn)
	}
	auth := authv1.NewAuthServiceClient(o.cfg.Conns[0])
	admin, err := auth.LogIn(ctx, &authv1.LogInRequest{Email: o.email, Password: o.password})
	if err != nil {
		return fmt.Errorf("log in as %s: %w", o.email, err)
	}
	if err := o.stock(ctx, o.cfg.Conns[0], admin.GetTokens().GetAccessToken()); err != nil {
		return fmt.Errorf("make products: %w", err)
	}
	for i := range o.customers {
		up, err := auth.SignUp(ctx, &authv1.SignUpRequest{
			Email: fmt.Sprintf("load-%d-%s@example.com", i, uuid.NewString()), Password: uuid.NewString(), DisplayName: fmt.Sprintf("Load %d", i),
		})
		if err != nil {
			return fmt.Errorf("sign a customer up: %w", err)
		}
		c := load.NewCustomer(up.GetTokens().GetAccessToken())
		o.cfg.Customers = append(o.cfg.Customers, c)
		go renew(ctx, auth, c, up.GetTokens())
	}
	return nil
}

// renew keeps a customer's access token good for as long as the load runs.
func renew(ctx context.Context, auth authv1.AuthServiceClient, c *load.Customer, t *authv1.Tokens) {
	for {
		timer := time.NewTimer(max(time.Until(t.GetAccessExpireTime().AsTime())/2, time.Second))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		resp, err := auth.RefreshToken(ctx, &authv1.RefreshTokenRequest{RefreshToken: t.GetRefreshToken()})
		if err != nil {
			continue
		}
		t = resp.GetTokens()
		c.Renew(t.GetAccessToken())
	}
}

// stock makes products with more units than any load can order, and reads back
// their ids.
func (o *loadOptions) stock(ctx context.Context, conn grpc.ClientConnInterface, token string) error {
	run := "LOAD-" + uuid.NewString()[:8]
	rows := make([]*inventoryv1.ImportProductsRequest, o.products)
	for i := range rows {
		rows[i] = &inventoryv1.ImportProductsRequest{
			LineNumber: int32(i + 2), Sku: fmt.Sprintf("%s-%04d", run, i), Name: fmt.Sprintf("Load product %d", i), Category: "load",
			Price: &typev1.Money{MinorUnits: int64(500 + i), CurrencyCode: "EUR"}, InitialStock: 1_000_000_000,
		}
	}
	if err := demo.Import(ctx, conn, token, rows); err != nil {
		return err
	}
	client := inventoryv1.NewInventoryServiceClient(conn)
	req := &inventoryv1.ListProductsRequest{PageSize: 100, Filter: fmt.Sprintf("sku >= %q AND sku <= %q", run+"-", run+"-9999")}
	for {
		page, err := client.ListProducts(ctx, req)
		if err != nil {
			return err
		}
		o.cfg.Products = append(o.cfg.Products, page.GetProducts()...)
		if req.PageToken = page.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	if len(o.cfg.Products) != o.products {
		return fmt.Errorf("%d products were made, %d found", o.products, len(o.cfg.Products))
	}
	return nil
}
