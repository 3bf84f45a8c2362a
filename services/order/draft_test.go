package order

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/waybill-dev/waybill/platform/errs"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

func eur(minor int64) *typev1.Money { return &typev1.Money{MinorUnits: minor, CurrencyCode: "EUR"} }

func request(lines ...*orderv1.CreateOrderLine) *orderv1.CreateOrderRequest {
	return &orderv1.CreateOrderRequest{
		Lines: lines, PaymentToken: "tok_ok",
		ShipTo: &typev1.Address{Recipient: "Ada", Lines: []string{"Main Street 1"}, Locality: "Berlin", PostalCode: "10115", RegionCode: "DE"},
	}
}

func line(product string, n int32) *orderv1.CreateOrderLine {
	return &orderv1.CreateOrderLine{ProductId: product, Quantity: n}
}

// quoted answers a quote request with one price for all.
func quoted(q *inventoryv1.QuoteRequest, price *typev1.Money) *inventoryv1.QuoteResponse {
	r := &inventoryv1.QuoteResponse{}
	for _, l := range q.GetLines() {
		r.Lines = append(r.Lines, &inventoryv1.PricedLine{
			ProductId: l.GetProductId(), Quantity: l.GetQuantity(), Sku: "SKU-" + l.GetProductId(), Name: "Thing", UnitPrice: price, ForSale: true,
		})
	}
	return r
}

func TestLinesOfOneProductArePutTogether(t *testing.T) {
	req := request(line("a", 2), line("b", 1), line("a", 3))
	wanted, err := Wanted(req)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Price(req, wanted, quoted(wanted, eur(250)))
	if err != nil {
		t.Fatal(err)
	}
	want := []*orderv1.OrderLine{
		{ProductId: "a", Sku: "SKU-a", Name: "Thing", Quantity: 5, UnitPrice: eur(250), Amount: eur(1250)},
		{ProductId: "b", Sku: "SKU-b", Name: "Thing", Quantity: 1, UnitPrice: eur(250), Amount: eur(250)},
	}
	if diff := cmp.Diff(want, d.Lines, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if !sameMoney(d.Total, eur(1500)) {
		t.Errorf("the total is %v", d.Total)
	}
}

func TestRequestsThatCannotBecomeOrdersAreRefused(t *testing.T) {
	const tooMuch = maxMinorUnits/1000 + 1
	for name, c := range map[string]struct {
		req    *orderv1.CreateOrderRequest
		quote  func(*inventoryv1.QuoteRequest) *inventoryv1.QuoteResponse
		kind   errs.Kind
		reason string
		field  string
	}{
		"too many in two lines": {req: request(line("a", 600), line("a", 401)), kind: errs.Invalid, reason: "QUANTITY", field: "lines[1].quantity"},
		"none":                  {req: request(line("a", 0)), kind: errs.Invalid, reason: "QUANTITY", field: "lines[0].quantity"},
		"fewer than none":       {req: request(line("a", 5), line("a", -1)), kind: errs.Invalid, reason: "QUANTITY", field: "lines[1].quantity"},
		"unknown product": {
			req: request(line("a", 1), line("b", 1)),
			quote: func(q *inventoryv1.QuoteRequest) *inventoryv1.QuoteResponse {
				r := quoted(q, eur(1))
				r.Lines[1] = &inventoryv1.PricedLine{ProductId: "b", Quantity: 1}
				return r
			},
			kind: errs.Invalid, reason: "PRODUCT_NOT_FOR_SALE", field: "lines[1].product_id",
		},
		"two currencies": {
			req: request(line("a", 1), line("b", 1)),
			quote: func(q *inventoryv1.QuoteRequest) *inventoryv1.QuoteResponse {
				r := quoted(q, eur(1))
				r.Lines[1].UnitPrice = &typev1.Money{MinorUnits: 1, CurrencyCode: "USD"}
				return r
			},
			kind: errs.Invalid, reason: "MIXED_CURRENCIES", field: "lines[1].product_id",
		},
		"more than an order may cost": {
			req:   request(line("a", 1000)),
			quote: func(q *inventoryv1.QuoteRequest) *inventoryv1.QuoteResponse { return quoted(q, eur(tooMuch)) },
			kind:  errs.Invalid, reason: "AMOUNT_TOO_LARGE", field: "lines[0].quantity",
		},
		"more than an integer holds": {
			req:   request(line("a", 1000)),
			quote: func(q *inventoryv1.QuoteRequest) *inventoryv1.QuoteResponse { return quoted(q, eur(1<<62)) },
			kind:  errs.Invalid, reason: "AMOUNT_TOO_LARGE", field: "lines[0].quantity",
		},
		"a quote for something else": {
			req: request(line("a", 1)),
			quote: func(q *inventoryv1.QuoteRequest) *inventoryv1.QuoteResponse {
				r := quoted(q, eur(1))
				r.Lines[0].ProductId = "z"
				return r
			},
			kind: errs.Internal,
		},
		"a quote with lines missing": {
			req:   request(line("a", 1)),
			quote: func(*inventoryv1.QuoteRequest) *inventoryv1.QuoteResponse { return &inventoryv1.QuoteResponse{} },
			kind:  errs.Internal,
		},
	} {
		t.Run(name, func(t *testing.T) {
			wanted, err := Wanted(c.req)
			if err == nil && c.quote != nil {
				_, err = Price(c.req, wanted, c.quote(wanted))
			}
			if errs.KindOf(err) != c.kind || errs.ReasonOf(err) != c.reason || err == nil {
				t.Fatalf("got %v (%s, %s)", err, errs.KindOf(err), errs.ReasonOf(err))
			}
			var e *errs.Error
			if c.field != "" && (!errors.As(err, &e) || len(e.Fields) != 1 || e.Fields[0].Path != c.field) {
				t.Errorf("names %v, want %s", e.Fields, c.field)
			}
		})
	}
}

func TestAChangedTotalIsRefusedWithBothTotals(t *testing.T) {
	req := request(line("a", 2))
	req.ExpectedTotal = eur(500)
	wanted, _ := Wanted(req)
	if _, err := Price(req, wanted, quoted(wanted, eur(250))); err != nil {
		t.Errorf("the expected total was refused: %v", err)
	}
	_, err := Price(req, wanted, quoted(wanted, eur(251)))
	var e *errs.Error
	if !errors.As(err, &e) || e.Kind != errs.FailedPrecondition || e.Reason != "TOTAL_CHANGED" {
		t.Fatalf("got %v", err)
	}
	want := map[string]string{
		"expected_minor_units": "500", "expected_currency_code": "EUR", "total_minor_units": "502", "total_currency_code": "EUR",
	}
	if diff := cmp.Diff(want, e.Meta); diff != "" {
		t.Error(diff)
	}
}

func TestCardNumbersInAnAddressAreRefusedAndNotRepeated(t *testing.T) {
	const number = "4242 4242 4242 4242"
	for field, set := range map[string]func(*typev1.Address){
		"ship_to.recipient":           func(a *typev1.Address) { a.Recipient = number },
		"ship_to.lines[1]":            func(a *typev1.Address) { a.Lines = append(a.Lines, "c/o "+number) },
		"ship_to.locality":            func(a *typev1.Address) { a.Locality = number },
		"ship_to.administrative_area": func(a *typev1.Address) { a.AdministrativeArea = number },
		"ship_to.postal_code":         func(a *typev1.Address) { a.PostalCode = number },
	} {
		req := request(line("a", 1))
		set(req.ShipTo)
		_, err := Wanted(req)
		var e *errs.Error
		if !errors.As(err, &e) || e.Kind != errs.Invalid || e.Reason != "CARD_NUMBER" || len(e.Fields) != 1 || e.Fields[0].Path != field {
			t.Errorf("%s: %v", field, err)
		} else if strings.Contains(e.Error(), "4242") {
			t.Errorf("%s: the error repeats the number: %v", field, err)
		}
	}
}

func TestAmountsAreWrittenWithTheDecimalsOfTheirCurrency(t *testing.T) {
	for want, m := range map[string]*typev1.Money{
		"nothing":     nil,
		"49.90 EUR":   eur(4990),
		"0.05 EUR":    eur(5),
		"-1.00 EUR":   eur(-100),
		"500 JPY":     {MinorUnits: 500, CurrencyCode: "JPY"},
		"1.234 KWD":   {MinorUnits: 1234, CurrencyCode: "KWD"},
		"0.0001 CLF":  {MinorUnits: 1, CurrencyCode: "CLF"},
		"-0.0001 CLF": {MinorUnits: -1, CurrencyCode: "CLF"},
	} {
		if got := Amount(m); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
