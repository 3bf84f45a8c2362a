// Package store keeps payments and the ledger in SQL. One text serves both
// databases; sqldb translates what differs.
package store

import (
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"time"

	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/services/payment"
)

//go:embed migrations
var migrations embed.FS

// Migrations holds the tables of the payment service. The platform's own tables
// are migrated before them.
func Migrations() fs.FS { return sqldb.Embedded(migrations) }

// Payments are the payments, by order id.
var Payments = react.NewKind("payments", []sqldb.Column{
	{Name: "payment_id", Type: sqldb.Text},
	{Name: "user_id", Type: sqldb.Text},
	{Name: "state", Type: sqldb.Int},
	{Name: "status", Type: sqldb.Int},
	{Name: "seen", Type: sqldb.Int},
	{Name: "amount", Type: sqldb.Int},
	{Name: "currency", Type: sqldb.Text},
	{Name: "token", Type: sqldb.Text},
	{Name: "held_until", Type: sqldb.Time, Nullable: true},
	{Name: "reason", Type: sqldb.Text},
	{Name: "reference", Type: sqldb.Text},
	{Name: "review", Type: sqldb.Bool},
	{Name: "created_at", Type: sqldb.Time},
	{Name: "updated_at", Type: sqldb.Time},
	{Name: "rare", Type: sqldb.Text, Nullable: true},
}, paymentRow, scanPayment).Remembered()

// Row gives the whole row of a payment, in the order of Payments.Columns.
func Row(p payment.Payment, version, eventSeq int64) []any {
	return append([]any{p.OrderID, version, eventSeq}, paymentRow(p)...)
}

func paymentRow(p payment.Payment) []any {
	var held, rare any
	if !p.HeldUntil.IsZero() {
		held = p.HeldUntil
	}
	if !p.Rare.IsZero() {
		data, err := json.Marshal(p.Rare)
		if err != nil {
			panic(fmt.Sprintf("payment %s cannot be stored: %v", p.OrderID, err)) // plain values always can
		}
		rare = string(data)
	}
	return []any{
		p.ID, p.UserID, int64(p.State), int64(p.Status()), int64(p.Seen), p.Amount.Minor, p.Amount.Currency, p.Token, held,
		p.Reason, p.Reference, p.Review, p.Created, p.Updated, rare,
	}
}

func scanPayment(s sqldb.Scanner, meta ...any) (payment.Payment, error) {
	var (
		p                   payment.Payment
		state, status, seen int64
		held                *time.Time
		rare                []byte
	)
	own := []any{
		&p.ID, &p.UserID, &state, &status, &seen, &p.Amount.Minor, &p.Amount.Currency, &p.Token, &held,
		&p.Reason, &p.Reference, &p.Review, &p.Created, &p.Updated, &rare,
	}
	if err := s.Scan(append(meta, own...)...); err != nil {
		return p, err
	}
	p.OrderID = *meta[0].(*string)
	p.State, p.Seen = payment.State(state), payment.Seen(seen)
	if held != nil {
		p.HeldUntil = *held
	}
	if len(rare) > 0 {
		if err := json.Unmarshal(rare, &p.Rare); err != nil {
			return p, fmt.Errorf("payment of order %s: %w", p.OrderID, err)
		}
	}
	return p, nil
}

// Notice is a notice of the provider that was acted upon, by its id.
type Notice struct {
	OrderID string
	Created time.Time
}

// Notices are the notices seen.
var Notices = react.NewKind("webhook_events", []sqldb.Column{
	{Name: "order_id", Type: sqldb.Text},
	{Name: "created_at", Type: sqldb.Time},
}, func(n Notice) []any { return []any{n.OrderID, n.Created} }, func(s sqldb.Scanner, meta ...any) (Notice, error) {
	var n Notice
	err := s.Scan(append(meta, &n.OrderID, &n.Created)...)
	return n, err
})

// Quarantine holds notices that do not fit what was asked for.
var Quarantine = &sqldb.Table{
	Name: "webhook_quarantine",
	Key:  []string{"event_id"},
	Columns: []sqldb.Column{
		{Name: "event_id", Type: sqldb.Text},
		{Name: "order_id", Type: sqldb.Text},
		{Name: "operation", Type: sqldb.Text},
		{Name: "reason", Type: sqldb.Text},
		{Name: "amount", Type: sqldb.Int},
		{Name: "currency", Type: sqldb.Text},
		{Name: "reference", Type: sqldb.Text},
		{Name: "created_at", Type: sqldb.Time},
	},
}

// Postings is the ledger.
var Postings = &sqldb.Table{
	Name: "postings",
	Columns: []sqldb.Column{
		{Name: "order_id", Type: sqldb.Text},
		{Name: "booking", Type: sqldb.Int},
		{Name: "number", Type: sqldb.Int},
		{Name: "account", Type: sqldb.Int},
		{Name: "amount", Type: sqldb.Int},
		{Name: "currency", Type: sqldb.Text},
		{Name: "reference", Type: sqldb.Text, Nullable: true},
		{Name: "created_at", Type: sqldb.Time},
	},
}

// PostingRows gives the rows of an entry for Postings. The provider's reference
// stands on the line of the account that is settled with the provider.
func PostingRows(orderID, currency string, e payment.Entry, now time.Time) [][]any {
	rows := make([][]any, len(e.Postings))
	for i, l := range e.Postings {
		var reference any
		if l.Account == payment.ProviderReceivable && e.Reference != "" {
			reference = e.Reference
		}
		rows[i] = []any{orderID, int64(e.Booking), e.Number, int64(l.Account), l.Amount, currency, reference, now}
	}
	return rows
}
