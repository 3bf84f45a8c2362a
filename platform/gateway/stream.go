package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/waybill-dev/waybill/platform/errs"
)

// streamDesc is how a server-streaming method is called.
var streamDesc = grpc.StreamDesc{ServerStreams: true}

// writeTimeout is how long a client may take one message of a stream.
const writeTimeout = 30 * time.Second

// serveStream calls a server-streaming method and writes what comes as
// server-sent events or as one JSON object per line. Until the first message is
// there an error is an ordinary answer; afterwards it is the last thing on the
// stream. When the client goes, the call is canceled.
func (g *Gateway) serveStream(ctx context.Context, c *call, req *http.Request, in proto.Message) {
	ctx, cancel := context.WithCancel(ctx)
	messages := receive(ctx, c.route, in)
	defer func() {
		cancel()
		for range messages { // until the receiver is gone
		}
	}()
	out := &streamWriter{c: c, control: http.NewResponseController(c.recorder.ResponseWriter), events: c.wantsEvents, resume: c.route.resumeToken, encoder: g.encoder}
	var beats <-chan time.Time
	if out.events {
		ticks, stop := g.cfg.NewTicker(g.cfg.Heartbeat)
		defer stop()
		beats = ticks
	}
	for {
		var err error
		select {
		case m, open := <-messages:
			if !open { // ctx has ended, and both cases were ready
				m.err = ctx.Err()
			}
			if m.err != nil {
				g.endStream(c, req, out, m.err)
				return
			}
			err = out.message(m.msg)
		case <-g.stopping:
			g.endStream(c, req, out, errs.E(errs.Unavailable, "SERVER_STOPPING", "this server is stopping; open the stream again").WithRetryAfter(time.Second))
			return
		case <-beats:
			err = out.comment("")
		case <-ctx.Done():
			g.endStream(c, req, out, ctx.Err())
			return
		}
		if err != nil {
			return // nobody listens any more
		}
	}
}

// endStream writes the end of a stream: err is io.EOF when it is complete.
func (g *Gateway) endStream(c *call, req *http.Request, out *streamWriter, err error) {
	switch {
	case errors.Is(err, io.EOF):
		_ = out.end()
	case errors.Is(req.Context().Err(), context.Canceled):
		if c.status == 0 {
			c.status = 499 // the client is gone; for the log
		}
	case c.status == 0:
		g.writeError(c, req, err)
	default:
		st, _ := toStatus(err, c.traceID())
		if b, jerr := json.Marshal(bodyOf(st)); jerr == nil {
			_ = out.failure(b)
		}
	}
}

// received is a message of a stream, or why there are no more.
type received struct {
	msg proto.Message
	err error
}

// receive opens the stream and gives its messages, then one error, which is
// io.EOF after the last message. The channel is closed when ctx ends or after
// the error, and nothing is left running then.
func receive(ctx context.Context, r *route, in proto.Message) <-chan received {
	ch := make(chan received)
	send := func(m received) bool {
		select {
		case ch <- m:
			return m.err == nil
		case <-ctx.Done():
			return false
		}
	}
	go func() {
		defer close(ch)
		stream, err := openStream(ctx, r, in)
		if err != nil {
			send(received{err: err})
			return
		}
		for {
			m := r.outType.New().Interface()
			if err := stream.RecvMsg(m); err != nil {
				send(received{err: ended(ctx, err)})
				return
			}
			if !send(received{msg: m}) {
				return
			}
		}
	}()
	return ch
}

func openStream(ctx context.Context, r *route, in proto.Message) (grpc.ClientStream, error) {
	stream, err := r.conn.NewStream(ctx, &streamDesc, r.rpc)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(in); err != nil && !errors.Is(err, io.EOF) { // EOF: RecvMsg tells why
		return nil, err
	}
	return stream, stream.CloseSend()
}

// streamWriter writes a stream's messages to the client, each at once.
type streamWriter struct {
	c       *call
	control *http.ResponseController
	events  bool
	resume  protoreflect.FieldDescriptor
	encoder *encoder
	buf     []byte
}

// begin sends the headers, once.
func (s *streamWriter) begin() {
	if s.c.status != 0 {
		return
	}
	h := s.c.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // proxies that buffer would hold events back
	if s.events {
		h.Set("Content-Type", "text/event-stream")
		s.buf = append(s.buf, "retry: 2000\n\n"...)
	} else {
		h.Set("Content-Type", "application/x-ndjson")
	}
	s.c.WriteHeader(http.StatusOK)
}

// flush sends what is in buf.
func (s *streamWriter) flush() error {
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	_, err := s.c.Write(s.buf)
	s.buf = s.buf[:0]
	if err != nil {
		return err
	}
	return s.control.Flush()
}

// message writes one message.
func (s *streamWriter) message(m proto.Message) error {
	s.begin()
	var err error
	if !s.events {
		s.buf = append(s.buf, `{"result":`...)
		if s.buf, err = s.encoder.append(s.buf, m.ProtoReflect()); err != nil {
			return err
		}
		s.buf = append(s.buf, "}\n"...)
		return s.flush()
	}
	if s.resume != nil {
		if id := m.ProtoReflect().Get(s.resume).String(); id != "" && !strings.ContainsAny(id, "\r\n\x00") {
			s.buf = append(append(append(s.buf, "id: "...), id...), '\n')
		}
	}
	s.buf = append(s.buf, "event: message\ndata: "...)
	if s.buf, err = s.encoder.append(s.buf, m.ProtoReflect()); err != nil { // one line: breaks in texts are escaped
		return err
	}
	s.buf = append(s.buf, "\n\n"...)
	return s.flush()
}

// comment writes what readers skip; it keeps proxies from closing an idle connection.
func (s *streamWriter) comment(text string) error {
	s.begin()
	s.buf = append(append(append(s.buf, ':'), text...), "\n\n"...)
	return s.flush()
}

// end says that the stream is complete, so that a client need not come back.
func (s *streamWriter) end() error {
	s.begin()
	if s.events {
		s.buf = append(s.buf, "event: end\ndata: {}\n\n"...)
	}
	return s.flush()
}

// failure says why the stream ended; status is the JSON of an error's body.
func (s *streamWriter) failure(status []byte) error {
	if s.events {
		s.buf = append(append(append(s.buf, "event: error\ndata: "...), status...), "\n\n"...)
	} else {
		s.buf = append(append(append(s.buf, `{"error":`...), status...), "}\n"...)
	}
	return s.flush()
}
