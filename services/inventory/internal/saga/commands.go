package saga

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/react"
	"github.com/waybill-dev/waybill/platform/watch"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	"github.com/waybill-dev/waybill/services/inventory"
	"github.com/waybill-dev/waybill/services/inventory/internal/store"
)

// Limits of one import.
const (
	MaxImport      = 20_000   // products
	MaxImportBytes = 32 << 20 // of all messages together
	maxImportFault = 20       // problems named at once
)

// Commands are what callers may order. Each is one step and one transaction.
type Commands struct {
	r       *react.Reactor
	newID   func() string
	changed func(watch.Change)
}

// NewCommands gives the commands that run on r, whose machine is Machine with the
// same cfg.
func NewCommands(r *react.Reactor, newID func() string, cfg Config) *Commands {
	return &Commands{r: r, newID: newID, changed: cfg.Changed}
}

// product names all there is of a product.
func product(id string) func(*react.View) []react.Ref {
	return func(*react.View) []react.Ref { return []react.Ref{store.Products.Ref(id), store.Stock.Ref(id)} }
}

// get gives a product and its stock in a step; NotFound if there is none.
func get(v *react.View, id string) (inventory.Product, inventory.Stock, error) {
	p, ok := store.Products.Get(v, id)
	if !ok {
		return p, inventory.Stock{}, NotFound(id)
	}
	s, ok := store.Stock.Get(v, id)
	if !ok {
		return p, s, errs.E(errs.Internal, "STOCK_INCONSISTENT", "product %s has no stock", id)
	}
	return p, s, nil
}

// NotFound is the error for a product that does not exist.
func NotFound(productID string) error {
	return errs.E(errs.NotFound, "PRODUCT_NOT_FOUND", "there is no product %s", productID)
}

// shown gives a product as callers see it once the step is stored.
func shown(v *react.View, id string, p inventory.Product, s inventory.Stock) *inventoryv1.Product {
	return ToProduct(&store.Item{ProductID: id, Version: store.Products.Version(v, id), Product: p, Stock: s})
}

// Create adds a product with its first stock. A SKU that is taken fails with
// AlreadyExists.
func (c *Commands) Create(ctx context.Context, req *inventoryv1.CreateProductRequest) (*inventoryv1.Product, error) {
	id := c.newID()
	return react.Do(ctx, c.r, func(v *react.View) []react.Ref {
		return append(product(id)(v), store.SKUs.Ref(req.GetSku()))
	}, func(v *react.View) (*inventoryv1.Product, error) {
		if holder, taken := store.SKUs.Get(v, req.GetSku()); taken {
			return nil, errs.E(errs.AlreadyExists, "SKU_TAKEN", "the SKU %s is taken by product %s", req.GetSku(), holder).
				WithFields(errs.Field{Path: "sku", Problem: "is taken"}).WithMeta("product_id", holder)
		}
		return c.add(v, id, inventory.Product{
			SKU: req.GetSku(), Name: req.GetName(), Description: req.GetDescription(), Category: req.GetCategory(),
			Price: req.GetPrice().GetMinorUnits(), Currency: req.GetPrice().GetCurrencyCode(),
		}, req.GetInitialStock(), actor(ctx)), nil
	})
}

func (c *Commands) add(v *react.View, id string, p inventory.Product, stock int64, by string) *inventoryv1.Product {
	p.CreatedAt, p.UpdatedAt = v.Now(), v.Now()
	s := inventory.Stock{OnHand: stock, UpdatedAt: v.Now()}
	store.SKUs.Put(v, p.SKU, id)
	store.Products.Put(v, id, p)
	store.Stock.Put(v, id, s)
	if stock != 0 {
		v.Append(store.Movements, store.Movement(inventory.Movement{ProductID: id, Delta: stock, Kind: inventory.Received, Actor: by}, v.Now())...)
	}
	out := shown(v, id, p, s)
	v.Emit(store.Stock.Ref(id), &inventoryv1.ProductCreated{ProductId: id, Product: out})
	announce(v, c.changed, id, s)
	return out
}

// Update changes fields of a product. A patch that changes nothing succeeds and
// leaves no trace.
func (c *Commands) Update(ctx context.Context, req *inventoryv1.UpdateProductRequest) (*inventoryv1.Product, error) {
	id := req.GetProductId()
	return react.Do(ctx, c.r, product(id), func(v *react.View) (*inventoryv1.Product, error) {
		p, s, err := get(v, id)
		if err != nil {
			return nil, err
		}
		if err := inventory.CheckEtag(req.GetEtag(), id, store.Products.Version(v, id)); err != nil {
			return nil, err
		}
		p, changed, err := p.Patch(req.GetProduct(), req.GetUpdateMask().GetPaths())
		if err != nil || len(changed) == 0 {
			return shown(v, id, p, s), err
		}
		p.UpdatedAt = v.Now()
		store.Products.Put(v, id, p)
		out := shown(v, id, p, s)
		v.Emit(store.Stock.Ref(id), &inventoryv1.ProductUpdated{ProductId: id, Product: out, ChangedFields: changed})
		return out, nil
	})
}

// Archive takes a product off sale; doing so again changes nothing.
func (c *Commands) Archive(ctx context.Context, req *inventoryv1.ArchiveProductRequest) (*inventoryv1.Product, error) {
	id := req.GetProductId()
	return react.Do(ctx, c.r, product(id), func(v *react.View) (*inventoryv1.Product, error) {
		p, s, err := get(v, id)
		if err != nil {
			return nil, err
		}
		if p.Archived {
			return shown(v, id, p, s), nil
		}
		if err := inventory.CheckEtag(req.GetEtag(), id, store.Products.Version(v, id)); err != nil {
			return nil, err
		}
		p.Archived, p.UpdatedAt = true, v.Now()
		s.Archived = true
		store.Products.Put(v, id, p)
		store.Stock.Put(v, id, s)
		v.Emit(store.Stock.Ref(id), &inventoryv1.ProductArchived{ProductId: id, Sku: p.SKU, ArchivedAt: timestamppb.New(v.Now())})
		return shown(v, id, p, s), nil
	})
}

// Adjust counts stock up or down.
func (c *Commands) Adjust(ctx context.Context, req *inventoryv1.AdjustStockRequest) (*inventoryv1.Stock, error) {
	id := req.GetProductId()
	return react.Do(ctx, c.r, product(id), func(v *react.View) (*inventoryv1.Stock, error) {
		p, s, err := get(v, id)
		if err != nil {
			return nil, err
		}
		if s, err = s.Adjust(req.GetDelta()); err != nil {
			return nil, err
		}
		s.UpdatedAt = v.Now()
		store.Stock.Put(v, id, s)
		v.Append(store.Movements, store.Movement(inventory.Movement{
			ProductID: id, Delta: req.GetDelta(), Kind: inventory.Adjusted, Reason: req.GetReason(), Actor: actor(ctx),
		}, v.Now())...)
		v.Emit(store.Stock.Ref(id), &inventoryv1.StockAdjusted{ProductId: id, Sku: p.SKU, Delta: req.GetDelta(), OnHand: s.OnHand, Reason: req.GetReason()})
		announce(v, c.changed, id, s)
		return ToStock(&store.Item{ProductID: id, Product: p, Stock: s, StockVersion: store.Stock.Version(v, id)}), nil
	})
}

// Import adds all products or, if anything is wrong with one, none. A product
// that exists with the same content is left as it is and counted; with other
// content it is an error. The error names the line and the field of each problem.
func (c *Commands) Import(ctx context.Context, rows []*inventoryv1.ImportProductsRequest) (*inventoryv1.ImportProductsResponse, error) {
	if len(rows) == 0 {
		return nil, errs.E(errs.Invalid, "EMPTY_IMPORT", "there are no products to import")
	}
	if err := duplicates(rows); err != nil {
		return nil, err
	}
	ids := make([]string, len(rows))
	for i := range rows {
		ids[i] = c.newID()
	}
	return react.Do(ctx, c.r, func(v *react.View) []react.Ref {
		refs := make([]react.Ref, 0, 3*len(rows))
		for i, row := range rows {
			refs = append(refs, store.SKUs.Ref(row.GetSku()))
			if holder, taken := store.SKUs.Get(v, row.GetSku()); taken {
				refs = append(refs, store.Products.Ref(holder))
			} else {
				refs = append(refs, store.Products.Ref(ids[i]), store.Stock.Ref(ids[i]))
			}
		}
		return refs
	}, func(v *react.View) (*inventoryv1.ImportProductsResponse, error) {
		out := &inventoryv1.ImportProductsResponse{}
		var bad faults
		for i, row := range rows {
			p := inventory.Product{
				SKU: row.GetSku(), Name: row.GetName(), Description: row.GetDescription(), Category: row.GetCategory(),
				Price: row.GetPrice().GetMinorUnits(), Currency: row.GetPrice().GetCurrencyCode(),
			}
			if holder, taken := store.SKUs.Get(v, p.SKU); taken {
				if is, _ := store.Products.Get(v, holder); is.SameContent(p) {
					out.UnchangedCount++
				} else {
					bad.add(row.GetLineNumber(), "sku", fmt.Sprintf("%q exists already, as product %s with other content; change that one with UpdateProduct", p.SKU, holder))
				}
				continue
			}
			c.add(v, ids[i], p, row.GetInitialStock(), actor(ctx))
			out.ImportedCount++
		}
		if err := bad.err(errs.AlreadyExists, "SKU_TAKEN"); err != nil {
			return nil, err
		}
		return out, nil
	})
}

// duplicates finds SKUs that are twice in one import.
func duplicates(rows []*inventoryv1.ImportProductsRequest) error {
	first := make(map[string]int32, len(rows))
	var bad faults
	for _, row := range rows {
		if line, twice := first[row.GetSku()]; twice {
			bad.add(row.GetLineNumber(), "sku", fmt.Sprintf("%q is there twice, first in line %d", row.GetSku(), line))
			continue
		}
		first[row.GetSku()] = row.GetLineNumber()
	}
	return bad.err(errs.Invalid, "DUPLICATE_SKU")
}

// faults gathers what is wrong with the lines of an import.
type faults struct {
	fields []errs.Field
	count  int
}

func (f *faults) add(line int32, column, problem string) {
	f.count++
	if len(f.fields) < maxImportFault {
		f.fields = append(f.fields, LineField(line, column, problem))
	}
}

func (f *faults) err(k errs.Kind, reason string) error {
	if f.count == 0 {
		return nil
	}
	text := "nothing was imported: "
	for i, b := range f.fields {
		if i > 0 {
			text += "; "
		}
		text += b.Path + ": " + b.Problem
	}
	if more := f.count - len(f.fields); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return errs.E(k, reason, "%s", text).WithFields(f.fields...)
}

// LineField names what is wrong with one field of one line of an import.
func LineField(line int32, column, problem string) errs.Field {
	return errs.Field{Path: fmt.Sprintf("line %d, column %s", line, column), Problem: problem}
}

// actor gives the user behind a command, for the movement log.
func actor(ctx context.Context) string {
	caller, _ := auth.FromContext(ctx)
	return caller.UserID
}

// ToProduct gives a product as callers see it.
func ToProduct(i *store.Item) *inventoryv1.Product {
	p := &i.Product
	status := inventoryv1.ProductStatus_PRODUCT_STATUS_ACTIVE
	if p.Archived {
		status = inventoryv1.ProductStatus_PRODUCT_STATUS_ARCHIVED
	}
	return &inventoryv1.Product{
		ProductId: i.ProductID, Sku: p.SKU, Name: p.Name, Description: p.Description, Category: p.Category, Price: p.Money(),
		Status: status, Available: i.Stock.Available(), CreateTime: timestamppb.New(p.CreatedAt), UpdateTime: timestamppb.New(p.UpdatedAt),
		Version: i.Version, Etag: inventory.Etag(i.ProductID, i.Version),
	}
}

// ToStock gives stock as callers see it.
func ToStock(i *store.Item) *inventoryv1.Stock {
	return &inventoryv1.Stock{
		ProductId: i.ProductID, Sku: i.Product.SKU, OnHand: i.Stock.OnHand, Held: i.Stock.Held, Available: i.Stock.Available(),
		UpdateTime: timestamppb.New(i.Stock.UpdatedAt), Version: i.StockVersion,
	}
}
