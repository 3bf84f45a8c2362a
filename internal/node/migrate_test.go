package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/internal/topology"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/platform/telemetry"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// quiet is the configuration of a process that nobody hears.
func quiet(t *testing.T, db ...string) node.Config {
	cfg := node.DefaultConfig()
	cfg.Data, cfg.DB, cfg.DBConns = t.TempDir(), db, 2
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.AdminAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.Log.Level = slog.LevelError
	cfg.Auth.HashMemory, cfg.Auth.HashTime = 64, 1
	cfg.Admin.Email, cfg.Admin.Password = "admin@example.com", telemetry.Secret("a password for the administrator")
	return cfg
}

// startAndStop runs a process until it serves.
func startAndStop(t *testing.T, cfg node.Config) error {
	t.Helper()
	n, err := node.New(t.Context(), cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	select {
	case <-n.Started():
		stop()
		return <-ended
	case err := <-ended:
		return errors.Join(errors.New("did not start"), err)
	}
}

// An estate is a database and a role for each service on one server, as the chart
// and the documentation make them: each role owns its database, and nobody else
// may connect to it.
type estate struct {
	admin *pgx.Conn
	urls  map[string]*url.URL
}

func newEstate(t *testing.T) *estate {
	t.Helper()
	server := sqldbtest.StartPostgres(t, true)
	conn, err := pgx.Connect(t.Context(), server)
	must(t, err)
	e := &estate{admin: conn, urls: map[string]*url.URL{}}
	t.Cleanup(func() { must(t, conn.Close(context.Background())) })
	tag := strings.ReplaceAll(uuid.NewString()[:8], "-", "")
	for _, s := range topology.Services() {
		if !s.Database {
			continue
		}
		name := "waybill_" + s.Name + "_" + tag
		for _, sql := range []string{
			"CREATE ROLE " + name + " LOGIN PASSWORD 'p@ss:w/o,r#d%'",
			"CREATE DATABASE " + name + " OWNER " + name,
			"REVOKE CONNECT ON DATABASE " + name + " FROM PUBLIC",
		} {
			_, err := conn.Exec(t.Context(), sql)
			must(t, err)
		}
		t.Cleanup(func() {
			for _, sql := range []string{"DROP DATABASE " + name + " WITH (FORCE)", "DROP ROLE " + name} {
				_, err := conn.Exec(context.Background(), sql)
				must(t, err)
			}
		})
		u, err := url.Parse(server)
		must(t, err)
		u.User, u.Path = url.UserPassword(name, "p@ss:w/o,r#d%"), "/"+name
		e.urls[s.Name] = u
	}
	return e
}

// list gives the databases as --db takes them.
func (e *estate) list() (list []string) {
	for service, u := range e.urls {
		list = append(list, service+"="+strings.ReplaceAll(u.String(), ",", "%2C"))
	}
	slices.Sort(list)
	return list
}

func TestEachServiceOwnsItsDatabaseAndReachesNoOther(t *testing.T) {
	e := newEstate(t)
	cfg := quiet(t, e.list()...)
	must(t, node.Migrate(t.Context(), cfg, node.MigrateOptions{}))
	cfg.Migrate = node.MigrateOff
	must(t, startAndStop(t, cfg))
	for from := range e.urls {
		for to := range e.urls {
			u := *e.urls[from]
			u.Path = e.urls[to].Path
			conn, err := pgx.Connect(t.Context(), u.String())
			if err == nil {
				must(t, conn.Close(t.Context()))
			}
			var refused *pgconn.PgError
			if from == to && err != nil || from != to && (!errors.As(err, &refused) || refused.Code != "42501") {
				t.Errorf("the role of %s in the database of %s: %v", from, to, err)
			}
		}
	}
	for _, sql := range []string{"CREATE DATABASE another", "CREATE ROLE another", "SELECT pg_read_file('postgresql.conf')"} {
		conn, err := pgx.Connect(t.Context(), e.urls["order"].String())
		must(t, err)
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("the role of order may %s", sql)
		}
		must(t, conn.Close(t.Context()))
	}
	wrong := *e.urls["order"]
	wrong.Path = e.urls["payment"].Path
	cfg.Services, cfg.DB = []string{"order"}, []string{"order=" + strings.ReplaceAll(wrong.String(), ",", "%2C")}
	if err := startAndStop(t, cfg); err == nil || strings.Contains(err.Error(), "p@ss") || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("order in the database of payment: %v", err)
	}
}

func TestServingLeavesMigrationsToOthersWhenTold(t *testing.T) {
	e := newEstate(t)
	cfg := quiet(t, e.list()...)
	cfg.Migrate = node.MigrateOff
	refused := func() {
		t.Helper()
		err := startAndStop(t, cfg)
		if errs.ReasonOf(err) != sqldb.ReasonDatabaseOlder || !strings.Contains(err.Error(), "waybill migrate") {
			t.Errorf("error %v, want one that names waybill migrate", err)
		}
	}
	refused()
	others := cfg
	others.Services = []string{"auth", "user", "inventory", "payment", "shipping"}
	must(t, node.Migrate(t.Context(), others, node.MigrateOptions{}))
	refused() // order is not there yet
	tables := map[string]bool{}
	must(t, node.Migrate(t.Context(), cfg, node.MigrateOptions{Done: func(service, name string, from, to int64) {
		tables[fmt.Sprintf("%s/%s %v", service, name, from < to)] = true
	}}))
	for _, want := range []string{"order/order true", "order/platform true", "auth/auth false", "shipping/platform false"} {
		if !tables[want] {
			t.Errorf("not done: %s; %v", want, tables)
		}
	}
	must(t, startAndStop(t, cfg))
	cfg.Migrate = "maybe"
	if _, err := node.New(t.Context(), cfg); errs.KindOf(err) != errs.Invalid {
		t.Errorf("migrate=maybe: %v", err)
	}
}

func TestManyMigrateAtOnceAndNeedNothingButTheDatabases(t *testing.T) {
	e := newEstate(t)
	var applied atomic.Int64
	var wg sync.WaitGroup
	for range 10 {
		cfg := quiet(t, e.list()...)
		cfg.NATS, cfg.Data = "nats://127.0.0.1:1", "/dev/null/nowhere"
		cfg.HTTPAddr, cfg.GRPCAddr, cfg.AdminAddr = "nonsense", "nonsense", "nonsense"
		cfg.TLS.Dir = "/nowhere"
		wg.Go(func() {
			err := node.Migrate(t.Context(), cfg, node.MigrateOptions{Done: func(_, _ string, from, to int64) {
				if from != to {
					applied.Add(1)
				}
			}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := applied.Load(); n != int64(2*len(e.urls)) {
		t.Errorf("%d sets of tables were migrated, want each of %d once", n, 2*len(e.urls))
	}
}

func TestMigrateWaitsForADatabaseThatIsNotUpYet(t *testing.T) {
	e := newEstate(t)
	// A door that opens when somebody waited before it.
	door, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer door.Close()
	var open atomic.Bool
	to, err := pgx.ParseConfig(e.urls["order"].String())
	must(t, err)
	network, address := pgconn.NetworkAddress(to.Host, to.Port)
	go func() {
		for {
			conn, err := door.Accept()
			if err != nil {
				return
			}
			if !open.Load() {
				_ = conn.Close()
				continue
			}
			go relay(conn, network, address)
		}
	}()
	u := *e.urls["order"]
	u.Host, u.RawQuery = door.Addr().String(), "sslmode=disable"
	cfg := quiet(t, "order="+strings.ReplaceAll(u.String(), ",", "%2C"))
	cfg.Services = []string{"order"}
	if err := node.Migrate(t.Context(), cfg, node.MigrateOptions{}); !sqldb.Unavailable(err) || !strings.Contains(err.Error(), "order") {
		t.Errorf("without patience: %v", err)
	}
	waited := slog.New(slog.NewTextHandler(writer(func(line []byte) {
		if bytes.Contains(line, []byte("p@ss")) || bytes.Contains(line, []byte("p%40ss")) {
			t.Error("the log tells the password")
		}
		open.Store(true)
	}), nil))
	must(t, node.Migrate(t.Context(), cfg, node.MigrateOptions{Wait: time.Minute, Log: waited}))
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func relay(conn net.Conn, network, address string) {
	defer conn.Close()
	other, err := net.Dial(network, address)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(other, conn)
		_ = other.Close()
	}()
	_, _ = io.Copy(conn, other)
}

func TestADatabaseAddressThatCannotBeMeantIsToldBeforeAnythingStarts(t *testing.T) {
	for _, c := range []struct{ db, says string }{
		{"order=postgres://me:hidd,en@host/db", "%2C"},
		{"order=postgres://me:hidd/en@host/db", "percent"},
		{"order=postgres://me:hidd#en@host/db", "percent"},
		{"order=postgres://me:1#hidden@host/db", "percent"},
		{"order=postgres://me:1?hidden@host/db", "percent"},
		{"order=postgres://me:hidd%en@host/db", "percent"},
		{"order=postgres://me:hidden@host/db?sslmode=sometimes", "sslmode"},
		{"order=postgres://me:hidden@host/db?sslmode=verify-full&sslrootcert=/nowhere/ca.crt", "/nowhere/ca.crt"},
		{"order=mysql://me:hidden@host/db", "postgres://"},
		{"stock=postgres://me:hidden@host/db", "postgres://"},
	} {
		// As the list comes from the environment, cut at the commas.
		cfg := quiet(t, strings.Split(c.db, ",")...)
		err := cfg.Validate()
		var e *errs.Error
		if !errors.As(err, &e) || e.Kind != errs.Invalid {
			t.Errorf("%s: %v", c.db, err)
			continue
		}
		text := err.Error()
		for _, f := range e.Fields {
			text += "\n" + f.Path + ": " + f.Problem
		}
		if !strings.Contains(text, c.says) || strings.Contains(text, "hidd") {
			t.Errorf("%s: says %q, want %q and no password", c.db, text, c.says)
		}
	}
	for _, good := range []string{
		"order=postgres://me:p%40s%2Cs%23w%2Ford@host:5433/db?sslmode=verify-full", "postgresql:///db?host=/var/run/postgresql", "sqlite:data",
		"order=postgres://me@a:5432,b:5433/db?target_session_attrs=read-write",
	} {
		cfg := quiet(t, good)
		if err := cfg.Validate(); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
}
