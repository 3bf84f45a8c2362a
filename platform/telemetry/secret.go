package telemetry

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
)

// redacted is what is printed wherever a secret would have been.
const redacted = "[redacted]"

// Secret is a string that no log, error text, JSON or printed struct shows. Only
// Reveal gives the value.
type Secret string

// Reveal gives the value itself, for the one place that needs it.
func (s Secret) Reveal() string { return string(s) }

// String gives "[redacted]", or "" for an empty secret so that a missing one can be seen.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return redacted
}

// Format hides the value from every fmt verb, %#v and %x included.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(s.String())) }

// LogValue hides the value from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalJSON hides the value from encoding/json.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// secretWords are parts of attribute names whose values are never logged. They are
// a second line of defence: code should not log such things at all.
var secretWords = [...]string{
	"password", "passwd", "secret", "token", "authorization", "cookie", "credential", "private_key", "api_key",
	"apikey", "card_number", "cvv", "cvc", "iban", "email", "address_line", "postal",
}

// sensitive reports whether an attribute of this name must not be logged.
func sensitive(key string) bool {
	for _, w := range secretWords {
		if containsFold(key, w) {
			return true
		}
	}
	return false
}

// containsFold is strings.Contains ignoring ASCII case, without allocating; word is in lower case.
func containsFold(s, word string) bool {
	for i := 0; i+len(word) <= len(s); i++ {
		if c := s[i] | 0x20; c == word[0] && strings.EqualFold(s[i:i+len(word)], word) {
			return true
		}
	}
	return false
}
