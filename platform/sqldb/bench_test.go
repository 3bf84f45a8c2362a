package sqldb_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
)

// Figures are taken with durable commits on both databases.

var (
	benchState = &sqldb.Table{Name: "state", Key: []string{"id"}, Columns: []sqldb.Column{
		{Name: "id", Type: sqldb.Text}, {Name: "version", Type: sqldb.Int}, {Name: "event_seq", Type: sqldb.Int}, {Name: "status", Type: sqldb.Int},
		{Name: "owner", Type: sqldb.Text}, {Name: "total", Type: sqldb.Int}, {Name: "body", Type: sqldb.JSON}, {Name: "updated_at", Type: sqldb.Time},
	}}
	benchInbox = &sqldb.Table{Name: "inbox", Key: []string{"consumer", "event_id"}, Columns: []sqldb.Column{
		{Name: "consumer", Type: sqldb.Text}, {Name: "event_id", Type: sqldb.Text}, {Name: "at", Type: sqldb.Time},
	}}
	benchOutbox = &sqldb.Table{Name: "outbox", Key: []string{"id"}, Columns: []sqldb.Column{
		{Name: "event_id", Type: sqldb.Text}, {Name: "id", Type: sqldb.Text}, {Name: "subject", Type: sqldb.Text}, {Name: "payload", Type: sqldb.Bytes},
		{Name: "at", Type: sqldb.Time},
	}}
)

func benchTables() sqldbtest.Migration {
	return migration(`
CREATE TABLE state (id text PRIMARY KEY, version bigint NOT NULL, event_seq bigint NOT NULL, status bigint NOT NULL, owner text NOT NULL,
	total bigint NOT NULL, body jsonb NOT NULL, updated_at timestamptz NOT NULL);
CREATE TABLE inbox (consumer text NOT NULL, event_id text NOT NULL, at timestamptz NOT NULL, PRIMARY KEY (consumer, event_id));
CREATE TABLE outbox (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, event_id text NOT NULL, id text NOT NULL UNIQUE, subject text NOT NULL,
	payload bytea NOT NULL, at timestamptz NOT NULL);`)
}

var benchTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func benchID(i int) string { return fmt.Sprintf("0190a1b2-c3d4-7e5f-8a9b-%012d", i) }

func benchStates(from, n int) (rows [][]any, ids []string) {
	for i := from; i < from+n; i++ {
		ids = append(ids, benchID(i))
		rows = append(rows, []any{ids[len(ids)-1], int64(1), int64(1), int64(3), "a customer", int64(12999), `{"lines":[{"sku":"A-1","quantity":2}]}`, benchTime})
	}
	return rows, ids
}

func benchMessages(from, n int) (inbox, outbox [][]any) {
	payload := make([]byte, 200)
	for i := from; i < from+n; i++ {
		id := benchID(i)
		inbox = append(inbox, []any{"order", id, benchTime})
		outbox = append(outbox, []any{id, id, "waybill.order.order_placed.v1." + id, payload, benchTime})
	}
	return inbox, outbox
}

// benchBoth runs body for each database and batch size; body does the work of one
// transaction, number i.
func benchBoth(b *testing.B, sizes []int, body func(db *sqldb.DB, size, i int) error) {
	for _, backend := range []string{"sqlite", "postgres"} {
		for _, size := range sizes {
			b.Run(fmt.Sprintf("%s/rows=%d", backend, size), func(b *testing.B) {
				open := sqldbtest.SQLite
				if backend == "postgres" {
					open = func(tb testing.TB) sqldbtest.Opener { return sqldbtest.Postgres(tb, true) }
				}
				db := open(b)("bench", benchTables())
				rows, _ := benchStates(0, 20000)
				if err := tryCommit(db, func(b *sqldb.Batch) { b.Insert(benchState, rows) }); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					if err := body(db, size, i); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "rows/s")
			})
		}
	}
}

var benchSizes = []int{1, 16, 128}

func BenchmarkInsert(b *testing.B) {
	benchBoth(b, benchSizes, func(db *sqldb.DB, size, i int) error {
		_, outbox := benchMessages(i*size, size)
		return tryCommit(db, func(b *sqldb.Batch) { b.Insert(benchOutbox, outbox) })
	})
}

func BenchmarkInsertNew(b *testing.B) {
	benchBoth(b, benchSizes, func(db *sqldb.DB, size, i int) error {
		inbox, _ := benchMessages(i*size, size)
		return tryCommit(db, func(b *sqldb.Batch) { b.InsertNew(benchInbox, inbox, scanNothing) })
	})
}

func scanNothing(s sqldb.Scanner) error {
	var a, b string
	return s.Scan(&a, &b)
}

func BenchmarkInsertReturning(b *testing.B) {
	benchBoth(b, benchSizes, func(db *sqldb.DB, size, i int) error {
		_, outbox := benchMessages(i*size, size)
		return tryCommit(db, func(b *sqldb.Batch) {
			b.InsertReturning(benchOutbox, outbox, []string{"seq"}, func(s sqldb.Scanner) error {
				var seq int64
				return s.Scan(&seq)
			})
		})
	})
}

func BenchmarkUpdate(b *testing.B) {
	benchBoth(b, benchSizes, func(db *sqldb.DB, size, i int) error {
		rows, _ := benchStates((i*size)%19000, size)
		for _, r := range rows {
			r[1] = int64(i)
		}
		return tryCommit(db, func(b *sqldb.Batch) { b.Update(benchState, rows) })
	})
}

func BenchmarkLoad(b *testing.B) {
	benchBoth(b, benchSizes, func(db *sqldb.DB, size, i int) error {
		_, ids := benchStates((i*size)%19000, size)
		return tryCommit(db, func(b *sqldb.Batch) { b.Load(benchState, ids, true, scanState) })
	})
}

func scanState(s sqldb.Scanner) error {
	var id, owner string
	var version, seq, status, total int64
	var body []byte
	var at time.Time
	return s.Scan(&id, &version, &seq, &status, &owner, &total, &body, &at)
}

// BenchmarkTwoSends is the shape of a batch of messages: drop duplicates and load
// in one round trip, store states and events and commit in another.
func BenchmarkTwoSends(b *testing.B) {
	benchBoth(b, benchSizes, func(db *sqldb.DB, size, i int) error {
		ctx := context.Background()
		inbox, outbox := benchMessages(i*size, size)
		rows, ids := benchStates((i*size)%19000, size)
		tx, err := db.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback()
		var batch sqldb.Batch
		batch.InsertNew(benchInbox, inbox, scanNothing)
		batch.Load(benchState, ids, true, scanState)
		if err := tx.Send(ctx, &batch); err != nil {
			return err
		}
		batch.Reset()
		batch.Update(benchState, rows)
		batch.Insert(benchOutbox, outbox)
		return tx.Commit(ctx, &batch)
	})
}

func BenchmarkQueryRow(b *testing.B) {
	benchBoth(b, []int{1}, func(db *sqldb.DB, size, i int) error {
		var n int64
		return db.QueryRow(context.Background(), "SELECT version FROM state WHERE id = ?", benchID(i%20000)).Scan(&n)
	})
}
