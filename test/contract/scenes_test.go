package contract_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/outbox"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/shipping"
)

// An outcome is how an order ended.
type outcome struct {
	Scene   string `json:"scene"`
	OrderID string `json:"order_id"`
	Status  string `json:"status"`
	Reason  string `json:"reason,omitempty"`
}

// A scene is an order and what becomes of it.
type scene struct {
	name     string
	token    string // tok_ok if empty
	region   string // NO if empty
	quantity int32  // 2 if 0
	act      func(p *play)
}

const (
	pickedUp  = shippingv1.ScanKind_SCAN_KIND_PICKED_UP
	inTransit = shippingv1.ScanKind_SCAN_KIND_IN_TRANSIT
	delivered = shippingv1.ScanKind_SCAN_KIND_DELIVERED
	lost      = shippingv1.ScanKind_SCAN_KIND_LOST
	goingBack = shippingv1.ScanKind_SCAN_KIND_RETURN_PICKED_UP
	cameBack  = shippingv1.ScanKind_SCAN_KIND_RETURNED
)

// scenes are all ways in which an order ends. One that is recorded stays here as long as
// its record does.
var scenes = []scene{
	{name: "delivered", act: func(p *play) { p.scan(pickedUp, inTransit, delivered) }},
	{name: "scheduled only"},
	{name: "out of stock", quantity: 999},
	{name: "declined", token: "tok_declined"},
	{name: "capture fails", token: "tok_capture_fails"},
	{name: "the provider does not say at once", token: "tok_timeout", act: func(p *play) { p.wait(5 * time.Minute) }},
	{name: "no carrier goes there", region: "AQ"},
	{name: "lost in the house", act: func(p *play) { p.scan(lost) }},
	{name: "lost on its way", act: func(p *play) { p.scan(pickedUp, lost) }},
	{name: "cancelled at once", act: (*play).cancel},
	{name: "cancelled once a carrier is booked", act: func(p *play) { p.wait(time.Minute); p.cancel() }},
	{name: "cancelled, and the carrier has it", act: func(p *play) {
		p.settle()
		p.carrier.unstoppable[p.id] = true
		p.cancel()
		p.scan(pickedUp, delivered)
	}},
	{name: "returned", act: func(p *play) { p.scan(pickedUp, delivered); p.giveBack(); p.scan(goingBack, cameBack) }},
	{name: "half is paid back", act: func(p *play) { p.scan(pickedUp, delivered); p.refund(1000) }},
	{name: "the goods are held for too short a time", token: "tok_timeout", act: func(p *play) {
		p.bank.silent = true
		p.wait(12 * time.Minute)
		p.bank.silent = false
		p.wait(10 * time.Minute)
	}},
	{name: "the carrier does not answer", act: func(p *play) {
		p.carrier.silent = true
		p.wait(17 * time.Minute)
		p.carrier.silent = false
		p.wait(5 * time.Minute)
	}},
}

// A play is a scene on a stage.
type play struct {
	*stage
	id   string // of the order
	user string
}

// perform plays everything there is: people, products, and each scene, one after the other.
func (s *stage) perform() (ends []outcome) {
	s.t.Helper()
	board, old := s.product("board", 500), s.product("old board", 1)
	s.shelves(board, old)
	customer := idOf("customer", curtain)
	for _, sc := range scenes {
		ends = append(ends, s.play(sc, board, customer))
	}
	return append(ends, s.person(board))
}

// play plays a scene to its end.
func (s *stage) play(sc scene, product, user string) outcome {
	s.t.Helper()
	p := &play{s, idOf("order "+sc.name, curtain), user}
	req := &orderv1.CreateOrderRequest{
		RequestId: sc.name, PaymentToken: "tok_ok", Lines: []*orderv1.CreateOrderLine{{ProductId: product, Quantity: 2}},
		ShipTo: &typev1.Address{Recipient: "Ann Lee", Lines: []string{"12 Harbour Street"}, Locality: "Bergen", PostalCode: "5003", RegionCode: "NO"},
	}
	if sc.token != "" {
		req.PaymentToken = sc.token
	}
	if sc.region != "" {
		req.ShipTo.RegionCode = sc.region
	}
	if sc.quantity != 0 {
		req.Lines[0].Quantity = sc.quantity
	}
	s.wanted = []string{p.id}
	s.do("order", user, auth.Customer, func(ctx context.Context, server any) error {
		o, err := server.(orderv1.OrderServiceServer).CreateOrder(ctx, req)
		if err == nil && o.GetOrderId() != p.id {
			err = fmt.Errorf("the order is %s", o.GetOrderId())
		}
		return err
	})
	if sc.act != nil {
		sc.act(p)
	}
	s.wait(time.Minute)
	return p.outcome(sc.name)
}

func (p *play) outcome(scene string) outcome {
	p.t.Helper()
	ctx := auth.WithCaller(p.t.Context(), auth.Caller{UserID: p.user, Role: auth.Customer})
	o, err := p.actor("order").server.(orderv1.OrderServiceServer).GetOrder(ctx, &orderv1.GetOrderRequest{OrderId: p.id})
	if err != nil {
		p.t.Fatal(err)
	}
	return outcome{Scene: scene, OrderID: p.id, Status: o.GetStatus().String(), Reason: strings.TrimPrefix(o.GetReason().String(), "ORDER_REASON_UNSPECIFIED")}
}

// scan lets the carrier see the parcel.
func (p *play) scan(kinds ...shippingv1.ScanKind) {
	for _, k := range kinds {
		p.wait(time.Minute)
		p.carrier.see(p.id, k, p.now)
	}
	p.wait(time.Minute)
}

func (p *play) cancel() {
	p.do("order", p.user, auth.Customer, func(ctx context.Context, server any) error {
		_, err := server.(orderv1.OrderServiceServer).CancelOrder(ctx, &orderv1.CancelOrderRequest{OrderId: p.id, RequestId: "cancel " + p.id, Reason: "changed my mind"})
		return err
	})
}

func (p *play) giveBack() {
	p.do("order", p.user, auth.Customer, func(ctx context.Context, server any) error {
		_, err := server.(orderv1.OrderServiceServer).ReturnOrder(ctx, &orderv1.ReturnOrderRequest{OrderId: p.id, RequestId: "return " + p.id, Reason: "too small"})
		return err
	})
}

func (p *play) refund(cents int64) {
	var id string
	if err := p.actor("payment").db.QueryRow(p.t.Context(), `SELECT payment_id FROM payments WHERE id = ?`, p.id).Scan(&id); err != nil {
		p.t.Fatal(err)
	}
	p.do("payment", "staff", auth.Staff, func(ctx context.Context, server any) error {
		_, err := server.(paymentv1.PaymentServiceServer).RefundPayment(ctx, &paymentv1.RefundPaymentRequest{
			RequestId: "refund " + p.id, PaymentId: id, Amount: &typev1.Money{MinorUnits: cents, CurrencyCode: "EUR"}, Reason: "scratched in transit",
		})
		return err
	})
}

// product puts something on the shelves.
func (s *stage) product(name string, stock int64) string {
	id := idOf("product "+name, curtain)
	s.wanted = []string{id}
	s.do("inventory", "staff", auth.Staff, func(ctx context.Context, server any) error {
		out, err := server.(inventoryv1.InventoryServiceServer).CreateProduct(ctx, &inventoryv1.CreateProductRequest{
			RequestId: name, Sku: strings.ReplaceAll(strings.ToUpper(name), " ", "-"), Name: name, Category: "kitchen/boards",
			Price: &typev1.Money{MinorUnits: 1999, CurrencyCode: "EUR"}, InitialStock: stock,
		})
		if err == nil && out.GetProductId() != id {
			err = fmt.Errorf("the product is %s", out.GetProductId())
		}
		return err
	})
	s.settle()
	return id
}

// shelves changes what is on them.
func (s *stage) shelves(board, old string) {
	for _, change := range []func(ctx context.Context, server inventoryv1.InventoryServiceServer) error{
		func(ctx context.Context, server inventoryv1.InventoryServiceServer) error {
			_, err := server.UpdateProduct(ctx, &inventoryv1.UpdateProductRequest{
				ProductId: board, Product: &inventoryv1.ProductPatch{Name: "oak board"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"name"}},
			})
			return err
		},
		func(ctx context.Context, server inventoryv1.InventoryServiceServer) error {
			_, err := server.AdjustStock(ctx, &inventoryv1.AdjustStockRequest{RequestId: "adjust", ProductId: board, Delta: -20, Reason: "water damage"})
			return err
		},
		func(ctx context.Context, server inventoryv1.InventoryServiceServer) error {
			_, err := server.ArchiveProduct(ctx, &inventoryv1.ArchiveProductRequest{ProductId: old})
			return err
		},
	} {
		s.do("inventory", "staff", auth.Staff, func(ctx context.Context, server any) error {
			return change(ctx, server.(inventoryv1.InventoryServiceServer))
		})
		s.settle()
	}
}

// person signs up, changes, orders something and is erased.
func (s *stage) person(product string) outcome {
	s.t.Helper()
	const email = "ann@example.com"
	var id, session string
	s.do("auth", "", auth.Customer, func(ctx context.Context, server any) error {
		resp, err := server.(authv1.AuthServiceServer).SignUp(ctx, &authv1.SignUpRequest{Email: email, Password: "correct horse battery", DisplayName: "Ann Lee"})
		id = resp.GetUserId()
		return err
	})
	id = s.rename(id, email)
	if err := s.actor("auth").db.QueryRow(s.t.Context(), `SELECT id FROM sessions WHERE user_id = ?`, id).Scan(&session); err != nil {
		s.t.Fatal(err)
	}
	s.settle()
	s.do("auth", id, auth.Customer, func(ctx context.Context, server any) error {
		_, err := server.(authv1.AuthServiceServer).RevokeSession(ctx, &authv1.RevokeSessionRequest{SessionId: session})
		return err
	})
	for _, role := range []optionsv1.Role{optionsv1.Role_ROLE_STAFF, optionsv1.Role_ROLE_CUSTOMER} {
		s.do("auth", "admin", auth.Admin, func(ctx context.Context, server any) error {
			_, err := server.(authv1.AuthServiceServer).SetUserRole(ctx, &authv1.SetUserRoleRequest{UserId: id, Role: role})
			return err
		})
		s.settle()
	}
	s.do("user", id, auth.Customer, func(ctx context.Context, server any) error {
		_, err := server.(userv1.UserServiceServer).UpdateUser(ctx, &userv1.UpdateUserRequest{UserId: id, User: &userv1.UserPatch{DisplayName: "Ann"}})
		return err
	})
	end := s.play(scene{name: "of somebody who is erased", act: func(p *play) { p.scan(pickedUp, delivered) }}, product, id)
	s.do("user", id, auth.Customer, func(ctx context.Context, server any) error {
		_, err := server.(userv1.UserServiceServer).DeleteUser(ctx, &userv1.DeleteUserRequest{UserId: id})
		return err
	})
	s.wait(10 * time.Minute)
	for service, query := range map[string]string{
		"auth": `SELECT count(*) FROM accounts WHERE id = ? AND erased = 1`, "order": `SELECT count(*) FROM order_details WHERE user_id = ? AND ship_to IS NULL`,
		"shipping": `SELECT count(*) FROM shipments WHERE user_id = ? AND ship_to IS NULL`,
	} {
		var n int
		if err := s.actor(service).db.QueryRow(s.t.Context(), query, id).Scan(&n); err != nil || n != 1 {
			s.t.Errorf("%s has not erased the person (%v)", service, err)
		}
	}
	return end
}

// rename gives the account that was just opened for an address the id that it has in the past.
func (s *stage) rename(id, email string) string {
	s.t.Helper()
	for key, m := range s.past {
		if !strings.HasPrefix(key, "waybill.auth.v1.UserRegistered "+email+" ") {
			continue
		}
		recorded := m.Headers[outbox.HeaderSubject]
		for _, change := range []string{
			`UPDATE accounts SET id = ? WHERE id = ?`, `UPDATE sessions SET user_id = ? WHERE user_id = ?`, `UPDATE emails SET user_id = ? WHERE user_id = ?`,
		} {
			if _, err := s.actor("auth").db.Exec(s.t.Context(), change, recorded, id); err != nil {
				s.t.Fatal(err)
			}
		}
		return recorded
	}
	return id
}

var errSilent = errors.New("no answer")

// bank is the payment provider: the token decides.
type bank struct{ silent bool }

// Execute implements payment.Provider.
func (b *bank) Execute(_ context.Context, r payment.Request) (payment.Answer, error) {
	if b.silent || r.Token == "tok_timeout" && (r.Operation == payment.Authorize || r.Operation == payment.Capture) {
		return payment.Answer{}, errSilent
	}
	return b.outcome(r), nil
}

// Query implements payment.Provider.
func (b *bank) Query(_ context.Context, r payment.Request) (payment.Answer, error) {
	if b.silent {
		return payment.Answer{}, errSilent
	}
	return b.outcome(r), nil
}

func (b *bank) outcome(r payment.Request) payment.Answer {
	a := payment.Answer{Verdict: payment.Approved, OrderID: r.OrderID, Amount: r.Amount, Reference: "ref-" + r.Operation.String()}
	if r.Token == "tok_declined" && r.Operation == payment.Authorize || r.Token == "tok_capture_fails" && r.Operation == payment.Capture {
		a.Verdict, a.Reference, a.Reason = payment.Refused, "", "insufficient_funds"
	}
	return a
}

// carrier moves parcels as it is told.
type carrier struct {
	s           *stage
	silent      bool
	unstoppable map[string]bool // orders whose parcels are with it already
	scans       map[string][]*shippingv1.Scan
}

func newCarrier(s *stage) *carrier {
	return &carrier{s: s, unstoppable: map[string]bool{}, scans: map[string][]*shippingv1.Scan{}}
}

func (c *carrier) see(order string, kind shippingv1.ScanKind, at time.Time) {
	c.scans[order] = append(c.scans[order], &shippingv1.Scan{ScanId: order + "-" + kind.String(), Kind: kind, ScanTime: timestamppb.New(at), Location: "Bergen"})
}

// Book implements shipping.Carrier.
func (c *carrier) Book(_ context.Context, _ string, r shipping.Request, _ shipping.AddressOf) (shipping.Answer, error) {
	switch {
	case c.silent:
		return shipping.Answer{}, errSilent
	case r.RegionCode == "AQ":
		return shipping.Answer{Reason: "address_not_served"}, nil
	}
	return shipping.Answer{Accepted: true, Carrier: "Parcels", Tracking: "T-" + r.OrderID}, nil
}

// CallOff implements shipping.Carrier.
func (c *carrier) CallOff(_ context.Context, _ string, r shipping.Request) (bool, error) {
	return !c.unstoppable[r.OrderID], nil
}

// Track implements shipping.Carrier.
func (c *carrier) Track(_ context.Context, r shipping.Request) ([]*shippingv1.Scan, error) {
	return c.scans[r.OrderID], nil
}
