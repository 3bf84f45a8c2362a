package react_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/bus"
	"github.com/waybill-dev/waybill/platform/outbox"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
)

// BenchmarkBacklog measures how fast events that wait in one service's outbox get
// through the broker into another one's inbox and state, with durable commits.
// It reports events per second.
func BenchmarkBacklog(b *testing.B) {
	const backlog = 100_000
	for name, open := range map[string]func(testing.TB) sqldbtest.Opener{
		"sqlite":   sqldbtest.SQLite,
		"postgres": func(tb testing.TB) sqldbtest.Opener { return sqldbtest.Postgres(tb, true) },
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				opener := open(b)
				from, to := opener("inventory"), opener("payment")
				prepare(b, from, backlog)
				prepare(b, to, 0)
				exec(b, to, `CREATE TABLE tallies (id text PRIMARY KEY, version bigint NOT NULL, event_seq bigint NOT NULL, sum bigint NOT NULL, calls bigint NOT NULL)`)
				broker, err := bus.Open(b.Context(), bus.Config{Dir: b.TempDir()}, slog.New(slog.DiscardHandler))
				if err != nil {
					b.Fatal(err)
				}
				handled := make(chan struct{}, backlog)
				consumer := start(b, to, broker, counter(func(v *react.View, e *inventoryv1.StockHeld) error {
					v.Committed(func() { handled <- struct{}{} })
					return addOne(v, e)
				}))
				b.StartTimer()
				begin := time.Now()
				producer := start(b, from, broker, react.NewMachine("inventory"))
				for range backlog {
					<-handled
				}
				b.ReportMetric(backlog/time.Since(begin).Seconds(), "events/s")
				b.StopTimer()
				stopAll(b, broker, consumer, producer)
				b.StartTimer()
			}
		})
	}
}

// prepare migrates a database and fills its outbox.
func prepare(b *testing.B, db *sqldb.DB, events int) {
	b.Helper()
	if err := db.Migrate(b.Context(), "platform", react.Migrations()); err != nil {
		b.Fatal(err)
	}
	for done := 0; done < events; done += 1000 {
		rows := make([]*outbox.Event, 1000)
		for i := range rows {
			id := fmt.Sprintf("0192aaaa-0000-7000-8000-%012d", done+i)
			payload, err := proto.Marshal(&inventoryv1.StockHeld{OrderId: id})
			if err != nil {
				b.Fatal(err)
			}
			rows[i] = &outbox.Event{ID: id, Type: "waybill.inventory.v1.StockHeld", AggregateID: id, Version: 1, Payload: payload, Time: time.Now()}
		}
		err := db.InTx(b.Context(), func(ctx context.Context, tx *sqldb.Tx) error {
			var batch sqldb.Batch
			outbox.Append(&batch, rows)
			return tx.Send(ctx, &batch)
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func exec(b *testing.B, db *sqldb.DB, sql string) {
	b.Helper()
	if _, err := db.Exec(b.Context(), sql); err != nil {
		b.Fatal(err)
	}
}

func start(b *testing.B, db *sqldb.DB, broker *bus.Bus, m *react.Machine) *react.Reactor {
	b.Helper()
	r, err := react.New(react.Config{Machine: m, DB: db, Bus: broker, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		err = r.Start(b.Context())
	}
	if err != nil {
		b.Fatal(err)
	}
	return r
}

func stopAll(b *testing.B, broker *bus.Bus, reactors ...*react.Reactor) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, r := range reactors {
		if err := r.Stop(ctx); err != nil {
			b.Error(err)
		}
	}
	if err := broker.Close(ctx); err != nil {
		b.Error(err)
	}
}
