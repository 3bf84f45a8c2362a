// Package csvimport reads product lists in CSV for ImportProducts. It takes a
// whole file or nothing: every problem names the line and the column it is in.
package csvimport

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"buf.build/go/protovalidate"

	"github.com/waybill-dev/waybill/platform/errs"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
)

// Limits of one file.
const (
	MaxBytes    = 32 << 20
	MaxRows     = 20_000
	maxProblems = 20 // reported at once
)

// The columns, by the names in the header line. Description, category and stock
// may be left out.
const (
	colSKU         = "sku"
	colName        = "name"
	colDescription = "description"
	colCategory    = "category"
	colPrice       = "price"
	colCurrency    = "currency"
	colStock       = "stock"
)

// Columns lists the columns a file may have.
func Columns() []string {
	return []string{colSKU, colName, colDescription, colCategory, colPrice, colCurrency, colStock}
}

func required() []string { return []string{colSKU, colName, colPrice, colCurrency} }

// Parse reads a product list: UTF-8 (with or without a byte order mark), fields
// divided by commas and quoted as in RFC 4180, the names of the columns in the
// first line in any order, prices as decimal numbers such as 12.50. The products
// come in the order of the file, with the lines they are on.
//
// If anything is wrong the error is of kind Invalid with reason INVALID_CSV; its
// text and its Fields name each problem with line and column, the first twenty of
// them, and no products are given.
func Parse(r io.Reader) ([]*inventoryv1.ImportProductsRequest, error) {
	data, err := io.ReadAll(io.LimitReader(r, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read product list: %w", err)
	}
	p := &parser{lines: map[string]int{}}
	if len(data) > MaxBytes {
		p.problem(0, "", "the file is larger than %d MiB; split it", MaxBytes>>20)
		return nil, p.err()
	}
	if bytes.HasPrefix(data, []byte("\xff\xfe")) || bytes.HasPrefix(data, []byte("\xfe\xff")) {
		p.problem(1, "", "the file is encoded in UTF-16; save it as UTF-8")
		return nil, p.err()
	}
	p.csv = csv.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))))
	p.csv.FieldsPerRecord = -1 // told in our own words
	p.csv.ReuseRecord = true
	if p.header() {
		p.rows()
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return p.products, nil
}

type parser struct {
	csv      *csv.Reader
	columns  []string
	lines    map[string]int // of the SKUs seen
	products []*inventoryv1.ImportProductsRequest
	fields   []errs.Field
	more     bool // there are problems beyond those in fields
}

// problem notes what is wrong. Line 0 is the file as a whole.
func (p *parser) problem(line int, column, format string, a ...any) {
	if len(p.fields) == maxProblems {
		p.more = true
		return
	}
	where := "file"
	if line > 0 {
		where = "line " + strconv.Itoa(line)
	}
	if column != "" {
		where += ", column " + column
	}
	p.fields = append(p.fields, errs.Field{Path: where, Problem: fmt.Sprintf(format, a...)})
}

func (p *parser) err() error {
	if len(p.fields) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("the product list was not taken over")
	for _, f := range p.fields {
		b.WriteString("\n  " + f.Path + ": " + f.Problem)
	}
	if p.more {
		b.WriteString("\n  and more")
	}
	return errs.E(errs.Invalid, "INVALID_CSV", "%s", b.String()).WithFields(p.fields...)
}

// next reads a record; false at the end, or if what follows cannot be read.
func (p *parser) next() ([]string, int, bool) {
	rec, err := p.csv.Read()
	var bad *csv.ParseError
	switch {
	case errors.Is(err, io.EOF):
		return nil, 0, false
	case errors.As(err, &bad):
		p.problem(bad.Line, fmt.Sprintf("at character %d", bad.Column), "%v; a field with quotes must be quoted as a whole and its quotes doubled", bad.Err)
		return nil, 0, false
	case err != nil:
		p.problem(0, "", "%v", err)
		return nil, 0, false
	}
	line, _ := p.csv.FieldPos(0)
	return rec, line, true
}

func (p *parser) header() bool {
	rec, line, ok := p.next()
	if !ok {
		if len(p.fields) == 0 {
			p.problem(1, "", "the file is empty; the first line must name the columns %s", strings.Join(Columns(), ","))
		}
		return false
	}
	if len(rec) == 1 && strings.Contains(rec[0], ";") {
		p.problem(line, "", "fields must be divided by commas; this file seems to use semicolons")
		return false
	}
	for i, name := range rec {
		name = strings.ToLower(strings.TrimSpace(name))
		switch {
		case !slices.Contains(Columns(), name):
			p.problem(line, strconv.Itoa(i+1), "%q is no column; the columns are %s", clip(name), strings.Join(Columns(), ","))
		case slices.Contains(p.columns, name):
			p.problem(line, strconv.Itoa(i+1), "%q is there twice", name)
		}
		p.columns = append(p.columns, name)
	}
	for _, name := range required() {
		if !slices.Contains(p.columns, name) {
			p.problem(line, name, "the column is missing")
		}
	}
	return len(p.fields) == 0
}

func (p *parser) rows() {
	for n := 0; !p.more; n++ {
		rec, line, ok := p.next()
		if !ok {
			break
		}
		if n == MaxRows {
			p.problem(line, "", "there are more than %d products; split the file", MaxRows)
			return
		}
		if len(rec) != len(p.columns) {
			p.problem(line, "", "has %d fields, but the header names %d columns", len(rec), len(p.columns))
			continue
		}
		p.row(line, rec)
	}
	if len(p.products) == 0 && len(p.fields) == 0 {
		p.problem(0, "", "there are no products in it")
	}
}

func (p *parser) row(line int, rec []string) {
	before := len(p.fields)
	m := &inventoryv1.ImportProductsRequest{LineNumber: int32(min(line, math.MaxInt32)), Price: &typev1.Money{}}
	price := ""
	for i, value := range rec {
		at, _ := p.csv.FieldPos(i) // a quoted field may have line breaks
		column := p.columns[i]
		if !utf8.ValidString(value) {
			p.problem(at, column, "is not valid UTF-8")
			continue
		}
		switch column {
		case colSKU:
			m.Sku = strings.TrimSpace(value)
		case colName:
			m.Name = strings.TrimSpace(value)
		case colDescription:
			m.Description = strings.TrimSpace(value)
		case colCategory:
			m.Category = strings.TrimSpace(value)
		case colPrice:
			price = strings.TrimSpace(value)
		case colCurrency:
			m.Price.CurrencyCode = strings.TrimSpace(value)
		case colStock:
			n, err := parseStock(strings.TrimSpace(value))
			if err != nil {
				p.problem(at, column, "%v", err)
			}
			m.InitialStock = n
		}
	}
	if scale, ok := Scale(m.Price.CurrencyCode); !ok {
		p.problem(line, colCurrency, "%q is no currency; use the code of ISO 4217, such as EUR", clip(m.Price.CurrencyCode))
	} else if units, err := ParsePrice(price, scale); err != nil {
		p.problem(line, colPrice, "%v", err)
	} else {
		m.Price.MinorUnits = units
	}
	if len(p.fields) > before {
		return // the contract's rules would only repeat it
	}
	p.validate(line, m)
	if first, twice := p.lines[m.GetSku()]; twice {
		p.problem(line, colSKU, "%q is there twice, first in line %d", m.GetSku(), first)
	}
	if len(p.fields) > before {
		return
	}
	p.lines[m.GetSku()] = line
	p.products = append(p.products, m)
}

// validate applies the rules of the contract.
func (p *parser) validate(line int, m *inventoryv1.ImportProductsRequest) {
	err := protovalidate.Validate(m)
	var invalid *protovalidate.ValidationError
	switch {
	case err == nil:
	case errors.As(err, &invalid):
		for _, v := range invalid.Violations {
			p.problem(line, column(protovalidate.FieldPathString(v.Proto.GetField())), "%s", v.Proto.GetMessage())
		}
	default:
		p.problem(line, "", "%v", err)
	}
}

// column gives the column that a field of the message comes from.
func column(path string) string {
	switch path {
	case "price.currency_code":
		return colCurrency
	case "initial_stock":
		return colStock
	}
	name, _, _ := strings.Cut(path, ".")
	return name
}

func parseStock(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || s[0] == '+' {
		return 0, fmt.Errorf("%q is not a whole number", clip(s))
	}
	return n, nil
}

// clip keeps what is quoted in a message short.
func clip(s string) string {
	const most = 40
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}
