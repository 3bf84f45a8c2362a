package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
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

// loaded fills a folder with the databases of a short load.
func loaded(t *testing.T, dir string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := Main(context.WithoutCancel(t.Context()), []string{"load", "--self", "--data", dir, "--in-flight", "30", "--duration", "1s", "--warmup", "0s",
		"--payment-tokens", "tok_ok,tok_declined,tok_capture_fails", "--products", "5"}, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("load: %s", errs.String())
	}
}

func TestCheckNamesEveryOrderThatDoesNotAddUp(t *testing.T) {
	dir := t.TempDir()
	if code, _, errOut := check(t, dir); code != 1 || !strings.Contains(errOut, "NO_DATABASE") {
		t.Fatalf("a folder without databases gives %d: %s", code, errOut)
	}
	loaded(t, dir)
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

func TestCheckNamesAnEventThatWasRemoved(t *testing.T) {
	dir := t.TempDir()
	loaded(t, dir)
	// Shipping's events have come of age, all but the last of each parcel that was sent.
	old := `created_at - 8 * 86400 * 1000000`
	for _, change := range []string{
		`UPDATE shipments SET id = '0190' || substr(id, 5)`, `UPDATE outbox SET aggregate_id = '0190' || substr(aggregate_id, 5)`,
		`UPDATE outbox SET created_at = ` + old + ` WHERE type <> 'waybill.shipping.v1.ShipmentScheduled'`,
		`DELETE FROM outbox WHERE created_at < (SELECT max(created_at) FROM outbox) - 7 * 86400 * 1000000`,
	} {
		tamper(t, dir, "shipping", `SELECT 'all'`, change+` -- ?`)
	}
	if code, found, errOut := check(t, dir); code != 0 {
		t.Fatalf("cleared away by age: %d, %+v, %s", code, found, errOut)
	}
	remove := func(version string) string {
		return `DELETE FROM outbox WHERE aggregate_id = ? AND version = ` + version
	}
	for _, c := range []struct{ service, pick, change, text string }{
		{"auth", `SELECT id FROM accounts WHERE event_seq = 1 LIMIT 1`, remove("1"), "accounts %s: event 1 is missing"},
		{"user", `SELECT id FROM users LIMIT 1`, `UPDATE users SET event_seq = 2 WHERE id = ?`, "users %s: events 1 to 2 are missing"},
		{"inventory", `SELECT id FROM stock WHERE event_seq > 0 LIMIT 1`, remove("1"), "stock %s: event 1 is missing"},
		{"inventory", `SELECT id FROM holds WHERE event_seq > 1 LIMIT 1`, remove("2"), "holds %s: event 2 is missing"},
		{"order", `SELECT id FROM orders WHERE status = 13 LIMIT 1`, remove("2"), "orders %s: event 2 is missing"},
		{"payment", `SELECT id FROM payments WHERE event_seq = 2 LIMIT 1`, remove("1"), "payments %s: event 1 is missing"},
		{"shipping", `SELECT aggregate_id FROM outbox WHERE version = 1 LIMIT 1`, `UPDATE shipments SET event_seq = event_seq + 1 WHERE id = ?`, "shipments %s: event 2 is missing"},
	} {
		id := tamper(t, dir, c.service, c.pick, c.change)
		code, found, errOut := check(t, dir)
		if code != 1 || !strings.Contains(errOut, "BOOKS_WRONG") {
			t.Fatalf("with an event removed: %d, %s", code, errOut)
		}
		if want := c.service + ": outbox: " + fmt.Sprintf(c.text, id); !slices.Contains(found.Wrong, want) {
			t.Errorf("no line says %q:\n%s", want, strings.Join(found.Wrong, "\n"))
		}
	}
}
