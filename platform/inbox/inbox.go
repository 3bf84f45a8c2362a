// Package inbox remembers which events a service has handled. The row commits
// with the effects of its event, so an event delivered again changes nothing.
//
// The key is the event's UUID. It is never the stream sequence: after a broker
// lost its tail, sequences are used again for other events.
package inbox

import (
	"time"

	"github.com/waybill-dev/waybill/platform/sqldb"
)

// Retention is how long a handled event is remembered. It must exceed the age
// at which streams drop events, else a very late delivery would count as new.
const Retention = 30 * 24 * time.Hour

// Table is the inbox table; a service has one, in its own database.
var Table = &sqldb.Table{
	Name: "inbox",
	Key:  []string{"event_id"},
	Columns: []sqldb.Column{
		{Name: "event_id", Type: sqldb.Text},
		{Name: "processed_at", Type: sqldb.Time},
	},
}

// Claim queues the insertion of the events' rows into b; isNew is called, while
// b is sent, for each event that was not there yet. A concurrent transaction
// that claims the same event waits for this one to end.
func Claim(b *sqldb.Batch, eventIDs []string, now time.Time, isNew func(eventID string)) {
	if len(eventIDs) == 0 {
		return
	}
	b.InsertNew(Table, rows(eventIDs, now), func(s sqldb.Scanner) error {
		var id string
		if err := s.Scan(&id); err != nil {
			return err
		}
		isNew(id)
		return nil
	})
}

// Add queues the insertion of the rows of events that are taken for new ones; one
// that is there already fails the batch with sqldb.ErrDuplicate.
func Add(b *sqldb.Batch, eventIDs []string, now time.Time) {
	b.Insert(Table, rows(eventIDs, now))
}

func rows(eventIDs []string, now time.Time) [][]any {
	rows := make([][]any, len(eventIDs))
	cells, at := make([]any, 2*len(eventIDs)), any(now)
	for i, id := range eventIDs {
		rows[i] = cells[2*i : 2*i+2 : 2*i+2]
		rows[i][0], rows[i][1] = id, at
	}
	return rows
}

// Forget queues the removal of one event's row, for an event whose step failed
// and that is to be delivered again.
func Forget(b *sqldb.Batch, eventID string) {
	b.Exec(`DELETE FROM inbox WHERE event_id = ?`, eventID)
}
