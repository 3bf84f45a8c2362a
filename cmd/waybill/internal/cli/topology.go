package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/waybill-dev/waybill/internal/topology"
)

func newTopology() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "topology",
		Short: "Show who calls whom and who hears what",
		Long: `Show which services there are, whom each calls, whose events it hears and whether
it has a database. With --json also the subjects that a user of the broker must be
allowed for each service, without the inbox _INBOX.<user>.>, which it has to be
allowed to subscribe to.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return printAny(cmd.OutOrStdout(), topology.Describe())
			}
			return printTopology(cmd)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the permissions on the broker")
	return cmd
}

func printTopology(cmd *cobra.Command) error {
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tCALLS\tHEARS\tDATABASE")
	for _, s := range topology.Services() {
		database := "-"
		if s.Database {
			database = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Name, list(s.Calls), list(slices.Sorted(maps.Keys(s.Hears))), database)
	}
	return w.Flush()
}

// list writes names in a cell of a table.
func list(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ",")
}
