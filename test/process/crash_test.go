package process_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
)

// The places at which a process can be made to die. To those of the second list
// only its start or its stop comes, once in every service.
var (
	pointsOfLoad = []string{
		"batch.begin", "batch.load", "batch.commit", "batch.offer",
		"event.receive", "event.ack", "command.answer",
		"call.perform", "call.fold", "call.scan", "sweep.due",
		"relay.take", "relay.publish", "relay.settle", "relay.mark", "relay.scan", "relay.lease",
	}
	pointsOfLife = []string{"relay.look", "stream.ensure", "consumer.attach", "service.stop"}
)

func TestTheFailpointsOfTheCodeAreThoseTheTestsGoThrough(t *testing.T) {
	t.Parallel()
	call := regexp.MustCompile(`failpoint\.(Before|After)\("([^"]+)"\)`)
	sides := map[string]string{}
	err := filepath.WalkDir(filepath.Join(root(), "platform"), func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(text), -1) {
			sides[m[2]] += m[1]
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range slices.Concat(pointsOfLoad, pointsOfLife) {
		if sides[p] != "BeforeAfter" && sides[p] != "AfterBefore" {
			t.Errorf("point %s has the sides %q in the code", p, sides[p])
		}
		delete(sides, p)
	}
	for p := range sides {
		t.Errorf("no test goes through point %s", p)
	}
}

// TestTheLinkerLeavesOutWhatNobodyCalls: once a template can be executed, methods
// may be called by name and all of them stay, 7 MB of binary and 5 MiB of memory.
func TestTheLinkerLeavesOutWhatNobodyCalls(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "tool", "nm", binary(t)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "text/template.(*state).evalField") {
		t.Error("something that is reached executes templates; find it with go build -tags grpcnotrace -ldflags=-dumpdep")
	}
}

func TestABinaryForUseHasNoFailpoints(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "tool", "nm", binary(t)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "platform/failpoint") {
		t.Error("the binary has code of platform/failpoint")
	}
	data, err := os.ReadFile(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range slices.Concat(pointsOfLoad, pointsOfLife) {
		if strings.Contains(string(data), p) {
			t.Errorf("the binary has the text %q", p)
		}
	}
}

// A death is where a process dies.
type death struct {
	point, side string
	hit         int
}

func (d death) String() string { return fmt.Sprintf("%s:%s:%d", d.point, d.side, d.hit) }

func (d death) early() bool {
	return slices.Contains(pointsOfLife, d.point) && d.point != "service.stop"
}

// deaths gives all, hits times each.
func deaths() (all []death) {
	for i, hit := range []int{1, 2, 7} {
		for _, side := range []string{"before", "after"} {
			for _, p := range pointsOfLoad {
				all = append(all, death{p, side, hit})
			}
			for _, p := range pointsOfLife {
				all = append(all, death{p, side, []int{1, 2, 6}[i]})
			}
		}
	}
	return all
}

// proving tells whether the long versions of tests are to run: make prove.
func proving() bool { return os.Getenv("WAYBILL_PROVE") != "" }

func TestWhereverAProcessDiesNothingIsLostOrDoneTwice(t *testing.T) {
	chosen := []death{
		{"batch.commit", "before", 7}, {"batch.commit", "after", 2}, {"command.answer", "before", 1}, {"relay.publish", "after", 7},
		{"relay.mark", "before", 1}, {"call.perform", "after", 2}, {"event.ack", "before", 7}, {"stream.ensure", "after", 2},
	}
	few := chosen[:4]
	if proving() {
		chosen = deaths()
		few = slices.DeleteFunc(deaths(), func(d death) bool { return d.hit != 2 })
	}
	t.Run("SQLite and a broker inside", func(t *testing.T) {
		t.Parallel()
		dieOften(t, chosen, func(t *testing.T) ([]string, string, []string) {
			data := t.TempDir()
			return []string{"--data", data}, data, nil
		})
	})
	t.Run("Postgres and a broker outside", func(t *testing.T) {
		t.Parallel()
		dieOften(t, few, func(t *testing.T) ([]string, string, []string) {
			data, db, broker := t.TempDir(), newDatabase(t), bustest.StartServer(t)
			return []string{"--data", data, "--db", db, "--nats", broker.URL()}, data, []string{db}
		})
	})
}

// dieOften runs one server after the other on the same data; each dies at its place,
// under load. The books are checked after every so many.
func dieOften(t *testing.T, all []death, ground func(t *testing.T) (args []string, data string, db []string)) {
	const chain = 21 // deaths on the same data
	var recovery []time.Duration
	orders, n := 0, 0
	for some := range slices.Chunk(all, chain) {
		n++
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			args, data, db := ground(t)
			took, accepted := dieInTurn(t, some, args)
			recovery = append(recovery, took...)
			orders += accepted
			inspect(t, db, data)
		})
	}
	slices.Sort(recovery)
	if len(recovery) > 0 {
		t.Logf("PROVE crashes=%d orders=%d recovery_p50=%s recovery_p95=%s recovery_max=%s", len(all), orders,
			recovery[len(recovery)/2].Round(time.Millisecond), recovery[len(recovery)*95/100].Round(time.Millisecond), recovery[len(recovery)-1].Round(time.Millisecond))
	}
}

// dieInTurn gives how long it took each time until a new process had finished an
// order from its first to its last step.
func dieInTurn(t *testing.T, all []death, args []string) (recovery []time.Duration, accepted int) {
	mortal, err := buildMortals()
	if err != nil {
		t.Fatal(err)
	}
	env := settings(t)
	s := launchFrom(t, mortal, env, args...)
	s.serving()
	p := s.open()
	if code := s.terminate(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	r := newRush()
	for _, d := range all {
		own := append(slices.Clone(env), "FAILPOINT="+d.String())
		arm := filepath.Join(t.TempDir(), "arm")
		if !d.early() {
			own = append(own, "FAILPOINT_ARM="+arm)
		}
		begun := time.Now()
		s := launchFrom(t, mortal, own, args...)
		select {
		case <-s.ended: // early
		case at := <-s.log.serving:
			s.rest, s.grpc, s.admin = at.REST, at.GRPC, at.Admin
			if !d.early() {
				id := s.placeAnyhow(p)
				s.awaitOver(p, []string{id}, patience)
				recovery = append(recovery, time.Since(begun))
				r.orders[id] = struct{}{}
			}
			s.load(d, r, p, arm)
		case <-time.After(patience):
			t.Fatalf("%s: neither serving nor dead\n%s", d, s.log.tail(30))
		}
		if code := s.cmd.ProcessState.ExitCode(); code != 137 {
			t.Fatalf("%s: exit code %d, want 137\n%s", d, code, s.log.tail(30))
		}
	}
	s = launchFrom(t, mortal, env, args...)
	s.serving()
	r.settle(t, s, p)
	s.awaitOver(p, r.all(), patience)
	if code := s.terminate(); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0\n%s", code, s.log.tail(20))
	}
	return recovery, len(r.orders)
}

// load lets orders come until the server has died.
func (s *server) load(d death, r *rush, p *people, arm string) {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	wait := r.run(ctx, s, p)
	if err := os.WriteFile(arm, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if d.point == "service.stop" {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
	}
	select {
	case <-s.ended:
	case <-time.After(patience):
		s.t.Errorf("%s: nobody came by", d)
		s.kill()
	}
	stop()
	wait()
}

// placeAnyhow places an order, again and again if need be.
func (s *server) placeAnyhow(p *people) (id string) {
	s.t.Helper()
	conn, key := s.dial(), uuid.NewString()
	await(s.t, "an order is accepted", patience, func() bool {
		o, err := s.place(conn, p, 0, key)
		id = o.GetOrderId()
		return err == nil
	})
	return id
}

// inspect holds all books of a stopped server against each other, as waybill check does.
func inspect(t *testing.T, db []string, data string) {
	t.Helper()
	cfg := node.DefaultConfig()
	cfg.DB, cfg.Data = db, data
	found, err := node.Inspect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range found.Wrong {
		t.Error(w)
	}
	if len(found.Orders) == 0 {
		t.Error("there are no orders to check")
	}
}
