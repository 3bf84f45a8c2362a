package bus_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
)

// sample is about what an order event looks like on the wire.
func sample(n int) bus.Msg {
	id := fmt.Sprintf("0199b0c6-7d3e-7a11-9d5b-%012x", n)
	return bus.Msg{
		ID: id, Subject: "test.BENCH.order_placed.v1",
		Header: map[string]string{
			"ce-id": id, "ce-type": "waybill.order.v1.OrderPlaced", "ce-source": "order", "ce-time": "2026-01-02T03:04:05.678901Z",
			"aggregate-version": "3", "cause": "0199b0c6-7d3e-7a11-9d5b-0123456789ab", "hops": "2",
			"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		},
		Data: make([]byte, 200),
	}
}

func bench(b *testing.B, run func(b *testing.B, x *bus.Bus)) {
	always := func(c *bus.Config) { c.SyncAlways = true }
	for name, open := range map[string]func(b *testing.B) *bus.Bus{
		"embedded":        func(b *testing.B) *bus.Bus { return bustest.Embedded(b).Open() },
		"embedded-always": func(b *testing.B) *bus.Bus { return bustest.Embedded(b).Open(always) },
		"external":        func(b *testing.B) *bus.Bus { return bustest.External(b).Open() },
	} {
		b.Run(name, func(b *testing.B) {
			x := open(b)
			s := events("BENCH")
			s.MaxBytes = 8 << 30
			ensure(b, x, s)
			b.ReportAllocs()
			b.ResetTimer()
			run(b, x)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

func BenchmarkPublish(b *testing.B) {
	bench(b, func(b *testing.B, x *bus.Bus) {
		for n := range b.N {
			publish(b, x, "BENCH", sample(n))
		}
	})
}

func publishAll(b *testing.B, x *bus.Bus) {
	var pending sync.WaitGroup
	var failed atomic.Int64
	pending.Add(b.N)
	for n := range b.N {
		x.PublishAsync("BENCH", sample(n), func(_ uint64, err error) {
			if err != nil {
				failed.Add(1)
			}
			pending.Done()
		})
	}
	pending.Wait()
	if failed.Load() > 0 {
		b.Fatalf("%d failed", failed.Load())
	}
}

func BenchmarkPublishAsync(b *testing.B) { bench(b, publishAll) }

func BenchmarkPublishBatch(b *testing.B) {
	for _, size := range []int{32, 128, 512} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			bench(b, func(b *testing.B, x *bus.Bus) {
				msgs := make([]bus.Msg, 0, size)
				for n := range b.N {
					if msgs = append(msgs, sample(n)); len(msgs) < size && n < b.N-1 {
						continue
					}
					if _, err := x.PublishBatch(b.Context(), "BENCH", msgs); err != nil {
						b.Fatal(err)
					}
					msgs = msgs[:0]
				}
			})
		})
	}
}

func BenchmarkConsumeAndAck(b *testing.B) {
	bench(b, func(b *testing.B, x *bus.Bus) {
		b.StopTimer()
		publishAll(b, x)
		left := int64(b.N)
		done := make(chan struct{})
		b.StartTimer()
		sub, err := x.Consume(b.Context(), bus.Consumer{Stream: "BENCH", Durable: "reader"}, func(d *bus.Delivery) {
			if d.Header("ce-type") == "" || d.Ack() != nil {
				b.Error("bad delivery")
			}
			if left--; left == 0 {
				close(done)
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		<-done
		b.StopTimer()
		_ = sub.Stop(b.Context())
	})
}
