package system_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// rawMessage is sent as it is, whatever it is.
type rawMessage string

// rawCodec sends rawMessages and reads messages.
type rawCodec struct{}

// Name is that of the usual codec, so that the server takes it for it.
func (rawCodec) Name() string { return "proto" }

// Marshal implements encoding.Codec.
func (rawCodec) Marshal(v any) ([]byte, error) {
	if r, ok := v.(rawMessage); ok {
		return []byte(r), nil
	}
	return proto.Marshal(v.(proto.Message))
}

// Unmarshal implements encoding.Codec.
func (rawCodec) Unmarshal(data []byte, v any) error { return proto.Unmarshal(data, v.(proto.Message)) }

func forceRaw() grpc.CallOption { return grpc.ForceCodec(rawCodec{}) }

// rawConn speaks HTTP/2 by hand, to send what no gRPC client would.
type rawConn struct {
	t      *testing.T
	net    net.Conn
	framer *http2.Framer
	enc    *hpack.Encoder
	buf    bytes.Buffer
	next   uint32
	write  sync.Mutex // answers are awaited while others still write
}

func (w *world) raw(t *testing.T) *rawConn {
	t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	c := &rawConn{t: t, net: conn, next: 1}
	c.enc = hpack.NewEncoder(&c.buf)
	_, err = conn.Write([]byte(http2.ClientPreface))
	must(t, err)
	c.framer = http2.NewFramer(conn, conn)
	c.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	must(t, c.framer.WriteSettings())
	return c
}

// open begins a call; extra are more headers, or others for the usual ones.
// Errors of the connection show when the answer is read.
func (c *rawConn) open(path string, extra ...string) uint32 {
	c.write.Lock()
	defer c.write.Unlock()
	c.buf.Reset()
	replaced := map[string]bool{}
	for i := 0; i < len(extra); i += 2 {
		replaced[extra[i]] = true
	}
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		if !replaced[h[0]] {
			_ = c.enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
	}
	for i := 0; i < len(extra); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: extra[i], Value: extra[i+1]})
	}
	id := c.next
	c.next += 2
	block := c.buf.Bytes()
	first := block[:min(len(block), 16<<10)]
	rest := block[len(first):]
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndHeaders: len(rest) == 0})
	for len(rest) > 0 {
		part := rest[:min(len(rest), 16<<10)]
		rest = rest[len(part):]
		_ = c.framer.WriteContinuation(id, len(rest) == 0, part)
	}
	return id
}

// message sends one message and ends the request.
func (c *rawConn) message(id uint32, compressed byte, body []byte) {
	c.write.Lock()
	defer c.write.Unlock()
	m := binary.BigEndian.AppendUint32([]byte{compressed}, uint32(len(body)))
	_ = c.framer.WriteData(id, true, append(m, body...))
}

// answer waits for what becomes of a call: its gRPC status, or how it was refused.
func (c *rawConn) answer(id uint32) string {
	c.t.Helper()
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.write.Lock()
				_ = c.framer.WriteSettingsAck()
				c.write.Unlock()
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

// ping and reset send one frame each; an error means that the server is gone.
func (c *rawConn) ping() error {
	c.write.Lock()
	defer c.write.Unlock()
	return c.framer.WritePing(false, [8]byte{})
}

func (c *rawConn) reset(id uint32) error {
	c.write.Lock()
	defer c.write.Unlock()
	return c.framer.WriteRSTStream(id, http2.ErrCodeCancel)
}

// call makes a whole call.
func (c *rawConn) call(path string, body []byte, extra ...string) string {
	id := c.open(path, extra...)
	c.message(id, 0, body)
	return c.answer(id)
}
