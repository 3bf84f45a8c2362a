package gateway

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
)

// docRoutes makes the paths of the documentation. Of the page only the style and
// the script that are in it may take effect.
func docRoutes(openapi, page []byte) map[string]Route {
	policy := "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src " + source(page, "style") + "; script-src " + source(page, "script")
	return map[string]Route{
		"/":             {Handler: http.RedirectHandler("/docs", http.StatusFound)},
		"/docs":         {Handler: static(page, "text/html; charset=utf-8", policy)},
		"/openapi.json": {Handler: static(openapi, "application/json", "default-src 'none'")},
	}
}

// source names what is inside an element of the page, in a content security policy.
func source(page []byte, element string) string {
	_, rest, found := bytes.Cut(page, []byte("<"+element+">"))
	text, _, closed := bytes.Cut(rest, []byte("</"+element+">"))
	if !found || !closed {
		return "'none'"
	}
	return "'" + hash(string(text)) + "'"
}

// hash names a text in a content security policy.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// static serves bytes that do not change while the process runs.
func static(b []byte, contentType, policy string) http.Handler {
	sum := sha256.Sum256(b)
	etag := `"` + hex.EncodeToString(sum[:8]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-cache")
		h.Set("Etag", etag)
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Type", contentType)
		_, _ = w.Write(b)
	})
}
