package topology_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/waybill-dev/waybill/internal/topology"
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/inventory/v1"
	optionsv1 "github.com/waybill-dev/waybill/proto/gen/go/waybill/options/v1"
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/order/v1"
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/payment/v1"
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1"
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"
)

const root = "../.."

func TestTheChartHasThisTopology(t *testing.T) {
	t.Parallel()
	got, err := os.ReadFile(filepath.Join(root, "charts/waybill/files/topology.json"))
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(topology.Describe()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(got)); diff != "" {
		t.Errorf("the chart's topology is stale, run make gen (-want +got):\n%s", diff)
	}
}

func TestEachServiceIsDeclaredOnce(t *testing.T) {
	t.Parallel()
	folders, err := os.ReadDir(filepath.Join(root, "services"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{topology.Gateway}
	for _, f := range folders {
		want = append(want, f.Name())
	}
	slices.Sort(want)
	got := topology.Names()
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("services in services/ and declared (-want +got):\n%s", diff)
	}
}

// TestACallIsDeclaredWhereItIsMade reads the code: a service gets its channels
// from Conn(from, to) and nowhere else.
func TestACallIsDeclaredWhereItIsMade(t *testing.T) {
	t.Parallel()
	dialled := map[string][]string{topology.Gateway: {}}
	for _, name := range topology.Names() {
		if name != topology.Gateway {
			dialled[topology.Gateway] = append(dialled[topology.Gateway], name)
		}
		if name != "auth" {
			dialled[name] = append(dialled[name], "auth") // internal/node asks for keys
		}
	}
	err := filepath.WalkDir(filepath.Join(root, "services"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			name, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := name.X.(*ast.Ident); ok && x.Name == "grpc" && (name.Sel.Name == "NewClient" || name.Sel.Name == "Dial") {
				t.Errorf("%s dials by itself; env.Conn is for that", path)
			}
			if name.Sel.Name != "Conn" || len(call.Args) != 2 {
				return true
			}
			from, to := literal(call.Args[0]), literal(call.Args[1])
			if from == "" || to == "" {
				t.Errorf("%s: Conn wants the names written out, so that they can be read", path)
				return true
			}
			dialled[from] = append(dialled[from], to)
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range topology.Services() {
		want := dialled[s.Name]
		slices.Sort(want)
		if diff := cmp.Diff(slices.Compact(want), s.Calls); diff != "" && len(want)+len(s.Calls) > 0 {
			t.Errorf("%s (-in the code +declared):\n%s", s.Name, diff)
		}
	}
}

func literal(e ast.Expr) string {
	if l, ok := e.(*ast.BasicLit); ok && l.Kind == token.STRING {
		s, _ := strconv.Unquote(l.Value)
		return s
	}
	return ""
}

// TestTheContractAllowsWhatIsDeclared holds the calls against the access option
// of the methods: each service that a method names calls there, and who calls is
// named by a method. The gateway brings people, whom the option names by role.
func TestTheContractAllowsWhatIsDeclared(t *testing.T) {
	t.Parallel()
	allowed := map[string]map[string]bool{} // callee to callers
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(f.Path(), "waybill/") {
			return true
		}
		to := strings.Split(f.Path(), "/")[1]
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				access, _ := proto.GetExtension(methods.Get(j).Options(), optionsv1.E_Access).(*optionsv1.Access)
				for _, from := range access.GetServices() {
					if allowed[to] == nil {
						allowed[to] = map[string]bool{}
					}
					allowed[to][from] = true
					if from != "*" && !topology.MayCall(from, to) {
						t.Errorf("%s is open to %s, which is not declared to call %s", methods.Get(j).FullName(), from, to)
					}
				}
			}
		}
		return true
	})
	for _, s := range topology.Services() {
		for _, to := range s.Calls {
			if s.Name != topology.Gateway && !allowed[to][s.Name] && !allowed[to]["*"] {
				t.Errorf("%s is declared to call %s, where no method is open to it", s.Name, to)
			}
		}
	}
}

// TestTheCatalogueOfEventsSaysTheSame holds what is declared against
// docs/events.md and the contract.
func TestTheCatalogueOfEventsSaysTheSame(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile(filepath.Join(root, "docs/events.md"))
	if err != nil {
		t.Fatal(err)
	}
	written := map[string]map[string][]string{} // by hearer, by publisher
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 {
			continue
		}
		publisher, events, ok := strings.Cut(strings.TrimSpace(cells[1]), ": ")
		if !ok || !slices.Contains(topology.Names(), publisher) {
			continue
		}
		for _, event := range strings.Split(events, ", ") {
			for _, hearer := range strings.Split(strings.TrimSpace(cells[3]), ", ") {
				if !slices.Contains(topology.Names(), hearer) {
					continue // whoever wants to know
				}
				if written[hearer] == nil {
					written[hearer] = map[string][]string{}
				}
				written[hearer][publisher] = append(written[hearer][publisher], event)
			}
		}
	}
	for _, s := range topology.Services() {
		for _, events := range written[s.Name] {
			slices.Sort(events)
		}
		if diff := cmp.Diff(written[s.Name], s.Hears); diff != "" {
			t.Errorf("%s hears (-docs/events.md +declared):\n%s", s.Name, diff)
		}
		for from, events := range s.Hears {
			for _, event := range events {
				name := protoreflect.FullName("waybill." + from + ".v1." + event)
				if _, err := protoregistry.GlobalFiles.FindDescriptorByName(name); err != nil {
					t.Errorf("%s hears %s: %v", s.Name, name, err)
				}
			}
		}
	}
}

// TestNobodyMayDoOnTheBrokerWhatIsAnothers looks at the permissions as an attacker
// would who has one service's user.
func TestNobodyMayDoOnTheBrokerWhatIsAnothers(t *testing.T) {
	t.Parallel()
	doc := topology.Describe()
	said := map[string]string{} // subject to who may publish it
	for _, name := range slices.Sorted(maps.Keys(doc.Services)) {
		e := doc.Services[name]
		if e.NATS == nil {
			continue
		}
		for _, s := range slices.Concat(e.NATS.Publish, e.NATS.Subscribe) {
			if strings.HasPrefix(s, "$SYS") || strings.HasPrefix(s, ">") || strings.Contains(s, "*") || strings.Contains(s, "DELETE") || strings.Contains(s, "PURGE") {
				t.Errorf("%s may use %s", name, s)
			}
		}
		for _, s := range e.NATS.Publish {
			if other, twice := said[s]; twice {
				t.Errorf("%s and %s may both publish %s", name, other, s)
			}
			said[s] = name
			if strings.HasPrefix(s, "$JS.API.STREAM.") && !strings.HasSuffix(s, ".WAYBILL_"+strings.ToUpper(name)) {
				t.Errorf("%s may do %s, with a stream that is not its own", name, s)
			}
			if rest, ok := strings.CutPrefix(s, "waybill."); ok && !strings.HasPrefix(rest, "notify.") && rest != name+".>" {
				t.Errorf("%s may publish %s", name, s)
			}
		}
	}
	if e := doc.Services[topology.Gateway]; e.NATS != nil || e.Database {
		t.Error("the gateway has a database or events")
	}
}
