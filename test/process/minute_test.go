package process_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/bus/bustest"
)

// TestPostgresAndTheBrokerMayBeAwayForLong takes away one after the other under
// `waybill load`. It is long, so it has to be asked for: WAYBILL_OUTAGE=60s.
func TestPostgresAndTheBrokerMayBeAwayForLong(t *testing.T) {
	away, err := time.ParseDuration(os.Getenv("WAYBILL_OUTAGE"))
	if err != nil {
		t.Skip("WAYBILL_OUTAGE says how long, as in 60s")
	}
	database, data, broker := newDatabase(t), t.TempDir(), bustest.StartServer(t)
	line := startLine(t, database)
	s := serve(t, settings(t), "--data", data, "--db", line.url(), "--nats", broker.URL())
	p, r := s.open(), newRush()
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	r.pace = pace.C
	memory := watchMemory(t, s.cmd.Process.Pid)
	load := exec.Command(binary(t), "load", "--server", s.grpc, "--rate", "20", "--duration", (3*away + 30*time.Second).String(), "--settle", "1m", "--json")
	load.Env = environment(t.TempDir(), "WAYBILL_ADMIN_EMAIL="+adminEmail, "WAYBILL_ADMIN_PASSWORD="+adminPassword)
	var report, said bytes.Buffer
	load.Stdout, load.Stderr = &report, &said
	if err := load.Start(); err != nil {
		t.Fatal(err)
	}
	more, end := r.begin(t, s, p)
	more(50)
	for name, outage := range map[string]struct{ begin, end func() }{
		"the broker": {broker.Kill, broker.Start},
		"Postgres":   {line.cut, line.mend},
	} {
		before, small := len(r.all()), memory.Load()
		outage.begin()
		lasting(away)
		accepted := r.all()
		outage.end()
		back := time.Now()
		next := s.placeAnyhow(p)
		first := time.Since(back)
		s.awaitOver(p, append(accepted, next), patience)
		t.Logf("%s away for %s: %d orders accepted meanwhile, the next after %s, all that were accepted over after %s, memory at most %d MiB (%d before)",
			name, away, len(accepted)-before, first.Round(time.Millisecond), time.Since(back).Round(time.Millisecond), memory.Load(), small)
	}
	end()
	if err := load.Wait(); err != nil {
		t.Errorf("waybill load: %v\n%s", err, said.String())
	}
	var figures struct {
		Created int64
		Errors  map[string]int64
	}
	if err := json.Unmarshal(report.Bytes(), &figures); err != nil {
		t.Errorf("the report of waybill load: %v\n%s", err, report.String())
	}
	t.Logf("waybill load: %d orders, errors %v", figures.Created, figures.Errors)
	r.settle(t, s, p)
	s.awaitOver(p, r.all(), patience)
	if code := s.terminate(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, s.log.tail(20))
	}
	inspect(t, []string{database}, data)
}

// watchMemory gives the most memory in MiB that a process has had resident.
func watchMemory(t *testing.T, pid int) *atomic.Int64 {
	t.Helper()
	most := &atomic.Int64{}
	go func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-t.Context().Done():
				return
			case <-tick.C:
			}
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				return // it has ended, or there is no such file on this system
			}
			_, rest, _ := strings.Cut(string(text), "VmRSS:")
			kib, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
			if n, err := strconv.ParseInt(kib, 10, 64); err == nil {
				most.Store(max(most.Load(), n/1024))
			}
		}
	}()
	return most
}
