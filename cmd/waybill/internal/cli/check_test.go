package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// check runs `waybill check` on a folder of databases.
func check(t *testing.T, dir string) (code int, found node.Findings, errOut string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Main(t.Context(), []string{"check", "--json", "--data", dir}, strings.NewReader(""), &out, &errs)
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &found); err != nil {
			t.Fatal(err)
		}
	}
	return code, found, errs.String()
}

// tamper changes a database behind the back of its service, and gives the order
// that was changed.
func tamper(t *testing.T, dir, service, pick, change string) (order string) {
	t.Helper()
	db, err := sqldb.Open(t.Context(), sqldb.Config{URL: "sqlite://" + filepath.Join(dir, service+".db")})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(t.Context(), pick).Scan(&order); err != nil {
		t.Fatal(err)
	}
	if n, err := db.Exec(t.Context(), change, order); err != nil || n == 0 {
		t.Fatalf("%s: %d rows (%v)", change, n, err)
	}
	return order
}

func TestCheckNamesEveryOrderThatDoesNotAddUp(t *testing.T) {
	dir := t.TempDir()
	if code, _, errOut := check(t, dir); code != 1 || !strings.Contains(errOut, "NO_DATABASE") {
		t.Fatalf("a folder without databases gives %d: %s", code, errOut)
	}
	var out, errs bytes.Buffer
	if code := Main(context.WithoutCancel(t.Context()), []string{"load", "--self", "--data", dir, "--in-flight", "4", "--duration", "1s", "--warmup", "0s",
		"--payment-tokens", "tok_ok,tok_declined,tok_capture_fails", "--products", "5"}, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("load: %s", errs.String())
	}
	code, found, errOut := check(t, dir)
	if code != 0 || len(found.Wrong) != 0 || found.Orders["SCHEDULED"] == 0 || found.Orders["CANCELLED"] == 0 {
		t.Fatalf("after a load: %d, %+v, %s", code, found, errOut)
	}
	for what, order := range map[string]string{
		"was changed":     tamper(t, dir, "order", `SELECT id FROM orders WHERE status = 6 LIMIT 1`, `DELETE FROM waybill_entries WHERE order_id = ? AND sequence = 2`),
		"were taken":      tamper(t, dir, "order", `SELECT id FROM orders WHERE status = 6 LIMIT 1 OFFSET 1`, `UPDATE order_details SET total_minor = total_minor + 1 WHERE id = ?`),
		"are kept":        tamper(t, dir, "order", `SELECT id FROM orders WHERE status = 6 LIMIT 1 OFFSET 2`, `UPDATE orders SET status = 13 WHERE id = ?`),
		"its stock is":    tamper(t, dir, "inventory", `SELECT id FROM holds WHERE state = 'COMMITTED' LIMIT 1 OFFSET 3`, `UPDATE holds SET state = 'RELEASED' WHERE id = ?`),
		"movements add":   tamper(t, dir, "inventory", `SELECT product_id FROM movements WHERE kind = 'SOLD' LIMIT 1`, `UPDATE stock SET on_hand = on_hand + 1 WHERE id = ?`),
		"up to zero":      tamper(t, dir, "payment", `SELECT order_id FROM postings WHERE booking = 1 LIMIT 1 OFFSET 5`, `UPDATE postings SET amount = amount + 1 WHERE seq = (SELECT min(seq) FROM postings WHERE order_id = ?)`),
		"known to paymen": tamper(t, dir, "order", `SELECT id FROM orders WHERE status = 6 LIMIT 1 OFFSET 4`, `DELETE FROM orders WHERE id = ?`),
	} {
		code, found, errOut := check(t, dir)
		all := strings.Join(found.Wrong, "\n")
		if code != 1 || !strings.Contains(errOut, "BOOKS_WRONG") {
			t.Fatalf("with wrong books: %d, %s", code, errOut)
		}
		named := false
		for _, line := range found.Wrong {
			named = named || strings.Contains(line, order) && strings.Contains(line, what)
		}
		if !named {
			t.Errorf("no line says of %s that it %q:\n%s", order, what, all)
		}
	}
}
