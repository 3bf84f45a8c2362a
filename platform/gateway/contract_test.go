package gateway

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/waybill-dev/waybill/platform/gateway/docspage"
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/auth/v1"     // the whole contract
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/ops/v1"      // the whole contract
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/shipping/v1" // the whole contract
	_ "github.com/waybill-dev/waybill/proto/gen/go/waybill/user/v1"     // the whole contract
	"github.com/waybill-dev/waybill/proto/gen/openapi"
)

func TestTheGatewayServesWhatTheDocumentPromisesAndNothingElse(t *testing.T) {
	conn := (&stub{}).inProcess(t)
	var all []Service
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			if s := f.Services().Get(i); strings.HasPrefix(string(s.FullName()), "waybill.") {
				all = append(all, Service{string(s.FullName()), conn})
			}
		}
		return true
	})
	g, err := New(Config{Services: all, OpenAPI: openapi.Document, Docs: openapi.Page}, nil)
	if err != nil {
		t.Fatal(err)
	}
	d, err := docspage.Parse(openapi.Document)
	if err != nil {
		t.Fatal(err)
	}
	promised := map[string]bool{}
	for path, methods := range d.Paths {
		for m := range methods {
			promised[strings.ToUpper(m)+" "+path] = true
		}
	}
	routes, err := findRoutes(all)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		name := fmt.Sprintf("%s %s", r.httpMethod, r.path)
		if !promised[name] {
			t.Errorf("%s is not in the document", name)
		}
		delete(promised, name)
		found, values := g.paths.find(pathVariable.ReplaceAllString(r.path, orderID), nil)
		if len(found) == 0 || len(values) != len(r.pathFields) || found[0].path != r.path {
			t.Errorf("%s leads to %v", name, found)
		}
		if r.streaming && (r.resume == nil || r.resumeToken == nil) {
			t.Errorf("%s is a stream that cannot be resumed", name)
		}
	}
	for name := range promised {
		t.Errorf("%s is in the document, but not served", name)
	}
	t.Logf("%d paths of %d services", len(routes), len(all))
}
