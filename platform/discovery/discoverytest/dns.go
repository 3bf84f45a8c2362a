// Package discoverytest is a DNS server for tests: one name whose addresses change.
package discoverytest

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// A DNS answers for one name. Make one with New.
type DNS struct {
	conn net.PacketConn
	name string

	mu    sync.Mutex
	code  dnsmessage.RCode
	addrs []netip.Addr
	asked int
}

// New starts a server for name that has no addresses yet; it ends with the test.
func New(t testing.TB, name string) *DNS {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &DNS{conn: conn, name: name + "."}
	var done sync.WaitGroup
	done.Go(d.serve)
	t.Cleanup(func() { _ = conn.Close(); done.Wait() })
	return d
}

// Target gives the target under which clients find port of the servers that have
// the name.
func (d *DNS) Target(port string) string {
	// With a trailing dot nobody tries the machine's search domains first.
	return "dns://" + d.conn.LocalAddr().String() + "/" + d.name + ":" + port
}

// Set changes the IPv4 addresses; without any the name does not exist.
func (d *DNS) Set(ips ...string) {
	var addrs []netip.Addr
	for _, ip := range ips {
		addrs = append(addrs, netip.MustParseAddr(ip))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.addrs, d.code = addrs, dnsmessage.RCodeSuccess
	if len(ips) == 0 {
		d.code = dnsmessage.RCodeNameError
	}
}

// Fail makes every answer SERVFAIL until the next Set.
func (d *DNS) Fail() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.code, d.addrs = dnsmessage.RCodeServerFailure, nil
}

// Asked gives the number of questions so far.
func (d *DNS) Asked() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked
}

func (d *DNS) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := d.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if reply, ok := d.answer(buf[:n]); ok {
			_, _ = d.conn.WriteTo(reply, from)
		}
	}
}

func (d *DNS) answer(query []byte) ([]byte, bool) {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil, false
	}
	q := m.Questions[0]
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionAvailable: true, RCode: d.code},
		Questions: m.Questions,
	}
	switch {
	case !strings.EqualFold(q.Name.String(), d.name):
		reply.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		for _, a := range d.addrs {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 5},
				Body:   &dnsmessage.AResource{A: a.As4()},
			})
		}
	}
	packed, err := reply.Pack()
	return packed, err == nil
}
