// Package rpc speaks waybill.shipping.v1 for the shipping service. It translates
// and nothing more.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/watch"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping/internal/saga"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
)

// Server implements shippingv1.ShippingServiceServer.
type Server struct {
	shippingv1.UnimplementedShippingServiceServer

	Store    *store.Store
	Reactor  *react.Reactor
	Commands *saga.Commands
	Hub      *watch.Hub
	Now      func() time.Time
}

var _ shippingv1.ShippingServiceServer = (*Server)(nil)

// GetShipment implements shippingv1.ShippingServiceServer.
func (s *Server) GetShipment(ctx context.Context, req *shippingv1.GetShipmentRequest) (*shippingv1.Shipment, error) {
	got, err := s.Store.Get(ctx, req.GetShipmentId(), auth.Owner(ctx))
	if err != nil {
		return nil, err
	}
	return present(got), nil
}

// ListShipments implements shippingv1.ShippingServiceServer.
func (s *Server) ListShipments(ctx context.Context, req *shippingv1.ListShipmentsRequest) (*shippingv1.ListShipmentsResponse, error) {
	page, next, err := s.Store.List(ctx, listing.Query{
		PageSize: req.GetPageSize(), PageToken: req.GetPageToken(), Filter: req.GetFilter(), OrderBy: req.GetOrderBy(), Owner: auth.Owner(ctx),
	})
	if err != nil {
		return nil, err
	}
	resp := &shippingv1.ListShipmentsResponse{NextPageToken: next}
	for _, p := range page {
		resp.Shipments = append(resp.Shipments, present(p))
	}
	return resp, nil
}

func present(s store.Stored) *shippingv1.Shipment {
	return &shippingv1.Shipment{
		ShipmentId: s.ID, OrderId: s.OrderID, UserId: s.UserID, Status: s.State.Status(), Carrier: s.Carrier, TrackingNumber: s.Tracking,
		ShipTo: s.ShipTo, RefusalReason: s.Reason, Scans: s.Scans,
		CreateTime: timestamppb.New(s.Created), UpdateTime: timestamppb.New(s.Updated),
		Version: s.Version, Etag: strconv.FormatInt(s.Version, 10),
	}
}

// TrackShipment sends the shipment as it is, then each scan and each change, until
// the parcel has reached a final status.
func (s *Server) TrackShipment(req *shippingv1.TrackShipmentRequest, out grpc.ServerStreamingServer[shippingv1.TrackShipmentResponse]) error {
	ctx := out.Context()
	seen, err := parsePosition(req.GetResumeToken())
	if err != nil {
		return err
	}
	// Subscribe before reading, so that nothing falls between.
	sub := s.Hub.Subscribe(1)
	defer sub.Close()
	sub.Add(req.GetShipmentId())
	for first := true; ; first = false {
		got, err := s.Store.Get(ctx, req.GetShipmentId(), auth.Owner(ctx))
		if err != nil {
			return err
		}
		if seen, err = send(out, got, seen, first && req.GetResumeToken() == ""); err != nil {
			return err
		}
		if got.State.Final() {
			return nil
		}
		if _, err := sub.Next(ctx); err != nil {
			return err
		}
	}
}

// position is how much of a shipment's history somebody has seen.
type position struct {
	version int64
	scans   int
}

// send sends what is new in a shipment since seen, and gives what is seen then.
// A first message says how things are and counts its scans as seen.
func send(out grpc.ServerStreamingServer[shippingv1.TrackShipmentResponse], got store.Stored, seen position, first bool) (position, error) {
	now := position{got.Version, len(got.Scans)}
	msg := &shippingv1.TrackShipmentResponse{Shipment: present(got), ResumeToken: now.String()}
	if first {
		return now, out.Send(msg)
	}
	if got.Version <= seen.version {
		return seen, nil
	}
	if seen.scans >= len(got.Scans) {
		return now, out.Send(msg)
	}
	for i := seen.scans; i < len(got.Scans); i++ {
		// Only the last one has caught up with the version.
		at := position{seen.version, i + 1}
		if i == len(got.Scans)-1 {
			at = now
		}
		if err := out.Send(&shippingv1.TrackShipmentResponse{Shipment: msg.GetShipment(), Scan: got.Scans[i], ResumeToken: at.String()}); err != nil {
			return seen, err
		}
	}
	return now, nil
}

// String gives the position as a resume token.
func (p position) String() string { return fmt.Sprintf("%d.%d", p.version, p.scans) }

func parsePosition(token string) (position, error) {
	if token == "" {
		return position{}, nil
	}
	v, n, ok := strings.Cut(token, ".")
	version, err1 := strconv.ParseInt(v, 10, 64)
	scans, err2 := strconv.Atoi(n)
	if !ok || err1 != nil || err2 != nil || version < 0 || scans < 0 {
		return position{}, errs.E(errs.Invalid, "INVALID_RESUME_TOKEN", "the resume token is none that TrackShipment gave").
			WithFields(errs.Field{Path: "resume_token", Problem: "send back the last one you got, or none"})
	}
	return position{version, scans}, nil
}

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
