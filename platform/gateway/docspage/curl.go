package docspage

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// curl writes a command that calls the operation, with made-up values.
func (d *Document) curl(e entry, op *operation, body *schema) string {
	path := e.Path
	var query []string
	for _, p := range op.Parameters {
		switch {
		case p.In == "path":
			path = strings.ReplaceAll(path, "{"+p.Name+"}", exampleText(p.Name, p.Schema))
		case p.In == "query" && p.Required:
			query = append(query, p.Name+"="+exampleText(p.Name, p.Schema))
		}
	}
	if len(query) > 0 {
		path += "?" + strings.Join(query, "&")
	}
	cmd := "curl"
	if e.Streams {
		cmd += " -N"
	}
	if e.Method != http.MethodGet {
		cmd += " -X " + e.Method
	}
	lines := []string{cmd + " 'http://localhost:8080" + path + "'"}
	if e.Streams {
		lines = append(lines, "-H 'Accept: text/event-stream'")
	}
	if !e.Public {
		lines = append(lines, `-H "Authorization: Bearer $TOKEN"`)
	}
	for _, p := range op.Parameters {
		switch {
		case p.In == "header" && p.Name == "Idempotency-Key":
			lines = append(lines, `-H "Idempotency-Key: $(uuidgen)"`)
		case p.In == "header" && p.Required:
			lines = append(lines, "-H '"+p.Name+": …'")
		}
	}
	if body != nil {
		lines = append(lines, "-H 'Content-Type: application/json'", "-d '"+d.exampleJSON(body)+"'")
	}
	return strings.Join(lines, " \\\n  ")
}

// exampleJSON writes a small value that a schema allows.
func (d *Document) exampleJSON(s *schema) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(d.example("", s, 0)); err != nil {
		return "{}"
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, bytes.TrimSpace(b.Bytes()), "  ", "  "); err != nil || pretty.Len() < 60 {
		return strings.TrimSpace(b.String())
	}
	return pretty.String()
}

// example makes a value: of objects the fields that are required, or all when none is.
func (d *Document) example(name string, s *schema, depth int) any {
	target, _ := d.resolve(s)
	switch {
	case depth > maxNesting:
		return nil
	case target.Type == "array":
		return []any{d.example(name, target.Items, depth+1)}
	case target.Type == "integer" || target.Type == "number":
		if target.Minimum != "" && target.Minimum != "0" {
			return target.Minimum
		}
		return 1
	case target.Type == "boolean":
		return true
	case target.Type == "object" || len(target.Properties) > 0:
		out := map[string]any{}
		for key, prop := range target.Properties {
			needed := len(target.Required) == 0 && depth == 0 && key != "request_id" && key != "etag"
			// An amount without a number is allowed, and no help as an example.
			if needed || slices.Contains(target.Required, key) || key == "minor_units" {
				out[key] = d.example(key, prop, depth+1)
			}
		}
		return out
	case target.Type == "":
		return map[string]any{}
	}
	return exampleText(name, target)
}

// exampleText makes a text that a schema allows, as far as it can be guessed.
func exampleText(name string, s *schema) string {
	if s == nil {
		return "text"
	}
	switch {
	case len(s.Enum) > 1:
		return s.Enum[1] // the first is UNSPECIFIED
	case len(s.Enum) == 1:
		return s.Enum[0]
	case s.Format == "uuid":
		return "0197a1f0-7c3e-7000-8000-000000000001"
	case s.Format == "date-time":
		return "2026-01-31T12:00:00Z"
	case s.Format == "email", name == "email":
		return "ann@example.com"
	case s.Format == "int64":
		return "1250"
	case strings.HasPrefix(s.Pattern, "^tok_"):
		return "tok_ok"
	case s.Pattern == "^[A-Z]{2}$":
		return "DE"
	case s.Pattern == "^[A-Z]{3}$":
		return "EUR"
	case strings.Contains(name, "password"):
		return "correct horse battery"
	case strings.HasSuffix(name, "_token"):
		return "…"
	case name == "recipient" || strings.HasSuffix(name, "name"):
		return "Ann Example"
	case name == "lines":
		return "1 Long Way"
	case name == "locality":
		return "Berlin"
	case name == "postal_code":
		return "10115"
	case name == "sku":
		return "CHAIR-1"
	}
	return "text"
}
