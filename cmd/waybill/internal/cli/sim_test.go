package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/waybill-dev/waybill/internal/sim"
)

func TestSimRunsTheSameWorldForTheSameSeed(t *testing.T) {
	run := func(args ...string) (int, string, string) {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), append([]string{"sim"}, args...), strings.NewReader(""), &out, &errOut)
		return code, out.String(), errOut.String()
	}
	counts := func() map[string]int64 {
		code, out, errOut := run("--seed=5", "--orders=5", "--faults=all", "--json")
		if code != 0 {
			t.Fatalf("exit %d: %s%s", code, out, errOut)
		}
		var r sim.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		return r.Counts
	}
	a, b := counts(), counts()
	if a["event OrderPlaced"] != 5 || len(a) != len(b) {
		t.Errorf("first %v, then %v", a, b)
	}
	for k := range a {
		if a[k] != b[k] {
			t.Errorf("%s: first %d, then %d", k, a[k], b[k])
		}
	}
	if code, _, errOut := run("--faults=earthquake"); code != 2 || !strings.Contains(errOut, "earthquake") {
		t.Errorf("an unknown fault: exit %d, %s", code, errOut)
	}
	if code, out, _ := run("--orders=2", "--faults=none"); code != 0 || !strings.Contains(out, "1 worlds (seeds 1 to 1), 2 orders") {
		t.Errorf("exit %d: %s", code, out)
	}
}
