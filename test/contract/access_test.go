package contract_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/waybill-dev/waybill/platform/auth"
	"github.com/waybill-dev/waybill/platform/rpc"
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1" // its methods are in the table
)

var update = flag.Bool("update", false, "write testdata/access.txt anew")

// callers are all kinds of those who may call a method.
var callers = []struct {
	name string
	auth.Caller
}{
	{"anybody", auth.Caller{}},
	{"customer", auth.Caller{UserID: "u", Role: auth.Customer}},
	{"staff", auth.Caller{UserID: "u", Role: auth.Staff}},
	{"admin", auth.Caller{UserID: "u", Role: auth.Admin}},
	{"auth", auth.Caller{Role: auth.Service, Service: "auth"}},
	{"user", auth.Caller{Role: auth.Service, Service: "user"}},
	{"inventory", auth.Caller{Role: auth.Service, Service: "inventory"}},
	{"payment", auth.Caller{Role: auth.Service, Service: "payment"}},
	{"shipping", auth.Caller{Role: auth.Service, Service: "shipping"}},
	{"order", auth.Caller{Role: auth.Service, Service: "order"}},
	{"gateway", auth.Caller{Role: auth.Service, Service: "gateway"}},
}

// TestWhoMayCallWhat holds the whole of it, as a server decides it, against one
// table, so that a change of the contract is seen as what it lets in. People stand
// for themselves and for the gateway that brings their calls; services for their
// own calls. What the table leaves out is refused by rule: a service that may not
// call a method may not do so with anybody's token either.
func TestWhoMayCallWhat(t *testing.T) {
	t.Parallel()
	var rows []string
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(f.Package()), "waybill.") {
			return true
		}
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				md := s.Methods().Get(j)
				row := fmt.Sprintf("%-42s", s.Name()+"."+md.Name())
				for _, c := range callers {
					may := "-"
					if rpc.MayCall(md, c.Caller) == nil {
						may = c.name
					}
					row += fmt.Sprintf(" %-*s", len(c.name), may)
					if c.Service == "" || c.Service == rpc.Gateway {
						continue
					}
					for _, role := range []auth.Role{auth.Customer, auth.Staff, auth.Admin} {
						person := auth.Caller{UserID: "u", Role: role}
						through := auth.Caller{UserID: "u", Role: role, Service: c.Service}
						wanted := may != "-" && rpc.MayCall(md, person) == nil
						if got := rpc.MayCall(md, through) == nil; got != wanted {
							t.Errorf("%s with the token of %s at %s: %v, want %v", c.Service, role, md.FullName(), got, wanted)
						}
					}
				}
				rows = append(rows, strings.TrimRight(row, " "))
			}
		}
		return true
	})
	slices.SortFunc(rows, func(a, b string) int { return cmp.Compare(a, b) })
	got := strings.Join(rows, "\n") + "\n"
	if *update {
		if err := os.WriteFile("testdata/access.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/access.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("who may call what has changed; if that is meant, run go test ./test/contract -update and have it reviewed. Now:\n%s", got)
	}
}
