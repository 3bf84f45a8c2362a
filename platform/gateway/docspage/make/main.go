// Command make writes the page of an OpenAPI document.
//
//	make <document> <page>
package main

import (
	"fmt"
	"os"

	"github.com/waybill-dev/waybill/platform/gateway/docspage"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: make <document> <page>")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "make:", err)
		os.Exit(1)
	}
}

func run(document, page string) error {
	openapi, err := os.ReadFile(document) //nolint:gosec // the one that was asked for
	if err != nil {
		return err
	}
	d, err := docspage.Parse(openapi)
	if err != nil {
		return err
	}
	html, err := d.HTML()
	if err != nil {
		return err
	}
	return os.WriteFile(page, html, 0o644) //nolint:gosec // a page for everybody
}
