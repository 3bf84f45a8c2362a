// Package node makes a process out of services: one, some or all of them, on the
// databases, the broker and the neighbours that its configuration names. The
// commands and the system tests start Waybill through it.
package node

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/internal/topology"
	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/mtls"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/telemetry"
	"github.com/waybill-dev/waybill/services/auth/authd"
	"github.com/waybill-dev/waybill/services/inventory/inventoryd"
	"github.com/waybill-dev/waybill/services/order/orderd"
	"github.com/waybill-dev/waybill/services/payment/paymentd"
	"github.com/waybill-dev/waybill/services/shipping/shippingd"
	"github.com/waybill-dev/waybill/services/user/userd"
)

// names lists all services a process can run, in the order in which they start.
var names = topology.Names()

// Config is everything about a process that can be chosen.
type Config struct {
	Services []string `help:"services to run in this process: all, or any of auth, user, inventory, payment, shipping, order, gateway"`
	Upstream []string `help:"where a service that runs elsewhere is found, name=target, as in order=dns:///order:9090 (the default for each)"`

	Data string   `help:"directory for databases and streams that are kept by this process"`
	DB   []string `help:"database: postgres://… or sqlite:<directory> for all services, or service=url for one of them; by default SQLite under --data"`

	Migrate string `help:"auto: bring the databases up to date at the start; off: only look whether they are, and leave that to waybill migrate"`

	NATS            string           `key:"nats" help:"brokers to use, nats://host:4222,…; by default one runs in this process, with its streams under --data"`
	NATSCredentials string           `key:"nats_credentials" help:"credentials file for the broker"`
	NATSUser        string           `key:"nats_user" help:"user name for the broker"`
	NATSPassword    telemetry.Secret `key:"nats_password" help:"password for the broker"`
	NATSCAFile      string           `key:"nats_ca_file" help:"PEM file with the authorities that may vouch for the broker; with it the connection has TLS"`
	NATSCertFile    string           `key:"nats_cert_file" help:"PEM file with a certificate to show the broker, with nats_key_file"`
	NATSKeyFile     string           `key:"nats_key_file" help:"PEM file with the key of that certificate"`
	NATSSync        time.Duration    `key:"nats_sync" help:"how often the broker in this process forces its streams to disk; 0 is before every acknowledgement"`
	NATSReplicas    int              `key:"nats_replicas" help:"copies of each stream the brokers keep"`

	HTTPAddr       string `key:"http_addr" help:"address of the REST interface"`
	GRPCAddr       string `key:"grpc_addr" help:"address of the gRPC interface"`
	PublicGRPCAddr string `key:"public_grpc_addr" help:"address of a gRPC interface for people, where the gateway runs: all services, wherever they run, in plain text; by default there is none"`
	PublicGRPCHops int    `key:"public_grpc_hops" help:"trusted proxies in front of it, whose word on a client's address is believed"`

	AdminAddr string `key:"admin_addr" help:"address for health, metrics and profiles; keep it away from the public"`

	TrustedProxies []string `help:"addresses, as in 10.0.0.0/8, whose word on a client's address is believed on the gRPC interface: those of the gateway, where services speak plain text"`

	Reflection  bool          `help:"let gRPC clients ask what services and methods there are"`
	BatchSize   int           `help:"messages per transaction; 1 switches batching off"`
	Audit       time.Duration `help:"how often a service looks whether its stream still has what was published; what is missing is published again"`
	MaxAttempts int           `help:"how often an event whose step fails, or a call to the outside that cannot work, is tried before it becomes a dead letter"`
	DBConns     int           `key:"db_conns" help:"connections to Postgres per service"`
	MaxConnAge  time.Duration `key:"grpc_max_conn_age" help:"how long a gRPC connection to this process lives before its client makes a new one, with the certificates of that time; less than certificates live"`
	DrainDelay  time.Duration `help:"how long to go on serving after readiness went false, so that load balancers notice"`
	StopTimeout time.Duration `help:"how long an orderly stop may take"`

	TLS   TLSConfig `key:"tls"`
	Admin AdminConfig
	Log   LogConfig
	Trace TraceConfig
	REST  RESTConfig `key:"rest"`
	Limit LimitConfig

	Auth      authd.Config
	User      userd.Config
	Inventory inventoryd.Config
	Order     orderd.Config
	Payment   paymentd.Config
	Shipping  shippingd.Config
}

// TLSConfig says how services prove to each other who they are.
type TLSConfig struct {
	Dir   string   `help:"directory with tls.crt, tls.key and ca.crt, for mutual TLS between services; read again when they change. Without one services speak plain text"`
	Peers []string `help:"which services each service account speaks for and serves, as in waybill-back=payment+shipping; without any, a service is called like its account"`
}

// peers gives the accounts and their services.
func (c TLSConfig) peers() (mtls.Peers, error) {
	peers, err := mtls.ParsePeers(c.Peers...)
	if err != nil {
		return nil, err
	}
	for account, services := range peers {
		for _, s := range services {
			if !slices.Contains(names, s) {
				return nil, fmt.Errorf("account %s: there is no service %q; there are %s", account, s, strings.Join(names, ", "))
			}
		}
	}
	if len(peers) == 0 {
		for _, n := range names {
			peers[n] = []string{n}
		}
	}
	return peers, nil
}

// AdminConfig names the first administrator.
type AdminConfig struct {
	Email    string           `help:"e-mail address of the administrator that is made when there is none of this address"`
	Password telemetry.Secret `help:"password of that administrator; later changes here do not change it"`
}

// LogConfig says what the process writes to standard error.
type LogConfig struct {
	Level  slog.Level `help:"least level that is logged: debug, info, warn or error"`
	Format string     `help:"text, json, or auto for text on a terminal and json elsewhere"`
}

// TraceConfig says which traces are recorded and where they go.
type TraceConfig struct {
	Ratio    float64 `help:"share of new traces that is recorded, 0 to 1"`
	Endpoint string  `help:"host:port of an OTLP/gRPC collector; without one traces have ids but are not sent"`
	Insecure bool    `help:"speak to the collector without TLS"`
}

// RESTConfig says how the REST interface treats its callers.
type RESTConfig struct {
	CORSOrigins []string `key:"cors_origins" help:"origins whose pages may call the REST interface from a browser; * for any"`
	ProxyHops   int      `help:"trusted proxies in front of the REST interface, whose word on a client's address is believed"`
	AccessLog   bool     `help:"log every request"`
}

// LimitConfig says how much one caller may ask for.
type LimitConfig struct {
	UserRate  float64 `help:"calls per second of one user, 0 for no limit"`
	UserBurst int     `help:"calls of one user at once"`
	IPRate    float64 `key:"ip_rate" help:"calls per second of one address without a valid token, 0 for no limit"`
	IPBurst   int     `key:"ip_burst" help:"calls of one address at once"`
}

// DefaultConfig gives a process that runs everything by itself.
func DefaultConfig() Config {
	t := telemetry.DefaultConfig()
	return Config{
		Services:    []string{"all"},
		Data:        "data",
		Migrate:     MigrateAuto,
		NATSSync:    100 * time.Millisecond,
		HTTPAddr:    ":8080",
		GRPCAddr:    ":9090",
		AdminAddr:   ":9091",
		Reflection:  true,
		BatchSize:   react.DefaultBatch,
		Audit:       30 * time.Second,
		MaxAttempts: react.DefaultMaxAttempts,
		DBConns:     8,
		MaxConnAge:  5 * time.Minute,
		StopTimeout: 20 * time.Second,
		Log:         LogConfig{Level: t.Log.Level, Format: t.Log.Format},
		Trace:       TraceConfig{Ratio: t.SampleRatio},
		Auth:        authd.DefaultConfig(),
		User:        userd.DefaultConfig(),
		Inventory:   inventoryd.DefaultConfig(),
		Order:       orderd.DefaultConfig(),
		Payment:     paymentd.DefaultConfig(),
		Shipping:    shippingd.DefaultConfig(),
	}
}

// Validate reports everything that cannot be meant.
func (c *Config) Validate() error {
	var fields []errs.Field
	bad := func(path, format string, a ...any) {
		fields = append(fields, errs.Field{Path: path, Problem: fmt.Sprintf(format, a...)})
	}
	for _, s := range c.Services {
		if s != "all" && !slices.Contains(names, s) {
			bad("services", "there is no service %q; there are all, %s", s, strings.Join(names, ", "))
		}
	}
	for _, u := range c.Upstream {
		name, target, ok := strings.Cut(u, "=")
		if !ok || target == "" || !slices.Contains(names, name) {
			bad("upstream", "%q is not name=target with the name of a service", u)
		}
	}
	for _, d := range c.DB {
		if _, _, err := parseDB(d); err != nil {
			bad("db", "%v", err)
		}
	}
	if c.Audit < 100*time.Millisecond {
		bad("audit", "must be at least 100ms, as in 30s")
	}
	if c.MaxConnAge <= 0 {
		bad("grpc_max_conn_age", "must be more than 0, as in 5m")
	}
	if c.PublicGRPCHops < 0 {
		bad("public_grpc_hops", "must not be negative")
	}
	if _, err := c.proxies(); err != nil {
		bad("trusted_proxies", "%v", err)
	}
	if _, err := c.TLS.peers(); err != nil {
		bad("tls.peers", "%v", err)
	}
	if c.TLS.Dir == "" && len(c.TLS.Peers) > 0 {
		bad("tls.peers", "says who is believed, but there are no certificates; set tls.dir too")
	}
	if c.Migrate != MigrateAuto && c.Migrate != MigrateOff {
		bad("migrate", "must be auto or off, not %q", c.Migrate)
	}
	if c.BatchSize < 1 || c.BatchSize > 1024 {
		bad("batch_size", "must be 1 to 1024")
	}
	if c.MaxAttempts < 1 || c.MaxAttempts > 1000 {
		bad("max_attempts", "must be 1 to 1000")
	}
	if c.Trace.Ratio < 0 || c.Trace.Ratio > 1 {
		bad("trace.ratio", "must be 0 to 1")
	}
	if c.NATS != "" && c.NATSReplicas < 0 {
		bad("nats_replicas", "must not be negative")
	}
	if len(fields) == 0 {
		return nil
	}
	return errs.E(errs.Invalid, "INVALID_CONFIG", "the configuration cannot be meant").WithFields(fields...)
}

// proxies gives the addresses that may say whose call they bring.
func (c *Config) proxies() ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, s := range c.TrustedProxies {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a range of addresses like 10.0.0.0/8 or 10.0.0.7/32", s)
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// run tells which services run here, in starting order.
func (c *Config) run() []string {
	var list []string
	for _, n := range names {
		if slices.Contains(c.Services, "all") || slices.Contains(c.Services, n) {
			list = append(list, n)
		}
	}
	return list
}

// upstreams tells where services are found that do not run here.
func (c *Config) upstreams() map[string]string {
	m := map[string]string{}
	for _, n := range names {
		m[n] = "dns:///" + n + ":9090"
	}
	for _, u := range c.Upstream {
		name, target, _ := strings.Cut(u, "=")
		m[name] = target
	}
	return m
}

// parseDB splits "[service=]url" and checks the url.
func parseDB(s string) (service, target string, err error) {
	target = s
	if name, rest, ok := strings.Cut(s, "="); ok && slices.Contains(names, name) {
		service, target = name, rest
	}
	switch {
	case strings.HasPrefix(target, "sqlite:"):
		return service, target, nil
	case strings.HasPrefix(target, "postgres://"), strings.HasPrefix(target, "postgresql://"):
		if err := sqldb.CheckURL(target); err != nil {
			return "", "", err
		}
		return service, target, nil
	}
	return "", "", fmt.Errorf("a database is postgres://…, sqlite:<directory>, or service= and one of these; a comma within an address is written %%2C")
}

// database gives the address of a service's database. With SQLite every service
// has a file of its own; with Postgres a schema of its own, unless the database
// was given for this service alone, which then has all of it.
func (c *Config) database(service string) (dsn, schema string) {
	found := "sqlite:" + c.Data
	own := false
	for _, d := range c.DB {
		name, target, _ := parseDB(d)
		if name == "" && !own || name == service {
			found, own = target, name == service
		}
	}
	if dir, ok := strings.CutPrefix(found, "sqlite:"); ok {
		dir = strings.TrimPrefix(dir, "//")
		abs, err := filepath.Abs(dir)
		if err != nil {
			abs = dir
		}
		return "sqlite://" + filepath.Join(abs, service+".db"), ""
	}
	return found, service
}

// bus gives the configuration of the broker.
func (c *Config) bus(instance string) bus.Config {
	return bus.Config{
		URL: c.NATS, Dir: filepath.Join(c.Data, "nats"), SyncInterval: c.NATSSync, SyncAlways: c.NATSSync == 0,
		Name: "waybill/" + instance, CredentialsFile: c.NATSCredentials, User: c.NATSUser, Password: c.NATSPassword.Reveal(), Replicas: c.NATSReplicas,
		CAFile: c.NATSCAFile, CertFile: c.NATSCertFile, KeyFile: c.NATSKeyFile,
	}
}
