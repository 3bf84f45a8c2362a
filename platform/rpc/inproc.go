package rpc

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Conn gives a connection to this server within the process, for the gateway:
// its calls are those of the people who bring a token, or anonymous.
func (s *Server) Conn() grpc.ClientConnInterface { return &conn{s, &origin{}} }

// ConnAs gives a connection to this server within the process for one of its
// services. A call goes out in the name of the user whose call caused it, if
// its context comes from one; otherwise, and with InOwnName, in the service's own.
func (s *Server) ConnAs(service string) grpc.ClientConnInterface {
	return &conn{s, &origin{services: []string{service}}}
}

// conn is a connection without a wire. Messages are copied, so neither side
// ever sees the other change one.
type conn struct {
	s    *Server
	from *origin
}

// Invoke makes a unary call.
func (c *conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ch, err := c.s.channel()
	if err != nil {
		return err
	}
	req, ok := args.(proto.Message)
	if !ok || !req.ProtoReflect().IsValid() {
		return Status(errNoMessage, "").Err()
	}
	// The caller gets its answer in time even from a handler that does not look
	// at its context.
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.s.cfg.Timeout)
		defer cancel()
	}
	lent := &loan{msg: req}
	defer lent.end()
	err = ch.Invoke(context.WithValue(ctx, originKey{}, c.from), method, lent, reply, opts...)
	if errors.Is(err, io.EOF) && ctx.Err() != nil {
		// The channel says so when the handler was done before it saw that ctx was.
		return status.FromContextError(ctx.Err()).Err()
	}
	return err
}

// loan is a request on its way. A call that is given up returns before the
// server has copied the request, which the caller may then change: the server
// must not look at it any more.
type loan struct {
	mu  sync.Mutex
	msg proto.Message
}

func (l *loan) copyTo(to proto.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.msg == nil {
		return context.Canceled
	}
	return merge(to, l.msg)
}

func (l *loan) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.msg = nil
}

// NewStream opens a stream.
func (c *conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ch, err := c.s.channel()
	if err != nil {
		return nil, err
	}
	stream, err := ch.NewStream(context.WithValue(ctx, originKey{}, c.from), desc, method, opts...)
	if err == nil && !desc.ClientStreams {
		stream = oneRequest{stream}
	}
	return stream, err
}

// oneRequest is a stream whose client sends one message. When the server is done
// before it read that, generated code must not hear of it from SendMsg, but of the
// reason from RecvMsg, as over TCP.
type oneRequest struct{ grpc.ClientStream }

// SendMsg sends the request.
func (s oneRequest) SendMsg(m any) error {
	if err := s.ClientStream.SendMsg(m); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func (s *Server) channel() (*inprocgrpc.Channel, error) {
	if b := s.built.Load(); b != nil {
		return b.local, nil
	}
	return nil, Status(unbuilt(), "").Err()
}

// cloner copies messages between the two sides.
type cloner struct{}

// Clone implements inprocgrpc.Cloner.
func (cloner) Clone(in any) (any, error) {
	m, ok := in.(proto.Message)
	if !ok {
		return nil, errNoMessage
	}
	return proto.Clone(m), nil
}

// Copy implements inprocgrpc.Cloner.
func (cloner) Copy(out, in any) error {
	to, ok := out.(proto.Message)
	if !ok {
		return errNoMessage
	}
	switch from := in.(type) {
	case *loan:
		return from.copyTo(to)
	case proto.Message:
		return merge(to, from)
	}
	return errNoMessage
}

func merge(to, from proto.Message) error {
	if to.ProtoReflect().Descriptor() != from.ProtoReflect().Descriptor() {
		return errNoMessage
	}
	proto.Reset(to)
	proto.Merge(to, from)
	return nil
}

var errNoMessage = errors.New("rpc: not a message, or another one than expected")
