package inventoryd_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/waybill-dev/waybill/platform/sqldb/sqldbtest"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	"github.com/waybill-dev/waybill/services/inventory/csvimport"
)

// load imports rows as staff.
func (w *world) load(rows []*inventoryv1.ImportProductsRequest) (*inventoryv1.ImportProductsResponse, error) {
	stream, err := w.ImportProducts(w.staff)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if err := stream.Send(row); errors.Is(err, io.EOF) {
			break // refused before the end; CloseAndRecv says why
		} else if err != nil {
			return nil, err
		}
	}
	return stream.CloseAndRecv()
}

// row gives a good row whose line is n+2, as after a header.
func row(n int) *inventoryv1.ImportProductsRequest {
	return &inventoryv1.ImportProductsRequest{
		LineNumber: int32(n) + 2, Sku: fmt.Sprintf("SKU-%05d", n), Name: fmt.Sprint("Name ", n), Category: "c", Price: eur(100 + int64(n)), InitialStock: int64(n % 7),
	}
}

func TestTheListThatIsShippedCanBeImportedAgainAndAgain(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		f, err := os.Open("../../../test/data/products.csv")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		rows, err := csvimport.Parse(f)
		if err != nil {
			t.Fatal(err)
		}
		out, err := w.load(rows)
		if err != nil || int(out.GetImportedCount()) != len(rows) || out.GetUnchangedCount() != 0 {
			t.Fatalf("got %v, %v", out, err)
		}
		events := w.count(`SELECT count(*) FROM outbox`)
		if int(events) != len(rows) {
			t.Errorf("%d events, want one per product", events)
		}
		out, err = w.load(rows)
		if err != nil || out.GetImportedCount() != 0 || int(out.GetUnchangedCount()) != len(rows) || w.count(`SELECT count(*) FROM outbox`) != events {
			t.Fatalf("the second time: %v, %v", out, err)
		}
		more := append(rows[:3:3], row(1))
		if out, err = w.load(more); err != nil || out.GetImportedCount() != 1 || out.GetUnchangedCount() != 3 {
			t.Fatalf("with a new one: %v, %v", out, err)
		}
	})
}

func TestAnImportWithABadLineTakesNothingOverAndNamesTheLine(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		if _, err := w.load([]*inventoryv1.ImportProductsRequest{row(900)}); err != nil {
			t.Fatal(err)
		}
		products, movements := w.count(`SELECT count(*) FROM products`), w.count(`SELECT count(*) FROM movements`)
		for _, c := range []struct {
			name     string
			change   func(rows []*inventoryv1.ImportProductsRequest) []*inventoryv1.ImportProductsRequest
			code     codes.Code
			problems []string
		}{
			{"no name", func(r []*inventoryv1.ImportProductsRequest) []*inventoryv1.ImportProductsRequest {
				r[3].Name = ""
				return r
			},
				codes.InvalidArgument, []string{"line 5, column name"}},
			{"a bad SKU", func(r []*inventoryv1.ImportProductsRequest) []*inventoryv1.ImportProductsRequest {
				r[9].Sku = "a b"
				return r
			},
				codes.InvalidArgument, []string{"line 11, column sku"}},
			{"a negative price and stock", func(r []*inventoryv1.ImportProductsRequest) []*inventoryv1.ImportProductsRequest {
				r[0].Price, r[0].InitialStock = eur(-1), -1
				return r
			}, codes.InvalidArgument, []string{"line 2, column price", "line 2, column initial_stock"}},
			{"no line number", func(r []*inventoryv1.ImportProductsRequest) []*inventoryv1.ImportProductsRequest {
				r[4].LineNumber = 0
				return r
			}, codes.InvalidArgument, []string{"column line_number"}},
			{"a SKU twice, and another", func(r []*inventoryv1.ImportProductsRequest) []*inventoryv1.ImportProductsRequest {
				r[5].Sku, r[7].Sku, r[8].Sku = r[1].Sku, r[2].Sku, r[2].Sku
				return r
			}, codes.InvalidArgument, []string{`line 7, column sku: "SKU-00001" is there twice, first in line 3`, "line 9, column sku", "line 10, column sku"}},
			{"a SKU that exists with other content", func(r []*inventoryv1.ImportProductsRequest) []*inventoryv1.ImportProductsRequest {
				r[6].Sku = row(900).Sku
				return r
			}, codes.AlreadyExists, []string{`line 8, column sku: "SKU-00900" exists already`}},
			{"nothing", func([]*inventoryv1.ImportProductsRequest) []*inventoryv1.ImportProductsRequest { return nil },
				codes.InvalidArgument, []string{"no products"}},
			{"too many problems to name", func(r []*inventoryv1.ImportProductsRequest) []*inventoryv1.ImportProductsRequest {
				for i := range 30 {
					r = append(r, row(i%3))
				}
				return r
			}, codes.InvalidArgument, []string{"and 10 more"}},
		} {
			rows := make([]*inventoryv1.ImportProductsRequest, 10)
			for i := range rows {
				rows[i] = row(i)
			}
			_, err := w.load(c.change(rows))
			e := w.refused(c.name, err, c.code, "")
			for _, p := range c.problems {
				if !strings.Contains(e.Message, p) {
					t.Errorf("%s: %q does not say %q", c.name, e.Message, p)
				}
			}
		}
		if p, m := w.count(`SELECT count(*) FROM products`), w.count(`SELECT count(*) FROM movements`); p != products || m != movements {
			t.Errorf("bad imports left %d products and %d movements", p-products, m-movements)
		}
	})
}

func TestAnImportHasALimit(t *testing.T) {
	on(t, sqldbtest.SQLite(t), func(t *testing.T, w *world) {
		rows := make([]*inventoryv1.ImportProductsRequest, csvimport.MaxRows+1)
		for i := range rows {
			rows[i] = row(i)
		}
		_, err := w.load(rows)
		w.refused("one too many", err, codes.ResourceExhausted, "IMPORT_TOO_LARGE")
		if n := w.count(`SELECT count(*) FROM products`); n != 0 {
			t.Errorf("%d products were imported all the same", n)
		}
	})
}

// More events in one commit than the relay has in flight at once.
func TestTheEventsOfALargeImportAreAllPublished(t *testing.T) {
	on(t, sqldbtest.Postgres(t, false), func(t *testing.T, w *world) {
		rows := make([]*inventoryv1.ImportProductsRequest, 6000)
		for i := range rows {
			rows[i] = row(i)
		}
		if _, err := w.load(rows); err != nil {
			t.Fatal(err)
		}
		deadline := time.After(30 * time.Second)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for w.count(`SELECT count(*) FROM outbox_pending`) > 0 {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("%d events were not published", w.count(`SELECT count(*) FROM outbox_pending`))
			}
		}
	})
}
