package contract_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var saysCompatible = regexp.MustCompile(`(?m)^-- compatible: ([1-9][0-9]*)$`)

// TestEveryMigrationSaysWhichOlderProgramWorksOnItsTables and exists for both
// databases with the same word. The first of a set has nobody before it.
func TestEveryMigrationSaysWhichOlderProgramWorksOnItsTables(t *testing.T) {
	sets, err := filepath.Glob("../../services/*/internal/store/migrations")
	if err != nil {
		t.Fatal(err)
	}
	if sets = append(sets, "../../platform/react/migrations"); len(sets) < 7 {
		t.Fatalf("only %d sets of migrations were found", len(sets))
	}
	for _, set := range sets {
		said := map[string]map[string]string{}
		for _, dialect := range []string{"sqlite", "postgres"} {
			files, err := filepath.Glob(filepath.Join(set, dialect, "*"))
			if err != nil || len(files) == 0 {
				t.Fatalf("%s has no migrations for %s (%v)", set, dialect, err)
			}
			slices.Sort(files)
			said[dialect] = map[string]string{}
			for i, file := range files {
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				word := ""
				if m := saysCompatible.FindSubmatch(text); m != nil {
					word = string(m[1])
				} else if i > 0 {
					t.Errorf("%s has no line \"-- compatible: <version>\"; CONTRIBUTING.md tells which", file)
				}
				said[dialect][filepath.Base(file)] = word
			}
		}
		if diff := cmp.Diff(said["sqlite"], said["postgres"]); diff != "" {
			t.Errorf("%s (-sqlite +postgres):\n%s", set, diff)
		}
	}
}
