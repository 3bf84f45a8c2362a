package system_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/internal/rest"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/telemetry"
)

// patience is how long a test waits for what must come. Nothing is judged by it.
const patience = 2 * time.Minute

const (
	adminEmail     = "admin@example.com"
	webhookSecret  = "whsec-now-4c1f9a"
	webhookEarlier = "whsec-before-77e0"
)

// A world is all processes of one Waybill, running, with everything that is
// needed to use it.
type world struct {
	processes []*process
	base      string // URL of the REST interface
	addr      string // of the gRPC interface beside it
	dir       string // of the first process
	conn      *grpc.ClientConn
	web       *http.Client
	admin     *user
	stop      func() error
}

// quick is the configuration of every world: the outside is fast, hashes are
// cheap, ports are free ones of the loopback, and everything is logged.
func quick(dir string) node.Config {
	cfg := node.DefaultConfig()
	cfg.Data = dir
	cfg.NATSSync = bustest.Seldom
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.AdminAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Admin.Email, cfg.Admin.Password = adminEmail, telemetry.Secret(secret("admin-password"))
	cfg.Log.Level, cfg.Log.Format = slog.LevelDebug, telemetry.FormatJSON
	cfg.REST.AccessLog = true
	cfg.Auth.HashMemory, cfg.Auth.HashTime = 64, 1
	cfg.Auth.RefreshGrace = time.Minute
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
	return begin([]*process{{cfg: cfg}})
}

// begin starts all processes of a world at once and returns when all serve.
func begin(processes []*process) (*world, error) {
	w := &world{processes: processes, web: &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.each(func(p *process) error { return p.start(ctx) }); err != nil {
		return nil, errors.Join(err, w.each((*process).stop))
	}
	w.dir = processes[0].cfg.Data
	for _, p := range processes {
		if url := p.node.HTTPURL(); url != "" {
			w.base, w.addr = url, cmp.Or(p.node.PublicGRPCAddr(), p.node.GRPCAddr())
		}
	}
	var err error
	if w.conn, err = grpc.NewClient(w.addr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return nil, errors.Join(err, w.each((*process).stop))
	}
	w.stop = sync.OnceValue(func() error {
		worlds.Lock()
		worlds.all = slices.DeleteFunc(worlds.all, func(o *world) bool { return o == w })
		worlds.Unlock()
		w.web.CloseIdleConnections()
		return errors.Join(w.conn.Close(), w.each((*process).stop))
	})
	worlds.Lock()
	worlds.all = append(worlds.all, w)
	worlds.Unlock()
	return w, nil
}

// each does something for every process at once.
func (w *world) each(do func(*process) error) error {
	all := make([]error, len(w.processes))
	var wait sync.WaitGroup
	for i, p := range w.processes {
		wait.Go(func() {
			if err := do(p); err != nil {
				all[i] = fmt.Errorf("%s: %w", strings.Join(p.cfg.Services, "+"), err)
			}
		})
	}
	wait.Wait()
	return errors.Join(all...)
}

// A process runs some services of a world.
type process struct {
	cfg   node.Config
	node  *node.Node
	end   context.CancelFunc
	ended chan error
}

// start builds the process and returns when it serves.
func (p *process) start(ctx context.Context) error {
	n, err := node.New(ctx, p.cfg)
	if err != nil {
		return err
	}
	run, end := context.WithCancel(context.Background())
	p.node, p.end, p.ended = n, end, make(chan error, 1)
	go func() { p.ended <- n.Run(run) }()
	select {
	case <-n.Started():
		return nil
	case err := <-p.ended:
		p.ended <- nil // for stop
		return fmt.Errorf("the process did not start: %w", err)
	}
}

// stop ends the process in good order; it does nothing to one that never started.
func (p *process) stop() error {
	if p.node == nil {
		return nil
	}
	p.end()
	return <-p.ended
}

// A kind of world is started at its first use and shared by all tests of it.
type kind struct {
	name  string
	once  sync.Once
	world *world
	err   error
}

func (k *kind) get(t *testing.T) *world {
	t.Helper()
	k.once.Do(func() {
		if k.world, k.err = start(settings[k.name]); k.err == nil {
			k.world.admin, k.err = k.world.logIn(adminEmail, secret("admin-password"))
		}
	})
	if k.err != nil {
		t.Fatal(k.err)
	}
	return k.world
}

// The worlds that tests share.
var (
	shop   = &kind{name: "shop"}
	desk   = &kind{name: "desk"}
	hasty  = &kind{name: "hasty"}
	strict = &kind{name: "strict"}
	short  = &kind{name: "short"}
	narrow = &kind{name: "narrow"}
)

// settings tell what is special about a kind of world. In the shop the carrier
// moves parcels by itself; at the desk it never does, so that an order stays where
// a test wants it until the test reports a scan, and a slow payment is slow enough
// to step in between.
var settings = map[string]func(*node.Config){
	"shop": func(*node.Config) {},
	"desk": atDesk,
	// hasty undoes what is not authorized at once, strict what is not captured at once.
	"hasty":  func(c *node.Config) { slowly(c); c.Order.Deadline.Held = 20 * time.Millisecond },
	"strict": func(c *node.Config) { slowly(c); c.Order.Deadline.Committed = 20 * time.Millisecond },
	// short holds goods for less time than it takes to learn what became of a payment.
	"short": briefHolds,
	// narrow lets nobody ask for much, shows no reflection and bears no spent refresh token.
	"narrow": func(c *node.Config) {
		c.Reflection = false
		c.Auth.RefreshGrace = 0
		c.Limit.UserRate, c.Limit.UserBurst = 0.01, 30
		c.Limit.IPRate, c.Limit.IPBurst = 0.01, 30
	},
}

func atDesk(c *node.Config) {
	c.Shipping.ScanEvery = 0
	c.Payment.ProviderTimeout, c.Payment.SimulatorDelay = time.Second, 400*time.Millisecond
}

// slowly is at the desk of a shop whose provider takes so long that what is to
// happen meanwhile does, also on a busy machine.
func slowly(c *node.Config) {
	atDesk(c)
	c.Payment.ProviderTimeout, c.Payment.SimulatorDelay = 10*time.Second, 3*time.Second
}

func briefHolds(c *node.Config) {
	atDesk(c)
	c.Inventory.HoldTTL = 5 * time.Second
	c.Payment.ProviderTimeout, c.Payment.Margin = 100*time.Millisecond, 0
	c.Payment.FirstRetry, c.Payment.MaxRetry = 6*time.Second, 6*time.Second
}

// The process's own: where everything is written, and what was logged.
var (
	scratch string
	logged  string
)

func TestMain(m *testing.M) {
	if code, is := bustest.Child(); is {
		os.Exit(code)
	}
	if code, is := beChild(); is {
		os.Exit(code)
	}
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
			if err := w.finish(); err != nil {
				ends.Lock()
				defer ends.Unlock()
				bad("%v", err)
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

// finish looks at the books of a world and at what it tells operators, and stops it.
func (w *world) finish() error {
	return errors.Join(w.balanced(), w.each(func(p *process) error {
		metrics, err := w.get(p.node.AdminURL() + "/metrics")
		for _, s := range found(metrics) {
			err = errors.Join(err, fmt.Errorf("the metrics hold %s", s))
		}
		return err
	}), w.stop())
}

// balanced waits until neither money nor stock is missing anywhere; what is still
// under way between two services may take a moment.
func (w *world) balanced() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return w.each(func(p *process) error {
		var wrong []string
		err := poll(ctx, func() (bool, error) {
			var err error
			wrong, err = p.node.Check(ctx)
			return len(wrong) == 0, err
		})
		if len(wrong) > 0 {
			return fmt.Errorf("the books do not balance: %s", strings.Join(wrong, "; "))
		}
		return err
	})
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
