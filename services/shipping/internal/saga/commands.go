package saga

import (
	"context"
	"fmt"

	"github.com/waybill-dev/waybill/platform/react"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
)

// Commands are what others may ask of the shipping service.
type Commands struct{ machine *machine }

// A Report is one scan that was reported from outside.
type Report struct {
	OrderID string // "" if the tracking number is not known
	Scan    *shippingv1.Scan
}

// Report takes scans over, all of them in one transaction. Scans that cannot be
// used are named in the answer; those that came before count as duplicates.
func (c *Commands) Report(ctx context.Context, r *react.Reactor, reports []Report) (*shippingv1.ReportScansResponse, error) {
	needs := func(*react.View) []react.Ref {
		var refs []react.Ref
		for _, p := range reports {
			if p.OrderID != "" {
				refs = append(refs, store.Shipments.Ref(p.OrderID))
			}
		}
		return refs
	}
	return react.Do(ctx, r, needs, func(v *react.View) (*shippingv1.ReportScansResponse, error) {
		resp := &shippingv1.ReportScansResponse{}
		for _, p := range reports {
			if p.OrderID == "" {
				resp.Rejected = append(resp.Rejected, &shippingv1.RejectedScan{ScanId: p.Scan.GetScanId(), Reason: "UNKNOWN_TRACKING_NUMBER"})
				continue
			}
			message, ok := shipping.OfScan(p.Scan.GetKind())
			if !ok {
				return nil, fmt.Errorf("scan of kind %v", p.Scan.GetKind())
			}
			out, err := c.machine.apply(v, p.OrderID, shipping.Input{Message: message, Scan: p.Scan})
			switch {
			case err != nil:
				return nil, err
			case out.Known:
				resp.DuplicateCount++
			case out.Rejects != "":
				resp.Rejected = append(resp.Rejected, &shippingv1.RejectedScan{ScanId: p.Scan.GetScanId(), Reason: out.Rejects})
			default:
				resp.AcceptedCount++
			}
		}
		return resp, nil
	})
}
