// Package data holds what the demo and the tests work on.
package data

import _ "embed" // for the product list

// Products is a product list in the form that csvimport reads.
//
//go:embed products.csv
var Products []byte
