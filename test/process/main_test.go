// Package process_test runs the built binary as its users do, in processes of its
// own, and takes away from it what it stands on: ports, files, databases,
// brokers, and its life.
package process_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/bus/bustest"
)

const (
	adminEmail    = "admin@example.com"
	adminPassword = "correct horse battery staple"
)

// patience is how long a test waits for what must come. Nothing is judged by it.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	code := bustest.Main(m)
	if dir := buildDir.Load(); dir != nil {
		_ = os.RemoveAll(*dir)
	}
	os.Exit(code)
}

// root gives the repository's folder.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// binary builds waybill at its first use and gives its path.
func binary(tb testing.TB) string {
	tb.Helper()
	path, err := build()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

var (
	buildDir atomic.Pointer[string]
	buildTo  = sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp("", "waybill-process-")
		if err == nil {
			buildDir.Store(&dir)
		}
		return dir, err
	})
	build        = sync.OnceValues(func() (string, error) { return buildWith("waybill", "-tags", "grpcnotrace") }) // as make build does
	buildMortals = sync.OnceValues(func() (string, error) { return buildWith("waybill-failpoints", "-tags", "failpoints") })
)

// buildWith builds waybill with flags of go build.
func buildWith(name string, flags ...string) (string, error) {
	dir, err := buildTo()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), "./cmd/waybill")...)
	cmd.Dir = root()
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// environment gives what a child sees: nothing of this process's settings, a
// home of its own, and extra.
func environment(home string, extra ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "WAYBILL_") })
	env = append(env, "HOME="+home, "XDG_CONFIG_HOME="+home, "WAYBILL_HOME="+home)
	return append(env, extra...)
}

// A result is how a command ended.
type result struct {
	code        int
	out, errOut string
}

// run runs waybill to its end, which must come.
func run(t *testing.T, env []string, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary(t), args...)
	if env == nil {
		env = environment(t.TempDir())
	}
	cmd.Env, cmd.Dir, cmd.Stdin = env, t.TempDir(), strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("waybill %s: %v\n%s", strings.Join(args, " "), err, errOut.String())
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

// refused fails the test unless the command ended with the code and an error
// that has every one of the words.
func (r result) refused(t *testing.T, code int, words ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d", r.code, code)
	}
	for _, w := range words {
		if !strings.Contains(r.errOut, w) {
			t.Errorf("the error does not say %q", w)
		}
	}
	if strings.Contains(r.errOut, "goroutine ") {
		t.Error("the error is a stack")
	}
	if t.Failed() {
		t.Logf("stderr:\n%s", r.errOut)
	}
}

// A server is a `waybill serve` of the test's own.
type server struct {
	t     *testing.T
	cmd   *exec.Cmd
	log   *serverLog
	ended chan struct{} // closed when the process has ended
	err   error         // of the process, once it has ended

	rest, grpc, admin string // where it serves, once it does
}

// serve starts a server on free ports and waits until it serves. The test's end
// kills it.
func serve(t *testing.T, env []string, args ...string) *server {
	t.Helper()
	s := launch(t, env, args...)
	s.serving()
	return s
}

// launch starts a server and does not wait.
func launch(t *testing.T, env []string, args ...string) *server {
	t.Helper()
	return launchFrom(t, binary(t), env, args...)
}

// launchFrom starts a server from a certain binary.
func launchFrom(t *testing.T, path string, env []string, args ...string) *server {
	t.Helper()
	args = append([]string{"serve", "--http-addr=127.0.0.1:0", "--grpc-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0"}, args...)
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Dir = env, t.TempDir()
	if env == nil {
		cmd.Env = environment(cmd.Dir, "WAYBILL_ADMIN_EMAIL="+adminEmail, "WAYBILL_ADMIN_PASSWORD="+adminPassword)
	}
	s := &server{t: t, cmd: cmd, log: newServerLog(), ended: make(chan struct{})}
	cmd.Stderr = s.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("the server's log:\n%s", s.log.tail(60))
		}
	})
	return s
}

// serving waits until the server says that it serves.
func (s *server) serving() {
	s.t.Helper()
	select {
	case at := <-s.log.serving:
		s.rest, s.grpc, s.admin = at.REST, at.GRPC, at.Admin
	case <-s.ended:
		s.t.Fatalf("the server ended: %v\n%s", s.err, s.log.tail(30))
	case <-time.After(patience):
		s.t.Fatalf("the server does not serve\n%s", s.log.tail(30))
	}
}

// kill ends the process at once, as kill -9 does.
func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.ended
}

// terminate asks the process to end, waits for it and gives its exit code.
func (s *server) terminate() int {
	s.t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	return s.exit()
}

// exit waits for the end of the process and gives its exit code.
func (s *server) exit() int {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.t.Fatalf("the server does not end\n%s", s.log.tail(30))
	}
	return s.cmd.ProcessState.ExitCode()
}

// readiness asks /readyz.
func (s *server) readiness() (status int, body string) {
	s.t.Helper()
	return s.get(s.admin + "/readyz")
}

func (s *server) get(url string) (status int, body string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.log.tail(30))
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	_, _ = b.ReadFrom(resp.Body)
	return resp.StatusCode, b.String()
}

// await asks until the condition holds, which it must do in time.
func await(t *testing.T, what string, within time.Duration, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.After(within)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: not within %s", what, within)
		}
	}
}

// serverLog keeps what a server writes and notices when it serves.
type serverLog struct {
	mu      sync.Mutex
	lines   []string
	rest    []byte
	serving chan addresses
}

type addresses struct {
	Msg   string
	REST  string
	GRPC  string
	Admin string
}

func newServerLog() *serverLog { return &serverLog{serving: make(chan addresses, 1)} }

// Write implements io.Writer.
func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		l.lines, l.rest = append(l.lines, string(line)), rest
		var at addresses
		if json.Unmarshal(line, &at) == nil && at.Msg == "serving" {
			l.serving <- at
		}
	}
}

func (l *serverLog) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n") + "\n" + string(l.rest)
}

func (l *serverLog) tail(n int) string {
	var last []string
	for scan := bufio.NewScanner(strings.NewReader(l.text())); scan.Scan(); {
		if last = append(last, scan.Text()); len(last) > n {
			last = last[1:]
		}
	}
	return strings.Join(last, "\n")
}
