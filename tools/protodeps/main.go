// Command protodeps writes the .proto files the contract imports from others into a directory.
//
// They are printed from the descriptors that the Go modules in go.mod carry, so that their versions are pinned where all other versions are, no copy of
// somebody else's file is kept here, and generation needs no network.
package main

import (
	"fmt"
	"os"

	_ "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"github.com/jhump/protoreflect/v2/protoprint"
	_ "google.golang.org/genproto/googleapis/api/annotations"
	_ "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// roots are the files the contract imports; what they import themselves comes with them, save google/protobuf, which every compiler brings along.
var roots = []string{"buf/validate/validate.proto", "google/api/annotations.proto", "google/rpc/status.proto"}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: protodeps <directory>")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "protodeps:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	seen := map[string]bool{}
	var files []protoreflect.FileDescriptor
	var add func(path string) error
	add = func(path string) error {
		if seen[path] || len(path) > 16 && path[:16] == "google/protobuf/" {
			return nil
		}
		seen[path] = true
		file, err := protoregistry.GlobalFiles.FindFileByPath(path)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		files = append(files, file)
		for i := range file.Imports().Len() {
			if err := add(file.Imports().Get(i).Path()); err != nil {
				return err
			}
		}
		return nil
	}
	for _, root := range roots {
		if err := add(root); err != nil {
			return err
		}
	}
	printer := &protoprint.Printer{Compact: true}
	return printer.PrintProtosToFileSystem(files, dir)
}
