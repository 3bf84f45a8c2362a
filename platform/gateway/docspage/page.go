// Package docspage makes the page that shows the REST interface to people from its
// OpenAPI document. `make gen` runs it, not the server: templates keep the linker
// from leaving out methods that nobody calls, of all packages.
package docspage

import (
	"bytes"
	_ "embed" // the page's template, style and script
	"encoding/json"
	"fmt"
	"html/template"
	"slices"
	"strings"
)

// The page is one file without anything from elsewhere: style and script are in it.
var (
	//go:embed page.gohtml
	pageTemplate string
	//go:embed page.css
	pageStyle string
	//go:embed page.js
	pageScript string
)

// Document is as much of OpenAPI 3.1 as the page needs.
type Document struct {
	Info struct {
		Title, Version, Summary, Description string
	}
	Tags       []struct{ Name, Description string }
	Paths      map[string]map[string]*operation
	Security   []map[string][]string
	Components struct {
		Schemas map[string]*schema
	}
}

type operation struct {
	OperationID string `json:"operationId"`
	Summary     string
	Description string
	Tags        []string
	Parameters  []parameter
	RequestBody *struct {
		Content map[string]struct{ Schema *schema }
	} `json:"requestBody"`
	Responses map[string]struct {
		Description string
		Content     map[string]struct{ Schema *schema }
	}
	Security *[]map[string][]string
}

type parameter struct {
	Name, In, Description string
	Required              bool
	Schema                *schema
}

type schema struct {
	Ref                  string `json:"$ref"`
	Type, Format         string
	Description, Pattern string
	Properties           map[string]*schema
	Items                *schema
	Required             []string
	Enum                 []string
	MinLength, MaxLength json.Number
	MinItems, MaxItems   json.Number
	Minimum, Maximum     json.Number
}

// page is what the template shows.
type page struct {
	Title, Version, Summary, Description string
	Style                                template.CSS
	Script                               template.JS
	Groups                               []*group
}

type group struct {
	Name, Description string
	Operations        []entry
}

// entry is one operation on the page.
type entry struct {
	ID, Method, Path, Summary, Description string
	Public, Streams                        bool
	Parameters, Body, Response             []row
	Curl                                   string
}

// row is one parameter or field: Name is its full path, Depth how far it is nested.
type row struct {
	Name, In, Type, Rules, Description string
	Required                           bool
	Depth                              int
}

// Parse reads a document. Its errors are those of the JSON.
func Parse(openapi []byte) (*Document, error) {
	d := &Document{}
	if err := json.Unmarshal(openapi, d); err != nil {
		return nil, fmt.Errorf("the OpenAPI document: %w", err)
	}
	return d, nil
}

// Operations gives the ids of all operations, sorted.
func (d *Document) Operations() []string {
	var ids []string
	for _, methods := range d.Paths {
		for _, op := range methods {
			ids = append(ids, op.OperationID)
		}
	}
	slices.Sort(ids)
	return ids
}

// Example gives a body that an operation takes, as the page shows it, and whether
// there is such an operation; "" if it takes none.
func (d *Document) Example(method, path string) (string, bool) {
	op := d.Paths[path][strings.ToLower(method)]
	if op == nil || op.RequestBody == nil {
		return "", op != nil
	}
	return d.exampleJSON(op.RequestBody.Content["application/json"].Schema), true
}

// HTML gives the page. The same document gives the same bytes.
func (d *Document) HTML() ([]byte, error) {
	t, err := template.New("page").Funcs(template.FuncMap{"prose": prose}).Parse(pageTemplate)
	if err != nil {
		return nil, err
	}
	var html bytes.Buffer
	if err := t.Execute(&html, d.page()); err != nil {
		return nil, err
	}
	return html.Bytes(), nil
}

// page puts the operations into groups, in the order of the document's tags.
func (d *Document) page() page {
	p := page{
		Title: d.Info.Title, Version: d.Info.Version, Summary: d.Info.Summary, Description: d.Info.Description,
		Style: template.CSS(pageStyle), Script: template.JS(pageScript), //nolint:gosec // our own files
	}
	groups := map[string]*group{}
	for _, t := range d.Tags {
		groups[t.Name] = &group{Name: t.Name, Description: t.Description}
		p.Groups = append(p.Groups, groups[t.Name])
	}
	for path, methods := range d.Paths {
		for method, op := range methods {
			name := "Other"
			if len(op.Tags) > 0 {
				name = op.Tags[0]
			}
			if groups[name] == nil {
				groups[name] = &group{Name: name}
				p.Groups = append(p.Groups, groups[name])
			}
			groups[name].Operations = append(groups[name].Operations, d.entry(path, strings.ToUpper(method), op))
		}
	}
	order := []string{"GET", "POST", "PUT", "PATCH", "DELETE"}
	for _, g := range p.Groups {
		slices.SortFunc(g.Operations, func(a, b entry) int {
			if c := strings.Compare(a.Path, b.Path); c != 0 {
				return c
			}
			return slices.Index(order, a.Method) - slices.Index(order, b.Method)
		})
	}
	p.Groups = slices.DeleteFunc(p.Groups, func(g *group) bool { return len(g.Operations) == 0 })
	return p
}

// entry describes one operation.
func (d *Document) entry(path, method string, op *operation) entry {
	e := entry{ID: op.OperationID, Method: method, Path: path, Summary: op.Summary, Description: op.Description}
	security := d.Security
	if op.Security != nil {
		security = *op.Security
	}
	e.Public = len(security) == 0
	for _, p := range op.Parameters {
		r := d.row(p.Name, p.Schema, 0)
		r.In, r.Required = p.In, p.Required
		if p.Description != "" {
			r.Description = p.Description
		}
		e.Parameters = append(e.Parameters, r)
	}
	var body *schema
	if op.RequestBody != nil {
		body = op.RequestBody.Content["application/json"].Schema
		e.Body = d.rows(body, "", 0, nil)
	}
	ok := op.Responses["200"]
	if ev, streams := ok.Content["text/event-stream"]; streams {
		e.Streams = true
		e.Response = d.rows(ev.Schema, "", 0, nil)
	} else {
		e.Response = d.rows(ok.Content["application/json"].Schema, "", 0, nil)
	}
	e.Curl = d.curl(e, op, body)
	return e
}

// resolve follows a reference.
func (d *Document) resolve(s *schema) (*schema, string) {
	if s == nil {
		return &schema{}, ""
	}
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		if target := d.Components.Schemas[name]; target != nil {
			return target, name
		}
		return &schema{}, name
	}
	return s, ""
}

// maxNesting is how deep the page shows fields of fields.
const maxNesting = 4

// rows lists the fields of a schema, those of nested messages below them; within
// says which messages it is in already, since messages may contain themselves.
func (d *Document) rows(s *schema, prefix string, depth int, within []string) []row {
	target, name := d.resolve(s)
	if depth > maxNesting || name != "" && slices.Contains(within, name) {
		return nil
	}
	if name != "" {
		within = append(slices.Clone(within), name)
	}
	if target.Type == "array" {
		return d.rows(target.Items, prefix, depth, within)
	}
	var out []row
	for _, key := range sorted(target.Properties) {
		prop := target.Properties[key]
		r := d.row(prefix+key, prop, depth)
		r.Required = slices.Contains(target.Required, key)
		out = append(out, r)
		inner, _ := d.resolve(prop)
		below := prefix + key + "."
		if inner.Type == "array" {
			below = prefix + key + "[]."
		}
		out = append(out, d.rows(prop, below, depth+1, within)...)
	}
	return out
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// row describes one value.
func (d *Document) row(name string, s *schema, depth int) row {
	target, _ := d.resolve(s)
	r := row{Name: name, Depth: depth, Type: d.typeName(s)}
	if s != nil {
		r.Description = s.Description
	}
	if r.Description == "" {
		r.Description = target.Description
	}
	rules := slices.Concat(
		span(target.MinLength, target.MaxLength, " characters"), span(target.MinItems, target.MaxItems, " items"),
		span(target.Minimum, target.Maximum, ""))
	if target.Pattern != "" && target.Format != "uuid" {
		rules = append(rules, "in the form "+target.Pattern)
	}
	rules = append(rules, target.Enum...)
	r.Rules = strings.Join(rules, ", ")
	return r
}

// span says between which bounds something lies.
func span(low, high json.Number, unit string) []string {
	switch {
	case low != "" && high != "":
		return []string{low.String() + " to " + high.String() + unit}
	case low != "":
		return []string{"at least " + low.String() + unit}
	case high != "":
		return []string{"at most " + high.String() + unit}
	}
	return nil
}

// typeName names the type of a value.
func (d *Document) typeName(s *schema) string {
	target, name := d.resolve(s)
	switch {
	case target.Type == "array":
		return "list of " + d.typeName(target.Items)
	case len(target.Enum) > 0:
		return "one of"
	case name != "":
		return name[strings.LastIndexByte(name, '.')+1:]
	case target.Format != "":
		return target.Format
	case target.Type == "":
		return "any"
	}
	return target.Type
}

// prose writes text with `code` and paragraphs as HTML.
func prose(s string) template.HTML {
	var b strings.Builder
	for para := range strings.SplitSeq(s, "\n\n") {
		b.WriteString("<p>")
		for i, part := range strings.Split(para, "`") {
			esc := template.HTMLEscapeString(part)
			if i%2 == 1 {
				esc = "<code>" + esc + "</code>"
			}
			b.WriteString(esc)
		}
		b.WriteString("</p>")
	}
	return template.HTML(b.String()) //nolint:gosec // every part is escaped above
}
