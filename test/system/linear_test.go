package system_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// checkLimit bounds the search for an order in which the calls could have been
// made one after the other. A history for which it ends without an answer fails.
const checkLimit = 20 * time.Second

// histories is how many of each kind are recorded: many when all is to be proved.
func histories() int {
	if os.Getenv("WAYBILL_PROVE") != "" {
		return 100
	}
	return 3
}

// A recorder writes down calls with the times between which they took effect.
type recorder struct {
	mu    sync.Mutex
	clock atomic.Int64
	ops   []porcupine.Operation
}

func (r *recorder) call(client int, input any, do func() (output any)) {
	op := porcupine.Operation{ClientId: client, Input: input, Call: r.clock.Add(1)}
	op.Output = do()
	op.Return = r.clock.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
}

func (r *recorder) check(t *testing.T, model porcupine.Model, what string) {
	t.Helper()
	if result := porcupine.CheckOperationsTimeout(model, r.ops, checkLimit); result != porcupine.Ok {
		t.Errorf("%s: %s", what, result)
		for _, op := range r.ops {
			t.Logf("client %d, %d to %d: %s", op.ClientId, op.Call, op.Return, model.DescribeOperation(op.Input, op.Output))
		}
	}
}

// certain makes a call with a key again until it is known what became of it.
func certain[R any](call func() (R, error)) (R, error) {
	for {
		out, err := call()
		switch status.Code(err) {
		case codes.Unavailable, codes.Aborted, codes.ResourceExhausted:
			continue
		default:
			return out, err
		}
	}
}

// A keyed order is created with a key, or read by the id that the key gave.
type keyCall struct {
	key  string
	read string // id, or "" for a creation
}

type keyAnswer struct {
	id    string
	found bool
}

// keys models each key as a register that is written once.
var keys = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		by := map[string][]porcupine.Operation{}
		for _, op := range history {
			k := op.Input.(keyCall).key
			by[k] = append(by[k], op)
		}
		var parts [][]porcupine.Operation
		for _, p := range by {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		id, in, out := state.(string), input.(keyCall), output.(keyAnswer)
		switch {
		case in.read != "":
			return out.found == (id == in.read), id
		case id == "":
			return true, out.id
		}
		return out.id == id, id
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
}

func TestOrdersByKeyAreAsIfMadeOneAfterTheOther(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u, p := w.customer(t), w.product(t, euro(100), 1_000_000)
	orders := orderv1.NewOrderServiceClient(w.conn)
	for n := range histories() {
		r := &recorder{}
		var ids sync.Map // key -> id, as soon as anybody knows
		chosen := []string{newKey(), newKey(), newKey()}
		var hands sync.WaitGroup
		for client := range 6 {
			rnd := rand.New(rand.NewPCG(uint64(n), uint64(client)))
			hands.Go(func() {
				for range 10 {
					key := chosen[rnd.IntN(len(chosen))]
					if id, ok := ids.Load(key); ok && rnd.IntN(2) == 0 {
						r.call(client, keyCall{key, id.(string)}, func() any {
							_, err := orders.GetOrder(u.as(soon(t)), &orderv1.GetOrderRequest{OrderId: id.(string)})
							if err != nil && status.Code(err) != codes.NotFound {
								t.Error(err)
							}
							return keyAnswer{found: err == nil}
						})
						continue
					}
					r.call(client, keyCall{key: key}, func() any {
						req := cart(p, 1, "tok_ok")
						req.RequestId = key
						o, err := certain(func() (*orderv1.Order, error) { return orders.CreateOrder(u.as(soon(t)), req) })
						if err != nil {
							t.Errorf("a good order was refused: %v", err)
						}
						ids.Store(key, o.GetOrderId())
						return keyAnswer{id: o.GetOrderId()}
					})
				}
			})
		}
		hands.Wait()
		r.check(t, keys, fmt.Sprintf("history %d of orders by key", n))
	}
	t.Logf("PROVE histories=%d", histories())
}

// A stock call changes what is available: an adjustment by delta, an order of
// take units, or neither, which reads it.
type stockCall struct{ delta, take int64 }

type stockAnswer struct {
	available int64 // after an adjustment, or as read
	done      bool
}

// available models the units of one product that nobody has ordered.
func available(begin int64) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return begin },
		Step: func(state, input, output any) (bool, any) {
			n, in, out := state.(int64), input.(stockCall), output.(stockAnswer)
			change := in.delta - in.take
			switch {
			case change == 0:
				return out.available == n, n
			case !out.done:
				return n+change < 0, n
			case in.take > 0:
				return n+change >= 0, n + change
			}
			return n+change >= 0 && out.available == n+change, n + change
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
	}
}

func TestStockIsAsIfChangedOneAfterTheOther(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	var all sync.WaitGroup
	room := make(chan struct{}, 8)
	for n := range histories() {
		p := w.product(t, euro(100), 6)
		room <- struct{}{}
		all.Go(func() {
			defer func() { <-room }()
			r := &recorder{}
			var hands sync.WaitGroup
			for client := range 5 {
				rnd := rand.New(rand.NewPCG(uint64(n), uint64(100+client)))
				hands.Go(func() {
					for range 6 {
						w.change(t, r, client, rnd, u, p.GetProductId(), p)
					}
				})
			}
			hands.Wait()
			r.check(t, available(6), fmt.Sprintf("history %d of stock", n))
		})
	}
	all.Wait()
	t.Logf("PROVE histories=%d", histories())
}

// change makes one call about a product.
func (w *world) change(t *testing.T, r *recorder, client int, rnd *rand.Rand, u *user, id string, p *inventoryv1.Product) {
	inventory := inventoryv1.NewInventoryServiceClient(w.conn)
	switch rnd.IntN(3) {
	case 0:
		delta := []int64{-3, -2, -1, 1, 2, 3}[rnd.IntN(6)]
		req := &inventoryv1.AdjustStockRequest{RequestId: newKey(), ProductId: id, Delta: delta, Reason: "count"}
		r.call(client, stockCall{delta: delta}, func() any {
			s, err := certain(func() (*inventoryv1.Stock, error) { return inventory.AdjustStock(w.admin.as(soon(t)), req) })
			if err != nil && status.Code(err) != codes.FailedPrecondition {
				t.Error(err)
			}
			return stockAnswer{available: s.GetAvailable(), done: err == nil}
		})
	case 1:
		r.call(client, stockCall{}, func() any { return stockAnswer{available: w.stock(t, id).GetAvailable(), done: true} })
	default:
		take := int64(1 + rnd.IntN(3))
		r.call(client, stockCall{take: take}, func() any { return w.reserve(t, u, p, take) })
	}
}

// reserve orders some units and waits until they are set aside, or refused.
func (w *world) reserve(t *testing.T, u *user, p *inventoryv1.Product, units int64) stockAnswer {
	orders := orderv1.NewOrderServiceClient(w.conn)
	req := keyed(cart(p, int32(units), "tok_ok")).(*orderv1.CreateOrderRequest)
	o, err := certain(func() (*orderv1.Order, error) { return orders.CreateOrder(u.as(soon(t)), req) })
	if err != nil {
		t.Errorf("a good order was refused: %v", err)
		return stockAnswer{}
	}
	ctx, cancel := context.WithTimeout(u.as(t.Context()), patience)
	defer cancel()
	s, err := orders.WatchOrder(ctx, &orderv1.WatchOrderRequest{OrderId: o.GetOrderId()})
	for err == nil {
		var m *orderv1.WatchOrderResponse
		if m, err = s.Recv(); err == nil && m.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_PLACED {
			return stockAnswer{done: m.GetOrder().GetStatus() != orderv1.OrderStatus_ORDER_STATUS_REJECTED}
		}
	}
	t.Errorf("order %s: %v", o.GetOrderId(), err)
	return stockAnswer{}
}
