package main

import (
	"encoding/json"
	"fmt"

	"gopkg.in/yaml.v3"
)

// A document is kept in yaml.Nodes, whose members have an order: that of the .proto files.

// get returns a member of a mapping, nil if it has none of that name.
func get(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; mapping != nil && i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			return mapping.Content[i+1]
		}
	}
	return nil
}

// set adds a member to a mapping, or replaces it.
func set(mapping *yaml.Node, name string, value any) {
	node, ok := value.(*yaml.Node)
	if !ok {
		node = new(yaml.Node)
		if err := node.Encode(value); err != nil {
			panic(err) // the values are strings, numbers, and lists and maps of these
		}
	}
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			mapping.Content[i+1] = node
			return
		}
	}
	mapping.Content = append(mapping.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: name}, node)
}

// take removes a member of a mapping and returns it, nil if it has none of that name.
func take(mapping *yaml.Node, name string) *yaml.Node {
	for i := 0; i < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == name {
			value := mapping.Content[i+1]
			mapping.Content = append(mapping.Content[:i], mapping.Content[i+2:]...)
			return value
		}
	}
	return nil
}

// members yields the members of a mapping.
func members(mapping *yaml.Node) func(yield func(string, *yaml.Node) bool) {
	return func(yield func(string, *yaml.Node) bool) {
		for i := 0; mapping != nil && i < len(mapping.Content); i += 2 {
			if !yield(mapping.Content[i].Value, mapping.Content[i+1]) {
				return
			}
		}
	}
}

// appendJSON appends a node as JSON, indented.
func appendJSON(b []byte, node *yaml.Node, indent string) ([]byte, error) {
	open, shut, step := byte('{'), byte('}'), 2
	switch node.Kind {
	case yaml.ScalarNode:
		var value any
		if err := node.Decode(&value); err != nil {
			return nil, err
		}
		text, err := json.Marshal(value)
		return append(b, text...), err
	case yaml.SequenceNode:
		open, shut, step = '[', ']', 1
	case yaml.MappingNode:
	default:
		return nil, fmt.Errorf("line %d: expected a mapping, a list or a value, without anchors", node.Line)
	}
	if len(node.Content) == 0 {
		return append(b, open, shut), nil
	}
	b = append(b, open)
	for i := 0; i < len(node.Content); i += step {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '\n'), indent...), ' ')
		if step == 2 {
			name, err := json.Marshal(node.Content[i].Value)
			if err != nil {
				return nil, err
			}
			b = append(append(b, name...), ": "...)
		}
		var err error
		if b, err = appendJSON(b, node.Content[i+step-1], indent+" "); err != nil {
			return nil, err
		}
	}
	return append(append(append(b, '\n'), indent...), shut), nil
}
