// Package demo plays a day at a shop: it imports a product list, signs customers
// up, places orders that end in every possible way, watches them until they have
// ended, and checks that neither money nor stock was lost on the way.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waybill-dev/waybill/internal/rest"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
)

// Config says where to play and with what.
type Config struct {
	Base          string                   // of the REST interface
	Conn          grpc.ClientConnInterface // for what REST has not: client streams
	AdminEmail    string
	AdminPassword string
	Products      []*inventoryv1.ImportProductsRequest
	Customers     int
	Scale         int // how often the script is played; 1 places 204 orders

	Out      io.Writer
	Progress func(done, total int)                       // may be nil
	Check    func(ctx context.Context) ([]string, error) // gives what is wrong with ledger and stock
}

// demo is one performance.
type demo struct {
	cfg       Config
	admin     *rest.Client
	customers []*rest.Client
	products  []*inventoryv1.Product // with stock
	scarce    *inventoryv1.Product   // without
	over      atomic.Int64
}

// Run plays the demo. Its error says what did not end as it should have.
func Run(ctx context.Context, cfg Config) error {
	d := &demo{cfg: cfg, admin: &rest.Client{Base: cfg.Base, HTTP: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, MaxConnsPerHost: 0}}}}
	if d.cfg.Progress == nil {
		d.cfg.Progress = func(int, int) {}
	}
	begin := time.Now()
	if err := d.openShop(ctx); err != nil {
		return err
	}
	fmt.Fprintf(cfg.Out, "%d products imported and %d customers signed up in %s\n\n", len(cfg.Products), cfg.Customers, since(begin))

	begin = time.Now()
	results, err := d.play(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(cfg.Out, "%d orders placed over REST and watched over server-sent events until they ended, in %s\n\n", len(results), since(begin))
	table(cfg.Out, results)
	if err := d.waybills(ctx, results); err != nil {
		return err
	}
	return d.audit(ctx, results)
}

func since(t time.Time) time.Duration { return time.Since(t).Round(time.Millisecond) }

// openShop logs the administrator in, fills the shelves and lets customers in.
func (d *demo) openShop(ctx context.Context) error {
	var in authv1.LogInResponse
	err := d.admin.Do(ctx, http.MethodPost, "/v1/auth/login", "", &authv1.LogInRequest{Email: d.cfg.AdminEmail, Password: d.cfg.AdminPassword}, &in)
	if err != nil {
		return fmt.Errorf("log the administrator in: %w", err)
	}
	d.admin = d.admin.As(in.GetTokens().GetAccessToken())
	if err := Import(ctx, d.cfg.Conn, in.GetTokens().GetAccessToken(), d.cfg.Products); err != nil {
		return fmt.Errorf("import products: %w", err)
	}
	if err := d.browse(ctx); err != nil {
		return fmt.Errorf("list products: %w", err)
	}
	for i := range d.cfg.Customers {
		var up authv1.SignUpResponse
		err := d.admin.As("").Do(ctx, http.MethodPost, "/v1/auth/signup", "", &authv1.SignUpRequest{
			Email:       fmt.Sprintf("customer-%d-%s@example.com", i+1, uuid.NewString()[:8]),
			Password:    uuid.NewString(),
			DisplayName: fmt.Sprintf("Customer %d", i+1),
		}, &up)
		if err != nil {
			return fmt.Errorf("sign customer %d up: %w", i+1, err)
		}
		d.customers = append(d.customers, d.admin.As(up.GetTokens().GetAccessToken()))
	}
	return nil
}

// Import sends a product list through the client stream; nothing is imported
// unless all of it is.
func Import(ctx context.Context, conn grpc.ClientConnInterface, token string, products []*inventoryv1.ImportProductsRequest) error {
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	stream, err := inventoryv1.NewInventoryServiceClient(conn).ImportProducts(ctx)
	if err != nil {
		return err
	}
	for _, p := range products {
		if err := stream.Send(p); err != nil {
			break // CloseAndRecv says why
		}
	}
	_, err = stream.CloseAndRecv()
	return err
}

// browse reads the catalogue as a customer would, and sets aside one product
// whose shelf is emptied, for those who come too late.
func (d *demo) browse(ctx context.Context) error {
	var page inventoryv1.ListProductsResponse
	for token := ""; ; token = page.GetNextPageToken() {
		page.Reset()
		if err := d.admin.Do(ctx, http.MethodGet, "/v1/products?page_size=100&page_token="+token, "", nil, &page); err != nil {
			return err
		}
		for _, p := range page.GetProducts() {
			if p.GetAvailable() >= 20 {
				d.products = append(d.products, p)
			}
		}
		if page.GetNextPageToken() == "" {
			break
		}
	}
	if len(d.products) < 20 {
		return fmt.Errorf("only %d products have 20 units in stock, which is too few for the demo", len(d.products))
	}
	d.scarce, d.products = d.products[0], d.products[1:]
	return d.admin.Do(ctx, http.MethodPost, "/v1/products/"+d.scarce.GetProductId()+":adjustStock", uuid.NewString(),
		&inventoryv1.AdjustStockRequest{Delta: -d.scarce.GetAvailable(), Reason: "sold at the counter"}, &inventoryv1.Stock{})
}

// play places all orders of the script, a few dozen at a time, and waits for
// their ends.
func (d *demo) play(ctx context.Context) ([]*result, error) {
	var all []scene
	for range max(d.cfg.Scale, 1) {
		all = append(all, script()...)
	}
	results := make([]*result, len(all))
	errAll := make([]error, len(all))
	slots := make(chan struct{}, 48)
	var wg sync.WaitGroup
	for i, s := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			results[i], errAll[i] = d.act(ctx, i, s)
			d.cfg.Progress(int(d.over.Add(1)), len(all))
		})
	}
	wg.Wait()
	return results, errors.Join(errAll...)
}

// act plays one scene: place, perhaps cancel or return or refund, watch.
func (d *demo) act(ctx context.Context, n int, s scene) (*result, error) {
	customer := d.customers[n%len(d.customers)]
	req := s.request(d, n)
	key := uuid.NewString()
	begin := time.Now()
	var order orderv1.Order
	if err := customer.Do(ctx, http.MethodPost, "/v1/orders", key, req, &order); err != nil {
		return nil, fmt.Errorf("place an order that should be %s: %w", s.outcome, err)
	}
	path := "/v1/orders/" + order.GetOrderId()
	if s.cancel {
		err := customer.Do(ctx, http.MethodPost, path+":cancel", uuid.NewString(), &orderv1.CancelOrderRequest{Reason: "changed my mind"}, &orderv1.Order{})
		if err != nil {
			return nil, fmt.Errorf("cancel an order just placed: %w", err)
		}
	}
	last, err := d.watch(ctx, customer, path, "")
	if err != nil {
		return nil, err
	}
	took := time.Since(begin)
	if s.refund {
		if err := d.refund(ctx, last); err != nil {
			return nil, err
		}
	}
	if s.sendBack && last.GetStatus() == orderv1.OrderStatus_ORDER_STATUS_DELIVERED {
		err := customer.Do(ctx, http.MethodPost, path+":return", uuid.NewString(), &orderv1.ReturnOrderRequest{Reason: "does not fit"}, &orderv1.Order{})
		if err != nil {
			return nil, fmt.Errorf("return a delivered order: %w", err)
		}
		if last, err = d.watch(ctx, customer, path, ""); err != nil {
			return nil, err
		}
		took = time.Since(begin)
	}
	return &result{scene: s, order: last, customer: customer, took: took}, nil
}

// watch follows an order until it has ended, going on where a broken stream
// stopped, and gives the order as it was then.
func (d *demo) watch(ctx context.Context, c *rest.Client, path, lastID string) (*orderv1.Order, error) {
	var last *orderv1.Order
	for try := 0; ; try++ {
		var err error
		lastID, err = c.Follow(ctx, path+":watch", lastID, func(ev rest.Event) (bool, error) {
			var msg orderv1.WatchOrderResponse
			if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(ev.Data, &msg); err != nil {
				return false, fmt.Errorf("event %s: %w", ev.ID, err)
			}
			last = msg.GetOrder()
			return !ended(last.GetStatus()), nil
		})
		if last != nil && ended(last.GetStatus()) {
			return last, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("order %s did not end: it is %s (%w)", path, last.GetStatus(), ctx.Err())
		}
		if try == 5 {
			return nil, fmt.Errorf("watch %s: %w", path, err)
		}
	}
}

func ended(s orderv1.OrderStatus) bool {
	switch s {
	case orderv1.OrderStatus_ORDER_STATUS_DELIVERED, orderv1.OrderStatus_ORDER_STATUS_RETURNED,
		orderv1.OrderStatus_ORDER_STATUS_REJECTED, orderv1.OrderStatus_ORDER_STATUS_CANCELLED:
		return true
	default:
		return false
	}
}

// refund pays half of a delivered order back, as staff does after a complaint.
func (d *demo) refund(ctx context.Context, o *orderv1.Order) error {
	half := o.GetTotal()
	half.MinorUnits /= 2
	var p paymentv1.Payment
	err := d.admin.Do(ctx, http.MethodPost, "/v1/payments/"+o.GetPaymentId()+":refund", uuid.NewString(),
		&paymentv1.RefundPaymentRequest{Amount: half, Reason: "scratched in transit"}, &p)
	if err != nil {
		return fmt.Errorf("refund half of order %s: %w", o.GetOrderId(), err)
	}
	return nil
}
