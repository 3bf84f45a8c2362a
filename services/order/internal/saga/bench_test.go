package saga_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/auth/authtest"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order/internal/ordertest"
)

// BenchmarkCreateOrder measures orders placed per second by 64 callers, each order
// durably written before its answer, quote included: within the process, and over
// TCP on one connection. Nobody handles the orders that were placed.
func BenchmarkCreateOrder(b *testing.B) {
	for name, open := range map[string]func() sqldbtest.Opener{
		"sqlite":   func() sqldbtest.Opener { return sqldbtest.SQLite(b) },
		"postgres": func() sqldbtest.Opener { return sqldbtest.Postgres(b, true) },
	} {
		for way, client := range map[string]func(*ordertest.World) orderv1.OrderServiceClient{
			"in process": func(w *ordertest.World) orderv1.OrderServiceClient { return w.Orders },
			"tcp":        (*ordertest.World).Dial,
		} {
			b.Run(name+"/"+way, func(b *testing.B) {
				w := ordertest.New(b, open())
				orders, ctx := client(w), authtest.As(b.Context(), "u1")
				took := make([]time.Duration, b.N)
				var next atomic.Int64
				b.ReportAllocs()
				b.ResetTimer()
				callers(b, 64, func() error {
					start := time.Now()
					_, err := orders.CreateOrder(ctx, ordertest.Request())
					took[next.Add(1)-1] = time.Since(start)
					return err
				})
				slices.Sort(took)
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
				b.ReportMetric(float64(took[b.N/2].Microseconds())/1e3, "p50-ms")
				b.ReportMetric(float64(took[b.N*99/100].Microseconds())/1e3, "p99-ms")
			})
		}
	}
}

// BenchmarkSaga measures how fast the order service takes in the five events that
// end a saga well, from the broker to the last status.
func BenchmarkSaga(b *testing.B) {
	for name, open := range map[string]func() sqldbtest.Opener{
		"sqlite":   func() sqldbtest.Opener { return sqldbtest.SQLite(b) },
		"postgres": func() sqldbtest.Opener { return sqldbtest.Postgres(b, true) },
	} {
		b.Run(name, func(b *testing.B) {
			w := ordertest.New(b, open())
			ids := make([]string, b.N)
			var next atomic.Int64
			callers(b, 64, func() error {
				o, err := w.Orders.CreateOrder(authtest.As(b.Context(), "u1"), ordertest.Request())
				if err == nil {
					ids[next.Add(1)-1] = o.GetOrderId()
				}
				return err
			})
			b.ReportAllocs()
			b.ResetTimer()
			for step := range 5 {
				for _, id := range ids {
					w.Say(ordertest.Happy(id)[step])
				}
			}
			w.Eventually("all are handled", func() bool { return w.Count("SELECT count(*) FROM inbox") == int64(5*b.N) })
			b.ReportMetric(float64(5*b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// callers runs fn b.N times from n goroutines.
func callers(b *testing.B, n int, fn func() error) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := fn(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}
