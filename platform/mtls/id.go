package mtls

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// An ID says who a workload is: the account it runs under, in a namespace of a
// trust domain. Written as a SPIFFE id it is
// spiffe://<trust domain>/ns/<namespace>/sa/<account>.
type ID struct {
	TrustDomain string
	Namespace   string
	Account     string
}

// The characters SPIFFE allows. A trust domain is a host name in small letters.
var (
	domainPattern  = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?$`)
	segmentPattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._-]{0,251}[a-zA-Z0-9])?$`)
)

// Validate tells which part of the id cannot be written as a SPIFFE id.
func (id ID) Validate() error {
	switch {
	case !domainPattern.MatchString(id.TrustDomain):
		return fmt.Errorf("trust domain %q must be a host name in small letters, as in cluster.local", id.TrustDomain)
	case !segmentPattern.MatchString(id.Namespace):
		return fmt.Errorf("namespace %q must be letters, digits, dots and dashes", id.Namespace)
	case !segmentPattern.MatchString(id.Account):
		return fmt.Errorf("account %q must be letters, digits, dots and dashes", id.Account)
	}
	return nil
}

// String writes the id as a SPIFFE id.
func (id ID) String() string {
	return "spiffe://" + id.TrustDomain + "/ns/" + id.Namespace + "/sa/" + id.Account
}

// URI gives the id as it stands in a certificate.
func (id ID) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.TrustDomain, Path: "/ns/" + id.Namespace + "/sa/" + id.Account}
}

// ParseID reads a SPIFFE id of the one form that is used here. There is exactly
// one way to write each id: a URI that is nearly one is refused.
func ParseID(u *url.URL) (ID, error) {
	path := strings.Split(u.Path, "/")
	if u.Scheme != "spiffe" || len(path) != 5 || path[0] != "" || path[1] != "ns" || path[3] != "sa" {
		return ID{}, fmt.Errorf("%q is not spiffe://<trust domain>/ns/<namespace>/sa/<account>", u)
	}
	id := ID{TrustDomain: u.Host, Namespace: path[2], Account: path[4]}
	if err := id.Validate(); err != nil {
		return ID{}, fmt.Errorf("%q: %w", u, err)
	}
	if u.String() != id.String() {
		return ID{}, fmt.Errorf("%q is not written as %s", u, id)
	}
	return id, nil
}

// idOf reads whom a certificate is for.
func idOf(cert *x509.Certificate) (ID, error) {
	if cert.IsCA {
		return ID{}, errors.New("it is the certificate of an authority, which must not speak for itself")
	}
	if n := len(cert.URIs); n != 1 {
		return ID{}, fmt.Errorf("it has %d URIs as alternative names; exactly one is wanted, spiffe://<trust domain>/ns/<namespace>/sa/<account>", n)
	}
	return ParseID(cert.URIs[0])
}

// Peers tells for which services each account speaks, and which it serves.
type Peers map[string][]string

// ParsePeers reads specs such as `waybill-order=order` and
// `waybill-back=payment+shipping`.
func ParsePeers(specs ...string) (Peers, error) {
	all := Peers{}
	for _, spec := range specs {
		account, list, ok := strings.Cut(strings.TrimSpace(spec), "=")
		services := strings.Split(list, "+")
		if !ok || !segmentPattern.MatchString(account) || slices.Contains(services, "") {
			return nil, fmt.Errorf("%q must read <account>=<service>+<service>, as in waybill-back=payment+shipping", spec)
		}
		if _, twice := all[account]; twice {
			return nil, fmt.Errorf("account %s is given twice; write all its services as one: %s=<service>+<service>", account, account)
		}
		all[account] = services
	}
	return all, nil
}

// Of gives the services that an account speaks for; none if it is not known.
func (p Peers) Of(account string) []string { return p[account] }
