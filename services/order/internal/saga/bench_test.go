package saga_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/waybill-dev/waybill/platform/auth/authtest"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/services/order/internal/ordertest"
)

// BenchmarkCreateOrder measures orders placed per second by 64 callers, each order
// durably written before its answer, quote included.
func BenchmarkCreateOrder(b *testing.B) {
	for name, open := range map[string]func() sqldbtest.Opener{
		"sqlite":   func() sqldbtest.Opener { return sqldbtest.SQLite(b) },
		"postgres": func() sqldbtest.Opener { return sqldbtest.Postgres(b, true) },
	} {
		b.Run(name, func(b *testing.B) {
			w := ordertest.New(b, open())
			ctx := authtest.As(b.Context(), "u1")
			b.ReportAllocs()
			b.ResetTimer()
			callers(b, 64, func() error {
				_, err := w.Orders.CreateOrder(ctx, ordertest.Request())
				return err
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "orders/s")
		})
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
