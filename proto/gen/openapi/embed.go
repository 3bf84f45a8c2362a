// Package openapi holds the OpenAPI 3.1 document of the REST interface and the page that shows it, generated from the contract by `make gen`.
package openapi

import _ "embed" // the document and the page

// Document is the document as JSON. Callers must not change it.
//
//go:embed waybill.openapi.json
var Document []byte

// Page is the page as HTML. Callers must not change it.
//
//go:embed docs.html
var Page []byte
