package shippingtest

import (
	"context"
	"sync"
	"time"

	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/shipping"
	"github.com/waybill-dev/waybill/services/shipping/internal/simulator"
)

// Carrier is the simulator with a book of what was asked, and faults.
type Carrier struct {
	sim *simulator.Carrier

	mu        sync.Mutex
	fault     func(ctx context.Context, what, key string, nth int) error
	asked     map[string]int             // by key, how often
	booked    map[string]*typev1.Address // by key, where to
	late      bool                       // calling off is refused
	forgetful bool                       // acceptances lack their number
}

// NewCarrier gives a carrier without faults that never scans by itself.
func NewCarrier(now func() time.Time) *Carrier {
	return &Carrier{sim: &simulator.Carrier{Now: now}, asked: map[string]int{}, booked: map[string]*typev1.Address{}}
}

// Step makes the carrier move parcels on by itself, one step each d. Call it
// before the first booking.
func (c *Carrier) Step(d time.Duration) { c.sim.Step = d }

// Fail makes fn run before each request for which it is the nth time: "book",
// "call off" or "track". Its error is all that comes of the request.
func (c *Carrier) Fail(fn func(ctx context.Context, what, key string, nth int) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = fn
}

// Late makes the carrier refuse to be called off.
func (c *Carrier) Late() { c.mu.Lock(); defer c.mu.Unlock(); c.late = true }

// Forgetful makes acceptances lack their tracking number, or not any more.
func (c *Carrier) Forgetful(is bool) { c.mu.Lock(); defer c.mu.Unlock(); c.forgetful = is }

// Asked gives how often something was asked under a key.
func (c *Carrier) Asked(key string) int { c.mu.Lock(); defer c.mu.Unlock(); return c.asked[key] }

// Booked gives where the parcel of a booking goes; nil if there is none.
func (c *Carrier) Booked(key string) *typev1.Address {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.booked[key]
}

// Bookings gives how many parcels were booked.
func (c *Carrier) Bookings() int { c.mu.Lock(); defer c.mu.Unlock(); return len(c.booked) }

func (c *Carrier) ask(ctx context.Context, what, key string) error {
	c.mu.Lock()
	c.asked[key]++
	fault, nth := c.fault, c.asked[key]
	c.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(ctx, what, key, nth)
}

// Book implements shipping.Carrier.
func (c *Carrier) Book(ctx context.Context, key string, r shipping.Request, to shipping.AddressOf) (shipping.Answer, error) {
	if err := c.ask(ctx, "book", key); err != nil {
		return shipping.Answer{}, err
	}
	a, err := c.sim.Book(ctx, key, r, to)
	if err != nil || !a.Accepted {
		return a, err
	}
	address, err := to(ctx)
	if err != nil {
		return shipping.Answer{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.booked[key] = address
	if c.forgetful {
		a.Tracking = ""
	}
	return a, nil
}

// CallOff implements shipping.Carrier.
func (c *Carrier) CallOff(ctx context.Context, key string, r shipping.Request) (bool, error) {
	if err := c.ask(ctx, "call off", key); err != nil {
		return false, err
	}
	c.mu.Lock()
	late := c.late
	c.mu.Unlock()
	if late {
		return false, nil
	}
	return c.sim.CallOff(ctx, key, r)
}

// Track implements shipping.Carrier.
func (c *Carrier) Track(ctx context.Context, r shipping.Request) ([]*shippingv1.Scan, error) {
	if err := c.ask(ctx, "track", "track:"+r.ShipmentID); err != nil {
		return nil, err
	}
	return c.sim.Track(ctx, r)
}
