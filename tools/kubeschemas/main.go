// Command kubeschemas writes JSON schemas for kubeconform from the OpenAPI description that a Kubernetes cluster gives of itself, for the kinds the chart makes.
//
//	kubectl get --raw /openapi/v2 | go run ./kubeschemas ../test/chart/testdata/schemas
//
// Fields that Kubernetes does not know are errors in them, and descriptions are left out, which makes them small enough to keep here: tests then need no network.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// kinds are those the chart makes, by the names OpenAPI has for them.
var kinds = []string{
	"io.k8s.api.apps.v1.Deployment", "io.k8s.api.apps.v1.StatefulSet", "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
	"io.k8s.api.core.v1.ConfigMap", "io.k8s.api.core.v1.Pod", "io.k8s.api.core.v1.Secret", "io.k8s.api.core.v1.Service", "io.k8s.api.core.v1.ServiceAccount",
	"io.k8s.api.networking.v1.Ingress", "io.k8s.api.networking.v1.NetworkPolicy", "io.k8s.api.policy.v1.PodDisruptionBudget",
}

const (
	refPrefix = "#/definitions/"
	quantity  = "io.k8s.apimachinery.pkg.api.resource.Quantity"
	intOrText = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: kubectl get --raw /openapi/v2 | kubeschemas <directory>")
		os.Exit(2)
	}
	if err := run(os.Stdin, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "kubeschemas:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, dir string) error {
	var api struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.NewDecoder(in).Decode(&api); err != nil {
		return err
	}
	for _, kind := range kinds {
		if api.Definitions[kind] == nil {
			return fmt.Errorf("this cluster does not know %s", kind)
		}
		used := map[string]any{}
		collect(api.Definitions, kind, used)
		schema := map[string]any{"$ref": refPrefix + kind, "definitions": used}
		data, err := json.Marshal(schema)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, fileName(kind)), append(data, '\n'), 0o644); err != nil { //nolint:gosec // read by everybody
			return err
		}
	}
	return nil
}

// fileName gives the name under which kubeconform looks for a kind: {{.ResourceKind}}{{.KindSuffix}}.json.
func fileName(kind string) string {
	parts := strings.Split(strings.TrimPrefix(kind, "io.k8s.api."), ".")
	group, version, name := parts[0], parts[1], strings.ToLower(parts[2])
	if group == "core" {
		return name + "-" + version + ".json"
	}
	return name + "-" + group + "-" + version + ".json"
}

// collect puts a definition and what it refers to into used.
func collect(all map[string]map[string]any, name string, used map[string]any) {
	if used[name] != nil {
		return
	}
	switch name {
	case quantity, intOrText: // OpenAPI calls them strings
		used[name] = map[string]any{"type": []string{"string", "integer", "number"}}
		return
	}
	used[name] = true // being made
	bare, _ := strict(all[name]).(map[string]any)
	used[name] = bare
	walk(bare, func(ref string) { collect(all, ref, used) })
}

// strict copies a schema without what only people read, and forbids unknown fields.
func strict(schema any) any {
	switch s := schema.(type) {
	case map[string]any:
		c := map[string]any{}
		for key, value := range s {
			if key == "description" && isText(value) || strings.HasPrefix(key, "x-kubernetes") {
				continue
			}
			c[key] = strict(value)
		}
		if c["properties"] != nil && c["additionalProperties"] == nil {
			c["additionalProperties"] = false
		}
		return c
	case []any:
		c := make([]any, len(s))
		for i := range s {
			c[i] = strict(s[i])
		}
		return c
	}
	return schema
}

func isText(v any) bool { _, ok := v.(string); return ok }

// walk calls fn with the name of every definition a schema refers to.
func walk(schema any, fn func(ref string)) {
	switch s := schema.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(s)) {
			if ref, ok := s[key].(string); ok && key == "$ref" {
				fn(strings.TrimPrefix(ref, refPrefix))
			}
			walk(s[key], fn)
		}
	case []any:
		for _, inner := range s {
			walk(inner, fn)
		}
	}
}
