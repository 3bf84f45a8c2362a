package node_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/mtls"
)

// certificate makes a directory with the certificate of an account.
func certificate(t *testing.T, account string) string {
	t.Helper()
	authority, err := mtls.NewAuthority("test", time.Hour, time.Now())
	must(t, err)
	pair, err := authority.Issue(mtls.ID{TrustDomain: "example.org", Namespace: "shop", Account: account}, time.Hour, time.Now())
	must(t, err)
	dir := t.TempDir()
	must(t, pair.Write(dir, authority))
	return dir
}

func TestAnIdentityThatCannotBeMeantIsToldAtStart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*node.Config)
		want   string
	}{
		{"peers without certificates", func(c *node.Config) { c.TLS.Peers = []string{"a=order"} }, "set tls.dir too"},
		{"peers that cannot be read", func(c *node.Config) { c.TLS.Dir, c.TLS.Peers = "x", []string{"order"} }, "tls.peers"},
		{"a peer with a service that there is not", func(c *node.Config) { c.TLS.Dir, c.TLS.Peers = "x", []string{"a=orders"} }, `there is no service "orders"`},
		{"a directory that is not there", func(c *node.Config) { c.TLS.Dir = "/nowhere" }, "a certificate directory holds tls.crt, tls.key and ca.crt"},
		{"a certificate for another service", func(c *node.Config) { c.TLS.Dir = certificate(t, "payment") }, "this process runs user, but its certificate is for account payment, which is good for payment"},
		{"a certificate that peers do not name", func(c *node.Config) {
			c.TLS.Dir, c.TLS.Peers = certificate(t, "user"), []string{"waybill-user=user"}
		}, "account user, which is good for nothing"},
		{"a public port without a gateway", func(c *node.Config) { c.PublicGRPCAddr = "127.0.0.1:0" }, "public_grpc_addr is of the gateway"},
		{"hops below zero", func(c *node.Config) { c.PublicGRPCHops = -1 }, "public_grpc_hops"},
		{"proxies that are no addresses", func(c *node.Config) { c.TrustedProxies = []string{"gateway"} }, "not a range of addresses"},
		{"connections that do not live", func(c *node.Config) { c.MaxConnAge = 0 }, "grpc_max_conn_age"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cfg := quiet(t)
			cfg.Services = []string{"user"}
			c.change(&cfg)
			n, err := node.New(t.Context(), cfg)
			if err == nil {
				must(t, n.Close(t.Context()))
			}
			text := ""
			if e, ok := errors.AsType[*errs.Error](err); ok {
				text = fmt.Sprintf("%v %v", e, e.Fields)
			}
			if errs.KindOf(err) != errs.Invalid || !strings.Contains(text, c.want) {
				t.Errorf("got %s, want …%s…", text, c.want)
			}
		})
	}
}

func TestACertificateForAllThatRunsHereIsTaken(t *testing.T) {
	t.Parallel()
	for account, peers := range map[string][]string{"user": nil, "waybill-people": {"waybill-people=auth+user"}} {
		cfg := quiet(t)
		cfg.Services, cfg.TLS.Dir, cfg.TLS.Peers = []string{"user"}, certificate(t, account), peers
		n, err := node.New(t.Context(), cfg)
		must(t, err)
		must(t, n.Close(t.Context()))
	}
}
