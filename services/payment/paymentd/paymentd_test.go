package paymentd_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/bus/bustest"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react/reacttest"
	"github.com/waybill-dev/waybill/platform/rpc"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/payment/internal/paymenttest"
	"github.com/waybill-dev/waybill/services/payment/internal/webhook"
	"github.com/waybill-dev/waybill/services/payment/paymentd"
)

const deadline = 30 * time.Second

// The people of these tests; a token is simply who one is.
const (
	ann   = "0192bbbb-0000-7000-8000-00000000000a"
	bob   = "0192bbbb-0000-7000-8000-00000000000b"
	staff = "0192bbbb-0000-7000-8000-00000000000c"
)

type verifier struct{}

func (verifier) Verify(_ context.Context, token string) (auth.Caller, time.Time, error) {
	c := auth.Caller{UserID: token, Role: auth.Customer, SessionID: "s"}
	switch token {
	case ann, bob:
	case staff:
		c.Role = auth.Staff
	default:
		return auth.Caller{}, time.Time{}, errs.E(errs.Unauthenticated, "TOKEN_INVALID", "no such token")
	}
	return c, time.Now().Add(time.Hour), nil
}

// service is a payment service behind the whole chain of a server.
type service struct {
	t   *testing.T
	bus *bus.Bus
	db  *sqldb.DB
	paymentv1.PaymentServiceClient
}

func start(t *testing.T, open sqldbtest.Opener, overTCP bool) *service {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	t.Cleanup(cancel)
	s := &service{t: t, bus: bustest.Embedded(t).Open()}
	paymenttest.Streams(t, s.bus)
	log := slog.New(slog.DiscardHandler)
	env := &app.Env{Log: log, Bus: s.bus, OpenDB: func(context.Context, string) (*sqldb.DB, error) {
		s.db = open("payment")
		return s.db, nil
	}}
	cfg := paymentd.DefaultConfig()
	cfg.ProviderTimeout, cfg.FirstRetry, cfg.MaxRetry, cfg.SimulatorDelay = 20*time.Millisecond, time.Millisecond, 10*time.Millisecond, time.Millisecond
	cfg.WebhookSecret, cfg.WebhookSecretPrevious = "first", "second"
	unit, err := paymentd.New(ctx, env, cfg)
	if err != nil {
		t.Fatal(err)
	}
	server, err := rpc.NewServer(rpc.Config{}, rpc.Deps{Log: log, Verifier: verifier{}})
	if err != nil {
		t.Fatal(err)
	}
	unit.Register(server)
	if err := server.Build(); err != nil {
		t.Fatal(err)
	}
	if err := unit.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := unit.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		if err := errors.Join(server.Stop(stop), unit.Stop(stop)); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	conn := server.Conn()
	if overTCP {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- server.Serve(lis) }()
		t.Cleanup(func() {
			if err := <-served; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
		client, err := rpc.Dial("static:///"+lis.Addr().String(), rpc.DialConfig{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = client.Close() })
		t.Cleanup(func() { // before waiting for Serve
			stop, cancel := context.WithTimeout(context.Background(), deadline)
			defer cancel()
			_ = server.Stop(stop)
		})
		conn = client
	}
	s.PaymentServiceClient = paymentv1.NewPaymentServiceClient(conn)
	return s
}

// as gives a context in which somebody calls.
func (s *service) as(user string) context.Context {
	ctx, cancel := context.WithTimeout(s.t.Context(), deadline)
	s.t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+user)
}

func (s *service) send(e proto.Message) { reacttest.Publish(s.t, s.bus, e, uuid.NewString(), 0) }

// until polls a user's payments until one of an order has a status.
func (s *service) until(user, orderID string, status paymentv1.PaymentStatus) *paymentv1.Payment {
	s.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	limit := time.NewTimer(deadline)
	defer limit.Stop()
	for {
		page, err := s.ListPayments(s.as(user), &paymentv1.ListPaymentsRequest{Filter: `order_id = "` + orderID + `"`})
		if err != nil {
			s.t.Fatal(err)
		}
		if len(page.GetPayments()) == 1 && page.GetPayments()[0].GetStatus() == status {
			return page.GetPayments()[0]
		}
		select {
		case <-tick.C:
		case <-limit.C:
			s.t.Fatalf("order %s does not become %s: %v", orderID, status, page.GetPayments())
		}
	}
}

// captured gives a new payment of a user whose money is taken.
func (s *service) captured(user string) *paymentv1.Payment {
	s.t.Helper()
	id := uuid.Must(uuid.NewV7()).String()
	s.send(paymenttest.Placed(id, user, "tok_ok"))
	s.send(paymenttest.Held(id))
	s.until(user, id, paymentv1.PaymentStatus_PAYMENT_STATUS_AUTHORIZED)
	s.send(paymenttest.Committed(id))
	return s.until(user, id, paymentv1.PaymentStatus_PAYMENT_STATUS_CAPTURED)
}

func (s *service) balanced() {
	s.t.Helper()
	if wrong, err := paymentd.Check(s.t.Context(), s.db); err != nil || len(wrong) > 0 {
		s.t.Errorf("the books: %v %v", wrong, err)
	}
}

// wants fails the test unless err has the kind and, if given, the reason.
func wants(t *testing.T, what string, err error, kind errs.Kind, reason string) {
	t.Helper()
	got := rpc.FromStatus(err)
	if err == nil || errs.KindOf(got) != kind || reason != "" && errs.ReasonOf(got) != reason {
		t.Errorf("%s: %v (%s), want %s %s", what, err, errs.ReasonOf(got), kind, reason)
	}
}

func each(t *testing.T, body func(t *testing.T, s *service)) {
	t.Run("in process", func(t *testing.T) { body(t, start(t, sqldbtest.SQLite(t), false)) })
	t.Run("over TCP", func(t *testing.T) { body(t, start(t, sqldbtest.Postgres(t, false), true)) })
}

func TestPaymentsAreSeenByTheirOwnersAndStaff(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		p := s.captured(ann)
		for _, user := range []string{ann, staff} {
			got, err := s.GetPayment(s.as(user), &paymentv1.GetPaymentRequest{PaymentId: p.GetPaymentId()})
			if err != nil || !proto.Equal(got, p) {
				t.Errorf("%s gets %v, %v", user, got, err)
			}
		}
		_, foreign := s.GetPayment(s.as(bob), &paymentv1.GetPaymentRequest{PaymentId: p.GetPaymentId()})
		wants(t, "a foreign payment", foreign, errs.NotFound, "PAYMENT_NOT_FOUND")
		_, err := s.GetPayment(s.as("eve"), &paymentv1.GetPaymentRequest{PaymentId: p.GetPaymentId()})
		wants(t, "without a token", err, errs.Unauthenticated, "")
		_, err = s.GetPayment(s.as(ann), &paymentv1.GetPaymentRequest{PaymentId: "NOT-A-UUID"})
		wants(t, "no id", err, errs.Invalid, "")
		page, err := s.ListPayments(s.as(bob), &paymentv1.ListPaymentsRequest{})
		if err != nil || len(page.GetPayments()) != 0 {
			t.Errorf("bob sees %v, %v", page, err)
		}
		_, err = s.ListPayments(s.as(bob), &paymentv1.ListPaymentsRequest{Filter: `user_id = "` + ann + `"`})
		wants(t, "a filter by user", err, errs.Invalid, "")
		if p.GetCaptured().GetMinorUnits() != paymenttest.Price || p.GetEtag() == "" || p.GetUserId() != ann || p.GetVersion() < 3 {
			t.Errorf("shown %v", p)
		}
	})
}

func TestStaffRefundOnceForEachKey(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		p := s.captured(ann)
		req := &paymentv1.RefundPaymentRequest{
			RequestId: "refund-1", PaymentId: p.GetPaymentId(), Reason: "scratched",
			Amount: &typev1.Money{MinorUnits: 1000, CurrencyCode: "EUR"},
		}
		var wg sync.WaitGroup
		answers := make([]*paymentv1.Payment, 20)
		for i := range answers {
			wg.Go(func() {
				var err error
				if answers[i], err = s.RefundPayment(s.as(staff), req); err != nil {
					t.Errorf("refund: %v", err)
				}
			})
		}
		wg.Wait()
		for _, a := range answers {
			if !proto.Equal(a, answers[0]) || len(a.GetRefunds()) != 1 {
				t.Errorf("answered %v, and %v", answers[0], a)
			}
		}
		s.until(ann, p.GetOrderId(), paymentv1.PaymentStatus_PAYMENT_STATUS_PARTIALLY_REFUNDED)

		change := func(f func(r *paymentv1.RefundPaymentRequest)) *paymentv1.RefundPaymentRequest {
			r := proto.CloneOf(req)
			r.RequestId = uuid.NewString()
			f(r)
			return r
		}
		other := proto.CloneOf(req)
		other.Amount.MinorUnits = 2
		for name, c := range map[string]struct {
			user   string
			req    *paymentv1.RefundPaymentRequest
			kind   errs.Kind
			reason string
		}{
			"the key for something else": {staff, other, errs.FailedPrecondition, "IDEMPOTENCY_KEY_REUSED"},
			"a customer":                 {ann, change(func(*paymentv1.RefundPaymentRequest) {}), errs.PermissionDenied, ""},
			"more than is left": {staff, change(func(r *paymentv1.RefundPaymentRequest) { r.Amount.MinorUnits = paymenttest.Price }),
				errs.FailedPrecondition, "REFUND_EXCEEDS_CAPTURED"},
			"another currency":  {staff, change(func(r *paymentv1.RefundPaymentRequest) { r.Amount.CurrencyCode = "USD" }), errs.Invalid, "CURRENCY_MISMATCH"},
			"a negative amount": {staff, change(func(r *paymentv1.RefundPaymentRequest) { r.Amount.MinorUnits = -1 }), errs.Invalid, ""},
			"no such payment":   {staff, change(func(r *paymentv1.RefundPaymentRequest) { r.PaymentId = uuid.NewString() }), errs.NotFound, "PAYMENT_NOT_FOUND"},
			"a card number":     {staff, change(func(r *paymentv1.RefundPaymentRequest) { r.Reason = "to 4242-4242 4242 4242" }), errs.Invalid, ""},
			"no key":            {staff, change(func(r *paymentv1.RefundPaymentRequest) { r.RequestId = "" }), errs.Invalid, ""},
		} {
			_, err := s.RefundPayment(s.as(c.user), c.req)
			wants(t, name, err, c.kind, c.reason)
			if strings.Contains(err.Error(), "4242") {
				t.Errorf("%s: the answer repeats it: %v", name, err)
			}
		}
		rest, err := s.RefundPayment(s.as(staff), change(func(r *paymentv1.RefundPaymentRequest) { r.Amount = nil }))
		if err != nil || len(rest.GetRefunds()) != 2 || rest.GetRefunds()[1].GetAmount().GetMinorUnits() != paymenttest.Price-1000 {
			t.Errorf("the rest: %v, %v", rest, err)
		}
		s.until(ann, p.GetOrderId(), paymentv1.PaymentStatus_PAYMENT_STATUS_REFUNDED)
		_, err = s.RefundPayment(s.as(staff), change(func(r *paymentv1.RefundPaymentRequest) { r.Amount = nil }))
		wants(t, "nothing left", err, errs.FailedPrecondition, "REFUND_EXCEEDS_CAPTURED")
		s.balanced()
	})
}

func export(t *testing.T, stream grpc.ServerStreamingClient[paymentv1.ExportLedgerResponse], err error, limit int) []*paymentv1.ExportLedgerResponse {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var all []*paymentv1.ExportLedgerResponse
	for len(all) != limit {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
	return all
}

func TestTheLedgerIsExportedAndResumed(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		for range 3 {
			s.captured(ann)
		}
		stream, err := s.ExportLedger(s.as(staff), &paymentv1.ExportLedgerRequest{})
		whole := export(t, stream, err, -1)
		if len(whole) != 18 {
			t.Fatalf("%d postings", len(whole))
		}
		sums := map[string]int64{}
		for _, m := range whole {
			sums[m.GetPosting().GetTransactionId()] += m.GetPosting().GetAmount().GetMinorUnits()
		}
		for id, sum := range sums {
			if sum != 0 {
				t.Errorf("%s adds up to %d", id, sum)
			}
		}
		ctx, cut := context.WithCancel(s.as(staff))
		stream, err = s.ExportLedger(ctx, &paymentv1.ExportLedgerRequest{})
		first := export(t, stream, err, 7)
		cut()
		token := first[6].GetResumeToken()
		stream, err = s.ExportLedger(s.as(staff), &paymentv1.ExportLedgerRequest{ResumeToken: token})
		joined := slices.Concat(first, export(t, stream, err, -1))
		if !slices.EqualFunc(whole, joined, func(a, b *paymentv1.ExportLedgerResponse) bool { return proto.Equal(a, b) }) {
			t.Error("cut and resumed it is not the same")
		}
		stream, err = s.ExportLedger(s.as(staff), &paymentv1.ExportLedgerRequest{Account: paymentv1.LedgerAccount_LEDGER_ACCOUNT_REVENUE})
		if got := export(t, stream, err, -1); len(got) != 3 {
			t.Errorf("%d postings of revenue", len(got))
		}
		for name, c := range map[string]struct {
			user string
			req  *paymentv1.ExportLedgerRequest
			kind errs.Kind
		}{
			"a customer":             {ann, &paymentv1.ExportLedgerRequest{}, errs.PermissionDenied},
			"no token of anything":   {staff, &paymentv1.ExportLedgerRequest{ResumeToken: "x"}, errs.Invalid},
			"a token of another one": {staff, &paymentv1.ExportLedgerRequest{ResumeToken: token, Account: paymentv1.LedgerAccount_LEDGER_ACCOUNT_REVENUE}, errs.Invalid},
			"an unknown account":     {staff, &paymentv1.ExportLedgerRequest{Account: 99}, errs.Invalid},
		} {
			stream, err := s.ExportLedger(s.as(c.user), c.req)
			if err == nil {
				_, err = stream.Recv()
			}
			wants(t, name, err, c.kind, "")
		}
	})
}

func line(n int64, reference string, op paymentv1.PaymentOperation, minor int64) *paymentv1.ReconcileRequest {
	return &paymentv1.ReconcileRequest{Content: &paymentv1.ReconcileRequest_Line{Line: &paymentv1.SettlementLine{
		LineNumber: n, ProviderReference: reference, Operation: op, Amount: &typev1.Money{MinorUnits: minor, CurrencyCode: "EUR"},
	}}}
}

func period(start, end time.Time) *paymentv1.ReconcileRequest {
	return &paymentv1.ReconcileRequest{Content: &paymentv1.ReconcileRequest_Period{Period: &paymentv1.SettlementPeriod{StartTime: timestamppb.New(start), EndTime: timestamppb.New(end)}}}
}

func TestASettlementIsComparedLineByLine(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		refunded := s.captured(ann)
		for range 2 {
			s.captured(bob)
		}
		if _, err := s.RefundPayment(s.as(staff), &paymentv1.RefundPaymentRequest{RequestId: "r", PaymentId: refunded.GetPaymentId(), Reason: "x"}); err != nil {
			t.Fatal(err)
		}
		s.until(ann, refunded.GetOrderId(), paymentv1.PaymentStatus_PAYMENT_STATUS_REFUNDED)
		rows, err := s.db.Query(t.Context(), `SELECT reference FROM postings WHERE reference IS NOT NULL ORDER BY seq`)
		if err != nil {
			t.Fatal(err)
		}
		var refs []string
		for rows.Next() {
			var ref string
			if err := rows.Scan(&ref); err != nil {
				t.Fatal(err)
			}
			refs = append(refs, ref)
		}
		if len(refs) != 4 {
			t.Fatalf("%d settled", len(refs))
		}
		stream, err := s.Reconcile(s.as(staff))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(period(time.Now().Add(-time.Hour), time.Now().Add(time.Hour))); err != nil {
			t.Fatal(err)
		}
		const capture, refund = paymentv1.PaymentOperation_PAYMENT_OPERATION_CAPTURE, paymentv1.PaymentOperation_PAYMENT_OPERATION_REFUND
		for i, c := range []struct {
			req  *paymentv1.ReconcileRequest
			want paymentv1.ReconcileVerdict
		}{
			{line(1, refs[0], capture, paymenttest.Price), paymentv1.ReconcileVerdict_RECONCILE_VERDICT_MATCHED},
			{line(2, refs[1], capture, paymenttest.Price+1), paymentv1.ReconcileVerdict_RECONCILE_VERDICT_AMOUNT_MISMATCH},
			{line(3, "never heard of", capture, paymenttest.Price), paymentv1.ReconcileVerdict_RECONCILE_VERDICT_UNKNOWN_REFERENCE},
			{line(4, refs[0], capture, paymenttest.Price), paymentv1.ReconcileVerdict_RECONCILE_VERDICT_DUPLICATE},
			{line(5, refs[3], refund, paymenttest.Price), paymentv1.ReconcileVerdict_RECONCILE_VERDICT_MATCHED},
		} {
			// One goes in, one comes out: the verdicts do not wait for the end.
			if err := stream.Send(c.req); err != nil {
				t.Fatal(err)
			}
			got, err := stream.Recv()
			if err != nil || got.GetVerdict() != c.want || got.GetLineNumber() != int64(i+1) {
				t.Errorf("line %d: %v, %v", i+1, got, err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		missing, err := stream.Recv()
		if err != nil || missing.GetVerdict() != paymentv1.ReconcileVerdict_RECONCILE_VERDICT_MISSING || missing.GetProviderReference() != refs[2] || missing.GetOrderId() == "" {
			t.Errorf("missing: %v, %v", missing, err)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after the end: %v", err)
		}
		for name, msgs := range map[string][]*paymentv1.ReconcileRequest{
			"no period":         {line(1, "x", capture, 1)},
			"nothing":           {},
			"an empty message":  {{}},
			"two periods":       {period(time.Unix(0, 0), time.Now()), period(time.Unix(0, 0), time.Now())},
			"a period reversed": {period(time.Now(), time.Unix(0, 0))},
			"a line of nothing": {period(time.Unix(0, 0), time.Now()), line(1, "x", capture, 0)},
			"a line of a void":  {period(time.Unix(0, 0), time.Now()), line(1, "x", paymentv1.PaymentOperation_PAYMENT_OPERATION_VOID, 1)},
		} {
			stream, err := s.Reconcile(s.as(staff))
			for _, m := range msgs {
				if err == nil {
					err = stream.Send(m)
				}
			}
			if err == nil {
				err = stream.CloseSend()
			}
			for err == nil || errors.Is(err, io.EOF) && stream.Context().Err() == nil {
				if _, err = stream.Recv(); errors.Is(err, io.EOF) {
					break
				}
			}
			wants(t, name, err, errs.Invalid, "")
		}
	})
}

func TestNoticesOfTheProviderMustBeSigned(t *testing.T) {
	each(t, func(t *testing.T, s *service) {
		p := s.captured(ann)
		good := webhook.Encode(webhook.Notice{
			ID: "evt_1", OrderID: p.GetOrderId(), Key: p.GetPaymentId() + ":capture", Operation: paymentv1.PaymentOperation_PAYMENT_OPERATION_CAPTURE,
			Verdict: 1, Reference: "ref",
		})
		body := []byte(strings.Replace(strings.Replace(string(good), `"currency":""`, `"currency":"EUR"`, 1), `"amount":0`, `"amount":4200`, 1))
		differs := []byte(strings.Replace(strings.Replace(string(body), "4200", "4300", 1), "evt_1", "evt_2", 1))
		unknown := []byte(strings.Replace(string(body), p.GetOrderId(), uuid.NewString(), 1))
		now := time.Now()
		for _, c := range []struct {
			name, signature string
			body            []byte
			kind            errs.Kind // 0 is accepted
		}{
			{"good", webhook.Sign(body, now, "first"), body, 0},
			{"seen before", webhook.Sign(body, now, "first"), body, 0},
			{"by the second secret", webhook.Sign(body, now, "second"), body, 0},
			{"no signature", "", body, errs.Unauthenticated},
			{"a wrong one", webhook.Sign(body, now, "third"), body, errs.Unauthenticated},
			{"an old one", webhook.Sign(body, now.Add(-10*time.Minute), "first"), body, errs.Invalid},
			{"one of the future", webhook.Sign(body, now.Add(10*time.Minute), "first"), body, errs.Invalid},
			{"a body written anew", webhook.Sign(body, now, "first"), append(slices.Clone(body), ' '), errs.Unauthenticated},
			{"another amount", webhook.Sign(differs, now, "first"), differs, 0},
			{"an unknown order", webhook.Sign(unknown, now, "first"), unknown, 0},
			{"no notice", webhook.Sign([]byte("{}"), now, "first"), []byte("{}"), errs.Invalid},
			{"70 kB", webhook.Sign(make([]byte, 70_000), now, "first"), make([]byte, 70_000), errs.Invalid},
			{"2 MB", webhook.Sign(make([]byte, 2<<20), now, "first"), make([]byte, 2<<20), errs.ResourceExhausted},
		} {
			if c.name == "2 MB" && strings.Contains(t.Name(), "in_process") {
				continue // the limit is one of the network; the gateway has its own
			}
			_, err := s.HandleProviderWebhook(t.Context(), &paymentv1.HandleProviderWebhookRequest{Body: c.body, Signature: c.signature})
			if c.kind == 0 {
				if err != nil {
					t.Errorf("%s: %v", c.name, err)
				}
				continue
			}
			wants(t, c.name, err, c.kind, "")
		}
		after := s.until(ann, p.GetOrderId(), paymentv1.PaymentStatus_PAYMENT_STATUS_CAPTURED)
		if after.GetVersion() != p.GetVersion() {
			t.Errorf("the payment was changed: %v", after)
		}
		s.balanced()
	})
}

func TestAConfigurationThatCannotBeMeantIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*paymentd.Config){
		"no time for the provider": func(c *paymentd.Config) { c.ProviderTimeout = 0 },
		"no first retry":           func(c *paymentd.Config) { c.FirstRetry = 0 },
		"retries that shrink":      func(c *paymentd.Config) { c.MaxRetry = c.FirstRetry - 1 },
		"a negative margin":        func(c *paymentd.Config) { c.Margin = -1 },
		"never giving up":          func(c *paymentd.Config) { c.GiveUp = 0 },
	} {
		cfg := paymentd.DefaultConfig()
		if err := cfg.Validate(); err != nil {
			t.Fatalf("the defaults: %v", err)
		}
		spoil(&cfg)
		if _, err := paymentd.New(t.Context(), &app.Env{}, cfg); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
