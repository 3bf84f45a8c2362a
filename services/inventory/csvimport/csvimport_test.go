package csvimport_test

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/waybill-dev/waybill/platform/errs"
	inventoryv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	typev1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/type/v1"
	"github.com/waybill-dev/waybill/services/inventory/csvimport"
)

const header = "sku,name,description,category,price,currency,stock\n"

func TestAFileIsReadWholly(t *testing.T) {
	const file = "\xef\xbb\xbfPrice,SKU,currency,name,stock,description\r\n" +
		"12.50,A-1,EUR,\"Board, oak\",7,\"Two\nlines\"\r\n" +
		"\r\n" +
		"500,B-2,JPY, Cup ,,\r\n"
	got, err := csvimport.Parse(strings.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	want := []*inventoryv1.ImportProductsRequest{
		{LineNumber: 2, Sku: "A-1", Name: "Board, oak", Description: "Two\nlines", Price: &typev1.Money{MinorUnits: 1250, CurrencyCode: "EUR"}, InitialStock: 7},
		{LineNumber: 5, Sku: "B-2", Name: "Cup", Price: &typev1.Money{MinorUnits: 500, CurrencyCode: "JPY"}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}

func TestBadFilesNameLineAndColumn(t *testing.T) {
	good := "A-1,Board,,kitchen,12.50,EUR,7\n"
	for _, c := range []struct {
		name, file, path, problem string
	}{
		{"empty", "", "line 1", "the first line must name the columns"},
		{"only a header", header, "file", "no products"},
		{"semicolons", strings.ReplaceAll(header, ",", ";"), "line 1", "semicolons"},
		{"UTF-16", "\xff\xfes\x00k\x00u\x00", "line 1", "UTF-16"},
		{"unknown column", "sku,name,price,currency,colour\n", "line 1, column 5", `"colour" is no column`},
		{"column twice", "sku,name,price,currency,sku\n", "line 1, column 5", "twice"},
		{"missing column", "sku,name,price\n", "line 1, column currency", "missing"},
		{"too few fields", header + good + "A-2,Cup\n", "line 3", "has 2 fields, but the header names 7"},
		{"too many fields", header + "A-2,Cup,,,1.00,EUR,1,extra\n", "line 2", "has 8 fields"},
		{"bare quote", header + good + "A-2,Cup \"big\",,,1.00,EUR,1\n", "line 3, column at character 9", "quote"},
		{"quote never closed", header + "A-2,\"Cup,,,1.00,EUR,1\n", "line", "quote"},
		{"invalid UTF-8", header + "A-2,C\xffp,,,1.00,EUR,1\n", "line 2, column name", "UTF-8"},
		{"no sku", header + ",Cup,,,1.00,EUR,1\n", "line 2, column sku", "regex"},
		{"bad sku", header + "A 2,Cup,,,1.00,EUR,1\n", "line 2, column sku", "regex"},
		{"sku twice", header + good + good, "line 3, column sku", "first in line 2"},
		{"no name", header + "A-2,,,,1.00,EUR,1\n", "line 2, column name", "at least 1 character"},
		{"long name", header + "A-2," + strings.Repeat("x", 201) + ",,,1.00,EUR,1\n", "line 2, column name", "200"},
		{"control character", header + "A-2,Cup\a,,,1.00,EUR,1\n", "line 2, column name", "control characters"},
		{"writing turned round", header + "A-2,Cup\u202e,,,1.00,EUR,1\n", "line 2, column name", "control characters"},
		{"long description", header + "A-2,Cup," + strings.Repeat("x", 5001) + ",,1.00,EUR,1\n", "line 2, column description", "5000"},
		{"long category", header + "A-2,Cup,," + strings.Repeat("x", 101) + ",1.00,EUR,1\n", "line 2, column category", "100"},
		{"no price", header + "A-2,Cup,,,,EUR,1\n", "line 2, column price", "no price"},
		{"price with comma", header + "A-2,Cup,,,\"12,50\",EUR,1\n", "line 2, column price", "comma"},
		{"price with sign", header + "A-2,Cup,,,-1.00,EUR,1\n", "line 2, column price", "negative"},
		{"price with exponent", header + "A-2,Cup,,,1e3,EUR,1\n", "line 2, column price", "not a decimal number"},
		{"price with a currency sign", header + "A-2,Cup,,,€1,EUR,1\n", "line 2, column price", "not a decimal number"},
		{"price too exact", header + "A-2,Cup,,,1.005,EUR,1\n", "line 2, column price", "3 digits after the point"},
		{"price too exact for yen", header + "A-2,Cup,,,1.5,JPY,1\n", "line 2, column price", "its currency has 0"},
		{"price too large", header + "A-2,Cup,,,10000000000.01,EUR,1\n", "line 2, column price", "1000000000000"},
		{"price far too large", header + "A-2,Cup,,,99999999999999999999,EUR,1\n", "line 2, column price", "too large"},
		{"no currency", header + "A-2,Cup,,,1.00,,1\n", "line 2, column currency", "no currency"},
		{"test currency", header + "A-2,Cup,,,1.00,XXX,1\n", "line 2, column currency", "no currency"},
		{"currency in small letters", header + "A-2,Cup,,,1.00,eur,1\n", "line 2, column currency", "no currency"},
		{"unknown currency", header + "A-2,Cup,,,1.00,EUX,1\n", "line 2, column currency", "no currency"},
		{"stock not whole", header + "A-2,Cup,,,1.00,EUR,1.5\n", "line 2, column stock", "whole number"},
		{"stock negative", header + "A-2,Cup,,,1.00,EUR,-1\n", "line 2, column stock", "0"},
		{"stock too large", header + "A-2,Cup,,,1.00,EUR,1000000001\n", "line 2, column stock", "1000000000"},
		{"stock beyond 64 bits", header + "A-2,Cup,,,1.00,EUR,9223372036854775808\n", "line 2, column stock", "whole number"},
		{"the line after a field of several lines", header + "A-2,Cup,\"a\nb\nc\",,1.00,EUR,1\nA-3,,,,1.00,EUR,1\n", "line 5, column name", "at least 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := csvimport.Parse(strings.NewReader(c.file))
			if got != nil {
				t.Errorf("gave %d products of a bad file", len(got))
			}
			for _, f := range refused(t, err) {
				if strings.HasPrefix(f.Path, c.path) && strings.Contains(f.Problem, c.problem) {
					if !strings.Contains(err.Error(), f.Path) || !strings.Contains(err.Error(), f.Problem) {
						t.Errorf("the text %q does not have the problem", err)
					}
					return
				}
			}
			t.Errorf("got %v, want %q at %q", err, c.problem, c.path)
		})
	}
}

func refused(t *testing.T, err error) []errs.Field {
	t.Helper()
	if err == nil {
		t.Fatal("a bad file was taken")
	}
	if errs.ReasonOf(err) != "INVALID_CSV" || errs.KindOf(err) != errs.Invalid {
		t.Fatalf("got %v of kind %s", err, errs.KindOf(err))
	}
	var e *errs.Error
	if !errors.As(err, &e) {
		t.Fatalf("got a %T", err)
	}
	return e.Fields
}

func TestAllProblemsAreReportedUpToALimit(t *testing.T) {
	_, err := csvimport.Parse(strings.NewReader(header + ",,,,x,EUR,y\nA-2,Cup,,,1.00,EUR,-1\n"))
	if f := refused(t, err); len(f) != 3 {
		t.Errorf("got %d problems: %v", len(f), err)
	}
	_, err = csvimport.Parse(strings.NewReader(header + strings.Repeat("A-2,Cup,,,x,EUR,1\n", 100)))
	if f := refused(t, err); len(f) != 20 || !strings.Contains(err.Error(), "and more") {
		t.Errorf("got %d problems: %v", len(f), err)
	}
}

func TestFilesHaveLimits(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(header)
	for i := range csvimport.MaxRows + 1 {
		b.WriteString("S" + strconv.Itoa(i) + ",Cup,,,1.00,EUR,1\n")
	}
	_, err := csvimport.Parse(&b)
	if f := refused(t, err); f[0].Path != "line "+strconv.Itoa(csvimport.MaxRows+2) || !strings.Contains(f[0].Problem, "20000") {
		t.Errorf("got %v", err)
	}
	_, err = csvimport.Parse(bytes.NewReader(make([]byte, csvimport.MaxBytes+1)))
	if f := refused(t, err); !strings.Contains(f[0].Problem, "32 MiB") {
		t.Errorf("got %v", err)
	}
}

func TestTheListThatIsShippedIsGood(t *testing.T) {
	f, err := os.Open("../../../test/data/products.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	products, err := csvimport.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(products); n < 500 || n > 600 {
		t.Errorf("it has %d products", n)
	}
}

func TestPricesAreExact(t *testing.T) {
	for _, c := range []struct {
		text  string
		scale int
		want  int64
	}{
		{"0", 2, 0}, {"0.01", 2, 1}, {"12.5", 2, 1250}, {"12.50", 2, 1250}, {"007", 2, 700},
		{"1.005", 3, 1005}, {"500", 0, 500}, {"9999999999999.99", 2, 999999999999999}, {"0.1", 2, 10}, {"4.35", 2, 435},
	} {
		if got, err := csvimport.ParsePrice(c.text, c.scale); err != nil || got != c.want {
			t.Errorf("%q with %d digits: got %d, %v, want %d", c.text, c.scale, got, err, c.want)
		}
	}
	for _, bad := range []string{"", ".", "1.", ".5", "1.2.3", "+1", "-0", "1 000", "1_000", "0x10", "NaN", "Inf", "1.001", "１", "٣"} {
		if got, err := csvimport.ParsePrice(bad, 2); err == nil {
			t.Errorf("%q was taken for %d", bad, got)
		}
	}
}

func FuzzParsePrice(f *testing.F) {
	for _, s := range []string{"12.50", "0.01", "1e3", "-1", "9999999999999.99", "1,5"} {
		f.Add(s, 2)
	}
	f.Fuzz(func(t *testing.T, s string, scale int) {
		scale = int(uint(scale) % 5)
		n, err := csvimport.ParsePrice(s, scale)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("%q gave %d", s, n)
		}
		// Written out again and read again, it is the same amount.
		text := strconv.FormatInt(n, 10)
		if scale > 0 {
			text = strings.Repeat("0", max(0, scale+1-len(text))) + text
			text = text[:len(text)-scale] + "." + text[len(text)-scale:]
		}
		if again, err := csvimport.ParsePrice(text, scale); err != nil || again != n {
			t.Fatalf("%q gave %d, but %q gives %d, %v", s, n, text, again, err)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(header + "A-1,\"Board, oak\",,kitchen,12.50,EUR,7\n"))
	f.Add([]byte("\xef\xbb\xbfsku,name,price,currency\nA,B,1,JPY\n"))
	f.Add([]byte("sku;name\n\"x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		products, err := csvimport.Parse(bytes.NewReader(data))
		if err != nil {
			if products != nil || errs.KindOf(err) != errs.Invalid {
				t.Fatalf("%d products and %v", len(products), err)
			}
			return
		}
		seen := map[string]bool{}
		for _, p := range products {
			if seen[p.GetSku()] {
				t.Fatalf("%q twice", p.GetSku())
			}
			seen[p.GetSku()] = true
			if p.GetLineNumber() < 2 || p.GetPrice().GetMinorUnits() < 0 || p.GetInitialStock() < 0 || p.GetName() == "" {
				t.Fatalf("took %v", p)
			}
		}
	})
}
