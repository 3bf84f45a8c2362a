package cardscan

import (
	"strings"
	"testing"
)

func TestCardNumbersAndIBANsAreFoundInAnyWriting(t *testing.T) {
	for _, text := range []string{
		"4242424242424242",
		"4242 4242 4242 4242",
		"4242-4242-4242-4242",
		"4242.4242.4242.4242",
		"4242 - 4242 - 4242 - 4242",
		"4242\u00a04242\u20114242\u20144242",
		"please use 4242 4242 4242 4242, thanks",
		"card 4242424242424242 12/29 CVV 123",
		"378282246310005",
		"3782 822463 10005",
		"4222222222222",
		"6304000000000000000",
		"flat 7, 5555555555554444",
		"４２４２４２４２４２４２４２４２",
		"٤٢٤٢٤٢٤٢٤٢٤٢٤٢٤٢",
		"𝟺𝟸𝟺𝟸𝟺𝟸𝟺𝟸𝟺𝟸𝟺𝟸𝟺𝟸𝟺𝟸",
		"DE89 3704 0044 0532 0130 00",
		"DE89370400440532013000",
		"iban: gb29 nwbk 6016 1331 9268 19.",
		"NO9386011117947",
	} {
		if !Found(text) {
			t.Errorf("%q was not found", text)
		}
	}
}

func TestOrdinaryTextIsLeftAlone(t *testing.T) {
	for _, text := range []string{
		"",
		"Unter den Linden 77, 10117 Berlin",
		"+49 30 901820, ring twice",
		"4242424242424241",        // wrong check digit
		"42424242424242424242",    // 20 digits
		"424242424242",            // 12 digits
		"0000000000000000",        // padding
		"4242 4242 and 4242 4242", // no one number
		"0190a0c2-7b1a-7cc3-9a3e-1f2d3c4b5a69",
		"DE88 3704 0044 0532 0130 00", // wrong checksum
		"XDE89370400440532013000",     // within a word
		"Flat 12, 1500 Broadway, New York NY 10036-4015",
		strings.Repeat("9", 500),
	} {
		if Found(text) {
			t.Errorf("%q was found", text)
		}
	}
}

func FuzzNoTextBreaksTheScan(f *testing.F) {
	f.Add("4242 4242 4242 4242")
	f.Add("DE89 3704 0044 0532 0130 00")
	f.Add("٤\xff٢")
	f.Fuzz(func(t *testing.T, text string) {
		found := Found(text)
		if !found && Found(text+" 4242424242424242") == false && !endsInDigitOrSeparator(text) {
			t.Errorf("a card number after %q was not found", text)
		}
	})
}

func endsInDigitOrSeparator(text string) bool {
	for _, r := range text {
		if _, ok := digit(r); ok {
			return true
		}
	}
	return false
}
