// Package cli is the command line of Waybill: serving, demonstrating, measuring,
// and the commands of those who place orders from a terminal.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/waybill-dev/waybill/internal/node"
	"github.com/waybill-dev/waybill/platform/app"
	"github.com/waybill-dev/waybill/platform/errs"
	"github.com/waybill-dev/waybill/platform/rpc"
)

// Main runs the command that args name and gives the exit code: 0 when it did
// what was asked, 1 when not, 2 when the command line cannot be meant.
func Main(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := app.Signals(ctx)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(errOut, "%s: %s\n", cmd.CommandPath(), explain(err))
	var usage *usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(errOut, "See '%s --help'.\n", cmd.CommandPath())
		return 2
	}
	return 1
}

// usageError is an error of the command line itself.
type usageError struct{ err error }

// Error gives the text of the error.
func (e *usageError) Error() string { return e.err.Error() }

// Unwrap gives the error.
func (e *usageError) Unwrap() error { return e.err }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "waybill",
		Short: "Orders that end well or are undone, from one process to many",
		Long: `Waybill processes orders: stock is held, money is taken, parcels are sent, and
whatever fails is undone. All of it runs in one process, or in any split.

    waybill demo      watch a few hundred orders from REST to delivered
    waybill serve     run it`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddGroup(&cobra.Group{ID: "run", Title: "Run:"}, &cobra.Group{ID: "use", Title: "Use a running Waybill:"})
	for _, c := range []*cobra.Command{newServe(), newDemo(), newLoad(), newMigrate(), newCerts(), newCheck(), newProjection(), newSim()} {
		c.GroupID = "run"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{newLogin(), newProduct(), newOrder(), newDLQ(), newSaga(), newHealth()} {
		c.GroupID = "use"
		root.AddCommand(c)
	}
	root.AddCommand(newTopology(), newVersion())
	return root
}

func newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", Short: "Say which version this is", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if asJSON {
				return printAny(cmd.OutOrStdout(), map[string]string{"version": node.Version(), "go": runtime.Version()})
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "waybill", node.Version())
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return &usageError{err}
	}
	return nil
}

// exactArgs asks for the named arguments, no more and no less.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		return &usageError{fmt.Errorf("want %d argument(s) %v, got %d", len(names), names, len(args))}
	}
}

// explain gives the text of an error for people: the fields at fault, and what
// may be done.
func explain(err error) string {
	if _, ok := status.FromError(err); ok {
		err = rpc.FromStatus(err)
	}
	var e *errs.Error
	if !errors.As(err, &e) {
		return err.Error()
	}
	text := err.Error()
	for _, f := range e.Fields {
		if line := f.Path + ": " + f.Problem; !strings.Contains(text, line) {
			text += "\n  " + line
		}
	}
	if e.Reason != "" {
		text += "\n  reason: " + e.Reason
	}
	return text
}

// isTerminal reports whether w is a terminal, where progress may be shown.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// printJSON prints one message as indented JSON.
func printJSON(w io.Writer, m proto.Message) error {
	data, err := protojson.MarshalOptions{UseProtoNames: true, Multiline: true, EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, string(data))
	return err
}

// printAny prints a value as indented JSON.
func printAny(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false) // nobody puts this into a page
	return enc.Encode(v)
}
