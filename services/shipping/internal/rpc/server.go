// Package rpc speaks waybill.shipping.v1 for the shipping service. It translates
// and nothing more.
package rpc

import (
	"context"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/watch"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	"github.com/waybill-dev/waybill/services/shipping/internal/saga"
	"github.com/waybill-dev/waybill/services/shipping/internal/store"
)

// DefaultRecheck is how often a shipment that is tracked and quiet is looked up.
// It bounds what a crash between a commit and its notification can hide.
const DefaultRecheck = 20 * time.Second

// Server implements shippingv1.ShippingServiceServer. All fields are required.
type Server struct {
	shippingv1.UnimplementedShippingServiceServer

	Store    *store.Store
	Reactor  *react.Reactor
	Commands *saga.Commands
	Hub      *watch.Hub
	Now      func() time.Time
	Recheck  time.Duration // as DefaultRecheck
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
		ShipTo: s.ShipTo, RefusalReason: s.Reason, Scans: byTime(s.Scans),
		CreateTime: timestamppb.New(s.Created), UpdateTime: timestamppb.New(s.Updated),
		Version: s.Version, Etag: strconv.FormatInt(s.Version, 10),
	}
}

// byTime gives the scans oldest first; carriers report them in any order.
func byTime(scans []*shippingv1.Scan) []*shippingv1.Scan {
	return slices.SortedStableFunc(slices.Values(scans), func(a, b *shippingv1.Scan) int {
		return a.GetScanTime().AsTime().Compare(b.GetScanTime().AsTime())
	})
}
