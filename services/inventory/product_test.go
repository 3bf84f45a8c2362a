package inventory_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waybill-dev/waybill/platform/errs"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/inventory"
)

func TestAPatchChangesOnlyWhatItNames(t *testing.T) {
	p := inventory.Product{SKU: "A", Name: "Apple", Description: "Red", Category: "fruit", Price: 100, Currency: "EUR"}
	patch := &inventoryv1.ProductPatch{Name: "Pear", Price: &typev1.Money{MinorUnits: 200, CurrencyCode: "EUR"}}
	for _, c := range []struct {
		name    string
		fields  []string
		want    func(*inventory.Product)
		changed []string
	}{
		{"all that are set", nil, func(p *inventory.Product) { p.Name, p.Price = "Pear", 200 }, []string{"name", "price"}},
		{"one", []string{"price"}, func(p *inventory.Product) { p.Price = 200 }, []string{"price"}},
		{"one that is emptied", []string{"description"}, func(p *inventory.Product) { p.Description = "" }, []string{"description"}},
		{"one twice", []string{"name", "name"}, func(p *inventory.Product) { p.Name = "Pear" }, []string{"name"}},
	} {
		got, changed, err := p.Patch(patch, c.fields)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		want := p
		c.want(&want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if diff := cmp.Diff(c.changed, changed); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	if _, changed, err := p.Patch(&inventoryv1.ProductPatch{Name: "Apple"}, []string{"name"}); err != nil || len(changed) > 0 {
		t.Errorf("the same name changed %v, %v", changed, err)
	}
}

func TestAPatchOfWhatCannotBeChangedIsInvalid(t *testing.T) {
	for _, fields := range [][]string{{"*"}, {"sku"}, {"price.minor_units"}, {"name"}, {"price"}, {"description", "available"}} {
		_, _, err := inventory.Product{Name: "Apple"}.Patch(&inventoryv1.ProductPatch{Description: "x"}, fields)
		if errs.KindOf(err) != errs.Invalid || err == nil {
			t.Errorf("%v gave %v", fields, err)
		}
	}
}

func TestEtagsFollowTheVersion(t *testing.T) {
	if err := inventory.CheckEtag("", "p", 3); err != nil {
		t.Error(err)
	}
	if err := inventory.CheckEtag(inventory.Etag("p", 3), "p", 3); err != nil {
		t.Error(err)
	}
	if err := inventory.CheckEtag(inventory.Etag("p", 3), "p", 4); errs.ReasonOf(err) != "ETAG_MISMATCH" {
		t.Errorf("an old etag gave %v", err)
	}
}
