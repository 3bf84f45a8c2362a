package node

import (
	"context"
	"slices"
	"strings"

	"github.com/waybill-dev/waybill/internal/topology"
	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/rpc"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
)

// operations serves waybill.ops.v1 for all services of this process, and, where the
// gateway runs, passes on what is meant for the others. A request names its service.
type operations struct {
	opsv1.UnimplementedOperationsServiceServer
	here  map[string]*react.Reactor
	there map[string]opsv1.OperationsServiceClient
}

var _ opsv1.OperationsServiceServer = (*operations)(nil)

func newOperations() *operations {
	return &operations{here: map[string]*react.Reactor{}, there: map[string]opsv1.OperationsServiceClient{}}
}

// hook has env tell of the reactor of a service.
func (o *operations) hook(env *app.Env, service string) {
	env.NewReactor = func(cfg react.Config) (*react.Reactor, error) {
		r, err := react.New(cfg)
		if err == nil {
			o.here[service] = r
		}
		return r, err
	}
}

// serveOperations registers what operators may do. Whoever runs the gateway knows
// the way to all services.
func (n *Node) serveOperations(o *operations) {
	if n.runs(topology.Gateway) {
		for name := range contracts() {
			if !n.runs(name) {
				o.there[name] = opsv1.NewOperationsServiceClient(n.conn(topology.Gateway, name))
			}
		}
	}
	opsv1.RegisterOperationsServiceServer(n.server, o)
}

// find gives the dead letters of a service that runs here, or the way to where it
// runs. Errors are NotFound.
func (o *operations) find(service string) (*react.DeadLetters, opsv1.OperationsServiceClient, error) {
	if r, ok := o.here[service]; ok {
		return r.DeadLetters(), nil, nil
	}
	if c, ok := o.there[service]; ok {
		return nil, c, nil
	}
	if slices.Contains(names, service) && service != topology.Gateway {
		return nil, nil, errs.E(errs.NotFound, "SERVICE_NOT_HERE", "service %s does not run in this process; ask one that runs the gateway", service)
	}
	known := slices.DeleteFunc(slices.Clone(names), func(s string) bool { return s == topology.Gateway })
	return nil, nil, errs.E(errs.NotFound, "SERVICE_UNKNOWN", "there is no service %s with dead letters; there are %s", service, strings.Join(known, ", "))
}

// who names the caller.
func who(ctx context.Context) string {
	c, _ := auth.FromContext(ctx)
	return c.UserID
}

// ListDeadLetters implements opsv1.OperationsServiceServer.
func (o *operations) ListDeadLetters(ctx context.Context, req *opsv1.ListDeadLettersRequest) (*opsv1.ListDeadLettersResponse, error) {
	letters, elsewhere, err := o.find(req.GetService())
	switch {
	case err != nil:
		return nil, err
	case elsewhere != nil:
		resp, err := elsewhere.ListDeadLetters(ctx, req)
		return resp, rpc.FromStatus(err)
	}
	found, next, err := letters.List(ctx, listing.Query{
		PageSize: req.GetPageSize(), PageToken: req.GetPageToken(), Filter: req.GetFilter(), OrderBy: req.GetOrderBy(),
	})
	if err != nil {
		return nil, err
	}
	return &opsv1.ListDeadLettersResponse{DeadLetters: found, NextPageToken: next}, nil
}

// GetDeadLetter implements opsv1.OperationsServiceServer.
func (o *operations) GetDeadLetter(ctx context.Context, req *opsv1.GetDeadLetterRequest) (*opsv1.DeadLetter, error) {
	letters, elsewhere, err := o.find(req.GetService())
	switch {
	case err != nil:
		return nil, err
	case elsewhere != nil:
		resp, err := elsewhere.GetDeadLetter(ctx, req)
		return resp, rpc.FromStatus(err)
	}
	return letters.Get(ctx, req.GetDeadLetterId())
}

// RedriveDeadLetters implements opsv1.OperationsServiceServer.
func (o *operations) RedriveDeadLetters(ctx context.Context, req *opsv1.RedriveDeadLettersRequest) (*opsv1.RedriveDeadLettersResponse, error) {
	letters, elsewhere, err := o.find(req.GetService())
	switch {
	case err != nil:
		return nil, err
	case elsewhere != nil:
		resp, err := elsewhere.RedriveDeadLetters(ctx, req)
		return resp, rpc.FromStatus(err)
	}
	return letters.Redrive(ctx, who(ctx), req)
}

// DiscardDeadLetter implements opsv1.OperationsServiceServer.
func (o *operations) DiscardDeadLetter(ctx context.Context, req *opsv1.DiscardDeadLetterRequest) (*opsv1.DeadLetterAction, error) {
	letters, elsewhere, err := o.find(req.GetService())
	switch {
	case err != nil:
		return nil, err
	case elsewhere != nil:
		resp, err := elsewhere.DiscardDeadLetter(ctx, req)
		return resp, rpc.FromStatus(err)
	}
	return letters.Discard(ctx, who(ctx), req.GetDeadLetterId(), req.GetReason())
}

// ListDeadLetterActions implements opsv1.OperationsServiceServer.
func (o *operations) ListDeadLetterActions(ctx context.Context, req *opsv1.ListDeadLetterActionsRequest) (*opsv1.ListDeadLetterActionsResponse, error) {
	letters, elsewhere, err := o.find(req.GetService())
	switch {
	case err != nil:
		return nil, err
	case elsewhere != nil:
		resp, err := elsewhere.ListDeadLetterActions(ctx, req)
		return resp, rpc.FromStatus(err)
	}
	found, next, err := letters.Actions(ctx, listing.Query{
		PageSize: req.GetPageSize(), PageToken: req.GetPageToken(), Filter: req.GetFilter(), OrderBy: req.GetOrderBy(),
	})
	if err != nil {
		return nil, err
	}
	return &opsv1.ListDeadLetterActionsResponse{Actions: found, NextPageToken: next}, nil
}
