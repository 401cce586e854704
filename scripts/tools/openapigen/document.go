package main

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
	"gopkg.in/yaml.v3"
)

// rules say how the calls of the .proto files are completed.
type rules struct {
	// Statuses are what a call answers beside 200, by the call's name; those of all calls
	// are under "*", of all GET and POST calls under "GET" and "POST", of all calls of a
	// service under its name.
	Statuses map[string][]string `yaml:"statuses"`
	// Responses are the names, in components, of what these statuses come with.
	Responses map[string]string `yaml:"responses"`
	// Parameters are what is said of parameters in paths and queries, by their names: for one
	// that a call's own comment describes, only what that comment leaves open.
	Parameters map[string]map[string]any `yaml:"parameters"`
	// Nullable are fields, as Message.field, that are null where there is nothing to tell.
	Nullable []string `yaml:"nullable"`
}

// document is the document that is made.
type document struct {
	node    *yaml.Node
	rules   rules
	request *pluginpb.CodeGeneratorRequest

	used map[string]bool // names of calls that rules have
}

// add adds what the plugin has made, completed.
func (d *document) add(generated *yaml.Node) error {
	d.used = make(map[string]bool)
	own, ownTags, ownSchemas := get(d.node, "paths"), get(d.node, "tags"), get(get(d.node, "components"), "schemas")
	trim(generated)
	answered := reached(generated)
	for path, item := range members(get(generated, "paths")) {
		for verb, call := range members(item) {
			if err := d.complete(strings.ToUpper(verb), call); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		if get(own, path) != nil {
			return fmt.Errorf("%s: both a call of the .proto files and the base file have it", path)
		}
	}
	for name, schema := range members(get(get(generated, "components"), "schemas")) {
		if err := d.completeSchema(name, schema, answered[name]); err != nil {
			return fmt.Errorf("schema %s: %w", name, err)
		}
	}
	for name := range d.rules.Statuses {
		if !d.used[name] {
			return fmt.Errorf("statuses: there is no call %s", name)
		}
	}
	own.Content = append(get(generated, "paths").Content, own.Content...)
	ownTags.Content = append(d.sorted(get(generated, "tags").Content), ownTags.Content...)
	ownSchemas.Content = append(get(get(generated, "components"), "schemas").Content, ownSchemas.Content...)
	return nil
}

// sorted puts the tags, one for each service, in the order of the .proto files.
func (d *document) sorted(tags []*yaml.Node) (list []*yaml.Node) {
	for _, name := range d.request.FileToGenerate {
		file := d.request.ProtoFile[slices.IndexFunc(d.request.ProtoFile, func(f *descriptorpb.FileDescriptorProto) bool { return f.GetName() == name })]
		for _, service := range file.Service {
			for _, tag := range tags {
				if get(tag, "name").Value == service.GetName() {
					list = append(list, tag)
				}
			}
		}
	}
	return list
}

// trim takes the space away with which the plugin begins the second line of a comment, and
// those after it.
func trim(node *yaml.Node) {
	if node.Kind == yaml.ScalarNode {
		node.Value = strings.ReplaceAll(node.Value, "\n ", "\n")
	}
	for _, child := range node.Content {
		trim(child)
	}
}

// firstClause is what a comment begins with, short enough for a heading.
var firstClause = regexp.MustCompile(`^([^.:;]|[.:;]\S)*`)

// complete completes a call.
func (d *document) complete(verb string, call *yaml.Node) error {
	service, name, _ := strings.Cut(get(call, "operationId").Value, "_")
	set(call, "operationId", name)
	if text := get(call, "description"); text != nil {
		set(call, "summary", firstClause.FindString(strings.ReplaceAll(text.Value, "\n", " ")))
	}
	statuses := make(map[string]bool)
	for _, key := range []string{"*", verb, service, service + "." + verb, name} {
		if list, ok := d.rules.Statuses[key]; ok {
			d.used[key] = true
			for _, status := range list {
				statuses[status] = true
			}
		}
	}
	responses := get(call, "responses")
	for _, status := range slices.Sorted(maps.Keys(statuses)) {
		component, ok := d.rules.Responses[status]
		if !ok {
			return fmt.Errorf("%s: responses names nothing for status %s", name, status)
		}
		set(responses, status, map[string]string{"$ref": "#/components/responses/" + component})
	}
	headers := map[string]any{"Cache-Control": ref("headers", "Cache-Control")}
	if statuses["304"] {
		headers["ETag"] = ref("headers", "ETag")
		if get(call, "parameters") == nil {
			set(call, "parameters", []any{})
		}
		list, condition := get(call, "parameters"), new(yaml.Node)
		if err := condition.Encode(ref("parameters", "If-None-Match")); err != nil {
			return err
		}
		list.Content = append(list.Content, condition)
	}
	set(get(responses, "200"), "headers", headers)
	if parameters := get(call, "parameters"); parameters != nil {
		for _, p := range parameters.Content {
			d.completeParameter(p)
		}
	}
	return nil
}

func ref(kind, name string) map[string]string {
	return map[string]string{"$ref": "#/components/" + kind + "/" + name}
}

// completeParameter adds what is known of all parameters of a name.
func (d *document) completeParameter(p *yaml.Node) {
	name := get(p, "name")
	if name == nil {
		return
	}
	schema := get(p, "schema")
	typed(schema)
	if format := get(schema, "format"); format != nil && format.Value == "byte" {
		set(schema, "format", "base64url") // a client would take the other alphabet for a byte
	}
	said := d.rules.Parameters[name.Value]
	for _, key := range slices.Sorted(maps.Keys(said)) {
		into := p
		if key != "description" && key != "example" {
			into = schema
		}
		if old := get(into, key); old == nil || strings.HasPrefix(old.Value, "As in ") {
			set(into, key, said[key])
		}
	}
}

// typed says of a schema how JSON writes it, in OpenAPI's words.
func typed(schema *yaml.Node) {
	switch format := get(schema, "format"); {
	case format == nil:
	case format.Value == "bytes":
		set(schema, "format", "byte")
	case format.Value == "uint32":
		set(schema, "minimum", 0)
		set(schema, "maximum", 1<<32-1)
	}
}

// anyValue is the schema of google.protobuf.Value, any value of JSON, which is no message of
// the project's.
const anyValue = "GoogleProtobufValue"

// completeSchema completes the schema of a message. In one that is answered, every field is
// there, also if it is empty, unless it is an optional one.
func (d *document) completeSchema(name string, schema *yaml.Node, answered bool) error {
	if name == anyValue {
		return nil
	}
	message := d.message(name)
	if message == nil {
		return fmt.Errorf("no message has this name")
	}
	var required []string
	properties := get(schema, "properties")
	for _, field := range message.Field {
		property := get(properties, field.GetName())
		if property == nil {
			return fmt.Errorf("it has no field %s", field.GetName())
		}
		of := property
		if items := get(property, "items"); items != nil {
			of = items
		}
		typed(of)
		if t := field.GetType(); t == descriptorpb.FieldDescriptorProto_TYPE_UINT64 {
			set(of, "format", "uint64")
			set(of, "pattern", "^[0-9]{1,20}$")
		}
		if slices.Contains(d.rules.Nullable, name+"."+field.GetName()) {
			nullable(property)
		}
		if !field.GetProto3Optional() {
			required = append(required, field.GetName())
		}
	}
	if answered && len(required) > 0 {
		set(schema, "required", required)
	}
	return nil
}

// nullable lets null stand for a message.
func nullable(property *yaml.Node) {
	if reference := take(property, "$ref"); reference != nil {
		set(property, "allOf", []map[string]string{{"$ref": reference.Value}})
	}
	set(property, "nullable", true)
}

func (d *document) message(name string) *descriptorpb.DescriptorProto {
	for _, file := range d.request.ProtoFile {
		if !slices.Contains(d.request.FileToGenerate, file.GetName()) {
			continue
		}
		for _, message := range file.MessageType {
			if message.GetName() == name {
				return message
			}
		}
	}
	return nil
}

// reached returns the names of the schemas that answers have, and of those in them.
func reached(generated *yaml.Node) map[string]bool {
	const prefix = "#/components/schemas/"
	schemas, names := get(get(generated, "components"), "schemas"), make(map[string]bool)
	var visit func(*yaml.Node)
	visit = func(node *yaml.Node) {
		for _, child := range node.Content {
			visit(child)
		}
		if node.Kind != yaml.MappingNode {
			return
		}
		if reference := get(node, "$ref"); reference != nil {
			if name := strings.TrimPrefix(reference.Value, prefix); !names[name] {
				names[name] = true
				visit(get(schemas, name))
			}
		}
	}
	for _, item := range members(get(generated, "paths")) {
		for _, call := range members(item) {
			visit(get(call, "responses"))
		}
	}
	return names
}
