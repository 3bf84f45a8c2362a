// Package openapi holds the OpenAPI 3.1 document of the REST interface, generated from the contract by `make gen`.
package openapi

import _ "embed"

// Document is the document as JSON. Callers must not change it.
//
//go:embed waybill.openapi.json
var Document []byte
