package waybill_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/waybill-dev/waybill"

// A wall is a rule on what a package may import, with the reason that the test
// prints when somebody runs into it.
type wall struct {
	name    string
	applies func(pkg string) bool
	allows  func(pkg, imported string) bool
	reason  string
}

var walls = []wall{
	{
		name:    "no service imports another",
		applies: func(p string) bool { return service(p) != "" },
		allows:  func(p, i string) bool { return service(i) == "" || service(i) == service(p) },
		reason:  "services speak over gRPC and events, or they cannot be split; what both need belongs in platform/ or proto/",
	},
	{
		name:    "the platform knows nothing of the services",
		applies: under("platform"),
		allows:  func(_, i string) bool { return !ours(i) || under("platform")(i) || under("proto")(i) },
		reason:  "platform/ must serve a stranger's project unchanged",
	},
	{
		name:    "a domain imports the contract and errs only",
		applies: func(p string) bool { return service(p) != "" && p == module+"/services/"+service(p) },
		allows: func(_, i string) bool {
			return !ours(i) || under("proto")(i) || i == module+"/platform/errs" || i == module+"/platform/cardscan"
		},
		reason: "the first package of a service is the business; databases, buses and transports are its rooms under internal/",
	},
	{
		name:    "services are put together from above only",
		applies: func(p string) bool { return under("services")(p) || under("platform")(p) },
		allows:  func(_, i string) bool { return !under("cmd")(i) && !under("internal")(i) && !under("test")(i) },
		reason:  "imports go cmd -> services -> platform",
	},
}

func TestImportsStayWithinTheWalls(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, p := range packages(t) {
		for _, w := range walls {
			if !w.applies(p.ImportPath) {
				continue
			}
			seen[w.name] = true
			for _, i := range p.Imports {
				if !w.allows(p.ImportPath, i) {
					t.Errorf("%s imports %s: %s (%s)", short(p.ImportPath), short(i), w.name, w.reason)
				}
			}
		}
	}
	for _, w := range walls {
		if !seen[w.name] {
			t.Errorf("no package falls under %q: the wall guards nothing", w.name)
		}
	}
}

func TestWallsRefuseWhatTheyShould(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pkg, imported string
		want          bool
	}{
		{"services/order/internal/saga", "services/order", true},
		{"services/order/internal/saga", "services/payment", false},
		{"services/order", "platform/errs", true},
		{"services/order", "platform/sqldb", false},
		{"services/order", "proto/gen/go/waybill/order/v1", true},
		{"platform/react", "platform/sqldb", true},
		{"platform/react", "services/order", false},
		{"platform/react", "internal/node", false},
		{"services/order/orderd", "cmd/waybill", false},
		{"cmd/waybill", "services/order/orderd", true},
	} {
		allowed := true
		for _, w := range walls {
			if p := module + "/" + c.pkg; w.applies(p) && !w.allows(p, module+"/"+c.imported) {
				allowed = false
			}
		}
		if allowed != c.want {
			t.Errorf("%s -> %s: allowed = %v, want %v", c.pkg, c.imported, allowed, c.want)
		}
	}
}

// TestNineOfTenExportedNamesAreDocumented counts in the code as it is read: the
// generated contract is left out, and so are tests.
func TestNineOfTenExportedNamesAreDocumented(t *testing.T) {
	t.Parallel()
	total, documented := 0, 0
	var bare []string
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || path == "proto" || path == "tools" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for name, has := range exported(file) {
			total++
			if has {
				documented++
			} else {
				bare = append(bare, path+": "+name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d exported names documented", documented, total)
	if total == 0 || documented*10 < total*9 {
		t.Errorf("%d of %d exported names documented, want nine of ten; without: %s", documented, total, strings.Join(bare, ", "))
	}
}

// exported yields the exported declarations of a file and whether each has words.
func exported(file *ast.File) func(yield func(string, bool) bool) {
	return func(yield func(string, bool) bool) {
		for _, decl := range file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Name.IsExported() && exportedReceiver(d) && !yield(d.Name.Name, d.Doc != nil) {
					return
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					switch s := spec.(type) {
					case *ast.TypeSpec:
						if s.Name.IsExported() && !yield(s.Name.Name, s.Doc != nil || d.Doc != nil) {
							return
						}
					case *ast.ValueSpec:
						for _, n := range s.Names {
							if n.IsExported() && !yield(n.Name, s.Doc != nil || s.Comment != nil || d.Doc != nil) {
								return
							}
						}
					}
				}
			}
		}
	}
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return true
	}
	expr := d.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.IsExported()
		default:
			return false
		}
	}
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func under(folder string) func(string) bool {
	prefix := module + "/" + folder
	return func(p string) bool { return p == prefix || strings.HasPrefix(p, prefix+"/") }
}

func ours(p string) bool { return p == module || strings.HasPrefix(p, module+"/") }

// service names the service a package belongs to, or "".
func service(p string) string {
	rest, ok := strings.CutPrefix(p, module+"/services/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

func short(p string) string { return strings.TrimPrefix(p, module+"/") }
