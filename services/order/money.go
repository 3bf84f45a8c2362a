package order

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/waybill-dev/waybill/platform/errs"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// maxMinorUnits is the greatest amount the contract allows.
const maxMinorUnits = 100_000_000_000_000_000

// times multiplies an amount by a quantity; false if the contract does not allow
// so much.
func times(minor int64, quantity int32) (int64, bool) {
	if minor < 0 || quantity < 0 {
		return 0, false
	}
	if quantity != 0 && minor > math.MaxInt64/int64(quantity) {
		return 0, false
	}
	product := minor * int64(quantity)
	return product, product <= maxMinorUnits
}

// plus adds two amounts that the contract allows; false if it does not allow the sum.
func plus(a, b int64) (int64, bool) {
	sum := a + b
	return sum, a >= 0 && b >= 0 && sum <= maxMinorUnits
}

// decimals of the currencies that do not have two, by ISO 4217.
var decimals = map[string]int{
	"BIF": 0, "CLP": 0, "DJF": 0, "GNF": 0, "ISK": 0, "JPY": 0, "KMF": 0, "KRW": 0, "PYG": 0, "RWF": 0, "UGX": 0, "UYI": 0, "VND": 0,
	"VUV": 0, "XAF": 0, "XOF": 0, "XPF": 0,
	"BHD": 3, "IQD": 3, "JOD": 3, "KWD": 3, "LYD": 3, "OMR": 3, "TND": 3,
	"CLF": 4, "UYW": 4,
}

// Amount gives money in words for people, as in "49.90 EUR".
func Amount(m *typev1.Money) string {
	if m == nil {
		return "nothing"
	}
	minor, sign := m.GetMinorUnits(), ""
	digits := strconv.FormatInt(minor, 10)
	if minor < 0 {
		sign, digits = "-", digits[1:]
	}
	n, ok := decimals[m.GetCurrencyCode()]
	if !ok {
		n = 2
	}
	if n > 0 {
		if len(digits) <= n {
			digits = strings.Repeat("0", n+1-len(digits)) + digits
		}
		digits = digits[:len(digits)-n] + "." + digits[len(digits)-n:]
	}
	return fmt.Sprintf("%s%s %s", sign, digits, m.GetCurrencyCode())
}

func sameMoney(a, b *typev1.Money) bool {
	return a.GetMinorUnits() == b.GetMinorUnits() && a.GetCurrencyCode() == b.GetCurrencyCode()
}

// totalChanged refuses an order whose caller expected another total.
func totalChanged(expected, total *typev1.Money) error {
	return errs.E(errs.FailedPrecondition, "TOTAL_CHANGED", "the total is %s, not %s as expected; nothing was ordered and nothing is charged",
		Amount(total), Amount(expected)).
		WithMeta("expected_minor_units", strconv.FormatInt(expected.GetMinorUnits(), 10)).
		WithMeta("expected_currency_code", expected.GetCurrencyCode()).
		WithMeta("total_minor_units", strconv.FormatInt(total.GetMinorUnits(), 10)).
		WithMeta("total_currency_code", total.GetCurrencyCode())
}
