package cli

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/waybill-dev/waybill/platform/errs"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

func TestMoneyIsPrintedAsPeopleWriteIt(t *testing.T) {
	for want, m := range map[string]*typev1.Money{
		"":          nil,
		"12.50 EUR": {MinorUnits: 1250, CurrencyCode: "EUR"},
		"0.05 EUR":  {MinorUnits: 5, CurrencyCode: "EUR"},
		"-0.05 EUR": {MinorUnits: -5, CurrencyCode: "EUR"},
		"500 JPY":   {MinorUnits: 500, CurrencyCode: "JPY"},
		"1.250 KWD": {MinorUnits: 1250, CurrencyCode: "KWD"},
		"0.00 EUR":  {CurrencyCode: "EUR"},
	} {
		if got := money(m); got != want {
			t.Errorf("money(%v) = %q, want %q", m, got, want)
		}
	}
}

func TestErrorsAreExplainedOnce(t *testing.T) {
	field := errs.Field{Path: "ship_to.region_code", Problem: "must be two letters"}
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"plain":              {errors.New("no such file"), "no such file"},
		"with fields":        {errs.E(errs.Invalid, "INVALID_REQUEST", "the request is wrong").WithFields(field), "the request is wrong\n  ship_to.region_code: must be two letters\n  reason: INVALID_REQUEST"},
		"fields in the text": {errs.E(errs.Invalid, "X", "wrong:\n  ship_to.region_code: must be two letters").WithFields(field), "wrong:\n  ship_to.region_code: must be two letters\n  reason: X"},
		"wrapped":            {fmt.Errorf("products.csv: %w", errs.E(errs.Invalid, "", "bad line")), "products.csv: bad line"},
		"of a call":          {status.Error(codes.Unavailable, "no connection"), "no connection"},
	} {
		if got := explain(c.err); !strings.Contains(got, c.want) || strings.Count(got, "two letters") > 1 {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestThePasswordComesFromStandardInputWhenThereIsNoTerminal(t *testing.T) {
	t.Setenv("WAYBILL_PASSWORD", "")
	for in, want := range map[string]string{"secret\n": "secret", "secret\r\n": "secret", "two words": "two words", " spaced \n": " spaced "} {
		if got, err := readPassword(strings.NewReader(in), &bytes.Buffer{}); err != nil || got != want {
			t.Errorf("from %q: %q (%v), want %q", in, got, err, want)
		}
	}
	if _, err := readPassword(strings.NewReader("\n"), &bytes.Buffer{}); errs.ReasonOf(err) != "NO_PASSWORD" {
		t.Errorf("an empty password gives %v", err)
	}
	t.Setenv("WAYBILL_PASSWORD", "from the environment")
	if got, _ := readPassword(strings.NewReader("other\n"), &bytes.Buffer{}); got != "from the environment" {
		t.Errorf("the variable is not heard: %q", got)
	}
}

func TestASessionIsKeptForItsServerAndReadableByItsOwner(t *testing.T) {
	t.Setenv("WAYBILL_HOME", t.TempDir())
	if _, err := loadSession("a:1"); errs.ReasonOf(err) != "NOT_LOGGED_IN" {
		t.Errorf("without a session: %v", err)
	}
	s := session{Email: "ann@example.com", AccessToken: "t"}
	if err := s.save("a:1"); err != nil {
		t.Fatal(err)
	}
	if got, err := loadSession("a:1"); err != nil || got != s {
		t.Errorf("got %v (%v), want %v", got, err, s)
	}
	if _, err := loadSession("b:1"); errs.ReasonOf(err) != "NOT_LOGGED_IN" {
		t.Errorf("another server's session is used: %v", err)
	}
}

func TestExitCodesTellWrongCommandLinesFromFailures(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{
		{[]string{"version"}, 0},
		{[]string{"version", "now"}, 2},
		{[]string{"serve", "--nonsense"}, 2},
		{[]string{"order", "get", "a", "b"}, 2},
		{[]string{"load", "--rate", "1", "--in-flight", "1"}, 2},
		{[]string{"serve", "--config", "missing.yaml"}, 1},
	} {
		var out, errOut bytes.Buffer
		if got := Main(t.Context(), c.args, strings.NewReader(""), &out, &errOut); got != c.want {
			t.Errorf("waybill %v: exit code %d, want %d\n%s", c.args, got, c.want, errOut.String())
		}
		if c.want != 0 && !strings.HasPrefix(errOut.String(), "waybill ") {
			t.Errorf("waybill %v: the error does not begin with the command: %s", c.args, errOut.String())
		}
	}
}
