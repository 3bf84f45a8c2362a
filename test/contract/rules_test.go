// Package contract_test tries the validation rules of the contract on good and bad requests: that they compile, refuse what they should, and say what to mend.
package contract_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
)

const id = "01920b5e-7c3a-7f10-8e55-0c2f4b7a9d01"

func eur(cents int64) *typev1.Money { return &typev1.Money{MinorUnits: cents, CurrencyCode: "EUR"} }

func address() *typev1.Address {
	return &typev1.Address{Recipient: "Ada Lovelace", Lines: []string{"St James's Square 12"}, Locality: "London", PostalCode: "SW1Y 4JH", RegionCode: "GB"}
}

func createOrder(change func(*orderv1.CreateOrderRequest)) proto.Message {
	request := &orderv1.CreateOrderRequest{
		RequestId:    "2026-11-23/1",
		Lines:        []*orderv1.CreateOrderLine{{ProductId: id, Quantity: 1}},
		PaymentToken: "tok_ok",
		ShipTo:       address(),
	}
	change(request)
	return request
}

func createProduct(change func(*inventoryv1.CreateProductRequest)) proto.Message {
	request := &inventoryv1.CreateProductRequest{RequestId: "1", Sku: "B-1", Name: "A book", Description: "Two\nlines", Category: "books", Price: eur(1250), InitialStock: 3}
	change(request)
	return request
}

func updateUser(change func(*userv1.UpdateUserRequest)) proto.Message {
	request := &userv1.UpdateUserRequest{UserId: id, User: &userv1.UserPatch{DisplayName: "Ada"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}}}
	change(request)
	return request
}

func signUp(change func(*authv1.SignUpRequest)) proto.Message {
	request := &authv1.SignUpRequest{Email: "ada@example.com", Password: "correct horse", DisplayName: "Ada"}
	change(request)
	return request
}

func order(id string) proto.Message { return &orderv1.GetOrderRequest{OrderId: id} }

func lines(n int) []*orderv1.CreateOrderLine {
	all := make([]*orderv1.CreateOrderLine, n)
	for i := range all {
		all[i] = &orderv1.CreateOrderLine{ProductId: id, Quantity: 1}
	}
	return all
}

func TestRequestsAreHeldToTheRules(t *testing.T) {
	now := timestamppb.New(time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC))
	cases := []struct {
		name    string
		request proto.Message
		field   string // the field at fault; empty when the request is a good one
		problem string
	}{
		{"an order", createOrder(func(*orderv1.CreateOrderRequest) {}), "", ""},
		{"an order with the total expected", createOrder(func(r *orderv1.CreateOrderRequest) { r.ExpectedTotal = eur(1250) }), "", ""},
		{"an order with the most lines", createOrder(func(r *orderv1.CreateOrderRequest) { r.Lines = lines(100) }), "", ""},
		{"no key", createOrder(func(r *orderv1.CreateOrderRequest) { r.RequestId = "" }), "request_id", "must be 1 to 255 printable ASCII characters"},
		{"a key too long", createOrder(func(r *orderv1.CreateOrderRequest) { r.RequestId = strings.Repeat("k", 256) }), "request_id", "must be 1 to 255"},
		{"a key that is not ASCII", createOrder(func(r *orderv1.CreateOrderRequest) { r.RequestId = "schlüssel" }), "request_id", "must be 1 to 255"},
		{"a key with a line break", createOrder(func(r *orderv1.CreateOrderRequest) { r.RequestId = "a\nb" }), "request_id", "must be 1 to 255"},
		{"no lines", createOrder(func(r *orderv1.CreateOrderRequest) { r.Lines = nil }), "lines", "at least 1 item"},
		{"too many lines", createOrder(func(r *orderv1.CreateOrderRequest) { r.Lines = lines(101) }), "lines", "no more than 100 item"},
		{"quantity 0", createOrder(func(r *orderv1.CreateOrderRequest) { r.Lines[0].Quantity = 0 }), "lines[0].quantity", "greater than or equal to 1"},
		{"quantity -1", createOrder(func(r *orderv1.CreateOrderRequest) { r.Lines[0].Quantity = -1 }), "lines[0].quantity", "1"},
		{"quantity 1001", createOrder(func(r *orderv1.CreateOrderRequest) { r.Lines[0].Quantity = 1001 }), "lines[0].quantity", "1000"},
		{"no address", createOrder(func(r *orderv1.CreateOrderRequest) { r.ShipTo = nil }), "ship_to", "required"},
		{"an address without lines", createOrder(func(r *orderv1.CreateOrderRequest) { r.ShipTo.Lines = nil }), "ship_to.lines", "at least 1 item"},
		{"an empty address line", createOrder(func(r *orderv1.CreateOrderRequest) { r.ShipTo.Lines = []string{""} }), "ship_to.lines[0]", "at least 1 character"},
		{"an address with a NUL", createOrder(func(r *orderv1.CreateOrderRequest) { r.ShipTo.Locality = "Lon\x00don" }), "ship_to.locality", "must be one line of text"},
		{"an address turned round", createOrder(func(r *orderv1.CreateOrderRequest) { r.ShipTo.Recipient = "\u202eada" }), "ship_to.recipient", "must be one line of text"},
		{"a country in words", createOrder(func(r *orderv1.CreateOrderRequest) { r.ShipTo.RegionCode = "Germany" }), "ship_to.region_code", "pattern"},
		{"a card number for a token", createOrder(func(r *orderv1.CreateOrderRequest) { r.PaymentToken = "4242424242424242" }), "payment_token", "pattern"},
		{"a negative total", createOrder(func(r *orderv1.CreateOrderRequest) { r.ExpectedTotal = eur(-1) }), "expected_total", "must not be negative"},
		{"a total without currency", createOrder(func(r *orderv1.CreateOrderRequest) { r.ExpectedTotal = &typev1.Money{MinorUnits: 1} }), "expected_total.currency_code", "pattern"},
		{"a total in no currency", createOrder(func(r *orderv1.CreateOrderRequest) { r.ExpectedTotal = &typev1.Money{CurrencyCode: "XXX"} }), "expected_total.currency_code", "must not be in list"},

		{"an id", order(id), "", ""},
		{"no id", order(""), "order_id", "must be a UUID in lower-case letters"},
		{"an id in capitals", order(strings.ToUpper(id)), "order_id", "lower-case"},
		{"an id with spaces", order(" " + id), "order_id", "must be a UUID"},
		{"an id with a line break", order(id + "\n"), "order_id", "must be a UUID"},
		{"the nil UUID", order("00000000-0000-0000-0000-000000000000"), "order_id", "must be a UUID"},
		{"SQL for an id", order("' OR 1=1 --"), "order_id", "must be a UUID"},
		{"an emoji for an id", order("📦"), "order_id", "must be a UUID"},
		{"no ids", &userv1.BatchGetUsersRequest{}, "user_ids", "at least 1 item"},
		{"an id twice", &userv1.BatchGetUsersRequest{UserIds: []string{id, id}}, "user_ids", "unique"},
		{"a bad id among good ones", &userv1.BatchGetUsersRequest{UserIds: []string{id, "x"}}, "user_ids[1]", "must be a UUID"},

		{"a page", &orderv1.ListOrdersRequest{PageSize: 1_000_000_000, Filter: `status = "PLACED"`, OrderBy: "create_time desc"}, "", ""},
		{"a negative page", &orderv1.ListOrdersRequest{PageSize: -1}, "page_size", "greater than or equal to 0"},
		{"a filter too long", &orderv1.ListOrdersRequest{Filter: strings.Repeat("a", 1025)}, "filter", "at most 1024"},

		{"a product", createProduct(func(*inventoryv1.CreateProductRequest) {}), "", ""},
		{"a product that costs nothing", createProduct(func(r *inventoryv1.CreateProductRequest) { r.Price = eur(0) }), "", ""},
		{"no price", createProduct(func(r *inventoryv1.CreateProductRequest) { r.Price = nil }), "price", "required"},
		{"a negative price", createProduct(func(r *inventoryv1.CreateProductRequest) { r.Price = eur(-1) }), "price", "must be 0 to 1000000000000"},
		{"a price that would overflow an order", createProduct(func(r *inventoryv1.CreateProductRequest) { r.Price = eur(1_000_000_000_001) }), "price", "must be 0 to 1000000000000"},
		{"a SKU with a blank", createProduct(func(r *inventoryv1.CreateProductRequest) { r.Sku = "B 1" }), "sku", "pattern"},
		{"a name of two lines", createProduct(func(r *inventoryv1.CreateProductRequest) { r.Name = "A\nbook" }), "name", "must be one line of text"},
		{"a description with an escape sequence", createProduct(func(r *inventoryv1.CreateProductRequest) { r.Description = "\x1b[2J" }), "description", "must be text without control"},
		{"negative stock", createProduct(func(r *inventoryv1.CreateProductRequest) { r.InitialStock = -1 }), "initial_stock", "greater than or equal to 0"},
		{"stock changed by nothing", &inventoryv1.AdjustStockRequest{RequestId: "1", ProductId: id, Reason: "counted"}, "delta", "must not be in list"},
		{"stock changed without reason", &inventoryv1.AdjustStockRequest{RequestId: "1", ProductId: id, Delta: -1}, "reason", "at least 1 character"},

		{"a change of a profile", updateUser(func(*userv1.UpdateUserRequest) {}), "", ""},
		{"a change of the address book", updateUser(func(r *userv1.UpdateUserRequest) {
			r.User, r.UpdateMask = &userv1.UserPatch{Addresses: []*typev1.Address{address()}}, nil
		}), "", ""},
		{"a change of what cannot be changed", updateUser(func(r *userv1.UpdateUserRequest) { r.UpdateMask.Paths = []string{"role"} }), "update_mask", "display_name"},
		{"a change of everything", updateUser(func(r *userv1.UpdateUserRequest) { r.UpdateMask.Paths = []string{"*"} }), "update_mask", "display_name"},
		{"a change of nothing", updateUser(func(r *userv1.UpdateUserRequest) { r.User = nil }), "user", "required"},

		{"an account", signUp(func(*authv1.SignUpRequest) {}), "", ""},
		{"a password with letters of every kind", signUp(func(r *authv1.SignUpRequest) { r.Password = "pässwörter📦" }), "", ""},
		{"a password too short", signUp(func(r *authv1.SignUpRequest) { r.Password = "123456789" }), "password", "at least 10 characters"},
		{"a password too long", signUp(func(r *authv1.SignUpRequest) { r.Password = strings.Repeat("p", 129) }), "password", "at most 128 characters"},
		{"a password with a NUL", signUp(func(r *authv1.SignUpRequest) { r.Password = "correct\x00horse" }), "password", "contain"},
		{"not an address", signUp(func(r *authv1.SignUpRequest) { r.Email = "ada" }), "email", "valid email"},
		{"two addresses in one", signUp(func(r *authv1.SignUpRequest) { r.Email = "ada@example.com\r\nbcc:eve@example.com" }), "email", "valid email"},

		{"a whole refund", &paymentv1.RefundPaymentRequest{RequestId: "1", PaymentId: id, Reason: "broken"}, "", ""},
		{"a refund of nothing", &paymentv1.RefundPaymentRequest{RequestId: "1", PaymentId: id, Reason: "broken", Amount: eur(0)}, "amount", "must be more than nothing"},
		{"a settlement without anything", &paymentv1.ReconcileRequest{}, "content", "required"},
		{"a settlement that ends before it begins", &paymentv1.ReconcileRequest{Content: &paymentv1.ReconcileRequest_Period{
			Period: &paymentv1.SettlementPeriod{StartTime: now, EndTime: now},
		}}, "period", "end_time must be after start_time"},
		{"an account of the ledger that does not exist", &paymentv1.ExportLedgerRequest{Account: 99}, "account", "defined"},
		{"a notice too long", &paymentv1.HandleProviderWebhookRequest{Body: make([]byte, 65537)}, "body", "at most 65536"},

		{"a scan", &shippingv1.ReportScansRequest{ScanId: "s1", TrackingNumber: "WB1", Kind: shippingv1.ScanKind_SCAN_KIND_PICKED_UP, ScanTime: now}, "", ""},
		{"a scan of nothing", &shippingv1.ReportScansRequest{ScanId: "s1", TrackingNumber: "WB1", ScanTime: now}, "kind", "must not be in list"},
		{"a scan at no time", &shippingv1.ReportScansRequest{ScanId: "s1", TrackingNumber: "WB1", Kind: shippingv1.ScanKind_SCAN_KIND_PICKED_UP}, "scan_time", "required"},
		{"no command", &orderv1.WatchOrdersRequest{}, "command", "required"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := protovalidate.Validate(c.request)
			if c.field == "" {
				if err != nil {
					t.Fatalf("a good request is refused: %v", err)
				}
				return
			}
			var invalid *protovalidate.ValidationError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v, want a validation error", err)
			}
			for _, violation := range invalid.Violations {
				if protovalidate.FieldPathString(violation.Proto.GetField()) == c.field && strings.Contains(violation.Proto.GetMessage(), c.problem) {
					return
				}
			}
			t.Errorf("got %v, want %s: … %s …", err, c.field, c.problem)
		})
	}
}

func BenchmarkValidateCreateOrder(b *testing.B) {
	request := createOrder(func(*orderv1.CreateOrderRequest) {})
	for b.Loop() {
		if err := protovalidate.Validate(request); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidateIdentifier(b *testing.B) {
	request := order(id)
	for b.Loop() {
		if err := protovalidate.Validate(request); err != nil {
			b.Fatal(err)
		}
	}
}
