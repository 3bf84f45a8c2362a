package rpc

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/errs"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping/internal/saga"
)

const (
	reportChunk = 100    // scans taken over in one transaction
	maxReport   = 10_000 // scans of one stream
	tolerance   = time.Minute
)

// ReportScans implements shippingv1.ShippingServiceServer. Scans are taken over
// a hundred at a time; after a break, send all of them again.
func (s *Server) ReportScans(in grpc.ClientStreamingServer[shippingv1.ReportScansRequest, shippingv1.ReportScansResponse]) error {
	total := &shippingv1.ReportScansResponse{}
	chunk := make([]*shippingv1.ReportScansRequest, 0, reportChunk)
	for n := 0; ; n++ {
		req, err := in.Recv()
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err == nil {
			if n == maxReport {
				return errs.E(errs.ResourceExhausted, "TOO_MANY_SCANS", "one stream takes %d scans; those before this one are taken over, send the rest on another", maxReport)
			}
			chunk = append(chunk, req)
		}
		if len(chunk) == reportChunk || err != nil && len(chunk) > 0 {
			resp, failed := s.report(in.Context(), chunk)
			if failed != nil {
				return failed
			}
			total.AcceptedCount += resp.GetAcceptedCount()
			total.DuplicateCount += resp.GetDuplicateCount()
			total.Rejected = append(total.Rejected, resp.GetRejected()...)
			chunk = chunk[:0]
		}
		if err != nil {
			return in.SendAndClose(total)
		}
	}
}

func (s *Server) report(ctx context.Context, chunk []*shippingv1.ReportScansRequest) (*shippingv1.ReportScansResponse, error) {
	numbers := make([]string, len(chunk))
	for i, r := range chunk {
		numbers[i] = r.GetTrackingNumber()
	}
	orders, err := s.Store.Orders(ctx, numbers)
	if err != nil {
		return nil, err
	}
	var early []*shippingv1.RejectedScan
	reports := make([]saga.Report, 0, len(chunk))
	for _, r := range chunk {
		if r.GetScanTime().AsTime().After(s.Now().Add(tolerance)) {
			early = append(early, &shippingv1.RejectedScan{ScanId: r.GetScanId(), Reason: "SCAN_IN_THE_FUTURE"})
			continue
		}
		reports = append(reports, saga.Report{OrderID: orders[r.GetTrackingNumber()], Scan: &shippingv1.Scan{
			ScanId: r.GetScanId(), Kind: r.GetKind(), ScanTime: r.GetScanTime(), Location: r.GetLocation(),
		}})
	}
	resp, err := s.Commands.Report(ctx, s.Reactor, reports)
	if err != nil {
		return nil, err
	}
	resp.Rejected = append(resp.Rejected, early...)
	return resp, nil
}
