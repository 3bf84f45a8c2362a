// Package simulator stands in for a carrier. It keeps no books: every answer
// follows from the question and the time alone, so the same question gets the
// same answer before and after a crash of either side.
package simulator

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping"
)

// Name is what the carrier calls itself.
const Name = "Simulated Parcels"

// A Carrier fetches parcels one step after they were booked, scans them at each
// step, delivers at the third, and brings returns back at the second. It serves
// every country but Antarctica.
type Carrier struct {
	Step time.Duration // 0 never scans: scans are then reported from outside
	Now  func() time.Time
}

var _ shipping.Carrier = (*Carrier)(nil)

// Book implements shipping.Carrier.
func (c *Carrier) Book(_ context.Context, key string, r shipping.Request, _ shipping.AddressOf) (shipping.Answer, error) {
	if r.RegionCode == "AQ" {
		return shipping.Answer{Reason: "address_not_served"}, nil
	}
	sum := sha256.Sum256([]byte(key))
	return shipping.Answer{Accepted: true, Carrier: Name, Tracking: "WB" + strings.ToUpper(hex.EncodeToString(sum[:8]))}, nil
}

// CallOff implements shipping.Carrier: it can be done until the parcel is fetched.
func (c *Carrier) CallOff(_ context.Context, _ string, r shipping.Request) (bool, error) {
	return c.Step == 0 || c.Now().Before(r.BookedAt.Add(c.Step)), nil
}

// Track implements shipping.Carrier.
func (c *Carrier) Track(_ context.Context, r shipping.Request) ([]*shippingv1.Scan, error) {
	if c.Step == 0 {
		return nil, nil
	}
	var scans []*shippingv1.Scan
	for _, leg := range []struct {
		from  time.Time
		kinds []shippingv1.ScanKind
	}{
		{r.BookedAt, []shippingv1.ScanKind{
			shippingv1.ScanKind_SCAN_KIND_PICKED_UP, shippingv1.ScanKind_SCAN_KIND_IN_TRANSIT, shippingv1.ScanKind_SCAN_KIND_DELIVERED,
		}},
		{r.ReturnAt, []shippingv1.ScanKind{shippingv1.ScanKind_SCAN_KIND_RETURN_PICKED_UP, shippingv1.ScanKind_SCAN_KIND_RETURNED}},
	} {
		for i, kind := range leg.kinds {
			at := leg.from.Add(time.Duration(i+1) * c.Step)
			if leg.from.IsZero() || at.After(c.Now()) {
				break
			}
			scans = append(scans, &shippingv1.Scan{
				ScanId: r.Tracking + "-" + strings.TrimPrefix(kind.String(), "SCAN_KIND_"), Kind: kind, ScanTime: timestamppb.New(at), Location: "Simulated hub",
			})
		}
	}
	return scans, nil
}
