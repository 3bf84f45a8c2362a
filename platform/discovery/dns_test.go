package discovery

import (
	"context"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/serviceconfig"

	"github.com/waybill-dev/waybill/platform/discovery/discoverytest"
)

// client is what a resolver tells of its servers.
type client struct {
	resolver.ClientConn
	told chan string

	mu     sync.Mutex
	errors int
}

func (c *client) UpdateState(s resolver.State) error {
	var list []string
	for _, e := range s.Endpoints {
		list = append(list, e.Addresses[0].Addr)
	}
	c.told <- strings.Join(list, " ")
	return nil
}

func (c *client) ReportError(error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errors++
}

func (c *client) failures() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.errors
}

func (*client) ParseServiceConfig(string) *serviceconfig.ParseResult { return nil }

// ask has a resolver tell where a target is.
func ask(t *testing.T, n names, target string) (*client, resolver.Resolver) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{told: make(chan string, 16)}
	r, err := n.Build(resolver.Target{URL: *u}, c, resolver.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return c, r
}

// next waits for what the client is told next.
func (c *client) next(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-c.told:
		if got != want {
			t.Fatalf("the client was told %q, want %q", got, want)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("the client was never told %q", want)
	}
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !ok() {
		if !pause(ctx, time.Millisecond, nil) {
			t.Fatal("it did not happen within 30 s")
		}
	}
}

var often = names{interval: 10 * time.Millisecond, soonest: time.Millisecond, gone: time.Hour}

func TestClientsLearnOfServersWithoutLosingOne(t *testing.T) {
	dns := discoverytest.New(t, "order.test")
	dns.Set("10.0.0.2", "10.0.0.1")
	c, _ := ask(t, often, dns.Target("9090"))
	c.next(t, "10.0.0.1:9090 10.0.0.2:9090")
	dns.Set("10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.2")
	c.next(t, "10.0.0.1:9090 10.0.0.2:9090 10.0.0.3:9090 10.0.0.4:9090")
	asked := dns.Asked()
	until(t, func() bool { return dns.Asked() > asked+10 }) // the same answer, five times
	dns.Set("10.0.0.4")
	c.next(t, "10.0.0.4:9090")
	if n := c.failures(); n != 0 {
		t.Errorf("%d errors", n)
	}
}

func TestServersAreKeptWhileTheDNSKnowsNone(t *testing.T) {
	dns := discoverytest.New(t, "order.test")
	dns.Set("10.0.0.1")
	c, _ := ask(t, often, dns.Target("9090"))
	c.next(t, "10.0.0.1:9090")
	dns.Fail()
	until(t, func() bool { return c.failures() > 2 })
	dns.Set()
	n := c.failures()
	until(t, func() bool { return c.failures() > n+2 })
	dns.Set("10.0.0.2")
	c.next(t, "10.0.0.2:9090")
}

func TestServersThatAreGoneForLongAreForgotten(t *testing.T) {
	dns := discoverytest.New(t, "order.test")
	dns.Set("10.0.0.1")
	n := often
	n.gone = time.Millisecond
	c, _ := ask(t, n, dns.Target("9090"))
	c.next(t, "10.0.0.1:9090")
	dns.Set()
	c.next(t, "")
}

// A client that has never heard of a server must come to know why.
func TestANameThatIsUnknownAtFirstIsAskedAgain(t *testing.T) {
	dns := discoverytest.New(t, "order.test")
	c, _ := ask(t, often, dns.Target("9090"))
	c.next(t, "")
	until(t, func() bool { return c.failures() > 2 })
	dns.Set("10.0.0.1")
	until(t, func() bool { return <-c.told == "10.0.0.1:9090" })
}

func TestALostConnectionHasTheDNSAskedAtOnce(t *testing.T) {
	dns := discoverytest.New(t, "order.test")
	dns.Set("10.0.0.1")
	c, r := ask(t, names{interval: time.Hour, soonest: time.Millisecond, gone: time.Hour}, dns.Target("9090"))
	c.next(t, "10.0.0.1:9090")
	dns.Set("10.0.0.2")
	r.ResolveNow(resolver.ResolveNowOptions{})
	c.next(t, "10.0.0.2:9090")
}

func TestAnAddressNeedsNoDNS(t *testing.T) {
	c, r := ask(t, often, "dns:///127.0.0.1:9090")
	r.ResolveNow(resolver.ResolveNowOptions{})
	c.next(t, "127.0.0.1:9090")
}
