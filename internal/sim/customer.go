package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/idempotency"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/order"
)

// command is one command under way in a process.
type command struct {
	name  string
	ended bool
	err   error
	then  func(error)
}

// command has a process carry out a command. Then is told how it ended, also when
// the process dies.
func (p *process) command(name string, do func(ctx context.Context) error, then func(error)) {
	p.w.note("command", p.id, name)
	c := &command{name: name, then: then}
	p.commands = append(p.commands, c)
	ctx := p.ctx
	p.drive.Command(func() {
		c.err = do(ctx)
		c.ended = true
	})
	p.reap()
	p.work()
}

// reap tells those whose commands have ended.
func (p *process) reap() {
	for i := 0; i < len(p.commands); {
		c := p.commands[i]
		if !c.ended {
			i++
			continue
		}
		p.commands = append(p.commands[:i:i], p.commands[i+1:]...)
		how := "well"
		if c.err != nil {
			how = errs.KindOf(c.err).String() + " " + errs.ReasonOf(c.err)
		}
		p.w.note("answered", c.name, how)
		c.then(c.err)
	}
}

// line is the channel from one service to another.
type line struct {
	w  *world
	to string
}

// Invoke implements grpc.ClientConnInterface: it knows the one call there is.
func (l *line) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	away := errs.E(errs.Unavailable, "AWAY", "the %s service cannot be reached", l.to)
	if l.w.chance(l.w.rates.away) {
		return away
	}
	for _, p := range l.w.service(l.to).replicas {
		if !p.up {
			continue
		}
		if req, ok := args.(*inventoryv1.QuoteRequest); ok {
			resp, err := p.server.(inventoryv1.InventoryServiceServer).Quote(ctx, req)
			if err == nil {
				proto.Merge(reply.(proto.Message), resp)
			}
			return err
		}
		return fmt.Errorf("sim: nobody calls %s", method)
	}
	return away
}

// NewStream implements grpc.ClientConnInterface.
func (l *line) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, fmt.Errorf("sim: there are no streams")
}

// product is something to be had.
type product struct {
	id    string
	stock int64
}

// as gives a context for a write of somebody.
func (w *world) as(ctx context.Context, user string, role auth.Role, method, key string, req proto.Message) context.Context {
	ctx = auth.WithCaller(ctx, auth.Caller{UserID: user, Role: role})
	if w.opt.Mutant == NoIdempotency {
		return ctx
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		w.violated("simulator", "", "%v", err)
	}
	sum := sha256.Sum256(data)
	return idempotency.NewContext(ctx, idempotency.Key{Caller: "user:" + user, Method: method, Value: key, Fingerprint: sum[:]})
}

// stockUp makes the products; some are scarce.
func (w *world) stockUp() {
	for i := range 3 + w.plan.IntN(6) {
		req := &inventoryv1.CreateProductRequest{
			RequestId: fmt.Sprintf("p%d", i), Sku: fmt.Sprintf("SKU-%d", i), Name: fmt.Sprintf("Product %d", i),
			Price: &typev1.Money{MinorUnits: 100 + w.plan.Int64N(5000), CurrencyCode: "EUR"}, InitialStock: w.plan.Int64N(int64(2 * w.opt.Orders)),
		}
		p := w.service("inventory").replicas[0]
		p.command("product "+req.GetSku(), func(ctx context.Context) error {
			out, err := p.server.(inventoryv1.InventoryServiceServer).CreateProduct(w.as(ctx, "staff", auth.Staff, "CreateProduct", req.GetRequestId(), req), req)
			if err == nil {
				w.products = append(w.products, product{out.GetProductId(), req.GetInitialStock()})
			}
			return err
		}, func(err error) {
			if err != nil {
				w.violated("simulator", "", "product: %v", err)
			}
		})
		p.drive.Run(1)
		p.reap()
	}
}

// customer places one order and may think about it again.
type customer struct {
	w      *world
	n      int
	user   string
	req    *orderv1.CreateOrderRequest
	id     string // of the order
	answer []byte // the first
	wishes int    // commands that are not over
	failed bool   // the order was refused for good
}

// open tells whether the customer still waits for something.
func (c *customer) open() bool { return c.wishes > 0 }

func (w *world) newCustomer(n int) *customer {
	c := &customer{w: w, n: n, user: fmt.Sprintf("user%d", w.plan.IntN(10))}
	c.req = &orderv1.CreateOrderRequest{
		RequestId: fmt.Sprintf("order%d", n), PaymentToken: "tok_ok",
		ShipTo: &typev1.Address{Recipient: "Ann", Lines: []string{"Street 1"}, Locality: "Oslo", PostalCode: "0150", RegionCode: "NO"},
	}
	for range 1 + w.plan.IntN(3) {
		c.req.Lines = append(c.req.Lines, &orderv1.CreateOrderLine{ProductId: w.products[w.plan.IntN(len(w.products))].id, Quantity: 1 + w.plan.Int32N(3)})
	}
	c.wishes++
	w.after(time.Duration(w.plan.Int64N(int64(arrival))), func() { c.place(0) })
	if w.rates.customer && w.plan.IntN(6) == 0 {
		c.wishes++
		w.after(time.Duration(w.plan.Int64N(int64(arrival))), func() { c.place(0) })
	}
	return c
}

// again has something tried once more after an error that allows it.
func (c *customer) again(try int, err error, do func(try int)) bool {
	switch errs.KindOf(err) {
	case errs.Unavailable, errs.Aborted, errs.DeadlineExceeded, errs.Canceled, errs.Internal:
	default:
		return false
	}
	c.w.count("command repeated after an error")
	c.w.after(c.w.between(100*time.Millisecond, 5*time.Second)<<min(try, 4), func() { do(try + 1) })
	return true
}

// place sends the order, with the same key until there is an answer.
func (c *customer) place(try int) {
	w := c.w
	p := w.pick(w.service("order"))
	if p == nil {
		c.again(try, errs.E(errs.Unavailable, "", "nobody there"), c.place)
		return
	}
	var got *orderv1.Order
	p.command("place "+c.req.GetRequestId(), func(ctx context.Context) (err error) {
		got, err = p.server.(orderv1.OrderServiceServer).CreateOrder(w.as(ctx, c.user, auth.Customer, "CreateOrder", c.req.GetRequestId(), c.req), c.req)
		return err
	}, func(err error) {
		if err != nil {
			if !c.again(try, err, c.place) {
				c.wishes--
				c.failed = true
				w.violated("orders", "", "order %d was refused: %v", c.n, err)
			}
			return
		}
		c.wishes--
		data, err := proto.MarshalOptions{Deterministic: true}.Marshal(got)
		if err != nil {
			w.violated("simulator", "", "%v", err)
		}
		if c.answer != nil {
			w.count("request answered again")
			if !bytes.Equal(data, c.answer) {
				w.violated("idempotency", got.GetOrderId(), "is the answer to request %s, and %s was before", c.req.GetRequestId(), c.id)
			}
			return
		}
		c.id, c.answer = got.GetOrderId(), data
		w.note("order", c.id, c.req.GetRequestId())
		c.think()
	})
}

// think decides what the customer, or the shop, wants later.
func (c *customer) think() {
	w := c.w
	if !w.rates.customer {
		return
	}
	at := func(least, most time.Duration) time.Duration {
		return least + time.Duration(w.plan.Int64N(int64(most-least)))
	}
	switch w.plan.IntN(10) {
	case 0, 1: // at once, or some time later
		c.wishes++
		w.after(at(time.Millisecond, 3*time.Second), func() { c.cancel(0) })
	case 2:
		c.wishes++
		w.after(at(time.Second, 6*time.Minute), func() { c.cancel(0) })
	case 3:
		c.wishes++
		w.after(at(2*time.Minute, 12*time.Minute), func() { c.sendBack(0) })
	case 4:
		for n := range 1 + w.plan.IntN(3) {
			c.wishes++
			w.after(at(10*time.Second, 12*time.Minute), func() { c.refund(n, 0) })
		}
	default: // is content
	}
}

func (c *customer) cancel(try int) {
	w := c.w
	p := w.pick(w.service("order"))
	if p == nil {
		c.again(try, errs.E(errs.Unavailable, "", "nobody there"), c.cancel)
		return
	}
	req := &orderv1.CancelOrderRequest{RequestId: fmt.Sprintf("cancel%d", c.n), OrderId: c.id}
	p.command("cancel "+c.id, func(ctx context.Context) error {
		_, err := p.server.(orderv1.OrderServiceServer).CancelOrder(w.as(ctx, c.user, auth.Customer, "CancelOrder", req.GetRequestId(), req), req)
		return err
	}, c.granted("cancellation", try, c.cancel))
}

func (c *customer) sendBack(try int) {
	w := c.w
	p := w.pick(w.service("order"))
	if p == nil {
		c.again(try, errs.E(errs.Unavailable, "", "nobody there"), c.sendBack)
		return
	}
	req := &orderv1.ReturnOrderRequest{RequestId: fmt.Sprintf("return%d", c.n), OrderId: c.id, Reason: "too small"}
	p.command("return "+c.id, func(ctx context.Context) error {
		_, err := p.server.(orderv1.OrderServiceServer).ReturnOrder(w.as(ctx, c.user, auth.Customer, "ReturnOrder", req.GetRequestId(), req), req)
		return err
	}, c.granted("return", try, c.sendBack))
}

// refund has the shop pay some of the money back; some ask for more than there is.
func (c *customer) refund(n, try int) {
	w := c.w
	id, amount := w.paymentOf(c.id)
	p := w.pick(w.service("payment"))
	if p == nil || id == "" {
		if try > 8 {
			c.wishes--
			return
		}
		w.after(10*time.Second, func() { c.refund(n, try+1) })
		return
	}
	req := &paymentv1.RefundPaymentRequest{RequestId: fmt.Sprintf("refund%d-%d", c.n, n), PaymentId: id, Reason: "scratched"}
	if part := int64(n+c.n) % 4; part > 0 {
		req.Amount = &typev1.Money{MinorUnits: max(1, amount*part/4), CurrencyCode: "EUR"}
	}
	p.command("refund "+c.id+" "+strconv.Itoa(n), func(ctx context.Context) error {
		_, err := p.server.(paymentv1.PaymentServiceServer).RefundPayment(w.as(ctx, "staff", auth.Staff, "RefundPayment", req.GetRequestId(), req), req)
		return err
	}, func(err error) {
		if errs.ReasonOf(err) == "REFUND_EXCEEDS_CAPTURED" {
			w.count("refund over the cap refused")
		}
		c.granted("refund", try, func(try int) { c.refund(n, try) })(err)
	})
}

// granted gives what is done about the answer to a wish.
func (c *customer) granted(what string, try int, do func(int)) func(error) {
	return func(err error) {
		if err != nil && c.again(try, err, do) {
			return
		}
		c.wishes--
		if err == nil {
			c.w.count(what + " granted")
		} else {
			c.w.count(what + " refused")
		}
	}
}

// statusOf reads how far an order is.
func (w *world) statusOf(id string) order.Status {
	var s int64
	if w.service("order").mem.Open().QueryRow(context.Background(), `SELECT status FROM orders WHERE id = ?`, id).Scan(&s) != nil {
		return 0
	}
	return order.Status(s)
}

func (w *world) paymentOf(orderID string) (id string, amount int64) {
	row := w.service("payment").mem.Open().QueryRow(context.Background(), `SELECT payment_id, amount FROM payments WHERE id = ?`, orderID)
	if row.Scan(&id, &amount) != nil {
		return "", 0
	}
	return id, amount
}
