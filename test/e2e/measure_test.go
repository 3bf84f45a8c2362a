package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// A cost is what a pod takes.
type cost struct {
	pod   string
	rss   float64       // resident memory in MiB
	start time.Duration // from the start of the process until it serves
}

// costs measures the processes of a release as they are.
func costs(t *testing.T, namespace, instance string) []cost {
	t.Helper()
	out, err := kubectl(t.Context(), "-n", namespace, "get", "pods", "-o", "json", "--field-selector", "status.phase=Running", "--selector", "app.kubernetes.io/instance="+instance+",app.kubernetes.io/component notin (nats,postgres)")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var list struct{ Items []pod }
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	var all []cost
	for _, p := range list.Items {
		c := cost{pod: p.Metadata.Name}
		for _, s := range metricsOf(t, namespace, p.Metadata.Name) {
			if s.name == "process_resident_memory_bytes" {
				c.rss = s.value / (1 << 20)
			}
		}
		logs, err := kubectl(t.Context(), "-n", namespace, "logs", p.Metadata.Name, "-c", "waybill")
		if err != nil {
			t.Fatalf("%v\n%s", err, logs)
		}
		for line := range strings.Lines(logs) {
			var entry struct {
				Time time.Time
				Msg  string
			}
			if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving" {
				c.start = entry.Time.Sub(started(t, namespace, p.Metadata.Name))
			}
		}
		all = append(all, c)
	}
	return all
}

// started tells when the process of a pod began, which Kubernetes says to the
// second and the process itself to the hundredth.
func started(t *testing.T, namespace, name string) time.Time {
	t.Helper()
	for _, s := range metricsOf(t, namespace, name) {
		if s.name == "process_start_time_seconds" {
			return time.UnixMilli(int64(s.value * 1000))
		}
	}
	return time.Time{}
}

// TestWhatProcessesTakeIsMeasured prints memory and start of each pod of the full
// split and of one process with everything. It judges nothing.
func TestWhatProcessesTakeIsMeasured(t *testing.T) {
	const mono = "mono"
	manifest := fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: %s\n  labels: {pod-security.kubernetes.io/enforce: restricted}\n", mono)
	if out, err := kubectlInput(t.Context(), manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer func() {
		if out, err := kubectl(t.Context(), "delete", "namespace", mono, "--wait=false"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}()
	args := append([]string{"helm", "-n", mono, "install", "waybill", ownChart(), "--wait", "--values", ownChart() + "/values-mono.yaml"}, values()...)
	args = append(args, "--set", "tls.mode=none")
	if out, err := command(t.Context(), args...); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	kube(t, "rollout", "restart", "deployment", "--selector", "app.kubernetes.io/instance=waybill") // what earlier tests left in memory does not count
	for _, w := range workloads() {
		rolledOut(t, "deployment", w)
		gone(t, w)
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	for _, release := range []string{mono, shop} {
		var rss float64
		for _, c := range costs(t, release, "waybill") {
			fmt.Fprintf(w, "%s\t%s\t%.1f MiB\t%.2f s\n", release, c.pod, c.rss, c.start.Seconds())
			rss += c.rss
		}
		fmt.Fprintf(w, "%s\tsum\t%.1f MiB\t\n", release, rss)
	}
	_ = w.Flush() // to memory
	t.Logf("memory and start of processes:\n%s", table.String())
}
