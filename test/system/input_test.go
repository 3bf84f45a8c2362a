package system_test

import (
	"bytes"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// A shopper is a customer before whose eyes bad requests are made. What they own
// and what is in stock must be the same afterwards.
type shopper struct {
	*user
	w       *world
	product *inventoryv1.Product
	before  view
}

func newShopper(t *testing.T, w *world) *shopper {
	t.Helper()
	s := &shopper{user: w.customer(t), w: w, product: w.product(t, euro(1999), 100)}
	s.before = w.see(t, s.user, s.product.GetProductId())
	return s
}

func (s *shopper) unharmed(t *testing.T) {
	t.Helper()
	s.before.same(t, s.w.see(t, s.user, s.product.GetProductId()))
}

// orderJSON gives the body of an order with a line as it is written.
func (s *shopper) orderJSON(line string) string {
	return `{"lines":[` + line + `],"payment_token":"tok_ok","ship_to":` + homeJSON + `}`
}

func (s *shopper) postOrder(t *testing.T, body string) answer {
	t.Helper()
	return s.w.post(t, s.user, "/v1/orders", body, "Idempotency-Key", newKey())
}

func TestQuantitiesAreWholeNumbersFromOneToAThousand(t *testing.T) {
	t.Parallel()
	s := newShopper(t, desk.get(t))
	throughBoth(t, func(t *testing.T, d door) {
		for _, q := range []int32{0, -1, 1001, math.MaxInt32, math.MinInt32} {
			t.Run(fmt.Sprint("C1 ", q), func(t *testing.T) {
				invalid("lines[0].quantity").check(t, try(t, d, s.w, s.user, createOrder, cart(s.product, q, "tok_ok"), nil))
			})
		}
	})
	for _, q := range []string{"0", "-1", "2147483648", "9223372036854775807", "1e3", `"1"`, "1.5", "1.0", "NaN", `"NaN"`, "Infinity", "true", "null", "[1]", "01", "+1", "0x1", "1_000", "''"} {
		t.Run("C1 in JSON "+q, func(t *testing.T) {
			invalid("").check(t, s.postOrder(t, s.orderJSON(`{"product_id":"`+s.product.GetProductId()+`","quantity":`+q+`}`)))
		})
	}
	s.unharmed(t)
}

func TestMoneyIsWhatItCanBe(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	throughBoth(t, func(t *testing.T, d door) {
		for name, c := range map[string]struct {
			price *typev1.Money
			field string
		}{
			"C2 more than any price":   {euro(1_000_000_000_001), "price"},
			"C2 the greatest number":   {euro(math.MaxInt64), "price.minor_units"},
			"C2 negative":              {euro(-1), "price"},
			"C2 the smallest number":   {euro(math.MinInt64), "price.minor_units"},
			"C2 currency XXX":          {&typev1.Money{MinorUnits: 1, CurrencyCode: "XXX"}, "price.currency_code"},
			"C2 currency XTS":          {&typev1.Money{MinorUnits: 1, CurrencyCode: "XTS"}, "price.currency_code"},
			"C2 currency in lowercase": {&typev1.Money{MinorUnits: 1, CurrencyCode: "eur"}, "price.currency_code"},
			"C2 no currency":           {&typev1.Money{MinorUnits: 1}, "price.currency_code"},
			"C2 no price":              {nil, "price"},
		} {
			t.Run(name, func(t *testing.T) {
				req := &inventoryv1.CreateProductRequest{Sku: "S-" + uuid.NewString(), Name: "A thing", Price: c.price}
				invalid(c.field).check(t, try(t, d, w, w.admin, createProduct, req, nil))
				a := try(t, d, w, nil, inventoryv1.InventoryService_ListProducts_FullMethodName, &inventoryv1.ListProductsRequest{Filter: `sku = "` + req.GetSku() + `"`}, nil)
				if bytes.Contains(a.body, []byte(req.GetSku())) {
					t.Error("the product was made all the same")
				}
			})
		}
		for name, c := range map[string]*inventoryv1.CreateProductRequest{
			"sku":           {Sku: "no spaces", Name: "A thing", Price: euro(1)},
			"name":          {Sku: "S-1", Name: "two\nlines", Price: euro(1)},
			"initial_stock": {Sku: "S-1", Name: "A thing", Price: euro(1), InitialStock: -1},
			"description":   {Sku: "S-1", Name: "A thing", Price: euro(1), Description: strings.Repeat("x", 5001)},
			"category":      {Sku: "S-1", Name: "A thing", Price: euro(1), Category: "a\u202eb"},
		} {
			t.Run("C2 product with a bad "+name, func(t *testing.T) {
				invalid(name).check(t, try(t, d, w, w.admin, createProduct, c, nil))
			})
		}
	})
}

func TestLinesOfAnOrderFitTogether(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	s := newShopper(t, w)
	crown := w.product(t, &typev1.Money{MinorUnits: 10, CurrencyCode: "NOK"}, 10)
	dear := w.product(t, euro(1_000_000_000_000), 1000)
	line := func(p *inventoryv1.Product, n int32) *orderv1.CreateOrderLine {
		return &orderv1.CreateOrderLine{ProductId: p.GetProductId(), Quantity: n}
	}
	many := make([]*orderv1.CreateOrderLine, 101)
	for i := range many {
		many[i] = line(s.product, 1)
	}
	throughBoth(t, func(t *testing.T, d door) {
		for name, c := range map[string]struct {
			lines []*orderv1.CreateOrderLine
			field string
		}{
			"C2 none":                             {nil, "lines"},
			"C2 a hundred and one":                {many, "lines"},
			"C2 two currencies":                   {[]*orderv1.CreateOrderLine{line(s.product, 1), line(crown, 1)}, ""},
			"C2 too much of one in several lines": {[]*orderv1.CreateOrderLine{line(s.product, 600), line(s.product, 600)}, "lines[1].quantity"},
			"C2 a product that there is not":      {[]*orderv1.CreateOrderLine{{ProductId: uuid.NewString(), Quantity: 1}}, "lines[0].product_id"},
			"C2 a line without a product":         {[]*orderv1.CreateOrderLine{{Quantity: 1}}, "lines[0].product_id"},
		} {
			t.Run(name, func(t *testing.T) {
				req := cart(s.product, 1, "tok_ok")
				req.Lines = c.lines
				invalid(c.field).check(t, try(t, d, w, s.user, createOrder, req, nil))
			})
		}
		for field, change := range map[string]func(*orderv1.CreateOrderRequest){
			"payment_token":              func(r *orderv1.CreateOrderRequest) { r.PaymentToken = "4242" },
			"ship_to":                    func(r *orderv1.CreateOrderRequest) { r.ShipTo = nil },
			"ship_to.region_code":        func(r *orderv1.CreateOrderRequest) { r.ShipTo.RegionCode = "Norway" },
			"ship_to.recipient":          func(r *orderv1.CreateOrderRequest) { r.ShipTo.Recipient = "" },
			"ship_to.lines":              func(r *orderv1.CreateOrderRequest) { r.ShipTo.Lines = nil },
			"ship_to.locality":           func(r *orderv1.CreateOrderRequest) { r.ShipTo.Locality = strings.Repeat("x", 101) },
			"expected_total":             func(r *orderv1.CreateOrderRequest) { r.ExpectedTotal = euro(-1) },
			"expected_total.minor_units": func(r *orderv1.CreateOrderRequest) { r.ExpectedTotal = euro(math.MaxInt64) },
		} {
			t.Run("C2 "+field, func(t *testing.T) {
				req := cart(s.product, 1, "tok_ok")
				change(req)
				invalid(field).check(t, try(t, d, w, s.user, createOrder, req, nil))
			})
		}
		t.Run("a total that changed is never charged", func(t *testing.T) {
			req := cart(s.product, 1, "tok_ok")
			req.ExpectedTotal = euro(1)
			refusal{code: codes.FailedPrecondition, reason: "TOTAL_CHANGED"}.check(t, try(t, d, w, s.user, createOrder, req, nil))
		})
	})
	s.unharmed(t)
	throughBoth(t, func(t *testing.T, d door) {
		u := w.customer(t)
		req := cart(dear, 600, "tok_declined")
		req.Lines = append(req.Lines, line(dear, 400))
		o := w.place(t, d, u, req)
		if len(o.GetLines()) != 1 || o.GetLines()[0].GetQuantity() != 1000 || o.GetTotal().GetMinorUnits() != 1_000_000_000_000_000 {
			t.Errorf("C2: lines of one product are one line, and the dearest order can be counted: %v", o)
		}
		w.until(t, u, o.GetOrderId(), is(cancelled))
	})
}

// badIDs are C3.
func badIDs(good string) map[string]string {
	return map[string]string{
		"spaces": " " + good + " ", "capitals": strings.ToUpper(good), "nil": "00000000-0000-0000-0000-000000000000", "SQL": "' OR '1'='1", "SQL with a good one": good + "' --",
		"emoji": "🦄🦄🦄🦄", "right to left": "\u202e" + good, "braces": "{" + good + "}", "urn": "urn:uuid:" + good, "no dashes": strings.ReplaceAll(good, "-", ""),
		"short": good[:35], "long": good + "0", "path": "../../etc/passwd", "script": "<script>alert(1)</script>", "very long": strings.Repeat("a", 5000),
		"full-width digits": strings.Replace(good, good[:1], "\uff11", 1), "tail of a line": good + "\n",
	}
}

func TestIDsAreUUIDsAsWeWriteThem(t *testing.T) {
	t.Parallel()
	s := newShopper(t, desk.get(t))
	good := s.product.GetProductId()
	throughBoth(t, func(t *testing.T, d door) {
		for name, id := range badIDs(good) {
			t.Run("C3 in a body, "+name, func(t *testing.T) {
				req := cart(s.product, 1, "tok_ok")
				req.Lines[0].ProductId = id
				invalid("lines[0].product_id").check(t, try(t, d, s.w, s.user, createOrder, req, nil))
			})
			t.Run("C3 in a path, "+name, func(t *testing.T) {
				a := try(t, d, s.w, s.user, getOrder, &orderv1.GetOrderRequest{OrderId: id}, nil)
				if a.http == http.StatusNotFound && strings.ContainsAny(id, "/.") { // then it is another path
					return
				}
				invalid("order_id").check(t, a)
			})
		}
	})
	t.Run("C3 NUL in a path", func(t *testing.T) {
		invalid("").check(t, s.w.send(t, s.user, http.MethodGet, "/v1/orders/"+good+"%00", ""))
	})
	t.Run("C3 bytes that are no text in a path", func(t *testing.T) {
		invalid("").check(t, s.w.send(t, s.user, http.MethodGet, "/v1/orders/%ff%fe", ""))
	})
	for name, id := range map[string]string{"NUL": `\u0000`, "bytes that are no text": "\xff\xfe", "half a surrogate": `\ud83d`} {
		t.Run("C3 in JSON, "+name, func(t *testing.T) {
			invalid("").check(t, s.postOrder(t, s.orderJSON(`{"product_id":"`+id+`","quantity":1}`)))
		})
	}
	t.Run("C3 over gRPC, bytes that are no text", func(t *testing.T) {
		a := ofStatus(s.w.conn.Invoke(s.as(soon(t)), getOrder, rawMessage("\x0a\x02\xff\xfe"), &orderv1.Order{}, forceRaw()))
		if a.code != codes.Internal && a.code != codes.InvalidArgument { // grpc-go says INTERNAL for what it cannot decode
			t.Errorf("%s", a.text)
		}
		if leak := leaks.FindString(a.text); leak != "" && leak != "proto:" {
			t.Errorf("the answer tells of %q: %s", leak, a.text)
		}
	})
	t.Run("C3 over gRPC, bytes that are no message", func(t *testing.T) {
		a := ofStatus(s.w.conn.Invoke(s.as(soon(t)), getOrder, rawMessage("\xff\xff\xff\xff"), &orderv1.Order{}, forceRaw()))
		if a.code != codes.Internal && a.code != codes.InvalidArgument {
			t.Errorf("%s", a.text)
		}
	})
	s.unharmed(t)
}

func TestJSONIsReadStrictly(t *testing.T) {
	t.Parallel()
	s := newShopper(t, desk.get(t))
	line := `{"product_id":"` + s.product.GetProductId() + `","quantity":1}`
	good := s.orderJSON(line)
	deep := strings.Repeat("[", 10_001) + strings.Repeat("]", 10_001)
	for name, body := range map[string]string{
		"nothing":                 "",
		"blank":                   "   ",
		"null":                    "null",
		"a list":                  "[" + good + "]",
		"a text":                  `"hello"`,
		"a number":                "7",
		"cut off":                 good[:len(good)-2],
		"cut off in a text":       good[:20],
		"trailing data":           good + "x",
		"two documents":           good + good,
		"a trailing comma":        `{"lines":[` + line + `,],"payment_token":"tok_ok","ship_to":` + homeJSON + `}`,
		"single quotes":           strings.ReplaceAll(good, `"`, `'`),
		"a comment":               good[:1] + "/* hi */" + good[1:],
		"too deep":                `{"lines":` + deep + `}`,
		"too deep and unknown":    `{"x":` + deep + `}`,
		"a key twice":             `{"payment_token":"tok_declined",` + good[1:],
		"a key in both spellings": `{"paymentToken":"tok_declined",` + good[1:],
		"a key twice, escaped":    `{"payment\u005ftoken":"tok_declined",` + good[1:],
		"a key twice, deeper":     s.orderJSON(`{"product_id":"` + s.product.GetProductId() + `","quantity":1,"quantity":2}`),
		"an unknown field":        `{"unknown":1,` + good[1:],
		"a byte-order mark":       "\ufeff" + good,
		"no text":                 "\xff" + good,
		"UTF-16":                  "{\x00\"\x00",
		"a control character":     strings.Replace(good, "Kim", "K\x01m", 1),
		"a form":                  "payment_token=tok_ok",
	} {
		t.Run("C4 "+name, func(t *testing.T) {
			invalid("").check(t, s.postOrder(t, body))
		})
	}
	total := func(n string) string {
		return `{"expected_total":{"minor_units":` + n + `,"currency_code":"EUR"},` + good[1:]
	}
	for name, n := range map[string]string{
		"beyond 2^53 without quotes": "9007199254740993", "a fraction": "19.99", "with an exponent": "1e3", "beyond 64 bits": `"9223372036854775808"`, "no number": `"many"`, "hexadecimal": `"0x10"`, "blank": `""`,
	} {
		t.Run("C4 a 64-bit number "+name, func(t *testing.T) { // docs/adr/0007
			invalid("").check(t, s.postOrder(t, total(n)))
		})
	}
	for _, n := range []string{"1", `"1"`} { // both are read, and both are not the total
		refusal{code: codes.FailedPrecondition, reason: "TOTAL_CHANGED"}.check(t, s.postOrder(t, total(n)))
	}
	t.Run("C4 an unknown enum", func(t *testing.T) {
		invalid("").check(t, s.w.post(t, s.w.admin, "/v1/auth/users/"+s.id+":setRole", `{"role":"ROLE_EMPEROR"}`))
		invalid("role").check(t, s.w.post(t, s.w.admin, "/v1/auth/users/"+s.id+":setRole", `{"role":99}`))
		invalid("role").check(t, s.w.post(t, s.w.admin, "/v1/auth/users/"+s.id+":setRole", `{"role":"ROLE_UNSPECIFIED"}`))
	})
	for name, kind := range map[string]string{"none": "", "a form": "application/x-www-form-urlencoded", "text": "text/plain", "XML": "application/xml", "Latin-1": "application/json; charset=latin1", "many": "application/json, text/plain"} {
		t.Run("content type "+name, func(t *testing.T) {
			a := s.w.post(t, s.user, "/v1/orders", good, "Content-Type", kind, "Idempotency-Key", newKey())
			refusal{code: codes.InvalidArgument, http: http.StatusUnsupportedMediaType}.check(t, a)
		})
	}
	for _, q := range []string{"page_size=abc", "page_size=1.5", "page_size=99999999999", "unknown=1", "page_size=1&page_size=2", "filter=%ff", "filter=%00"} {
		t.Run("query "+q, func(t *testing.T) {
			invalid("").check(t, s.w.send(t, s.user, http.MethodGet, "/v1/orders?"+q, ""))
		})
	}
	for path, method := range map[string]string{"/v1/orders": http.MethodDelete, "/v1/products": http.MethodPut, "/v1/auth/login": http.MethodGet, "/v1/orders/x:cancel": http.MethodGet} {
		t.Run(method+" "+path, func(t *testing.T) {
			if a := s.w.send(t, s.user, method, path, ""); a.http != http.StatusMethodNotAllowed || a.header.Get("Allow") == "" {
				t.Errorf("%d %v %s", a.http, a.header, a.text)
			}
		})
	}
	for _, path := range []string{"/", "/v1", "/v1/nothing", "/v2/orders", "/v1/orders/a/b/c", "/v1//orders", "/V1/orders", "/v1/orders:nothing", "/waybill.order.v1.OrderService/GetOrder", "/.env", "/v1/../metrics"} {
		t.Run("path "+path, func(t *testing.T) {
			if a := s.w.send(t, s.user, http.MethodGet, path, ""); a.http != http.StatusNotFound && a.http != http.StatusMethodNotAllowed && a.http != http.StatusOK || a.http == http.StatusOK && path != "/" {
				t.Errorf("%d %s", a.http, a.text)
			}
		})
	}
	s.unharmed(t)
}

func TestRequestIDsAreKeys(t *testing.T) {
	t.Parallel()
	s := newShopper(t, desk.get(t))
	for name, c := range map[string]struct{ key, what string }{
		"missing": {"", "request_id"}, "of 256 characters": {strings.Repeat("k", 256), "request_id"}, "not ASCII": {"schlüssel", "request_id"}, "with a line break": {"a\nb", "request_id"},
	} {
		t.Run("C9 over gRPC, "+name, func(t *testing.T) {
			req := cart(s.product, 1, "tok_ok")
			req.RequestId = c.key
			a, err := grpcDoor{}.call(soon(t), s.w, s.token, createOrder, req, &orderv1.Order{})
			must(t, err)
			invalid(c.what).check(t, a)
		})
	}
	body := s.orderJSON(`{"product_id":"` + s.product.GetProductId() + `","quantity":1}`)
	for name, headers := range map[string][]string{
		"missing": nil, "empty": {"Idempotency-Key", ""}, "of 256 characters": {"Idempotency-Key", strings.Repeat("k", 256)}, "not ASCII": {"Idempotency-Key", "schlüssel"},
		"twice": {"Idempotency-Key", "a", "Idempotency-Key", "b"},
	} {
		t.Run("C9 over REST, "+name, func(t *testing.T) {
			invalid("").check(t, s.w.post(t, s.user, "/v1/orders", body, headers...))
		})
	}
	t.Run("C9 over REST, another in the body", func(t *testing.T) {
		invalid("request_id").check(t, s.w.post(t, s.user, "/v1/orders", `{"request_id":"b",`+body[1:], "Idempotency-Key", "a"))
	})
	s.unharmed(t)
	throughBoth(t, func(t *testing.T, d door) {
		u := s.w.customer(t)
		req := cart(s.product, 1, "tok_ok")
		req.RequestId = newKey()
		first := s.w.place(t, d, u, req)
		before := s.w.until(t, u, first.GetOrderId(), scheduled)
		other := proto.CloneOf(req)
		other.Lines[0].Quantity = 2
		want := refusal{code: codes.FailedPrecondition, reason: "IDEMPOTENCY_KEY_REUSED", http: http.StatusUnprocessableEntity}
		want.check(t, try(t, d, s.w, u, createOrder, other, nil))
		if n := len(ask(t, d, s.w, u, listOrders, &orderv1.ListOrdersRequest{}, &orderv1.ListOrdersResponse{}).GetOrders()); n != 1 {
			t.Errorf("there are %d orders", n)
		}
		if again := s.w.place(t, d, u, req); !proto.Equal(first, again) {
			t.Errorf("the answer to a repeated request differs from the first:\n%v\n%v", first, again)
		}
		if now := s.w.order(t, first.GetOrderId()); now.GetEtag() != before.GetEtag() {
			t.Error("repeating a request changed the order")
		}
		cancel := &orderv1.CancelOrderRequest{RequestId: req.GetRequestId(), OrderId: first.GetOrderId()} // a key belongs to one method
		ask(t, d, s.w, u, cancelOrder, cancel, &orderv1.Order{})
		s.w.until(t, u, first.GetOrderId(), is(cancelled))
	})
}

// TestATextHoldsNoCardNumber is D5: whatever looks like a card number or an IBAN
// is refused in every field that takes words, and the answer names the field alone.
func TestATextHoldsNoCardNumber(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	s := newShopper(t, w)
	a, o, _ := w.theirs(t)
	seen := w.see(t, a)
	numbers := []string{"DE89 3704 0044 0532 0130 00"}
	for _, c := range cards {
		numbers = append(numbers, c, grouped(c, " "), grouped(c, "-"), "my card is "+c+", thanks")
	}
	throughBoth(t, func(t *testing.T, d door) {
		for i, n := range numbers {
			for field, change := range map[string]func(*typev1.Address){
				"ship_to.recipient": func(a *typev1.Address) { a.Recipient = n }, "ship_to.lines[0]": func(a *typev1.Address) { a.Lines[0] = n },
				"ship_to.locality": func(a *typev1.Address) { a.Locality = n }, "ship_to.administrative_area": func(a *typev1.Address) { a.AdministrativeArea = n },
			} {
				if i > 4 && i%len(cards) != 0 && field != "ship_to.lines[0]" {
					continue // all numbers in one field, some in all
				}
				req := cart(s.product, 1, "tok_ok")
				change(req.GetShipTo())
				invalid(field).check(t, try(t, d, w, s.user, createOrder, req, nil))
			}
		}
		for _, n := range numbers[:5] {
			invalid("reason").check(t, try(t, d, w, a, cancelOrder, &orderv1.CancelOrderRequest{OrderId: o.GetOrderId(), Reason: n}, nil))
			invalid("payment_token").check(t, try(t, d, w, s.user, createOrder, cart(s.product, 1, n), nil))
		}
	})
	seen.same(t, w.see(t, a))
	s.unharmed(t)
}
