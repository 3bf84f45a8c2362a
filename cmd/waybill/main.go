// Command waybill runs Waybill and speaks to it.
package main

import (
	"context"
	"os"

	"github.com/waybill-dev/waybill/cmd/waybill/internal/cli"
)

func main() { os.Exit(cli.Main(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
