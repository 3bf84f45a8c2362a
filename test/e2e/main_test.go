// Package e2e_test does on a real cluster what users and operators do: it installs
// the chart, places orders over REST and gRPC, and disturbs the cluster while
// orders are placed. `make e2e` runs it.
package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// The namespaces. The shop's enforces the Pod Security standard "restricted".
const (
	shop    = "shop"
	tracing = "tracing"
	outside = "outside" // pods that nobody declared
)

const (
	patience = 3 * time.Minute // how long a test waits for what must come
)

// image is what the pods run; it is built unless E2E_IMAGE names one.
func image() string { return env("E2E_IMAGE", "waybill:e2e") }

// env gives an environment variable or a default.
func env(name, or string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return or
}

// root gives the repository's folder.
func root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// artifacts is where logs and events go when a test fails.
func artifacts() string { return filepath.Join(root(), ".tmp", "e2e") }

func TestMain(m *testing.M) {
	if os.Getenv("E2E") == "" {
		fmt.Fprintln(os.Stderr, "these tests make a cluster: run make e2e")
		return
	}
	os.Exit(run(m))
}

// run makes a cluster, or uses the one that E2E_CLUSTER names, and removes what it
// made unless KEEP says otherwise.
func run(m *testing.M) (code int) {
	if err := os.RemoveAll(artifacts()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := os.MkdirAll(artifacts(), 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	begin := time.Now()
	defer func() {
		if code != 0 {
			collect(context.Background())
		}
		if os.Getenv("KEEP") != "" {
			fmt.Fprintf(os.Stderr, "kept: cluster %s, KUBECONFIG=%s\n", cluster(), kubeconfig())
			return
		}
		if err := tearDown(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "the cluster is not gone:", err)
			code = 1
		}
	}()
	if err := setUp(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "the cluster cannot be prepared:", err)
		return 1
	}
	fmt.Fprintf(os.Stderr, "prepared in %.0f s\n", time.Since(begin).Seconds())
	return m.Run()
}

// borrowed tells whether the cluster is somebody else's.
func borrowed() bool { return os.Getenv("E2E_CLUSTER") != "" }

func cluster() string { return env("E2E_CLUSTER", "waybill-e2e") }

func kubeconfig() string {
	return env("E2E_KUBECONFIG", filepath.Join(root(), ".tmp", "e2e.kubeconfig"))
}

// setUp makes the cluster and installs what the tests use.
func setUp(ctx context.Context) error {
	if !borrowed() {
		if err := createCluster(ctx); err != nil {
			return err
		}
	}
	steps := [][]string{{"make", "-C", root(), ".tmp/bin/grpcurl"}}
	if os.Getenv("E2E_IMAGE") == "" {
		steps = append(steps, []string{"make", "-C", root(), "image", "IMAGE=" + image()})
	}
	steps = append(steps, []string{"kind", "load", "docker-image", "--name", cluster(), image()})
	// What the machine has need not be fetched by the cluster.
	for _, i := range []string{"postgres:15", "nats:2.15.2", "jaegertracing/all-in-one:1.62.0", "busybox:1.36"} {
		if exec.CommandContext(ctx, "docker", "image", "inspect", i).Run() == nil {
			steps = append(steps, []string{"kind", "load", "docker-image", "--name", cluster(), i})
		}
	}
	for _, s := range steps {
		if out, err := command(ctx, s...); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(s, " "), err, out)
		}
	}
	if err := namespaces(ctx); err != nil {
		return err
	}
	if out, err := kubectl(ctx, "apply", "-n", tracing, "-f", filepath.Join(root(), "k8s", "dev", "jaeger.yaml")); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	if err := metricsServer(ctx); err != nil {
		return err
	}
	if out, err := kubectl(ctx, "apply", "-f", filepath.Join("testdata", "outside.yaml")); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return install(ctx)
}

// createCluster makes the cluster of k8s/kind.yaml under another name and without
// ports of this machine, which may be taken.
func createCluster(ctx context.Context) error {
	_, _ = command(ctx, "kind", "delete", "cluster", "--name", cluster()) // of a run that was killed
	args := []string{"kind", "create", "cluster", "--name", cluster(), "--kubeconfig", kubeconfig(), "--wait", "2m"}
	config, err := os.ReadFile(filepath.Join(root(), "k8s", "kind.yaml"))
	if err != nil {
		return err
	}
	plain, _, _ := strings.Cut(string(config), "    extraPortMappings:")
	path := filepath.Join(artifacts(), "kind.yaml")
	if err := os.WriteFile(path, []byte(plain), 0o600); err != nil {
		return err
	}
	args = append(args, "--config", path)
	if i := os.Getenv("KIND_NODE_IMAGE"); i != "" {
		args = append(args, "--image", i)
	}
	if out, err := command(ctx, args...); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

func namespaces(ctx context.Context) error {
	for _, n := range []string{shop, tracing, outside} {
		labels := ""
		if n == shop {
			labels = "{pod-security.kubernetes.io/enforce: restricted}"
		}
		manifest := fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n  labels: %s\n", n, labels)
		if out, err := kubectlInput(ctx, manifest, "apply", "-f", "-"); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	return nil
}

// metricsServer installs what HorizontalPodAutoscalers need, if KIND_METRICS_SERVER
// names its manifest.
func metricsServer(ctx context.Context) error {
	manifest := os.Getenv("KIND_METRICS_SERVER")
	if manifest == "" || borrowed() {
		return nil
	}
	data, err := os.ReadFile(manifest)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		if _, image, ok := strings.Cut(line, "image: "); ok && exec.CommandContext(ctx, "docker", "image", "inspect", strings.TrimSpace(image)).Run() == nil {
			if out, err := command(ctx, "kind", "load", "docker-image", "--name", cluster(), strings.TrimSpace(image)); err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
		}
	}
	if out, err := kubectl(ctx, "apply", "-f", manifest); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// values are the settings of the release.
func values() []string {
	return []string{"--values", filepath.Join("testdata", "values.yaml"), "--set", "image.tag=" + strings.TrimPrefix(image(), "waybill:")}
}

// install installs the chart, each service in a process of its own.
func install(ctx context.Context) error {
	args := append([]string{"upgrade", "--install", "waybill", filepath.Join(root(), "charts", "waybill"), "--wait", "--timeout", "5m"}, values()...)
	if out, err := helm(ctx, args...); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// tearDown removes what setUp made.
func tearDown(ctx context.Context) error {
	if !borrowed() {
		out, err := command(ctx, "kind", "delete", "cluster", "--name", cluster(), "--kubeconfig", kubeconfig())
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	}
	out, err := kubectl(ctx, "delete", "namespace", shop, tracing, outside, "--ignore-not-found")
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// collect writes what tells why a test failed.
func collect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	save := func(name string, args ...string) {
		out, err := kubectl(ctx, args...)
		if err != nil {
			out += "\n" + err.Error()
		}
		_ = os.WriteFile(filepath.Join(artifacts(), name), []byte(out), 0o600) // as much as can be had
	}
	save("pods.txt", "get", "pods", "-A", "-o", "wide")
	save("events.txt", "get", "events", "-A", "--sort-by", ".lastTimestamp")
	save("shop.yaml", "get", "all,networkpolicy,hpa", "-n", shop, "-o", "yaml")
	save("describe.txt", "describe", "pods", "-n", shop)
	pods, err := kubectl(ctx, "get", "pods", "-n", shop, "-o", "name")
	if err != nil {
		return
	}
	var wait sync.WaitGroup
	for _, p := range strings.Fields(pods) {
		name := strings.TrimPrefix(p, "pod/")
		wait.Go(func() {
			save(name+".log", "logs", "-n", shop, p, "--all-containers", "--prefix", "--tail", "5000")
			save(name+".previous.log", "logs", "-n", shop, p, "--all-containers", "--previous", "--tail", "2000")
		})
	}
	wait.Wait()
	fmt.Fprintln(os.Stderr, "logs and events are in", artifacts())
}

// command runs a program in the folder of the tests and gives all it prints.
func command(ctx context.Context, args ...string) (string, error) {
	return commandInput(ctx, "", args...)
}

func commandInput(ctx context.Context, in string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig())
	cmd.Stdin = strings.NewReader(in)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		err = fmt.Errorf("%w: the tests need docker, kind, kubectl and helm", err)
	}
	return string(out), err
}

// helm works on the shop.
func helm(ctx context.Context, args ...string) (string, error) {
	return command(ctx, append([]string{"helm", "--namespace", shop}, args...)...)
}

// kubectl gives what kubectl prints.
func kubectl(ctx context.Context, args ...string) (string, error) {
	return command(ctx, append([]string{"kubectl"}, args...)...)
}

func kubectlInput(ctx context.Context, in string, args ...string) (string, error) {
	return commandInput(ctx, in, append([]string{"kubectl"}, args...)...)
}
