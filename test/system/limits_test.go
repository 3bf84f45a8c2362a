package system_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

const getProduct = inventoryv1.InventoryService_GetProduct_FullMethodName

// alive fails unless a good request is answered.
func (w *world) alive(t *testing.T, productID string) {
	t.Helper()
	for _, d := range doors {
		if a := try(t, d, w, nil, getProduct, &inventoryv1.GetProductRequest{ProductId: productID}, nil); a.code != codes.OK {
			t.Errorf("over %s others get no answer any more: %s", d, a.text)
		}
	}
}

func TestBodiesHaveAnEnd(t *testing.T) {
	t.Parallel()
	s := newShopper(t, desk.get(t))
	large := strings.Repeat("x", 1<<20+1)
	tooLarge := refusal{code: codes.ResourceExhausted, http: http.StatusRequestEntityTooLarge}
	t.Run("C5 a megabyte and a byte over REST", func(t *testing.T) {
		tooLarge.check(t, s.postOrder(t, large))
	})
	t.Run("C5 chunks without end", func(t *testing.T) {
		r, err := http.NewRequestWithContext(soon(t), http.MethodPost, s.w.base+"/v1/orders", io.LimitReader(endless{}, 1<<30))
		must(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+s.token)
		r.Header.Set("Idempotency-Key", newKey())
		if a, err := s.w.do(r); err == nil { // else the connection was cut while sending
			tooLarge.check(t, a)
		}
	})
	t.Run("C5 more promised than sent", func(t *testing.T) {
		status := s.w.wire(t, "POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{}", true)
		if !strings.Contains(status, " 4") && status != "" {
			t.Errorf("%q", status)
		}
	})
	t.Run("C5 more sent than promised", func(t *testing.T) {
		status := s.w.wire(t, "POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}GET /metrics HTTP/1.1\r\n\r\n", true)
		if !strings.Contains(status, " 4") {
			t.Errorf("%q", status)
		}
	})
	t.Run("C5 length and chunks", func(t *testing.T) {
		status := s.w.wire(t, "POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true)
		if !strings.Contains(status, " 4") {
			t.Errorf("%q", status)
		}
	})
	t.Run("C5 a megabyte and a byte over gRPC", func(t *testing.T) {
		req := cart(s.product, 1, "tok_ok")
		req.RequestId, req.ShipTo.Recipient = newKey(), large
		a := ofStatus(s.w.conn.Invoke(s.as(soon(t)), createOrder, req, &orderv1.Order{}))
		if a.code != codes.ResourceExhausted {
			t.Errorf("%s", a.text)
		}
	})
	s.unharmed(t)
	s.w.alive(t, s.product.GetProductId())
}

type endless struct{}

// Read gives blanks, which are good JSON as far as it goes.
func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// wire sends bytes to the REST port and gives the first line that comes back.
func (w *world) wire(t *testing.T, text string, half bool) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(w.base, "http://"))
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	_, _ = io.WriteString(c, text)
	if half {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	got, _ := io.ReadAll(io.LimitReader(c, 64<<10))
	line, _, _ := strings.Cut(string(got), "\r\n")
	return line
}

func TestNothingIsUnpacked(t *testing.T) {
	t.Parallel()
	s := newShopper(t, desk.get(t))
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 16<<20))
	must(t, z.Close())
	t.Run("C6 over REST", func(t *testing.T) {
		a := s.w.post(t, s.user, "/v1/orders", bomb.String(), "Content-Encoding", "gzip", "Idempotency-Key", newKey())
		if a.http != http.StatusBadRequest && a.http != http.StatusUnsupportedMediaType {
			t.Errorf("%d %s", a.http, a.text)
		}
	})
	for _, encoding := range []string{"gzip", "zstd", "rot13"} {
		t.Run("C6 over gRPC "+encoding, func(t *testing.T) {
			c := s.w.raw(t)
			id := c.open(getProduct, "grpc-encoding", encoding)
			c.message(id, 1, bomb.Bytes())
			if got := c.answer(id); got != "status 12" {
				t.Errorf("%s, want UNIMPLEMENTED", got)
			}
		})
	}
	t.Run("C6 over gRPC, compressed and not said how", func(t *testing.T) {
		c := s.w.raw(t)
		id := c.open(getProduct)
		c.message(id, 1, bomb.Bytes())
		if got := c.answer(id); got != "status 13" && got != "status 12" {
			t.Errorf("%s", got)
		}
	})
	s.unharmed(t)
}

func TestHeadersHaveAnEnd(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	p := w.product(t, euro(1), 1)
	var many strings.Builder
	for i := range 10_000 {
		fmt.Fprintf(&many, "X-H-%d: v\r\n", i)
	}
	for name, headers := range map[string]string{"C7 one of a megabyte": "X-Large: " + strings.Repeat("x", 1<<20) + "\r\n", "C7 ten thousand": many.String(), "C7 20 KB": "X-Large: " + strings.Repeat("x", 20<<10) + "\r\n"} {
		t.Run(name, func(t *testing.T) {
			if got := w.wire(t, "GET /v1/products HTTP/1.1\r\nHost: x\r\n"+headers+"\r\n", false); !strings.Contains(got, " 431 ") && got != "" {
				t.Errorf("%q", got)
			}
		})
	}
	t.Run("C7 metadata over gRPC", func(t *testing.T) {
		ctx := metadata.AppendToOutgoingContext(soon(t), "x-large", strings.Repeat("x", 20<<10))
		_, err := inventoryv1.NewInventoryServiceClient(w.conn).GetProduct(ctx, &inventoryv1.GetProductRequest{ProductId: p.GetProductId()})
		if a := ofStatus(err); a.code == codes.OK || a.code == codes.DeadlineExceeded {
			t.Errorf("20 KB of metadata: %s", a.code)
		}
		if got := w.raw(t).call(getProduct, nil, "x-large", strings.Repeat("x", 1<<20)); got == "status 0" || got == "status 3" {
			t.Errorf("a megabyte of metadata: %s", got)
		}
	})
	w.alive(t, p.GetProductId())
}

// TestPathsThatAreNoMethodsReachNoHandler is B7 (CVE-2026-33186).
func TestPathsThatAreNoMethodsReachNoHandler(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	body, err := proto.Marshal(&orderv1.ListOrdersRequest{})
	must(t, err)
	if got := w.raw(t).call(listOrders, body, "authorization", "Bearer "+u.token); got != "status 0" {
		t.Fatalf("the good path: %s", got)
	}
	for name, path := range map[string]string{
		"no slash": listOrders[1:], "two slashes": "/" + listOrders, "a slash more": listOrders + "/", "another case": strings.ToLower(listOrders), "unknown": "/waybill.order.v1.OrderService/Nothing",
		"unknown service": "/x.Y/Z", "encoded": strings.Replace(listOrders, "Service/", "Service%2F", 1), "dots": "/../" + listOrders[1:], "only a slash": "/", "query": listOrders + "?x",
	} {
		for _, token := range []string{"", u.token} {
			t.Run("B7 "+name, func(t *testing.T) {
				var extra []string
				if token != "" {
					extra = []string{"authorization", "Bearer " + token}
				}
				switch got := w.raw(t).call(path, body, extra...); {
				case got == "status 12", strings.HasPrefix(got, "reset"), strings.HasPrefix(got, "goaway"), got == "closed", strings.HasPrefix(got, "http 4"):
				default:
					t.Errorf("%s", got)
				}
			})
		}
	}
	refusal{code: codes.Unimplemented}.check(t, withText(ofStatus(w.conn.Invoke(u.as(soon(t)), "/waybill.order.v1.OrderService/Nothing", &orderv1.GetOrderRequest{}, &orderv1.Order{}))))
}

// withText lets the short texts of grpc-go itself pass for advice.
func withText(a answer) answer {
	a.message = "as grpc says: " + a.message
	return a
}

func TestIdleClientsKeepNobodyWaiting(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	p := w.product(t, euro(1), 1)
	for i := range 100 {
		for addr, begin := range map[string]string{
			strings.TrimPrefix(w.base, "http://"): []string{"", "GET /v1/products HTTP/1.1\r\nHost: x\r\nX-Slow: ", "POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"}[i%3],
			w.addr:                                http2.ClientPreface[:i%len(http2.ClientPreface)],
		} {
			c, err := net.Dial("tcp", addr)
			must(t, err)
			t.Cleanup(func() { _ = c.Close() })
			_, _ = io.WriteString(c, begin)
		}
	}
	w.alive(t, p.GetProductId())
}

func TestStreamsAreCounted(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	p := w.product(t, euro(100), 10)
	o := w.place(t, grpcDoor{}, u, cart(p, 1, "tok_ok"))
	w.until(t, u, o.GetOrderId(), scheduled)
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithCancel(soon(t))
	defer cancel()
	for n := range 100 {
		s, err := orderv1.NewOrderServiceClient(conn).WatchOrder(u.as(ctx), &orderv1.WatchOrderRequest{OrderId: o.GetOrderId()})
		must(t, err)
		if _, err := s.Recv(); err != nil {
			t.Fatalf("stream %d: %v", n+1, err)
		}
	}
	s, err := orderv1.NewOrderServiceClient(conn).WatchOrder(u.as(ctx), &orderv1.WatchOrderRequest{OrderId: o.GetOrderId()})
	must(t, err)
	_, err = s.Recv()
	refusal{code: codes.ResourceExhausted}.check(t, ofStatus(err))
	refusal{code: codes.ResourceExhausted}.check(t, w.send(t, u, http.MethodGet, "/v1/orders/"+o.GetOrderId()+":watch", "", "Accept", "text/event-stream"))
	cancel() // and one that ends makes room for the next
	must(t, poll(soon(t), func() (bool, error) {
		ctx, cancel := context.WithCancel(soon(t))
		defer cancel()
		s, err := orderv1.NewOrderServiceClient(w.conn).WatchOrder(u.as(ctx), &orderv1.WatchOrderRequest{OrderId: o.GetOrderId()})
		if err == nil {
			_, err = s.Recv()
		}
		return err == nil, nil
	}))
}

func TestAConnectionHasSoManyStreams(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u, p := w.customer(t), w.product(t, euro(1), 1)
	c := w.raw(t)
	var last uint32
	for range 251 { // calls that are begun and wait for their message
		last = c.open(getProduct, "authorization", "Bearer "+u.token)
	}
	if got := c.answer(last); got != "reset REFUSED_STREAM" {
		t.Errorf("C11: stream 251: %s", got)
	}
	w.alive(t, p.GetProductId())
}

func TestFloodsEndTheirConnectionAndNoOther(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	p := w.product(t, euro(1), 1)
	t.Run("C12 pings", func(t *testing.T) {
		c := w.raw(t)
		go func() {
			for range 10_000 {
				if c.ping() != nil {
					return
				}
			}
		}()
		if got := c.answer(1); got != "goaway ENHANCE_YOUR_CALM" && got != "closed" {
			t.Errorf("%s", got)
		}
	})
	t.Run("C12 streams opened and reset", func(t *testing.T) {
		c := w.raw(t)
		done := make(chan string, 1)
		go func() { done <- c.answer(1 << 30) }()
		for range 10_000 {
			id := c.open(getProduct)
			if c.reset(id) != nil {
				break
			}
		}
		_ = c.net.Close()
		<-done
	})
	w.alive(t, p.GetProductId())
}

func TestTimeoutsAreTakenAtTheirWord(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	p := w.product(t, euro(1), 1)
	path := "/v1/products/" + p.GetProductId()
	body, err := proto.Marshal(&inventoryv1.GetProductRequest{ProductId: p.GetProductId()})
	must(t, err)
	for _, c := range []struct {
		timeout    string
		http       int
		grpcStatus []string
	}{
		{"99999999H", http.StatusOK, []string{"status 0"}}, {"5S", http.StatusOK, []string{"status 0"}},
		{"1n", http.StatusGatewayTimeout, []string{"status 4", "reset CANCEL", "reset NO_ERROR"}},
		{"abc", http.StatusBadRequest, []string{"status 13", "status 3", "reset PROTOCOL_ERROR", "http 400"}},
		{"-1S", http.StatusBadRequest, []string{"status 13", "status 3", "reset PROTOCOL_ERROR", "http 400"}},
		{"999999999S", http.StatusBadRequest, []string{"status 13", "status 3", "reset PROTOCOL_ERROR", "http 400"}},
	} {
		t.Run("C13 "+c.timeout, func(t *testing.T) {
			a := w.send(t, nil, http.MethodGet, path, "", "Grpc-Timeout", c.timeout)
			if a.http != c.http {
				t.Errorf("REST: %d %s", a.http, a.text)
			}
			got := w.raw(t).call(getProduct, body, "grpc-timeout", c.timeout)
			for _, want := range c.grpcStatus {
				if got == want {
					return
				}
			}
			t.Errorf("gRPC: %s, want one of %v", got, c.grpcStatus)
		})
	}
}

func TestNobodyAsksTooOften(t *testing.T) {
	t.Parallel()
	w := narrow.get(t)
	limited := refusal{code: codes.ResourceExhausted, reason: "RATE_LIMITED"}
	throughBoth(t, func(t *testing.T, d door) {
		t.Run("C14 a user", func(t *testing.T) {
			at := fromElsewhere(t, w, d)
			u := w.customerAt(t, at)
			for n := range 40 {
				if a := try(t, at, w, u, listOrders, &orderv1.ListOrdersRequest{}, nil); a.code != codes.OK {
					if n < 25 {
						t.Errorf("limited after %d", n)
					}
					limited.check(t, a)
					if a.retry <= 0 {
						t.Error("nobody is told when to come back")
					}
					return
				}
			}
			t.Error("40 calls, and 30 were allowed")
		})
		t.Run("C15 an address, whatever it says of itself", func(t *testing.T) {
			at := fromElsewhere(t, w, d)
			for n := range 40 {
				ctx := withHeaders(soon(t), "x-forwarded-for", fmt.Sprintf("10.0.0.%d", n), "x-real-ip", fmt.Sprintf("10.0.0.%d", n), "forwarded", fmt.Sprintf("for=10.0.0.%d", n),
					"x-waybill-client-ip", fmt.Sprintf("10.0.0.%d", n))
				a, err := at.call(ctx, w, "", getProduct, &inventoryv1.GetProductRequest{ProductId: uuid.NewString()}, &inventoryv1.Product{})
				must(t, err)
				if a.code == codes.ResourceExhausted {
					limited.check(t, a)
					return
				}
			}
			t.Error("40 calls under 40 names, and 30 were allowed")
		})
	})
}
