package store_test

import (
	"testing"

	"github.com/waybill-dev/waybill/platform/sqldb"
	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	"github.com/waybill-dev/waybill/services/inventory/internal/store"
	"github.com/waybill-dev/waybill/services/inventory/internal/storetest"
)

// BenchmarkItems reads three products per operation, as a quote does: one caller
// at a time, and 64 at once.
func BenchmarkItems(b *testing.B) {
	for _, d := range []struct {
		name string
		open func(b *testing.B) *sqldb.DB
	}{
		{"sqlite", func(b *testing.B) *sqldb.DB { return storetest.Open(sqldbtest.SQLite(b)) }},
		{"postgres", func(b *testing.B) *sqldb.DB { return storetest.Open(sqldbtest.Postgres(b, false)) }},
	} {
		b.Run(d.name, func(b *testing.B) {
			db := d.open(b)
			ids := make([]string, 500)
			for i := range ids {
				p := storetest.Product(i, 10, 0)
				ids[i] = p.ProductID
				storetest.Insert(b, db, p)
			}
			if _, err := db.Exec(b.Context(), "ANALYZE"); err != nil {
				b.Fatal(err)
			}
			s := store.New(db)
			read := func(i int) {
				got, err := s.Items(b.Context(), ids[i%500], ids[(i+7)%500], ids[(i+31)%500])
				if err != nil || len(got) != 3 {
					b.Error(got, err)
				}
			}
			b.Run("one", func(b *testing.B) {
				for i := range b.N {
					read(i)
				}
			})
			b.Run("64", func(b *testing.B) {
				b.SetParallelism(32)
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						read(i)
					}
				})
			})
		})
	}
}
