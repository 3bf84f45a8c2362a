package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/waybill-dev/waybill/internal/rest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// A load places orders at a steady rate while something else happens, in turn over
// REST and gRPC, asks for an earlier order after each, and remembers every order
// that was acknowledged and every request that failed. Nothing is tried again.
type load struct {
	t         *testing.T
	d         *door
	customers []*user
	products  []*inventoryv1.Product
	end       context.CancelFunc
	requests  sync.WaitGroup
	begin     time.Time

	mu       sync.Mutex
	orders   []placed
	failures []failure
	sent     int
	slowest  time.Duration
}

type placed struct {
	id string
	by *user
}

type failure struct {
	after   time.Duration // since the load began
	took    time.Duration
	what    string
	code    codes.Code
	message string
}

// startLoad begins to place rate orders a second.
func startLoad(t *testing.T, d *door, rate int) *load {
	t.Helper()
	l := &load{t: t, d: d, products: d.products(t, d.admin(t), 20, 1_000_000), begin: time.Now()}
	for range 4 {
		l.customers = append(l.customers, d.customer(t))
	}
	ctx, cancel := context.WithCancel(t.Context())
	l.end = sync.OnceFunc(func() {
		cancel()
		l.requests.Wait()
	})
	t.Cleanup(l.end)
	l.requests.Go(func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
				l.requests.Go(func() { l.one(n) })
			case <-ctx.Done():
				return
			}
		}
	})
	return l
}

// one places an order and reads another.
func (l *load) one(n int) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	u := l.customers[n%len(l.customers)]
	token, err := u.bearer(ctx)
	if err != nil {
		l.failed("log in", time.Now(), err)
		return
	}
	tokens := []string{"tok_ok", "tok_ok", "tok_ok", "tok_declined", "tok_ok", "tok_ok", "tok_capture_fails", "tok_ok", "tok_ok", "tok_ok"}
	req := basket(l.products[n%len(l.products)], 1, tokens[n%len(tokens)], "NO")
	begin := time.Now()
	var o *orderv1.Order
	what := "create over gRPC"
	if n%2 == 0 {
		what = "create over REST"
		key := uuid.NewString()
		req.RequestId = ""
		o = &orderv1.Order{}
		err = (&rest.Client{Base: l.d.base, Token: token, HTTP: l.d.web}).Do(ctx, http.MethodPost, "/v1/orders", key, req, o)
	} else {
		o, err = orderv1.NewOrderServiceClient(l.d.conn).CreateOrder(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token), req)
	}
	l.mu.Lock()
	l.sent++
	l.slowest = max(l.slowest, time.Since(begin))
	l.mu.Unlock()
	if err != nil {
		l.failed(what, begin, err)
		return
	}
	l.mu.Lock()
	l.orders = append(l.orders, placed{o.GetOrderId(), u})
	earlier := l.orders[max(0, len(l.orders)-20)]
	l.sent++
	l.mu.Unlock()
	begin = time.Now()
	if err := earlier.read(ctx, l.d, &orderv1.Order{}); err != nil {
		l.failed("get over REST", begin, err)
	}
}

// read asks for an order over REST.
func (p placed) read(ctx context.Context, d *door, into *orderv1.Order) error {
	token, err := p.by.bearer(ctx)
	if err != nil {
		return err
	}
	return (&rest.Client{Base: d.base, Token: token, HTTP: d.web}).Do(ctx, http.MethodGet, "/v1/orders/"+p.id, "", nil, into)
}

func (l *load) failed(what string, begin time.Time, err error) {
	f := failure{after: begin.Sub(l.begin), took: time.Since(begin), what: what, code: status.Code(err), message: err.Error()}
	var e *rest.Error
	switch {
	case errors.As(err, &e):
		f.code = codeOf(e)
	case errors.Is(err, context.DeadlineExceeded):
		f.code = codes.DeadlineExceeded
	case f.code == codes.Unknown:
		f.code = codes.Unavailable // no answer over REST: a client of gRPC calls it so
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures = append(l.failures, f)
}

// codeOf gives the gRPC code that a REST error names.
func codeOf(e *rest.Error) codes.Code {
	c := codes.Unknown
	if e.Code == "" || json.Unmarshal([]byte(`"`+e.Code+`"`), &c) != nil {
		return codes.Unknown
	}
	return c
}

// during lets something happen under the load, between two moments of load alone,
// and checks then what must hold afterwards: no order that was acknowledged is lost,
// all come to their end, money and stock add up. The failures that are not
// allowed fail the test.
func (l *load) during(allowed []codes.Code, happen func()) {
	l.t.Helper()
	before, after := 3*time.Second, 5*time.Second
	l.run(before)
	happen()
	l.run(after)
	l.end()
	l.report()
	byCode := map[string]int{}
	for _, f := range l.failures {
		byCode[f.code.String()]++
		if !slices.Contains(allowed, f.code) {
			l.t.Errorf("%s failed at %.1f s after %.1f s: %s: %s", f.what, f.after.Seconds(), f.took.Seconds(), f.code, f.message)
		}
	}
	lost, open := l.settle()
	l.t.Logf("%d requests, %d orders acknowledged, lost %d, not over %d, failed %d %v, slowest order %.1f s",
		l.sent, len(l.orders), len(lost), len(open), len(l.failures), byCode, l.slowest.Seconds())
	for _, id := range lost {
		l.t.Errorf("order %s was acknowledged and is lost", id)
	}
	for _, o := range open {
		l.t.Errorf("order %s does not end", o)
	}
	if len(l.orders) == 0 {
		l.t.Error("no order was acknowledged")
	}
	if found := books(l.t); len(found.Wrong) > 0 {
		l.t.Errorf("the books do not balance:\n%s", strings.Join(found.Wrong, "\n"))
	}
}

// run lets the load go on for a while.
func (l *load) run(d time.Duration) {
	select {
	case <-time.After(d):
	case <-l.t.Context().Done():
	}
}

// settle waits for the end of every order and gives those that are unknown and
// those that are not over in time.
func (l *load) settle() (lost, open []string) {
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	todo := slices.Clone(l.orders)
	for len(todo) > 0 {
		var mu sync.Mutex
		var still []placed
		var wait sync.WaitGroup
		slots := make(chan struct{}, 8)
		for _, p := range todo {
			slots <- struct{}{}
			wait.Go(func() {
				defer func() { <-slots }()
				var o orderv1.Order
				err := p.read(ctx, l.d, &o)
				var e *rest.Error
				mu.Lock()
				defer mu.Unlock()
				switch {
				case errors.As(err, &e) && e.Status == http.StatusNotFound:
					lost = append(lost, p.id)
				case err != nil || !terminal(o.GetStatus()):
					still = append(still, p)
				}
			})
		}
		wait.Wait()
		todo = still
		if ctx.Err() != nil {
			break
		}
		if len(todo) > 0 {
			l.run(500 * time.Millisecond)
		}
	}
	for _, p := range todo {
		var o orderv1.Order
		err := p.read(l.t.Context(), l.d, &o)
		open = append(open, fmt.Sprintf("%s: %s %v", p.id, o.GetStatus(), err))
	}
	return lost, open
}

// report writes every failure down.
func (l *load) report() {
	var b strings.Builder
	for _, f := range l.failures {
		fmt.Fprintf(&b, "%7.2f s  took %6.2f s  %-18s %-18s %s\n", f.after.Seconds(), f.took.Seconds(), f.what, f.code, f.message)
	}
	name := strings.NewReplacer("/", "-", " ", "-").Replace(l.t.Name())
	_ = os.WriteFile(filepath.Join(artifacts(), name+".failures.txt"), []byte(b.String()), 0o600) // as much as can be had
}

// findings are what `waybill check --json` prints.
type findings struct {
	Orders map[string]int
	Open   int
	Wrong  []string
}

// books holds the books of the services against each other, in a pod beside them
// that may read every database.
func books(t *testing.T) findings {
	t.Helper()
	kube(t, "delete", "job", "waybill-check", "--ignore-not-found", "--wait")
	manifest, err := os.ReadFile(filepath.Join("testdata", "check.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if out, err := kubectlInput(t.Context(), strings.ReplaceAll(string(manifest), "IMAGE", image()), "-n", shop, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	await(t, "the check has ended", func() (bool, error) {
		var job struct {
			Status struct{ Succeeded, Failed int }
		}
		get(t, &job, "job", "waybill-check")
		return job.Status.Succeeded+job.Status.Failed > 0, nil
	})
	out := kube(t, "logs", "job/waybill-check")
	text, _, _ := strings.Cut(out, "\n}")
	var f findings
	if err := json.Unmarshal([]byte(text+"\n}"), &f); err != nil {
		t.Fatalf("waybill check prints %s", out)
	}
	t.Logf("books: %v, %d not over, %d wrong", sorted(f.Orders), f.Open, len(f.Wrong))
	return f
}

func sorted(m map[string]int) []string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, fmt.Sprintf("%s %d", k, m[k]))
	}
	return list
}
