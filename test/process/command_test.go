package process_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

func TestCommandsThatNeedNoServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		out  []string
	}{
		{[]string{"version"}, 0, []string{"waybill "}},
		{[]string{"version", "--json"}, 0, []string{`"version": `, `"go": "go1.`}},
		{[]string{"completion", "bash"}, 0, []string{"complete ", "waybill"}},
		{[]string{"completion", "zsh"}, 0, []string{"compdef"}},
		{[]string{"--help"}, 0, []string{"serve", "demo", "load", "migrate", "login", "product", "order", "completion", "version"}},
		{[]string{"order", "--help"}, 0, []string{"place", "get", "list", "watch", "cancel", "waybill", "--json"}},
		{[]string{"product", "--help"}, 0, []string{"import", "list", "--json"}},
		{[]string{"serve", "--check-config"}, 0, []string{"the configuration is good"}},
		{[]string{"nonsense"}, 1, nil},
		{[]string{"order", "get"}, 2, nil},
		{[]string{"login"}, 2, nil},
		{[]string{"load"}, 2, nil},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Parallel()
			r := run(t, nil, "", c.args...)
			if r.code != c.code {
				t.Errorf("exit code %d, want %d\n%s", r.code, c.code, r.errOut)
			}
			if c.code != 0 && r.errOut == "" {
				t.Error("it fails without a word")
			}
			for _, want := range c.out {
				if !strings.Contains(r.out, want) {
					t.Errorf("the output has no %q:\n%s", want, r.out)
				}
			}
		})
	}
}

func TestPrintConfigHidesSecrets(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-that-nobody-may-see"
	fromFile := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(fromFile, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, environment(t.TempDir(), "WAYBILL_ADMIN_EMAIL=a@example.com", "WAYBILL_ADMIN_PASSWORD="+secret, "WAYBILL_NATS_PASSWORD="+secret,
		"WAYBILL_AUTH_KEY_SECRET_FILE="+fromFile, "WAYBILL_DB=postgres://waybill:"+secret+"@db/waybill"), "", "serve", "--print-config", "--grpc-addr", ":7777")
	if r.code != 0 {
		t.Fatal(r.errOut)
	}
	if strings.Contains(r.out+r.errOut, secret) {
		t.Errorf("a secret is shown:\n%s", r.out)
	}
	for _, want := range []string{`grpc_addr: ":7777"`, `password: "[redacted]"`, `key_secret: "[redacted]"`, "postgres://waybill:", "# address of the gRPC interface"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("the settings in force do not show %s", want)
		}
	}
	// What is printed can be loaded again.
	file := filepath.Join(t.TempDir(), "waybill.yaml")
	if err := os.WriteFile(file, []byte(r.out), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, nil, "", "serve", "--check-config", "--config", file); r.code != 0 {
		t.Errorf("the settings that were printed cannot be loaded: %s", r.errOut)
	}
}

func TestMigrateMayBeRunAgain(t *testing.T) {
	t.Parallel()
	eachDatabase(t, func(t *testing.T, data string, db []string) {
		args := []string{"migrate", "--data", data}
		for _, d := range db {
			args = append(args, "--db", d)
		}
		for range 2 {
			if r := run(t, nil, "", args...); r.code != 0 || !strings.Contains(r.out, "up to date") {
				t.Errorf("exit code %d: %s%s", r.code, r.out, r.errOut)
			}
		}
	})
}

// TestEveryClientCommandSpeaksToPeopleAndToPrograms runs each with and without
// --json, in the order in which a user would.
func TestEveryClientCommandSpeaksToPeopleAndToPrograms(t *testing.T) {
	t.Parallel()
	s := serve(t, settings(t, "WAYBILL_SHIPPING_SCAN_EVERY=300ms"), "--data", t.TempDir())
	home := t.TempDir()
	with := func(password string) []string {
		return environment(home, "WAYBILL_SERVER="+s.grpc, "WAYBILL_PASSWORD="+password)
	}
	env := with("")
	good := func(args ...string) string {
		t.Helper()
		r := run(t, env, "", args...)
		if r.code != 0 {
			t.Fatalf("waybill %s: exit code %d: %s", strings.Join(args, " "), r.code, r.errOut)
		}
		return r.out
	}
	parsed := func(m proto.Message, args ...string) {
		t.Helper()
		out := good(append(args, "--json")...)
		if err := protojson.Unmarshal([]byte(out), m); err != nil {
			t.Errorf("waybill %s --json: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	says := func(out string, words ...string) {
		t.Helper()
		for _, w := range words {
			if !strings.Contains(out, w) {
				t.Errorf("the output does not say %q:\n%s", w, out)
			}
		}
	}

	run(t, env, "", "order", "list").refused(t, 1, "not logged in", "waybill login")
	run(t, with("wrong horse battery"), "", "login", "--email", adminEmail).refused(t, 1, "reason: ")
	run(t, env, "", "login", "--email", adminEmail).refused(t, 1, "no password")
	if r := run(t, env, adminPassword+"\n", "login", "--email", adminEmail); r.code != 0 {
		t.Fatalf("log in with the password from standard input: %s", r.errOut)
	}
	env = with(adminPassword)
	says(good("login", "--email", adminEmail), "logged in", adminEmail)

	// A list with a bad line: which line, which column, and nothing is imported.
	file := filepath.Join(home, "products.csv")
	const head = "sku,name,price,currency,stock\nMUG-1,\"Mug, blue\",12.50,EUR,40\n"
	if err := os.WriteFile(file, []byte(head+"MUG-2,Mug,12.505,EUR,40\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, env, "", "product", "import", file).refused(t, 1, file, "line 3", "column price")
	run(t, env, head+"MUG-2,Mug,12.50,EUR,many\n", "product", "import", "-").refused(t, 1, "line 3", "column stock", "many")
	run(t, env, "", "product", "import", filepath.Join(home, "missing.csv")).refused(t, 1, "missing.csv")
	var products inventoryv1.ListProductsResponse
	if parsed(&products, "product", "list"); len(products.GetProducts()) != 0 {
		t.Errorf("%d products were imported from lists with bad lines", len(products.GetProducts()))
	}
	if err := os.WriteFile(file, []byte(head+"MUG-2,\"Mug, red\",12.50,EUR,40\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var imported inventoryv1.ImportProductsResponse
	if parsed(&imported, "product", "import", file); imported.GetImportedCount() != 2 {
		t.Errorf("%d products imported, want 2", imported.GetImportedCount())
	}
	says(good("product", "import", file), "0 products imported")
	says(good("product", "list", "--order-by", "sku"), "MUG-1", "Mug, red", "12.50 EUR", "40")
	parsed(&products, "product", "list")
	product := products.GetProducts()[0].GetProductId()

	env = with("a long pass phrase")
	var who map[string]string
	if out := good("login", "--sign-up", "--email", "ann@example.com", "--name", "Ann Lee", "--json"); json.Unmarshal([]byte(out), &who) != nil || who["user_id"] == "" {
		t.Errorf("login --json: %s", out)
	}
	run(t, env, "", "product", "import", file).refused(t, 1, "reason: ") // customers may not
	place := []string{"order", "place", "--line", product + "=2", "--recipient", "Ann Lee", "--address", "12 Harbour Street", "--city", "Bergen",
		"--postal-code", "5003", "--region", "NO"}
	run(t, env, "", "order", "place").refused(t, 2, "--line")
	run(t, env, "", "order", "place", "--line", product+"=two").refused(t, 2, "--line", "whole number")
	run(t, env, "", "order", "place", "--line", product).refused(t, 1, "ship_to")
	says(good(append(place, "--watch", "--payment-token", "tok_declined")...), "order_placed", "stock_held", "payment_declined", "CANCELLED")

	var first, again orderv1.Order
	key := uuid.NewString()
	parsed(&first, append(place, "--request-id", key)...)
	parsed(&again, append(place, "--request-id", key)...)
	if first.GetOrderId() == "" || first.GetOrderId() != again.GetOrderId() {
		t.Errorf("the same --request-id gave the orders %q and %q", first.GetOrderId(), again.GetOrderId())
	}
	id := first.GetOrderId()
	says(good("order", "watch", id), "shipment_delivered", "DELIVERED")
	var last orderv1.WatchOrderResponse
	if parsed(&last, "order", "watch", id, "--resume-token", "7"); last.GetEntry().GetEvent() != "shipment_delivered" {
		t.Errorf("after the seventh entry comes %s", last.GetEntry().GetEvent())
	}
	says(good("order", "get", id), id, "DELIVERED", "25.00 EUR", "tracking")
	parsed(&first, "order", "get", id)
	if first.GetStatus() != orderv1.OrderStatus_ORDER_STATUS_DELIVERED {
		t.Errorf("the order is %s", first.GetStatus())
	}
	says(good("order", "list"), id, "DELIVERED", "CANCELLED")
	var list orderv1.ListOrdersResponse
	if parsed(&list, "order", "list", "--filter", `status = "DELIVERED"`); len(list.GetOrders()) != 1 {
		t.Errorf("%d orders are delivered, want 1", len(list.GetOrders()))
	}
	var bill orderv1.Waybill
	if parsed(&bill, "order", "waybill", id); len(bill.GetEntries()) != 8 {
		t.Errorf("%d entries on the waybill, want 8", len(bill.GetEntries()))
	}
	says(good("order", "waybill", id), "stock_committed", "payment_captured", "shipment_scheduled")
	run(t, env, "", "order", "cancel", id).refused(t, 1, "ORDER_NOT_CANCELLABLE")
	run(t, env, "", "order", "get", uuid.NewString()).refused(t, 1, "reason: ")
	run(t, env, "", "order", "get", "17").refused(t, 1, "order_id")
	slow := append(place, "--payment-token", "tok_slow")
	parsed(&first, slow...)
	says(good("order", "cancel", first.GetOrderId(), "--reason", "changed my mind"), "CANCELL", "changed my mind")
	parsed(&first, slow...)
	parsed(&first, "order", "cancel", first.GetOrderId())
	if first.GetReason() != orderv1.OrderReason_ORDER_REASON_CUSTOMER_REQUEST {
		t.Errorf("a cancelled order gives the reason %s", first.GetReason())
	}

	// Measuring the server that runs, as an administrator.
	load := run(t, append(env, "WAYBILL_ADMIN_EMAIL="+adminEmail, "WAYBILL_ADMIN_PASSWORD="+adminPassword), "",
		"load", "--in-flight", "4", "--duration", "1s", "--warmup", "0s", "--products", "5", "--customers", "2", "--json")
	var report struct {
		Created   float64            `json:"created_per_second"`
		Completed float64            `json:"completed_per_second"`
		CreateMS  map[string]float64 `json:"create_ms"`
		Complete  map[string]float64 `json:"complete_ms"`
		Errors    map[string]int     `json:"errors"`
	}
	if err := json.Unmarshal([]byte(load.out), &report); load.code != 0 || err != nil || report.Created <= 0 || len(report.Errors) > 0 {
		t.Errorf("load: exit code %d (%v): %s%s", load.code, err, load.out, load.errOut)
	}
	for _, q := range []string{"p50", "p95", "p99", "max"} {
		if report.CreateMS[q] <= 0 {
			t.Errorf("load reports no create_ms.%s", q)
		}
	}
}
