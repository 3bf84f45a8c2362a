package chart

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// cluster is an API server that knows Secrets and nothing else, for helm to look them up.
func cluster(t *testing.T, secrets map[string]object) (env []string) {
	t.Helper()
	answer := func(w http.ResponseWriter, code int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		if err := json.NewEncoder(w).Encode(v); err != nil {
			t.Error(err)
		}
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, isSecret := strings.CutPrefix(r.URL.Path, "/api/v1/namespaces/"+namespace+"/secrets/")
		switch {
		case r.URL.Path == "/version":
			answer(w, http.StatusOK, object{"major": "1", "minor": "34", "gitVersion": "v1.34.4"})
		case r.URL.Path == "/api":
			answer(w, http.StatusOK, object{"kind": "APIVersions", "versions": []string{"v1"}})
		case r.URL.Path == "/apis":
			answer(w, http.StatusOK, object{"kind": "APIGroupList", "apiVersion": "v1", "groups": []any{}})
		case r.URL.Path == "/api/v1":
			answer(w, http.StatusOK, object{"kind": "APIResourceList", "groupVersion": "v1", "resources": []any{
				object{"name": "secrets", "singularName": "secret", "namespaced": true, "kind": "Secret", "verbs": []string{"get"}},
			}})
		case isSecret && secrets[name] != nil:
			answer(w, http.StatusOK, secrets[name])
		default:
			answer(w, http.StatusNotFound, object{"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})
		}
	}))
	t.Cleanup(srv.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	config := `{"apiVersion":"v1","kind":"Config","current-context":"a","contexts":[{"name":"a","context":{"cluster":"a","user":"a"}}],` +
		`"clusters":[{"name":"a","cluster":{"server":"` + srv.URL + `"}}],"users":[{"name":"a","user":{}}]}`
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"KUBECONFIG=" + file}
}

// renderIn renders as an upgrade does that looks into a cluster with these Secrets.
func renderIn(t *testing.T, secrets map[string]object, args ...string) []object {
	t.Helper()
	text, err := helm(t, cluster(t, secrets), append([]string{"template", "waybill", chartDir, "--namespace", namespace, "--dry-run=server"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

// stored gives Secrets as a cluster keeps them.
func stored(objects []object) map[string]object {
	kept := map[string]object{}
	for name, o := range pick(objects, "Secret") {
		data := map[string]any{}
		given, _ := o["stringData"].(map[string]any)
		for key, value := range given {
			s, _ := value.(string)
			data[key] = base64.StdEncoding.EncodeToString([]byte(s))
		}
		kept[name] = object{"apiVersion": "v1", "kind": "Secret", "metadata": object{"name": name, "namespace": namespace}, "data": data}
	}
	return kept
}

func TestAnUpgradeKeepsTheSecretsAndTouchesNoPod(t *testing.T) {
	t.Parallel()
	first := renderIn(t, nil)
	second := renderIn(t, stored(first))
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("an upgrade that changes nothing changes (- before, + after):\n%s", diff)
	}
	if fresh := render(t); cmp.Equal(pick(first, "Secret"), pick(fresh, "Secret")) {
		t.Error("two installations have the same secrets")
	}
}

func TestAnotherSplitKeepsTheSecretsAndGetsUsersOfItsOwn(t *testing.T) {
	t.Parallel()
	before := renderIn(t, nil)
	after := renderIn(t, stored(before), splits["three"]...)
	for _, name := range []string{"waybill-secrets", "waybill-postgres", "waybill-databases", "waybill-ca"} {
		if diff := cmp.Diff(one(t, before, "Secret", name)["stringData"], one(t, after, "Secret", name)["stringData"]); diff != "" {
			t.Errorf("%s (- before, + after):\n%s", name, diff)
		}
	}
	users, _ := one(t, after, "Secret", "waybill-nats")["stringData"].(map[string]any)
	if got := slices.Sorted(maps.Keys(users)); !slices.Equal(got, []string{"gateway", "goods", "sales"}) {
		t.Errorf("the broker has users %v", got)
	}
}

func TestASecretThatIsMissingIsMadeWithoutTouchingTheOthers(t *testing.T) {
	t.Parallel()
	before := stored(renderIn(t, nil))
	data, _ := before["waybill-postgres"]["data"].(map[string]any)
	delete(data, "order")
	after := stored(renderIn(t, before))
	got, _ := after["waybill-postgres"]["data"].(map[string]any)
	if got["order"] == nil || got["payment"] != data["payment"] {
		t.Errorf("a new password for order: %v, the one of payment kept: %v", got["order"] != nil, got["payment"] == data["payment"])
	}
}

func TestSecretsThatFollowFromASeedAreTheSameEachTime(t *testing.T) {
	t.Parallel()
	args := []string{"--set", "secrets.seed=of the tests", "--set", "tls.mode=none"}
	first := render(t, args...)
	if diff := cmp.Diff(first, render(t, args...)); diff != "" {
		t.Errorf("two renderings differ:\n%s", diff)
	}
	seen := map[any]string{}
	for name, o := range pick(first, "Secret") {
		given, _ := o["stringData"].(map[string]any)
		for key, value := range given {
			if other, twice := seen[value]; twice {
				t.Errorf("%s/%s is the same as %s", name, key, other)
			}
			seen[value] = name + "/" + key
		}
	}
}

func TestSecretsOutliveTheReleaseAsTheVolumesDo(t *testing.T) {
	t.Parallel()
	objects := render(t)
	for _, name := range []string{"waybill-secrets", "waybill-postgres", "waybill-nats", "waybill-ca"} {
		if text(one(t, objects, "Secret", name), "metadata", "annotations", "helm.sh/resource-policy") != "keep" {
			t.Errorf("%s goes with the release", name)
		}
	}
	for name, o := range pick(objects, "StatefulSet") {
		if text(o, "spec", "persistentVolumeClaimRetentionPolicy", "whenDeleted") != "Retain" {
			t.Errorf("the volume of %s goes with the release", name)
		}
	}
}

func TestNothingIsAHookButTheTests(t *testing.T) {
	t.Parallel()
	for name, args := range variants() {
		for _, o := range render(t, args...) {
			if hook := text(o, "metadata", "annotations", "helm.sh/hook"); hook != "" && hook != "test" {
				t.Errorf("%s: %s %s is the hook %s", name, o.kind(), o.name(), hook)
			}
		}
	}
}
