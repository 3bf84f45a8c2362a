package e2e_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNamesOfServicesResolveToTheirPods(t *testing.T) {
	for _, w := range []string{"auth", "user", "inventory", "payment", "shipping", "order"} {
		await(t, "the name of "+w+" gives its pods", func() (bool, error) {
			var want []string
			for _, p := range pods(t, w) {
				if p.ready() {
					want = append(want, p.Status.PodIP)
				}
			}
			out, err := within(t.Context(), outside, "client", "nslookup", "waybill-"+w+"."+shop+".svc.cluster.local")
			if err != nil {
				return false, nil //nolint:nilerr // a name without pods is an error of nslookup
			}
			_, answer, _ := strings.Cut(out, "Name:") // after the address of the server that answers
			var got []string
			for line := range strings.Lines(answer) {
				if _, ip, ok := strings.Cut(line, "Address"); ok {
					_, ip, _ = strings.Cut(ip, ":")
					got = append(got, strings.Fields(ip)[0])
				}
			}
			slices.Sort(want)
			slices.Sort(got)
			return len(want) > 0 && slices.Equal(want, slices.Compact(got)), nil
		})
	}
}

// A service is what the chart knows of one.
type service struct {
	Calls    []string
	Database bool
	NATS     *struct{ Publish, Subscribe []string }
}

// topology reads who calls whom, from the file of which the chart makes its
// policies.
func topology(t *testing.T) map[string]service {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root(), "charts", "waybill", "files", "topology.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Services map[string]service }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	return file.Services
}

// doors are all ports of the release, by name: "order" is what order serves to
// services.
func doors(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, w := range workloads() {
		ip := pods(t, w)[0].Status.PodIP
		if w != "gateway" {
			all[w] = ip + " 9090"
		}
		all["admin of "+w] = ip + " 9091"
	}
	gateway := pods(t, "gateway")[0].Status.PodIP
	all["REST"], all["gRPC"] = gateway+" 8080", gateway+" 8081"
	all["nats"] = pods(t, "nats")[0].Status.PodIP + " 4222"
	all["postgres"] = pods(t, "postgres")[0].Status.PodIP + " 5432"
	return all
}

// reach gives the doors that a pod can open a connection to.
func reach(t *testing.T, namespace, from string, all map[string]string) []string {
	t.Helper()
	var script strings.Builder
	for name, addr := range all {
		// nc ends with 1 when it cannot connect; once it has, the other side ends it, or timeout does.
		fmt.Fprintf(&script, "( timeout 6 nc -w 3 %s </dev/null >/dev/null 2>&1; test $? = 1 || echo '%s' ) &\n", addr, name)
	}
	script.WriteString("wait\n")
	out, err := within(t.Context(), namespace, from, "sh", "-c", script.String())
	if err != nil {
		t.Fatalf("in %s: %v\n%s", from, err, out)
	}
	return slices.Sorted(strings.Lines(strings.ReplaceAll(out, "\r", "")))
}

func lines(names ...string) []string {
	for i := range names {
		names[i] += "\n"
	}
	slices.Sort(names)
	return names
}

// TestOnlyDeclaredCallersReachAPort puts a pod beside each workload that looks like
// one of its own to the network, and tries every port from it.
func TestOnlyDeclaredCallersReachAPort(t *testing.T) {
	all := doors(t)
	if got := reach(t, outside, "stranger", all); len(got) > 0 {
		t.Errorf("a stranger reaches %q", got)
	}
	if got, want := reach(t, outside, "client", all), lines("REST", "gRPC"); !slices.Equal(got, want) {
		t.Errorf("a client reaches %q, want %q", got, want)
	}
	declared := topology(t)
	var manifest strings.Builder
	for _, w := range workloads() {
		fmt.Fprintf(&manifest, double, w)
	}
	if out, err := kubectlInput(t.Context(), manifest.String(), "-n", shop, "apply", "-f", "-"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer kube(t, "delete", "pod", "--selector", "e2e=double", "--wait=false")
	kube(t, "wait", "pod", "--selector", "e2e=double", "--for", "jsonpath={.status.phase}=Running", "--timeout", patience.String())
	for _, w := range workloads() {
		s, ok := declared[w]
		if !ok {
			t.Fatalf("the topology does not know %s; it knows %v", w, slices.Sorted(maps.Keys(declared)))
		}
		want := slices.Clone(s.Calls)
		if s.Database {
			want = append(want, "postgres")
		}
		if s.NATS != nil {
			want = append(want, "nats")
		}
		want = lines(want...)
		await(t, w+" reaches what it declares and nothing else", func() (bool, error) { // policies take a moment to know a new pod
			got := reach(t, shop, "double-"+w, all)
			if !slices.Equal(got, want) {
				t.Logf("%s reaches %q, want %q", w, got, want)
			}
			return slices.Equal(got, want), nil
		})
	}
}

// double is a pod with the labels of a workload and a shell. It is never ready, so
// that nobody is sent to it.
const double = `---
apiVersion: v1
kind: Pod
metadata:
  name: double-%[1]s
  labels: {e2e: double, app.kubernetes.io/name: waybill, app.kubernetes.io/instance: waybill, app.kubernetes.io/component: %[1]s}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: shell
      image: busybox:1.36
      imagePullPolicy: IfNotPresent
      command: [sleep, "1000000"]
      readinessProbe: {exec: {command: ["false"]}, periodSeconds: 60}
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
`

// TestAServiceEntersItsOwnDatabaseOnly tries the role of each service on the
// database of every other.
func TestAServiceEntersItsOwnDatabaseOnly(t *testing.T) {
	var secret struct{ Data map[string][]byte }
	get(t, &secret, "secret", "waybill-databases")
	if len(secret.Data) != 6 {
		t.Fatalf("there are databases of %v", slices.Sorted(maps.Keys(secret.Data)))
	}
	for service, address := range secret.Data {
		u, err := url.Parse(string(address))
		if err != nil {
			t.Fatal(err)
		}
		u.Host = "127.0.0.1:5432"
		for other := range secret.Data {
			u.Path = "/waybill_" + other
			out, err := within(t.Context(), shop, "waybill-postgres-0", "psql", "-qtAX", u.String(), "-c", "SELECT 'entered'")
			entered := err == nil && strings.Contains(out, "entered")
			if entered != (service == other) {
				t.Errorf("the role of %s enters the database of %s: %v\n%s", service, other, entered, out)
			}
			if !entered && !strings.Contains(out, "permission denied") {
				t.Errorf("the role of %s is kept out of the database of %s by something else: %s", service, other, out)
			}
		}
	}
}
