package order

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/waybill-dev/waybill/platform/cardscan"
	"github.com/waybill-dev/waybill/platform/errs"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	orderv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// MaxQuantity is how many of one product an order may have, all its lines taken
// together.
const MaxQuantity = 1000

// Wanted gives what is to be asked of inventory for a request: one line per
// product, in the order in which products first appear. It fails with Invalid
// when lines of one product together want more than MaxQuantity, and when the
// address holds what looks like a card number.
func Wanted(req *orderv1.CreateOrderRequest) (*inventoryv1.QuoteRequest, error) {
	if err := checkAddress(req.GetShipTo()); err != nil {
		return nil, err
	}
	q := &inventoryv1.QuoteRequest{Lines: make([]*inventoryv1.QuoteLine, 0, len(req.GetLines()))}
	at := make(map[string]int, len(req.GetLines()))
	for i, l := range req.GetLines() {
		n, again := at[l.GetProductId()]
		if !again {
			n = len(q.Lines)
			at[l.GetProductId()] = n
			q.Lines = append(q.Lines, &inventoryv1.QuoteLine{ProductId: l.GetProductId()})
		}
		line := q.Lines[n]
		if l.GetQuantity() < 1 || l.GetQuantity() > MaxQuantity || line.Quantity+l.GetQuantity() > MaxQuantity {
			return nil, invalid("QUANTITY", fmt.Sprintf("lines[%d].quantity", i), fmt.Sprintf("must be 1 to %d of a product, all lines taken together", MaxQuantity))
		}
		line.Quantity += l.GetQuantity()
	}
	return q, nil
}

// Price gives the order that a request asks for at the prices of a quote. It fails
// with Invalid when a product is not for sale, when prices are in several
// currencies or come to more than the contract allows, and with
// FailedPrecondition TOTAL_CHANGED when the caller expected another total.
func Price(req *orderv1.CreateOrderRequest, wanted *inventoryv1.QuoteRequest, quote *inventoryv1.QuoteResponse) (Details, error) {
	if len(quote.GetLines()) != len(wanted.GetLines()) {
		return Details{}, errs.E(errs.Internal, "", "inventory quoted %d lines for %d products", len(quote.GetLines()), len(wanted.GetLines()))
	}
	d := Details{Lines: make([]*orderv1.OrderLine, len(wanted.GetLines())), ShipTo: req.GetShipTo()}
	var total int64
	currency := ""
	for i, w := range wanted.GetLines() {
		p := quote.GetLines()[i]
		field := lineOf(req, w.GetProductId())
		if p.GetProductId() != w.GetProductId() || p.GetQuantity() != w.GetQuantity() {
			return Details{}, errs.E(errs.Internal, "", "inventory quoted line %d for another product or quantity", i)
		}
		if !p.GetForSale() {
			return Details{}, invalid("PRODUCT_NOT_FOR_SALE", field+".product_id", "there is no such product for sale")
		}
		price := p.GetUnitPrice()
		if currency == "" {
			currency = price.GetCurrencyCode()
		}
		if price.GetCurrencyCode() != currency {
			return Details{}, invalid("MIXED_CURRENCIES", field+".product_id",
				fmt.Sprintf("costs %s, while the products before it cost %s; order them apart", price.GetCurrencyCode(), currency))
		}
		amount, ok := times(price.GetMinorUnits(), w.GetQuantity())
		if ok {
			total, ok = plus(total, amount)
		}
		if !ok {
			return Details{}, invalid("AMOUNT_TOO_LARGE", field+".quantity", "comes to more money than one order may cost")
		}
		d.Lines[i] = &orderv1.OrderLine{
			ProductId: p.GetProductId(),
			Sku:       p.GetSku(),
			Name:      p.GetName(),
			Quantity:  w.GetQuantity(),
			UnitPrice: price,
			Amount:    &typev1.Money{MinorUnits: amount, CurrencyCode: currency},
		}
	}
	d.Total = &typev1.Money{MinorUnits: total, CurrencyCode: currency}
	if want := req.GetExpectedTotal(); want != nil && !sameMoney(want, d.Total) {
		return Details{}, totalChanged(want, d.Total)
	}
	return d, nil
}

// PlacedEvent gives the event with which the order's saga begins.
func PlacedEvent(id string, d Details, paymentToken string, now time.Time) *orderv1.OrderPlaced {
	return &orderv1.OrderPlaced{
		OrderId:      id,
		UserId:       d.UserID,
		Lines:        d.Lines,
		Total:        d.Total,
		PaymentToken: paymentToken,
		ShipTo:       d.ShipTo,
		PlacedAt:     timestamppb.New(now),
	}
}

// CheckWords fails with Invalid when free text of a request holds what looks like
// a card number. The error names the field and never the text.
func CheckWords(field, text string) error {
	if cardscan.Found(text) {
		return invalid("CARD_NUMBER", field, "looks like the number of a card or an account; never send those, not even in a note")
	}
	return nil
}

func checkAddress(a *typev1.Address) error {
	for _, f := range []struct{ field, text string }{
		{"recipient", a.GetRecipient()},
		{"locality", a.GetLocality()},
		{"administrative_area", a.GetAdministrativeArea()},
		{"postal_code", a.GetPostalCode()},
	} {
		if err := CheckWords("ship_to."+f.field, f.text); err != nil {
			return err
		}
	}
	for i, l := range a.GetLines() {
		if err := CheckWords(fmt.Sprintf("ship_to.lines[%d]", i), l); err != nil {
			return err
		}
	}
	return nil
}

// lineOf names the first line of the request with the product.
func lineOf(req *orderv1.CreateOrderRequest, productID string) string {
	for i, l := range req.GetLines() {
		if l.GetProductId() == productID {
			return fmt.Sprintf("lines[%d]", i)
		}
	}
	return "lines"
}

func invalid(reason, field, problem string) error {
	return errs.E(errs.Invalid, reason, "%s: %s", field, problem).WithFields(errs.Field{Path: field, Problem: problem})
}
