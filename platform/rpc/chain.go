package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
)

// call is one call on its way through the chain.
type call struct {
	*method
	start  time.Time
	id     identity
	caller auth.Caller
	ctx    context.Context //nolint:containedctx // as the handler sees it, once it is admitted; a call is as long-lived as its context
	undo   []func()
	room   [4]func()
}

// unary lays the chain around one unary method.
func (s *Server) unary(m *method, handle grpc.MethodHandler) grpc.MethodHandler {
	accept := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := s.accept(ctx, m, req)
		if err != nil {
			return nil, err
		}
		return handler(ctx, req)
	}
	return func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (resp any, err error) {
		c := call{method: m, start: time.Now(), ctx: ctx}
		s.trace(&c)
		defer func() { resp, err = s.finish(&c, recover(), resp, err) }()
		if err := s.admit(&c); err != nil {
			return nil, err
		}
		return handle(srv, c.ctx, decode, accept)
	}
}

// stream lays the chain around one streaming method.
func (s *Server) stream(m *method, handle grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, ss grpc.ServerStream) (err error) {
		c := call{method: m, start: time.Now(), ctx: ss.Context()}
		s.trace(&c)
		defer func() { _, err = s.finish(&c, recover(), nil, err) }()
		if err := s.admit(&c); err != nil {
			return err
		}
		return handle(srv, &serverStream{ServerStream: ss, ctx: c.ctx, m: m, s: s})
	}
}

// trace puts the call into its trace; probes and reflection are in none.
func (s *Server) trace(c *call) {
	if !c.foreign {
		c.ctx = s.spans.begin(c.ctx, c.name, c.start)
	}
}

// admit decides everything that can be decided without the request.
func (s *Server) admit(c *call) error {
	if !s.gate.enter(c.stream && !c.probe, c.endless) {
		return stopping()
	}
	c.undo = append(c.room[:0], s.leave)
	if err := refuseCompression(c.ctx); err != nil {
		return err
	}
	var client context.Context
	var err error
	if c.id, client, err = s.locate(c.ctx); c.probe {
		return s.probeEnd(c)
	}
	if err != nil {
		return err
	}
	if !c.stream {
		s.deadline(c)
	}
	if c.id.ip.IsValid() {
		c.ctx = context.WithValue(c.ctx, clientIPKey{}, c.id.ip)
	}
	if c.forward {
		return s.admitForwarded(c)
	}
	ctx, caller, until, known, err := s.authenticate(c.ctx, client, c.id)
	c.ctx, c.caller = ctx, caller
	key := ""
	switch {
	case caller.UserID != "":
		key = "user " + caller.UserID
		if len(c.id.services) > 0 {
			break // the call that caused this one was counted
		}
		if err := s.perUser.take(key); err != nil {
			return err
		}
	case !known && c.id.ip.IsValid():
		key = "ip " + c.id.ip.String()
		if limited := s.perIP.take(key); limited != nil {
			return limited
		}
	}
	if err != nil {
		return err
	}
	if err := c.access.allow(caller, known, c.id.services); err != nil {
		return err
	}
	if c.stream {
		return s.openStream(c, key, until)
	}
	return nil
}

// admitForwarded lets a call pass to where its service runs. Who calls, how often
// and how long is looked at there.
func (s *Server) admitForwarded(c *call) error {
	if !c.stream {
		return nil
	}
	return s.tie(c.ctx, c)
}

// deadline gives every unary call an end, and none one that is too far away.
func (s *Server) deadline(c *call) {
	limit := s.cfg.Timeout
	if end, ok := c.ctx.Deadline(); ok {
		if end.Sub(c.start) <= s.cfg.MaxTimeout {
			return
		}
		limit = s.cfg.MaxTimeout
	}
	ctx, cancel := context.WithDeadline(c.ctx, c.start.Add(limit))
	c.ctx, c.undo = ctx, append(c.undo, cancel)
}

// openStream counts the stream and sees to it that it ends: with the server,
// with the caller's credentials, or with age.
func (s *Server) openStream(c *call, key string, until time.Time) error {
	release, err := s.perUserStreams.hold(key)
	if err != nil {
		return err
	}
	c.undo = append(c.undo, release)
	end, cause := c.start.Add(s.cfg.StreamMaxAge), errs.E(errs.Unavailable, "STREAM_EXPIRED", "the stream is old; open it anew")
	if !until.IsZero() {
		// Credentials are judged by the verifier's clock, deadlines by the real one.
		if credentials := c.start.Add(until.Sub(s.deps.Now())); credentials.Before(end) {
			end, cause = credentials, errs.E(errs.Unauthenticated, "TOKEN_EXPIRED", "the access token has expired; get a new one")
		}
	}
	ctx, cancel := context.WithDeadlineCause(c.ctx, end, cause)
	c.undo = append(c.undo, cancel)
	return s.tie(ctx, c)
}

// probeEnd lets health checks pass; their streams live as long as the server.
func (s *Server) probeEnd(c *call) error {
	if !c.stream {
		s.deadline(c)
		return nil
	}
	return s.tie(c.ctx, c)
}

// tie ends the stream when the server stops.
func (s *Server) tie(ctx context.Context, c *call) error {
	ctx, cancel := context.WithCancelCause(ctx)
	untie, ok := s.gate.tie(cancel, c.endless)
	if !ok {
		cancel(nil)
		return stopping()
	}
	c.ctx, c.undo = ctx, append(c.undo, func() { untie(); cancel(nil) })
	return nil
}

func stopping() error {
	return errs.E(errs.Unavailable, "SERVER_STOPPING", "this server is stopping; try again")
}

// refuseCompression keeps compressed requests out, whatever decompressors other
// packages of the process have registered: a small request must stay small.
func refuseCompression(ctx context.Context) error {
	s, ok := grpc.ServerTransportStreamFromContext(ctx).(interface{ RecvCompress() string })
	if !ok {
		return nil
	}
	if enc := s.RecvCompress(); enc != "" && enc != "identity" {
		return errs.E(errs.Unimplemented, "COMPRESSION_UNSUPPORTED", "send requests uncompressed")
	}
	return nil
}

// finish ends a call: whatever happened, the caller gets a status.
func (s *Server) finish(c *call, panicked, resp any, err error) (any, error) {
	var e *errs.Error
	switch {
	case panicked != nil:
		e = &errs.Error{Kind: errs.Internal, Reason: "PANIC", Err: fmt.Errorf("panic: %v", panicked)}
		resp = nil
	case err != nil:
		e = s.explain(c, err)
	}
	for i := len(c.undo) - 1; i >= 0; i-- {
		c.undo[i]()
	}
	if c.probe && panicked == nil {
		if e == nil {
			return resp, nil
		}
		return nil, probeStatus(err, e)
	}
	code := codes.OK
	if e != nil {
		code = Code(e.Kind)
	}
	took := time.Since(c.start)
	s.measure(c, code, took)
	if e == nil {
		if s.deps.Log.Enabled(c.ctx, slog.LevelDebug) {
			s.log(c, slog.LevelDebug, code, took)
		}
		s.spans.end(c.ctx, c.start, nil)
		return resp, nil
	}
	if c.forward && c.ctx.Err() == nil && ours(err) {
		s.logFailure(c, e, took, traceID(c.ctx), "")
		s.spans.end(c.ctx, c.start, err)
		return nil, err // as the service said it
	}
	trace := traceID(c.ctx)
	var stack string
	if panicked != nil {
		stack = string(debug.Stack())
	}
	s.logFailure(c, e, took, trace, stack)
	err = toStatus(e, trace).Err()
	s.spans.end(c.ctx, c.start, err)
	return nil, err
}

// explain finds the reason of a failure that has one outside of err: why a
// stream was ended, or that the call was over before the work was.
func (s *Server) explain(c *call, err error) *errs.Error {
	e := classify(err)
	if c.ctx.Err() == nil {
		return e
	}
	switch e.Kind {
	case errs.Canceled, errs.DeadlineExceeded, errs.Internal:
		cause := classify(context.Cause(c.ctx))
		return errs.Wrap(err, cause.Kind, cause.Reason, "%s", cause.Message)
	}
	return e
}

// probeStatus keeps the answers of the health service as its protocol wants them.
func probeStatus(err error, e *errs.Error) error {
	if st, ok := status.FromError(err); ok && e.Kind == Kind(st.Code()) {
		return st.Err()
	}
	return toStatus(e, "").Err()
}

// serverStream is a stream within the chain.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // of the stream, which is what this is
	m   *method
	s   *Server
}

// Context gives the stream's context with the caller in it.
func (s *serverStream) Context() context.Context { return s.ctx }

// RecvMsg receives the next request and validates it. It ends when the context
// does, even if the client just says nothing.
func (s *serverStream) RecvMsg(req any) error {
	if err := s.receive(req); err != nil {
		return err
	}
	_, err := s.s.accept(s.ctx, s.m, req)
	return err
}

func (s *serverStream) receive(req any) error {
	if !s.m.inbound {
		return s.ServerStream.RecvMsg(req)
	}
	// A server cannot interrupt RecvMsg. Whoever waits here no longer leaves the
	// handler, and with that the stream and the other goroutine end.
	got := make(chan error, 1)
	go func() { got <- s.ServerStream.RecvMsg(req) }()
	select {
	case err := <-got:
		return err
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
