// Package storetest says what the payment store must do on every database.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	paymentv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	"github.com/waybill-dev/waybill/services/payment"
	"github.com/waybill-dev/waybill/services/payment/internal/store"
)

// Open opens a payment database with its tables and nothing in them.
func Open(open sqldbtest.Opener) *sqldb.DB {
	return open("payment", sqldbtest.Migration{Name: "platform", FS: react.Migrations()}, sqldbtest.Migration{Name: "payment", FS: store.Migrations()})
}

// noon is when everything in this suite begins; to the microsecond, which is
// what databases keep.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)

// Payment gives a payment with its number in everything that tells payments apart.
func Payment(n int, user string, s payment.State) payment.Payment {
	return payment.Payment{
		OrderID: fmt.Sprintf("018f0000-0000-7000-8000-%012d", n), ID: fmt.Sprintf("018f1111-0000-7000-8000-%012d", n), UserID: user,
		State: s, Seen: payment.SeenPlaced | payment.SeenHeld, Amount: payment.Money{Minor: 1000 + int64(n), Currency: "EUR"}, Token: "tok_ok",
		HeldUntil: noon.Add(time.Hour), Created: noon.Add(time.Duration(n) * time.Minute), Updated: noon,
	}
}

// Insert stores payments as the machine does.
func Insert(t testing.TB, db *sqldb.DB, all ...payment.Payment) {
	t.Helper()
	columns := store.Payments.Columns()
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ")
	for _, p := range all {
		if _, err := db.Exec(t.Context(), `INSERT INTO payments (`+strings.Join(columns, ", ")+`) VALUES (`+marks+`)`, store.Row(p, 3, 2)...); err != nil {
			t.Fatal(err)
		}
	}
}

// Book stores an entry of the ledger as the machine does.
func Book(ctx context.Context, db *sqldb.DB, p payment.Payment, e payment.Entry, at time.Time) error {
	return db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		var b sqldb.Batch
		b.Insert(store.Postings, store.PostingRows(p.OrderID, p.Amount.Currency, e, at))
		return tx.Send(ctx, &b)
	})
}

func entry(b payment.Booking, number int64, reference string, lines ...payment.Posting) payment.Entry {
	return payment.Entry{Booking: b, Number: number, Reference: reference, Postings: lines}
}

func authorized(amount int64) payment.Entry {
	return entry(payment.BookAuthorize, 0, "", payment.Posting{Account: payment.CustomerHold, Amount: amount}, payment.Posting{Account: payment.Clearing, Amount: -amount})
}

func captured(amount int64, reference string) payment.Entry {
	return entry(payment.BookCapture, 0, reference,
		payment.Posting{Account: payment.CustomerHold, Amount: -amount}, payment.Posting{Account: payment.Clearing, Amount: amount},
		payment.Posting{Account: payment.ProviderReceivable, Amount: amount}, payment.Posting{Account: payment.Revenue, Amount: -amount})
}

// taken stores a captured payment with its entries.
func taken(t testing.TB, db *sqldb.DB, n int) payment.Payment {
	t.Helper()
	p := Payment(n, "ann", payment.Captured)
	Insert(t, db, p)
	for _, e := range []payment.Entry{authorized(p.Amount.Minor), captured(p.Amount.Minor, fmt.Sprintf("ref-%d", n))} {
		if err := Book(t.Context(), db, p, e, noon.Add(time.Duration(n)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// Run runs the suite on one kind of database.
func Run(t *testing.T, open sqldbtest.Opener) {
	db := Open(open)
	t.Run("PaymentsComeBackAsTheyWentIn", func(t *testing.T) { comeBack(t, db) })
	t.Run("OtherPeoplesPaymentsDoNotExist", func(t *testing.T) { owners(t, db) })
	t.Run("ListsArePagedInOrder", func(t *testing.T) { lists(t, db) })
	t.Run("ListsRefuseWhatTheyCannotMean", func(t *testing.T) { badLists(t, db) })
	t.Run("NothingIsBookedTwice", func(t *testing.T) { once(t, db) })
	t.Run("TheLedgerIsExportedInPages", func(t *testing.T) { exports(t, db) })
	t.Run("AnExportWaitsForWhatIsBeingBooked", func(t *testing.T) { waits(t, db) })
	t.Run("CheckFindsWhatIsWrong", func(t *testing.T) { checks(t, db) })
}

func comeBack(t *testing.T, db *sqldb.DB) {
	reset(t, db)
	plain := Payment(1, "ann", payment.Authorized)
	rare := Payment(2, "bob", payment.Refunding)
	rare.Reason, rare.Reference, rare.Review, rare.HeldUntil = "x", "sim_1", true, time.Time{}
	rare.Rare = payment.Rare{
		Undo:    payment.Undo{Purpose: paymentv1.ReversalPurpose_REVERSAL_PURPOSE_RETURN, Both: true, Done: true, Named: true, Voided: 1, Refunded: 2},
		Trouble: payment.Trouble{Since: noon, Tries: 7},
		Refunds: []payment.Refund{{ID: "r1", Number: 1, Amount: 5, Reason: "it's \"late\"\n— 幅", State: payment.RefundUnknown, Trouble: payment.Trouble{Since: noon, Tries: 1}, Created: noon}},
	}
	unplaced := payment.Payment{OrderID: "018f0000-0000-7000-8000-000000000003", State: payment.Tombstoned, Created: noon, Updated: noon}
	Insert(t, db, plain, rare, unplaced)
	s := store.New(db)
	for _, want := range []payment.Payment{plain, rare, unplaced} {
		got, err := s.OfOrder(t.Context(), want.OrderID)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Payment); diff != "" || got.Version != 3 {
			t.Errorf("version %d, -want +got:\n%s", got.Version, diff)
		}
	}
	if _, err := s.OfOrder(t.Context(), "none"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("an order without payment: %v", err)
	}
	again := Payment(4, "eve", payment.New)
	again.ID = plain.ID
	columns := store.Payments.Columns()
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ")
	_, err := db.Exec(t.Context(), `INSERT INTO payments (`+strings.Join(columns, ", ")+`) VALUES (`+marks+`)`, store.Row(again, 1, 1)...)
	if !errors.Is(err, sqldb.ErrDuplicate) {
		t.Errorf("one payment id for two orders: %v", err)
	}
}

func owners(t *testing.T, db *sqldb.DB) {
	reset(t, db)
	p := Payment(1, "ann", payment.Captured)
	hidden := Payment(2, "", payment.Tombstoned)
	hidden.ID = ""
	Insert(t, db, p, hidden)
	s := store.New(db)
	for owner, want := range map[string]errs.Kind{"": 0, "ann": 0, "bob": errs.NotFound, "nobody": errs.NotFound} {
		got, err := s.Get(t.Context(), p.ID, owner)
		if want == 0 && (err != nil || got.OrderID != p.OrderID) || want != 0 && errs.KindOf(err) != want {
			t.Errorf("%q gets %v, %v", owner, got.OrderID, err)
		}
	}
	foreign, absent := errorText(s, t, p.ID, "bob"), errorText(s, t, "018f1111-0000-7000-8000-00000000ffff", "bob")
	if strings.ReplaceAll(foreign, p.ID, "") != strings.ReplaceAll(absent, "018f1111-0000-7000-8000-00000000ffff", "") {
		t.Errorf("one can tell %q from %q", foreign, absent)
	}
	if _, err := s.Get(t.Context(), "", ""); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a payment without an order: %v", err)
	}
}

func errorText(s *store.Store, t *testing.T, id, owner string) string {
	_, err := s.Get(t.Context(), id, owner)
	return fmt.Sprint(err)
}

func lists(t *testing.T, db *sqldb.DB) {
	reset(t, db)
	var want []string
	for n := 9; n >= 1; n-- {
		user := []string{"ann", "bob"}[n%2]
		state := payment.Captured
		if n > 6 {
			state = payment.Declined
		}
		p := Payment(n, user, state)
		Insert(t, db, p)
		want = append(want, p.ID)
	}
	nameless := Payment(10, "", payment.New)
	nameless.ID = ""
	Insert(t, db, nameless)
	s := store.New(db)
	for _, c := range []struct {
		name  string
		query listing.Query
		want  []string
	}{
		{"all, newest first", listing.Query{PageSize: 2}, want},
		{"oldest first", listing.Query{PageSize: 4, OrderBy: "create_time"}, reversed(want)},
		{"one's own", listing.Query{PageSize: 1, Owner: "bob"}, []string{want[0], want[2], want[4], want[6], want[8]}},
		{"by status", listing.Query{Filter: `status = DECLINED`}, want[:3]},
		{"by the status's long name", listing.Query{Filter: `status = PAYMENT_STATUS_DECLINED`}, want[:3]},
		{"by user", listing.Query{Filter: `user_id = "ann" AND status = CAPTURED`}, []string{want[3], want[5], want[7]}},
		{"by order", listing.Query{Filter: `order_id = "` + Payment(4, "", 0).OrderID + `"`}, want[5:6]},
	} {
		var got []string
		for q := c.query; ; {
			page, next, err := s.List(t.Context(), q)
			if err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			for _, p := range page {
				got = append(got, p.ID)
			}
			if q.PageToken = next; next == "" {
				break
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s, -want +got:\n%s", c.name, diff)
		}
	}
}

func reversed(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[len(list)-1-i] = s
	}
	return out
}

func badLists(t *testing.T, db *sqldb.DB) {
	reset(t, db)
	for n := range 5 {
		Insert(t, db, Payment(n, "ann", payment.New))
	}
	s := store.New(db)
	_, token, err := s.List(t.Context(), listing.Query{PageSize: 2, Owner: "ann"})
	if err != nil || token == "" {
		t.Fatalf("token %q, %v", token, err)
	}
	for name, q := range map[string]listing.Query{
		"another's token":      {PageSize: 2, Owner: "bob", PageToken: token},
		"a token for more":     {PageSize: 2, PageToken: token},
		"no token":             {PageToken: "x"},
		"a foreign user":       {Owner: "bob", Filter: `user_id = "ann"`},
		"an unknown field":     {Filter: `token = "tok_ok"`},
		"an unknown status":    {Filter: `status = PAID`},
		"an injection":         {Filter: `order_id = "x" OR 1 = 1; --`},
		"an unknown order":     {OrderBy: "amount"},
		"a negative page size": {PageSize: -1},
	} {
		if got, _, err := s.List(t.Context(), q); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %d payments, %v", name, len(got), err)
		}
	}
}

func once(t *testing.T, db *sqldb.DB) {
	reset(t, db)
	p := taken(t, db, 1)
	if err := Book(t.Context(), db, p, captured(p.Amount.Minor, "ref-other"), noon); !errors.Is(err, sqldb.ErrDuplicate) {
		t.Errorf("captured twice: %v", err)
	}
	refund := func(number int64) error {
		return Book(t.Context(), db, p, entry(payment.BookRefund, number, "", payment.Posting{Account: payment.Revenue, Amount: 5}, payment.Posting{Account: payment.RefundPayable, Amount: -5}), noon)
	}
	if err := errors.Join(refund(1), refund(2)); err != nil {
		t.Errorf("two refunds: %v", err)
	}
	if err := refund(2); !errors.Is(err, sqldb.ErrDuplicate) {
		t.Errorf("one refund twice: %v", err)
	}
}

func exports(t *testing.T, db *sqldb.DB) {
	reset(t, db)
	s := store.New(db)
	if last, err := s.ExportTo(t.Context()); err != nil || last != 0 {
		t.Errorf("an empty ledger is complete up to %d, %v", last, err)
	}
	for n := range 4 {
		taken(t, db, n)
	}
	last, err := s.ExportTo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	read := func(f store.PostingFilter, page int) (all []store.Posting) {
		for {
			got, err := s.Export(t.Context(), f, page)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, got...)
			if len(got) < page {
				return all
			}
			f.After = got[len(got)-1].Seq
		}
	}
	everything := read(store.PostingFilter{UpTo: last}, 5)
	if len(everything) != 24 {
		t.Fatalf("%d postings", len(everything))
	}
	sums := map[string]int64{}
	for i, l := range everything {
		if i > 0 && l.Seq <= everything[i-1].Seq {
			t.Errorf("%d comes after %d", l.Seq, everything[i-1].Seq)
		}
		sums[l.TransactionID()] += l.Amount.Minor
		if l.PaymentID == "" || l.Amount.Currency != "EUR" {
			t.Errorf("posting %+v", l)
		}
	}
	for id, sum := range sums {
		if sum != 0 {
			t.Errorf("%s adds up to %d", id, sum)
		}
	}
	for name, c := range map[string]struct {
		f    store.PostingFilter
		want int
	}{
		"an account":         {store.PostingFilter{Account: payment.Clearing}, 8},
		"a time":             {store.PostingFilter{Start: noon.Add(time.Hour), End: noon.Add(3 * time.Hour)}, 12},
		"what is settled":    {store.PostingFilter{Settled: true}, 4},
		"all of it together": {store.PostingFilter{Settled: true, Start: noon.Add(time.Hour), Account: payment.ProviderReceivable, UpTo: last}, 3},
		"nothing":            {store.PostingFilter{Account: payment.RefundPayable}, 0},
	} {
		if got := read(c.f, 3); len(got) != c.want {
			t.Errorf("%s: %d postings, want %d", name, len(got), c.want)
		}
	}
	l, ok, err := s.ByReference(t.Context(), "ref-2")
	if err != nil || !ok || l.Account != payment.ProviderReceivable || l.Amount.Minor != 1002 || l.Booking != payment.BookCapture {
		t.Errorf("by reference: %+v, %v, %v", l, ok, err)
	}
	if _, ok, err := s.ByReference(t.Context(), "ref-x"); ok || err != nil {
		t.Errorf("by a reference nobody gave: %v, %v", ok, err)
	}
}

// waits holds a booking open while another, later one is committed: on
// PostgreSQL an export that did not wait would miss the first for ever.
func waits(t *testing.T, db *sqldb.DB) {
	reset(t, db)
	if db.Dialect() != sqldb.Postgres {
		t.Skip("there is one transaction that writes at a time")
	}
	s := store.New(db)
	early, late := Payment(1, "ann", payment.Authorized), Payment(2, "ann", payment.Authorized)
	Insert(t, db, early, late)
	tx, err := db.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	var b sqldb.Batch
	b.Insert(store.Postings, store.PostingRows(early.OrderID, "EUR", authorized(5), noon))
	if err := tx.Send(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if err := Book(t.Context(), db, late, authorized(6), noon); err != nil {
		t.Fatal(err)
	}
	type answer struct {
		last int64
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		last, err := s.ExportTo(context.WithoutCancel(t.Context()))
		got <- answer{last, err}
	}()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for blocked := 0; blocked == 0; <-tick.C {
		if err := db.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'postings'::regclass`).Scan(&blocked); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.Commit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	a := <-got
	if a.err != nil {
		t.Fatal(a.err)
	}
	all, err := s.Export(t.Context(), store.PostingFilter{UpTo: a.last}, 10)
	if err != nil || len(all) != 4 {
		t.Errorf("%d postings, %v", len(all), err)
	}
}

func checks(t *testing.T, db *sqldb.DB) {
	s := store.New(db)
	post := func(p payment.Payment, e payment.Entry) {
		t.Helper()
		if err := Book(t.Context(), db, p, e, noon); err != nil {
			t.Fatal(err)
		}
	}
	state := func(p payment.Payment, s payment.State) {
		t.Helper()
		if _, err := db.Exec(t.Context(), `UPDATE payments SET state = ? WHERE id = ?`, int64(s), p.OrderID); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name  string
		spoil func(p payment.Payment)
		want  string // "" when all is well
	}{
		{"as it should be", func(payment.Payment) {}, ""},
		{"one side only", func(p payment.Payment) {
			post(p, entry(payment.BookRefund, 1, "", payment.Posting{Account: payment.Revenue, Amount: 5}))
		}, "do not add up to zero"},
		{"a hold left over", func(p payment.Payment) {
			post(p, entry(payment.BookVoid, 0, "", payment.Posting{Account: payment.CustomerHold, Amount: 5}, payment.Posting{Account: payment.Clearing, Amount: -5}))
		}, "clearing account"},
		{"another currency", func(p payment.Payment) {
			p.Amount.Currency = "USD"
			post(p, entry(payment.BookRefund, 1, "", payment.Posting{Account: payment.Revenue, Amount: 5}, payment.Posting{Account: payment.ProviderReceivable, Amount: -5}))
		}, "another currency"},
		{"without a payment", func(p payment.Payment) { p.OrderID = "gone"; post(p, authorized(5)) }, "without a payment"},
		{"taken, but not booked", func(p payment.Payment) { Insert(t, db, Payment(77, "ann", payment.Captured)) }, "but not to the ledger"},
		{"booked, but not taken", func(p payment.Payment) { state(p, payment.Voided) }, "but not to the payment"},
		{"more owed than taken", func(p payment.Payment) {
			post(p, entry(payment.BookRefund, 1, "", payment.Posting{Account: payment.Revenue, Amount: 5000}, payment.Posting{Account: payment.RefundPayable, Amount: -5000}))
			state(p, payment.Refunding)
		}, "more was owed back"},
		{"refunded, but not booked", func(p payment.Payment) { state(p, payment.Refunded) }, "does not say so"},
		{"owed for ever", func(p payment.Payment) {
			post(p, entry(payment.BookRefund, 1, "", payment.Posting{Account: payment.Revenue, Amount: 5}, payment.Posting{Account: payment.RefundPayable, Amount: -5}))
		}, "no refund is under way"},
	} {
		reset(t, db)
		c.spoil(taken(t, db, 1))
		found, err := s.Check(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Join(found, "\n")
		if c.want == "" && text != "" || !strings.Contains(text, c.want) {
			t.Errorf("%s: found %q", c.name, text)
		}
	}
	sums, err := s.Balance(t.Context())
	if err != nil || len(sums) != 5 || sums[4].Amount != -5 {
		t.Errorf("balance %+v, %v", sums, err)
	}
}

// reset empties the tables.
func reset(t *testing.T, db *sqldb.DB) {
	t.Helper()
	for _, table := range []string{"payments", "postings"} {
		if _, err := db.Exec(t.Context(), `DELETE FROM `+table); err != nil {
			t.Fatal(err)
		}
	}
}
