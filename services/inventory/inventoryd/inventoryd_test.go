package inventoryd_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

func TestAProductIsCreatedReadChangedAndArchived(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p := w.create()
		if p.GetVersion() != 1 || p.GetEtag() == "" || p.GetAvailable() != 10 || p.GetStatus() != inventoryv1.ProductStatus_PRODUCT_STATUS_ACTIVE {
			t.Errorf("created %v", p)
		}
		same := func(want *inventoryv1.Product) {
			t.Helper()
			got, err := w.GetProduct(w.anybody, &inventoryv1.GetProductRequest{ProductId: p.GetProductId()})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		same(p)

		changed, err := w.UpdateProduct(w.staff, &inventoryv1.UpdateProductRequest{
			ProductId: p.GetProductId(), Etag: p.GetEtag(), Product: &inventoryv1.ProductPatch{Name: "Ash board", Price: eur(1300)},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"price", "description"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if changed.GetName() != p.GetName() || changed.GetDescription() != "" || changed.GetPrice().GetMinorUnits() != 1300 || changed.GetVersion() != 2 {
			t.Errorf("changed to %v", changed)
		}
		same(changed)
		_, err = w.UpdateProduct(w.staff, &inventoryv1.UpdateProductRequest{ProductId: p.GetProductId(), Etag: p.GetEtag(), Product: &inventoryv1.ProductPatch{Name: "Elm board"}})
		w.refused("an old etag", err, codes.Aborted, "ETAG_MISMATCH")
		again, err := w.UpdateProduct(w.staff, &inventoryv1.UpdateProductRequest{ProductId: p.GetProductId(), Product: &inventoryv1.ProductPatch{Price: eur(1300)}})
		if err != nil || again.GetVersion() != 2 {
			t.Errorf("a patch that changes nothing gave %v, %v", again, err)
		}

		_, err = w.ArchiveProduct(w.staff, &inventoryv1.ArchiveProductRequest{ProductId: p.GetProductId(), Etag: p.GetEtag()})
		w.refused("archiving with an old etag", err, codes.Aborted, "ETAG_MISMATCH")
		for range 2 {
			archived, err := w.ArchiveProduct(w.staff, &inventoryv1.ArchiveProductRequest{ProductId: p.GetProductId()})
			if err != nil || archived.GetStatus() != inventoryv1.ProductStatus_PRODUCT_STATUS_ARCHIVED || archived.GetVersion() != 3 {
				t.Fatalf("archived to %v, %v", archived, err)
			}
			same(archived)
		}
		if n := w.count(`SELECT count(*) FROM outbox WHERE aggregate_id = ?`, p.GetProductId()); n != 3 {
			t.Errorf("%d events, want created, updated and archived", n)
		}
	})
}

func TestACreateThatIsRepeatedIsAnsweredAlike(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		req := &inventoryv1.CreateProductRequest{RequestId: newID(), Sku: "SKU-1", Name: "Board", Price: eur(1), InitialStock: 3}
		var mu sync.Mutex
		answers := map[string]int{}
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				p, err := w.CreateProduct(w.staff, req)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				answers[p.String()]++
				mu.Unlock()
			})
		}
		wg.Wait()
		if len(answers) != 1 || w.count(`SELECT count(*) FROM products`) != 1 {
			t.Errorf("%d different answers, %d products", len(answers), w.count(`SELECT count(*) FROM products`))
		}
		_, err := w.CreateProduct(w.staff, &inventoryv1.CreateProductRequest{RequestId: req.GetRequestId(), Sku: "SKU-2", Name: "Board", Price: eur(1)})
		w.refused("the key for another request", err, codes.FailedPrecondition, "IDEMPOTENCY_KEY_REUSED")
	})
}

func TestASKUIsGivenOnce(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		var mu sync.Mutex
		made := 0
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				_, err := w.CreateProduct(w.staff, &inventoryv1.CreateProductRequest{RequestId: newID(), Sku: "SKU-1", Name: "Board", Price: eur(1)})
				if err != nil {
					w.refused("a taken SKU", err, codes.AlreadyExists, "SKU_TAKEN")
					return
				}
				mu.Lock()
				made++
				mu.Unlock()
			})
		}
		wg.Wait()
		if made != 1 {
			t.Errorf("made %d products with one SKU", made)
		}
	})
}

func TestBadRequestsSayWhatToMendAndChangeNothing(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p := w.create()
		before := w.count(`SELECT count(*) FROM outbox`)
		id, nobody := p.GetProductId(), newID()
		mask := func(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
		create := func(change func(*inventoryv1.CreateProductRequest)) func() error {
			return func() error {
				req := &inventoryv1.CreateProductRequest{RequestId: newID(), Sku: "SKU-9", Name: "Board", Price: eur(1)}
				change(req)
				_, err := w.CreateProduct(w.staff, req)
				return err
			}
		}
		update := func(req *inventoryv1.UpdateProductRequest) func() error {
			return func() error {
				req.ProductId = id
				_, err := w.UpdateProduct(w.staff, req)
				return err
			}
		}
		adjust := func(req *inventoryv1.AdjustStockRequest) func() error {
			return func() error { _, err := w.AdjustStock(w.staff, req); return err }
		}
		list := func(req *inventoryv1.ListProductsRequest) func() error {
			return func() error { _, err := w.ListProducts(w.anybody, req); return err }
		}
		for _, c := range []struct {
			name  string
			call  func() error
			code  codes.Code
			field string
		}{
			{"no request_id", create(func(r *inventoryv1.CreateProductRequest) { r.RequestId = "" }), codes.InvalidArgument, "request_id"},
			{"a bad SKU", create(func(r *inventoryv1.CreateProductRequest) { r.Sku = "a b" }), codes.InvalidArgument, "sku"},
			{"no name", create(func(r *inventoryv1.CreateProductRequest) { r.Name = "" }), codes.InvalidArgument, "name"},
			{"no price", create(func(r *inventoryv1.CreateProductRequest) { r.Price = nil }), codes.InvalidArgument, "price"},
			{"a negative price", create(func(r *inventoryv1.CreateProductRequest) { r.Price = eur(-1) }), codes.InvalidArgument, "price"},
			{"a price beyond the limit", create(func(r *inventoryv1.CreateProductRequest) { r.Price = eur(1_000_000_000_001) }), codes.InvalidArgument, "price"},
			{"no currency", create(func(r *inventoryv1.CreateProductRequest) { r.Price = &typev1.Money{CurrencyCode: "XXX"} }), codes.InvalidArgument, "price.currency_code"},
			{"negative stock", create(func(r *inventoryv1.CreateProductRequest) { r.InitialStock = -1 }), codes.InvalidArgument, "initial_stock"},
			{"an unknown product", func() error {
				_, err := w.GetProduct(w.anybody, &inventoryv1.GetProductRequest{ProductId: nobody})
				return err
			}, codes.NotFound, ""},
			{"an id in capitals", func() error {
				_, err := w.GetProduct(w.anybody, &inventoryv1.GetProductRequest{ProductId: strings.ToUpper(id)})
				return err
			}, codes.InvalidArgument, "product_id"},
			{"SQL for an id", func() error {
				_, err := w.GetProduct(w.anybody, &inventoryv1.GetProductRequest{ProductId: "' OR 1=1 --"})
				return err
			}, codes.InvalidArgument, "product_id"},
			{"a mask of everything", update(&inventoryv1.UpdateProductRequest{Product: &inventoryv1.ProductPatch{Name: "x"}, UpdateMask: mask("*")}), codes.InvalidArgument, "update_mask"},
			{"a mask of what never changes", update(&inventoryv1.UpdateProductRequest{Product: &inventoryv1.ProductPatch{Name: "x"}, UpdateMask: mask("sku")}), codes.InvalidArgument, "update_mask"},
			{"a mask of part of a field", update(&inventoryv1.UpdateProductRequest{Product: &inventoryv1.ProductPatch{Name: "x"}, UpdateMask: mask("price.minor_units")}), codes.InvalidArgument, "update_mask"},
			{"an empty name", update(&inventoryv1.UpdateProductRequest{Product: &inventoryv1.ProductPatch{}, UpdateMask: mask("name")}), codes.InvalidArgument, "product.name"},
			{"an absent price", update(&inventoryv1.UpdateProductRequest{Product: &inventoryv1.ProductPatch{}, UpdateMask: mask("price")}), codes.InvalidArgument, "product.price"},
			{"no patch", update(&inventoryv1.UpdateProductRequest{}), codes.InvalidArgument, "product"},
			{"a change of nobody", func() error {
				_, err := w.UpdateProduct(w.staff, &inventoryv1.UpdateProductRequest{ProductId: nobody, Product: &inventoryv1.ProductPatch{Name: "x"}})
				return err
			}, codes.NotFound, ""},
			{"archiving nobody", func() error {
				_, err := w.ArchiveProduct(w.staff, &inventoryv1.ArchiveProductRequest{ProductId: nobody})
				return err
			}, codes.NotFound, ""},
			{"a delta of 0", adjust(&inventoryv1.AdjustStockRequest{RequestId: newID(), ProductId: id, Reason: "x"}), codes.InvalidArgument, "delta"},
			{"a delta beyond the limit", adjust(&inventoryv1.AdjustStockRequest{RequestId: newID(), ProductId: id, Delta: -1 << 63, Reason: "x"}), codes.InvalidArgument, "delta"},
			{"no reason", adjust(&inventoryv1.AdjustStockRequest{RequestId: newID(), ProductId: id, Delta: 1}), codes.InvalidArgument, "reason"},
			{"more than there is", adjust(&inventoryv1.AdjustStockRequest{RequestId: newID(), ProductId: id, Delta: -11, Reason: "x"}), codes.FailedPrecondition, ""},
			{"the stock of nobody", adjust(&inventoryv1.AdjustStockRequest{RequestId: newID(), ProductId: nobody, Delta: 1, Reason: "x"}), codes.NotFound, ""},
			{"a negative page", list(&inventoryv1.ListProductsRequest{PageSize: -1}), codes.InvalidArgument, "page_size"},
			{"a page token of nobody", list(&inventoryv1.ListProductsRequest{PageToken: "AAAA"}), codes.InvalidArgument, "page_token"},
			{"a filter of an unknown field", list(&inventoryv1.ListProductsRequest{Filter: "on_hand > 3"}), codes.InvalidArgument, "filter"},
			{"an order of an unknown field", list(&inventoryv1.ListProductsRequest{OrderBy: "price"}), codes.InvalidArgument, "order_by"},
			{"no products to look at", func() error { _, err := w.BatchGetStock(w.staff, &inventoryv1.BatchGetStockRequest{}); return err }, codes.InvalidArgument, "product_ids"},
			{"one product twice", func() error {
				_, err := w.BatchGetStock(w.staff, &inventoryv1.BatchGetStockRequest{ProductIds: []string{id, id}})
				return err
			}, codes.InvalidArgument, "product_ids"},
			{"a quote of nothing", func() error { _, err := w.Quote(w.customer, &inventoryv1.QuoteRequest{}); return err }, codes.InvalidArgument, "lines"},
			{"a quote of 0", func() error {
				_, err := w.Quote(w.customer, &inventoryv1.QuoteRequest{Lines: []*inventoryv1.QuoteLine{{ProductId: id}}})
				return err
			}, codes.InvalidArgument, "lines[0].quantity"},
			{"a quote of 101 lines", func() error {
				_, err := w.Quote(w.customer, &inventoryv1.QuoteRequest{Lines: make([]*inventoryv1.QuoteLine, 101)})
				return err
			}, codes.InvalidArgument, "lines"},
		} {
			e := w.refused(c.name, c.call(), c.code, "")
			if c.field != "" && (len(e.Fields) == 0 || !strings.HasPrefix(e.Fields[0].Path, c.field) || e.Fields[0].Problem == "") {
				t.Errorf("%s: the error names %v, want %s", c.name, e.Fields, c.field)
			}
			if e.Message == "" {
				t.Errorf("%s: no message", c.name)
			}
		}
		if after := w.count(`SELECT count(*) FROM outbox`); after != before {
			t.Errorf("%d events came of bad requests", after-before)
		}
	})
}

func TestOnlyStaffChangesTheCatalogue(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p := w.create()
		id := p.GetProductId()
		if _, err := w.ListProducts(w.anybody, &inventoryv1.ListProductsRequest{}); err != nil {
			t.Error(err)
		}
		_, err := w.CreateProduct(w.customer, &inventoryv1.CreateProductRequest{RequestId: newID(), Sku: "A", Name: "A", Price: eur(1)})
		w.refused("CreateProduct", err, codes.PermissionDenied, "")
		_, err = w.UpdateProduct(w.customer, &inventoryv1.UpdateProductRequest{ProductId: id, Product: &inventoryv1.ProductPatch{Name: "x"}})
		w.refused("UpdateProduct", err, codes.PermissionDenied, "")
		_, err = w.ArchiveProduct(w.customer, &inventoryv1.ArchiveProductRequest{ProductId: id})
		w.refused("ArchiveProduct", err, codes.PermissionDenied, "")
		_, err = w.AdjustStock(w.customer, &inventoryv1.AdjustStockRequest{RequestId: newID(), ProductId: id, Delta: 1, Reason: "x"})
		w.refused("AdjustStock", err, codes.PermissionDenied, "")
		_, err = w.BatchGetStock(w.customer, &inventoryv1.BatchGetStockRequest{ProductIds: []string{id}})
		w.refused("BatchGetStock", err, codes.PermissionDenied, "")
		_, err = w.Quote(w.anybody, &inventoryv1.QuoteRequest{Lines: []*inventoryv1.QuoteLine{{ProductId: id, Quantity: 1}}})
		w.refused("Quote", err, codes.Unauthenticated, "")
		stream, err := w.ImportProducts(w.customer)
		if err == nil {
			_, err = stream.CloseAndRecv()
		}
		w.refused("ImportProducts", err, codes.PermissionDenied, "")
	})
}

func TestStockIsCountedUpAndDown(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		p := w.create()
		req := &inventoryv1.AdjustStockRequest{RequestId: newID(), ProductId: p.GetProductId(), Delta: 5, Reason: "delivery"}
		var first *inventoryv1.Stock
		for range 3 {
			s, err := w.AdjustStock(w.staff, req)
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = s
			}
			if diff := cmp.Diff(first, s, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
		}
		if first.GetOnHand() != 15 || first.GetAvailable() != 15 || first.GetSku() != p.GetSku() || first.GetVersion() != 2 {
			t.Errorf("got %v", first)
		}
		if _, err := w.AdjustStock(w.staff, &inventoryv1.AdjustStockRequest{RequestId: newID(), ProductId: p.GetProductId(), Delta: -15, Reason: "stock-taking"}); err != nil {
			t.Fatal(err)
		}
		nobody := newID()
		out, err := w.BatchGetStock(w.staff, &inventoryv1.BatchGetStockRequest{ProductIds: []string{nobody, p.GetProductId()}})
		if err != nil || len(out.GetStocks()) != 1 || out.GetStocks()[0].GetOnHand() != 0 {
			t.Errorf("got %v, %v", out, err)
		}
		if n := w.count(`SELECT count(*) FROM movements WHERE product_id = ? AND actor <> ''`, p.GetProductId()); n != 3 {
			t.Errorf("%d movements with an actor, want received, +5 and -15", n)
		}
	})
}

func TestAQuotePricesWhatIsForSale(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		a := w.create()
		b := w.create(func(r *inventoryv1.CreateProductRequest) { r.Price, r.InitialStock = eur(3), 1 })
		dollars := w.create(func(r *inventoryv1.CreateProductRequest) { r.Price = &typev1.Money{MinorUnits: 1, CurrencyCode: "USD"} })
		dear := w.create(func(r *inventoryv1.CreateProductRequest) { r.Price = eur(1_000_000_000_000) })
		old := w.create()
		if _, err := w.ArchiveProduct(w.staff, &inventoryv1.ArchiveProductRequest{ProductId: old.GetProductId()}); err != nil {
			t.Fatal(err)
		}
		quote := func(lines ...*inventoryv1.QuoteLine) (*inventoryv1.QuoteResponse, error) {
			return w.Quote(w.customer, &inventoryv1.QuoteRequest{Lines: lines})
		}
		line := func(p *inventoryv1.Product, n int32) *inventoryv1.QuoteLine {
			return &inventoryv1.QuoteLine{ProductId: p.GetProductId(), Quantity: n}
		}
		got, err := quote(line(a, 2), line(b, 1), line(a, 3))
		if err != nil {
			t.Fatal(err)
		}
		want := &inventoryv1.QuoteResponse{Available: true, Total: eur(6253), Lines: []*inventoryv1.PricedLine{
			{ProductId: a.GetProductId(), Sku: a.GetSku(), Name: a.GetName(), Quantity: 5, UnitPrice: eur(1250), Amount: eur(6250), Available: true, ForSale: true},
			{ProductId: b.GetProductId(), Sku: b.GetSku(), Name: b.GetName(), Quantity: 1, UnitPrice: eur(3), Amount: eur(3), Available: true, ForSale: true},
		}}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got, err = quote(line(b, 2)); err != nil || got.GetAvailable() || got.GetLines()[0].GetAvailable() || got.GetTotal().GetMinorUnits() != 6 {
			t.Errorf("more than there is: %v, %v", got, err)
		}
		if got, err = quote(line(a, 1), line(old, 1), &inventoryv1.QuoteLine{ProductId: newID(), Quantity: 1}); err != nil || got.GetAvailable() || got.GetTotal() != nil ||
			got.GetLines()[1].GetForSale() || got.GetLines()[2].GetForSale() || got.GetLines()[1].GetSku() != "" || !got.GetLines()[0].GetForSale() {
			t.Errorf("what is not for sale: %v, %v", got, err)
		}
		_, err = quote(line(a, 1), line(dollars, 1))
		w.refused("two currencies", err, codes.InvalidArgument, "MIXED_CURRENCIES")
		if got, err = quote(line(dear, 1000), line(a, 1)); err != nil || got.GetTotal().GetMinorUnits() != 1000*1_000_000_000_000+1250 {
			t.Errorf("a great deal: %v, %v", got, err)
		}
		many := make([]*inventoryv1.QuoteLine, 100)
		for i := range many {
			many[i] = line(dear, 1000)
		}
		if got, err = quote(many...); err != nil || got.GetTotal().GetMinorUnits() != 100_000*1_000_000_000_000 {
			t.Errorf("all the money there is: %v, %v", got, err)
		}
		// The price is the one of now.
		if _, err := w.UpdateProduct(w.staff, &inventoryv1.UpdateProductRequest{ProductId: a.GetProductId(), Product: &inventoryv1.ProductPatch{Price: eur(9)}}); err != nil {
			t.Fatal(err)
		}
		if got, err = quote(line(a, 1)); err != nil || got.GetTotal().GetMinorUnits() != 9 {
			t.Errorf("after a change of price: %v, %v", got, err)
		}
	})
}

func TestProductsAreListedInPages(t *testing.T) {
	each(t, func(t *testing.T, w *world) {
		for i := range 5 {
			w.create(func(r *inventoryv1.CreateProductRequest) {
				r.Sku, r.Category = fmt.Sprint("S", i), fmt.Sprint("c", i%2)
			})
		}
		var got []string
		req := &inventoryv1.ListProductsRequest{PageSize: 2, Filter: `category = "c0"`, OrderBy: "sku desc"}
		for {
			out, err := w.ListProducts(w.customer, req)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range out.GetProducts() {
				got = append(got, p.GetSku())
			}
			if req.PageToken = out.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if diff := cmp.Diff([]string{"S4", "S2", "S0"}, got); diff != "" {
			t.Error(diff)
		}
		if out, err := w.ListProducts(w.anybody, &inventoryv1.ListProductsRequest{PageSize: 1_000_000_000}); err != nil || len(out.GetProducts()) != 5 {
			t.Errorf("a page of everything: %v, %v", out, err)
		}
	})
}
