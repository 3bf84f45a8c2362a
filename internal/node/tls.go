package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/mtls"
	"github.com/waybill-dev/waybill/platform/rpc"
)

// internalStreams is how many calls at once one connection between services may
// carry. All people's streams that one gateway brings to one process share a
// connection, and calls beyond the limit wait for a place; how many streams a
// person may open is limited elsewhere.
const internalStreams = 1 << 16

// identify reads the certificates of this process, if it has any, and sees to it
// that they are good for what runs here: otherwise every neighbour would refuse it.
func (n *Node) identify() error {
	if n.cfg.TLS.Dir == "" {
		return nil
	}
	peers, err := n.cfg.TLS.peers()
	if err != nil {
		return err
	}
	if n.self, err = mtls.Open(mtls.Config{Dir: n.cfg.TLS.Dir, Peers: peers, Log: n.tel.Log, Meter: n.tel.Meter}); err != nil {
		return errs.Wrap(err, errs.Invalid, "INVALID_CONFIG", "tls.dir: %v", err)
	}
	n.onClose(func(context.Context) error { return n.self.Close() })
	for _, s := range n.local {
		if !slices.Contains(n.self.Services(), s) {
			return errs.E(errs.Invalid, "INVALID_CONFIG", "this process runs %s, but its certificate is for account %s, which is good for %s: give it another certificate or mend tls.peers",
				strings.Join(n.local, ", "), n.self.ID().Account, cmp.Or(strings.Join(n.self.Services(), ", "), "nothing"))
		}
	}
	return nil
}

// newServer makes the server of the services that run here.
func (n *Node) newServer() (*rpc.Server, error) {
	proxies, err := n.cfg.proxies()
	if err != nil {
		return nil, fmt.Errorf("trusted_proxies: %w", err)
	}
	cfg := rpc.Config{
		Reflection:     n.cfg.Reflection,
		PerUser:        rpc.Rate{PerSecond: n.cfg.Limit.UserRate, Burst: n.cfg.Limit.UserBurst},
		PerIP:          rpc.Rate{PerSecond: n.cfg.Limit.IPRate, Burst: n.cfg.Limit.IPBurst},
		TrustedProxies: proxies,
		MaxConnAge:     n.cfg.MaxConnAge,
	}
	deps := rpc.Deps{
		Log: n.tel.Log, Verifier: auth.NewVerifier(auth.KeySourceFunc(n.keys), auth.VerifierConfig{}),
		Tracer: n.tel.Tracer, Meter: n.tel.Meter,
	}
	if n.self != nil {
		cfg.TLS, deps.PeerServices = n.self.Server(), n.self.PeerServices
	}
	if n.self != nil || len(n.local) < len(names) { // only neighbours call here
		cfg.MaxStreams = internalStreams
	}
	return rpc.NewServer(cfg, deps)
}
