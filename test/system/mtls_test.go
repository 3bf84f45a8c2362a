package system_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/waybill-dev/waybill/platform/mtls"
	"github.com/waybill-dev/waybill/platform/rpc"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
)

// A realm is a world whose processes prove to each other who they are. People come
// in through the gateway's process only, over REST and over its public gRPC port.
type realm struct {
	*world
	authority *mtls.Authority
	peers     []string
	dirs      map[string]string // of each account
	ports     map[string]string // between services, of each account
}

// account is the service account of a process.
func account(services []string) string { return "waybill-" + strings.Join(services, "-") }

func identityOf(account string) mtls.ID {
	return mtls.ID{TrustDomain: "example.org", Namespace: "shop", Account: account}
}

// openRealm starts the processes of a split under mutual TLS. Connections between
// them live as long as age.
func openRealm(t *testing.T, sp split, kind string, age time.Duration) *realm {
	t.Helper()
	authority, err := mtls.NewAuthority("test", time.Hour, time.Now())
	must(t, err)
	r := &realm{authority: authority, dirs: map[string]string{}, ports: map[string]string{}}
	specs, _ := sp.plan(t, kind)
	for _, s := range specs {
		r.peers = append(r.peers, account(s.Services)+"="+strings.Join(s.Services, "+"))
		r.dirs[account(s.Services)], r.ports[account(s.Services)] = t.TempDir(), s.GRPC
	}
	var list []*process
	public := reserve(t)
	for _, s := range specs {
		must(t, r.issue(account(s.Services)))
		cfg := s.config()
		cfg.TLS.Dir, cfg.TLS.Peers, cfg.MaxConnAge = r.dirs[account(s.Services)], r.peers, age
		if s.has("gateway") {
			cfg.PublicGRPCAddr = public
		}
		list = append(list, &process{cfg: cfg})
	}
	conn := inTheClear(t, public) // is closed after the world, whose books are read through it
	r.world, err = begin(list)
	must(t, err)
	r.addr, r.conn = public, conn
	t.Cleanup(func() { must(t, r.finish()) })
	r.admin, err = r.logIn(adminEmail, secret("admin-password"))
	must(t, err)
	return r
}

// inTheClear gives a connection without certificates.
func inTheClear(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// issue gives a process a fresh certificate.
func (r *realm) issue(account string) error {
	p, err := r.authority.Issue(identityOf(account), time.Hour, time.Now())
	if err != nil {
		return err
	}
	return p.Write(r.dirs[account], r.authority)
}

// as gives a connection to the process of account `to` with the certificate of
// account `from`, which expects service there.
func (r *realm) as(t *testing.T, from, to, service string) *grpc.ClientConn {
	t.Helper()
	peers, err := mtls.ParsePeers(append([]string{"waybill-notification=notification"}, r.peers...)...)
	must(t, err)
	dir := t.TempDir()
	p, err := r.authority.Issue(identityOf(from), time.Hour, time.Now())
	must(t, err)
	must(t, p.Write(dir, r.authority))
	i, err := mtls.Open(mtls.Config{Dir: dir, Peers: peers, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	t.Cleanup(func() { _ = i.Close() })
	conn, err := rpc.Dial("static:///"+r.ports[to], rpc.DialConfig{TLS: i.Client(service)})
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

const (
	front  = "waybill-gateway-auth-user"
	middle = "waybill-order-payment"
	back   = "waybill-inventory-shipping"
)

// TestCertificatesChangeWhileOrdersEndAsTheyMust plays every scenario of the saga,
// through REST and gRPC, while the certificates of all processes are replaced and
// connections are made anew several times a second. No call may fail for it. No other test runs beside it.
func TestCertificatesChangeWhileOrdersEndAsTheyMust(t *testing.T) {
	r := openRealm(t, threeParts, desk.name, 300*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	var turning sync.WaitGroup
	var turns atomic.Int64
	turning.Go(func() {
		tick := time.NewTicker(250 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			for account, dir := range r.dirs {
				err := r.issue(account)
				if turns.Load()%3 == 2 { // the writer was interrupted
					name := filepath.Join(dir, mtls.CertFile)
					var data []byte
					if data, err = os.ReadFile(name); err == nil {
						err = os.WriteFile(name, data[:len(data)/2], 0o600)
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
			turns.Add(1)
		}
	})
	played := 0
	t.Run("order", func(t *testing.T) { // is over when all in it are
		for _, d := range doors {
			for _, s := range scenarios {
				if s.at == nil {
					played++
					t.Run(d.String()+" "+s.name, func(t *testing.T) {
						t.Parallel()
						s.perform(&play{T: t, w: r.world, d: d})
					})
				}
			}
		}
	})
	// All of them have taken new certificates, and told of those that were not good.
	must(t, r.each(func(p *process) error {
		return poll(soon(t), func() (bool, error) {
			metrics, err := r.get(p.node.AdminURL() + "/metrics")
			return strings.Contains(string(metrics), `outcome="good"`) && strings.Contains(string(metrics), `outcome="bad"`), err
		})
	}))
	cancel()
	turning.Wait()
	t.Logf("%d scenarios, %d turns of certificates", played, turns.Load())
}

// TestAllKindsOfCallsComeThroughTheGateway follows orders on every kind of stream.
func TestAllKindsOfCallsComeThroughTheGateway(t *testing.T) {
	t.Parallel()
	r := openRealm(t, threeParts, shop.name, time.Minute)
	u, product := r.customer(t), r.product(t, euro(1999), 10)
	o := r.place(t, grpcDoor{}, u, cart(product, 1, "tok_ok"))

	req, err := http.NewRequestWithContext(soon(t), http.MethodGet, r.base+"/v1/orders/"+o.GetOrderId()+":watch", nil)
	must(t, err)
	req.Header.Set("Authorization", "Bearer "+u.token)
	req.Header.Set("Accept", "text/event-stream")
	resp, err := r.web.Do(req)
	must(t, err)
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() && !strings.Contains(lines.Text(), "ORDER_STATUS_DELIVERED") {
	}
	if !strings.Contains(lines.Text(), "ORDER_STATUS_DELIVERED") {
		t.Errorf("server-sent events ended before the delivery: %v", lines.Err())
	}

	both, err := orderv1.NewOrderServiceClient(r.conn).WatchOrders(u.as(soon(t)))
	must(t, err)
	must(t, both.Send(&orderv1.WatchOrdersRequest{Command: &orderv1.WatchOrdersRequest_Add{Add: &orderv1.AddOrders{OrderIds: []string{o.GetOrderId()}}}}))
	if m, err := both.Recv(); err != nil || !strings.Contains(m.String(), o.GetOrderId()) {
		t.Errorf("both ways: %v, %v", m, err)
	}
	must(t, both.CloseSend())

	in, err := inventoryv1.NewInventoryServiceClient(r.conn).ImportProducts(r.admin.as(soon(t)))
	must(t, err)
	for n := range 3 {
		must(t, in.Send(&inventoryv1.ImportProductsRequest{Sku: fmt.Sprintf("M-%d-%s", n, o.GetOrderId()[:8]), LineNumber: int32(n + 1), Name: "Imported", Price: euro(100), InitialStock: 1}))
	}
	done, err := in.CloseAndRecv()
	must(t, err)
	if done.GetImportedCount() != 3 {
		t.Errorf("import: %v", done)
	}

	s, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(soon(t))
	must(t, err)
	must(t, s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}))
	list, err := s.Recv()
	must(t, err)
	for _, service := range services[1:] {
		if !strings.Contains(list.String(), "waybill."+service+".v1.") {
			t.Errorf("reflection does not know of %s", service)
		}
	}
}

// TestARevokedSessionIsRefusedByEveryProcess logs out before the other processes
// have asked for keys: their first answer must know of it.
func TestARevokedSessionIsRefusedByEveryProcess(t *testing.T) {
	t.Parallel()
	r := openRealm(t, threeParts, desk.name, time.Minute)
	gone := r.customer(t)
	_, err := authv1.NewAuthServiceClient(r.conn).LogOut(soon(t), &authv1.LogOutRequest{RefreshToken: gone.refresh})
	must(t, err)
	throughBoth(t, func(t *testing.T, d door) {
		for method, req := range map[string]proto.Message{
			orderv1.OrderService_ListOrders_FullMethodName:       &orderv1.ListOrdersRequest{},
			inventoryv1.InventoryService_Quote_FullMethodName:    &inventoryv1.QuoteRequest{},
			paymentv1.PaymentService_ListPayments_FullMethodName: &paymentv1.ListPaymentsRequest{},
		} {
			refusal{code: codes.Unauthenticated, reason: "SESSION_REVOKED"}.check(t, try(t, d, r.world, gone, method, req, nil))
		}
	})
	in, err := r.logIn(gone.email, gone.password)
	must(t, err)
	ask(t, grpcDoor{}, r.world, in, orderv1.OrderService_ListOrders_FullMethodName, &orderv1.ListOrdersRequest{}, &orderv1.ListOrdersResponse{})
}

// TestLimitsOnWrongPasswordsHoldAcrossProcesses guesses from one address through a
// gateway and is slowed down there, not everybody who comes through the gateway.
func TestLimitsOnWrongPasswordsHoldAcrossProcesses(t *testing.T) {
	t.Parallel()
	r := openRealm(t, split{processes: [][]string{{"gateway"}, {"auth", "user"}, {"order", "payment", "inventory", "shipping"}}, external: true}, desk.name, time.Minute)
	throughBoth(t, func(t *testing.T, d door) {
		u := r.customer(t)
		guesser, owner := fromElsewhere(t, r.world, d), fromElsewhere(t, r.world, d)
		for n := 0; ; n++ {
			a := try(t, guesser, r.world, nil, logIn, &authv1.LogInRequest{Email: u.email, Password: secret("a-guess")}, nil)
			if a.code == codes.ResourceExhausted {
				break
			}
			if n == 20 {
				t.Fatal("20 wrong passwords and the next may be tried at once")
			}
		}
		ask(t, owner, r.world, nil, logIn, &authv1.LogInRequest{Email: u.email, Password: u.password}, &authv1.LogInResponse{})
	})
}

// TestAServiceReachesOnlyWhatItIsListedFor is hazards E1 to E3 against real processes.
func TestAServiceReachesOnlyWhatItIsListedFor(t *testing.T) {
	t.Parallel()
	r := openRealm(t, threeParts, desk.name, time.Minute)
	u, product := r.customer(t), r.product(t, euro(100), 5)
	quote := &inventoryv1.QuoteRequest{Lines: []*inventoryv1.QuoteLine{{ProductId: product.GetProductId(), Quantity: 1}}}
	adjust := &inventoryv1.AdjustStockRequest{RequestId: newKey(), ProductId: product.GetProductId(), Delta: 5, Reason: "mine"}
	const quoteIt, adjustIt, list, payments = inventoryv1.InventoryService_Quote_FullMethodName, inventoryv1.InventoryService_AdjustStock_FullMethodName,
		authv1.AuthService_ListRevokedSessions_FullMethodName, paymentv1.PaymentService_ListPayments_FullMethodName
	toBack, toFront, toMiddle := r.as(t, middle, back, "inventory"), r.as(t, middle, front, "auth"), r.as(t, back, middle, "payment")
	for _, c := range []struct {
		name   string
		conn   grpc.ClientConnInterface
		who    *user
		method string
		req    proto.Message
		reason string // "" when it may
	}{
		{"order asks for a quote", rpc.As(toBack, "order"), nil, quoteIt, quote, ""},
		{"order asks for a customer", rpc.As(toBack, "order"), u, quoteIt, quote, ""},
		{"payment asks for a quote", rpc.As(toBack, "payment"), nil, quoteIt, quote, "SERVICE_NOT_LISTED"},
		{"payment asks for a customer", rpc.As(toBack, "payment"), u, quoteIt, quote, "SERVICE_NOT_LISTED"},
		{"order changes stock", rpc.As(toBack, "order"), nil, adjustIt, adjust, "SERVICE_NOT_LISTED"},
		{"order changes stock with an admin's token", rpc.As(toBack, "order"), r.admin, adjustIt, adjust, "SERVICE_NOT_LISTED"},
		{"order pretends to be the gateway", rpc.As(toBack, "gateway"), r.admin, adjustIt, adjust, "SERVICE_NOT_PROVED"},
		{"every service asks for revoked sessions", rpc.As(toFront, "payment"), nil, list, &authv1.ListRevokedSessionsRequest{}, ""},
		{"order logs somebody in", rpc.As(toFront, "order"), nil, logIn, &authv1.LogInRequest{Email: u.email, Password: u.password}, "SERVICE_NOT_LISTED"},
		{"shipping looks at payments", rpc.As(toMiddle, "shipping"), r.admin, payments, &paymentv1.ListPaymentsRequest{}, "SERVICE_NOT_LISTED"},
		{"the gateway brings a customer", r.as(t, front, back, "inventory"), u, quoteIt, quote, ""},
		{"the gateway brings nobody", r.as(t, front, front, "auth"), nil, list, &authv1.ListRevokedSessionsRequest{}, "TOKEN_MISSING"},
		{"the public port takes nobody for a service", rpc.As(r.conn, "order"), nil, list, &authv1.ListRevokedSessionsRequest{}, "TOKEN_MISSING"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx := soon(t)
			if c.who != nil {
				ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.who.token)
			}
			err := c.conn.Invoke(ctx, c.method, c.req, &emptypb.Empty{})
			switch got := ofStatus(err); {
			case c.reason == "":
				must(t, err)
			case got.reason != c.reason || got.code != codes.PermissionDenied && got.code != codes.Unauthenticated:
				t.Errorf("got %v, want %s", err, c.reason)
			}
		})
	}
	if s := r.stock(t, product.GetProductId()); s.GetOnHand() != 5 {
		t.Errorf("the stock has changed: %v", s)
	}
	for name, conn := range map[string]*grpc.ClientConn{
		"a stranger's certificate":       r.as(t, "waybill-notification", back, "inventory"),
		"another service than is wanted": r.as(t, front, back, "order"),
		"no certificate and no TLS":      inTheClear(t, r.ports[back]),
	} {
		ctx := metadata.AppendToOutgoingContext(soon(t), "authorization", "Bearer "+r.admin.token)
		err := conn.Invoke(ctx, quoteIt, quote, &inventoryv1.QuoteResponse{})
		if got := ofStatus(err); got.code != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}
