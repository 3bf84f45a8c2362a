// Package cardscan finds what must never be written down: card numbers and IBANs
// that somebody put into a field meant for other text. It looks at one text at a
// time and keeps nothing.
package cardscan

import (
	"strings"
	"unicode"
)

const (
	minPAN, maxPAN   = 13, 19 // digits of a card number, ISO/IEC 7812
	minIBAN, maxIBAN = 15, 34 // characters of an IBAN, ISO 13616
	maxGap           = 3      // separators in a row that do not end a number
)

// Found reports whether text holds something that looks like a card number (13 to
// 19 digits with a right Luhn check digit) or an IBAN (right mod-97 checksum),
// also when it is written in groups with spaces, dashes, dots or slashes, or in
// digits other than ASCII. It may err on the side of finding: one in ten long
// numbers has a right check digit by chance.
func Found(text string) bool {
	return len(text) >= minPAN && (foundPAN(text) || foundIBAN(text))
}

// foundPAN looks at every run of digit groups.
func foundPAN(text string) bool {
	var digits []byte // of the present run
	var starts []int  // where its groups begin
	gap := 0
	end := func() bool {
		found := luhnWithin(digits, starts)
		digits, starts, gap = digits[:0], starts[:0], 0
		return found
	}
	for _, r := range text {
		switch d, ok := digit(r); {
		case ok:
			if len(digits) == 0 || gap > 0 {
				starts = append(starts, len(digits))
			}
			gap = 0
			digits = append(digits, d)
		case separator(r) && len(digits) > 0 && gap < maxGap:
			gap++
		default:
			if end() {
				return true
			}
		}
	}
	return end()
}

// luhnWithin reports whether some whole groups in a row make a card number.
func luhnWithin(digits []byte, starts []int) bool {
	for i, from := range starts {
		for j := i + 1; j <= len(starts); j++ {
			to := len(digits)
			if j < len(starts) {
				to = starts[j]
			}
			if n := to - from; n >= minPAN && n <= maxPAN && luhn(digits[from:to]) {
				return true
			}
		}
	}
	return false
}

func luhn(digits []byte) bool {
	if digits[0] == 0 { // no card begins so, but many a padded number does
		return false
	}
	sum := 0
	for i, d := range digits {
		n := int(d)
		if (len(digits)-i)%2 == 0 {
			if n *= 2; n > 9 {
				n -= 9
			}
		}
		sum += n
	}
	return sum%10 == 0
}

// foundIBAN looks at every place where an IBAN may begin: two letters, two digits.
func foundIBAN(text string) bool {
	text = strings.ToUpper(text)
	for i := 0; i+minIBAN <= len(text); i++ {
		if i > 0 && alnum(text[i-1]) {
			continue
		}
		if letter(text[i]) && letter(text[i+1]) && ascii(text[i+2]) && ascii(text[i+3]) && ibanAt(text[i:]) {
			return true
		}
	}
	return false
}

// ibanAt reports whether text begins with an IBAN that ends where a group ends.
func ibanAt(text string) bool {
	var chars []byte
	gap := 0
	for i := 0; i < len(text) && len(chars) < maxIBAN; i++ {
		switch c := text[i]; {
		case alnum(c):
			chars = append(chars, c)
			gap = 0
			ends := i+1 == len(text) || !alnum(text[i+1])
			if ends && len(chars) >= minIBAN && mod97(chars) {
				return true
			}
		case (c == ' ' || c == '-') && gap < maxGap:
			gap++
		default:
			return false
		}
	}
	return false
}

func mod97(chars []byte) bool {
	rest := 0
	for i := range chars {
		c := chars[(i+4)%len(chars)]
		if letter(c) {
			rest = (rest*100 + int(c-'A') + 10) % 97
		} else {
			rest = (rest*10 + int(c-'0')) % 97
		}
	}
	return rest == 1
}

func letter(c byte) bool { return c >= 'A' && c <= 'Z' }
func ascii(c byte) bool  { return c >= '0' && c <= '9' }
func alnum(c byte) bool  { return letter(c) || ascii(c) }

// digit gives the value of a decimal digit of any script.
func digit(r rune) (byte, bool) {
	if r >= '0' && r <= '9' {
		return byte(r - '0'), true
	}
	if r < 0x80 {
		return 0, false
	}
	// Unicode lists decimal digits in ranges that begin with a zero.
	for _, x := range unicode.Nd.R16 {
		if rune(x.Lo) <= r && r <= rune(x.Hi) {
			return byte((r - rune(x.Lo)) % 10), true
		}
	}
	for _, x := range unicode.Nd.R32 {
		if rune(x.Lo) <= r && r <= rune(x.Hi) {
			return byte((r - rune(x.Lo)) % 10), true
		}
	}
	return 0, false
}

func separator(r rune) bool {
	switch r {
	case ' ', '-', '.', '/', '_', ',', '\t', '\n', '\r':
		return true
	}
	return r >= 0x80 && (unicode.IsSpace(r) || unicode.Is(unicode.Pd, r) || unicode.Is(unicode.Cf, r))
}
