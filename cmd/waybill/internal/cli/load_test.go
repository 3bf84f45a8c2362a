package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/cmd/waybill/internal/load"
	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/errs"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
)

// A lie changes the reply to a request, which pass may send again.
type lie func(l *liar, pass func(req, reply any) error, req, reply any) error

// A liar passes calls on to a server and may change what it says.
type liar struct {
	grpc.ClientConnInterface
	mu   sync.Mutex
	lie  lie
	hit  string // the order that it lies about
	last string // the order that was placed before
}

// Invoke makes a call.
func (l *liar) Invoke(ctx context.Context, method string, req, reply any, opts ...grpc.CallOption) error {
	pass := func(req, reply any) error { return l.ClientConnInterface.Invoke(ctx, method, req, reply, opts...) }
	if err := pass(req, reply); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lie(l, pass, req, reply)
}

// about reports whether a lie is to be told about an order: about the first that is
// asked for, and no other.
func (l *liar) about(orderID string) bool {
	if l.hit == "" {
		l.hit = orderID
	}
	return l.hit == orderID
}

// lieAbout tells the lie whenever an order is listed.
func lieAbout(change func(o *orderv1.Order)) lie {
	return func(l *liar, _ func(req, reply any) error, _, reply any) error {
		if list, ok := reply.(*orderv1.ListOrdersResponse); ok {
			for _, o := range list.GetOrders() {
				if l.about(o.GetOrderId()) {
					change(o)
				}
			}
		}
		return nil
	}
}

// lieOnTheWaybill tells the lie whenever the waybill of an order is read.
func lieOnTheWaybill(change func(b *orderv1.Waybill)) lie {
	return func(l *liar, _ func(req, reply any) error, _, reply any) error {
		if b, ok := reply.(*orderv1.Waybill); ok && l.about(b.GetOrderId()) {
			change(b)
		}
		return nil
	}
}

var lies = map[string]struct {
	lie  lie
	says string
}{
	"loses an order": {func(l *liar, _ func(req, reply any) error, _, reply any) error {
		if list, ok := reply.(*orderv1.ListOrdersResponse); ok {
			kept := list.GetOrders()[:0]
			for _, o := range list.GetOrders() {
				if !l.about(o.GetOrderId()) {
					kept = append(kept, o)
				}
			}
			list.Orders = kept
		}
		return nil
	}, "does not exist"},
	"makes two orders of one request": {func(l *liar, pass func(req, reply any) error, req, _ any) error {
		r, ok := req.(*orderv1.CreateOrderRequest)
		if !ok || l.hit != "" {
			return nil
		}
		twice, double := proto.CloneOf(r), &orderv1.Order{}
		twice.RequestId = uuid.NewString()
		err := pass(twice, double)
		l.hit = double.GetOrderId()
		return err
	}, "nobody was told"},
	"gives one order to two": {func(l *liar, _ func(req, reply any) error, _, reply any) error {
		if o, ok := reply.(*orderv1.Order); ok {
			if l.last != "" && l.hit == "" {
				l.hit, o.OrderId = l.last, l.last
			}
			l.last = o.GetOrderId()
		}
		return nil
	}, "two requests"},
	"lists an order twice": {func(l *liar, _ func(req, reply any) error, _, reply any) error {
		if list, ok := reply.(*orderv1.ListOrdersResponse); ok && len(list.GetOrders()) > 0 && l.about(list.GetOrders()[0].GetOrderId()) {
			list.Orders = append(list.Orders, list.GetOrders()[0])
		}
		return nil
	}, "listed twice"},
	"adds a cent":              {lieAbout(func(o *orderv1.Order) { o.Total.MinorUnits++ }), "add up to"},
	"makes a line dearer":      {lieAbout(func(o *orderv1.Order) { o.Lines[0].Amount.MinorUnits++ }), "has a line of"},
	"tells of another end":     {lieAbout(func(o *orderv1.Order) { o.Status = orderv1.OrderStatus_ORDER_STATUS_RETURNED }), "was RETURNED, its waybill says"},
	"was changed once more":    {lieAbout(func(o *orderv1.Order) { o.Version += 100 }), "was changed"},
	"loses an entry":           {lieOnTheWaybill(func(b *orderv1.Waybill) { b.Entries = append(b.Entries[:1], b.Entries[2:]...) }), "was changed"},
	"numbers an entry wrongly": {lieOnTheWaybill(func(b *orderv1.Waybill) { b.Entries[2].Sequence = 9 }), "out of order"},
	"breaks a chain":           {lieOnTheWaybill(func(b *orderv1.Waybill) { b.Entries[1].ToStatus = orderv1.OrderStatus_ORDER_STATUS_DELIVERED }), "out of order"},
	"handles an event twice":   {lieOnTheWaybill(func(b *orderv1.Waybill) { b.Entries[2].EventId = b.Entries[1].GetEventId() }), "twice on its waybill"},
	"ends elsewhere":           {lieOnTheWaybill(func(b *orderv1.Waybill) { b.Status = orderv1.OrderStatus_ORDER_STATUS_PLACED }), "its waybill ends with"},
	"mixes requests up":        {lieOnTheWaybill(func(b *orderv1.Waybill) { b.Entries[0].CauseId = uuid.NewString() }), "was the answer to request"},
	"has no waybill": {func(l *liar, _ func(req, reply any) error, _, reply any) error {
		if b, ok := reply.(*orderv1.Waybill); ok && l.about(b.GetOrderId()) {
			return status.Error(codes.NotFound, "no such order")
		}
		return nil
	}, "has no waybill"},
}

// measured puts a short load on a server and gives the report, what is printed, and
// the error with which the command ends.
func measured(t *testing.T, o *loadOptions, server string, lie lie) (*load.Report, string, *liar, error) {
	t.Helper()
	o.cfg.InFlight, o.cfg.Duration, o.cfg.Settle, o.cfg.Tokens = 4, 200*time.Millisecond, time.Minute, []string{"tok_ok", "tok_declined"}
	o.conns, o.customers, o.products = 1, 1, 3
	if err := o.prepare(t.Context(), server); err != nil {
		t.Fatal(err)
	}
	l := &liar{ClientConnInterface: o.cfg.Conns[0], lie: lie}
	if lie != nil {
		o.cfg.Conns[0] = l
	}
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetErr(&out)
	rep, err := o.measure(t.Context(), cmd)
	err = o.tell(&out, rep, err)
	return rep, out.String(), l, err
}

func TestALoadNamesTheOrderThatTheServerLiesAbout(t *testing.T) {
	cfg := localConfig(t.TempDir(), false)
	cfg.Auth.HashMemory, cfg.Auth.HashTime = 64, 1
	err := withNode(t.Context(), cfg, func(_ context.Context, n *node.Node) error {
		options := func() *loadOptions {
			return &loadOptions{email: cfg.Admin.Email, password: cfg.Admin.Password.Reveal(), check: time.Minute}
		}
		t.Run("an honest server", func(t *testing.T) {
			rep, out, _, err := measured(t, options(), n.GRPCAddr(), nil)
			if err != nil || !strings.Contains(out, "nothing lost, nothing doubled, no gap in a waybill") || rep.Invariants.Orders == 0 ||
				rep.Invariants.Orders != rep.Invariants.Placed || rep.Invariants.Open != 0 || len(rep.Invariants.Wrong) != 0 {
				t.Errorf("%v\n%s%+v", err, out, rep.Invariants)
			}
		})
		t.Run("nothing is checked", func(t *testing.T) {
			o := options()
			o.check = 0
			rep, out, _, err := measured(t, o, n.GRPCAddr(), lies["adds a cent"].lie)
			if err != nil || rep.Invariants != nil || strings.Contains(out, "checked") {
				t.Errorf("%v\n%s%+v", err, out, rep.Invariants)
			}
		})
		for name, c := range lies {
			t.Run(name, func(t *testing.T) {
				_, out, l, err := measured(t, options(), n.GRPCAddr(), c.lie)
				if errs.ReasonOf(err) != "ORDERS_WRONG" {
					t.Errorf("the command ends with %v", err)
				}
				named := false
				for line := range strings.Lines(out) {
					named = named || strings.Contains(line, l.hit) && strings.Contains(line, c.says)
				}
				if l.hit == "" || !named {
					t.Errorf("no line says of %s that it %q:\n%s", l.hit, c.says, out)
				}
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestALoadOfItsOwnHoldsTheBooksAgainstEachOther(t *testing.T) {
	dir := t.TempDir()
	run := func() (code int, rep load.Report, errOut string) {
		var out, errs bytes.Buffer
		code = Main(t.Context(), []string{"load", "--self", "--data", dir, "--in-flight", "2", "--duration", "1s", "--warmup", "0s", "--products", "3",
			"--customers", "2", "--json"}, strings.NewReader(""), &out, &errs)
		if err := json.Unmarshal(out.Bytes(), &rep); err != nil {
			t.Fatalf("%v\n%s%s", err, out.String(), errs.String())
		}
		return code, rep, errs.String()
	}
	if code, rep, errOut := run(); code != 0 || rep.Invariants == nil || !rep.Invariants.Books || len(rep.Invariants.Wrong) != 0 {
		t.Fatalf("exit code %d: %+v %s", code, rep.Invariants, errOut)
	}
	order := tamper(t, dir, "payment", `SELECT order_id FROM postings WHERE booking = 1 LIMIT 1`,
		`UPDATE postings SET amount = amount + 1 WHERE seq = (SELECT min(seq) FROM postings WHERE order_id = ?)`)
	code, rep, errOut := run()
	if all := strings.Join(rep.Invariants.Wrong, "\n"); code != 1 || !strings.Contains(errOut, "ORDERS_WRONG") || !strings.Contains(all, order) {
		t.Errorf("with a ledger that is off: exit code %d, %q, %s; want order %s of %s", code, all, errOut, order, filepath.Join(dir, "payment.db"))
	}
}
