package store

import (
	"context"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/payment"
)

// Audited is all that payment knows of money.
type Audited struct {
	Payments map[string]payment.Payment // by order
	Postings []Posting
}

// Audit reads all payments and the ledger. It is for databases that fit into memory.
func (s *Store) Audit(ctx context.Context) (*Audited, error) {
	a := &Audited{Payments: map[string]payment.Payment{}}
	err := sqldb.Each(ctx, s.db, `SELECT `+columns+` FROM payments`, nil, func(r sqldb.Scanner) error {
		v, err := scanVersioned(r)
		a.Payments[v.OrderID] = v.Payment
		return err
	})
	if err != nil {
		return nil, err
	}
	a.Postings, err = sqldb.All(ctx, s.db, `SELECT order_id, booking, number, account, amount, currency FROM postings`, nil, func(r sqldb.Scanner) (p Posting, err error) {
		var booking, account int64
		err = r.Scan(&p.OrderID, &booking, &p.Number, &account, &p.Amount.Minor, &p.Amount.Currency)
		p.Booking, p.Account = payment.Booking(booking), payment.Account(account)
		return p, err
	})
	return a, err
}
