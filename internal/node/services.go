package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"

	"google.golang.org/grpc"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/gateway"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/sqldb"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	shippingv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/proto/gen/openapi"
	"github.com/waybill-dev/waybill/services/auth/authd"
	"github.com/waybill-dev/waybill/services/inventory/inventoryd"
	"github.com/waybill-dev/waybill/services/order/orderd"
	"github.com/waybill-dev/waybill/services/payment/paymentd"
	"github.com/waybill-dev/waybill/services/shipping/shippingd"
	"github.com/waybill-dev/waybill/services/user/userd"
)

// service builds one service on env.
func (n *Node) service(ctx context.Context, name string, env *app.Env) (*app.Unit, error) {
	switch name {
	case "auth":
		cfg := n.cfg.Auth
		cfg.AdminEmail, cfg.AdminPassword = n.cfg.Admin.Email, n.cfg.Admin.Password
		return authd.New(ctx, env, cfg)
	case "user":
		return userd.New(ctx, env, n.cfg.User)
	case "inventory":
		return inventoryd.New(ctx, env, n.cfg.Inventory)
	case "payment":
		return paymentd.New(ctx, env, n.cfg.Payment)
	case "shipping":
		return shippingd.New(ctx, env, n.cfg.Shipping)
	case "order":
		return orderd.New(ctx, env, n.cfg.Order)
	}
	return nil, fmt.Errorf("there is no service %q", name)
}

// contracts gives the full name of every service that people may call, without the
// one for operators, which every process has.
func contracts() map[string]string {
	return map[string]string{
		"auth":      authv1.AuthService_ServiceDesc.ServiceName,
		"user":      userv1.UserService_ServiceDesc.ServiceName,
		"inventory": inventoryv1.InventoryService_ServiceDesc.ServiceName,
		"order":     orderv1.OrderService_ServiceDesc.ServiceName,
		"payment":   paymentv1.PaymentService_ServiceDesc.ServiceName,
		"shipping":  shippingv1.ShippingService_ServiceDesc.ServiceName,
	}
}

// publish lets people call all services over gRPC, those that run here and those
// that run elsewhere, if there is an address for it.
func (n *Node) publish() {
	if n.public == nil {
		return
	}
	p := rpc.Public{Forward: map[string]grpc.ClientConnInterface{}, ProxyHops: n.cfg.PublicGRPCHops}
	for name, contract := range contracts() {
		if !n.runs(name) {
			p.Forward[contract] = n.remote(name)
		}
	}
	n.server.SetPublic(p)
}

// gateway builds the REST edge in front of all services, wherever they run.
func (n *Node) gateway() (*app.Unit, error) {
	if n.http == nil {
		return nil, errors.New("the gateway needs an address: --http-addr")
	}
	var services []gateway.Service
	for _, name := range slices.Sorted(maps.Keys(contracts())) {
		conn := n.server.Conn()
		if !n.runs(name) {
			conn = n.remote(name)
		}
		services = append(services, gateway.Service{Name: contracts()[name], Conn: conn})
	}
	services = append(services, gateway.Service{Name: opsv1.OperationsService_ServiceDesc.ServiceName, Conn: n.server.Conn()})
	g, err := gateway.New(gateway.Config{
		Services:    services,
		CORSOrigins: n.cfg.REST.CORSOrigins, ProxyHops: n.cfg.REST.ProxyHops, AccessLog: n.cfg.REST.AccessLog,
		OpenAPI: openapi.Document, Docs: openapi.Page, Tracer: n.tel.Tracer, Meter: n.tel.Meter,
	}, n.tel.Log)
	if err != nil {
		return nil, err
	}
	srv := gateway.NewHTTPServer(gateway.ServerConfig{}, g, n.tel.Log)
	stop := func(ctx context.Context) error { return g.Shutdown(ctx, srv) }
	return app.ServeUnit("gateway", func() error { return srv.Serve(n.http) }, stop,
		func(err error) bool { return errors.Is(err, http.ErrServerClosed) }), nil
}

// Check asks the books of the services that run here and gives every way in
// which money, stock or a waybill does not add up; none is as it should be.
func (n *Node) Check(ctx context.Context) ([]string, error) {
	var wrong []string
	for _, c := range []struct {
		service string
		check   func(context.Context, *sqldb.DB) ([]string, error)
	}{
		{"inventory", inventoryd.Check}, {"payment", paymentd.Check}, {"order", orderd.Check},
	} {
		db, ok := n.dbs[c.service]
		if !ok {
			continue
		}
		found, err := c.check(ctx, db)
		if err != nil {
			return nil, fmt.Errorf("check %s: %w", c.service, err)
		}
		wrong = append(wrong, found...)
	}
	return wrong, nil
}

// Version gives the version the binary was built from, "devel" when unknown.
func Version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
