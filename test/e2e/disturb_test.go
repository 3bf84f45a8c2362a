package e2e_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// rate is how many orders a second are placed while something happens: what a
// machine of two cores bears that runs the cluster and the tests.
const rate = 20

// retryable are the codes that tell a client to send the same request again.
func retryable() []codes.Code {
	return []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Aborted}
}

func TestARollingRestartOfEveryWorkloadFailsNoRequest(t *testing.T) {
	l := startLoad(t, open(t), rate)
	l.during(nil, func() {
		for _, w := range workloads() {
			kube(t, "rollout", "restart", "deployment/waybill-"+w)
			rolledOut(t, "deployment", w)
			gone(t, w)
		}
	})
}

// TestAnUpgradeToTheNextChartFailsNoRequest rolls everything at once, as a new
// release does.
func TestAnUpgradeToTheNextChartFailsNoRequest(t *testing.T) {
	chart := filepath.Join(t.TempDir(), "waybill")
	if err := os.CopyFS(chart, os.DirFS(filepath.Join(root(), "charts", "waybill"))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(chart, "Chart.yaml")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	next := regexp.MustCompile(`(?m)^version: .*$`).ReplaceAll(data, []byte("version: 99.0.0"))
	if err := os.WriteFile(file, next, 0o600); err != nil {
		t.Fatal(err)
	}
	before := pods(t, "")
	l := startLoad(t, open(t), rate)
	l.during(nil, func() {
		upgrade(t, chart, "--set", "workloadDefaults.podAnnotations.release=next")
		for _, w := range workloads() {
			gone(t, w)
		}
	})
	after := pods(t, "")
	for _, p := range before {
		if c := p.Metadata.Labels["app.kubernetes.io/component"]; c == "nats" || c == "postgres" {
			continue
		}
		for _, q := range after {
			if p.Metadata.Name == q.Metadata.Name {
				t.Errorf("%s is the same pod as before", p.Metadata.Name)
			}
		}
	}
}

// upgrade changes the release.
func upgrade(t *testing.T, chart string, args ...string) {
	t.Helper()
	args = append(append([]string{"upgrade", "waybill", chart, "--wait", "--timeout", "8m"}, values()...), args...)
	if out, err := helm(t.Context(), args...); err != nil {
		t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func ownChart() string { return filepath.Join(root(), "charts", "waybill") }

func scale(t *testing.T, workload, replicas string) {
	t.Helper()
	kube(t, "scale", "deployment/waybill-"+workload, "--replicas", replicas)
	rolledOut(t, "deployment", workload)
}

// TestPodsThatComeTakeTrafficAndPodsThatGoLoseItWithoutAFailedRequest scales the
// order service under load and looks how evenly calls are spread.
func TestPodsThatComeTakeTrafficAndPodsThatGoLoseItWithoutAFailedRequest(t *testing.T) {
	scale(t, "order", "2")
	l := startLoad(t, open(t), rate)
	l.during(nil, func() {
		for _, n := range []string{"4", "1"} {
			scale(t, "order", n)
			begin := time.Now()
			await(t, "calls are spread evenly over "+n+" pods", func() (bool, error) {
				ratio := spread(t, "order", 10*time.Second)
				t.Logf("%s pods, %.0f s after they were ready: max/mean %.2f", n, time.Since(begin).Seconds(), ratio)
				return ratio <= 1.2, nil
			})
			if took := time.Since(begin); took > 75*time.Second {
				t.Errorf("it took %s until calls were spread evenly", took)
			}
			gone(t, "order")
		}
	})
}

// spread measures how evenly calls go to the pods of a workload: the most of one
// pod by the mean. It is 1 when there is one.
func spread(t *testing.T, workload string, over time.Duration) float64 {
	t.Helper()
	count := func() map[string]float64 {
		calls := map[string]float64{}
		for _, p := range pods(t, workload) {
			if !p.ready() {
				continue
			}
			for _, s := range metrics(t, p.Metadata.Name) {
				if s.name == "rpc_server_call_duration_seconds_count" && strings.Contains(s.labels["rpc_method"], "waybill.") {
					calls[p.Metadata.Name] += s.value
				}
			}
		}
		return calls
	}
	before := count()
	select {
	case <-time.After(over):
	case <-t.Context().Done():
	}
	most, sum, n := 0.0, 0.0, 0
	for name, v := range count() {
		v -= before[name]
		most, sum, n = max(most, v), sum+v, n+1
	}
	if sum == 0 {
		t.Fatalf("the %d pods of %s served no call", n, workload)
	}
	return most / (sum / float64(n))
}

// TestPodsThatDieAtRandomLoseNoOrder ends pods in good order and kills others.
func TestPodsThatDieAtRandomLoseNoOrder(t *testing.T) {
	for _, w := range []string{"order", "inventory"} {
		scale(t, w, "2")
		defer scale(t, w, "1")
	}
	l := startLoad(t, open(t), rate)
	l.during(retryable(), func() {
		for i := range 8 {
			all := workloads()
			w := all[rand.N(len(all))]
			victims := pods(t, w)
			if len(victims) == 0 {
				continue
			}
			args := []string{"delete", "pod", victims[rand.N(len(victims))].Metadata.Name, "--wait=false"}
			if i%2 == 0 {
				args = append(args, "--force", "--grace-period=0")
			}
			t.Log(strings.Join(args, " "))
			kube(t, args...)
			l.run(4 * time.Second)
		}
		for _, w := range workloads() {
			rolledOut(t, "deployment", w)
			gone(t, w)
		}
	})
}

func TestTheBrokerRestartsAndNoOrderIsLost(t *testing.T) {
	l := startLoad(t, open(t), rate)
	l.during(retryable(), func() {
		kube(t, "delete", "pod", "waybill-nats-0")
		rolledOut(t, "statefulset", "nats")
	})
}

func TestTheDatabaseRestartsAndNoOrderIsLost(t *testing.T) {
	l := startLoad(t, open(t), rate)
	l.during(retryable(), func() {
		kube(t, "delete", "pod", "waybill-postgres-0")
		rolledOut(t, "statefulset", "postgres")
	})
}

// TestCertificatesChangeEveryTenSecondsAndNoRequestFails lets every process get new
// certificates for two minutes, as an impatient authority does, and has
// connections made anew as often, so that each new one is shown to somebody.
func TestCertificatesChangeEveryTenSecondsAndNoRequestFails(t *testing.T) {
	upgrade(t, ownChart(), "--set", "tls.trial.renewEvery=10s", "--set-string", "workloadDefaults.config.grpc_max_conn_age=10s")
	defer upgrade(t, ownChart())
	for _, w := range workloads() {
		gone(t, w)
	}
	l := startLoad(t, open(t), rate)
	l.during(nil, func() { l.run(2 * time.Minute) })
	for _, w := range workloads() {
		taken := 0.0
		for _, m := range metrics(t, pods(t, w)[0].Metadata.Name) {
			if m.name == "waybill_tls_reloads_total" {
				taken += m.value
			}
		}
		t.Logf("%s took %.0f new certificates", w, taken)
		if taken < 10 {
			t.Errorf("%s took only %.0f", w, taken)
		}
	}
}

// TestTheAutoscalerAddsPodsUnderLoadAndTakesThemAway lets Kubernetes choose how
// many pods the order service has.
func TestTheAutoscalerAddsPodsUnderLoadAndTakesThemAway(t *testing.T) {
	await(t, "the cluster measures its pods", func() (bool, error) {
		out, err := kubectl(t.Context(), "get", "apiservice", "v1beta1.metrics.k8s.io", "-o", `jsonpath={.status.conditions[?(@.type=="Available")].status}`)
		if err != nil && strings.Contains(out, "NotFound") {
			if os.Getenv("CI") != "" {
				t.Fatal("there is no metrics-server: KIND_METRICS_SERVER names its manifest")
			}
			t.Skip("there is no metrics-server: KIND_METRICS_SERVER names its manifest")
		}
		return out == "True", err
	})
	upgrade(t, ownChart(), "--values", filepath.Join("testdata", "autoscaling.yaml"))
	defer upgrade(t, ownChart())
	// Until the new pod is there, the load may be more than the machine bears.
	l := startLoad(t, open(t), 2*rate)
	l.during(retryable(), func() {
		await(t, "the order service has more pods", func() (bool, error) { return readyPods(t, "order") > 1, nil })
		t.Logf("%d pods under load", readyPods(t, "order"))
	})
	await(t, "the order service has one pod again", func() (bool, error) { return len(pods(t, "order")) == 1, nil })
}

func readyPods(t *testing.T, workload string) (n int) {
	t.Helper()
	for _, p := range pods(t, workload) {
		if p.ready() {
			n++
		}
	}
	return n
}
