package process_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/bus/bustest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	opsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// A desk is where an operator types commands.
type desk struct {
	t       *testing.T
	env     []string
	product string
}

// newDesk logs in at a server and puts something into its shop.
func newDesk(t *testing.T, s *server) *desk {
	t.Helper()
	d := &desk{t: t, env: environment(t.TempDir(), "WAYBILL_SERVER="+s.grpc, "WAYBILL_PASSWORD="+adminPassword)}
	run(t, d.env, "", "saga", "stuck").refused(t, 1, "not logged in", "waybill login")
	d.waybill(0, "login", "--email", adminEmail)
	file := filepath.Join(t.TempDir(), "products.csv")
	if err := os.WriteFile(file, []byte("sku,name,price,currency,stock\nMUG-1,Mug,12.50,EUR,40\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.waybill(0, "product", "import", file)
	var products inventoryv1.ListProductsResponse
	d.parsed(&products, "product", "list")
	d.product = products.GetProducts()[0].GetProductId()
	return d
}

// waybill runs a command that has to end with a code.
func (d *desk) waybill(code int, args ...string) result {
	d.t.Helper()
	r := run(d.t, d.env, "", args...)
	if !slices.Contains(args, "--json") {
		d.t.Logf("$ waybill %s\n%s%s", strings.Join(args, " "), r.out, r.errOut)
	}
	if r.code != code {
		d.t.Errorf("waybill %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.errOut)
	}
	return r
}

// says runs a command that has to end with a code and to say words.
func (d *desk) says(code int, words []string, args ...string) {
	d.t.Helper()
	r := d.waybill(code, args...)
	for _, w := range words {
		if !strings.Contains(r.out+r.errOut, w) {
			d.t.Errorf("waybill %s does not say %q:\n%s%s", strings.Join(args, " "), w, r.out, r.errOut)
		}
	}
}

// parsed runs a command with --json and reads what it prints.
func (d *desk) parsed(m proto.Message, args ...string) {
	d.t.Helper()
	if err := protojson.Unmarshal([]byte(d.waybill(0, append(args, "--json")...).out), m); err != nil {
		d.t.Fatalf("waybill %s --json: %v", strings.Join(args, " "), err)
	}
}

// place places an order and waits until it has come to a status.
func (d *desk) place(until orderv1.OrderStatus) (id string) {
	d.t.Helper()
	var o orderv1.Order
	d.parsed(&o, "order", "place", "--line", d.product+"=1", "--recipient", "Ann Lee", "--address", "12 Harbour Street", "--city", "Bergen", "--postal-code", "5003", "--region", "NO")
	d.until(o.GetOrderId(), until)
	return o.GetOrderId()
}

// until waits until an order has come to a status.
func (d *desk) until(id string, status orderv1.OrderStatus) {
	d.t.Helper()
	await(d.t, "the order is "+status.String(), patience, func() bool {
		var o orderv1.Order
		d.parsed(&o, "order", "get", id)
		return o.GetStatus() == status
	})
}

// TestTheCommandsForOrdersThatAreStuck does with the commands what an operator does
// while a service does not run, which the undoing of an order needs first.
func TestTheCommandsForOrdersThatAreStuck(t *testing.T) {
	t.Parallel()
	broker := bustest.StartServer(t)
	s := serve(t, settings(t, "WAYBILL_ORDER_DEADLINE_CANCELLING=100ms", "WAYBILL_ORDER_SWEEP_EVERY=50ms"), "--data", t.TempDir(), "--nats", broker.URL(),
		"--services=gateway,auth,user,inventory,payment,order", "--upstream=shipping=static:///127.0.0.1:1")
	d := newDesk(t, s)
	d.says(0, []string{"no order waits"}, "saga", "stuck")
	id, other := d.place(orderv1.OrderStatus_ORDER_STATUS_CAPTURED), d.place(orderv1.OrderStatus_ORDER_STATUS_CAPTURED)

	d.says(1, []string{"NOTHING_TO_RETRY", "CAPTURED", "shipping to book a carrier", "shipping cannot be asked"}, "saga", "retry", id)
	d.says(2, []string{"--reason"}, "saga", "cancel", id)
	d.says(2, []string{"ORDER_ID"}, "saga", "retry")
	d.says(1, []string{"ORDER_NOT_FOUND"}, "saga", "cancel", uuid.NewString(), "--reason", "nobody's")
	d.says(1, []string{"ORDER_NOT_FOUND"}, "saga", "retry", uuid.NewString())
	d.says(1, []string{"order_id"}, "saga", "retry", "17")
	d.says(0, []string{id, "CANCELLING", "STAFF_REQUEST", "it does not move"}, "saga", "cancel", id, "--reason", "it does not move")
	var cancelled orderv1.Order
	if d.parsed(&cancelled, "saga", "cancel", other, "--reason", "nor does this"); cancelled.GetStatus() != orderv1.OrderStatus_ORDER_STATUS_CANCELLING ||
		cancelled.GetReasonDetail() != "nor does this" {
		t.Errorf("saga cancel --json: %v", &cancelled)
	}

	var stuck orderv1.ListStuckOrdersResponse
	await(t, "both are stuck", patience, func() bool {
		d.parsed(&stuck, "saga", "stuck")
		return len(stuck.GetOrders()) == 2
	})
	for _, o := range stuck.GetOrders() {
		if o.GetWaitsFor() != "shipping" || o.GetReminders() == 0 || o.GetDeadline() == nil || (o.GetOrderId() != id && o.GetOrderId() != other) {
			t.Errorf("saga stuck --json: %v", o)
		}
	}
	d.says(0, []string{id, other, "CANCELLING", "shipping to call the parcel off"}, "saga", "stuck")
	if d.parsed(&stuck, "saga", "stuck", "--limit", "1"); len(stuck.GetOrders()) != 1 {
		t.Errorf("saga stuck --limit 1 gives %d", len(stuck.GetOrders()))
	}
	d.says(0, []string{id, "CANCELLING"}, "saga", "retry", id)
	var before, after orderv1.Waybill
	d.parsed(&before, "order", "waybill", id)
	var retried orderv1.Order
	if d.parsed(&retried, "saga", "retry", id); retried.GetOrderId() != id {
		t.Errorf("saga retry --json: %v", &retried)
	}
	if d.parsed(&after, "order", "waybill", id); len(after.GetEntries()) <= len(before.GetEntries()) {
		t.Errorf("%d entries on the waybill after a retry, %d before", len(after.GetEntries()), len(before.GetEntries()))
	}

	customer := &desk{t: t, env: environment(t.TempDir(), "WAYBILL_SERVER="+s.grpc, "WAYBILL_PASSWORD=a long pass phrase")}
	customer.waybill(0, "login", "--sign-up", "--email", "ann@example.com", "--name", "Ann Lee")
	customer.says(1, []string{"reason: "}, "saga", "stuck")
	customer.says(1, []string{"reason: "}, "saga", "retry", id)
	customer.says(1, []string{"ORDER_NOT_FOUND"}, "saga", "cancel", id, "--reason", "not mine")

	serve(t, settings(t), "--data", t.TempDir(), "--nats", broker.URL(), "--services=shipping",
		"--upstream=auth=static:///"+s.grpc, "--upstream=order=static:///"+s.grpc)
	d.until(id, orderv1.OrderStatus_ORDER_STATUS_CANCELLED)
	d.until(other, orderv1.OrderStatus_ORDER_STATUS_CANCELLED)
	d.says(0, []string{"no order waits"}, "saga", "stuck")
	d.says(1, []string{"NOTHING_TO_RETRY", "has ended"}, "saga", "retry", id)
}

// TestARetryHasWhatWasGivenUpAboutAnOrderTriedAgain makes the database refuse the
// payments of all orders, so that they go no further, and then no more.
func TestARetryHasWhatWasGivenUpAboutAnOrderTriedAgain(t *testing.T) {
	t.Parallel()
	db := newDatabase(t)
	s := serve(t, settings(t), "--data", t.TempDir(), "--db", db, "--max-attempts=2")
	d := newDesk(t, s)
	conn, err := pgx.Connect(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(t.Context()) })
	must := func(statement string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	must(`ALTER TABLE payment.payments ADD CONSTRAINT nobody_pays CHECK (false) NOT VALID`)
	id := d.place(orderv1.OrderStatus_ORDER_STATUS_HELD)
	var letters opsv1.ListDeadLettersResponse
	await(t, "payment gives it up", patience, func() bool {
		d.parsed(&letters, "dlq", "list", "payment")
		return len(letters.GetDeadLetters()) == 2 // it needs two events to begin
	})
	d.says(1, []string{"messages that payment had given up: 0 done, 2 failed again", "HELD", "REDRIVE_FAILED", "waybill dlq get payment"}, "saga", "retry", id)
	must(`ALTER TABLE payment.payments DROP CONSTRAINT nobody_pays`)
	var retried orderv1.Order
	if d.parsed(&retried, "saga", "retry", id); retried.GetOrderId() != id {
		t.Errorf("saga retry --json: %v", &retried)
	}
	d.until(id, orderv1.OrderStatus_ORDER_STATUS_DELIVERED)
	d.says(1, []string{"NOTHING_TO_RETRY", "none of order, inventory, payment, shipping gave anything up"}, "saga", "retry", id)
}
