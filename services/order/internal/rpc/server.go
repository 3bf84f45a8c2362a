// Package rpc speaks waybill.order.v1 for the order service. It translates, calls
// and returns: commands go to the saga, reads to the store, streams (watch.go,
// watchmany.go) to the hub. Who may call, what is valid and what an error becomes
// is the business of the platform's interceptors.
package rpc

import (
	"context"
	"time"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/watch"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	"github.com/waybill-dev/waybill/services/order/internal/saga"
	"github.com/waybill-dev/waybill/services/order/internal/store"
)

const (
	// DefaultRecheck is how often a quiet stream looks into the database.
	DefaultRecheck = 20 * time.Second

	// DefaultMaxWatched is how many orders one stream of WatchOrders follows.
	DefaultMaxWatched = 10_000
)

// Config is what a Server needs. Saga, Store and Hub are required.
type Config struct {
	Saga  *saga.Saga
	Store *store.Store
	Hub   *watch.Hub

	// Recheck is how often a quiet stream looks into the database, for the one
	// hint that a crash between commit and notification can swallow; default
	// DefaultRecheck.
	Recheck time.Duration

	// MaxWatched is how many orders one stream of WatchOrders follows at most;
	// default DefaultMaxWatched.
	MaxWatched int
}

// Server is the order service's gRPC server.
type Server struct {
	orderv1.UnimplementedOrderServiceServer
	saga       *saga.Saga
	store      *store.Store
	hub        *watch.Hub
	recheck    time.Duration
	maxWatched int
}

var _ orderv1.OrderServiceServer = (*Server)(nil)

// New gives a Server.
func New(cfg Config) *Server {
	if cfg.Recheck <= 0 {
		cfg.Recheck = DefaultRecheck
	}
	if cfg.MaxWatched <= 0 {
		cfg.MaxWatched = DefaultMaxWatched
	}
	return &Server{saga: cfg.Saga, store: cfg.Store, hub: cfg.Hub, recheck: cfg.Recheck, maxWatched: cfg.MaxWatched}
}

// who gives the caller of a command.
func who(ctx context.Context) saga.Who {
	c, _ := auth.FromContext(ctx)
	return saga.Who{UserID: c.UserID, Staff: auth.Owner(ctx) == ""}
}

// CreateOrder implements orderv1.OrderServiceServer.
func (s *Server) CreateOrder(ctx context.Context, req *orderv1.CreateOrderRequest) (*orderv1.Order, error) {
	return s.saga.Create(ctx, who(ctx), req)
}

// CancelOrder implements orderv1.OrderServiceServer.
func (s *Server) CancelOrder(ctx context.Context, req *orderv1.CancelOrderRequest) (*orderv1.Order, error) {
	return s.saga.Cancel(ctx, who(ctx), req)
}

// ReturnOrder implements orderv1.OrderServiceServer.
func (s *Server) ReturnOrder(ctx context.Context, req *orderv1.ReturnOrderRequest) (*orderv1.Order, error) {
	return s.saga.Return(ctx, who(ctx), req)
}

// RetryOrder implements orderv1.OrderServiceServer.
func (s *Server) RetryOrder(ctx context.Context, req *orderv1.RetryOrderRequest) (*orderv1.Order, error) {
	return s.saga.Retry(ctx, who(ctx), req)
}

// ListStuckOrders implements orderv1.OrderServiceServer.
func (s *Server) ListStuckOrders(ctx context.Context, req *orderv1.ListStuckOrdersRequest) (*orderv1.ListStuckOrdersResponse, error) {
	stuck, next, err := s.store.Stuck(ctx, time.Now(), listing.Query{PageSize: req.GetPageSize(), PageToken: req.GetPageToken()})
	if err != nil {
		return nil, err
	}
	return &orderv1.ListStuckOrdersResponse{Orders: stuck, NextPageToken: next}, nil
}

// GetOrder implements orderv1.OrderServiceServer.
func (s *Server) GetOrder(ctx context.Context, req *orderv1.GetOrderRequest) (*orderv1.Order, error) {
	return s.store.Get(ctx, auth.Owner(ctx), req.GetOrderId())
}

// ListOrders implements orderv1.OrderServiceServer.
func (s *Server) ListOrders(ctx context.Context, req *orderv1.ListOrdersRequest) (*orderv1.ListOrdersResponse, error) {
	orders, next, err := s.store.List(ctx, listing.Query{
		PageSize: req.GetPageSize(), PageToken: req.GetPageToken(), Filter: req.GetFilter(), OrderBy: req.GetOrderBy(), Owner: auth.Owner(ctx),
	})
	if err != nil {
		return nil, err
	}
	return &orderv1.ListOrdersResponse{Orders: orders, NextPageToken: next}, nil
}

// GetWaybill implements orderv1.OrderServiceServer.
func (s *Server) GetWaybill(ctx context.Context, req *orderv1.GetWaybillRequest) (*orderv1.Waybill, error) {
	o, err := s.store.Get(ctx, auth.Owner(ctx), req.GetOrderId())
	if err != nil {
		return nil, err
	}
	entries, err := s.store.Entries(ctx, o.GetOrderId(), 0)
	if err != nil {
		return nil, err
	}
	status := o.GetStatus()
	if n := len(entries); n > 0 {
		status = entries[n-1].GetToStatus() // the entries were read later than the order
	}
	return &orderv1.Waybill{OrderId: o.GetOrderId(), Status: status, Entries: entries}, nil
}
