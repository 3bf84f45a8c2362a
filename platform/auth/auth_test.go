package auth

import (
	"context"
	"testing"
)

func TestOwnerLimitsCustomersToTheirOwnThings(t *testing.T) {
	for _, c := range []struct {
		name string
		ctx  context.Context
		want string
	}{
		{"customer", WithCaller(t.Context(), Caller{UserID: "u1", Role: Customer}), "u1"},
		{"customer through a service", WithCaller(t.Context(), Caller{UserID: "u1", Role: Customer, Service: "order"}), "u1"},
		{"staff", WithCaller(t.Context(), Caller{UserID: "u2", Role: Staff}), ""},
		{"admin", WithCaller(t.Context(), Caller{UserID: "u3", Role: Admin}), ""},
		{"service", WithCaller(t.Context(), Caller{Role: Service, Service: "order"}), ""},
		{"anonymous", t.Context(), Nobody},
		{"no user", WithCaller(t.Context(), Caller{Role: Customer}), Nobody},
		{"unknown role without a user", WithCaller(t.Context(), Caller{Role: "root"}), Nobody},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Owner(c.ctx); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestBearerTakesExactlyOneWellFormedHeader(t *testing.T) {
	for _, c := range []struct {
		name    string
		headers []string
		want    string
		refused bool
	}{
		{"none", nil, "", false},
		{"one", []string{"Bearer abc.def.ghi"}, "abc.def.ghi", false},
		{"scheme in any case", []string{"bearer abc"}, "abc", false},
		{"two", []string{"Bearer abc", "Bearer def"}, "", true},
		{"the same twice", []string{"Bearer abc", "Bearer abc"}, "", true},
		{"two joined", []string{"Bearer abc, Bearer def"}, "", true},
		{"two joined tightly", []string{"Bearer abc,def"}, "", true},
		{"empty", []string{""}, "", true},
		{"scheme only", []string{"Bearer"}, "", true},
		{"scheme and a space", []string{"Bearer "}, "", true},
		{"two spaces", []string{"Bearer  abc"}, "", true},
		{"basic", []string{"Basic dTpw"}, "", true},
		{"bare token", []string{"abc.def.ghi"}, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Bearer(c.headers)
			if got != c.want || (err != nil) != c.refused {
				t.Errorf("got %q, %v; want %q, refused %v", got, err, c.want, c.refused)
			}
		})
	}
}
