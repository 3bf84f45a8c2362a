// Package rpc speaks waybill.inventory.v1. It translates and nothing more: who
// may call, what a valid request is and how errors travel is done around it, what
// happens is decided below it.
package rpc

import (
	"context"
	"errors"
	"io"
	"math"
	"math/bits"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/listing"
	"github.com/waybill-dev/waybill/platform/watch"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/inventory/internal/saga"
	"github.com/waybill-dev/waybill/services/inventory/internal/store"
)

// Server answers the calls of InventoryService.
type Server struct {
	inventoryv1.UnimplementedInventoryServiceServer
	store    *store.Store
	commands *saga.Commands
	hub      *watch.Hub
}

// New gives a Server that reads from s, orders from c and watches h.
func New(s *store.Store, c *saga.Commands, h *watch.Hub) *Server {
	return &Server{store: s, commands: c, hub: h}
}

// CreateProduct adds a product.
func (s *Server) CreateProduct(ctx context.Context, req *inventoryv1.CreateProductRequest) (*inventoryv1.Product, error) {
	return s.commands.Create(ctx, req)
}

// UpdateProduct changes the named fields of a product.
func (s *Server) UpdateProduct(ctx context.Context, req *inventoryv1.UpdateProductRequest) (*inventoryv1.Product, error) {
	return s.commands.Update(ctx, req)
}

// ArchiveProduct takes a product off sale.
func (s *Server) ArchiveProduct(ctx context.Context, req *inventoryv1.ArchiveProductRequest) (*inventoryv1.Product, error) {
	return s.commands.Archive(ctx, req)
}

// AdjustStock counts stock up or down.
func (s *Server) AdjustStock(ctx context.Context, req *inventoryv1.AdjustStockRequest) (*inventoryv1.Stock, error) {
	return s.commands.Adjust(ctx, req)
}

// GetProduct reads one product.
func (s *Server) GetProduct(ctx context.Context, req *inventoryv1.GetProductRequest) (*inventoryv1.Product, error) {
	items, err := s.store.Items(ctx, req.GetProductId())
	if err != nil {
		return nil, err
	}
	i, ok := items[req.GetProductId()]
	if !ok {
		return nil, saga.NotFound(req.GetProductId())
	}
	return saga.ToProduct(i), nil
}

// ListProducts reads a page of products.
func (s *Server) ListProducts(ctx context.Context, req *inventoryv1.ListProductsRequest) (*inventoryv1.ListProductsResponse, error) {
	items, next, err := s.store.List(ctx, listing.Query{
		PageSize: req.GetPageSize(), PageToken: req.GetPageToken(), Filter: req.GetFilter(), OrderBy: req.GetOrderBy(), Owner: auth.Owner(ctx),
	})
	if err != nil {
		return nil, err
	}
	out := &inventoryv1.ListProductsResponse{NextPageToken: next, Products: make([]*inventoryv1.Product, len(items))}
	for i, item := range items {
		out.Products[i] = saga.ToProduct(item)
	}
	return out, nil
}

// BatchGetStock reads the stock of many products.
func (s *Server) BatchGetStock(ctx context.Context, req *inventoryv1.BatchGetStockRequest) (*inventoryv1.BatchGetStockResponse, error) {
	items, err := s.store.Items(ctx, req.GetProductIds()...)
	if err != nil {
		return nil, err
	}
	out := &inventoryv1.BatchGetStockResponse{}
	for _, id := range req.GetProductIds() {
		if i, ok := items[id]; ok {
			out.Stocks = append(out.Stocks, saga.ToStock(i))
		}
	}
	return out, nil
}

// ImportProducts adds many products, or none.
func (s *Server) ImportProducts(stream grpc.ClientStreamingServer[inventoryv1.ImportProductsRequest, inventoryv1.ImportProductsResponse]) error {
	var rows []*inventoryv1.ImportProductsRequest
	size := 0
	for {
		// Not Recv: of a row that is refused the line number is wanted.
		row := &inventoryv1.ImportProductsRequest{}
		err := stream.RecvMsg(row)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return inLine(err, row.GetLineNumber())
		}
		size += proto.Size(row)
		if len(rows) == saga.MaxImport || size > saga.MaxImportBytes {
			return errs.E(errs.ResourceExhausted, "IMPORT_TOO_LARGE", "nothing was imported: at most %d products and %d MiB can be imported at a time",
				saga.MaxImport, saga.MaxImportBytes>>20)
		}
		rows = append(rows, row)
	}
	out, err := s.commands.Import(stream.Context(), rows)
	if err != nil {
		return err
	}
	return stream.SendAndClose(out)
}

// inLine says in which line of the import a row was refused.
func inLine(err error, line int32) error {
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.Invalid || len(e.Fields) == 0 {
		return err
	}
	fields := make([]errs.Field, len(e.Fields))
	text := "nothing was imported"
	for i, f := range e.Fields {
		fields[i] = saga.LineField(line, f.Path, f.Problem)
		text += "; " + fields[i].Path + ": " + f.Problem
	}
	return errs.Wrap(err, e.Kind, e.Reason, "%s", text).WithFields(fields...)
}

// Quote says what lines would cost now.
func (s *Server) Quote(ctx context.Context, req *inventoryv1.QuoteRequest) (*inventoryv1.QuoteResponse, error) {
	ids := make([]string, 0, len(req.GetLines()))
	wanted := make(map[string]int64, len(req.GetLines()))
	for _, l := range req.GetLines() {
		if _, again := wanted[l.GetProductId()]; !again {
			ids = append(ids, l.GetProductId())
		}
		wanted[l.GetProductId()] += int64(l.GetQuantity())
	}
	items, err := s.store.Items(ctx, ids...)
	if err != nil {
		return nil, err
	}
	return quote(ids, wanted, items)
}

// maxAmount is the largest amount of money the contract knows.
const maxAmount = 100_000_000_000_000_000

// quote prices what is wanted. It fails with Invalid if the sum is no amount:
// of different currencies, or too large.
func quote(ids []string, wanted map[string]int64, items map[string]*store.Item) (*inventoryv1.QuoteResponse, error) {
	out := &inventoryv1.QuoteResponse{Available: true, Lines: make([]*inventoryv1.PricedLine, len(ids))}
	total, sellable := &typev1.Money{}, true
	for i, id := range ids {
		n := wanted[id]
		line := &inventoryv1.PricedLine{ProductId: id, Quantity: int32(n)}
		out.Lines[i] = line
		item, ok := items[id]
		if !ok || item.Product.Archived {
			out.Available, sellable = false, false
			continue
		}
		p := &item.Product
		amount, ok := times(p.Price, n)
		if !ok || amount > maxAmount-total.MinorUnits {
			return nil, errs.E(errs.Invalid, "AMOUNT_TOO_LARGE", "the lines cost more than can be written down")
		}
		if total.CurrencyCode != "" && total.CurrencyCode != p.Currency {
			return nil, errs.E(errs.Invalid, "MIXED_CURRENCIES", "the products are priced in %s and %s; order them separately", total.CurrencyCode, p.Currency)
		}
		total.MinorUnits, total.CurrencyCode = total.MinorUnits+amount, p.Currency
		line.Sku, line.Name, line.UnitPrice, line.ForSale = p.SKU, p.Name, p.Money(), true
		line.Amount = &typev1.Money{MinorUnits: amount, CurrencyCode: p.Currency}
		line.Available = n <= item.Stock.Available()
		out.Available = out.Available && line.Available
	}
	if sellable {
		out.Total = total
	}
	return out, nil
}

// times multiplies two amounts that are not negative; false if the product is too
// large.
func times(a, b int64) (int64, bool) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	return int64(lo), hi == 0 && lo <= math.MaxInt64
}
