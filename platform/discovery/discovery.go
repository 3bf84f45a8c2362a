// Package discovery says where the other services are. A target is a gRPC
// target: `dns:///order:9090` asks the DNS every few seconds for all addresses
// behind a name (a headless Service in Kubernetes), `static:///a:1,b:2` is a
// fixed list.
package discovery

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
)

// Targets maps the names of services to their gRPC targets.
type Targets map[string]string

// Parse reads specs such as `order=dns:///order:9090`, `order=order:9090` (the
// same) or `order=static:///10.0.0.1:9090,10.0.0.2:9090`.
func Parse(specs ...string) (Targets, error) {
	all := Targets{}
	for _, spec := range specs {
		name, target, ok := strings.Cut(strings.TrimSpace(spec), "=")
		if !ok || name == "" || strings.ContainsAny(name, " /:") {
			return nil, fmt.Errorf("discovery: %q must read <service>=<target>, as in order=dns:///order:9090", spec)
		}
		if _, twice := all[name]; twice {
			return nil, fmt.Errorf("discovery: %s is given twice", name)
		}
		target, err := Target(target)
		if err != nil {
			return nil, fmt.Errorf("discovery: %s: %w", name, err)
		}
		all[name] = target
	}
	return all, nil
}

// Target checks one target and gives it in full; without a scheme it is a name
// to be asked of the DNS.
func Target(s string) (string, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "dns", "/"+s
	}
	authority, endpoint, ok := strings.Cut(rest, "/")
	if !ok || endpoint == "" {
		return "", fmt.Errorf("target %q has no address; write %s:///host:port", s, scheme)
	}
	switch scheme {
	case "dns":
		if err := hostPort(endpoint); err != nil {
			return "", err
		}
	case "static":
		if authority != "" {
			return "", fmt.Errorf("target %q needs three slashes: static:///host:port", s)
		}
		if _, err := addresses(endpoint); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("target %q: unknown scheme %q; use dns or static", s, scheme)
	}
	return scheme + "://" + authority + "/" + endpoint, nil
}

// DialOptions gives what a client needs to understand every target that Target
// accepts. The DNS is asked every interval; 0 is Interval.
func DialOptions(interval time.Duration) []grpc.DialOption {
	interval = cmp.Or(interval, Interval)
	return []grpc.DialOption{grpc.WithResolvers(static{}, names{interval, interval / 5, 6 * interval})}
}

// static resolves a fixed list of addresses.
type static struct{}

func (static) Scheme() string { return "static" }

// OverrideAuthority keeps a list of addresses out of the :authority header.
func (static) OverrideAuthority(t resolver.Target) string {
	first, _, _ := strings.Cut(t.Endpoint(), ",")
	return first
}

func (static) Build(t resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	list, err := addresses(t.Endpoint())
	if err != nil {
		return nil, err
	}
	var s resolver.State
	for _, a := range list {
		host, _, _ := net.SplitHostPort(a)
		s.Endpoints = append(s.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a, ServerName: host}}})
	}
	return fixed{}, cc.UpdateState(s)
}

// fixed never resolves anything again.
type fixed struct{}

func (fixed) ResolveNow(resolver.ResolveNowOptions) {}
func (fixed) Close()                                {}

func addresses(list string) ([]string, error) {
	all := strings.Split(list, ",")
	for _, a := range all {
		if err := hostPort(a); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func hostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err == nil && (host == "" || port == "" || strings.ContainsAny(s, " ,/")) {
		err = errors.New("host or port is missing")
	}
	if err != nil {
		return fmt.Errorf("address %q must read host:port: %w", s, err)
	}
	return nil
}
