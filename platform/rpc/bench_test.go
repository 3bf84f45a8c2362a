package rpc

import (
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/rpc/internal/echov1"
)

// product is a message of the product's usual size, some 220 bytes.
func product() *echov1.Message {
	return &echov1.Message{
		RequestId: "0194fdc2-fa2f-7cc0-81d3-ff12045b73c8", Name: "Ada Lovelace", Email: "ada.lovelace@example.com", Amount: 129900,
		UserId: "0194fdc2-fa2f-7cc0-81d3-ff12045b73c9",
		Lines:  []*echov1.Line{{Sku: "TEAPOT-RED-1L", Quantity: 2}, {Sku: "CUP-WHITE-02L", Quantity: 6}},
		Labels: map[string]string{"channel": "web", "campaign": "autumn"},
	}
}

// dropped is a span exporter that exports nothing.
type dropped struct{}

func (dropped) ExportSpans(context.Context, []sdktrace.ReadOnlySpan) error { return nil }
func (dropped) Shutdown(context.Context) error                             { return nil }

func tracer(b *testing.B, ratio float64) *sdktrace.TracerProvider {
	tp := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(ratio))), sdktrace.WithBatcher(dropped{}))
	b.Cleanup(func() { _ = tp.Shutdown(context.Background()) })
	return tp
}

// everything switches on all there is, as in production.
func everything(b *testing.B, ratio float64) option {
	return func(c *Config, d *Deps) {
		c.PerUser, c.PerIP = Rate{1e9, 1e9}, Rate{1e9, 1e9}
		d.Log = slog.New(slog.NewJSONHandler(io.Discard, nil)) //nolint:sloglint // what is measured is the writing
		d.Tracer = tracer(b, ratio)
		d.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewManualReader()))
	}
}

// report measures the calls one by one and reports percentiles.
func report(b *testing.B, call func() error) {
	took := make([]time.Duration, 0, b.N)
	b.ReportAllocs()
	for b.Loop() {
		start := time.Now()
		if err := call(); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}

// BenchmarkInProcess is one co-located call with the whole chain.
func BenchmarkInProcess(b *testing.B) {
	for _, c := range []struct {
		name  string
		ratio float64
	}{{"sampled 10%", 0.1}, {"sampled 100%", 1}, {"sampled 0%", 0}} {
		b.Run(c.name, func(b *testing.B) {
			w := newWorld(b, everything(b, c.ratio))
			ctx, req, client := w.as(b, alice), product(), client(w.Conn())
			b.Run("read", func(b *testing.B) {
				report(b, func() error { _, err := client.Customers(ctx, req); return err })
			})
			b.Run("write", func(b *testing.B) {
				report(b, func() error { _, err := client.Write(ctx, req); return err })
			})
		})
	}
}

// BenchmarkInProcess64 is the same with 64 callers at once.
func BenchmarkInProcess64(b *testing.B) {
	w := newWorld(b, everything(b, 0.1))
	ctx, req, client := w.as(b, alice), product(), client(w.Conn())
	parallel(b, func() error { _, err := client.Customers(ctx, req); return err })
}

// parallel has 64 callers call as fast as they can.
func parallel(b *testing.B, call func() error) {
	const callers = 64
	for range 1000 {
		if err := call(); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	cpu := cpuTime()
	var all sync.WaitGroup
	took := make([][]time.Duration, callers)
	for i := range callers {
		n := b.N / callers
		if i < b.N%callers {
			n++
		}
		all.Go(func() {
			took[i] = make([]time.Duration, 0, n)
			for range n {
				start := time.Now()
				if err := call(); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(start))
			}
		})
	}
	all.Wait()
	b.StopTimer()
	cpu = cpuTime() - cpu
	every := slices.Concat(took...)
	slices.Sort(every)
	b.ReportMetric(float64(cpu.Nanoseconds())/1e3/float64(len(every)), "cpu-µs/call")
	b.ReportMetric(float64(len(every))/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(float64(every[len(every)/2].Nanoseconds())/1e6, "p50-ms")
	b.ReportMetric(float64(every[len(every)*99/100].Nanoseconds())/1e6, "p99-ms")
}

// BenchmarkCloner is what copying one message costs, in three ways.
func BenchmarkCloner(b *testing.B) {
	req := product()
	for name, c := range map[string]inprocgrpc.Cloner{
		"merge":             cloner{},
		"library default":   inprocgrpc.ProtoCloner{},
		"encode and decode": inprocgrpc.CodecClonerV2(encoding.GetCodecV2("proto")),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := c.Copy(new(echov1.Message), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// cpuTime is what this process has used so far: unlike the calls per second, it
// hardly changes when the machine has other work.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTCP compares the whole chain with bare gRPC: the same message, one
// connection, 64 callers, one after the other in one process.
func BenchmarkTCP(b *testing.B) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := grpc.NewServer()
	echov1.RegisterEchoServiceServer(srv, &echo{})
	go func() { _ = srv.Serve(lis) }()
	b.Cleanup(srv.Stop)
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	bare := client(conn)

	full := func(ratio float64) (echov1.EchoServiceClient, context.Context) {
		w := newWorld(b, everything(b, ratio))
		return client(w.dial(b, DialConfig{Tracer: tracer(b, ratio)})), w.as(b, alice)
	}
	all, ctx := full(0.1)
	everySpan, ctx1 := full(1)
	req := product()
	b.Logf("%d bytes", proto.Size(req))
	for _, round := range []string{"1", "2", "3"} {
		b.Run("bare/"+round, func(b *testing.B) {
			parallel(b, func() error { _, err := bare.Customers(b.Context(), req); return err })
		})
		b.Run("all/"+round, func(b *testing.B) {
			parallel(b, func() error { _, err := all.Customers(ctx, req); return err })
		})
		b.Run("all, every span/"+round, func(b *testing.B) {
			parallel(b, func() error { _, err := everySpan.Customers(ctx1, req); return err })
		})
	}
}
