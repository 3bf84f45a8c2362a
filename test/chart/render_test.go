// Package chart holds the tests of charts/waybill: what it renders from each values file, what it refuses, and that both agree with the topology in the code.
// They need helm and kubeconform, not a cluster; what only a cluster can show is in test/e2e.
package chart

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/knadh/koanf/parsers/yaml"
)

const (
	chartDir  = "../../charts/waybill"
	namespace = "shop"
)

// splits are the values files, each a deployment somebody wants.
var splits = map[string][]string{
	"default": nil,
	"split":   {"-f", chartDir + "/values-split.yaml"},
	"three":   {"-f", chartDir + "/values-three.yaml"},
	"mono":    {"-f", chartDir + "/values-mono.yaml"},
}

// everything switches on what is off by default, so that every template is rendered.
var everything = []string{
	"--set", "workloads.order.autoscaling.enabled=true", "--set", "workloads.order.maxUnavailable=50%",
	"--set", "workloads.payment.autoscaling.enabled=true", "--set", "workloads.payment.autoscaling.kind=keda", "--set", "workloads.user.replicas=3",
	"--set", "ingress.enabled=true", "--set", "ingress.host=shop.example.com", "--set", "ingress.tlsSecretName=shop-tls",
	"--set", "gatewayAPI.enabled=true", "--set", "gatewayAPI.parentRefs[0].name=edge", "--set", "gatewayAPI.grpcHostnames={grpc.example.com}",
	"--set", "metrics.podMonitor.enabled=true", "--set", "networkPolicy.prometheus[0].podSelector.matchLabels.app=prometheus",
	"--set", "networkPolicy.clients[0].namespaceSelector.matchLabels.name=ingress", "--set", "tracing.endpoint=jaeger:4317",
	"--set", "tls.mode=certManager", "--set", "tls.certManager.issuerRef.name=ca", "--set", "image.pullSecrets={registry}",
}

// outside takes database, broker and certificates from elsewhere.
var outside = []string{
	"--set", "postgres.enabled=false", "--set", "postgres.external.secretName=databases", "--set", "networkPolicy.postgres[0].ipBlock.cidr=10.0.0.1/32",
	"--set", "postgres.external.secrets.order.name=waybill-order-app", "--set", "postgres.external.secrets.order.key=uri",
	"--set", "nats.enabled=false", "--set", "nats.external.url=tls://nats.nats:4222", "--set", "nats.external.secretName=nats-users",
	"--set", "nats.external.caSecretName=nats-ca", "--set", "networkPolicy.nats[0].namespaceSelector.matchLabels.name=nats",
	"--set", "secrets.existingSecret=waybill", "--set", "tls.mode=secret", "--set", "tls.secrets.order=order-certificate",
	"--set", "metrics.serviceMonitor.enabled=true", "--set", "networkPolicy.prometheus[0].podSelector.matchLabels.app=prometheus",
}

// variants are all renderings that tests of every rendering look at.
func variants() map[string][]string {
	v := maps.Clone(splits)
	v["everything"], v["outside"] = everything, outside
	v["renewed certificates"] = []string{"--set", "tls.trial.renewEvery=10s"}
	return v
}

// tool gives the path of a program the tests need. Where it is missing the test is skipped, except in CI.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("CI") != "":
		t.Fatalf("%s is not installed, and CI must test the chart", name)
	default:
		t.Skipf("%s is not installed: the chart is not tested", name)
	}
	return path
}

// helm runs helm and gives what it printed and its complaint.
func helm(t *testing.T, env []string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, "helm"), args...)
	cmd.Env = append(os.Environ(), append([]string{"KUBECONFIG=" + os.DevNull}, env...)...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, errOut.String())
	}
	return out.String(), nil
}

// An object is one Kubernetes object.
type object map[string]any

// render gives the objects of a release named waybill.
func render(t *testing.T, args ...string) []object {
	t.Helper()
	text, err := helm(t, nil, append([]string{"template", "waybill", chartDir, "--namespace", namespace}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

func parse(t *testing.T, text string) []object {
	t.Helper()
	var list []object
	for doc := range strings.SplitSeq("\n"+text, "\n---\n") {
		o, err := yaml.Parser().Unmarshal([]byte(doc))
		if err != nil {
			t.Fatalf("%v in\n%s", err, doc)
		}
		if len(o) == 0 {
			continue
		}
		data, err := json.Marshal(o) // one type of number and of map, whatever the parser made
		if err != nil {
			t.Fatal(err)
		}
		var clean object
		if err := json.Unmarshal(data, &clean); err != nil {
			t.Fatal(err)
		}
		list = append(list, clean)
	}
	return list
}

func (o object) kind() string { return text(o, "kind") }
func (o object) name() string { return text(o, "metadata", "name") }

// at follows keys of maps and indexes of lists; nil where there is nothing.
func at(v any, path ...any) any {
	for _, step := range path {
		switch s := step.(type) {
		case string:
			switch m := v.(type) {
			case object:
				v = m[s]
			case map[string]any:
				v = m[s]
			default:
				return nil
			}
		case int:
			list, _ := v.([]any)
			if s >= len(list) {
				return nil
			}
			v = list[s]
		}
	}
	return v
}

func text(v any, path ...any) string {
	s, _ := at(v, path...).(string)
	return s
}

func list(v any, path ...any) []any {
	l, _ := at(v, path...).([]any)
	return l
}

func number(v any, path ...any) float64 {
	n, _ := at(v, path...).(float64)
	return n
}

// pick gives the objects of a kind, by name.
func pick(objects []object, kinds ...string) map[string]object {
	found := map[string]object{}
	for _, o := range objects {
		if slices.Contains(kinds, o.kind()) {
			found[o.name()] = o
		}
	}
	return found
}

// one gives the object of a kind and name.
func one(t *testing.T, objects []object, kind, name string) object {
	t.Helper()
	o, ok := pick(objects, kind)[name]
	if !ok {
		t.Fatalf("there is no %s %s", kind, name)
	}
	return o
}

// pods gives the specs of all pods that objects make, by the object's name.
func pods(objects []object) map[string]any {
	found := map[string]any{}
	for name, o := range pick(objects, "Deployment", "StatefulSet") {
		found[name] = at(o, "spec", "template", "spec")
	}
	for name, o := range pick(objects, "Pod") {
		found[name] = at(o, "spec")
	}
	return found
}

// containers gives all containers of a pod, those that run first included.
func containers(pod any) []any {
	return slices.Concat(list(pod, "initContainers"), list(pod, "containers"))
}

// environ gives the environment of a pod's container, with the names of Secrets for their values.
func environ(pod any, container string) map[string]string {
	env := map[string]string{}
	for _, c := range containers(pod) {
		if text(c, "name") != container {
			continue
		}
		for _, e := range list(c, "env") {
			env[text(e, "name")] = text(e, "value")
			if ref := at(e, "valueFrom", "secretKeyRef"); ref != nil {
				env[text(e, "name")] = "secret/" + text(ref, "name") + "/" + text(ref, "key")
			}
		}
	}
	return env
}
