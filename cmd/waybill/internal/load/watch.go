package load

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"

	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// A Customer places orders with a token that may be renewed while it does.
type Customer struct {
	mu    sync.RWMutex
	token string
}

// NewCustomer makes a customer with an access token.
func NewCustomer(token string) *Customer { return &Customer{token: token} }

// Renew gives the customer a new access token.
func (c *Customer) Renew(token string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.token = token
}

// Context gives a context for calls in the customer's name.
func (c *Customer) Context(ctx context.Context) context.Context {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
}

// watcher follows all orders of one customer on one stream, and opens another
// when that one breaks.
type watcher struct {
	customer *Customer
	client   orderv1.OrderServiceClient
	adds     chan string
	ledger   ledger

	mu      sync.Mutex
	waiting map[string][]chan time.Time // more than one only if an order is given twice
}

func watch(ctx context.Context, client orderv1.OrderServiceClient, c *Customer) *watcher {
	w := &watcher{customer: c, client: client, adds: make(chan string, 4096), waiting: map[string][]chan time.Time{}}
	go func() {
		for ctx.Err() == nil {
			w.stream(ctx)
			pause(ctx, 50*time.Millisecond)
		}
	}()
	return w
}

// wait gives the time at which the order's saga was over, as seen from here.
func (w *watcher) wait(ctx context.Context, orderID string) (time.Time, error) {
	over := make(chan time.Time, 1)
	w.mu.Lock()
	w.waiting[orderID] = append(w.waiting[orderID], over)
	w.mu.Unlock()
	select {
	case w.adds <- orderID:
	case <-ctx.Done():
	}
	select {
	case t := <-over:
		return t, nil
	case <-ctx.Done():
		return time.Time{}, errors.New("not completed in time")
	}
}

// stream runs one stream until it breaks.
func (w *watcher) stream(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := w.client.WatchOrders(w.customer.Context(ctx))
	if err != nil {
		return
	}
	w.mu.Lock()
	pending := make([]string, 0, len(w.waiting))
	for id := range w.waiting {
		pending = append(pending, id) // of a stream that broke
	}
	w.mu.Unlock()
	go func() {
		defer cancel()
		if w.send(stream, pending) != nil {
			return
		}
		for {
			select {
			case <-ctx.Done():
				return
			case id := <-w.adds:
				if w.send(stream, w.drain(id)) != nil {
					return
				}
			}
		}
	}()
	for {
		resp, err := stream.Recv()
		if err != nil {
			return
		}
		if resp.GetOrder().GetSagaOver() {
			w.over(resp.GetOrderId())
		}
	}
}

// drain gives id and whatever else waits to be added.
func (w *watcher) drain(id string) []string {
	ids := []string{id}
	for len(ids) < 500 {
		select {
		case id := <-w.adds:
			ids = append(ids, id)
		default:
			return ids
		}
	}
	return ids
}

func (w *watcher) send(stream orderv1.OrderService_WatchOrdersClient, ids []string) error {
	for len(ids) > 0 {
		n := min(len(ids), 500)
		err := stream.Send(&orderv1.WatchOrdersRequest{Command: &orderv1.WatchOrdersRequest_Add{
			Add: &orderv1.AddOrders{OrderIds: ids[:n], OnlySagaOver: true},
		}})
		if err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

func (w *watcher) over(orderID string) {
	w.mu.Lock()
	waiting := w.waiting[orderID]
	delete(w.waiting, orderID)
	w.mu.Unlock()
	for _, ch := range waiting {
		ch <- time.Now()
	}
}
