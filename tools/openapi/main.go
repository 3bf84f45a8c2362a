// Command openapi finishes the OpenAPI document of the REST interface.
//
// The generator knows paths and messages. What the annotations of the contract say beyond that is added here: who may call, which rules a field obeys, which calls take an
// Idempotency-Key, which streams can be read as server-sent events, and where a body is taken as it is. Fields get the names they have in the contract (order_id), which is how the gateway
// writes them and how errors, filters and field masks name them.
//
//	openapi <descriptors from `buf build`> <document from openapiv3-merge> <result>
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: openapi <descriptors> <document> <result>")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "openapi:", err)
		os.Exit(1)
	}
}

func run(descriptors, document, result string) error {
	files, err := readDescriptors(descriptors)
	if err != nil {
		return err
	}
	raw, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	var doc object
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if err := decoder.Decode(&doc); err != nil {
		return fmt.Errorf("%s: %w", document, err)
	}
	if err := finish(doc, files); err != nil {
		return err
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(doc); err != nil {
		return err
	}
	return os.WriteFile(result, out.Bytes(), 0o644)
}

// readDescriptors reads the contract with all its options, those of this project included, without needing the code generated from it.
func readDescriptors(path string) (*protoregistry.Files, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	// The options are declared in the very files that use them: read once to learn them, and again to understand them.
	var types proto.UnmarshalOptions
	for {
		var set descriptorpb.FileDescriptorSet
		if err := types.Unmarshal(raw, &set); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		files, err := protodesc.NewFiles(&set)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if types.Resolver != nil {
			return files, nil
		}
		types.Resolver = dynamicpb.NewTypes(files)
	}
}

// option follows a path of field and extension names into the options of a descriptor; it reports whether something is set there.
func option(m protoreflect.Message, path ...protoreflect.FullName) (protoreflect.Value, bool) {
	for i, name := range path {
		var found protoreflect.FieldDescriptor
		m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if fd.FullName() == name || !fd.IsExtension() && protoreflect.FullName(fd.Name()) == name {
				found = fd
			}
			return found == nil
		})
		if found == nil {
			return protoreflect.Value{}, false
		}
		if i == len(path)-1 {
			return m.Get(found), true
		}
		m = m.Get(found).Message()
	}
	return protoreflect.Value{}, false
}
