package e2e_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// section gives the commands of the README's section on Kubernetes, one per line,
// and what they must print, a part per line.
func section(t *testing.T) (commands, output []string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root(), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := strings.Cut(string(data), "<!-- run by test/e2e -->\n```sh\n")
	if !ok {
		t.Fatal("README.md has no commands that say they are run by test/e2e")
	}
	code, rest, _ := strings.Cut(text, "```\n")
	for line := range strings.Lines(strings.ReplaceAll(code, "\\\n", "")) {
		if line = strings.TrimSpace(line); line != "" {
			commands = append(commands, line)
		}
	}
	_, printed, _ := strings.Cut(rest, "```text\n")
	printed, _, _ = strings.Cut(printed, "```\n")
	for line := range strings.Lines(printed) {
		for part := range strings.SplitSeq(strings.TrimSpace(line), "…") {
			if part = strings.TrimSpace(part); part != "" {
				output = append(output, part)
			}
		}
	}
	return commands, output
}

// TestTheReadmeLeadsFromNothingToAnOrder runs the README's commands in one shell,
// but for the names: the cluster is the one of these tests, which was made by the
// first command (see createCluster), and its ports are not those of this machine.
func TestTheReadmeLeadsFromNothingToAnOrder(t *testing.T) {
	commands, output := section(t)
	if len(commands) > 5 || len(output) == 0 || commands[0] != "kind create cluster --config k8s/kind.yaml" {
		t.Fatalf("the README's commands are %q, their output %q", commands, output)
	}
	host, err := kubectl(t.Context(), "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	if err != nil {
		t.Fatal(err)
	}
	script := strings.NewReplacer("--name waybill", "--name "+cluster(), "localhost:8081", host+":30081").Replace(strings.Join(commands[1:], "\n"))
	defer func() {
		if out, err := command(t.Context(), "helm", "--namespace", "default", "uninstall", "waybill", "--wait"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		if out, err := kubectl(t.Context(), "--namespace", "default", "delete", "secret,pvc", "--selector", "app.kubernetes.io/instance=waybill"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}()
	out, err := command(t.Context(), "bash", "-c", "set -euo pipefail; cd "+root()+"; export WAYBILL_HOME="+t.TempDir()+"\n"+script)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	rest := out
	for _, want := range output {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("the commands do not print %q in its place; they print\n%s", want, out)
		}
		rest = after
	}
}

// TestTheClusterTakesWhatKustomizeBuilds asks the cluster, which admits or refuses
// every object without making it.
func TestTheClusterTakesWhatKustomizeBuilds(t *testing.T) {
	manifest := "apiVersion: v1\nkind: Namespace\nmetadata: {name: waybill, labels: {pod-security.kubernetes.io/enforce: restricted}}\n"
	if out, err := kubectlInput(t.Context(), manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer func() {
		if out, err := kubectl(t.Context(), "delete", "namespace", "waybill", "--wait=false"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}()
	for _, folder := range []string{"dev", "overlays/mono", "overlays/three", "overlays/split"} {
		out, err := kubectl(t.Context(), "apply", "--dry-run=server", "-k", filepath.Join(root(), "k8s", folder))
		if err != nil || strings.Contains(out, "Warning") {
			t.Errorf("k8s/%s: %v\n%s", folder, err, out)
		}
	}
}

// copyTree copies the sources, so that a test may change them.
func copyTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	script := `cd "$1" && { git ls-files -z --cached --others --exclude-standard 2>/dev/null | xargs -0 ls -d 2>/dev/null | tar -c -T -; } | tar -x -C "$2" && mkdir -p "$2/.tmp" && ln -s "$1/.tmp/bin" "$2/.tmp/bin"`
	if out, err := command(t.Context(), "bash", "-c", script, "copy", root(), dir); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// TestSkaffoldDeploysBothProfilesAndPicksUpAChange works on a copy of the sources.
func TestSkaffoldDeploysBothProfilesAndPicksUpAChange(t *testing.T) {
	const namespace = "skaffold"
	dir := copyTree(t)
	if out, err := kubectlInput(t.Context(), "apiVersion: v1\nkind: Namespace\nmetadata: {name: skaffold}\n", "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer func() {
		if out, err := kubectl(t.Context(), "delete", "namespace", namespace, "--wait=false"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}()
	skaffold := func(args ...string) []string {
		return append(append([]string{"skaffold"}, args...), "--filename", filepath.Join(dir, "skaffold.yaml"), "--namespace", namespace, "--interactive=false")
	}
	for profile, workload := range map[string]string{"split": "deployment/waybill-order", "mono": "statefulset/waybill-all"} {
		begin := time.Now()
		out, err := inFolder(t.Context(), dir, skaffold("run", "--profile", profile, "--tail=false")...)
		if err != nil {
			t.Fatalf("skaffold run -p %s: %v\n%s", profile, err, out)
		}
		if out, err := kubectl(t.Context(), "--namespace", namespace, "rollout", "status", workload, "--timeout", patience.String()); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		t.Logf("skaffold run -p %s took %.0f s", profile, time.Since(begin).Seconds())
		if out, err := inFolder(t.Context(), dir, skaffold("delete", "--profile", profile)...); err != nil {
			t.Fatalf("skaffold delete -p %s: %v\n%s", profile, err, out)
		}
	}
	dev(t, dir, namespace, skaffold("dev", "--profile", "mono"))
}

// inFolder runs a program in a folder.
func inFolder(ctx context.Context, dir string, args ...string) (string, error) {
	return command(ctx, append([]string{"bash", "-c", `cd "$0" && exec "$@"`, dir}, args...)...)
}

// dev runs skaffold dev, changes the version that the sources give, and waits for a
// process that says so.
func dev(t *testing.T, dir, namespace string, args []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "KUBECONFIG="+kubeconfig())
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		_ = w.CloseWithError(errors.Join(err, io.EOF))
		ended <- err
	}()
	defer func() {
		cancel()
		<-ended
	}()
	var said []string
	watching := false
	for lines := bufio.NewScanner(r); !watching && lines.Scan(); {
		said = append(said, lines.Text())
		watching = strings.Contains(lines.Text(), "Watching for changes")
	}
	if !watching {
		t.Fatalf("skaffold does not watch; it says\n%s", strings.Join(said[max(0, len(said)-60):], "\n"))
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	if err := change(filepath.Join(dir, "internal", "node", "services.go"), `return "devel"`, `return "changed"`); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	await(t, "a process with the change serves", func() (bool, error) {
		out, err := kubectl(ctx, "--namespace", namespace, "logs", "statefulset/waybill-all")
		return err == nil && strings.Contains(out, `"version":"changed"`), nil
	})
	t.Logf("the change was served after %.0f s", time.Since(begin).Seconds())
}

// change replaces a part of a file.
func change(path, from, to string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := strings.Replace(string(data), from, to, 1)
	if text == string(data) {
		return fmt.Errorf("%s does not have %q", path, from)
	}
	return os.WriteFile(path, []byte(text), 0o600)
}
