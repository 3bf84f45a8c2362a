package rpc

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	// Lets clients follow the health of servers and avoid those that are not ready.
	_ "google.golang.org/grpc/health"

	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"

	"github.com/waybill-dev/waybill/platform/discovery"
	"github.com/waybill-dev/waybill/platform/rpc/internal/balance"
)

// DialConfig is how a client calls; the zero value is good.
type DialConfig struct {
	TLS          *tls.Config          // nil: plain text
	Timeout      time.Duration        // of unary calls that bring none: 10 s
	ForwardToken bool                 // make calls in the name of the user whose call caused them
	Patience     time.Duration        // how long calls wait for a server while none is ready: they fail at once
	Resolve      time.Duration        // how often the DNS is asked where the servers are: 5 s
	Tracer       trace.TracerProvider // nil: no traces
	MaxMessage   int                  // bytes of one answer: 4 MiB
	Options      []grpc.DialOption    // anything else
}

// Dial gives a client for a target of package discovery. It does not wait for a
// connection. Calls are spread over all servers that are ready and do not fail
// while others succeed. Calls that the contract allows to be repeated are repeated
// when a server is away: three attempts at most, and hardly any while most of them
// fail. Patience is for all calls: before one is sent, waiting repeats nothing.
func Dial(target string, cfg DialConfig) (*grpc.ClientConn, error) {
	target, err := discovery.Target(target)
	if err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = 4 << 20
	}
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS)
	}
	d := &dialled{cfg, newSpans(cfg.Tracer, true)}
	opts := append(discovery.DialOptions(cfg.Resolve),
		grpc.WithTransportCredentials(creds),
		grpc.WithDefaultServiceConfig(serviceConfig(cfg.Patience)),
		grpc.WithDisableServiceConfig(), // who controls the DNS does not control retries
		// A server that was away for long is not kept waiting as long again.
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second, Backoff: backoff.Config{
			BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: 10 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(cfg.MaxMessage)),
		grpc.WithUnaryInterceptor(d.unary),
		grpc.WithStreamInterceptor(d.stream),
	)
	conn, err := grpc.NewClient(target, append(opts, cfg.Options...)...)
	if err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	return conn, nil
}

// dialled is what a client does around each call.
type dialled struct {
	DialConfig
	spans *spans
}

func (d *dialled) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	start := time.Now()
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, start.Add(d.Timeout))
		defer cancel()
	}
	ctx = d.spans.begin(d.forward(ctx), method, start)
	err := invoke(ctx, method, req, reply, cc, opts...)
	d.spans.end(ctx, start, err)
	return err
}

func (d *dialled) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	start := time.Now()
	ctx = d.forward(ctx)
	if strings.HasPrefix(method, "/grpc.") { // probes and reflection are in no trace
		return open(ctx, desc, cc, method, opts...)
	}
	ctx = d.spans.begin(ctx, method, start)
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		d.spans.end(ctx, start, err)
		return nil, err
	}
	if d.spans == nil || !trace.SpanFromContext(ctx).IsRecording() {
		return s, nil
	}
	var once sync.Once
	finish := func(err error) { once.Do(func() { d.spans.end(ctx, start, err) }) }
	// Whoever gives a stream up just cancels it.
	stop := context.AfterFunc(ctx, func() { finish(status.FromContextError(ctx.Err()).Err()) })
	return &tracedStream{s, func(err error) { stop(); finish(err) }}, nil
}

// tracedStream ends its span with the stream.
type tracedStream struct {
	grpc.ClientStream
	finish func(error)
}

// RecvMsg receives the next answer; an error is the end of the stream.
func (s *tracedStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	switch {
	case errors.Is(err, io.EOF):
		s.finish(nil)
	case err != nil:
		s.finish(err)
	}
	return err
}

// forward hands on the token of the call that ctx belongs to, unless the caller
// has put another one in.
func (c DialConfig) forward(ctx context.Context) context.Context {
	token := tokenFrom(ctx)
	if !c.ForwardToken || token == "" {
		return ctx
	}
	if md, _ := metadata.FromOutgoingContext(ctx); len(md.Get(authorization)) > 0 {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, authorization, "Bearer "+token)
}

// The parts of a gRPC service config that are used here.
type (
	config struct {
		Balancing  []map[string]balance.Config `json:"loadBalancingConfig"`
		Health     map[string]string           `json:"healthCheckConfig"`
		Throttling throttling                  `json:"retryThrottling"`
		Methods    []methodConfig              `json:"methodConfig,omitempty"`
	}
	throttling struct {
		MaxTokens  int     `json:"maxTokens"`
		TokenRatio float64 `json:"tokenRatio"`
	}
	methodConfig struct {
		Name         []methodName `json:"name"`
		WaitForReady bool         `json:"waitForReady,omitempty"`
		Retry        *retryPolicy `json:"retryPolicy,omitempty"`
	}
	methodName struct {
		Service string `json:"service"`
		Method  string `json:"method"`
	}
	retryPolicy struct {
		MaxAttempts    int      `json:"maxAttempts"`
		InitialBackoff string   `json:"initialBackoff"`
		MaxBackoff     string   `json:"maxBackoff"`
		Multiplier     float64  `json:"backoffMultiplier"`
		Codes          []string `json:"retryableStatusCodes"`
	}
)

// serviceConfig tells clients how to call the services of the contract. All calls
// wait for a server, with patience. Only methods that may be repeated are retried,
// only when no server was there to answer. A failure costs a token and a success
// brings a tenth of one, and below half of them nothing is retried: the calls that
// die with one server, up to 100 at once, are made again, and a service that is
// really down gets 100 retries and then a tenth more calls than were made, at most.
func serviceConfig(patience time.Duration) string {
	var again, once []methodName
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			svc := f.Services().Get(i)
			for j := range svc.Methods().Len() {
				md := svc.Methods().Get(j)
				name := methodName{string(svc.FullName()), string(md.Name())}
				switch {
				case repeatable(md):
					again = append(again, name)
				case proto.HasExtension(md.Options(), optionsv1.E_Idempotency): // the contract, not health or reflection
					once = append(once, name)
				}
			}
		}
		return true
	})
	c := config{
		Balancing:  []map[string]balance.Config{{balance.Name: {Patience: patience}}},
		Health:     map[string]string{"serviceName": ""},
		Throttling: throttling{MaxTokens: 200, TokenRatio: 0.1},
	}
	retry := &retryPolicy{MaxAttempts: 3, InitialBackoff: "0.05s", MaxBackoff: "1s", Multiplier: 2, Codes: []string{"UNAVAILABLE"}}
	for _, m := range []methodConfig{{again, patience > 0, retry}, {once, patience > 0, nil}} {
		if len(m.Name) > 0 {
			slices.SortFunc(m.Name, func(a, b methodName) int { return strings.Compare(a.Service+"/"+a.Method, b.Service+"/"+b.Method) })
			c.Methods = append(c.Methods, m)
		}
	}
	b, err := json.Marshal(c)
	if err != nil { // plain structs of strings and numbers always encode
		return "{}"
	}
	return string(b)
}

// repeatable reports whether the contract lets a client make a call again by
// itself: reads, deeds that are the same twice, and those with a request_id.
func repeatable(md protoreflect.MethodDescriptor) bool {
	if !proto.HasExtension(md.Options(), optionsv1.E_Idempotency) || md.IsStreamingClient() {
		return false
	}
	switch idempotencyOf(md) {
	case optionsv1.Idempotency_IDEMPOTENCY_READ, optionsv1.Idempotency_IDEMPOTENCY_IDEMPOTENT, optionsv1.Idempotency_IDEMPOTENCY_KEYED:
		return true
	}
	return false
}
