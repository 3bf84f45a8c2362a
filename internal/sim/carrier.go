package sim

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping"
)

// carrier fetches, loses and delivers parcels. What becomes of a parcel is decided
// when it is booked.
type carrier struct {
	w        *world
	bookings map[string]shipping.Answer // by key
	parcels  map[string]*parcel         // by tracking number
}

// parcel is one parcel of the carrier.
type parcel struct {
	order            string
	fetched, arrives time.Time // fetched is zero once it is called off
	lost             bool
	off              bool
	returns          time.Time
}

var _ shipping.Carrier = (*carrier)(nil)

func newCarrier(w *world) *carrier {
	return &carrier{w: w, bookings: map[string]shipping.Answer{}, parcels: map[string]*parcel{}}
}

// trouble tells whether the carrier cannot be reached this time.
func (c *carrier) trouble() error {
	w := c.w
	w.lasts = w.between(20*time.Millisecond, 300*time.Millisecond)
	if w.rates.carrier && w.chance(.08) {
		w.lasts = 10 * time.Second
		w.count("carrier did not answer")
		return errNoAnswer
	}
	return nil
}

// Book implements shipping.Carrier.
func (c *carrier) Book(ctx context.Context, key string, r shipping.Request, to shipping.AddressOf) (shipping.Answer, error) {
	w := c.w
	if err := c.trouble(); err != nil {
		return shipping.Answer{}, err
	}
	if address, err := to(ctx); err != nil || address == nil {
		w.violated("parcel", "", "the carrier was given no address: %v", err)
	}
	a, again := c.bookings[key]
	if !again {
		if w.rates.carrier && w.plan.IntN(20) == 0 {
			w.count("carrier refused")
			a = shipping.Answer{Reason: "address_not_served"}
		} else {
			a = shipping.Answer{Accepted: true, Carrier: "Simulated", Tracking: fmt.Sprintf("T%d", len(c.bookings)+1)}
			p := &parcel{order: r.OrderID, fetched: w.now.Add(w.between(10*time.Second, 3*time.Minute))}
			p.arrives = p.fetched.Add(w.between(30*time.Second, 4*time.Minute))
			if w.rates.carrier && w.plan.IntN(25) == 0 {
				p.lost = true
			}
			c.parcels[a.Tracking] = p
		}
		c.bookings[key] = a
		w.note("carrier", key, a.Tracking)
	}
	if w.rates.carrier && w.chance(.08) {
		w.count("carrier booked and did not say so")
		return shipping.Answer{}, errNoAnswer
	}
	return a, nil
}

// CallOff implements shipping.Carrier.
func (c *carrier) CallOff(_ context.Context, _ string, r shipping.Request) (bool, error) {
	if err := c.trouble(); err != nil {
		return false, err
	}
	p := c.parcels[r.Tracking]
	if p == nil {
		return true, nil
	}
	if !p.off && !c.w.now.Before(p.fetched) {
		c.w.count("carrier too late to be called off")
		return false, nil
	}
	p.off = true
	return true, nil
}

// Track implements shipping.Carrier.
func (c *carrier) Track(_ context.Context, r shipping.Request) ([]*shippingv1.Scan, error) {
	w := c.w
	if err := c.trouble(); err != nil {
		return nil, err
	}
	p := c.parcels[r.Tracking]
	if p == nil || p.off {
		return nil, nil
	}
	var scans []*shippingv1.Scan
	seen := func(kind shippingv1.ScanKind, at time.Time) {
		if !at.After(w.now) {
			scans = append(scans, &shippingv1.Scan{ScanId: r.Tracking + "-" + kind.String(), Kind: kind, ScanTime: timestamppb.New(at), Location: "hub"})
		}
	}
	if p.lost && p.arrives.Sub(p.fetched)%2 == 0 {
		seen(shippingv1.ScanKind_SCAN_KIND_LOST, p.fetched) // in the house, or at its door
	} else {
		seen(shippingv1.ScanKind_SCAN_KIND_PICKED_UP, p.fetched)
		if p.lost {
			seen(shippingv1.ScanKind_SCAN_KIND_LOST, p.arrives)
		} else {
			seen(shippingv1.ScanKind_SCAN_KIND_IN_TRANSIT, p.fetched.Add(p.arrives.Sub(p.fetched)/2))
			seen(shippingv1.ScanKind_SCAN_KIND_DELIVERED, p.arrives)
		}
	}
	if !r.ReturnAt.IsZero() {
		if p.returns.IsZero() {
			p.returns = w.now.Add(w.between(20*time.Second, 3*time.Minute))
		}
		seen(shippingv1.ScanKind_SCAN_KIND_RETURN_PICKED_UP, p.returns.Add(-10*time.Second))
		seen(shippingv1.ScanKind_SCAN_KIND_RETURNED, p.returns)
	}
	if w.rates.carrier && w.chance(.2) && len(scans) > 1 {
		w.count("carrier forgot scans")
		w.fate.Shuffle(len(scans), func(i, j int) { scans[i], scans[j] = scans[j], scans[i] })
		scans = scans[:1+w.fate.IntN(len(scans)-1)]
	}
	return scans, nil
}
