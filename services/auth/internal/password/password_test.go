package password

import (
	"bytes"
	"context"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
)

var (
	cheap = Params{Memory: 64, Time: 1, Threads: 1}
	owasp = Params{Memory: 19456, Time: 2, Threads: 1}
)

func TestHashesArePHCStringsOfTheRecommendedCost(t *testing.T) {
	h := New(Config{Params: owasp, Parallel: 1, Wait: time.Second})
	hash, err := h.Hash(t.Context(), "correct horse battery")
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$`).MatchString(hash) {
		t.Errorf("got %s", hash)
	}
	p, err := parse(hash)
	if err != nil || len(p.salt) != 16 || len(p.tag) != 32 || p.String() != hash {
		t.Errorf("reading it gives %+v, %v", p, err)
	}
	if again, _ := h.Hash(t.Context(), "correct horse battery"); again == hash {
		t.Error("the salt is not new")
	}
}

func TestOnlyTheSamePasswordPasses(t *testing.T) {
	h := New(Config{Params: cheap, Parallel: 2, Wait: time.Second})
	long := strings.Repeat("x", 72)
	for _, c := range []struct {
		name, hashed, tried string
		want                bool
	}{
		{"the same", "correct horse", "correct horse", true},
		{"a capital", "correct horse", "Correct horse", false},
		{"a blank", "correct horse", "correct horse ", false},
		{"the 73rd byte", long + "a", long + "b", false},
		{"72 of 73 bytes", long + "a", long, false},
		{"nothing", "correct horse", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			hash, err := h.Hash(t.Context(), c.hashed)
			if err != nil {
				t.Fatal(err)
			}
			ok, stale, err := h.Check(t.Context(), hash, c.tried)
			if ok != c.want || stale || err != nil {
				t.Errorf("got %v, stale %v, %v", ok, stale, err)
			}
		})
	}
}

// Whoever does not exist costs as much as whoever does: the same derivation with
// the same parameters.
func TestNobodyIsHashedLikeSomebody(t *testing.T) {
	var used []Params
	h := New(Config{Params: cheap, Parallel: 1, Wait: time.Second, KDF: func(_, salt []byte, p Params) []byte {
		if len(salt) != saltLen {
			t.Errorf("salt of %d bytes", len(salt))
		}
		used = append(used, p)
		return bytes.Repeat([]byte{7}, tagLen)
	}})
	hash, err := h.Hash(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	used = nil
	if ok, _, _ := h.Check(t.Context(), hash, "x"); !ok {
		t.Error("somebody is refused")
	}
	if ok, _, err := h.Check(t.Context(), "", "x"); ok || err != nil {
		t.Errorf("nobody passes: %v, %v", ok, err)
	}
	if len(used) != 2 || used[0] != used[1] {
		t.Errorf("derived with %v", used)
	}
}

func TestOtherParametersMakeAHashStale(t *testing.T) {
	before := New(Config{Params: cheap, Parallel: 1, Wait: time.Second})
	hash, err := before.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	after := New(Config{Params: Params{Memory: 128, Time: 1, Threads: 1}, Parallel: 1, Wait: time.Second})
	if ok, stale, err := after.Check(t.Context(), hash, "correct horse"); !ok || !stale || err != nil {
		t.Errorf("got %v, stale %v, %v", ok, stale, err)
	}
}

func TestAHundredAtOnceAreBounded(t *testing.T) {
	var running, peak, done atomic.Int64
	entered := make(chan struct{}, 100)
	release := make(chan struct{})
	h := New(Config{Params: cheap, Parallel: 2, Wait: 10 * time.Millisecond, KDF: func(_, _ []byte, _ Params) []byte {
		if n := running.Add(1); n > peak.Load() {
			peak.Store(n)
		}
		entered <- struct{}{}
		<-release
		running.Add(-1)
		done.Add(1)
		return make([]byte, tagLen)
	}})
	var refused atomic.Int64
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			_, err := h.Hash(context.Background(), "x")
			if err == nil {
				return
			}
			if errs.KindOf(err) != errs.ResourceExhausted || errs.ReasonOf(err) != "BUSY" {
				t.Error(err)
			}
			if refused.Add(1) == 98 { // the two who got in hold their places until then
				close(release)
			}
		})
	}
	all.Wait()
	if peak.Load() > 2 || done.Load() != 2 || len(entered) != 2 {
		t.Errorf("%d at once, %d in all, %d refused", peak.Load(), done.Load(), refused.Load())
	}
}

func TestWhoGivesUpWaitingLeaves(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	h := New(Config{Params: cheap, Parallel: 1, Wait: time.Hour, KDF: func(_, _ []byte, _ Params) []byte {
		close(entered)
		<-release
		return make([]byte, tagLen)
	}})
	var first sync.WaitGroup
	first.Go(func() { _, _ = h.Hash(context.Background(), "x") })
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.Hash(ctx, "x"); errs.KindOf(err) != errs.Canceled {
		t.Errorf("got %v", err)
	}
	close(release)
	first.Wait()
}

func TestHashesThatCannotBeReadAreErrorsThatShowNothing(t *testing.T) {
	h := New(Config{Params: cheap, Parallel: 1, Wait: time.Second})
	good, err := h.Hash(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"x", "$", strings.Replace(good, "argon2id", "argon2i", 1), strings.Replace(good, "v=19", "v=16", 1),
		strings.Replace(good, "m=64", "m=0", 1), strings.Replace(good, "m=64", "m=99999999999", 1), strings.Replace(good, "t=1", "t=-1", 1),
		strings.Replace(good, "p=1", "p=256", 1), strings.Replace(good, "m=64,t=1", "t=1,m=64", 1), good[:len(good)-1], good + "$", strings.Replace(good, "$m", "$m=1,m", 1),
	} {
		ok, _, err := h.Check(t.Context(), bad, "x")
		if ok || err == nil || len(bad) > 10 && strings.Contains(err.Error(), bad[len(bad)-8:]) {
			t.Errorf("%q: %v, %v", bad, ok, err)
		}
	}
}

func FuzzStoredHashesNeverPanic(f *testing.F) {
	h := New(Config{Params: cheap, Parallel: 1, Wait: time.Second, KDF: func(_, _ []byte, _ Params) []byte { return make([]byte, tagLen) }})
	f.Add("$argon2id$v=19$m=64,t=1,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, hash string) {
		if p, err := parse(hash); err == nil && p.String() != hash {
			t.Errorf("%q is also %q", hash, p.String())
		}
		_, _, _ = h.Check(t.Context(), hash, "x")
	})
}

func BenchmarkHash(b *testing.B) {
	h := New(Config{Params: owasp, Parallel: 1, Wait: time.Second})
	b.ReportAllocs()
	for b.Loop() {
		if _, err := h.Hash(b.Context(), "correct horse battery"); err != nil {
			b.Fatal(err)
		}
	}
}
