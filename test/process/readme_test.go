package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/bus/bustest"
)

// A block is a fenced block of commands in the README.
type block struct {
	line    int
	code    string
	skip    string   // why it is not run here, from the comment above it
	outputs []string // what must be printed in this order; … stands for anything
}

var (
	skipComment = regexp.MustCompile(`^<!-- (run by .*) -->$`)
	port        = regexp.MustCompile(`:(8080|9090|9091|9190|9191|4222)\b`)
)

// TestTheCommandsOfTheReadmeDoWhatItSays runs the README from top to bottom in one
// shell, in a copy of the repository, on ports that are free.
func TestTheCommandsOfTheReadmeDoWhatItSays(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl", "jq", "make", "go"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, tool+" is not installed")
		}
	}
	text, err := os.ReadFile(filepath.Join(root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	blocks := parse(t, string(text))
	dir := clone(t)
	if _, err := os.Stat(filepath.Join(dir, ".tmp", "bin", "grpcurl")); err != nil {
		cmd := exec.CommandContext(t.Context(), "make", ".tmp/bin/grpcurl")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			missing(t, fmt.Sprintf("grpcurl cannot be built: %v\n%s", err, out))
		}
	}
	ports := map[string]string{":4222": strings.TrimPrefix(bustest.StartServer(t).URL(), "nats://127.0.0.1")}
	for _, p := range []string{":8080", ":9090", ":9091", ":9190", ":9191"} {
		ports[p] = freePort(t)
	}
	renamed := func(s string) string { return port.ReplaceAllStringFunc(s, func(p string) string { return ports[p] }) }

	var script strings.Builder
	script.WriteString("set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || :' EXIT\n")
	for i, b := range blocks {
		if b.skip != "" {
			t.Logf("README.md:%d is %s", b.line, b.skip)
			continue
		}
		fmt.Fprintf(&script, "echo '=== block %d'\n%s\n", i, renamed(b.code))
	}
	caches, err := exec.CommandContext(t.Context(), "go", "env", "GOPATH", "GOMODCACHE", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	cache := strings.Fields(string(caches))
	out, errOut, err := bash(t, dir, script.String(), environment(t.TempDir(),
		"GOPATH="+cache[0], "GOMODCACHE="+cache[1], "GOCACHE="+cache[2], // not below the new home
		"WAYBILL_HTTP_ADDR=127.0.0.1"+ports[":8080"], "WAYBILL_GRPC_ADDR=127.0.0.1"+ports[":9090"], "WAYBILL_ADMIN_ADDR=127.0.0.1"+ports[":9091"],
		"WAYBILL_SERVER=localhost"+ports[":9090"], "WAYBILL_SHIPPING_SCAN_EVERY=1s"))
	if err != nil {
		last := out[strings.LastIndex(out, "=== block ")+1:]
		t.Fatalf("the README's commands failed: %v\nafter %s\nstderr:\n%s", err, last, tail(errOut, 30))
	}
	for i, b := range blocks {
		if b.skip != "" {
			continue
		}
		_, got, _ := strings.Cut(out, fmt.Sprintf("=== block %d\n", i))
		got, _, _ = strings.Cut(got, "=== block ")
		rest := got
		for _, want := range b.outputs {
			at := wildcard(renamed(want)).FindStringIndex(rest)
			if at == nil {
				t.Errorf("README.md:%d: the commands do not print %q in its place; they print\n%s", b.line, want, got)
				break
			}
			rest = rest[at[1]:]
		}
	}
}

// missing skips the test, or fails it where it must run.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// parse reads the blocks of commands and what they print.
func parse(t *testing.T, text string) []block {
	t.Helper()
	var blocks []block
	skip, kind := "", ""
	for i, line := range strings.Split(text, "\n") {
		switch m := skipComment.FindStringSubmatch(line); {
		case m != nil:
			skip = m[1]
		case kind == "" && strings.HasPrefix(line, "```"):
			kind = strings.TrimPrefix(line, "```")
			switch kind {
			case "sh":
				blocks = append(blocks, block{line: i + 1, skip: skip})
			case "text":
				if len(blocks) == 0 {
					t.Fatalf("README.md:%d shows output of no command", i+1)
				}
			default:
				t.Fatalf("README.md:%d: a block is ```sh for commands or ```text for what they print", i+1)
			}
			skip = ""
		case line == "```":
			kind = ""
		case kind == "sh":
			blocks[len(blocks)-1].code += line + "\n"
		case kind == "text":
			last := &blocks[len(blocks)-1]
			last.outputs = append(last.outputs, line)
		}
	}
	if len(blocks) < 5 {
		t.Fatalf("only %d blocks of commands were found", len(blocks))
	}
	return blocks
}

// wildcard makes an expression of a line; runs of spaces may be of any length.
func wildcard(line string) *regexp.Regexp {
	words := strings.Fields(line)
	for i, w := range words {
		parts := strings.Split(w, "…")
		for j, p := range parts {
			parts[j] = regexp.QuoteMeta(p)
		}
		words[i] = strings.Join(parts, ".*")
	}
	return regexp.MustCompile("(?m)^[ \t]*" + strings.Join(words, "[ \t]*") + "[ \t]*$")
}

// clone copies the repository as a checkout would be, without what was built or
// kept in it, but with the tools that were.
func clone(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	from := root()
	without := []string{".git", ".tmp", "bin", "dist", "data", "waybill"} // at the top only
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if slices.Contains(without, rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		to := filepath.Join(dir, rel)
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, data, info.Mode().Perm()); err != nil {
			return err
		}
		return os.Chtimes(to, info.ModTime(), info.ModTime()) // make compares them
	})
	if err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(from, ".tmp", "bin")
	if err := os.MkdirAll(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, ".tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(tools, filepath.Join(dir, ".tmp", "bin")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// bash runs a script and gives what it and its servers print. Nothing of it is
// left running.
func bash(t *testing.T, dir, script string, env []string) (out, errOut string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = dir, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	group := func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	cmd.Cancel = group
	cmd.WaitDelay = 10 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if cmd.Process != nil {
		_ = group()
	}
	return stdout.String(), stderr.String(), err
}

// freePort gives a port that nobody listens on, as ":21234". It lies below those
// that the system gives away, or another test would have it before the README's
// server is built.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := fmt.Sprintf(":%d", 20_000+rand.IntN(10_000))
		if lis, err := net.Listen("tcp", port); err == nil {
			_ = lis.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
