package system_test

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"
)

// marker is in every password and secret of these tests, and nowhere else.
var marker = cmp.Or(os.Getenv(envMarker), "Zq7"+strings.ReplaceAll(uuid.NewString(), "-", ""))

// secret gives the secret of that name, always the same.
func secret(name string) string { return marker + "-" + name }

// cards are numbers for tests of the big schemes. They may be sent anywhere and
// must be written down nowhere.
var cards = []string{
	"4242424242424242", "4000056655665556", "5555555555554444", "2223003122003222", "5105105105105100",
	"378282246310005", "6011111111111117", "3056930009020004", "3566002020360505", "6200000000000005",
}

var tokens struct {
	sync.Mutex
	refresh []string
}

// remember notes a refresh token that was handed out.
func remember(token string) {
	tokens.Lock()
	defer tokens.Unlock()
	if token != "" && len(tokens.refresh) < 64 {
		tokens.refresh = append(tokens.refresh, token)
	}
}

var (
	jwt        = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.`)
	privateKey = regexp.MustCompile(`"d":\s?"[A-Za-z0-9_-]{43}"`)
)

// found names the secrets that data holds. The names tell no secret.
func found(data []byte) []string {
	var hits []string
	has := func(what, s string) {
		if s != "" && bytes.Contains(data, []byte(s)) {
			hits = append(hits, what)
		}
	}
	has("a password", marker)
	has("a webhook secret", webhookSecret)
	has("a webhook secret", webhookEarlier)
	for i, c := range cards {
		has(fmt.Sprintf("card number %d", i+1), c)
		has(fmt.Sprintf("card number %d in groups", i+1), grouped(c, " "))
		has(fmt.Sprintf("card number %d with dashes", i+1), grouped(c, "-"))
	}
	tokens.Lock()
	refresh := slices.Clone(tokens.refresh)
	tokens.Unlock()
	for i, r := range refresh {
		has(fmt.Sprintf("refresh token %d", i+1), r)
	}
	// Looking for plain text first is a hundred times faster than the expressions.
	if bytes.Contains(data, []byte(".eyJ")) && jwt.Match(data) {
		hits = append(hits, "an access token")
	}
	if bytes.Contains(data, []byte("PRIVATE KEY-----")) || bytes.Contains(data, []byte(`"d":`)) && privateKey.Match(data) {
		hits = append(hits, "a private key")
	}
	return hits
}

// grouped writes a card number as it stands on the card.
func grouped(card, separator string) string {
	var parts []string
	for len(card) > 4 {
		parts, card = append(parts, card[:4]), card[4:]
	}
	return strings.Join(append(parts, card), separator)
}
