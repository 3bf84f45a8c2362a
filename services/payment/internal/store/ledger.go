package store

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/payment"
)

// Posting is one line of the ledger as it is stored.
type Posting struct {
	Seq       int64
	OrderID   string
	PaymentID string
	Booking   payment.Booking
	Number    int64
	Account   payment.Account
	Amount    payment.Money
	Reference string
	Created   time.Time
}

// TransactionID names the entry a posting belongs to. It is derived, so that the
// ledger need not store it.
func (p Posting) TransactionID() string {
	return p.OrderID + ":" + p.Booking.String() + ":" + strconv.FormatInt(p.Number, 10)
}

const postingColumns = `l.seq, l.order_id, p.payment_id, l.booking, l.number, l.account, l.amount, l.currency, l.reference, l.created_at`

func scanPosting(s sqldb.Scanner) (Posting, error) {
	var l Posting
	var booking, account int64
	var reference *string
	err := s.Scan(&l.Seq, &l.OrderID, &l.PaymentID, &booking, &l.Number, &account, &l.Amount.Minor, &l.Amount.Currency, &reference, &l.Created)
	l.Booking, l.Account = payment.Booking(booking), payment.Account(account)
	if reference != nil {
		l.Reference = *reference
	}
	return l, err
}

// PostingFilter picks postings; the zero value picks all.
type PostingFilter struct {
	Start, End time.Time // from Start on, before End; zero is open
	Account    payment.Account
	Settled    bool // only what is settled with the provider: captures and refunds paid
	After      int64
	UpTo       int64 // 0 is open
}

func (f PostingFilter) where() (string, []any) {
	cond, args := []string{`l.seq > ?`}, []any{f.After}
	add := func(c string, a any) { cond, args = append(cond, c), append(args, a) }
	if f.UpTo > 0 {
		add(`l.seq <= ?`, f.UpTo)
	}
	if !f.Start.IsZero() {
		add(`l.created_at >= ?`, f.Start)
	}
	if !f.End.IsZero() {
		add(`l.created_at < ?`, f.End)
	}
	if f.Account != 0 {
		add(`l.account = ?`, int64(f.Account))
	}
	if f.Settled {
		cond = append(cond, `l.reference IS NOT NULL`)
	}
	return strings.Join(cond, ` AND `), args
}

// ExportTo gives the place in the ledger up to which it is complete: nothing
// will ever be booked at or before it. On PostgreSQL places are given out before
// the commit, so it waits for those that are booking just now.
func (s *Store) ExportTo(ctx context.Context) (int64, error) {
	var last *int64
	err := s.db.InTx(ctx, func(ctx context.Context, tx *sqldb.Tx) error {
		if s.db.Dialect() == sqldb.Postgres {
			if _, err := tx.Exec(ctx, `LOCK TABLE postings IN SHARE MODE`); err != nil {
				return err
			}
		}
		return tx.QueryRow(ctx, `SELECT max(seq) FROM postings`).Scan(&last)
	})
	if err != nil || last == nil {
		return 0, err
	}
	return *last, nil
}

// Export gives up to limit postings in the order of the ledger.
func (s *Store) Export(ctx context.Context, f PostingFilter, limit int) ([]Posting, error) {
	where, args := f.where()
	return sqldb.All(ctx, s.db, `SELECT `+postingColumns+` FROM postings l JOIN payments p ON p.id = l.order_id WHERE `+where+` ORDER BY l.seq LIMIT ?`,
		append(args, limit), scanPosting)
}

// ByReference gives the posting with the provider's reference, and whether there
// is one.
func (s *Store) ByReference(ctx context.Context, reference string) (Posting, bool, error) {
	l, err := scanPosting(s.db.QueryRow(ctx, `SELECT `+postingColumns+` FROM postings l JOIN payments p ON p.id = l.order_id WHERE l.reference = ?`, reference))
	if errors.Is(err, sqldb.ErrNoRows) {
		return l, false, nil
	}
	return l, err == nil, err
}

// Sum is the balance of one account in one currency.
type Sum struct {
	Account  payment.Account
	Currency string
	Amount   int64
}

// Balance gives the sums of all accounts, which add up to zero per currency.
func (s *Store) Balance(ctx context.Context) ([]Sum, error) {
	rows, err := s.db.Query(ctx, `SELECT account, currency, CAST(sum(amount) AS bigint) FROM postings GROUP BY account, currency ORDER BY currency, account`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var sums []Sum
	for rows.Next() {
		var a int64
		var b Sum
		if err := rows.Scan(&a, &b.Currency, &b.Amount); err != nil {
			return nil, err
		}
		b.Account = payment.Account(a)
		sums = append(sums, b)
	}
	return sums, rows.Err()
}

// check is one thing that must hold: the query gives a row for each violation,
// the order and a text.
type check struct{ what, query string }

// checks are the invariants of the ledger. States: 4 and 11 to 14 are final or
// settled without money set aside, 7 captured.
func checks() []check {
	over := states(func(p payment.Payment) bool { return p.Over() })
	taken := states(func(p payment.Payment) bool {
		return p.State == payment.Captured || p.State == payment.Refunding || p.State == payment.Refunded
	})
	return []check{
		{"the postings of a currency do not add up to zero",
			`SELECT currency, sum(amount) FROM postings GROUP BY currency HAVING sum(amount) <> 0`},
		{"the postings of an entry do not add up to zero",
			`SELECT order_id, sum(amount) FROM postings GROUP BY order_id, booking, number, currency HAVING sum(amount) <> 0`},
		{"the clearing account of an order that is over is not zero",
			`SELECT l.order_id, sum(l.amount) FROM postings l JOIN payments p ON p.id = l.order_id
			  WHERE l.account = 2 AND p.state IN (` + over + `) GROUP BY l.order_id HAVING sum(l.amount) <> 0`},
		{"postings in another currency than the payment's",
			`SELECT l.order_id, count(*) FROM postings l JOIN payments p ON p.id = l.order_id WHERE l.currency <> p.currency GROUP BY l.order_id`},
		{"postings without a payment",
			`SELECT l.order_id, count(*) FROM postings l LEFT JOIN payments p ON p.id = l.order_id WHERE p.id IS NULL GROUP BY l.order_id`},
		{"taken according to the payment, but not to the ledger",
			`SELECT p.id, p.amount FROM payments p
			  WHERE p.state IN (` + taken + `)
			    AND NOT EXISTS (SELECT 1 FROM postings l WHERE l.order_id = p.id AND l.booking = 2 AND l.account = 3 AND l.amount = p.amount)`},
		{"taken according to the ledger, but not to the payment",
			`SELECT l.order_id, l.amount FROM postings l JOIN payments p ON p.id = l.order_id
			  WHERE l.booking = 2 AND l.account = 3 AND p.state NOT IN (` + taken + `)`},
		{"more was owed back than taken",
			`SELECT order_id, sum(amount) FROM postings WHERE account = 4 GROUP BY order_id HAVING sum(amount) > 0`},
		{"everything was paid back, but the ledger does not say so",
			`SELECT l.order_id, sum(l.amount) FROM postings l JOIN payments p ON p.id = l.order_id
			  WHERE p.state = ` + strconv.Itoa(int(payment.Refunded)) + ` AND l.account IN (3, 4, 5) GROUP BY l.order_id, l.account HAVING sum(l.amount) <> 0`},
		{"money is owed back though no refund is under way",
			`SELECT l.order_id, sum(l.amount) FROM postings l JOIN payments p ON p.id = l.order_id
			  WHERE p.state <> ` + strconv.Itoa(int(payment.Refunding)) + ` AND l.account = 5 GROUP BY l.order_id HAVING sum(l.amount) <> 0`},
	}
}

// states lists the numbers of the states that pass, for an IN.
func states(pass func(payment.Payment) bool) string {
	var in []string
	for _, st := range payment.States() {
		if pass(payment.Payment{State: st}) {
			in = append(in, strconv.Itoa(int(st)))
		}
	}
	return strings.Join(in, ", ")
}

// maxViolations is how many violations of one kind Check lists.
const maxViolations = 20

// Check gives what is wrong with the books, one line each; nil if they balance.
func (s *Store) Check(ctx context.Context) ([]string, error) {
	var found []string
	for _, c := range checks() {
		rows, err := s.db.Query(ctx, c.query)
		if err != nil {
			return found, fmt.Errorf("%s: %w", c.what, err)
		}
		for n := 0; rows.Next(); n++ {
			var id string
			var amount int64
			if err := rows.Scan(&id, &amount); err != nil {
				rows.Close()
				return found, err
			}
			if n < maxViolations {
				found = append(found, fmt.Sprintf("%s: %s (%d)", c.what, id, amount))
			}
		}
		if err := rows.Err(); err != nil {
			return found, err
		}
	}
	return found, nil
}
