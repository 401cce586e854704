package web

import (
	"bytes"
	"cmp"
	_ "embed" // docs.html
	"encoding/json"
	"fmt"
	"html/template"
	"regexp"
	"slices"
	"strings"
)

//go:embed docs.html
var docsHTML string

// document is the OpenAPI document as far as the page shows it.
type document struct {
	Info struct{ Title, Version, Description string }
	Tags []struct{ Name, Description string }

	Paths      ordered[ordered[*call]]
	Components struct {
		Schemas    ordered[*schema]
		Responses  ordered[*response]
		Parameters ordered[*parameter]
	}
}

// call is a call, with its method and path.
type call struct {
	OperationID, Summary, Description string
	Tags                              []string
	Parameters                        []*parameter
	RequestBody                       *struct{ Content ordered[media] }
	Responses                         ordered[*response]

	Method, Path string
}

type parameter struct {
	Ref                   string `json:"$ref"`
	Name, In, Description string
	Required              bool
	Example               string
	Schema                schema
}

type response struct {
	Ref         string `json:"$ref"`
	Description string
	Content     ordered[media]
}

type media struct{ Schema schema }

type schema struct {
	Ref                       string `json:"$ref"`
	Type, Format, Description string
	Nullable                  bool
	Items                     *schema
	AllOf, OneOf              []schema
	Properties                ordered[*schema]
	AdditionalProperties      *schema
}

// ordered are the members of a JSON object, in their order.
type ordered[T any] []member[T]

type member[T any] struct {
	Name  string
	Value T
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *ordered[T]) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return fmt.Errorf("expected an object, got %v: %w", open, err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		m := member[T]{Name: name.(string)} // a name is one
		if err := d.Decode(&m.Value); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		*o = append(*o, m)
	}
	return nil
}

// get returns a member, or the zero value if there is none of that name.
func (o ordered[T]) get(name string) (value T) {
	for _, m := range o {
		if m.Name == name {
			return m.Value
		}
	}
	return value
}

// section is a part of the page: the calls under one tag.
type section struct {
	Name, Description string
	Calls             []*call
}

// render makes the page.
func render(text []byte) ([]byte, error) {
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("the OpenAPI document: %w", err)
	}
	page, err := template.New("docs").Funcs(template.FuncMap{"paragraphs": paragraphs}).Parse(docsHTML)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = page.Execute(&out, map[string]any{"Info": d.Info, "Sections": d.sections(), "Schemas": d.Components.Schemas})
	return out.Bytes(), err
}

// sections puts the calls under their tags.
func (d *document) sections() (all []section) {
	for _, tag := range d.Tags {
		s := section{Name: tag.Name, Description: tag.Description}
		for _, path := range d.Paths {
			for _, verb := range path.Value {
				c := verb.Value
				if c.Tags[0] != tag.Name {
					continue
				}
				c.Method, c.Path = strings.ToUpper(verb.Name), path.Name
				for i, p := range c.Parameters {
					c.Parameters[i] = cmp.Or(d.Components.Parameters.get(last(p.Ref)), p)
				}
				for i, r := range c.Responses {
					c.Responses[i].Value = cmp.Or(d.Components.Responses.get(last(r.Value.Ref)), r.Value)
				}
				s.Calls = append(s.Calls, c)
			}
		}
		slices.SortStableFunc(s.Calls, func(a, b *call) int { return cmp.Compare(a.Path, b.Path) })
		all = append(all, s)
	}
	return all
}

// last is the name at the end of a reference.
func last(ref string) string { return ref[strings.LastIndexByte(ref, '/')+1:] }

// Body returns the name of the schema of the call's body, "" if it has none.
func (c *call) Body() string {
	if c.RequestBody == nil {
		return ""
	}
	return last(c.RequestBody.Content[0].Value.Schema.Ref)
}

// Tried are the parameters that somebody who tries the call is asked for.
func (c *call) Tried() (list []*parameter) {
	for _, p := range c.Parameters {
		if p.In != "header" {
			list = append(list, p)
		}
	}
	return list
}

// kind is what a value is, for people, with the names of the schemas in it.
func (s *schema) kind() (text string, refs []string) {
	switch {
	case s.Ref != "":
		return "", []string{last(s.Ref)}
	case len(s.AllOf)+len(s.OneOf) > 0:
		for _, one := range append(s.AllOf, s.OneOf...) {
			_, inner := one.kind()
			refs = append(refs, inner...)
		}
		if s.Nullable {
			text = "or null"
		}
		return text, refs
	case s.Items != nil:
		inner, refs := s.Items.kind()
		return strings.TrimSpace("list of " + inner), refs
	case s.AdditionalProperties != nil:
		_, refs := s.AdditionalProperties.kind()
		return "object of", refs
	case s.Format == "byte":
		return "bytes, base64", nil
	case s.Format == "base64url":
		return "bytes, base64url", nil
	case s.Type == "string" && s.Format == "uint64":
		return "number as string", nil
	case s.Type == "integer":
		return "number", nil
	}
	return s.Type, nil
}

// Kind is what a value is, without the schemas in it.
func (s *schema) Kind() string { text, _ := s.kind(); return text }

// Refs are the names of the schemas in it.
func (s *schema) Refs() []string { _, refs := s.kind(); return refs }

// listed is the end of a line before one that begins with a word of a fixed set.
var listed = regexp.MustCompile(`\n([A-Z_]+: )`)

// paragraphs cuts a text at its empty lines, and where it is a list of words and what they
// mean. Other lines end only because those of a .proto file do.
func paragraphs(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(listed.ReplaceAllString(text, "\n\n$1"), "\n\n")
}
