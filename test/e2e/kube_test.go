package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// kube runs kubectl in the shop and fails the test if it fails.
func kube(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kubectl(t.Context(), append([]string{"--namespace", shop}, args...)...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// get reads objects of the shop into v.
func get(t *testing.T, v any, args ...string) {
	t.Helper()
	out := kube(t, append([]string{"get", "--output", "json"}, args...)...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("kubectl get %s: %v", strings.Join(args, " "), err)
	}
}

// A pod is what the tests read of one.
type pod struct {
	Metadata struct {
		Name              string
		Labels            map[string]string
		CreationTimestamp time.Time
		DeletionTimestamp *time.Time
	}
	Status struct {
		PodIP      string
		Conditions []struct {
			Type, Status       string
			LastTransitionTime time.Time
		}
		ContainerStatuses []struct {
			ContainerID  string
			RestartCount int
			State        struct {
				Running *struct{ StartedAt time.Time }
			}
		}
	}
}

func (p *pod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True" && p.Metadata.DeletionTimestamp == nil
		}
	}
	return false
}

// pods lists the pods of a component: a workload, nats or postgres; "" is all of
// the release.
func pods(t *testing.T, component string) []pod {
	t.Helper()
	selector := "app.kubernetes.io/instance=waybill,e2e!=double"
	if component != "" {
		selector += ",app.kubernetes.io/component=" + component
	}
	var list struct{ Items []pod }
	get(t, &list, "pods", "--selector", selector, "--field-selector", "status.phase=Running")
	return list.Items
}

// workloads are the processes of the release, in the order in which they are
// restarted.
func workloads() []string {
	return []string{"auth", "user", "inventory", "payment", "shipping", "order", "gateway"}
}

// rolledOut waits until all pods of a workload are of its present revision and ready.
func rolledOut(t *testing.T, kind, name string) {
	t.Helper()
	kube(t, "rollout", "status", kind+"/waybill-"+name, "--timeout", patience.String())
}

// gone waits until no pod of a workload is ending any more.
func gone(t *testing.T, component string) {
	t.Helper()
	await(t, component+"'s old pods are gone", func() (bool, error) {
		for _, p := range pods(t, component) {
			if p.Metadata.DeletionTimestamp != nil {
				return false, nil
			}
		}
		return true, nil
	})
}

// within runs a command in a pod and gives what it prints.
func within(ctx context.Context, namespace, pod string, args ...string) (string, error) {
	return kubectl(ctx, append([]string{"exec", "--namespace", namespace, pod, "--"}, args...)...)
}

// fetch asks an address inside the cluster through the Kubernetes API, which
// reaches every pod: "pods/name:9091/proxy/metrics".
func fetch(ctx context.Context, namespace, path string) (string, error) {
	return kubectl(ctx, "get", "--raw", "/api/v1/namespaces/"+namespace+"/"+path)
}

// await asks until it is so, which must come in time. It gives up at once on an
// error.
func await(t *testing.T, what string, holds func() (bool, error)) {
	t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for {
		ok, err := holds()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// sample is one line of a process's metrics.
type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// metrics reads what a process measures.
func metrics(t *testing.T, pod string) []sample {
	t.Helper()
	return metricsOf(t, shop, pod)
}

func metricsOf(t *testing.T, namespace, pod string) []sample {
	t.Helper()
	text, err := fetch(t.Context(), namespace, "pods/"+pod+":9091/proxy/metrics")
	if err != nil {
		t.Fatalf("the metrics of %s: %v\n%s", pod, err, text)
	}
	var list []sample
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		s := sample{labels: map[string]string{}}
		if _, err := fmt.Sscanf(line[at+1:], "%g", &s.value); err != nil {
			continue
		}
		name, rest, _ := strings.Cut(line[:at], "{")
		s.name = name
		for pair := range strings.SplitSeq(strings.TrimSuffix(rest, "}"), `",`) {
			if k, v, ok := strings.Cut(pair, "="); ok {
				s.labels[k] = strings.Trim(v, `"`)
			}
		}
		list = append(list, s)
	}
	return list
}
