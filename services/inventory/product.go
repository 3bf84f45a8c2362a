package inventory

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strconv"
	"time"

	"github.com/waybill-dev/waybill/platform/errs"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// A Product is what is known of a product besides its stock. It is kept apart
// from Stock because it is large and rarely changes.
type Product struct {
	SKU         string
	Name        string
	Description string
	Category    string
	Price       int64 // minor units of Currency
	Currency    string
	Archived    bool
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// Money gives the price.
func (p Product) Money() *typev1.Money {
	return &typev1.Money{MinorUnits: p.Price, CurrencyCode: p.Currency}
}

// SameContent reports whether p and o are the same to a customer, whenever they
// were made.
func (p Product) SameContent(o Product) bool {
	return p.SKU == o.SKU && p.Name == o.Name && p.Description == o.Description && p.Category == o.Category &&
		p.Price == o.Price && p.Currency == o.Currency && p.Archived == o.Archived
}

// PatchFields lists the fields that Patch can change.
func PatchFields() []string { return []string{"name", "description", "category", "price"} }

// Patch takes over the named fields of patch, or all that are set if none is
// named. It gives the product after, and which fields really changed. It fails
// with Invalid if a field is named that cannot be changed, or whose new value is
// missing.
func (p Product) Patch(patch *inventoryv1.ProductPatch, fields []string) (Product, []string, error) {
	if len(fields) == 0 {
		fields = given(patch)
	}
	var changed []string
	var bad []errs.Field
	set := func(field string, to *string, value string) {
		if *to != value {
			*to = value
			changed = append(changed, field)
		}
	}
	for i, f := range fields {
		switch f {
		case "name":
			if patch.GetName() == "" {
				bad = append(bad, errs.Field{Path: "product.name", Problem: "must not be empty"})
				continue
			}
			set(f, &p.Name, patch.GetName())
		case "description":
			set(f, &p.Description, patch.GetDescription())
		case "category":
			set(f, &p.Category, patch.GetCategory())
		case "price":
			m := patch.GetPrice()
			if m == nil {
				bad = append(bad, errs.Field{Path: "product.price", Problem: "is named by update_mask but absent"})
				continue
			}
			if p.Price != m.GetMinorUnits() || p.Currency != m.GetCurrencyCode() {
				p.Price, p.Currency = m.GetMinorUnits(), m.GetCurrencyCode()
				changed = append(changed, f)
			}
		default:
			bad = append(bad, errs.Field{Path: "update_mask.paths[" + strconv.Itoa(i) + "]", Problem: "only name, description, category and price can be changed"})
		}
	}
	if bad != nil {
		return p, nil, errs.E(errs.Invalid, "INVALID_PATCH", "the product cannot be changed so").WithFields(bad...)
	}
	slices.Sort(changed)
	return p, slices.Compact(changed), nil
}

// given lists the fields that are set.
func given(patch *inventoryv1.ProductPatch) []string {
	var fields []string
	if patch.GetName() != "" {
		fields = append(fields, "name")
	}
	if patch.GetDescription() != "" {
		fields = append(fields, "description")
	}
	if patch.GetCategory() != "" {
		fields = append(fields, "category")
	}
	if patch.GetPrice() != nil {
		fields = append(fields, "price")
	}
	return fields
}

// Etag gives the etag of a product at a version. Versions rise with every change,
// so etags never repeat.
func Etag(productID string, version int64) string {
	sum := sha256.Sum256([]byte(productID + "/" + strconv.FormatInt(version, 10)))
	return base64.RawURLEncoding.EncodeToString(sum[:9])
}

// CheckEtag fails with Aborted if the caller's etag, unless empty, is not that of
// the version.
func CheckEtag(given, productID string, version int64) error {
	if given == "" || given == Etag(productID, version) {
		return nil
	}
	return errs.E(errs.Aborted, "ETAG_MISMATCH", "the product has changed since you read it; read it again and repeat the change")
}
