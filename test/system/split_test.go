package system_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/mtls"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
)

// A split says which services share a process. What is true of one split is true
// of all: the same tests run on each of them.
type split struct {
	name      string
	processes [][]string // the services of each process
	replicas  int        // of each process; 0 is one
	postgres  bool       // with a database and a role for each service, SQLite otherwise
	external  bool       // the broker is a process of its own, as it must be with several processes
}

var (
	oneProcess = split{name: "one process", processes: [][]string{{"all"}}}
	onPostgres = split{name: "one process on Postgres", processes: [][]string{{"all"}}, postgres: true}
	threeParts = split{name: "three processes", processes: [][]string{{"gateway", "auth", "user"}, {"order", "payment"}, {"inventory", "shipping"}}, external: true}
	eachAlone  = split{name: "each service alone", processes: one(services...), external: true}
	aloneOnPG  = split{name: "each service alone on Postgres", processes: one(services...), external: true, postgres: true}
	twoOfEach  = split{name: "two of each service on Postgres", processes: one(services...), external: true, postgres: true, replicas: 2}
)

// services are all that a process can run.
var services = []string{"gateway", "auth", "user", "inventory", "payment", "shipping", "order"}

func one(services ...string) (alone [][]string) {
	for _, s := range services {
		alone = append(alone, []string{s})
	}
	return alone
}

// A spec is what one process of a world is told. It is written as JSON to a
// process that is no part of this one.
type spec struct {
	Kind              string // of world, whose settings it has
	Services          []string
	Data              string
	HTTP, GRPC, Admin string   // addresses
	Public            string   // address for people's gRPC; "" is none
	TLS               string   // directory with the certificate; "" is none
	Peers             []string // the accounts of all
	Upstream          []string // where the other services are
	DB                []string
	NATS              string
}

// config gives what a node is made of.
func (s spec) config() node.Config {
	cfg := quick(s.Data)
	if change := settings[s.Kind]; change != nil {
		change(&cfg)
	}
	cfg.Services, cfg.Upstream, cfg.DB, cfg.NATS = s.Services, s.Upstream, s.DB, s.NATS
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.AdminAddr = s.HTTP, s.GRPC, s.Admin
	cfg.PublicGRPCAddr, cfg.TLS.Dir, cfg.TLS.Peers = s.Public, s.TLS, s.Peers
	if len(s.DB) > 0 {
		cfg.DBConns = 2
	}
	return cfg
}

// has tells whether the process runs a service.
func (s spec) has(service string) bool {
	return slices.Contains(s.Services, service) || slices.Contains(s.Services, "all")
}

// plan lays out the processes of a split: their ports, their databases, their
// certificates and how they find each other. With several, people reach all of them
// through the gateway alone: the rest speaks to those it knows. What it makes outside of this process ends with the test.
func (sp split) plan(t *testing.T, kind string) (specs []spec, broker *bustest.Server) {
	t.Helper()
	dir, err := os.MkdirTemp(scratch, "world-")
	must(t, err)
	nats := ""
	if sp.external {
		broker = bustest.StartServer(t)
		nats = broker.URL()
	}
	var dbs []string
	if sp.postgres {
		dbs = newDatabases(t, sqldbtest.StartPostgres(t, true))
	}
	where := map[string][]string{} // service to addresses
	for i, names := range sp.processes {
		for r := range max(1, sp.replicas) {
			s := spec{
				Kind: kind, Services: names, NATS: nats, HTTP: reserve(t), GRPC: reserve(t), Admin: reserve(t),
				Data: filepath.Join(dir, fmt.Sprintf("%d-%d", i, r)),
			}
			must(t, os.Mkdir(s.Data, 0o700))
			for _, service := range services {
				if !s.has(service) {
					continue
				}
				where[service] = append(where[service], s.GRPC)
				for _, db := range dbs {
					if strings.HasPrefix(db, service+"=") {
						s.DB = append(s.DB, db)
					}
				}
			}
			if len(sp.processes) > 1 && s.has("gateway") {
				s.Public = reserve(t)
			}
			specs = append(specs, s)
		}
	}
	if len(sp.processes) > 1 {
		certify(t, specs)
	}
	for i := range specs {
		for _, service := range services {
			if !specs[i].has(service) {
				specs[i].Upstream = append(specs[i].Upstream, service+"=static:///"+strings.Join(where[service], ","))
			}
		}
	}
	return specs, broker
}

// certify gives each process a certificate for an account named after its services.
// The keys lie where the search for secrets at the end does not look.
func certify(t *testing.T, specs []spec) {
	t.Helper()
	ca, err := mtls.NewAuthority("test", time.Hour, time.Now())
	must(t, err)
	var peers []string
	for i, s := range specs {
		id := mtls.ID{TrustDomain: "waybill.test", Namespace: "system", Account: "waybill-" + strings.Join(s.Services, "-")}
		pair, err := ca.Issue(id, time.Hour, time.Now())
		must(t, err)
		specs[i].TLS = t.TempDir()
		must(t, pair.Write(specs[i].TLS, ca))
		if peer := id.Account + "=" + strings.Join(s.Services, "+"); !slices.Contains(peers, peer) {
			peers = append(peers, peer)
		}
	}
	for i := range specs {
		specs[i].Peers = peers
	}
}

// reserve gives an address of the loopback that stays the same over restarts. The
// port lies below those that systems hand out by themselves, so that nobody who
// asks for any port gets this one.
func reserve(t *testing.T) string {
	t.Helper()
	reserved.Lock()
	defer reserved.Unlock()
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		if reserved.ports[port] {
			continue
		}
		lis, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		must(t, lis.Close())
		if reserved.ports == nil {
			reserved.ports = map[int]bool{}
		}
		reserved.ports[port] = true
		return addr
	}
	t.Fatal("no free port")
	return ""
}

var reserved struct {
	sync.Mutex
	ports map[int]bool
}

// newDatabases makes a database for each service that only a role of its own may
// enter, and gives their URLs as --db wants them.
func newDatabases(t *testing.T, server string) (dbs []string) {
	t.Helper()
	ctx := soon(t)
	c, err := pgx.Connect(ctx, server)
	must(t, err)
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	id := strings.ReplaceAll(uuid.NewString(), "-", "")[:12]
	for _, service := range services {
		if service == "gateway" {
			continue
		}
		name := service + "_" + id
		for _, sql := range []string{
			fmt.Sprintf("CREATE ROLE %s LOGIN", name),
			fmt.Sprintf("CREATE DATABASE %s OWNER %s", name, name),
			fmt.Sprintf("REVOKE CONNECT ON DATABASE %s FROM PUBLIC", name),
		} {
			if _, err := c.Exec(ctx, sql); err != nil {
				t.Fatal(err)
			}
		}
		u, err := url.Parse(server)
		must(t, err)
		u.User, u.Path = url.User(name), "/"+name
		dbs = append(dbs, service+"="+u.String())
	}
	return dbs
}

// open starts a world of this split. The end of the test looks at its books and
// stops it.
func (sp split) open(t *testing.T, kind string) *world {
	t.Helper()
	specs, _ := sp.plan(t, kind)
	var list []*process
	for _, s := range specs {
		list = append(list, &process{cfg: s.config()})
	}
	w, err := begin(list)
	must(t, err)
	t.Cleanup(func() {
		if err := w.finish(); err != nil {
			t.Errorf("%s, %s: %v", sp.name, kind, err)
		}
	})
	w.admin, err = w.logIn(adminEmail, secret("admin-password"))
	must(t, err)
	return w
}
