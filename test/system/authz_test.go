package system_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
)

const (
	createOrder   = orderv1.OrderService_CreateOrder_FullMethodName
	getOrder      = orderv1.OrderService_GetOrder_FullMethodName
	cancelOrder   = orderv1.OrderService_CancelOrder_FullMethodName
	returnOrder   = orderv1.OrderService_ReturnOrder_FullMethodName
	getWaybill    = orderv1.OrderService_GetWaybill_FullMethodName
	getPayment    = paymentv1.PaymentService_GetPayment_FullMethodName
	refundPayment = paymentv1.PaymentService_RefundPayment_FullMethodName
	getShipment   = shippingv1.ShippingService_GetShipment_FullMethodName
	updateUser    = userv1.UserService_UpdateUser_FullMethodName
	updateProduct = inventoryv1.InventoryService_UpdateProduct_FullMethodName
	adjustStock   = inventoryv1.InventoryService_AdjustStock_FullMethodName
	createProduct = inventoryv1.InventoryService_CreateProduct_FullMethodName
)

// theirs gives an order of a new customer that has come to rest with everything
// it can have.
func (w *world) theirs(t *testing.T) (*user, *orderv1.Order, *inventoryv1.Product) {
	t.Helper()
	u, p := w.customer(t), w.product(t, euro(1999), 10)
	o := w.place(t, grpcDoor{}, u, cart(p, 1, "tok_ok"))
	return u, w.until(t, u, o.GetOrderId(), scheduled), p
}

// TestWhatBelongsToOthersDoesNotExist is B1: every call on something of somebody
// else gets the answer of a random id, and changes nothing.
func TestWhatBelongsToOthersDoesNotExist(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	a, o, p := w.theirs(t)
	before := w.see(t, a, p.GetProductId())
	throughBoth(t, func(t *testing.T, d door) {
		b := w.customer(t)
		for _, c := range []struct {
			method string
			req    func(id string) proto.Message
			id     string
			want   refusal
		}{
			{getOrder, func(id string) proto.Message { return &orderv1.GetOrderRequest{OrderId: id} }, o.GetOrderId(), missing},
			{getWaybill, func(id string) proto.Message { return &orderv1.GetWaybillRequest{OrderId: id} }, o.GetOrderId(), missing},
			{cancelOrder, func(id string) proto.Message { return &orderv1.CancelOrderRequest{OrderId: id} }, o.GetOrderId(), missing},
			{returnOrder, func(id string) proto.Message { return &orderv1.ReturnOrderRequest{OrderId: id} }, o.GetOrderId(), missing},
			{getPayment, func(id string) proto.Message { return &paymentv1.GetPaymentRequest{PaymentId: id} }, o.GetPaymentId(), missing},
			{getShipment, func(id string) proto.Message { return &shippingv1.GetShipmentRequest{ShipmentId: id} }, o.GetShipmentId(), missing},
			{userv1.UserService_GetUser_FullMethodName, func(id string) proto.Message { return &userv1.GetUserRequest{UserId: id} }, a.id, missing},
			{updateUser, func(id string) proto.Message {
				return &userv1.UpdateUserRequest{UserId: id, User: &userv1.UserPatch{DisplayName: "Mallory"}}
			}, a.id, missing},
			{userv1.UserService_DeleteUser_FullMethodName, func(id string) proto.Message { return &userv1.DeleteUserRequest{UserId: id} }, a.id, missing},
			{authv1.AuthService_RevokeSession_FullMethodName, func(id string) proto.Message { return &authv1.RevokeSessionRequest{SessionId: id} }, a.session, missing},
			{refundPayment, func(id string) proto.Message { return &paymentv1.RefundPaymentRequest{PaymentId: id, Reason: "please"} }, o.GetPaymentId(), forbidden},
		} {
			t.Run(c.method, func(t *testing.T) {
				theirs := try(t, d, w, b, c.method, c.req(c.id), nil)
				random := try(t, d, w, b, c.method, c.req(uuid.Must(uuid.NewV7()).String()), nil)
				c.want.check(t, theirs)
				if withoutTrace(theirs.text) != withoutTrace(random.text) {
					t.Errorf("the answer tells that it exists:\n%s\n%s", theirs.text, random.text)
				}
			})
		}
	})
	t.Run("watch", func(t *testing.T) {
		b := w.customer(t)
		for _, id := range []string{o.GetOrderId(), uuid.NewString()} {
			s, err := orderv1.NewOrderServiceClient(w.conn).WatchOrder(b.as(soon(t)), &orderv1.WatchOrderRequest{OrderId: id})
			must(t, err)
			_, err = s.Recv()
			missing.check(t, ofStatus(err))
			missing.check(t, w.send(t, b, http.MethodGet, "/v1/orders/"+id+":watch", "", "Accept", "text/event-stream"))
			track, err := shippingv1.NewShippingServiceClient(w.conn).TrackShipment(b.as(soon(t)), &shippingv1.TrackShipmentRequest{ShipmentId: o.GetShipmentId()})
			must(t, err)
			_, err = track.Recv()
			missing.check(t, ofStatus(err))
		}
	})
	before.same(t, w.see(t, a, p.GetProductId()))
}

var (
	missing   = refusal{code: codes.NotFound}
	forbidden = refusal{code: codes.PermissionDenied}
)

func TestAListShowsOnlyWhatIsOnesOwn(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	a, b := w.customer(t), w.customer(t)
	p := w.product(t, euro(100), 100)
	for range 3 {
		w.place(t, grpcDoor{}, a, cart(p, 1, "tok_ok"))
		w.place(t, grpcDoor{}, b, cart(p, 1, "tok_ok"))
	}
	throughBoth(t, func(t *testing.T, d door) {
		list := func(u *user, req *orderv1.ListOrdersRequest) *orderv1.ListOrdersResponse {
			return ask(t, d, w, u, listOrders, req, &orderv1.ListOrdersResponse{})
		}
		ofA := list(a, &orderv1.ListOrdersRequest{PageSize: 1})
		if ofA.GetNextPageToken() == "" {
			t.Fatal("three orders fit on a page of one")
		}
		for name, filter := range map[string]string{
			"none": "", "for everything": `create_time > "2000-01-01T00:00:00Z"`, "or everything": `status = PLACED OR create_time > "2000-01-01T00:00:00Z"`,
		} {
			for _, o := range list(b, &orderv1.ListOrdersRequest{Filter: filter, PageSize: 100}).GetOrders() {
				if o.GetUserId() != b.id {
					t.Errorf("filter %s shows an order of somebody else", name)
				}
			}
		}
		for name, c := range map[string]struct {
			req   *orderv1.ListOrdersRequest
			field string
		}{
			"B2 filter by a user":               {&orderv1.ListOrdersRequest{Filter: `user_id = "` + a.id + `"`}, "filter"},
			"B2 SQL in a filter":                {&orderv1.ListOrdersRequest{Filter: `status = 1) OR (1 = 1`}, "filter"},
			"B2 SQL in a text":                  {&orderv1.ListOrdersRequest{Filter: `order_id = "x' OR '1'='1"`}, "filter"},
			"B2 an unknown field":               {&orderv1.ListOrdersRequest{Filter: `password_hash = "x"`}, "filter"},
			"B2 half a filter":                  {&orderv1.ListOrdersRequest{Filter: `status =`}, "filter"},
			"B2 order by something unknown":     {&orderv1.ListOrdersRequest{OrderBy: "payment_token"}, "order_by"},
			"B2 SQL in order_by":                {&orderv1.ListOrdersRequest{OrderBy: "create_time; DROP TABLE orders"}, "order_by"},
			"B2 a page token of somebody else":  {&orderv1.ListOrdersRequest{PageSize: 1, PageToken: ofA.GetNextPageToken()}, "page_token"},
			"B2 a page token cut short":         {&orderv1.ListOrdersRequest{PageSize: 1, PageToken: ofA.GetNextPageToken()[1:]}, "page_token"},
			"B2 a page token that is none":      {&orderv1.ListOrdersRequest{PageToken: "' OR 1=1 --"}, "page_token"},
			"B2 a page token of another filter": {&orderv1.ListOrdersRequest{PageSize: 1, PageToken: ofA.GetNextPageToken(), Filter: "saga_over = true"}, "page_token"},
			"C8 a negative page":                {&orderv1.ListOrdersRequest{PageSize: -1}, "page_size"},
		} {
			t.Run(name, func(t *testing.T) {
				invalid(c.field).check(t, try(t, d, w, b, listOrders, c.req, nil))
			})
		}
		if n := len(list(b, &orderv1.ListOrdersRequest{PageSize: 1e9}).GetOrders()); n != 3 {
			t.Errorf("C8: a page of a thousand million has %d orders, want all 3 of one's own", n)
		}
		if n := len(ask(t, d, w, nil, inventoryv1.InventoryService_ListProducts_FullMethodName, &inventoryv1.ListProductsRequest{PageSize: 1e9}, &inventoryv1.ListProductsResponse{}).GetProducts()); n > 100 {
			t.Errorf("C8: a page has %d products, want at most 100", n)
		}
	})
}

func TestAKeyOfSomebodyElseIsOnesOwn(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	p := w.product(t, euro(100), 100)
	throughBoth(t, func(t *testing.T, d door) {
		a, b := w.customer(t), w.customer(t)
		req := cart(p, 1, "tok_ok")
		req.RequestId = newKey()
		first := w.place(t, d, a, req)
		second := w.place(t, d, b, req)
		if first.GetOrderId() == second.GetOrderId() || second.GetUserId() != b.id {
			t.Errorf("B3: %s placed %s and %s placed %s", a.id, first, b.id, second)
		}
	})
}

func TestFieldsThatServersSetAreNotTaken(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u, p := w.customer(t), w.product(t, euro(100), 100)
	before := w.see(t, u, p.GetProductId())
	for _, extra := range []string{
		`"status":"ORDER_STATUS_DELIVERED"`, `"total":{"minor_units":"1","currency_code":"EUR"}`, `"user_id":"` + w.admin.id + `"`, `"paid":true`,
		`"price":1`, `"discount":100`, `"version":"9"`, `"created_at":"2020-01-01T00:00:00Z"`, `"create_time":"2020-01-01T00:00:00Z"`, `"order_id":"` + uuid.NewString() + `"`,
	} {
		t.Run("B4 "+extra, func(t *testing.T) {
			body := `{"lines":[{"product_id":"` + p.GetProductId() + `","quantity":1}],"payment_token":"tok_ok","ship_to":` + homeJSON + `,` + extra + `}`
			invalid("").check(t, w.post(t, u, "/v1/orders", body, "Idempotency-Key", newKey()))
		})
	}
	t.Run("B4 price of a line", func(t *testing.T) {
		body := `{"lines":[{"product_id":"` + p.GetProductId() + `","quantity":1,"unit_price":{"minor_units":"1","currency_code":"EUR"}}],"payment_token":"tok_ok","ship_to":` + homeJSON + `}`
		invalid("").check(t, w.post(t, u, "/v1/orders", body, "Idempotency-Key", newKey()))
	})
	t.Run("B4 over gRPC unknown fields buy nothing", func(t *testing.T) {
		req := cart(p, 1, "tok_ok")
		req.RequestId = newKey()
		req.ProtoReflect().SetUnknown(protoreflect.RawFields("\x98\x06\x01\xa2\x06\x04free")) // fields 99 and 100
		o := w.place(t, grpcDoor{}, w.customer(t), req)
		if o.GetTotal().GetMinorUnits() != 100 {
			t.Errorf("the total is %v", o.GetTotal())
		}
	})
	now := w.see(t, u)
	before[:len(now)].same(t, now)
}

const homeJSON = `{"recipient":"Kim","lines":["12 Harbour Street"],"locality":"Bergen","region_code":"NO"}`

func TestMasksNameOnlyWhatMayBeChanged(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u, p := w.customer(t), w.product(t, euro(100), 100)
	before := w.see(t, u, p.GetProductId())
	throughBoth(t, func(t *testing.T, d door) {
		for _, path := range []string{"email", "role", "user_id", "version", "*", "nothing_known", "display_name.x", "password"} {
			t.Run("B5 user "+path, func(t *testing.T) {
				a := try(t, d, w, u, updateUser, &userv1.UpdateUserRequest{
					UserId: u.id, User: &userv1.UserPatch{DisplayName: "Other"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}},
				}, nil)
				invalid("update_mask").check(t, a)
			})
		}
		for _, path := range []string{"sku", "available", "product_id", "status", "*"} {
			t.Run("B5 product "+path, func(t *testing.T) {
				a := try(t, d, w, w.admin, updateProduct, &inventoryv1.UpdateProductRequest{
					ProductId: p.GetProductId(), Product: &inventoryv1.ProductPatch{Name: "Other"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{path}},
				}, nil)
				invalid("update_mask").check(t, a)
			})
		}
		t.Run("an etag of another time", func(t *testing.T) {
			a := try(t, d, w, w.admin, updateProduct, &inventoryv1.UpdateProductRequest{
				ProductId: p.GetProductId(), Product: &inventoryv1.ProductPatch{Name: "Other"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"name"}}, Etag: "4711",
			}, nil)
			refusal{code: codes.Aborted}.check(t, a)
		})
	})
	before.same(t, w.see(t, u, p.GetProductId()))
}

// TestCustomersMayNotDoWhatStaffDoes is B6, from the contract: whatever wants a
// higher role is refused to customers, and what wants an admin is refused to staff.
func TestCustomersMayNotDoWhatStaffDoes(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	customer, staff := w.customer(t), w.staff(t)
	p := w.product(t, euro(100), 5)
	before := w.see(t, customer, p.GetProductId())
	checked := 0
	everyMethod(func(name string, m protoreflect.MethodDescriptor, access *optionsv1.Access) {
		if access.GetPublic() {
			return
		}
		for who, u := range map[optionsv1.Role]*user{optionsv1.Role_ROLE_CUSTOMER: customer, optionsv1.Role_ROLE_STAFF: staff} {
			allowed := false
			for _, r := range access.GetRoles() {
				allowed = allowed || r <= who
			}
			if allowed {
				continue
			}
			checked++
			t.Run("B6 "+who.String()+" "+name, func(t *testing.T) {
				forbidden.check(t, bare(t, w, u.token, name, m))
			})
		}
	})
	if checked < 12 {
		t.Errorf("only %d methods want more than a customer", checked)
	}
	for path, body := range map[string]string{
		"/v1/products": `{"sku":"X","name":"X","price":{"minor_units":"1","currency_code":"EUR"}}`, "/v1/products/" + p.GetProductId() + ":adjustStock": `{"delta":"5","reason":"gift"}`,
		"/v1/products/" + p.GetProductId() + ":archive": `{}`, "/v1/payments/" + uuid.NewString() + ":refund": `{"reason":"please"}`,
		"/v1/auth/users/" + customer.id + ":setRole": `{"role":"ROLE_ADMIN"}`,
	} {
		forbidden.check(t, w.post(t, customer, path, body, "Idempotency-Key", newKey()))
	}
	for _, path := range []string{"/v1/users", "/v1/users:batchGet?user_ids=" + customer.id, "/v1/ledger:export", "/v1/products:batchGetStock?product_ids=" + p.GetProductId()} {
		forbidden.check(t, w.send(t, customer, http.MethodGet, path, ""))
	}
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/readyz", "/healthz", "/channelz", "/admin"} {
		a := w.send(t, customer, http.MethodGet, path, "")
		if path != "/healthz" && path != "/readyz" && a.http != http.StatusNotFound {
			t.Errorf("B6: %s is on the public port: %d", path, a.http)
		}
	}
	before.same(t, w.see(t, customer, p.GetProductId()))
}

// everyMethod calls fn for each method of the contract.
func everyMethod(fn func(name string, m protoreflect.MethodDescriptor, access *optionsv1.Access)) {
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(f.Package()), "waybill.") {
			return true
		}
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				access, _ := proto.GetExtension(m.Options(), optionsv1.E_Access).(*optionsv1.Access)
				fn("/"+string(s.FullName())+"/"+string(m.Name()), m, access)
			}
		}
		return true
	})
}

// bare calls a method of any kind over gRPC with an empty message.
func bare(t *testing.T, w *world, token, name string, m protoreflect.MethodDescriptor) answer {
	t.Helper()
	ctx := soon(t)
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	desc := &grpc.StreamDesc{ClientStreams: m.IsStreamingClient(), ServerStreams: m.IsStreamingServer()}
	s, err := w.conn.NewStream(ctx, desc, name)
	must(t, err)
	if err := s.SendMsg(dynamicpb.NewMessage(m.Input())); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	must(t, s.CloseSend())
	if err := s.RecvMsg(dynamicpb.NewMessage(m.Output())); err != nil && !errors.Is(err, io.EOF) {
		return ofStatus(err)
	}
	return answer{}
}

// TestEveryMethodWantsATokenUnlessItIsForEverybody is B9 and B10, from the
// contract: a method that is new and says nothing fails here.
func TestEveryMethodWantsATokenUnlessItIsForEverybody(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	open := map[string]bool{}
	for _, name := range []string{"SignUp", "LogIn", "RefreshToken", "LogOut", "JWKS", "GetProduct", "ListProducts", "HandleProviderWebhook"} {
		open[name] = true
	}
	registered := map[string]bool{}
	n := 0
	everyMethod(func(name string, m protoreflect.MethodDescriptor, access *optionsv1.Access) {
		n++
		registered[name] = true
		t.Run("B9 "+name, func(t *testing.T) {
			if access.GetPublic() != open[string(m.Name())] {
				t.Errorf("public: %v, but on the list of this test: %v", access.GetPublic(), open[string(m.Name())])
			}
			got := bare(t, w, "", name, m)
			if access.GetPublic() {
				if got.code == codes.Unauthenticated && m.Name() != "HandleProviderWebhook" || got.code == codes.PermissionDenied {
					t.Errorf("it is for everybody: %s", got.text)
				}
			} else {
				unauthenticated.check(t, got)
			}
			unauthenticated.check(t, bare(t, w, "x.y.z", name, m)) // a bad token is refused everywhere
		})
		verb, path, ok := restOf(m)
		if !ok {
			return
		}
		t.Run("B10 "+name, func(t *testing.T) {
			body := ""
			if verb != http.MethodGet && verb != http.MethodDelete {
				body = "{}"
			}
			got := w.send(t, nil, verb, path, body, "Idempotency-Key", newKey())
			if access.GetPublic() {
				if got.http == http.StatusUnauthorized && m.Name() != "HandleProviderWebhook" || got.http == http.StatusForbidden {
					t.Errorf("it is for everybody: %s", got.text)
				}
			} else {
				unauthenticated.check(t, got)
			}
			unauthenticated.check(t, w.send(t, &user{token: "x.y.z"}, verb, path, body, "Idempotency-Key", newKey()))
		})
	})
	if n < 35 {
		t.Errorf("the contract has only %d methods", n)
	}
	for _, s := range reflected(t, w) {
		if strings.HasPrefix(s, "grpc.") {
			continue
		}
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(s))
		must(t, err)
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			if name := "/" + s + "/" + string(methods.Get(i).Name()); !registered[name] {
				t.Errorf("%s is served and not in the contract", name)
			}
		}
	}
}

// restOf gives the path of a method, with something for its variables.
func restOf(m protoreflect.MethodDescriptor) (verb, path string, ok bool) {
	in := dynamicpb.NewMessage(m.Input())
	for i := range m.Input().Fields().Len() {
		if f := m.Input().Fields().Get(i); f.Kind() == protoreflect.StringKind && !f.IsList() && strings.HasSuffix(string(f.Name()), "_id") && f.Name() != "request_id" {
			in.Set(f, protoreflect.ValueOfString("0190aaaa-0000-7000-8000-000000000001"))
		}
	}
	if f := m.Input().Fields().ByName("service"); f != nil && f.Kind() == protoreflect.StringKind {
		in.Set(f, protoreflect.ValueOfString("order"))
	}
	verb, path, _, _, err := asREST("/"+string(m.Parent().FullName())+"/"+string(m.Name()), in)
	path, _, _ = strings.Cut(path, "?")
	return verb, path, err == nil
}

// reflected lists the services that a process says it has.
func reflected(t *testing.T, w *world) []string {
	t.Helper()
	s, err := grpc_reflection_v1.NewServerReflectionClient(w.conn).ServerReflectionInfo(soon(t))
	must(t, err)
	must(t, s.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}}))
	m, err := s.Recv()
	must(t, err)
	var names []string
	for _, one := range m.GetListServicesResponse().GetService() {
		names = append(names, one.GetName())
	}
	return names
}

func TestReflectionCanBeSwitchedOff(t *testing.T) {
	t.Parallel()
	if names := reflected(t, desk.get(t)); len(names) < 7 {
		t.Errorf("with reflection there are %v", names)
	}
	s, err := grpc_reflection_v1.NewServerReflectionClient(narrow.get(t).conn).ServerReflectionInfo(soon(t))
	must(t, err)
	_, err = s.Recv()
	if a := ofStatus(err); a.code != codes.Unimplemented {
		t.Errorf("B11: %s", a.text)
	}
}

// TestHeadersOfStrangersSayNothing is B8: what a caller writes about who they
// are, beside their token, is not read.
func TestHeadersOfStrangersSayNothing(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	a, b := w.customer(t), w.customer(t)
	p := w.product(t, euro(100), 10)
	o := w.place(t, grpcDoor{}, a, cart(p, 1, "tok_ok"))
	throughBoth(t, func(t *testing.T, d door) {
		for _, h := range [][]string{
			{"grpc-metadata-x-user-id", w.admin.id}, {"x-user-id", w.admin.id}, {"x-user-id", a.id}, {"grpc-metadata-role", "admin"}, {"role", "admin"}, {"x-role", "admin"},
			{"x-waybill-role", "admin"}, {"x-waybill-service", "order"}, {"x-waybill-client-ip", "10.0.0.1"}, {"grpc-metadata-x-forwarded-client-cert", "By=spiffe://waybill/order"},
			{"x-forwarded-client-cert", "By=spiffe://waybill/order"}, {"grpc-metadata-traceparent", "junk"}, {"traceparent", "junk"}, {"tracestate", strings.Repeat("a=b,", 40)},
			{"x-request-id", "<script>alert(1)</script>"}, {"baggage", "user=admin"},
		} {
			t.Run("B8 "+h[0], func(t *testing.T) {
				ctx := withHeaders(soon(t), h...)
				got, err := d.call(ctx, w, b.token, getOrder, &orderv1.GetOrderRequest{OrderId: o.GetOrderId()}, &orderv1.Order{})
				must(t, err)
				missing.check(t, got)
				got, err = d.call(ctx, w, "", getOrder, &orderv1.GetOrderRequest{OrderId: o.GetOrderId()}, &orderv1.Order{})
				must(t, err)
				unauthenticated.check(t, got)
				got, err = d.call(ctx, w, b.token, adjustStock, &inventoryv1.AdjustStockRequest{RequestId: newKey(), ProductId: p.GetProductId(), Delta: 1, Reason: "gift"}, &inventoryv1.Stock{})
				must(t, err)
				forbidden.check(t, got)
			})
		}
		only, err := d.call(withHeaders(soon(t), "grpc-metadata-x-user-id", w.admin.id), w, b.token, listOrders, &orderv1.ListOrdersRequest{}, &orderv1.ListOrdersResponse{})
		must(t, err)
		if only.code != codes.OK {
			t.Errorf("%s", only.text)
		}
	})
}

// TestMethodsForServicesAreClosedToPeople keeps even admins out of what services
// ask of each other.
func TestMethodsForServicesAreClosedToPeople(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	name := authv1.AuthService_ListRevokedSessions_FullMethodName
	forbidden.check(t, try(t, grpcDoor{}, w, w.admin, name, &authv1.ListRevokedSessionsRequest{}, nil))
	unauthenticated.check(t, try(t, grpcDoor{}, w, nil, name, &authv1.ListRevokedSessionsRequest{}, nil))
}
