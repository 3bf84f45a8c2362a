// Package sim_test runs simulated worlds: a few in every test run, thousands with
// `make prove`. `waybill sim` runs them one by one.
package sim_test

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/waybill-dev/waybill/internal/sim"
)

// corpus is where worlds are kept that once went wrong.
const corpus = "corpus/seeds"

// proving tells whether this is the long run, and gives how many worlds it has.
func proving(t *testing.T) (worlds int, long bool) {
	t.Helper()
	text := os.Getenv("WAYBILL_SIM_SEEDS")
	if text == "" {
		return 8, false
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("WAYBILL_SIM_SEEDS is %q, want a number of worlds", text)
	}
	return n, true
}

// fail tells what went wrong in a world and how to see it again.
func fail(t *testing.T, r *sim.Result) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", r.Replay())
	for _, v := range r.Violations {
		fmt.Fprintf(&b, "  %s\n", v)
	}
	for id, lines := range r.Waybills {
		fmt.Fprintf(&b, "  order %s\n    %s\n", id, strings.Join(lines, "\n    "))
	}
	t.Error(b.String())
}

// keep writes a world down that went wrong, for the next run to begin with.
func keep(t *testing.T, r *sim.Result) {
	t.Helper()
	f, err := os.OpenFile(corpus, os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	faults := strings.TrimPrefix(r.Replay()[strings.Index(r.Replay(), "--faults="):], "--faults=")
	if _, err = fmt.Fprintf(f, "%d %d %s # %s\n", r.Seed, r.Orders, faults, r.Violations[0].Rule); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestWorldsThatOnceWentWrong(t *testing.T) {
	f, err := os.Open(corpus)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	worlds := 0
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 {
			t.Fatalf("%s: %q is not seed, orders, faults", corpus, text)
		}
		seed, err := strconv.ParseUint(words[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		orders, err := strconv.Atoi(words[1])
		if err != nil {
			t.Fatal(err)
		}
		faults, err := sim.ParseFaults(words[2])
		if err != nil {
			t.Fatal(err)
		}
		r, err := sim.Run(seed, sim.Options{Orders: orders, Faults: faults})
		if err != nil {
			t.Fatal(err)
		}
		if worlds++; len(r.Violations) > 0 {
			fail(t, r)
		}
	}
	t.Logf("%d worlds", worlds)
}

func TestTheSameSeedIsTheSameRun(t *testing.T) {
	runs := 3
	if _, long := proving(t); long {
		runs = 50
	}
	var first *sim.Result
	for range runs {
		r, err := sim.Run(3, sim.Options{Faults: sim.Faults()})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = r
		}
		if r.Trace != first.Trace {
			t.Fatalf("the trace is %s, and was %s", r.Trace, first.Trace)
		}
	}
	t.Logf("%d runs, all %s", runs, first.Trace)
}

func TestNothingIsLostAndNothingHappensTwice(t *testing.T) {
	worlds, long := proving(t)
	opt := sim.Options{Orders: 60}
	if !long {
		opt = sim.Options{Faults: sim.Faults()}
	}
	r, err := sim.Many(t.Context(), 1, worlds, opt, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range r.Failed {
		fail(t, one)
		if long {
			keep(t, one)
		}
	}
	t.Logf("%d worlds, %d orders, %d events, %d messages delivered, %d violations", r.Seeds, r.Orders, r.Events, r.Counts["messages delivered"], len(r.Failed))
	if long {
		for _, what := range r.Missing() {
			t.Errorf("this never happened: %s; the worlds prove less than they seem to", what)
		}
		for _, what := range sim.Sorted(r.Counts) {
			t.Logf("%9d %s", r.Counts[what], what)
		}
	}
}

// TestTheWorldsNoticeWhatIsMissing switches off one protection after the other: a
// harness that does not notice that is none.
func TestTheWorldsNoticeWhatIsMissing(t *testing.T) {
	_, long := proving(t)
	patience := uint64(200)
	mutants := sim.Mutants()
	if !long {
		mutants = []sim.Mutant{sim.InboxOff, sim.MarkBeforeAck, sim.RandomKey, sim.NoTombstones} // those that show at once
		patience = 20
	}
	for _, m := range mutants {
		faults := sim.Faults()
		if m == sim.NoSweeper { // with clocks that differ one cannot tell who is late
			faults = slices.DeleteFunc(faults, func(f sim.Fault) bool { return f == sim.Skew })
		}
		seed := uint64(1)
		for ; seed <= patience; seed++ {
			r, err := sim.Run(seed, sim.Options{Faults: faults, Mutant: m})
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Violations) > 0 {
				t.Logf("%-40s %3d seeds  %s", m, seed, r.Violations[0].Rule)
				break
			}
		}
		if seed > patience {
			t.Errorf("%q goes unnoticed in %d worlds", m, patience)
		}
	}
}

// TestTheInboxAloneSuffices is a control: the broker's own de-duplication only saves
// work.
func TestTheInboxAloneSuffices(t *testing.T) {
	worlds, long := proving(t)
	if worlds = min(worlds, 100); !long {
		worlds = 3
	}
	r, err := sim.Many(t.Context(), 1, worlds, sim.Options{Faults: sim.Faults(), Mutant: sim.MsgIDOff}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range r.Failed {
		fail(t, one)
	}
}

func TestFaultsAreReadAndRefused(t *testing.T) {
	for text, want := range map[string][]sim.Fault{"none": {}, "all": sim.Faults(), "crash, tail": {sim.Crash, sim.Tail}} {
		if got, err := sim.ParseFaults(text); err != nil || !slices.Equal(got, want) || got == nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	if got, err := sim.ParseFaults("swarm"); err != nil || got != nil {
		t.Errorf("swarm: %v, %v", got, err)
	}
	if _, err := sim.ParseFaults("earthquake"); err == nil {
		t.Error("an unknown fault is taken")
	}
}
