// Command prove runs every experiment there is on Waybill's promises, each in its
// long version, and prints one table. It exits with 1 if any of them failed.
//
// Tests tell their figures in lines "PROVE name=value …", which are added up:
// numbers by their sum, times by the longest. The simulation's own summary is
// taken as it is.
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// A tier is one kind of experiment: the tests of one package that a pattern names.
type tier struct {
	name, pkg, run string
	env            []string
}

// lanes are run side by side, one for each of two cores; the tiers of a lane one
// after the other.
func lanes() [][]tier {
	seeds := os.Getenv("SEEDS")
	if seeds == "" {
		seeds = "2000"
	}
	return [][]tier{
		{{name: "simulation", pkg: "./test/sim", run: ".", env: []string{"WAYBILL_SIM_SEEDS=" + seeds, "GOMAXPROCS=1"}}},
		{
			{name: "crash points", pkg: "./test/process", run: "WhereverAProcessDies"},
			{name: "kills and pauses", pkg: "./test/process", run: "KilledTenTimes|StandStill|StayAway|LostAnswer"},
			{name: "broker loss", pkg: "./platform/outbox", run: "BrokersFiles|OlderCopy|FullStream|GoodStream"},
			{name: "linearizability", pkg: "./test/system", run: "AsIf"},
		},
	}
}

// An outcome is what became of a tier.
type outcome struct {
	tier    tier
	passed  int
	failed  []string
	took    time.Duration
	figures figures
	err     error
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := prove(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		stop()
		os.Exit(1) //nolint:gocritic // stop has been called
	}
}

// prove writes the table to out.
func prove(ctx context.Context, out io.Writer) error {
	dir := filepath.Join(".tmp", "prove")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	begun := time.Now()
	all := lanes()
	results := make([][]outcome, len(all))
	var running sync.WaitGroup
	var say sync.Mutex
	for i, lane := range all {
		running.Go(func() {
			for _, t := range lane {
				o := t.experiment(ctx, dir)
				results[i] = append(results[i], o)
				say.Lock()
				fmt.Fprintf(out, "%-18s %s after %s\n", t.name, o.verdict(), o.took.Round(time.Second))
				say.Unlock()
			}
		})
	}
	running.Wait()

	bad := 0
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "\ntier\tresult\ttime\tfigures\n")
	for _, lane := range results {
		for _, o := range lane {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", o.tier.name, o.verdict(), o.took.Round(time.Second), o.figures)
			if o.err != nil {
				bad++
			}
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	commit, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		commit = []byte("unknown")
	}
	fmt.Fprintf(out, "\ncommit %s, %s in all, on %s; what was said is in %s\n", bytes.TrimSpace(commit), time.Since(begun).Round(time.Second), time.Now().UTC().Format(time.DateOnly), dir)
	for _, lane := range results {
		for _, o := range lane {
			for _, name := range o.failed {
				fmt.Fprintf(out, "failed: %s: %s\n", o.tier.name, name)
			}
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d tiers failed", bad)
	}
	return nil
}

var (
	ended = regexp.MustCompile(`^\s*--- (PASS|FAIL): (\S+)`)
	told  = regexp.MustCompile(`PROVE (.+)$`)
	sums  = regexp.MustCompile(`\d+ worlds, \d+ orders, .*violations$`)
)

// experiment runs the tier's tests and keeps what they say in a file.
func (t tier) experiment(ctx context.Context, dir string) outcome {
	begun := time.Now()
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout=30m", "-v", "-run", t.run, t.pkg)
	cmd.Env = append(append(os.Environ(), "WAYBILL_PROVE=1"), t.env...)
	out, err := cmd.CombinedOutput()
	o := outcome{tier: t, err: err}
	for line := range strings.Lines(string(out)) {
		line = strings.TrimRight(line, "\n")
		if m := ended.FindStringSubmatch(line); m != nil {
			if m[1] == "PASS" {
				o.passed++
			} else {
				o.failed = append(o.failed, m[2])
			}
		}
		if m := told.FindStringSubmatch(line); m != nil {
			o.figures.add(m[1])
		}
		if m := sums.FindString(line); m != "" {
			o.figures.text = append(o.figures.text, m)
		}
	}
	if o.err == nil && o.passed == 0 {
		o.err = fmt.Errorf("no test of %s is named by %q", t.pkg, t.run)
		o.failed = append(o.failed, o.err.Error())
	}
	name := filepath.Join(dir, strings.ReplaceAll(t.name, " ", "-")+".log")
	if err := os.WriteFile(name, out, 0o600); err != nil && o.err == nil {
		o.err = err
	}
	o.took = time.Since(begun)
	return o
}

func (o outcome) verdict() string {
	if o.err != nil {
		return "FAILED"
	}
	return fmt.Sprintf("%d passed", o.passed)
}

// figures are named numbers and times, in the order in which they were first told.
type figures struct {
	text  []string
	names []string
	num   map[string]int64
	long  map[string]time.Duration
}

func (f *figures) add(text string) {
	if f.num == nil {
		f.num, f.long = map[string]int64{}, map[string]time.Duration{}
	}
	for part := range strings.FieldsSeq(text) {
		name, value, ok := strings.Cut(part, "=")
		if !ok {
			continue
		}
		_, isNum := f.num[name]
		_, isLong := f.long[name]
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			f.num[name] += n
		} else if d, err := time.ParseDuration(value); err == nil {
			f.long[name] = max(f.long[name], d)
		} else {
			continue
		}
		if !isNum && !isLong {
			f.names = append(f.names, name)
		}
	}
}

// String gives all figures as one line.
func (f figures) String() string {
	parts := append([]string{}, f.text...)
	for _, name := range f.names {
		if n, ok := f.num[name]; ok {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ReplaceAll(name, "_", " ")))
		} else {
			parts = append(parts, fmt.Sprintf("%s %s", strings.ReplaceAll(name, "_", " "), f.long[name]))
		}
	}
	return strings.Join(parts, ", ")
}
