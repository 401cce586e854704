// Package canonical is the form of the keyserver's messages that is signed and
// hashed (keyserver/WIRE.md §4): compact JSON, keys sorted bytewise
// at every level, escaped as encoding/json does it, binary as standard base64
// with padding.
//
// A message is a Go struct whose fields are declared in the order of their JSON
// names, so that encoding/json itself yields the canonical bytes. What arrives
// may be in any order, but must otherwise be exact: Unmarshal refuses what
// encoding/json would pass over in silence.
//
// What the fields mean, and which values are valid, belongs to the packages of
// the messages.
package canonical

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrMalformed says that something is not JSON, or not JSON of this message.
// The sender must correct it; nothing was changed.
var ErrMalformed = errors.New("malformed message")

// Marshal returns the canonical bytes of a message. It panics on a type that is
// not one: that is a bug of the caller, no input leads to it.
func Marshal(message any) []byte {
	b, err := json.Marshal(message)
	if err != nil {
		panic(fmt.Sprintf("canonical: %T: %v", message, err))
	}
	return b
}

// Unmarshal reads JSON into the message that into points to, and returns
// ErrMalformed unless the JSON is one value with exactly the message's fields:
// all there but those that Marshal omits when empty, none twice, none else, names in
// their exact case, integers written as integers, null only for lists and for what
// may be absent.
func Unmarshal(data []byte, into any) error {
	if !utf8.Valid(data) {
		return fmt.Errorf("%w: not UTF-8", ErrMalformed)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := exact(d, reflect.TypeOf(into).Elem(), ""); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	// Unmarshal also refuses what stands behind the value.
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// exact reads one value from d and compares its shape with the type t. at is
// where in the message it stands.
func exact(d *json.Decoder, t reflect.Type, at string) error {
	token, err := d.Token()
	if err != nil {
		return err
	}
	wrong := func(expected string) error {
		return fmt.Errorf("%s: expected %s, got %s", place(at), expected, describe(token))
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		if token == nil {
			return nil
		}
	}
	switch t.Kind() {
	case reflect.Pointer:
		t = t.Elem()
		fallthrough
	case reflect.Struct:
		if token != json.Delim('{') {
			return wrong("an object")
		}
		return exactFields(d, t, at)
	case reflect.Slice:
		if token != json.Delim('[') {
			return wrong("a list")
		}
		for n := 0; d.More(); n++ {
			if err := exact(d, t.Elem(), fmt.Sprintf("%s[%d]", at, n)); err != nil {
				return err
			}
		}
		_, err := d.Token()
		return err
	case reflect.String:
		if _, ok := token.(string); !ok {
			return wrong("a string")
		}
	case reflect.Bool:
		if _, ok := token.(bool); !ok {
			return wrong("true or false")
		}
	case reflect.Uint64:
		n, _ := token.(json.Number)
		if _, err := strconv.ParseUint(n.String(), 10, 64); err != nil {
			return wrong("an unsigned integer of 64 bits")
		}
	default:
		panic(fmt.Sprintf("canonical: %s in a message", t))
	}
	return nil
}

func exactFields(d *json.Decoder, t reflect.Type, at string) error {
	missing := make(map[string]reflect.Type, t.NumField())
	known := make(map[string]bool, t.NumField())
	for f := range t.Fields() {
		name, _ := fieldName(f)
		missing[name], known[name] = f.Type, true
	}
	for d.More() {
		token, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := token.(string)
		field, ok := missing[name]
		if !ok {
			problem := "unknown field"
			if known[name] {
				problem = "appears twice"
			}
			return fmt.Errorf("%s: %s", place(join(at, shorten(name))), problem)
		}
		delete(missing, name)
		if err := exact(d, field, join(at, name)); err != nil {
			return err
		}
	}
	if _, err := d.Token(); err != nil {
		return err
	}
	for f := range t.Fields() { // the first in order, so that the error is always the same
		if name, optional := fieldName(f); missing[name] != nil && !optional {
			return fmt.Errorf("%s: missing", join(at, name))
		}
	}
	return nil
}

// fieldName returns a field's name in JSON, and whether it is left out when empty.
func fieldName(f reflect.StructField) (name string, optional bool) {
	name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name, option == "omitempty"
}

func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

func place(at string) string {
	if at == "" {
		return "message"
	}
	return at
}

func describe(token json.Token) string {
	switch token := token.(type) {
	case nil:
		return "null"
	case string:
		return fmt.Sprintf("%q", shorten(token))
	case json.Delim:
		return map[json.Delim]string{'{': "an object", '[': "a list"}[token]
	}
	return shorten(fmt.Sprint(token))
}

// shorten keeps what a stranger sent from filling a log.
func shorten(s string) string {
	const most = 40
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}

// Encode returns standard base64 with padding.
func Encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// Decode reads standard base64 with padding of exactly size bytes; any number
// if size is negative. ErrMalformed on anything else, other spellings of the
// same bytes included.
func Decode(s string, size int) ([]byte, error) {
	if size >= 0 && len(s) != base64.StdEncoding.EncodedLen(size) {
		return nil, fmt.Errorf("%w: expected base64 of %d bytes (%d characters), got %d characters",
			ErrMalformed, size, base64.StdEncoding.EncodedLen(size), len(s))
	}
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: not base64: %w", ErrMalformed, err)
	case strings.ContainsAny(s, "\r\n"): // which the decoder skips
		return nil, fmt.Errorf("%w: base64 with line breaks", ErrMalformed)
	case size >= 0 && len(b) != size:
		return nil, fmt.Errorf("%w: expected base64 of %d bytes, got %d", ErrMalformed, size, len(b))
	}
	return b, nil
}
