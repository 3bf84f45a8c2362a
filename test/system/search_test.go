package system_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheSearchFindsWhatItLooksFor proves that the search at the end (D6) is not
// blind: it finds each kind of secret where one was put.
func TestTheSearchFindsWhatItLooksFor(t *testing.T) {
	t.Parallel()
	w := desk.get(t)
	u := w.customer(t)
	for name, text := range map[string]string{
		"a password": "password=" + secret("x"), "a card number": "pan " + cards[3], "one in groups": grouped(cards[5], " "), "one with dashes": grouped(cards[7], "-"),
		"an access token": "authorization: Bearer " + u.token, "a key": `{"kty":"OKP","d":"` + strings.Repeat("A", 43) + `"}`, "a webhook secret": webhookSecret,
	} {
		if len(found([]byte("\x00\x01 before "+text+" after"))) == 0 {
			t.Errorf("%s is not found", name)
		}
	}
	if hits := found([]byte("order 01a20764-fe50-7d57-833a-7d06b170a8db of 1999 EUR, tok_ok, 12 Harbour Street")); len(hits) > 0 {
		t.Errorf("found %v where there is nothing", hits)
	}
	for _, place := range []string{"auth.db", "order.db", "nats"} {
		if _, err := os.Stat(filepath.Join(w.dir, place)); err != nil {
			t.Errorf("there is nothing to search: %v", err)
		}
	}
	// A call is logged when its answer is already on its way.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := poll(ctx, func() (bool, error) {
		log, err := os.ReadFile(logged)
		return strings.Contains(string(log), "waybill.auth.v1.AuthService/SignUp"), err
	}); err != nil {
		t.Errorf("the log does not hold the calls of these tests: %v", err)
	}
}
