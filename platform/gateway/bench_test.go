package gateway

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fullstorydev/grpchan/inprocgrpc"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/telemetry"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
)

// BenchmarkREST reads one product over HTTP in this process: through the gateway
// alone, through it and the server's whole chain (everything), and from net/http
// with protojson, which is the limit to compare with. All in one run, since figures of two runs do not compare.
func BenchmarkREST(b *testing.B) {
	opts := protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}
	bare := http.NewServeMux()
	bare.HandleFunc("GET /v1/products/{id}", func(w http.ResponseWriter, r *http.Request) {
		j, err := opts.Marshal(product(r.PathValue("id")))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(j)
	})
	tel, err := telemetry.Setup(b.Context(), telemetry.Config{
		ServiceName: "bench", SampleRatio: 0.1, Exporter: tracetest.NewNoopExporter(), Log: telemetry.LogConfig{Writer: io.Discard},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	chain := newGuarded(b, (&quiet{}).register, tel.Tracer, tel.Meter)
	_, token, _ := strings.Cut(chain.bearer(b, auth.Customer), ": ")
	all, err := New(Config{
		Services: services(chain.server.Conn()), Tracer: tel.Tracer, Meter: tel.Meter, PerIP: Rate{PerSecond: 1e9, Burst: 1e9},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	gw, err := New(Config{
		Services: services(inProcess(&quiet{})), Tracer: tel.Tracer, Meter: tel.Meter, PerIP: Rate{PerSecond: 1e9, Burst: 1e9},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		h    http.Handler
	}{{"net-http", bare}, {"gateway", gw}, {"everything", all}} {
		b.Run(c.name, func(b *testing.B) {
			ts := httptest.NewUnstartedServer(nil)
			ts.Config = NewHTTPServer(ServerConfig{}, c.h, nil)
			ts.Start()
			defer ts.Close()
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
			defer client.CloseIdleConnections()
			load(b, client, ts.URL+"/v1/products/"+productID, token)
		})
		b.Run(c.name+"/handler", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest("GET", "/v1/products/"+productID, nil)
				r.Header.Set("Authorization", token)
				w := httptest.NewRecorder()
				c.h.ServeHTTP(w, r)
				if w.Code != 200 {
					b.Fatal(w.Body)
				}
			}
		})
	}
}

// quiet is a service that only answers.
type quiet struct {
	orderv1.UnimplementedOrderServiceServer
	inventoryv1.UnimplementedInventoryServiceServer
	paymentv1.UnimplementedPaymentServiceServer
}

func (quiet) GetProduct(_ context.Context, in *inventoryv1.GetProductRequest) (*inventoryv1.Product, error) {
	return product(in.GetProductId()), nil
}

func (q *quiet) register(r grpc.ServiceRegistrar) {
	orderv1.RegisterOrderServiceServer(r, q)
	inventoryv1.RegisterInventoryServiceServer(r, q)
	paymentv1.RegisterPaymentServiceServer(r, q)
}

func inProcess(q *quiet) grpc.ClientConnInterface {
	ch := &inprocgrpc.Channel{}
	q.register(ch)
	return ch
}

// load sends b.N requests from 64 callers.
func load(b *testing.B, client *http.Client, url, token string) {
	b.ReportAllocs()
	b.SetParallelism(32)
	cpu := cpuTime(b)
	var bad atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequest("GET", url, nil)
			if err != nil {
				bad.Add(1)
				continue
			}
			req.Header.Set("Authorization", token)
			resp, err := client.Do(req)
			if err != nil {
				bad.Add(1)
				continue
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 200 {
				bad.Add(1)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "req/s")
	b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/float64(b.N), "cpu-µs/req") // of client and server; steadier on a busy machine
	if bad.Load() > 0 {
		b.Errorf("%d failed", bad.Load())
	}
}

// cpuTime gives the processor time this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkCheckJSON holds the body of an order against its descriptor, beside
// what protojson needs to decode it.
func BenchmarkCheckJSON(b *testing.B) {
	routes, err := findRoutes(services((&stub{}).inProcess(b)))
	if err != nil {
		b.Fatal(err)
	}
	r := routes[slices.IndexFunc(routes, func(r *route) bool { return r.httpMethod == "POST" && r.path == "/v1/orders" })]
	data := []byte(strings.ReplaceAll(createBody, `[{"product_id"`, `[{"product_id":"`+productID+`","quantity":1},{"product_id"`))
	b.Run("check", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if v := checkJSON(data, r.in, nil, nil); v != nil {
				b.Fatal(v)
			}
		}
	})
	b.Run("protojson", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := unmarshalJSON.Unmarshal(data, r.inType.New().Interface()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
