package chart

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/waybill-dev/waybill/internal/topology"
)

// workloads gives the services of each workload, as its pods are told.
func workloads(objects []object) map[string][]string {
	found := map[string][]string{}
	for name, pod := range pods(objects) {
		if services := environ(pod, "waybill")["WAYBILL_SERVICES"]; services != "" {
			found[strings.TrimPrefix(name, "waybill-")] = strings.Split(services, ",")
		}
	}
	return found
}

// runs tells which workload runs a service.
func runs(workloads map[string][]string, service string) string {
	for name, services := range workloads {
		if slices.Contains(services, service) {
			return name
		}
	}
	return ""
}

// declared gives who may connect to whom, "from -> to:port", as the topology has it.
func declared(workloads map[string][]string) []string {
	var edges []string
	for from, services := range workloads {
		for _, s := range services {
			e := topology.Describe().Services[s]
			for _, called := range e.Calls {
				if to := runs(workloads, called); to != from {
					edges = append(edges, fmt.Sprintf("%s -> %s:grpc", from, to))
				}
			}
			if e.Database {
				edges = append(edges, from+" -> postgres:5432")
			}
			if e.NATS != nil {
				edges = append(edges, from+" -> nats:4222")
			}
		}
	}
	gateway := runs(workloads, "gateway")
	edges = append(edges, "test -> "+gateway+":http", "test -> "+gateway+":public-grpc")
	slices.Sort(edges)
	return slices.Compact(edges)
}

// opened gives who may connect to whom within the release, seen from one side: "Ingress" or "Egress".
func opened(objects []object, side string) []string {
	var edges []string
	for _, o := range pick(objects, "NetworkPolicy") {
		self := component(at(o, "spec", "podSelector"))
		rules, peers := "ingress", "from"
		if side == "Egress" {
			rules, peers = "egress", "to"
		}
		for _, rule := range list(o, "spec", rules) {
			for _, peer := range list(rule, peers) {
				other := component(at(peer, "podSelector"))
				if other == "" {
					continue // outside of the release
				}
				for _, p := range list(rule, "ports") {
					from, to := other, self
					if side == "Egress" {
						from, to = self, other
					}
					edges = append(edges, fmt.Sprintf("%s -> %s:%v", from, to, at(p, "port")))
				}
			}
		}
	}
	slices.Sort(edges)
	return slices.Compact(edges)
}

func component(selector any) string {
	return text(selector, "matchLabels", "app.kubernetes.io/component")
}

func TestNetworkPoliciesOpenWhatIsDeclaredAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"default", "split", "three"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := render(t, splits[name]...)
			want := declared(workloads(objects))
			for _, side := range []string{"Ingress", "Egress"} {
				if diff := cmp.Diff(want, opened(objects, side)); diff != "" {
					t.Errorf("%s (- declared, + opened):\n%s", side, diff)
				}
			}
		})
	}
}

func TestEveryPodOfTheReleaseIsClosedBothWays(t *testing.T) {
	t.Parallel()
	for name, args := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := render(t, args...)
			closed := one(t, objects, "NetworkPolicy", "waybill-closed")
			if len(list(closed, "spec", "ingress"))+len(list(closed, "spec", "egress")) > 0 || fmt.Sprint(list(closed, "spec", "policyTypes")) != "[Ingress Egress]" {
				t.Errorf("the first policy opens something: %v", closed["spec"])
			}
			selector, _ := at(closed, "spec", "podSelector", "matchLabels").(map[string]any)
			for owner, labels := range podLabels(objects) {
				for key, want := range selector {
					if labels[key] != want {
						t.Errorf("%s is not closed: its label %s is %v", owner, key, labels[key])
					}
				}
			}
		})
	}
}

// podLabels gives the labels of all pods that objects make.
func podLabels(objects []object) map[string]map[string]any {
	found := map[string]map[string]any{}
	for name, o := range pick(objects, "Deployment", "StatefulSet") {
		found[name], _ = at(o, "spec", "template", "metadata", "labels").(map[string]any)
	}
	for name, o := range pick(objects, "Pod") {
		found[name], _ = at(o, "metadata", "labels").(map[string]any)
	}
	return found
}

func TestSelectorsFindThePodsTheyMean(t *testing.T) {
	t.Parallel()
	for name, args := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := render(t, args...)
			labels := podLabels(objects)
			split := workloads(objects)
			for service, o := range pick(objects, "Service") {
				selector, _ := at(o, "spec", "selector").(map[string]any)
				var found []string
				for owner, l := range labels {
					if includes(l, selector) {
						found = append(found, strings.TrimPrefix(owner, "waybill-"))
					}
				}
				slices.Sort(found)
				short := strings.TrimPrefix(service, "waybill-")
				want := []string{short} // a server of the chart's own
				if to := runs(split, short); to != "" {
					want = []string{to}
				} else if short == "metrics" {
					want = slices.Sorted(maps.Keys(split))
				}
				if diff := cmp.Diff(want, found); diff != "" {
					t.Errorf("the Service %s (- want, + selects):\n%s", service, diff)
				}
			}
		})
	}
}

func includes(labels, selector map[string]any) bool {
	for key, want := range selector {
		if labels[key] != want {
			return false
		}
	}
	return true
}

func TestEveryWorkloadIsToldWhereToFindWhatItCallsAndWhoItsPeersAre(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"default", "split", "three"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := render(t, splits[name]...)
			split := workloads(objects)
			services := pick(objects, "Service")
			var peers []string
			for name, own := range split {
				peers = append(peers, "waybill-"+name+"="+strings.Join(own, "+"))
			}
			slices.Sort(peers)
			for owner, pod := range pods(objects) {
				env := environ(pod, "waybill")
				if len(env) == 0 {
					continue
				}
				var want []string
				for _, s := range split[strings.TrimPrefix(owner, "waybill-")] {
					for _, called := range topology.Describe().Services[s].Calls {
						if runs(split, called) != strings.TrimPrefix(owner, "waybill-") {
							want = append(want, fmt.Sprintf("%s=dns:///waybill-%s.%s.svc.cluster.local:9090", called, called, namespace))
						}
						if o := services["waybill-"+called]; text(o, "spec", "clusterIP") != "None" || number(o, "spec", "ports", 0, "port") != 9090 {
							t.Errorf("there is no headless Service for %s", called)
						}
					}
				}
				slices.Sort(want)
				want = slices.Compact(want)
				var got []string
				if env["WAYBILL_UPSTREAM"] != "" {
					got = strings.Split(env["WAYBILL_UPSTREAM"], ",")
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("%s (- want, + told):\n%s", owner, diff)
				}
				if diff := cmp.Diff(peers, strings.Split(env["WAYBILL_TLS_PEERS"], ",")); diff != "" {
					t.Errorf("%s (- peers, + told):\n%s", owner, diff)
				}
			}
		})
	}
}

func TestUsersOfTheBrokerMayDoWhatTheirServicesDoAndNothingElse(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"default", "split", "three"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			objects := render(t, splits[name]...)
			file := filepath.Join(t.TempDir(), "nats.conf")
			if err := os.WriteFile(file, []byte(text(one(t, objects, "Secret", "waybill-nats-config"), "stringData", "nats.conf")), 0o600); err != nil {
				t.Fatal(err)
			}
			conf, err := server.ProcessConfigFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if conf.SyncInterval <= 0 || conf.StoreDir != "/data" || conf.JetStreamMaxStore < 6<<30 {
				t.Errorf("streams: %s, forced to disk every %s, up to %d bytes", conf.StoreDir, conf.SyncInterval, conf.JetStreamMaxStore)
			}
			split := workloads(objects)
			passwords := one(t, objects, "Secret", "waybill-nats")
			seen := map[string]bool{}
			for _, u := range conf.Users {
				seen[u.Username] = true
				if len(u.Password) < 32 || u.Password != text(passwords, "stringData", u.Username) {
					t.Errorf("%s has another password than its pods", u.Username)
				}
				var publish []string
				subscribe := []string{"_INBOX." + u.Username + ".>"}
				for _, s := range split[u.Username] {
					if n := topology.Describe().Services[s].NATS; n != nil {
						publish, subscribe = append(publish, n.Publish...), append(subscribe, n.Subscribe...)
					}
				}
				for what, pair := range map[string][2][]string{"publish": {publish, u.Permissions.Publish.Allow}, "subscribe": {subscribe, u.Permissions.Subscribe.Allow}} {
					slices.Sort(pair[0])
					if diff := cmp.Diff(slices.Compact(pair[0]), pair[1]); diff != "" {
						t.Errorf("%s may %s (- declared, + allowed):\n%s", u.Username, what, diff)
					}
				}
			}
			for name, services := range split {
				if hears := !slices.Equal(services, []string{"gateway"}); hears != seen[name] {
					t.Errorf("%s (%v) has a user: %v", name, services, seen[name])
				}
			}
		})
	}
}

func TestEachPodSeesTheDatabasesOfItsOwnServicesOnly(t *testing.T) {
	t.Parallel()
	for name, args := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for owner, pod := range pods(render(t, args...)) {
				env := environ(pod, "waybill")
				for key := range env {
					service, found := strings.CutPrefix(key, "DB_")
					if found && !slices.Contains(strings.Split(env["WAYBILL_SERVICES"], ","), strings.ToLower(service)) {
						t.Errorf("%s has the address of the database of %s", owner, service)
					}
				}
				for service, variable := range map[string]string{"auth": "WAYBILL_AUTH_KEY_SECRET", "payment": "WAYBILL_PAYMENT_WEBHOOK_SECRET"} {
					if _, has := env[variable]; has != slices.Contains(strings.Split(env["WAYBILL_SERVICES"], ","), service) {
						t.Errorf("%s has %s: %v", owner, variable, has)
					}
				}
			}
		})
	}
}

func TestTheKeyThatSignsCertificatesIsSeenByNoProcessThatServes(t *testing.T) {
	t.Parallel()
	for owner, pod := range pods(render(t)) {
		for _, c := range containers(pod) {
			for _, m := range list(c, "volumeMounts") {
				if text(m, "name") == "ca" && text(c, "name") != "certs" {
					t.Errorf("%s mounts it in %s", owner, text(c, "name"))
				}
			}
		}
	}
}
