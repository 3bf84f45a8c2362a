package config

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/telemetry"
)

type common struct {
	Data string `help:"directory of all files" short:"d"`
}

type settings struct {
	common
	Common2
	GRPC struct {
		Addr         string        `help:"address of the gRPC server"`
		MaxRecvSize  Size          `help:"largest message"`
		Timeout      time.Duration `help:"longest call"`
		OTLPEndpoint string        `help:"collector"`
	}
	DB       dbSettings
	Services []string          `help:"which services to run"`
	Upstream map[string]string `help:"where other services are"`
	Workers  int               `help:"how many workers"`
	Port     uint16            `help:"a port"`
	Ratio    float64           `help:"a share"`
	Debug    bool              `help:"more talk"`
	Level    slog.Level        `help:"log level"`
	APIKey   string            `help:"a key" secret:"true"`
	Internal int               `key:"-"`
}

// Common2 is embedded and exported, as a shared set of settings would be.
type Common2 struct {
	NATS string `help:"URL of the broker" key:"nats"`
}

type dbSettings struct {
	URL      string           `help:"URL of the database"`
	Password telemetry.Secret `help:"password of the database"`
	MaxConns int              `help:"most connections"`
}

func (d *dbSettings) Validate() error {
	var errList []error
	if d.MaxConns < 1 {
		errList = append(errList, errors.New("max_conns: must be at least 1"))
	}
	if d.URL == "" {
		errList = append(errList, errs.E(errs.Invalid, "X", "bad").WithFields(errs.Field{Path: "url", Problem: "is missing"}))
	}
	return errors.Join(errList...)
}

func (s *settings) Validate() error {
	if s.Debug && s.Workers == 0 {
		return errors.New("debugging needs workers")
	}
	return nil
}

func defaults() *settings {
	s := &settings{Workers: 4, Services: []string{"all"}, Ratio: 0.1}
	s.NATS = "embedded"
	s.GRPC.Addr, s.GRPC.Timeout, s.GRPC.MaxRecvSize = ":9090", time.Minute, MiB
	s.DB.URL, s.DB.MaxConns = "sqlite:///x.db", 8
	return s
}

// load runs a command with args, a file and an environment, as main would.
func load(t *testing.T, dst any, args []string, yaml string, environ []string, opts ...Option) error {
	t.Helper()
	var out error
	cmd := &cobra.Command{Use: "t", SilenceErrors: true, SilenceUsage: true}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		out = Load(cmd, dst, append([]Option{Environ(environ)}, opts...)...)
		return nil
	}
	Bind(cmd, dst)
	if yaml != "" {
		path := filepath.Join(t.TempDir(), "waybill.yaml")
		if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", path)
	}
	cmd.SetArgs(args)
	if err := cmd.Execute(); err != nil {
		return err
	}
	return out
}

func TestEachLayerOverridesTheOneBelow(t *testing.T) {
	file := "grpc:\n  addr: file\n  timeout: 3s\nworkers: 5\ndb:\n  max_conns: 9\n"
	environ := []string{"WAYBILL_GRPC_ADDR=env", "WAYBILL_WORKERS=6", "PATH=/bin"}
	s := defaults()
	if err := load(t, s, []string{"--grpc-addr", "flag"}, file, environ); err != nil {
		t.Fatal(err)
	}
	want := defaults()
	want.GRPC.Addr, want.GRPC.Timeout, want.Workers, want.DB.MaxConns = "flag", 3*time.Second, 6, 9
	if diff := cmp.Diff(want, s, cmp.AllowUnexported(settings{})); diff != "" {
		t.Error(diff)
	}
}

func TestEveryTypeCanBeSetInEveryLayer(t *testing.T) {
	want := defaults()
	want.NATS = "nats://x"
	want.GRPC.MaxRecvSize, want.GRPC.Timeout, want.GRPC.OTLPEndpoint = 2*MiB, 250*time.Millisecond, "c:1"
	want.Services, want.Upstream = []string{"a", "b"}, map[string]string{"order": "dns:///o", "auth": "dns:///a"}
	want.Workers, want.Port, want.Ratio, want.Debug, want.Level = -3, 65535, 0.25, true, slog.LevelWarn

	file := "nats: nats://x\ngrpc:\n  max_recv_size: 2MiB\n  timeout: 250ms\n  otlp_endpoint: c:1\nservices: [a, b]\n" +
		"upstream:\n  order: dns:///o\n  auth: dns:///a\nworkers: -3\nport: 65535\nratio: 0.25\ndebug: true\nlevel: WARN\n"
	environ := []string{"WAYBILL_NATS=nats://x", "WAYBILL_GRPC_MAX_RECV_SIZE=2MiB", "WAYBILL_GRPC_TIMEOUT=250ms", "WAYBILL_GRPC_OTLP_ENDPOINT=c:1",
		"WAYBILL_SERVICES=a, b", "WAYBILL_UPSTREAM=order=dns:///o,auth=dns:///a", "WAYBILL_WORKERS=-3", "WAYBILL_PORT=65535",
		"WAYBILL_RATIO=0.25", "WAYBILL_DEBUG=true", "WAYBILL_LEVEL=warn"}
	flags := []string{"--nats=nats://x", "--grpc-max-recv-size=2MiB", "--grpc-timeout=250ms", "--grpc-otlp-endpoint=c:1",
		"--services=a", "--services=b", "--upstream", "order=dns:///o", "--upstream", "auth=dns:///a", "--workers=-3", "--port=65535",
		"--ratio=0.25", "--debug", "--level=WARN"}
	for name, run := range map[string]func(*settings) error{
		"file": func(s *settings) error { return load(t, s, nil, file, nil) },
		"env":  func(s *settings) error { return load(t, s, nil, "", environ) },
		"flag": func(s *settings) error { return load(t, s, flags, "", nil) },
	} {
		s := defaults()
		if err := run(s); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if diff := cmp.Diff(want, s, cmp.AllowUnexported(settings{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestWhatIsWrongIsNamedWithKeyAndRemedy(t *testing.T) {
	for _, c := range []struct {
		name, file string
		env, args  []string
		want       []string
	}{
		{name: "unknown key in the file", file: "wrokers: 3", want: []string{"wrokers: in waybill.yaml: this key is unknown; did you mean workers?"}},
		{name: "unknown nested key", file: "grpc:\n  adr: x", want: []string{"grpc.adr:", "did you mean grpc.addr?"}},
		{name: "nothing near", file: "qqqqqqqqqqqqqq: 1", want: []string{"qqqqqqqqqqqqqq: in waybill.yaml: this key is unknown; --help lists"}},
		{name: "unknown variable", env: []string{"WAYBILL_WORKER=3"}, want: []string{"WAYBILL_WORKER: this variable is unknown; did you mean WAYBILL_WORKERS?"}},
		{name: "unknown flag", args: []string{"--wrokers=3"}, want: []string{"unknown flag: --wrokers"}},
		{name: "text for a number", file: "workers: many", want: []string{"workers: in waybill.yaml: must be a whole number", "not text"}},
		{name: "quoted number", file: `workers: "3"`, want: []string{"workers: in waybill.yaml: must be a whole number", "not text"}},
		{name: "fraction for a whole number", file: "workers: 1.5", want: []string{"workers:", "whole number"}},
		{name: "number for text", file: "nats: 4222", want: []string{"nats: in waybill.yaml: must be text, put it in quotes"}},
		{name: "duration without unit", file: "grpc:\n  timeout: 5", want: []string{`grpc.timeout:`, `with its unit`}},
		{name: "duration with nonsense", env: []string{"WAYBILL_GRPC_TIMEOUT=soon"}, want: []string{"grpc.timeout: WAYBILL_GRPC_TIMEOUT: must be a duration", `"soon"`}},
		{name: "bool", file: "debug: 1", want: []string{"debug:", "must be true or false, not a number"}},
		{name: "bool variable", env: []string{"WAYBILL_DEBUG=maybe"}, want: []string{"debug: WAYBILL_DEBUG: must be true or false"}},
		{name: "port too large", env: []string{"WAYBILL_PORT=65536"}, want: []string{"port:", "from 0 to 65535"}},
		{name: "negative port", file: "port: -1", want: []string{"port:", "from 0 to 65535"}},
		{name: "not a number", args: []string{"--ratio=NaN"}, want: []string{"ratio", "a number"}},
		{name: "size", file: "grpc:\n  max_recv_size: 1 furlong", want: []string{"grpc.max_recv_size:", "size"}},
		{name: "level", file: "level: LOUD", want: []string{"level:", "LOUD"}},
		{name: "value for a section", file: "grpc: 3", want: []string{"grpc:", "section with keys of its own"}},
		{name: "section for a value", file: "workers:\n  a: 1", want: []string{"workers.a:", "unknown"}},
		{name: "list of numbers", file: "services: [1, 2]", want: []string{"services:", "item 0 must be text"}},
		{name: "text for a list", file: "services: a", want: []string{"services:", "must be a list of texts"}},
		{name: "map without =", args: []string{"--upstream=order"}, want: []string{"name=value"}},
		{name: "number in a map", file: "upstream:\n  order: 1", want: []string{"upstream:", "order must be text"}},
		{name: "no YAML", file: "a: [", want: []string{"config: the file", "no valid YAML"}},
		{name: "one key twice", file: "workers: 1\nworkers: 2", want: []string{"config:", "workers"}},
		{name: "secret as a flag", args: []string{"--db-password=x"}, want: []string{"unknown flag: --db-password"}},
		{name: "missing file", args: []string{"--config=/nowhere.yaml"}, want: []string{"config: the file /nowhere.yaml cannot be read: no such file or directory"}},
		{name: "missing file named by a variable", env: []string{"WAYBILL_CONFIG=/nowhere.yaml"}, want: []string{"/nowhere.yaml"}},
		{name: "directory as file", args: []string{"--config=/"}, want: []string{"is a directory"}},
		{name: "missing secret file", env: []string{"WAYBILL_DB_PASSWORD_FILE=/nowhere"}, want: []string{"db.password: WAYBILL_DB_PASSWORD_FILE: the file /nowhere cannot be read"}},
		{name: "invalid section", file: "db:\n  url: \"\"\n  max_conns: 0", want: []string{"db.max_conns: must be at least 1", "db.url: is missing"}},
		{name: "invalid whole", file: "debug: true\nworkers: 0", want: []string{"settings: debugging needs workers"}},
		{name: "several at once", file: "a: 1\nb: 2", env: []string{"WAYBILL_C=3", "WAYBILL_WORKERS=x"}, want: []string{"a:", "b:", "WAYBILL_C:", "workers:"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := load(t, defaults(), c.args, c.file, c.env)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in: %v", w, err)
				}
			}
			var e *errs.Error
			if errors.As(err, &e) && (e.Kind != errs.Invalid || len(e.Fields) == 0) {
				t.Errorf("kind %v with %d fields", e.Kind, len(e.Fields))
			}
		})
	}
}

func TestVariablesOfKubernetesAndOfTestsAreNoMistakes(t *testing.T) {
	environ := []string{"WAYBILL_ORDER_SERVICE_HOST=10.0.0.1", "WAYBILL_ORDER_SERVICE_PORT=9090", "WAYBILL_ORDER_SERVICE_PORT_GRPC=9090",
		"WAYBILL_ORDER_PORT=tcp://10.0.0.1:9090", "WAYBILL_ORDER_PORT_9090_TCP=tcp://10.0.0.1:9090", "WAYBILL_ORDER_PORT_9090_TCP_ADDR=10.0.0.1",
		"WAYBILL_PORT=tcp://10.0.0.1:1", "WAYBILL_TEST_POSTGRES=x"}
	type bare struct {
		Name string `help:"x"`
	}
	if err := load(t, &bare{}, nil, "", environ); err != nil {
		t.Error(err)
	}
}

func TestVariablesOfOtherCommandsMayBeSet(t *testing.T) {
	type client struct {
		Server string `help:"x"`
	}
	environ := []string{"WAYBILL_WORKERS=3", "WAYBILL_DB_PASSWORD_FILE=/nowhere", "WAYBILL_GRPC_TIMEOUT=nonsense"}
	other := defaults()
	if err := load(t, &client{}, nil, "", environ, AlsoKnown(other)); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(defaults(), other, cmp.AllowUnexported(settings{})); diff != "" {
		t.Errorf("the other struct changed: %s", diff)
	}
	err := load(t, &client{}, nil, "", []string{"WAYBILL_WORKER=3"}, AlsoKnown(defaults()))
	if err == nil || !strings.Contains(err.Error(), "did you mean WAYBILL_WORKERS?") {
		t.Errorf("got %v", err)
	}
}

func TestSecretsComeFromVariablesOrFilesAndAreNotShownInErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(path, []byte("from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := defaults()
	if err := load(t, s, nil, "", []string{"WAYBILL_DB_PASSWORD_FILE=" + path, "WAYBILL_API_KEY=from-env"}); err != nil {
		t.Fatal(err)
	}
	if s.DB.Password.Reveal() != "from-file" || s.APIKey != "from-env" {
		t.Errorf("got %q and %q", s.DB.Password.Reveal(), s.APIKey)
	}
	type numeric struct {
		Pin int `help:"x" secret:"true"`
	}
	err := load(t, &numeric{}, nil, "", []string{"WAYBILL_PIN=hunter2"})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

func TestWhatIsPrintedHidesSecretsAndCanBeLoadedAgain(t *testing.T) {
	s := defaults()
	s.DB.Password, s.APIKey = "hunter2", "hunter3"
	s.Upstream = map[string]string{"order": "dns:///order:9090", "a": "postgres://u:hunter4@h/d"}
	s.DB.URL = "postgres://waybill:hunter5@db:5432/waybill?sslmode=require&password=hunter6"
	s.Services = []string{"order", "order=postgres://u:hunter7@h/d"}
	s.NATS = "line\nbreak: \"quoted\" \x01 ü"
	var b bytes.Buffer
	if err := Print(&b, s); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "hunter") {
		t.Errorf("a secret is visible:\n%s", b.String())
	}
	for _, want := range []string{"grpc:\n  # address of the gRPC server\n  addr: \":9090\"\n", `timeout: "1m"`, `max_recv_size: "1MiB"`, `password: "[redacted]"`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in:\n%s", want, b.String())
		}
	}
	again := &settings{}
	if err := load(t, again, nil, b.String(), nil); err != nil {
		t.Fatal(err)
	}
	var c bytes.Buffer
	if err := Print(&c, again); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), c.String()); diff != "" {
		t.Error(diff)
	}
}

func TestAMissingSecretIsSeenToBeMissing(t *testing.T) {
	var b bytes.Buffer
	if err := Print(&b, defaults()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), `password: ""`) {
		t.Error(b.String())
	}
}

func TestPrintAndCheckCanBeAskedFor(t *testing.T) {
	cmd := &cobra.Command{Use: "t", Run: func(*cobra.Command, []string) {}}
	Bind(cmd, defaults())
	if PrintRequested(cmd) || CheckRequested(cmd) {
		t.Error("asked for without a flag")
	}
	cmd.SetArgs([]string{"--print-config", "--check-config", "-d", "/x"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	if !PrintRequested(cmd) || !CheckRequested(cmd) {
		t.Error("not asked for with the flag")
	}
}

func TestTheHelpShowsEveryValueButSecretsWithItsDefault(t *testing.T) {
	cmd := &cobra.Command{Use: "t"}
	Bind(cmd, defaults())
	usage := cmd.Flags().FlagUsages()
	for _, want := range []string{"--grpc-addr string", `(default ":9090")`, "--grpc-timeout duration", "(default 1m)", "--services list", "--upstream name=value", "-d, --data"} {
		if !strings.Contains(usage, want) {
			t.Errorf("no %q in\n%s", want, usage)
		}
	}
	if strings.Contains(usage, "password") {
		t.Error("a secret has a flag")
	}
}

func TestAStructThatCannotBeDescribedIsAMistakeOfTheProgram(t *testing.T) {
	for name, dst := range map[string]any{
		"no pointer": settings{}, "nil": (*settings)(nil),
		"no help": &struct{ A string }{},
		"type": &struct {
			A chan int `help:"x"`
		}{},
		"shared name": &struct {
			AB string `help:"x" key:"a_b"`
			A  struct {
				B string `help:"x"`
			}
		}{},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			Bind(&cobra.Command{}, dst)
		}()
	}
}

func TestSizesAreReadAndWritten(t *testing.T) {
	for in, want := range map[string]string{"0": "0B", "1": "1B", "1KiB": "1KiB", "1024": "1KiB", "1kb": "1000B", "3 MiB": "3MiB", "2GiB": "2GiB", "16kib": "16KiB"} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err != nil || s.String() != want {
			t.Errorf("%q gives %v (%v), not %s", in, s, err, want)
		}
	}
	for _, in := range []string{"", "-1", "1.5MiB", "MiB", "9223372036854775807KiB", "1TB", "0x10"} {
		var s Size
		if err := s.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("%q gives %v", in, s)
		}
	}
}

func FuzzAFileNeverBreaksTheLoader(f *testing.F) {
	f.Add("workers: 3")
	f.Add("grpc: {addr: x}\nservices: [a]")
	f.Add("? [a]\n: b")
	f.Fuzz(func(t *testing.T, yaml string) {
		if yaml == "" {
			return
		}
		_ = fmt.Sprint(load(t, defaults(), nil, yaml, nil))
	})
}
