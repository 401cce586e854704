// Command openapigen makes the OpenAPI document of REST from the project's .proto files and
// from a file with what those cannot say: paths that no call of theirs has, how errors look,
// and which call has which.
//
// It is run by go generate from the room that serves the document. gnostic's
// protoc-gen-openapi does most; what it cannot know of how REST writes messages is added
// here (package rest of the project). What never belongs here: a choice about the API.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"google.golang.org/protobuf/proto"
	"gopkg.in/yaml.v3"

	"github.com/keytree-bch/keytree/scripts/tools/internal/protoc"
)

// parameters are those of protoc-gen-openapi: names as in the .proto files, as REST has them.
const parameters = "naming=proto,fq_schema_naming=false,default_response=false"

func main() {
	root := flag.String("root", "", "folder that import paths start from")
	base := flag.String("base", "", "YAML file with what the .proto files do not say")
	out := flag.String("out", "", "JSON file to write")
	flag.Parse()
	if *root == "" || *base == "" || *out == "" || flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: openapigen -root FOLDER -base FILE.yaml -out FILE.json FILE.proto...   (.proto files relative to the folder)")
		os.Exit(2)
	}
	if err := generate(context.Background(), *root, *base, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "openapigen:", err)
		os.Exit(1)
	}
}

func generate(ctx context.Context, root, base, out string, files []string) error {
	request, err := protoc.Compile(ctx, root, files)
	if err != nil {
		return err
	}
	request.Parameter = proto.String(parameters)
	made, err := protoc.Run(ctx, "protoc-gen-openapi", request)
	if err != nil {
		return err
	}
	if len(made) != 1 {
		return fmt.Errorf("protoc-gen-openapi made %d files, expected one", len(made))
	}
	generated, err := parse([]byte(made[0].GetContent()))
	if err != nil {
		return err
	}
	text, err := os.ReadFile(base)
	if err != nil {
		return err
	}
	d := document{request: request}
	if d.node, err = parse(text); err != nil {
		return fmt.Errorf("%s: %w", base, err)
	}
	extra := take(d.node, "x-openapigen")
	if extra == nil {
		return fmt.Errorf("%s: expected x-openapigen, which says how to complete the calls", base)
	}
	if err := extra.Decode(&d.rules); err != nil {
		return fmt.Errorf("%s: x-openapigen: %w", base, err)
	}
	if err := d.add(generated); err != nil {
		return err
	}
	json, err := appendJSON(nil, d.node, "")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(json, '\n'), 0o644)
}

func parse(text []byte) (*yaml.Node, error) {
	var node yaml.Node
	if err := yaml.Unmarshal(text, &node); err != nil {
		return nil, err
	}
	return node.Content[0], nil
}
