// Command overlays renders the chart for kustomize: what all splits have in common
// into k8s/base, the rest of each split into k8s/overlays/<split>. It needs helm.
//
//	overlays charts/waybill k8s mono three split
//
// The values of a split are the chart's values-<split>.yaml and k8s/values.yaml.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const heading = "# Rendered from the chart by make gen; change the chart or k8s/values.yaml instead.\n"

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: overlays chart folder split...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3:]); err != nil {
		fmt.Fprintln(os.Stderr, "overlays:", err)
		os.Exit(1)
	}
}

func run(chart, folder string, splits []string) error {
	rendered := map[string][]string{}
	common := map[string]int{} // in how many splits an object is, word for word
	for _, s := range splits {
		objects, err := render(chart, folder, s)
		if err != nil {
			return err
		}
		rendered[s] = objects
		for _, o := range objects {
			common[o]++
		}
	}
	var base []string
	for _, o := range rendered[splits[0]] {
		if common[o] == len(splits) {
			base = append(base, o)
		}
	}
	if err := write(filepath.Join(folder, "base"), "namespace: waybill\nresources: [waybill.yaml]\n", base); err != nil {
		return err
	}
	for _, s := range splits {
		own := slices.DeleteFunc(rendered[s], func(o string) bool { return common[o] == len(splits) })
		if err := write(filepath.Join(folder, "overlays", s), "namespace: waybill\nresources: [../../base, waybill.yaml]\n", own); err != nil {
			return err
		}
	}
	return nil
}

// render gives the objects of a split, as the chart orders them.
func render(chart, folder, split string) ([]string, error) {
	var errOut bytes.Buffer
	cmd := exec.Command("helm", "template", "waybill", chart, "--namespace", "waybill", "--no-hooks", "--skip-tests",
		"--values", filepath.Join(chart, "values-"+split+".yaml"), "--values", filepath.Join(folder, "values.yaml"))
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, errOut.String())
	}
	var objects []string
	for o := range strings.SplitSeq("\n"+string(out), "\n---\n") {
		if strings.Contains(o, "\nkind: ") || strings.HasPrefix(o, "kind: ") {
			objects = append(objects, strings.Trim(o, "\n")+"\n")
		}
	}
	return objects, nil
}

// write makes a folder of kustomize with one file of objects.
func write(folder, kustomization string, objects []string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	kustomization = heading + "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n" + kustomization
	if err := os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(kustomization), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "waybill.yaml"), []byte(heading+"---\n"+strings.Join(objects, "---\n")), 0o644)
}
