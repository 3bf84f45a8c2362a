package system_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/internal/rest"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/platform/telemetry"
)

// patience is how long a test waits for what must come. Nothing is judged by it.
const patience = 60 * time.Second

const (
	adminEmail     = "admin@example.com"
	webhookSecret  = "whsec-now-4c1f9a"
	webhookEarlier = "whsec-before-77e0"
)

// A world is a running process, with everything that is needed to use it.
type world struct {
	node  *node.Node
	base  string // URL of the REST interface
	addr  string // of the gRPC interface
	dir   string
	conn  *grpc.ClientConn
	web   *http.Client
	admin *user
	stop  func() error
}

// quick is the configuration of every world: the outside is fast, hashes are
// cheap, ports are free ones of the loopback, and everything is logged.
func quick(dir string) node.Config {
	cfg := node.DefaultConfig()
	cfg.Data = dir
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.AdminAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Admin.Email, cfg.Admin.Password = adminEmail, telemetry.Secret(secret("admin-password"))
	cfg.Log.Level, cfg.Log.Format = slog.LevelDebug, telemetry.FormatJSON
	cfg.REST.AccessLog = true
	cfg.Auth.HashMemory, cfg.Auth.HashTime = 64, 1
	cfg.Auth.KeySecret = telemetry.Secret(secret("key-secret"))
	cfg.Payment.ProviderTimeout, cfg.Payment.SimulatorDelay = 200*time.Millisecond, 50*time.Millisecond
	cfg.Payment.FirstRetry, cfg.Payment.MaxRetry = 20*time.Millisecond, 200*time.Millisecond
	cfg.Payment.WebhookSecret, cfg.Payment.WebhookSecretPrevious = webhookSecret, webhookEarlier
	cfg.Shipping.ScanEvery = 50 * time.Millisecond
	cfg.Inventory.SweepEvery, cfg.Order.SweepEvery = 50*time.Millisecond, 50*time.Millisecond
	return cfg
}

// worlds are all that were started, for the search at the end.
var worlds struct {
	sync.Mutex
	all []*world
}

// start runs a process of its own kind until the end of the test binary.
func start(change func(*node.Config)) (*world, error) {
	dir, err := os.MkdirTemp(scratch, "world-")
	if err != nil {
		return nil, err
	}
	cfg := quick(dir)
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n, err := node.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	run, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(run) }()
	select {
	case <-n.Started():
	case err := <-ended:
		end()
		return nil, fmt.Errorf("the process did not start: %w", err)
	}
	w := &world{
		node: n, base: n.HTTPURL(), addr: n.GRPCAddr(), dir: dir,
		web: &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
	}
	if w.conn, err = grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		end()
		return nil, errors.Join(err, <-ended)
	}
	w.stop = sync.OnceValue(func() error {
		worlds.Lock()
		worlds.all = slices.DeleteFunc(worlds.all, func(o *world) bool { return o == w })
		worlds.Unlock()
		w.web.CloseIdleConnections()
		closed := w.conn.Close()
		end()
		return errors.Join(closed, <-ended)
	})
	worlds.Lock()
	worlds.all = append(worlds.all, w)
	worlds.Unlock()
	return w, nil
}

// A kind of world is started at its first use and shared by all tests of it.
type kind struct {
	change func(*node.Config)
	once   sync.Once
	world  *world
	err    error
}

func (k *kind) get(t *testing.T) *world {
	t.Helper()
	k.once.Do(func() {
		k.world, k.err = start(k.change)
		if k.err == nil {
			k.world.admin, k.err = k.world.logIn(adminEmail, secret("admin-password"))
		}
	})
	if k.err != nil {
		t.Fatal(k.err)
	}
	return k.world
}

// The worlds that tests share. In the shop the carrier moves parcels by itself;
// at the desk it never does, so that an order stays where a test wants it until
// the test reports a scan, and a slow payment is slow enough to step in between.
var (
	shop = &kind{}
	desk = &kind{change: atDesk}

	// hasty undoes what is not authorized at once, strict what is not captured at once.
	hasty  = &kind{change: func(c *node.Config) { atDesk(c); c.Order.Deadline.Held = 20 * time.Millisecond }}
	strict = &kind{change: func(c *node.Config) { atDesk(c); c.Order.Deadline.Committed = 20 * time.Millisecond }}
	// short holds goods for less time than it takes to learn what became of a payment.
	short = &kind{change: briefHolds}
	// narrow lets nobody ask for much, shows no reflection and bears no spent refresh token.
	narrow = &kind{change: func(c *node.Config) {
		c.Reflection = false
		c.Auth.RefreshGrace = 0
		c.Limit.UserRate, c.Limit.UserBurst = 0.01, 30
		c.Limit.IPRate, c.Limit.IPBurst = 0.01, 30
	}}
)

func atDesk(c *node.Config) {
	c.Shipping.ScanEvery = 0
	c.Payment.ProviderTimeout, c.Payment.SimulatorDelay = time.Second, 400*time.Millisecond
}

func briefHolds(c *node.Config) {
	atDesk(c)
	c.Inventory.HoldTTL = 5 * time.Second
	c.Payment.ProviderTimeout, c.Payment.Margin = 100*time.Millisecond, 0
	c.Payment.FirstRetry, c.Payment.MaxRetry = 6*time.Second, 6*time.Second
}

// onPostgres gives the same kind of world on a Postgres of the test's own.
func (k *kind) onPostgres(t *testing.T) *kind {
	t.Helper()
	db := newDatabase(t, sqldbtest.StartPostgres(t, true))
	return &kind{change: func(c *node.Config) {
		if k.change != nil {
			k.change(c)
		}
		c.DB, c.DBConns = []string{db}, 3
	}}
}

// newDatabase makes a database on a Postgres server and gives its URL.
func newDatabase(t *testing.T, server string) string {
	t.Helper()
	ctx := soon(t)
	c, err := pgx.Connect(ctx, server)
	must(t, err)
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	name := "system_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	_, err = c.Exec(ctx, "CREATE DATABASE "+name)
	must(t, err)
	u, err := url.Parse(server)
	must(t, err)
	u.Path = "/" + name
	return u.String()
}

// The process's own: where everything is written, and what was logged.
var (
	scratch string
	logged  string
)

func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given { // these tests wait more than they work
		_ = flag.Set("test.parallel", "16")
	}
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "waybill-system-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	scratch, logged = dir, filepath.Join(dir, "stderr.log")
	log, err := os.Create(logged)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	terminal := os.Stderr
	os.Stderr = log // the processes of this one log there
	code = m.Run()
	os.Stderr = terminal
	for _, wrong := range afterwards() {
		code = 1
		fmt.Fprintln(os.Stderr, "FAIL: after all tests:", wrong)
	}
	_ = log.Close()
	if code != 0 && os.Getenv("WAYBILL_TEST_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "kept:", dir)
		return code
	}
	_ = os.RemoveAll(dir)
	return code
}

// afterwards checks the books of every world, stops it, and searches what all of
// them left behind for what must never be written down.
func afterwards() []string {
	var wrong []string
	bad := func(format string, a ...any) { wrong = append(wrong, fmt.Sprintf(format, a...)) }
	var ending sync.WaitGroup
	var ends sync.Mutex
	for _, w := range slices.Clone(worlds.all) {
		ending.Go(func() {
			unbalanced := w.balanced()
			metrics, unread := w.get(w.node.AdminURL() + "/metrics")
			err := errors.Join(unbalanced, unread, w.stop())
			ends.Lock()
			defer ends.Unlock()
			if err != nil {
				bad("%v", err)
			}
			for _, s := range found(metrics) {
				bad("the metrics hold %s", s)
			}
		})
	}
	ending.Wait()
	err := filepath.WalkDir(scratch, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, s := range found(data) {
			bad("%s holds %s", strings.TrimPrefix(path, scratch+"/"), s)
		}
		return nil
	})
	if err != nil {
		bad("search: %v", err)
	}
	return wrong
}

// balanced waits until neither money nor stock is missing anywhere; what is still
// under way between two services may take a moment.
func (w *world) balanced() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var wrong []string
	err := poll(ctx, func() (bool, error) {
		var err error
		wrong, err = w.node.Check(ctx)
		return len(wrong) == 0, err
	})
	if len(wrong) > 0 {
		return fmt.Errorf("the books do not balance: %s", strings.Join(wrong, "; "))
	}
	return err
}

// poll asks again until the answer is yes. It is for the few things that nobody
// tells when they happen.
func poll(ctx context.Context, ask func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := ask(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *world) get(url string) ([]byte, error) {
	resp, err := w.web.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// rest gives a client of the REST interface in somebody's name; nobody's if u is nil.
func (w *world) rest(u *user) *rest.Client {
	c := &rest.Client{Base: w.base, HTTP: w.web}
	if u != nil {
		c.Token = u.token
	}
	return c
}

// soon bounds what a test waits for.
func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newKey() string { return uuid.NewString() }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
