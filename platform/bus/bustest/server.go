// Package bustest runs tests of code that uses the bus on both kinds of broker:
// embedded in the test process, and a process of its own that can be killed.
// The latter is the test binary itself, so nothing has to be installed.
package bustest

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	envServe = "WAYBILL_BUSTEST_DIR" // set in the child: be a broker on this directory
	envPort  = "WAYBILL_BUSTEST_PORT"
	envUser  = "WAYBILL_BUSTEST_USER"
	envSync  = "WAYBILL_BUSTEST_SYNC" // "always": force each message to disk before it is acknowledged
	ready    = "bustest broker on port "
)

// Main runs the tests of a package, or a broker if this process was started to
// be one. Call it from TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(bustest.Main(m)) }
func Main(m *testing.M) int {
	if code, is := Child(); is {
		return code
	}
	return m.Run()
}

// Child is for a TestMain that does more than Main: in a process that was started
// to be a broker it is one until that ends, and gives the exit code; in any other
// it does nothing.
func Child() (code int, is bool) {
	dir := os.Getenv(envServe)
	if dir == "" {
		return 0, false
	}
	if err := serve(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// serve is a broker until standard input ends, which it does at the latest with
// the parent.
func serve(dir string) error {
	port, err := strconv.Atoi(os.Getenv(envPort))
	if err != nil {
		return err
	}
	opts := &server.Options{
		ServerName: "bustest", Host: "127.0.0.1", Port: port, NoLog: true, NoSigs: true,
		JetStream: true, StoreDir: dir, JetStreamMaxStore: 16 << 30, JetStreamMaxMemory: 64 << 20, SyncInterval: 100 * time.Millisecond,
		SyncAlways: os.Getenv(envSync) == "always",
	}
	opts.Username, opts.Password, _ = strings.Cut(os.Getenv(envUser), ":")
	ns, err := server.NewServer(opts)
	if err != nil {
		return err
	}
	go ns.Start()
	if !ns.ReadyForConnections(30 * time.Second) {
		return errors.New("broker does not get ready")
	}
	_, addr, _ := strings.Cut(ns.ClientURL(), "127.0.0.1:")
	if _, err := fmt.Fprintln(os.Stdout, ready+addr); err != nil { // read by who started us
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	ns.Shutdown()
	ns.WaitForShutdown()
	return err
}

// A Server is a broker in a process of its own, with a directory and a port
// that it keeps over Kill and Start.
type Server struct {
	tb    testing.TB
	dir   string
	login string
	sync  string
	port  int
	cmd   *exec.Cmd
	stdin io.Closer
}

// StartServer starts a broker; the test's end stops it. The test's package must
// call Main.
func StartServer(tb testing.TB) *Server {
	tb.Helper()
	return startServer(tb, "")
}

// StartServerWithLogin starts a broker that lets in only the given user.
func StartServerWithLogin(tb testing.TB, user, password string) *Server {
	tb.Helper()
	return startServer(tb, user+":"+password)
}

func startServer(tb testing.TB, login string) *Server {
	tb.Helper()
	// Not tb.TempDir, whose name is long and which fails the test if a killed
	// broker's last file appears during its removal.
	dir, err := os.MkdirTemp("", "bustest")
	if err != nil {
		tb.Fatal(err)
	}
	s := &Server{tb: tb, dir: dir, login: login, port: server.RANDOM_PORT}
	tb.Cleanup(func() {
		s.Kill()
		_ = os.RemoveAll(dir)
	})
	s.Start()
	return s
}

// Dir is where the broker keeps its streams, for tests that damage them while it
// does not run.
func (s *Server) Dir() string { return s.dir }

// SyncAlways makes the broker force every message to disk before it acknowledges
// it, from its next Start on.
func (s *Server) SyncAlways() { s.sync = "always" }

// Signal sends the running broker a signal, as to make it stand still.
func (s *Server) Signal(sig os.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatal(err)
	}
}

// URL is where the broker listens, or did or will if it is not running.
func (s *Server) URL() string { return "nats://127.0.0.1:" + strconv.Itoa(s.port) }

// Start runs the broker again after Kill and waits until it takes connections.
func (s *Server) Start() {
	s.tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.tb.Fatal(err)
	}
	// If the package's TestMain does not call Main, the child runs no test and ends.
	cmd := exec.Command(exe, "-test.run=^$")
	cmd.Env = append(os.Environ(), envServe+"="+s.dir, envPort+"="+strconv.Itoa(s.port), envUser+"="+s.login, envSync+"="+s.sync)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.tb.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	s.cmd, s.stdin = cmd, stdin
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		if port, ok := strings.CutPrefix(lines.Text(), ready); ok {
			if s.port, err = strconv.Atoi(port); err != nil {
				s.tb.Fatal(err)
			}
			return
		}
	}
	s.tb.Fatal("broker process ended at once: does the package's TestMain call bustest.Main?")
}

// Kill ends the broker as a crash would. It does nothing if it does not run.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // says that it was killed
	_ = s.stdin.Close()
	s.cmd = nil
}
