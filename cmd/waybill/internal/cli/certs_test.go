package cli

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/mtls"
)

// runCerts runs the command and gives its exit code and all it wrote.
func runCerts(ctx context.Context, args ...string) (code int, text string) {
	var out bytes.Buffer
	code = Main(ctx, append([]string{"certs"}, args...), strings.NewReader(""), &out, &out)
	return code, out.String()
}

func openIdentity(t *testing.T, dir string) *mtls.Identity {
	t.Helper()
	i, err := mtls.Open(mtls.Config{Dir: dir, Peers: mtls.Peers{"waybill-order": {"order"}}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = i.Close() })
	return i
}

func TestCertsMakesWhatServeReads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, out := filepath.Join(dir, "ca"), filepath.Join(dir, "tls")
	args := []string{"--ca-dir", ca, "--out", out, "--account", "waybill-order", "--namespace", "shop", "--trust-domain", "example.org", "--ttl", "1h"}
	if code, text := runCerts(t.Context(), append(args, "--no-create")...); code != 1 || !strings.Contains(text, "there is no authority") {
		t.Fatalf("without an authority: %d %s", code, text)
	}
	for range 2 { // the second time with the authority of the first
		if code, text := runCerts(t.Context(), args...); code != 0 {
			t.Fatalf("%d %s", code, text)
		}
	}
	if got, want := openIdentity(t, out).ID().String(), "spiffe://example.org/ns/shop/sa/waybill-order"; got != want {
		t.Errorf("made %s, want %s", got, want)
	}
	for name, want := range map[string]os.FileMode{"tls.key": 0o600, "tls.crt": 0o644, "ca.crt": 0o644} {
		info, err := os.Stat(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	left, err := os.ReadDir(out)
	if err != nil || len(left) != 3 {
		t.Errorf("%v are there (%v), want three files", left, err)
	}
}

func TestCertsGoesOnMakingThem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		code, _ := runCerts(ctx, "--ca-dir", dir+"/ca", "--out", dir+"/tls", "--account", "waybill-order", "--ttl", "1h", "--every", "5ms")
		ended <- code
	}()
	seen := map[string]bool{}
	for tick := time.NewTicker(time.Millisecond); len(seen) < 4; {
		select {
		case <-tick.C:
			if data, err := os.ReadFile(dir + "/tls/tls.crt"); err == nil {
				seen[string(data)] = true
			}
		case code := <-ended:
			t.Fatalf("it ended with %d", code)
		}
	}
	cancel()
	if code := <-ended; code != 0 {
		t.Errorf("it ended with %d", code)
	}
}

func TestCertsSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "--ca-dir is missing"},
		{[]string{"--ca-dir", "x", "--account", "a"}, "--out is missing"},
		{[]string{"--ca-dir", "x", "--out", "y"}, `account ""`},
		{[]string{"--ca-dir", "x", "--out", "y", "--account", "a/b"}, `account "a/b"`},
		{[]string{"--ca-dir", "x", "--out", "y", "--account", "a", "--trust-domain", "UPPER"}, `trust domain "UPPER"`},
		{[]string{"--ca-dir", "x", "--out", "y", "--account", "a", "--ttl", "0"}, "--ttl"},
		{[]string{"--ca-dir", "x", "--out", "y", "--account", "a", "--ttl", "1m", "--every", "2m"}, "too late"},
		{[]string{"extra"}, "extra"},
	} {
		if code, text := runCerts(t.Context(), c.args...); code != 2 || !strings.Contains(text, c.want) {
			t.Errorf("%v: %d %s, want 2 and %q", c.args, code, text, c.want)
		}
	}
}
