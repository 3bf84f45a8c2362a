package csvimport

import (
	"fmt"
	"strings"

	"golang.org/x/text/currency"
)

// maxDigits keeps every price within an int64, whatever its currency's scale.
const maxDigits = 15

// ParsePrice turns a decimal number into units of 10^-scale, exactly: "12.50"
// with scale 2 is 1250. Only digits and one point are allowed, and at most scale
// digits after it.
func ParsePrice(s string, scale int) (int64, error) {
	whole, frac, point := strings.Cut(s, ".")
	switch {
	case s == "":
		return 0, fmt.Errorf("there is no price")
	case strings.HasPrefix(s, "-"):
		return 0, fmt.Errorf("%q is negative", clip(s))
	case strings.Contains(s, ","):
		return 0, fmt.Errorf("%q has a comma; write 1234.50, with a point and nothing between the thousands", clip(s))
	case !digits(whole) || point && !digits(frac):
		return 0, fmt.Errorf("%q is not a decimal number such as 12.50", clip(s))
	case len(frac) > scale:
		return 0, fmt.Errorf("%q has %d digits after the point, but its currency has %d", clip(s), len(frac), scale)
	case len(whole)+scale > maxDigits:
		return 0, fmt.Errorf("%q is too large", clip(s))
	}
	var n int64
	for _, d := range whole + frac + strings.Repeat("0", scale-len(frac)) {
		n = n*10 + int64(d-'0')
	}
	return n, nil
}

// digits reports whether s consists of digits, and of one at least.
func digits(s string) bool {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// Scale gives how many digits a currency has after the point, as ISO 4217 says;
// false if there is no such currency.
func Scale(code string) (int, bool) {
	switch code {
	case "BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND", "VUV", "XAF", "XOF", "XPF":
		return 0, true
	case "BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND":
		return 3, true
	case "CLF", "UYW":
		return 4, true
	case "XXX", "XTS":
		return 0, false
	}
	if _, err := currency.ParseISO(code); err != nil || strings.ToUpper(code) != code {
		return 0, false
	}
	return 2, true
}
