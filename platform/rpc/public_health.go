package rpc

import (
	"context"
	"maps"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// publicHealth tells the health of the services here, and asks those elsewhere.
// The empty name is this process: whether people's calls find a way in.
type publicHealth struct {
	grpc_health_v1.UnimplementedHealthServer
	local   grpc_health_v1.HealthServer
	forward map[string]grpc.ClientConnInterface
}

// Check tells the health of one service. One that does not answer is NOT_SERVING.
func (h *publicHealth) Check(ctx context.Context, req *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	conn, ok := h.forward[req.GetService()]
	if !ok {
		return h.local.Check(ctx, req)
	}
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(onward(ctx), req)
	if err != nil && ctx.Err() == nil {
		return &grpc_health_v1.HealthCheckResponse{Status: serving(false)}, nil
	}
	return resp, err
}

// List tells the health of all services.
func (h *publicHealth) List(ctx context.Context, req *grpc_health_v1.HealthListRequest) (*grpc_health_v1.HealthListResponse, error) {
	local, err := h.local.List(ctx, req)
	if err != nil {
		return nil, err
	}
	all := &grpc_health_v1.HealthListResponse{Statuses: maps.Clone(local.GetStatuses())}
	var mu sync.Mutex
	var asked sync.WaitGroup
	for name := range h.forward {
		asked.Go(func() {
			resp, err := h.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: name})
			if err != nil {
				resp = &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_UNKNOWN}
			}
			mu.Lock()
			defer mu.Unlock()
			all.Statuses[name] = resp
		})
	}
	asked.Wait()
	return all, nil
}

// Watch tells the health of one service whenever it changes. When a service
// elsewhere is lost the stream says so and ends; the client opens it again.
func (h *publicHealth) Watch(req *grpc_health_v1.HealthCheckRequest, out grpc.ServerStreamingServer[grpc_health_v1.HealthCheckResponse]) error {
	conn, ok := h.forward[req.GetService()]
	if !ok {
		return h.local.Watch(req, out)
	}
	in, err := grpc_health_v1.NewHealthClient(conn).Watch(onward(out.Context()), req)
	for err == nil {
		var resp *grpc_health_v1.HealthCheckResponse
		if resp, err = in.Recv(); err == nil {
			if err := out.Send(resp); err != nil {
				return err
			}
		}
	}
	if err := out.Context().Err(); err != nil {
		return err
	}
	if err := out.Send(&grpc_health_v1.HealthCheckResponse{Status: serving(false)}); err != nil {
		return err
	}
	return status.Error(codes.Unavailable, "the service was lost; watch again")
}
