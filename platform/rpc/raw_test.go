package rpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"

	// As packages of the product do: what they register must not count here.
	_ "google.golang.org/grpc/encoding/gzip"

	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

// rawConn speaks HTTP/2 by hand, to send what no gRPC client would.
type rawConn struct {
	t      *testing.T
	net    net.Conn
	framer *http2.Framer
	enc    *hpack.Encoder
	buf    bytes.Buffer
	next   uint32
	closed bool // by the server, in the middle of what we sent
}

func (w *world) raw(t *testing.T) *rawConn {
	t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	wantNoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	wantNoError(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	c := &rawConn{t: t, net: conn, next: 1}
	c.enc = hpack.NewEncoder(&c.buf)
	_, err = conn.Write([]byte(http2.ClientPreface))
	wantNoError(t, err)
	c.framer = http2.NewFramer(conn, conn)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	wantNoError(t, c.framer.WriteSettings())
	return c
}

// open sends the headers of a call: the usual ones, but for those of extra,
// which replace or follow them.
func (c *rawConn) open(path string, extra ...string) uint32 {
	c.t.Helper()
	c.buf.Reset()
	replaced := map[string]bool{}
	for i := 0; i < len(extra); i += 2 {
		replaced[extra[i]] = true
	}
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		if !replaced[h[0]] {
			wantNoError(c.t, c.enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}))
		}
	}
	for i := 0; i < len(extra); i += 2 {
		wantNoError(c.t, c.enc.WriteField(hpack.HeaderField{Name: extra[i], Value: extra[i+1]}))
	}
	id := c.next
	c.next += 2
	block := c.buf.Bytes()
	first := block[:min(len(block), 16<<10)]
	rest := block[len(first):]
	c.wrote(c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndHeaders: len(rest) == 0}))
	for len(rest) > 0 {
		part := rest[:min(len(rest), 16<<10)]
		rest = rest[len(part):]
		c.wrote(c.framer.WriteContinuation(id, len(rest) == 0, part))
	}
	return id
}

// send sends one message and ends the sending side.
func (c *rawConn) send(id uint32, compressed byte, body []byte) {
	c.t.Helper()
	msg := binary.BigEndian.AppendUint32([]byte{compressed}, uint32(len(body)))
	c.wrote(c.framer.WriteData(id, true, append(msg, body...)))
}

func (c *rawConn) wrote(err error) { c.closed = c.closed || err != nil }

// answer waits for what becomes of a call: its status, or how it was refused.
func (c *rawConn) answer(id uint32) string {
	c.t.Helper()
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return "closed"
		}
		if c.closed {
			continue
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.wrote(c.framer.WriteSettingsAck())
			}
		case *http2.GoAwayFrame:
			return "goaway " + f.ErrCode.String()
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return "reset " + f.ErrCode.String()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID != id {
				continue
			}
			for _, h := range f.Fields {
				if h.Name == "grpc-status" {
					return "status " + h.Value
				}
			}
			if f.StreamEnded() {
				return fmt.Sprintf("http %s", f.PseudoValue("status"))
			}
		}
	}
}

func (c *rawConn) call(path string, extra ...string) string {
	c.t.Helper()
	body, err := proto.Marshal(&echov1.Message{Name: "raw"})
	wantNoError(c.t, err)
	id := c.open(path, extra...)
	c.send(id, 0, body)
	return c.answer(id)
}

// TestAPathThatIsNotAMethodReachesNoHandler is hazard B7: CVE-2026-33186 let a
// path without its slash pass by rules that were written for paths with it.
func TestAPathThatIsNotAMethodReachesNoHandler(t *testing.T) {
	w := newWorld(t)
	ends := make(chan time.Duration, 1)
	w.recordDeadline(ends)
	path := echov1.EchoService_Anybody_FullMethodName
	if s := w.raw(t).call(path); s != "status 0" {
		t.Fatalf("the good path: %s", s)
	}
	<-ends
	for name, path := range map[string]string{
		"no slash":        strings.TrimPrefix(echov1.EchoService_Customers_FullMethodName, "/"),
		"two slashes":     "/" + echov1.EchoService_Customers_FullMethodName,
		"a slash more":    echov1.EchoService_Customers_FullMethodName + "/",
		"encoded slash":   strings.Replace(echov1.EchoService_Customers_FullMethodName, "Service/", "Service%2F", 1),
		"a query":         echov1.EchoService_Customers_FullMethodName + "?x",
		"other case":      strings.ToLower(echov1.EchoService_Customers_FullMethodName),
		"unknown method":  "/" + echov1.EchoService_ServiceDesc.ServiceName + "/Nothing",
		"unknown service": "/x.Y/Z",
		"only a slash":    "/",
		"empty":           "",
		"dots":            "/../" + echov1.EchoService_ServiceDesc.ServiceName + "/Customers",
	} {
		t.Run(name, func(t *testing.T) {
			s := w.raw(t).call(path)
			if len(ends) > 0 || s != "status 12" && (name != "empty" || s == "status 0") {
				t.Errorf("got %s, handler reached: %v", s, len(ends) > 0)
			}
		})
	}
}

// TestTimeoutsThatMakeNoSenseDoNoHarm is hazard C13.
func TestTimeoutsThatMakeNoSenseDoNoHarm(t *testing.T) {
	w := newWorld(t)
	ends := make(chan time.Duration, 1)
	w.recordDeadline(ends)
	path := echov1.EchoService_Anybody_FullMethodName
	for timeout, want := range map[string]string{
		"99999999H":  "status 0",
		"1S":         "status 0",
		"1n":         "status 4",
		"0S":         "status 4",
		"abc":        "status 13", // gRPC says so before any of our code runs
		"-1S":        "status 13",
		"999999999S": "status 13",
		"1e3S":       "status 13",
		"":           "status 13",
	} {
		t.Run(timeout, func(t *testing.T) {
			if got := w.raw(t).call(path, "grpc-timeout", timeout); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			select {
			case left := <-ends:
				if want != "status 0" || left > 30*time.Second {
					t.Errorf("the handler had %s", left)
				}
			default:
				if want == "status 0" {
					t.Error("the handler was not reached")
				}
			}
		})
	}
}

func TestCompressedRequestsAreRefusedBeforeTheyAreUnpacked(t *testing.T) {
	w := newWorld(t)
	for enc, want := range map[string]string{"gzip": "status 12", "br": "status 12", "x": "status 12", "identity": "status 0"} {
		if got := w.raw(t).call(echov1.EchoService_Anybody_FullMethodName, "grpc-encoding", enc); got != want {
			t.Errorf("%s: got %s, want %s", enc, got, want)
		}
		if got := w.raw(t).call(echov1.EchoService_Watch_FullMethodName, "grpc-encoding", enc, authorization, "Bearer "+w.token(t, alice)); got != want {
			t.Errorf("stream, %s: got %s, want %s", enc, got, want)
		}
	}
}

func TestTooManyCallsOnOneConnectionAreRefused(t *testing.T) {
	w := newWorld(t, func(c *Config, _ *Deps) { c.MaxStreams = 10 })
	// A client that respects the limit is told of it.
	c := w.raw(t)
	for {
		f, err := c.framer.ReadFrame()
		wantNoError(t, err)
		if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
			if n, ok := s.Value(http2.SettingMaxConcurrentStreams); !ok || n != 10 {
				t.Fatalf("the client is told %d, %v", n, ok)
			}
			break
		}
	}
	// One that does not is refused: the calls never end, as their body does not.
	for range 10 {
		c.open(echov1.EchoService_Anybody_FullMethodName)
	}
	if got := c.answer(c.open(echov1.EchoService_Anybody_FullMethodName)); got != "reset REFUSED_STREAM" {
		t.Errorf("got %s", got)
	}
}

// TestOpeningAndResettingDoesNotPileUpHandlers is hazard C12, the rapid reset of
// CVE-2023-44487.
func TestOpeningAndResettingDoesNotPileUpHandlers(t *testing.T) {
	const limit = 10
	w := newWorld(t, func(c *Config, _ *Deps) { c.MaxStreams = limit })
	var now, most atomic.Int64
	release := make(chan struct{})
	w.echo.unary = func(_ context.Context, m *echov1.Message) (*echov1.Message, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			continue
		}
		<-release
		return m, nil
	}
	c := w.raw(t)
	for range 500 {
		id := c.open(echov1.EchoService_Anybody_FullMethodName)
		c.send(id, 0, nil)
		c.wrote(c.framer.WriteRSTStream(id, http2.ErrCodeCancel))
	}
	until(t, func() bool { return now.Load() == limit })
	close(release)
	until(t, func() bool { return now.Load() == 0 })
	if got := c.call(echov1.EchoService_Anybody_FullMethodName); got != "status 0" {
		t.Errorf("afterwards: %s", got)
	}
	if n := most.Load(); n > limit {
		t.Errorf("%d handlers at once", n)
	}
}

func TestAClientThatPingsWithoutEndIsSentAway(t *testing.T) {
	w := newWorld(t)
	c := w.raw(t)
	for range 10 {
		c.wrote(c.framer.WritePing(false, [8]byte{}))
	}
	if got := c.answer(1); got != "goaway ENHANCE_YOUR_CALM" {
		t.Errorf("got %s", got)
	}
}

func TestHeadersBeyondTheLimitAreRefused(t *testing.T) {
	w := newWorld(t)
	ends := make(chan time.Duration, 1)
	w.recordDeadline(ends)
	if got := w.raw(t).call(echov1.EchoService_Anybody_FullMethodName, "x-large", strings.Repeat("~", 8<<10)); got != "status 0" {
		t.Fatalf("8 KiB: %s", got)
	}
	<-ends
	for _, size := range []int{17 << 10, 1 << 20} {
		got := w.raw(t).call(echov1.EchoService_Anybody_FullMethodName, "x-large", strings.Repeat("~", size))
		if len(ends) > 0 || got == "status 0" {
			t.Errorf("%d bytes: %s, handler reached: %v", size, got, len(ends) > 0)
		}
	}
}
