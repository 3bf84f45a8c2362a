package system_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/rpc"
)

const (
	envChild  = "WAYBILL_SYSTEM_CHILD"  // the spec of the process to be, as JSON
	envMarker = "WAYBILL_SYSTEM_MARKER" // the marker of the tests' secrets
)

// beChild is for a TestMain: in a process that was started to be one of a fleet it
// runs that one to its end; in any other it does nothing.
func beChild() (code int, is bool) {
	text := os.Getenv(envChild)
	if text == "" {
		return 0, false
	}
	var s spec
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		go func() { // ends at the latest with the tests
			_, _ = io.Copy(io.Discard, os.Stdin)
			os.Exit(3)
		}()
		var n *node.Node
		if n, err = node.New(ctx, s.config()); err == nil {
			err = n.Run(ctx)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return 0, true
}

// A child is a process of a fleet. It can be killed.
type child struct {
	spec
	t     *testing.T
	log   *os.File
	cmd   *exec.Cmd
	stdin io.Closer
	ended chan struct{} // closed when the process has ended
}

func (c *child) String() string { return strings.Join(c.Services, "+") }

// launch starts the process and does not wait.
func (c *child) launch() {
	c.t.Helper()
	text, err := json.Marshal(c.spec)
	must(c.t, err)
	exe, err := os.Executable()
	must(c.t, err)
	c.cmd = exec.Command(exe, "-test.run=^$")
	c.cmd.Env = append(os.Environ(), envChild+"="+string(text), envMarker+"="+marker)
	c.cmd.Stdout, c.cmd.Stderr = c.log, c.log
	c.stdin, err = c.cmd.StdinPipe()
	must(c.t, err)
	must(c.t, c.cmd.Start())
	cmd, ended := c.cmd, make(chan struct{})
	c.ended = ended
	go func() {
		_ = cmd.Wait() // ProcessState tells
		close(ended)
	}()
}

// serving waits until the process says that it is ready.
func (c *child) serving() {
	c.t.Helper()
	var said string
	err := poll(soon(c.t), func() (bool, error) {
		select {
		case <-c.ended:
			return false, errors.New(c.cmd.ProcessState.String())
		default:
		}
		resp, err := http.Get("http://" + c.Admin + "/readyz")
		if err != nil {
			return false, nil
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		said = string(body)
		return err == nil && resp.StatusCode == http.StatusOK, nil
	})
	if err != nil {
		c.t.Fatalf("%s does not serve: %v\n%s\n%s", c, err, said, c.tail())
	}
}

// kill ends the process at once, wherever it is.
func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	<-c.ended
	_ = c.stdin.Close()
}

// terminate asks the process to end and waits until it has, which it must do well.
func (c *child) terminate() {
	c.t.Helper()
	must(c.t, c.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.t.Errorf("%s does not end", c)
		c.kill()
	}
	_ = c.stdin.Close()
	if code := c.cmd.ProcessState.ExitCode(); code != 0 {
		c.t.Errorf("%s ended with %d\n%s", c, code, c.tail())
	}
}

// tail gives the end of the process's log.
func (c *child) tail() string {
	data, err := os.ReadFile(c.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(data), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, `"level":"DEBUG"`) })
	return strings.Join(lines[max(0, len(lines)-30):], "\n")
}

// metric reads one value of /metrics, "" if it is not there.
func (c *child) metric(name string) string {
	c.t.Helper()
	resp, err := http.Get("http://" + c.Admin + "/metrics")
	must(c.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(c.t, err)
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// A fleet is a world of processes of their own, whose broker is one too. All of
// them can be killed.
type fleet struct {
	*world
	t        *testing.T
	split    split
	children []*child
	broker   *bustest.Server
}

// launch starts a fleet of a split and returns when all of it serves. The end of
// the test stops it.
func (sp split) launch(t *testing.T, kind string) *fleet {
	t.Helper()
	sp.external = true
	specs, broker := sp.plan(t, kind)
	f := &fleet{t: t, split: sp, broker: broker}
	dir := filepath.Dir(specs[0].Data)
	var doors []string
	for i, s := range specs {
		log, err := os.Create(filepath.Join(dir, fmt.Sprintf("%s-%d.log", strings.Join(s.Services, "-"), i)))
		must(t, err)
		f.children = append(f.children, &child{spec: s, t: t, log: log})
		if s.has("gateway") {
			doors = append(doors, cmp.Or(s.Public, s.GRPC))
		}
	}
	t.Cleanup(func() {
		for _, c := range f.children {
			if c.cmd != nil {
				c.kill()
			}
			_ = c.log.Close()
		}
	})
	f.start(f.children...)
	conn, err := rpc.Dial("static:///"+strings.Join(doors, ","), rpc.DialConfig{Timeout: patience})
	must(t, err)
	f.world = &world{conn: conn, web: &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}}
	t.Cleanup(func() {
		f.web.CloseIdleConnections()
		_ = conn.Close()
	})
	f.base = "http://" + f.serves("gateway")[0].HTTP
	f.admin, err = f.logIn(adminEmail, secret("admin-password"))
	must(t, err)
	return f
}

// start starts processes, all at once, and returns when all serve.
func (f *fleet) start(children ...*child) {
	f.t.Helper()
	for _, c := range children {
		c.launch()
	}
	for _, c := range children {
		c.serving()
	}
}

// serves gives the processes that run a service.
func (f *fleet) serves(service string) (list []*child) {
	for _, c := range f.children {
		if c.has(service) {
			list = append(list, c)
		}
	}
	return list
}

// end stops all processes in good order and looks at what they leave behind.
func (f *fleet) end() {
	f.t.Helper()
	for _, c := range f.children {
		c.terminate()
		c.cmd = nil
	}
	for _, c := range f.children[:len(f.children)/max(1, f.split.replicas)] {
		cfg := c.config()
		cfg.Services = slices.DeleteFunc(slices.Clone(services), func(s string) bool { return s == "gateway" || !c.has(s) })
		cfg.HTTPAddr, cfg.GRPCAddr, cfg.AdminAddr, cfg.PublicGRPCAddr = "", "", "", ""
		cfg.NATS = "nats://127.0.0.1:1" // nothing is to be published
		if len(cfg.Services) == 0 {
			continue
		}
		n, err := node.New(soon(f.t), cfg)
		must(f.t, err)
		wrong, err := n.Check(soon(f.t))
		must(f.t, errors.Join(err, n.Close(context.WithoutCancel(f.t.Context()))))
		for _, line := range wrong {
			f.t.Errorf("%s: %s", c, line)
		}
	}
}
