package demo_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/waybill-dev/waybill/cmd/waybill/internal/demo"
	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/internal/rest"
	"github.com/waybill-dev/waybill/internal/topology"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/telemetry"
	authv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	userv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
	"github.com/waybill-dev/waybill/services/inventory/csvimport"
	"github.com/waybill-dev/waybill/test/data"
)

const admin = "admin"

func password(user string) string { return user + "-password" }

// TestEachServiceDoesOnTheBrokerExactlyWhatIsDeclared plays all the demo's orders
// with each service in a process of its own kind and with a user of the broker
// that may do what internal/topology says. The broker refuses nothing, so the
// declaration is enough; and everything that is declared happens, so it is not
// too much.
func TestEachServiceDoesOnTheBrokerExactlyWhatIsDeclared(t *testing.T) {
	w := startBroker(t)
	// Streams of some services are there with other settings, so that they change them.
	older := []string{"auth", "order"}
	for _, service := range older {
		s := declared(service).Broker().Streams[0]
		if _, err := w.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: s.Name, Subjects: s.Subjects}); err != nil {
			t.Fatal(err)
		}
	}
	w.startServices(t)
	w.play(t)
	w.eraseSomebody(t)
	w.checkConsumers(t)
	w.checkSubscriptions(t)
	for _, s := range topology.Services() {
		for _, stream := range s.Broker().Streams {
			eventually(t, s.Name+" looks at its stream", func() bool { return w.happened("$JS.API.STREAM.MSG.GET." + stream.Name) })
		}
	}
	w.stop()
	for _, line := range w.refused() {
		t.Error("the broker refused:", line)
	}
	for _, s := range topology.Services() {
		publish, _ := s.Broker().Permissions()
		for _, subject := range publish {
			unused := strings.HasPrefix(subject, "waybill.notify.outbox.") || // replicas tell each other; there is one of each
				strings.HasPrefix(subject, "$JS.API.STREAM.CREATE.") && slices.Contains(older, s.Name) ||
				strings.HasPrefix(subject, "$JS.API.STREAM.UPDATE.") && !slices.Contains(older, s.Name)
			if !unused && !w.happened(subject) {
				t.Errorf("%s may publish to %s and never does", s.Name, subject)
			}
		}
	}
}

func declared(name string) topology.Service {
	all := topology.Services()
	return all[slices.IndexFunc(all, func(s topology.Service) bool { return s.Name == name })]
}

// world is a broker with a user for each service, and a process for each.
type world struct {
	ns   *server.Server
	js   jetstream.JetStream
	log  *brokerLog
	stop func()

	nodes map[string]*node.Node
	mu    sync.Mutex
	seen  map[string]bool // subjects published to, without the parts that differ
}

func startBroker(t *testing.T) *world {
	t.Helper()
	w := &world{log: &brokerLog{}, nodes: map[string]*node.Node{}, seen: map[string]bool{}}
	users := []bustest.User{{Name: admin, Password: password(admin), All: true}}
	for name, e := range topology.Describe().Services {
		if e.NATS != nil {
			users = append(users, bustest.User{Name: name, Password: password(name), Publish: e.NATS.Publish, Subscribe: e.NATS.Subscribe})
		}
	}
	w.ns = bustest.ServeUsers(t, users, nil)
	w.ns.SetLoggerV2(w.log, false, false, false)
	nc, err := nats.Connect(w.ns.ClientURL(), nats.UserInfo(admin, password(admin)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if w.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	for _, subject := range []string{"waybill.>", "$JS.API.>", "$JS.ACK.>"} {
		sub, err := nc.Subscribe(subject, w.record)
		if err != nil {
			t.Fatal(err)
		}
		if err := sub.SetPendingLimits(-1, -1); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// record notes a subject, cut to what permissions are about.
func (w *world) record(m *nats.Msg) {
	subject := m.Subject
	parts := strings.Split(subject, ".")
	switch {
	case strings.HasPrefix(subject, "$JS.ACK.") && len(parts) > 4:
		subject = strings.Join(parts[:4], ".") + ".>"
	case strings.HasPrefix(subject, "waybill.") && parts[1] != "notify":
		subject = strings.Join(parts[:2], ".") + ".>"
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen[subject] = true
}

func (w *world) happened(subject string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen[subject]
}

// startServices runs each service by itself, those first that others call.
func (w *world) startServices(t *testing.T) {
	t.Helper()
	var stops []func()
	w.stop = sync.OnceFunc(func() {
		for _, stop := range slices.Backward(stops) {
			stop()
		}
	})
	t.Cleanup(w.stop)
	var upstream []string
	for _, s := range topology.Services() {
		cfg := node.DefaultConfig()
		cfg.Services, cfg.Upstream, cfg.Data = []string{s.Name}, slices.Clone(upstream), t.TempDir()
		cfg.HTTPAddr, cfg.GRPCAddr, cfg.AdminAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		cfg.NATS, cfg.NATSUser, cfg.NATSPassword = w.ns.ClientURL(), s.Name, telemetry.Secret(password(s.Name))
		cfg.Admin.Email, cfg.Admin.Password = "admin@example.com", telemetry.Secret(password("the administrator"))
		cfg.Log.Level = slog.LevelError
		cfg.Audit = 500 * time.Millisecond
		cfg.Auth.HashMemory, cfg.Auth.HashTime = 64, 1
		cfg.Payment.ProviderTimeout, cfg.Shipping.ScanEvery = 300*time.Millisecond, 100*time.Millisecond
		n, err := node.New(t.Context(), cfg)
		if err != nil {
			t.Fatalf("%s: %v", s.Name, err)
		}
		ctx, end := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- n.Run(ctx) }()
		stops = append(stops, func() {
			end()
			if err := <-ended; err != nil {
				t.Errorf("%s ended with %v", s.Name, err)
			}
		})
		select {
		case <-n.Started():
		case err := <-ended:
			ended <- nil
			t.Fatalf("%s did not start: %v", s.Name, err)
		}
		w.nodes[s.Name] = n
		upstream = append(upstream, s.Name+"=static:///"+n.GRPCAddr())
	}
}

// play places orders that end in every way, and checks money and stock.
func (w *world) play(t *testing.T) {
	t.Helper()
	conn, err := rpc.Dial("static:///"+w.nodes["inventory"].GRPCAddr(), rpc.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	products, err := csvimport.Parse(bytes.NewReader(data.Products))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = demo.Run(t.Context(), demo.Config{
		Base: w.nodes[topology.Gateway].HTTPURL(), Conn: conn, AdminEmail: "admin@example.com", AdminPassword: password("the administrator"),
		Products: products, Customers: 12, Scale: 1, Out: &out,
		Check: func(ctx context.Context) (wrong []string, err error) {
			for _, name := range slices.Sorted(maps.Keys(w.nodes)) {
				found, err := w.nodes[name].Check(ctx)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				wrong = append(wrong, found...)
			}
			return wrong, nil
		},
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
}

// eraseSomebody opens an account and erases it, which the demo does not.
func (w *world) eraseSomebody(t *testing.T) {
	t.Helper()
	anybody := &rest.Client{Base: w.nodes[topology.Gateway].HTTPURL(), HTTP: http.DefaultClient}
	var up authv1.SignUpResponse
	err := anybody.Do(t.Context(), http.MethodPost, "/v1/auth/signup", "",
		&authv1.SignUpRequest{Email: "somebody@example.com", Password: password("somebody"), DisplayName: "Somebody"}, &up)
	if err != nil {
		t.Fatal(err)
	}
	somebody := anybody.As(up.GetTokens().GetAccessToken())
	eventually(t, "the profile is there and can be erased", func() bool {
		return somebody.Do(t.Context(), http.MethodDelete, "/v1/users/"+up.GetUserId(), "", nil, &userv1.DeleteUserResponse{}) == nil
	})
	for _, s := range topology.Services() {
		if _, hears := s.Hears["user"]; hears {
			eventually(t, s.Name+" hears of it", func() bool { return w.happened("$JS.ACK.WAYBILL_USER." + s.Name + ".>") })
		}
	}
}

// eventually asks again and again until cond holds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for tick := time.NewTicker(10 * time.Millisecond); !cond(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never happened: %s", what)
		}
	}
}

// checkConsumers holds what is on the broker against what is declared: streams,
// their consumers, and the events each consumer asks for.
func (w *world) checkConsumers(t *testing.T) {
	t.Helper()
	want, got := map[string][]string{}, map[string][]string{}
	for _, s := range topology.Services() {
		use := s.Broker()
		for _, stream := range use.Streams {
			want[stream.Name+" keeps"] = stream.Subjects
		}
		for _, c := range use.Consumers {
			want[c.Stream+" "+c.Durable] = c.Subjects
		}
	}
	for stream := range w.js.ListStreams(t.Context()).Info() {
		got[stream.Config.Name+" keeps"] = stream.Config.Subjects
		s, err := w.js.Stream(t.Context(), stream.Config.Name)
		if err != nil {
			t.Fatal(err)
		}
		for c := range s.ListConsumers(t.Context()).Info() {
			got[stream.Config.Name+" "+c.Name] = c.Config.FilterSubjects
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("on the broker (-declared +there):\n%s", diff)
	}
}

// checkSubscriptions holds what each user listens to against what is declared.
func (w *world) checkSubscriptions(t *testing.T) {
	t.Helper()
	conns, err := w.ns.Connz(&server.ConnzOptions{Username: true, Subscriptions: true, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, c := range conns.Conns {
		for _, subject := range c.Subs {
			if !strings.HasPrefix(subject, "_INBOX."+c.AuthorizedUser+".") && c.AuthorizedUser != admin {
				got[c.AuthorizedUser] = append(got[c.AuthorizedUser], subject)
			}
		}
	}
	want := map[string][]string{}
	for _, s := range topology.Services() {
		if _, subscribe := s.Broker().Permissions(); len(subscribe) > 0 {
			want[s.Name] = subscribe
			slices.Sort(got[s.Name])
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("subscriptions (-declared +there):\n%s", diff)
	}
}

func (w *world) refused() []string {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	return w.log.errors
}

// brokerLog keeps the errors that the broker logs, violations among them.
type brokerLog struct {
	mu     sync.Mutex
	errors []string
}

func (l *brokerLog) Noticef(string, ...any) {}
func (l *brokerLog) Warnf(string, ...any)   {}
func (l *brokerLog) Debugf(string, ...any)  {}
func (l *brokerLog) Tracef(string, ...any)  {}

func (l *brokerLog) Fatalf(format string, v ...any) { l.Errorf(format, v...) }

func (l *brokerLog) Errorf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors = append(l.errors, fmt.Sprintf(format, v...))
}
