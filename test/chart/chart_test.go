package chart

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/config"
)

func TestHelmFindsNothingToComplainAbout(t *testing.T) {
	t.Parallel()
	for name, args := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := helm(t, nil, append([]string{"lint", "--strict", chartDir}, args...)...); err != nil {
				t.Error(err)
			}
		})
	}
}

// custom are the kinds that come with others' controllers, whose schemas are not ours to keep.
const custom = "Certificate,PodMonitor,ServiceMonitor,HTTPRoute,GRPCRoute,ScaledObject"

func TestManifestsFollowTheSchemasOfKubernetes(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, manifests string) (string, error) {
		cmd := exec.CommandContext(t.Context(), tool(t, "kubeconform"), "-strict", "-summary", "-skip", custom, "-schema-location", "testdata/schemas/{{.ResourceKind}}{{.KindSuffix}}.json")
		cmd.Stdin = strings.NewReader(manifests)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for name, args := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			manifests, err := helm(t, nil, append([]string{"template", "waybill", chartDir}, args...)...)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := check(t, manifests); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	t.Run("a field that does not exist is found", func(t *testing.T) {
		t.Parallel()
		out, err := check(t, "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: b, imagePullPolice: Never}]}\n")
		if err == nil || !strings.Contains(out, "imagePullPolice") {
			t.Errorf("kubeconform says nothing of it: %s", out)
		}
	})
}

func TestEveryVariableIsOneThatWaybillKnows(t *testing.T) {
	t.Parallel()
	for name, args := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for workload, pod := range pods(render(t, args...)) {
				env := environ(pod, "waybill")
				if len(env) == 0 {
					continue // not ours
				}
				var kv []string
				for key, value := range env {
					if strings.HasPrefix(value, "secret/") {
						value = "x"
					}
					for other, secret := range env { // as the kubelet replaces $(NAME)
						if strings.HasPrefix(secret, "secret/") {
							value = strings.ReplaceAll(value, "$("+other+")", "postgres://user:password@host/database")
						}
					}
					kv = append(kv, key+"="+value)
				}
				cfg := node.DefaultConfig()
				cmd := &cobra.Command{}
				config.Bind(cmd, &cfg)
				if err := config.Load(cmd, &cfg, config.Environ(kv)); err != nil {
					t.Errorf("%s: %v", workload, err)
				}
				if strings.Join(cfg.Services, ",") == "all" {
					t.Errorf("%s is not told which services it runs", workload)
				}
			}
		})
	}
}

func TestPodsAreAsRestrictedAsTheyCanBe(t *testing.T) {
	t.Parallel()
	for name, args := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for owner, pod := range pods(render(t, args...)) {
				wants := map[string]bool{
					"runs as somebody":               at(pod, "securityContext", "runAsNonRoot") == true && number(pod, "securityContext", "runAsUser") > 0,
					"has the runtime's seccomp":      text(pod, "securityContext", "seccompProfile", "type") == "RuntimeDefault",
					"has no service account token":   at(pod, "automountServiceAccountToken") == false,
					"is not told of other Services":  at(pod, "enableServiceLinks") == false,
					"shares nothing with its node":   at(pod, "hostNetwork") == nil && at(pod, "hostPID") == nil && at(pod, "hostIPC") == nil,
					"has volumes of the usual kinds": usualVolumes(pod),
				}
				for _, c := range containers(pod) {
					of := " (" + text(c, "name") + ")"
					s := at(c, "securityContext")
					wants["cannot become more"+of] = at(s, "allowPrivilegeEscalation") == false && at(s, "privileged") == nil
					wants["has no capabilities"+of] = fmt.Sprint(list(s, "capabilities", "drop")) == "[ALL]" && at(s, "capabilities", "add") == nil
					wants["cannot write to its image"+of] = at(s, "readOnlyRootFilesystem") == true
					wants["has a limit of memory"+of] = text(c, "resources", "limits", "memory") != ""
					wants["asks for what it needs"+of] = text(c, "resources", "requests", "memory") != "" && text(c, "resources", "requests", "cpu") != ""
					wants["is of a certain version"+of] = !strings.HasSuffix(text(c, "image"), ":latest") && strings.Contains(text(c, "image"), ":")
				}
				for what, holds := range wants {
					if !holds {
						t.Errorf("%s: want that it %s", owner, what)
					}
				}
			}
		})
	}
}

func usualVolumes(pod any) bool {
	for _, v := range list(pod, "volumes") {
		for kind := range v.(map[string]any) { //nolint:forcetypeassert // a volume is a map
			if !slices.Contains([]string{"name", "emptyDir", "secret", "configMap"}, kind) {
				return false
			}
		}
	}
	return true
}

func TestPodsEndInPeace(t *testing.T) {
	t.Parallel()
	for name, args := range variants() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for owner, pod := range pods(render(t, args...)) {
				env := environ(pod, "waybill")
				if len(env) == 0 {
					continue
				}
				c := at(pod, "containers", 0)
				sleep := number(c, "lifecycle", "preStop", "sleep", "seconds")
				if sleep < 1 {
					t.Errorf("%s ends before others know", owner)
				}
				least := sleep + seconds(t, env["WAYBILL_DRAIN_DELAY"]) + seconds(t, env["WAYBILL_STOP_TIMEOUT"]) + 5
				if grace := number(pod, "terminationGracePeriodSeconds"); grace < least {
					t.Errorf("%s is killed after %v s, but may take %v", owner, grace, least)
				}
				for probe, path := range map[string]string{"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"} {
					if text(c, probe, "httpGet", "path") != path || text(c, probe, "httpGet", "port") != "admin" {
						t.Errorf("%s: %s asks %v, want %s on the admin port", owner, probe, at(c, probe, "httpGet"), path)
					}
				}
			}
		})
	}
}

func seconds(t *testing.T, text string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(strings.TrimSuffix(text, "s"), 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRollingUpdatesNeverTakeAPodAwayBeforeThereIsAnother(t *testing.T) {
	t.Parallel()
	for name, o := range pick(render(t), "Deployment") {
		u := at(o, "spec", "strategy", "rollingUpdate")
		if number(u, "maxSurge") != 1 || at(u, "maxUnavailable") != 0.0 {
			t.Errorf("%s: %v", name, u)
		}
	}
}

func TestZeroIsNotTakenForNothing(t *testing.T) {
	t.Parallel()
	objects := render(t, "--set", "workloads.order.replicas=0", "--set", "workloads.order.minReadySeconds=0", "--set", "workloads.order.lifecycle.drainSeconds=0",
		"--set", "workloads.order.lifecycle.preStopSleepSeconds=0", "--set", "tracing.ratio=0", "--set", "workloads.user.replicas=2", "--set", "workloads.user.maxUnavailable=0",
		"--set", "workloads.order.config.reflection=false", "--set", "workloads.order.config.limit.user_rate=0", "--set-json", "workloads.order.spread=[]",
		"--set", "workloadDefaults.config.log.level=debug")
	order := one(t, objects, "Deployment", "waybill-order")
	env := environ(at(order, "spec", "template", "spec"), "waybill")
	for what, got := range map[string]any{
		"replicas":        at(order, "spec", "replicas"),
		"minReadySeconds": at(order, "spec", "minReadySeconds"),
		"maxUnavailable":  at(one(t, objects, "PodDisruptionBudget", "waybill-user"), "spec", "maxUnavailable"),
	} {
		if got != 0.0 {
			t.Errorf("%s is %v, want 0", what, got)
		}
	}
	for key, want := range map[string]string{
		"WAYBILL_DRAIN_DELAY": "0s", "WAYBILL_TRACE_RATIO": "0", "WAYBILL_REFLECTION": "false", "WAYBILL_LIMIT_USER_RATE": "0", "WAYBILL_LOG_LEVEL": "debug",
	} {
		if env[key] != want {
			t.Errorf("%s is %q, want %q", key, env[key], want)
		}
	}
	if c := at(order, "spec", "template", "spec", "containers", 0); at(c, "lifecycle") != nil {
		t.Errorf("without a sleep: %v", at(c, "lifecycle"))
	}
	if spread := at(order, "spec", "template", "spec", "topologySpreadConstraints"); spread != nil {
		t.Errorf("without keys to spread over: %v", spread)
	}
	if budgets := pick(objects, "PodDisruptionBudget"); len(budgets) != 1 {
		t.Errorf("%d budgets, want one: a workload of one pod would stop the drain of its node", len(budgets))
	}
}

func TestTheReadmeNamesEveryValuesFile(t *testing.T) {
	t.Parallel()
	files, err := os.ReadDir(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(chartDir + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), "values-") && !strings.Contains(string(readme)+string(doc), f.Name()) {
			t.Errorf("%s is mentioned nowhere", f.Name())
		}
	}
}
