package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-dev/waybill/services/order/orderd"
)

// rebuild runs `waybill projection rebuild` on a folder of databases.
func rebuild(t *testing.T, dir string, flags ...string) (code int, r orderd.Report, errOut string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(t.Context(), append([]string{"projection", "rebuild", "--json", "--data", dir}, flags...), strings.NewReader(""), &out, &errs)
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
	}
	return code, r, errs.String()
}

func TestAllOrdersOfTheDemoFoldToTheirRowsAndOneThatDoesNotIsRebuilt(t *testing.T) {
	temp := t.TempDir()
	for _, flag := range []string{"--check", "--check=false"} {
		if code, _, errOut := rebuild(t, temp, flag); code != 1 || !strings.Contains(errOut, "NO_DATABASE") {
			t.Fatalf("a folder without databases gives %d: %s", code, errOut)
		}
	}
	if made, _ := filepath.Glob(filepath.Join(temp, "*.db")); len(made) != 0 {
		t.Errorf("databases were made: %v", made)
	}
	if code, _, errOut := rebuild(t, temp, "--services", "order,payment,shipping"); code != 1 || !strings.Contains(errOut, "EVENTS_MISSING") {
		t.Errorf("without the events of inventory: %d: %s", code, errOut)
	}

	t.Setenv("TMPDIR", temp)
	var out, errs bytes.Buffer
	if code := Main(context.WithoutCancel(t.Context()), []string{"demo", "--keep"}, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("demo: %s", errs.String())
	}
	found, err := filepath.Glob(filepath.Join(temp, "waybill-demo-*"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	dir := found[0]
	if code, r, errOut := rebuild(t, dir, "--check"); code != 0 || r.Orders != 204 || len(r.Differ) != 0 || r.TooOld != 0 {
		t.Fatalf("after the demo: %d, %+v, %s", code, r, errOut)
	}

	order := tamper(t, dir, "order", `SELECT id FROM orders WHERE status = 8 LIMIT 1`, `UPDATE orders SET status = 7 WHERE id = ?`)
	lacks := tamper(t, dir, "order", `SELECT id FROM orders WHERE status = 13 LIMIT 1`, `UPDATE order_details SET total_minor = total_minor + 1 WHERE id = ?`)
	tamper(t, dir, "shipping", `SELECT '`+lacks+`'`, `DELETE FROM outbox WHERE instr(payload, CAST(? AS BLOB)) > 0`)
	code, r, errOut := rebuild(t, dir, "--check")
	if code != 1 || !strings.Contains(errOut, "ORDERS_DIFFER") || len(r.Differ) != 2 || r.Rebuilt != 0 {
		t.Fatalf("of two that differ: %d, %+v, %s", code, r, errOut)
	}
	if code, again, _ := rebuild(t, dir, "--check"); code != 1 || len(again.Differ) != 2 {
		t.Errorf("a check has mended something: %+v", again)
	}
	out.Reset()
	errs.Reset()
	code = Main(t.Context(), []string{"projection", "rebuild", "--data", dir}, strings.NewReader(""), &out, &errs)
	if code != 1 || !strings.Contains(errs.String(), "1 orders are not") {
		t.Errorf("with one that cannot be decided: %d, %s", code, errs.String())
	}
	for _, line := range []string{
		"order " + order + ": status is DISPATCHED, and its events make it DELIVERED",
		"order " + order + " was rebuilt",
		"order " + lacks + ": event ",
		"order " + lacks + " is left as it is",
		"204 orders folded from 2",
		"2 differ, 1 of them rebuilt",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("no line says %q:\n%s", line, out.String())
		}
	}
	if _, r, _ := rebuild(t, dir, "--check"); len(r.Differ) != 1 || r.Differ[0].OrderID != lacks || !r.Differ[0].Undecided {
		t.Errorf("afterwards: %+v", r)
	}
}
