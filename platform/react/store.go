package react

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/waybill-dev/waybill/platform/effect"
	"github.com/waybill-dev/waybill/platform/inbox"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/sqldb"
)

// fetch is what a batch asks of the database in one round trip.
type fetch struct {
	trusting bool // events, calls and answers are taken for new ones until save

	events  []string // claim these in the inbox
	again   []string // of the events, those that were delivered before
	calls   []string // fold these calls
	answers []string // stored answers under these idempotency keys
	letters []string // load and lock these dead letters
	refs    []Ref    // load and lock these aggregates

	freshEvents map[string]bool
	freshCalls  map[string]bool
	stored      map[string]answer
	failures    map[string]failure
	dead        map[string]*deadLetter
}

// writes is what a batch leaves behind.
type writes struct {
	dirty   []Ref
	events  []*outbox.Event
	calls   []*effect.Call
	rows    []appended
	answers []answer
	dead    []*deadLetter // new ones
	died    []*deadLetter // once more
	risen   []string      // ids of dead letters that are none any more
	failed  []failure
	healed  []string // events that have failed and will not come again
	execs   []exec
	forget  []string
	after   []func()
}

// exec is a statement of a step of this package's own.
type exec struct {
	sql  string
	args []any
}

// answer is the stored outcome of a keyed command.
type answer struct {
	id          string
	fingerprint []byte
	data        []byte
}

var answers = &sqldb.Table{
	Name: "idempotency",
	Key:  []string{"id"},
	Columns: []sqldb.Column{
		{Name: "id", Type: sqldb.Text},
		{Name: "fingerprint", Type: sqldb.Bytes},
		{Name: "answer", Type: sqldb.Bytes},
		{Name: "created_at", Type: sqldb.Time},
	},
}

// load sends f within tx and puts the aggregates into set.
func load(ctx context.Context, tx *sqldb.Tx, f *fetch, set workingSet, now time.Time) error {
	var b sqldb.Batch
	f.freshEvents = make(map[string]bool, len(f.events))
	f.freshCalls = make(map[string]bool, len(f.calls))
	if f.trusting {
		for _, id := range f.events {
			f.freshEvents[id] = true
		}
		for _, id := range f.calls {
			f.freshCalls[id] = true
		}
	} else {
		inbox.Claim(&b, f.events, now, func(id string) { f.freshEvents[id] = true })
		effect.Fold(&b, f.calls, func(id string) { f.freshCalls[id] = true })
	}
	loadLetters(&b, f)
	if len(f.answers) > 0 && !f.trusting {
		f.stored = make(map[string]answer)
		b.Load(answers, f.answers, false, func(s sqldb.Scanner) error {
			var a answer
			var created time.Time
			if err := s.Scan(&a.id, &a.fingerprint, &a.data, &created); err != nil {
				return err
			}
			f.stored[a.id] = a
			return nil
		})
	}
	for k, ids := range byKind(f.refs) {
		for _, id := range ids {
			set[Ref{k, id}].loaded = true
		}
		b.Load(k.table, ids, true, func(s sqldb.Scanner) error {
			id, e, err := k.scan(s)
			if err != nil {
				return err
			}
			e.exists = true
			set[Ref{k, id}] = e
			return nil
		})
	}
	return tx.Send(ctx, &b)
}

// save sends w and commits, unless something was taken for granted that is not so.
func save(ctx context.Context, tx *sqldb.Tx, f *fetch, w *writes, set workingSet, now time.Time) error {
	var b sqldb.Batch
	if f.trusting {
		inbox.Add(&b, f.events, now)
		effect.FoldAll(&b, f.calls)
	}
	// Kind by kind, as load does, so that transactions lock rows in the same order.
	for k, ids := range byKind(append(set.granted(), w.dirty...)) {
		var fresh, changed [][]any
		var same []string
		var versions []int64
		for _, id := range ids {
			e := set[Ref{k, id}]
			if !e.dirty {
				same, versions = append(same, id), append(versions, e.was)
				continue
			}
			row := append(append(make([]any, 0, len(k.table.Columns)+1), id, e.version, e.eventSeq), k.row(e.state)...)
			if e.stored {
				changed = append(changed, append(row, e.was))
			} else {
				fresh = append(fresh, row)
			}
		}
		b.Expect(k.table, same, versions)
		// A row that was absent is inserted, never upserted: if another replica
		// made it meanwhile, the batch fails and runs again on what is there.
		b.Insert(k.table, fresh)
		b.UpdateAt(k.table, changed)
	}
	for t, rows := range byTable(w.rows) {
		b.Insert(t, rows)
	}
	outbox.Append(&b, w.events)
	effect.Record(&b, w.calls)
	if len(w.answers) > 0 {
		rows := make([][]any, len(w.answers))
		for i, a := range w.answers {
			rows[i] = []any{a.id, a.fingerprint, a.data, now}
		}
		b.Insert(answers, rows)
	}
	saveLetters(&b, w)
	return tx.Commit(ctx, &b)
}

// byKind groups refs by kind, in the order in which kinds first appear; ids are
// sorted, so that all replicas lock rows in the same order.
func byKind(refs []Ref) func(yield func(*kind, []string) bool) {
	var kinds []*kind
	ids := map[*kind][]string{}
	for _, r := range refs {
		if _, ok := ids[r.kind]; !ok {
			kinds = append(kinds, r.kind)
		}
		ids[r.kind] = append(ids[r.kind], r.ID)
	}
	slices.SortFunc(kinds, func(a, b *kind) int { return strings.Compare(a.name, b.name) })
	return func(yield func(*kind, []string) bool) {
		for _, k := range kinds {
			slices.Sort(ids[k])
			if !yield(k, ids[k]) {
				return
			}
		}
	}
}

func byTable(rows []appended) func(yield func(*sqldb.Table, [][]any) bool) {
	var tables []*sqldb.Table
	grouped := map[*sqldb.Table][][]any{}
	for _, r := range rows {
		if _, ok := grouped[r.table]; !ok {
			tables = append(tables, r.table)
		}
		grouped[r.table] = append(grouped[r.table], r.row)
	}
	return func(yield func(*sqldb.Table, [][]any) bool) {
		for _, t := range tables {
			if !yield(t, grouped[t]) {
				return
			}
		}
	}
}
