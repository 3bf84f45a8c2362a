// Package effect runs calls to the outside (payment provider, carrier, mail).
// A step records the call in the transaction that saves its state; the call is
// made after the commit, with a key that stays the same however often it is
// repeated, and its result comes back as one more message.
package effect

import (
	"time"

	"github.com/waybill-dev/waybill/platform/sqldb"
)

// A Call is one recorded call to the outside.
type Call struct {
	ID          string // unique; the result is folded back once per ID
	Kind        string // which performer makes it
	Key         string // idempotency key for the other side, stable over retries
	AggregateID string
	Payload     []byte // JSON, as the step recorded it
	Attempt     int64  // 1 for the first try
	RunAt       time.Time
	Cause       string // id of the message whose step recorded the call, or ""
	Hops        int64
	Traceparent string

	Read any // what Payload says, for whoever has read it to read it once; not stored
}

// Table is the table of calls not folded back yet.
var Table = &sqldb.Table{
	Name: "effects",
	Key:  []string{"effect_id"},
	Columns: []sqldb.Column{
		{Name: "effect_id", Type: sqldb.Text},
		{Name: "kind", Type: sqldb.Text},
		{Name: "idempotency_key", Type: sqldb.Text},
		{Name: "aggregate_id", Type: sqldb.Text},
		{Name: "payload", Type: sqldb.Bytes},
		{Name: "attempt", Type: sqldb.Int},
		{Name: "run_at", Type: sqldb.Time},
		{Name: "claimed_until", Type: sqldb.Time},
		{Name: "cause", Type: sqldb.Text},
		{Name: "hops", Type: sqldb.Int},
		{Name: "traceparent", Type: sqldb.Text},
	},
}

// claim is how long after its time a call belongs to the process that recorded
// it. After that any replica may make it: the key makes a repetition harmless.
const claim = 30 * time.Second

// Record queues the insertion of calls into b.
func Record(b *sqldb.Batch, calls []*Call) {
	if len(calls) == 0 {
		return
	}
	rows := make([][]any, len(calls))
	for i, c := range calls {
		rows[i] = []any{c.ID, c.Kind, c.Key, c.AggregateID, c.Payload, c.Attempt, c.RunAt, c.RunAt.Add(claim), c.Cause, c.Hops, c.Traceparent}
	}
	b.Insert(Table, rows)
}

// FoldAll queues the removal of calls whose results are taken to be folded for the
// first time; one that was folded before fails the batch with sqldb.ErrMissing.
func FoldAll(b *sqldb.Batch, ids []string) { b.DeleteAll(Table, ids) }

// Fold queues the removal of calls whose results are being folded into state;
// first is called, while b is sent, for each call not folded before.
func Fold(b *sqldb.Batch, ids []string, first func(id string)) {
	if len(ids) == 0 {
		return
	}
	b.DeleteReturning(Table, ids, func(s sqldb.Scanner) error {
		var id string
		if err := s.Scan(&id); err != nil {
			return err
		}
		first(id)
		return nil
	})
}
