package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// order gives the body of CreateOrder with one thing replaced.
func order(old, with string) string {
	s := strings.Replace(createBody, old, with, 1)
	if s == createBody {
		panic("nothing replaced: " + old)
	}
	return s
}

// quantity gives a body with another token for the quantity.
func quantity(token string) string { return order(`"quantity":2`, `"quantity":`+token) }

// More than one word of what is wanted stands in the message: the field and what to mend.
func TestABadBodyIsRefusedWithTheFieldThatIsWrong(t *testing.T) {
	deep := strings.Repeat(`[`, 10_001) + strings.Repeat(`]`, 10_001)
	cases := []struct {
		name, body string
		want       string // in the message
	}{
		// C1: numbers in the wrong form. Their range is the business of the field rules.
		{"number in quotes", quantity(`"1"`), `lines[0].quantity: must be a whole number without quotes`},
		{"exponent", quantity(`1e3`), `lines[0].quantity: must be a whole number`},
		{"exponent that is whole", quantity(`1e0`), `lines[0].quantity: must be a whole number`},
		{"fraction", quantity(`1.5`), `lines[0].quantity: must be a whole number`},
		{"fraction that is whole", quantity(`1.0`), `lines[0].quantity: must be a whole number`},
		{"2^31", quantity(`2147483648`), `lines[0].quantity: must be from -2147483648 to 2147483647`},
		{"2^63-1", quantity(`9223372036854775807`), `lines[0].quantity: must be from`},
		{"NaN", quantity(`NaN`), `is not valid JSON`},
		{"NaN in quotes", quantity(`"NaN"`), `lines[0].quantity: must be`},
		{"infinity", quantity(`-Infinity`), `is not valid JSON`},
		{"leading zero", quantity(`01`), `is not valid JSON`},
		{"plus", quantity(`+1`), `is not valid JSON`},
		{"hexadecimal", quantity(`0x1`), `is not valid JSON`},
		{"minus alone", quantity(`-`), `is not valid JSON`},
		{"boolean", quantity(`true`), `lines[0].quantity: must be`},
		{"array", quantity(`[1]`), `lines[0].quantity: must be`},
		{"object", quantity(`{}`), `lines[0].quantity: must be`},
		// C3: text that is none.
		{"NUL", order("tok_ok", `tok\u0000`), "payment_token: must not contain the character NUL"},
		{"raw NUL", order("tok_ok", "tok\x00"), "payment_token: has a control character"},
		{"line break", order("tok_ok", "tok\n"), "payment_token: has a control character"},
		{"half a pair", order("tok_ok", `\ud800`), "payment_token: has half of a surrogate pair"},
		{"the other half", order("tok_ok", `\udc00x`), "payment_token: has half of a surrogate pair"},
		{"two first halves", order("tok_ok", `\ud800\ud800`), "payment_token: has half of a surrogate pair"},
		{"invalid UTF-8", order("tok_ok", "\xff\xfe"), "payment_token: is not valid UTF-8"},
		{"overlong UTF-8", order("tok_ok", "\xc0\x80"), "payment_token: is not valid UTF-8"},
		{"surrogate in UTF-8", order("tok_ok", "\xed\xa0\x80"), "payment_token: is not valid UTF-8"},
		{"unknown escape", order("tok_ok", `\x41`), "payment_token: is not valid JSON"},
		{"short escape", order("tok_ok", `\u12`), "payment_token: is not valid JSON"},
		{"number for text", order(`"tok_ok"`, `5`), "payment_token: must be text in quotes"},
		// C4: JSON that is none, or says two things.
		{"truncated", createBody[:len(createBody)-3], "the JSON ends too early"},
		{"truncated in a name", `{"payment_to`, "the JSON ends too early"},
		{"truncated in an escape", `{"payment_token":"\`, "the JSON ends too early"},
		{"trailing data", createBody + `{}`, "has something after its end"},
		{"trailing garbage", createBody + `x`, "has something after its end"},
		{"deep", order(`[{"product_id":"`+productID+`","quantity":2}]`, deep), "lines[0]: must be an object"},
		{"deep in nothing known", `{"zzz":` + deep + `}`, `unknown field "zzz"`},
		{"duplicate", order(`"payment_token":"tok_ok"`, `"payment_token":"tok_ok","payment_token":"tok_ok"`), "payment_token: is given twice"},
		{"duplicate under its other name", order(`"payment_token":"tok_ok"`, `"payment_token":"tok_ok","paymentToken":"tok_ok"`), "payment_token: is given twice"},
		{"duplicate below", quantity(`2,"quantity":3`), "lines[0].quantity: is given twice"},
		{"duplicate behind an escape", quantity(`2,"\u0071uantity":3`), "lines[0].quantity: is given twice"},
		{"array at the top", `[]`, "must be a JSON object"},
		{"null at the top", `null`, "must be a JSON object"},
		{"text at the top", `"x"`, "must be a JSON object"},
		{"spaces alone", `  `, "is empty"},
		{"byte order mark", "\xef\xbb\xbf" + createBody, "must be a JSON object"},
		{"comment", `{/* x */}`, "is not valid JSON"},
		{"comma at the end", `{"lines":[],}`, "is not valid JSON"},
		{"single quotes", `{'lines':[]}`, "is not valid JSON"},
		{"no colon", `{"lines" []}`, "is not valid JSON"},
		{"object for an array", order(`[{"product_id":"`+productID+`","quantity":2}]`, `{}`), "lines: must be an array"},
		{"null in an array", order(`{"product_id":"`+productID+`","quantity":2}`, `null`), "lines[0]: must be an object"},
		{"64 bits beyond 2^53 without quotes", order(`"payment_token"`, `"expected_total":{"minor_units":9007199254740993},"payment_token"`), "expected_total.minor_units: must be in quotes"},
		{"64 bits with a fraction", order(`"payment_token"`, `"expected_total":{"minor_units":1.5},"payment_token"`), "expected_total.minor_units: must be a whole number"},
		{"64 bits with a fraction in quotes", order(`"payment_token"`, `"expected_total":{"minor_units":"1.5"},"payment_token"`), "expected_total.minor_units: must be a whole number"},
		{"64 bits with an exponent in quotes", order(`"payment_token"`, `"expected_total":{"minor_units":"1e3"},"payment_token"`), "expected_total.minor_units: must be"},
		{"65 bits", order(`"payment_token"`, `"expected_total":{"minor_units":"9223372036854775808"},"payment_token"`), "expected_total.minor_units: must be from"},
		{"64 bits with a space", order(`"payment_token"`, `"expected_total":{"minor_units":" 1"},"payment_token"`), "expected_total.minor_units: must be"},
	}
	// B4: what only the server may say.
	for _, f := range []string{"status", "total", "user_id", "paid", "price", "discount", "version", "created_at", "order_id", "__proto__", ""} {
		cases = append(cases, struct{ name, body, want string }{"field " + f, order(`"payment_token"`, fmt.Sprintf(`%q:1,"payment_token"`, f)), fmt.Sprintf("unknown field %q", f)})
	}
	eachWay(t, nil, func(t *testing.T, w *world) {
		for _, c := range cases {
			a := w.do(t, "POST", "/v1/orders", c.body, "Idempotency-Key: k")
			if a.status != 400 || a.reason() != "INVALID_JSON" || !strings.Contains(unquoted(a.body), c.want) {
				t.Errorf("%s: %d %s; want %q", c.name, a.status, a.body, c.want)
			}
			if reqs, _ := w.reached(); len(reqs) != 0 {
				t.Errorf("%s: it reached the service", c.name)
			}
		}
		t.Logf("%d bodies refused", len(cases))
	})
}

// unquoted makes quotes in JSON strings readable.
func unquoted(s string) string { return strings.ReplaceAll(s, `\"`, `"`) }

func TestAGoodBodyIsTakenInEveryFormItMayHave(t *testing.T) {
	eachWay(t, nil, func(t *testing.T, w *world) {
		for name, body := range map[string]string{
			"plain":                createBody,
			"spaces":               " \r\n\t" + strings.ReplaceAll(createBody, ",", " ,\n\t") + " \n",
			"JSON names":           strings.ReplaceAll(strings.ReplaceAll(createBody, "payment_token", "paymentToken"), "product_id", "productId"),
			"64 bits as a number":  order(`"payment_token"`, `"expected_total":{"minor_units":9007199254740992},"payment_token"`),
			"64 bits as text":      order(`"payment_token"`, `"expected_total":{"minor_units":"9007199254740993"},"payment_token"`),
			"negative 64 bits":     order(`"payment_token"`, `"expected_total":{"minor_units":-5},"payment_token"`),
			"null for absent":      order(`"payment_token"`, `"expected_total":null,"payment_token"`),
			"a pair of surrogates": order("Ann", `\ud83d\ude00 \u00e9 é 😀 \/ \"`),
			"empty array":          order(`[{"product_id":"`+productID+`","quantity":2}]`, `[ ]`),
			"request_id in body":   order(`"payment_token"`, `"request_id":"k","payment_token"`),
		} {
			a := w.do(t, "POST", "/v1/orders", body, "Idempotency-Key: k", "Content-Type: application/json; charset=UTF-8")
			if a.status != 200 {
				t.Errorf("%s: %d %s", name, a.status, a.body)
			}
		}
		reqs, _ := w.reached()
		for _, r := range reqs {
			if in, _ := r.(*orderv1.CreateOrderRequest); in.GetRequestId() != "k" {
				t.Errorf("got %v", r)
			}
		}
	})
}

// refused is a request that never gets to a service.
type refused struct {
	name, method, path, body string
	headers                  []string
	status                   int
	reason, want             string
}

func TestABadRequestIsRefusedWithItsStatusAndReason(t *testing.T) {
	get, key := "/v1/orders/"+orderID, "Idempotency-Key: "
	cases := []refused{
		// B4 and A1: the query.
		{"unknown parameter", "GET", "/v1/orders?status=x", "", nil, 400, "INVALID_QUERY", "query parameter status: is unknown"},
		{"misspelt parameter", "GET", "/v1/orders?page_sise=1", "", nil, 400, "INVALID_QUERY", `did you mean "page_size"?`},
		{"parameter twice", "GET", "/v1/orders?page_size=1&page_size=2", "", nil, 400, "INVALID_QUERY", "page_size: must be given once"},
		{"parameter twice by two names", "GET", "/v1/orders?page_size=1&pageSize=2", "", nil, 400, "", "page_size"},
		{"parameter of the path", "GET", get + "?order_id=x", "", nil, 400, "INVALID_QUERY", "is part of the path"},
		{"parameter beside a body", "POST", "/v1/orders?payment_token=tok_ok", createBody, nil, 400, "INVALID_QUERY", "takes no query parameters"},
		{"parameter of the body", "PATCH", "/v1/products/" + productID + "?product.name=x", `{}`, nil, 400, "INVALID_QUERY", "is part of the body"},
		{"no number", "GET", "/v1/orders?page_size=x", "", nil, 400, "INVALID_QUERY", "page_size: must be a whole number"},
		{"exponent", "GET", "/v1/orders?page_size=1e3", "", nil, 400, "INVALID_QUERY", "page_size: must be a whole number"},
		{"fraction", "GET", "/v1/orders?page_size=1.5", "", nil, 400, "INVALID_QUERY", "page_size: must be a whole number"},
		{"too large", "GET", "/v1/orders?page_size=2147483648", "", nil, 400, "INVALID_QUERY", "page_size: must be from"},
		{"NUL in the query", "GET", "/v1/orders?filter=%00", "", nil, 400, "INVALID_QUERY", "filter: must be text"},
		{"invalid UTF-8 in the query", "GET", "/v1/orders?filter=%ff", "", nil, 400, "INVALID_QUERY", "filter: must be text"},
		{"invalid escape", "GET", "/v1/orders?filter=%zz", "", nil, 400, "INVALID_QUERY", "cannot be decoded"},
		{"semicolon", "GET", "/v1/orders?filter=a;b", "", nil, 400, "INVALID_QUERY", "cannot be decoded"},
		{"token in the query", "GET", get + "?access_token=x", "", nil, 401, "TOKEN_IN_QUERY", "Authorization"},
		// The path.
		{"NUL in the path", "GET", "/v1/orders/%00", "", nil, 400, "INVALID_REQUEST", "order_id: must be text"},
		{"invalid UTF-8 in the path", "GET", "/v1/orders/%ff", "", nil, 400, "INVALID_REQUEST", "order_id: must be text"},
		{"nothing there", "GET", "/v1/nothing", "", nil, 404, "NO_SUCH_PATH", "/docs"},
		{"double slash", "GET", "//v1/orders", "", nil, 404, "NO_SUCH_PATH", ""},
		{"a gRPC path", "POST", "/waybill.order.v1.OrderService/CreateOrder", createBody, nil, 404, "NO_SUCH_PATH", ""},
		{"unknown verb", "POST", get + ":destroy", "", nil, 405, "METHOD_NOT_ALLOWED", ""},
		{"wrong method", "DELETE", get, "", nil, 405, "METHOD_NOT_ALLOWED", "does not take DELETE"},
		{"strange method", "BREW", get, "", nil, 405, "METHOD_NOT_ALLOWED", "BREW"},
		{"method override", "POST", get, "", []string{"X-Http-Method-Override: GET", "Content-Type: application/x-www-form-urlencoded"}, 405, "METHOD_NOT_ALLOWED", ""},
		{"path and body differ", "POST", get + ":cancel", `{"order_id":"` + productID + `"}`, []string{key + "k"}, 400, "INVALID_JSON", "order_id: differs"},
		{"body for GET", "GET", get, `{}`, nil, 400, "UNEXPECTED_BODY", "takes no body"},
		// 415.
		{"form", "POST", "/v1/orders", "a=b", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "UNSUPPORTED_MEDIA_TYPE", "application/json"},
		{"text", "POST", "/v1/orders", createBody, []string{"Content-Type: text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE", ""},
		{"no type", "POST", "/v1/orders", createBody, []string{"Content-Type: -"}, 415, "UNSUPPORTED_MEDIA_TYPE", ""},
		{"other charset", "POST", "/v1/orders", createBody, []string{"Content-Type: application/json; charset=utf-16"}, 415, "UNSUPPORTED_MEDIA_TYPE", ""},
		{"two types", "POST", "/v1/orders", createBody, []string{"Content-Type: application/json", "Content-Type: text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE", ""},
		// C9: the shape of keys.
		{"empty key", "POST", "/v1/orders", createBody, []string{key}, 400, "IDEMPOTENCY_KEY_INVALID", "Idempotency-Key"},
		{"long key", "POST", "/v1/orders", createBody, []string{key + strings.Repeat("k", 256)}, 400, "IDEMPOTENCY_KEY_INVALID", "255"},
		{"key in other letters", "POST", "/v1/orders", createBody, []string{key + "schlüssel"}, 400, "IDEMPOTENCY_KEY_INVALID", "ASCII"},
		{"key with a tab", "POST", "/v1/orders", createBody, []string{key + "a\tb"}, 400, "IDEMPOTENCY_KEY_INVALID", ""},
		{"two keys", "POST", "/v1/orders", createBody, []string{key + "a", key + "a"}, 400, "IDEMPOTENCY_KEY_INVALID", "one header"},
		{"key and request_id differ", "POST", "/v1/orders", order(`"payment_token"`, `"request_id":"a","payment_token"`), []string{key + "b"}, 400, "IDEMPOTENCY_KEY_AMBIGUOUS", "request_id: differs"},
		// A7.
		{"two authorizations", "GET", get, "", []string{"Authorization: Bearer a", "Authorization: Bearer b"}, 401, "AUTHORIZATION_AMBIGUOUS", "one Authorization"},
		// C5, C7.
		{"large body", "POST", "/v1/orders", `{"payment_token":"` + strings.Repeat("x", 1<<20) + `"}`, nil, 413, "BODY_TOO_LARGE", "1048576 bytes"},
		{"large headers", "GET", get, "", []string{"X-Large: " + strings.Repeat("x", 16<<10)}, 431, "HEADERS_TOO_LARGE", "16384 bytes"},
		// C13.
		{"no timeout", "GET", get, "", []string{"Grpc-Timeout: abc"}, 400, "GRPC_TIMEOUT_INVALID", "Grpc-Timeout"},
		{"negative timeout", "GET", get, "", []string{"Grpc-Timeout: -1S"}, 400, "GRPC_TIMEOUT_INVALID", ""},
		{"timeout without unit", "GET", get, "", []string{"Grpc-Timeout: 1"}, 400, "GRPC_TIMEOUT_INVALID", ""},
		{"nine digits", "GET", get, "", []string{"Grpc-Timeout: 999999999S"}, 400, "GRPC_TIMEOUT_INVALID", ""},
		{"two timeouts", "GET", get, "", []string{"Grpc-Timeout: 1S", "Grpc-Timeout: 2S"}, 400, "GRPC_TIMEOUT_INVALID", ""},
		// Last-Event-ID.
		{"event id in other letters", "GET", get + ":watch", "", []string{"Last-Event-ID: é"}, 400, "LAST_EVENT_ID_INVALID", ""},
		{"long event id", "GET", get + ":watch", "", []string{"Last-Event-ID: " + strings.Repeat("x", 1025)}, 400, "LAST_EVENT_ID_INVALID", ""},
	}
	eachWay(t, nil, func(t *testing.T, w *world) {
		for _, c := range cases {
			a := w.do(t, c.method, c.path, c.body, c.headers...)
			if a.status != c.status || c.reason != "" && a.reason() != c.reason || !strings.Contains(unquoted(a.body), c.want) {
				t.Errorf("%s: %d %s", c.name, a.status, a.body)
			}
			if c.status == 401 && a.header.Get("WWW-Authenticate") == "" || c.status == 405 && a.header.Get("Allow") == "" {
				t.Errorf("%s: %v", c.name, a.header)
			}
			if reqs, _ := w.reached(); len(reqs) != 0 && c.name != "parameter twice by two names" {
				t.Errorf("%s: it reached the service", c.name)
			}
		}
		t.Logf("%d requests refused", len(cases))
	})
}

func TestAllowNamesTheMethodsOfThePath(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, nil)
	for path, want := range map[string]string{
		"/v1/orders": "GET, HEAD, POST", "/v1/orders/" + orderID: "GET, HEAD", "/v1/orders/" + orderID + ":cancel": "POST", "/v1/products/x": "GET, HEAD, PATCH",
	} {
		if a := w.do(t, "PUT", path, ""); a.status != 405 || !strings.Contains(a.header.Get("Allow"), want) {
			t.Errorf("%s: %d %q", path, a.status, a.header.Get("Allow"))
		}
	}
}

func TestHEADIsGETWithoutABody(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, nil)
	a := w.do(t, "HEAD", "/v1/orders/"+orderID, "")
	if a.status != 200 || a.body != "" || a.header.Get("Content-Length") == "0" {
		t.Errorf("%d %q %v", a.status, a.body, a.header)
	}
}

func TestEnumsAndTimesAreTakenByTheirNames(t *testing.T) {
	status := field(t, (&inventoryv1.Product{}).ProtoReflect().Descriptor(), func(f protoreflect.FieldDescriptor) bool { return f.Kind() == protoreflect.EnumKind })
	when := field(t, (&inventoryv1.Product{}).ProtoReflect().Descriptor(), func(f protoreflect.FieldDescriptor) bool {
		return f.Message() != nil && f.Message().FullName() == "google.protobuf.Timestamp"
	})
	md := (&inventoryv1.Product{}).ProtoReflect().Descriptor()
	name := string(status.Enum().Values().Get(1).Name())
	for _, good := range []string{
		fmt.Sprintf(`{%q:%q}`, status.Name(), name), fmt.Sprintf(`{%q:null}`, status.Name()),
		fmt.Sprintf(`{%q:"2026-01-31T12:00:00.5+02:00"}`, when.Name()),
	} {
		if v := checkJSON([]byte(good), md, nil, nil); v != nil {
			t.Errorf("%s: %+v", good, v)
		}
	}
	for _, bad := range []string{
		fmt.Sprintf(`{%q:"NO_SUCH_NAME"}`, status.Name()), fmt.Sprintf(`{%q:1}`, status.Name()), fmt.Sprintf(`{%q:99}`, status.Name()),
		fmt.Sprintf(`{%q:"%s"}`, status.Name(), strings.ToLower(name)),
		fmt.Sprintf(`{%q:"yesterday"}`, when.Name()), fmt.Sprintf(`{%q:0}`, when.Name()), fmt.Sprintf(`{%q:"0000-01-01T00:00:00Z"}`, when.Name()),
	} {
		v := checkJSON([]byte(bad), md, nil, nil)
		if v == nil || v.path != string(status.Name()) && v.path != string(when.Name()) {
			t.Errorf("%s: %+v", bad, v)
		}
	}
}

func field(t *testing.T, md protoreflect.MessageDescriptor, is func(protoreflect.FieldDescriptor) bool) protoreflect.FieldDescriptor {
	t.Helper()
	for i := range md.Fields().Len() {
		if f := md.Fields().Get(i); is(f) {
			return f
		}
	}
	t.Fatalf("%s has no such field", md.FullName())
	return nil
}

// FuzzTheCheckerAgreesWithProtojson: whatever the checker lets pass is decoded
// without a panic, and what it decodes to is encoded and let pass again.
func FuzzTheCheckerAgreesWithProtojson(f *testing.F) {
	for _, s := range []string{createBody, `{}`, `{"lines":[{}]}`, `{"expected_total":{"minor_units":"5"}}`, quantity("1e3"), `{"a":`, `{"request_id":"\ud83d\ude00"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := &orderv1.CreateOrderRequest{}
		if checkJSON(data, in.ProtoReflect().Descriptor(), nil, nil) != nil {
			return
		}
		if err := unmarshalJSON.Unmarshal(data, in); err != nil {
			t.Fatalf("%q passes, but protojson says %v", data, err)
		}
		again, err := marshalJSON.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		out := &orderv1.CreateOrderRequest{}
		if v := checkJSON(again, in.ProtoReflect().Descriptor(), nil, nil); v != nil {
			t.Fatalf("%q: %+v", again, v)
		}
		if err := unmarshalJSON.Unmarshal(again, out); err != nil || !proto.Equal(in, out) {
			t.Fatalf("%q: %v", again, err)
		}
	})
}

func TestTimeoutsAreCappedAndEnd(t *testing.T) {
	eachWay(t, func(c *Config, _ *ServerConfig) { c.Timeout, c.MaxTimeout = 20*time.Millisecond, 40*time.Millisecond }, func(t *testing.T, w *world) {
		w.slow = true
		for _, timeout := range []string{"-", "1n", "0S", "5m", "99999999H"} {
			headers := []string{}
			if timeout != "-" {
				headers = append(headers, "Grpc-Timeout: "+timeout)
			}
			if a := w.do(t, "GET", "/v1/orders/"+orderID, "", headers...); a.status != 504 {
				t.Errorf("%s: %d %s", timeout, a.status, a.body)
			}
		}
	})
}

// raw sends bytes and gives all that comes back until the server closes.
func raw(t *testing.T, addr string, send func(io.Writer)) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send(c)
	b, _ := io.ReadAll(c)
	return string(b)
}

func TestClientsThatDribbleAreCutOff(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, func(c *Config, s *ServerConfig) {
		c.BodyTimeout, s.HeaderTimeout = 30*time.Millisecond, 30*time.Millisecond
	})
	head := "POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	if got := raw(t, w.addr, func(c io.Writer) { _, _ = io.WriteString(c, head) }); strings.Contains(got, "200") {
		t.Errorf("half a header: %q", got)
	}
	for name, rest := range map[string]string{
		"half a body":             "Content-Length: 100\r\n\r\n{",
		"chunks that do not come": "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
	} {
		got := raw(t, w.addr, func(c io.Writer) { _, _ = io.WriteString(c, head+rest) })
		if !strings.HasPrefix(got, "HTTP/1.1 408 ") || !strings.Contains(got, "Connection: close") || !strings.Contains(got, "BODY_TOO_SLOW") {
			t.Errorf("%s: %q", name, got)
		}
	}
	if reqs, _ := w.reached(); len(reqs) != 0 {
		t.Error("it reached the service")
	}
}

func TestABodyWithoutEndAndALieAboutItsLengthAreRefused(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, nil)
	head := "POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	got := raw(t, w.addr, func(c io.Writer) {
		_, _ = io.WriteString(c, head+"Transfer-Encoding: chunked\r\n\r\n")
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<16, strings.Repeat("x", 1<<16))
		for range 100 {
			if _, err := io.WriteString(c, chunk); err != nil {
				return // cut off, as it should be
			}
		}
	})
	if got != "" && !strings.HasPrefix(got, "HTTP/1.1 413 ") { // the reset may overtake the answer
		t.Errorf("endless: %q", got)
	}
	got = raw(t, w.addr, func(c io.Writer) { _, _ = io.WriteString(c, head+"Content-Length: 99999999\r\n\r\n{}") })
	if !strings.HasPrefix(got, "HTTP/1.1 413 ") {
		t.Errorf("announced as too long: %q", got)
	}
	got = raw(t, w.addr, func(c io.Writer) {
		_, _ = io.WriteString(c, head+"Content-Length: 100\r\n\r\n{}")
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.CloseWrite()
		}
	})
	if strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("shorter than announced: %q", got)
	}
	if reqs, _ := w.reached(); len(reqs) != 0 {
		t.Error("it reached the service")
	}
}

func TestHeadersBeyondReasonEndTheConnection(t *testing.T) {
	w := newWorld(t, (*stub).inProcess, nil)
	for name, headers := range map[string]string{
		"a megabyte":   "X-A: " + strings.Repeat("x", 1<<20) + "\r\n",
		"ten thousand": strings.Repeat("X-A: 1\r\n", 10_000),
	} {
		got := raw(t, w.addr, func(c io.Writer) { _, _ = io.WriteString(c, "GET /v1/orders HTTP/1.1\r\nHost: x\r\n"+headers+"\r\n") })
		if got != "" && !strings.HasPrefix(got, "HTTP/1.1 431 ") {
			t.Errorf("%s: %.80q", name, got)
		}
	}
}

func TestARequestDoesNotSufferFromTheDeadlineOfTheOneBefore(t *testing.T) {
	late := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		_ = rc.SetWriteDeadline(time.Unix(1, 0)) // as if the connection had been idle since
	})
	w := newWorld(t, (*stub).inProcess, func(c *Config, _ *ServerConfig) { c.Routes = map[string]Route{"/late": {Handler: late}} })
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for _, path := range []string{"/v1/orders", "/v1/orders", "/nowhere"} {
		_, _ = io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}
