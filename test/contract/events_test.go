package contract_test

import (
	"os"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// TestEveryEventIsInTheCatalogue keeps docs/events.md complete.
func TestEveryEventIsInTheCatalogue(t *testing.T) {
	doc, err := os.ReadFile("../../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{} // all table lines of a publisher
	for line := range strings.Lines(string(doc)) {
		if cell, ok := strings.CutPrefix(line, "| "); ok {
			publisher, rest, _ := strings.Cut(cell, ": ")
			lines[publisher] += rest
		}
	}
	found := 0
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(f.Path(), "waybill/") || !strings.HasSuffix(f.Path(), "_events.proto") {
			return true
		}
		publisher := strings.Split(f.Path(), "/")[1]
		for i := range f.Messages().Len() {
			found++
			if name := string(f.Messages().Get(i).Name()); !strings.Contains(lines[publisher], name) {
				t.Errorf("%s of %s is not in docs/events.md", name, publisher)
			}
		}
		return true
	})
	if found < 30 {
		t.Errorf("only %d events were looked at", found)
	}
}
