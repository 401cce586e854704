// Command protogen turns the project's .proto files into Go.
//
// It is run by go generate from the rooms that own .proto files. What never belongs here:
// a choice about the API.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"google.golang.org/protobuf/proto"

	"github.com/keytree-bch/keytree/scripts/tools/internal/protoc"
)

// plugins run in this order, each with the parameters that it understands.
var plugins = []struct{ name, parameter string }{
	{"protoc-gen-go", "paths=source_relative"},
	{"protoc-gen-go-grpc", "paths=source_relative"},
	{"protoc-gen-grpc-gateway", "paths=source_relative"},
}

func main() {
	root := flag.String("root", "", "folder that import paths start from, and into which code is generated")
	flag.Parse()
	if *root == "" || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: protogen -root FOLDER FILE.proto...   (files relative to the folder)")
		os.Exit(2)
	}
	if err := generate(context.Background(), *root, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func generate(ctx context.Context, root string, files []string) error {
	request, err := protoc.Compile(ctx, root, files)
	if err != nil {
		return err
	}
	for _, p := range plugins {
		request.Parameter = proto.String(p.parameter)
		made, err := protoc.Run(ctx, p.name, request)
		if err != nil {
			return err
		}
		for _, file := range made {
			path := filepath.Join(root, filepath.FromSlash(file.GetName()))
			if err := os.WriteFile(path, []byte(file.GetContent()), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
