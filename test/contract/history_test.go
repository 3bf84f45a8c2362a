package contract_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"buf.build/go/protovalidate"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/waybill-dev/waybill/platform/outbox"
)

// A release left three files in history/<version>: contract.binpb.gz, its contract as
// buf compiles it; events.jsonl, the messages of a play of all scenes; orders.json, how
// the orders ended in it. `make history VERSION=…` makes them; none is ever changed
// once it is released.

var record = flag.String("record", "", "folder of a release in which to write the events of a play")

// releases gives the folders of all recorded releases, the newest last.
func releases(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("history/v*")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("there is no history (%v)", err)
	}
	slices.SortFunc(dirs, func(a, b string) int { return slices.Compare(version(t, a), version(t, b)) })
	return dirs
}

func version(t *testing.T, dir string) []int {
	t.Helper()
	v := make([]int, 3)
	if _, err := fmt.Sscanf(filepath.Base(dir), "v%d.%d.%d", &v[0], &v[1], &v[2]); err != nil {
		t.Fatalf("%s is no version: %v", dir, err)
	}
	return v
}

func recorded(t *testing.T, dir string) (events []message, ends []outcome) {
	t.Helper()
	file, err := os.Open(filepath.Join(dir, "events.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatalf("line %d of %s: %v", len(events)+1, file.Name(), err)
		}
		events = append(events, m)
	}
	data, err := os.ReadFile(filepath.Join(dir, "orders.json"))
	if err == nil {
		err = json.Unmarshal(data, &ends)
	}
	if err != nil || lines.Err() != nil {
		t.Fatal(err, lines.Err())
	}
	return events, ends
}

// contract reads the contract of a release.
func contract(t *testing.T, dir string) *protoregistry.Files {
	t.Helper()
	file, err := os.Open(filepath.Join(dir, "contract.binpb.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(plain)
	if err != nil {
		t.Fatal(err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestEventsOfEveryReleaseAreUnderstood(t *testing.T) {
	for _, dir := range releases(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			files := contract(t, dir)
			events, _ := recorded(t, dir)
			seen := map[string]bool{}
			for _, m := range events {
				typ := m.Headers[outbox.HeaderType]
				seen[typ] = true
				understood(t, files, m)
			}
			for _, typ := range eventsOf(files) {
				if !seen[typ] {
					t.Errorf("no %s was recorded: scenes_test.go needs a scene in which it is said", typ)
				}
			}
		})
	}
}

// understood tells whether a message means to the current code what it meant to that of its release.
func understood(t *testing.T, files *protoregistry.Files, m message) {
	t.Helper()
	typ := protoreflect.FullName(m.Headers[outbox.HeaderType])
	if want := outbox.Subject(string(typ), m.Headers[outbox.HeaderSubject]); m.Subject != want {
		t.Errorf("%s came on %s, and is heard on %s", typ, m.Subject, want)
	}
	if want := outbox.Stream(outbox.Producer(string(typ))); m.Stream != want {
		t.Errorf("%s came from stream %s, and is heard from %s", typ, m.Stream, want)
	}
	current, err := protoregistry.GlobalTypes.FindMessageByName(typ)
	if err != nil {
		t.Errorf("%s is not in the contract any more", typ)
		return
	}
	now := current.New().Interface()
	if err := proto.Unmarshal(m.Data, now); err != nil {
		t.Errorf("%s cannot be read: %v", typ, err)
		return
	}
	if path := unknown(now.ProtoReflect()); path != "" {
		t.Errorf("%s has a field that is not in the contract any more, in %s", typ, path)
	}
	if err := protovalidate.Validate(now); err != nil {
		t.Errorf("%s is not valid any more: %v", typ, err)
	}
	again, err := proto.Marshal(now)
	if err != nil {
		t.Error(err)
		return
	}
	old, err := files.FindDescriptorByName(typ)
	if err != nil {
		t.Errorf("%s is not in the contract of its release", typ)
		return
	}
	before, after := dynamicpb.NewMessage(old.(protoreflect.MessageDescriptor)), dynamicpb.NewMessage(old.(protoreflect.MessageDescriptor))
	if err := proto.Unmarshal(m.Data, before); err != nil {
		t.Error(err)
	}
	if err := proto.Unmarshal(again, after); err != nil || !proto.Equal(before, after) {
		t.Errorf("%s was\n%v\nand is now\n%v (%v)", typ, before, after, err)
	}
}

// unknown gives the first message in m with fields that nobody knows.
func unknown(m protoreflect.Message) (path string) {
	if len(m.GetUnknown()) > 0 {
		return string(m.Descriptor().FullName())
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil || f.IsMap():
		case f.IsList():
			for i := range v.List().Len() {
				if path == "" {
					path = unknown(v.List().Get(i).Message())
				}
			}
		default:
			path = unknown(v.Message())
		}
		return path == ""
	})
	return path
}

// eventsOf lists the events of a contract.
func eventsOf(files *protoregistry.Files) (types []string) {
	files.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(f.Path(), "waybill/") && strings.HasSuffix(f.Path(), "_events.proto") {
			for i := range f.Messages().Len() {
				types = append(types, string(f.Messages().Get(i).FullName()))
			}
		}
		return true
	})
	slices.Sort(types)
	return types
}

// TestEventsOfEveryReleaseAreHandled plays the scenes with the events as they were
// recorded: nothing becomes a dead letter, nobody raises an alarm, and the orders end
// as they ended then.
func TestEventsOfEveryReleaseAreHandled(t *testing.T) {
	for _, dir := range releases(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			events, ends := recorded(t, dir)
			s := newStage(t, events)
			got := s.perform()
			s.end(events)
			if len(s.used) == 0 {
				t.Error("nothing that was recorded was used")
			}
			byScene := map[string]outcome{}
			for _, o := range got {
				byScene[o.Scene] = o
			}
			for _, want := range ends {
				if diff := cmp.Diff(want, byScene[want.Scene]); diff != "" {
					t.Errorf("the order %q ended otherwise (-then +now):\n%s", want.Scene, diff)
				}
			}
			t.Logf("%d orders, %d of %d recorded events travelled as they were", len(ends), len(s.used), len(events))
		})
	}
}

// TestRecordHistory writes the events of a play, for `make history`.
func TestRecordHistory(t *testing.T) {
	if *record == "" {
		t.Skip("only make history records")
	}
	s := newStage(t, nil)
	ends := s.perform()
	s.end(nil)
	var events bytes.Buffer
	for _, m := range s.said {
		line, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		events.Write(append(line, '\n'))
	}
	orders, err := json.MarshalIndent(ends, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if t.Failed() {
		return
	}
	for name, data := range map[string][]byte{"events.jsonl": events.Bytes(), "orders.json": append(orders, '\n')} {
		if err := os.WriteFile(filepath.Join(*record, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAContractThatBreaksAReleaseIsRefused changes copies of the contract as nobody may.
func TestAContractThatBreaksAReleaseIsRefused(t *testing.T) {
	buf, err := filepath.Abs("../../.tmp/bin/buf")
	if err == nil {
		_, err = os.Stat(buf)
	}
	if err == nil {
		_, err = os.Stat("../../.tmp/protodeps")
	}
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("make breaking has not been run: %v", err)
		}
		t.Skip("make breaking builds what this test needs")
	}
	dirs := releases(t)
	image, err := filepath.Abs(filepath.Join(dirs[len(dirs)-1], "contract.binpb.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, file, was, is, says string }{
		{"nothing changed", "order/v1/order_events.proto", "string order_id = 1", "string order_id = 1", ""},
		{"a field was added", "order/v1/order_events.proto", "message OrderTimedOut {", "message OrderTimedOut {\n  string more = 99;", ""},
		{"another type", "order/v1/order_events.proto", "string order_id = 1", "int64 order_id = 1", "changed type"},
		{"a number used again", "order/v1/order_events.proto", "string order_id = 1", "string customer_id = 1", "changed name"},
		{"a field removed", "inventory/v1/inventory_events.proto", "string order_id = 1", "string order_id = 77", "was deleted"},
		{"an event renamed", "order/v1/order_events.proto", "message OrderTimedOut {", "message OrderLate {", "was deleted"},
		{"a value of an enum removed", "order/v1/order.proto", "ORDER_STATUS_CANCELLED = 13", "ORDER_STATUS_CANCELLED = 14", "was deleted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, from := range []string{"buf.yaml", "proto/waybill", ".tmp/protodeps"} {
				to := filepath.Join(dir, from)
				if from == "buf.yaml" {
					data, err := os.ReadFile("../../buf.yaml")
					if err != nil {
						t.Fatal(err)
					}
					if err := os.WriteFile(to, data, 0o600); err != nil {
						t.Fatal(err)
					}
				} else if err := os.CopyFS(to, os.DirFS(filepath.Join("../..", from))); err != nil {
					t.Fatal(err)
				}
			}
			path := filepath.Join(dir, "proto/waybill", c.file)
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Contains(data, []byte(c.was)) {
				t.Fatalf("%s does not say %q", c.file, c.was)
			}
			if err := os.WriteFile(path, bytes.ReplaceAll(data, []byte(c.was), []byte(c.is)), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), buf, "breaking", "proto", "--exclude-imports", "--against", image)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if refused := err != nil; refused != (c.says != "") || !strings.Contains(string(out), c.says) {
				t.Errorf("buf breaking gives %v and says\n%s", err, out)
			}
		})
	}
}
