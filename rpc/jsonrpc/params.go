package jsonrpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/keytree-bch/keytree/rpc/fault"
)

// ErrParams says that the parameters of a call are not what they must be, and why.
var ErrParams = errors.New("malformed message")

// Params are the parameters of one call, by name. They are taken one by one, each
// with the form that it must have; Done says what is wrong with them, or that there
// are more. What is wrong is ErrParams. One goroutine uses them.
type Params struct {
	left map[string]json.RawMessage
	err  error // the first one
}

// readParams reads the params of a call; none are as good as an empty object.
func readParams(text json.RawMessage) (*Params, error) {
	if len(text) == 0 || string(text) == "null" {
		return &Params{}, nil
	}
	members, err := readObject(text)
	if err != nil {
		return nil, fmt.Errorf("params: %w", err)
	}
	return &Params{left: members}, nil
}

// take returns the text of a parameter, nil if it is not there.
func (p *Params) take(name string) json.RawMessage {
	text := p.left[name]
	delete(p.left, name)
	return text
}

// Has tells whether there is a parameter that was not taken yet.
func (p *Params) Has(name string) bool {
	_, ok := p.left[name]
	return ok
}

// Fail says what else is wrong with a parameter. The first thing that is wrong counts.
func (p *Params) Fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

// wrong says that a parameter is not what is expected.
func (p *Params) wrong(name, expected string, text []byte) {
	p.Fail(fmt.Errorf("%w: %s: expected %s, got %s", ErrParams, name, expected, got(text)))
}

// Text takes a string.
func (p *Params) Text(name string) (s string) {
	text := p.take(name)
	if len(text) == 0 || text[0] != '"' || json.Unmarshal(text, &s) != nil {
		p.wrong(name, "a string", text)
	}
	return s
}

// Number takes a whole number.
func (p *Params) Number(name string) uint64 {
	text := p.take(name)
	n, err := strconv.ParseUint(string(text), 10, 64) // takes nothing but digits
	if err != nil {
		p.wrong(name, "a whole number from 0 to 18446744073709551615", text)
	}
	return n
}

// NumberOr is number for a parameter that may be absent.
func (p *Params) NumberOr(name string, absent uint64) uint64 {
	if text, ok := p.left[name]; !ok || string(text) == "null" {
		p.take(name)
		return absent
	}
	return p.Number(name)
}

// Object takes JSON of any form, for a message's own package to read.
func (p *Params) Object(name string) json.RawMessage {
	text := p.take(name)
	if len(text) == 0 || text[0] != '{' {
		p.wrong(name, "an object", text)
	}
	return text
}

// List takes a list of at most so many values.
func (p *Params) List(name string, most int) (values []json.RawMessage) {
	text := p.take(name)
	if len(text) == 0 || text[0] != '[' {
		p.wrong(name, "a list", text)
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.Token() // the bracket
	for d.More() {
		var value json.RawMessage
		if len(values) == most {
			p.Fail(fmt.Errorf("%w: %s: expected at most %d, got more", ErrParams, name, most))
			return nil
		}
		if err := d.Decode(&value); err != nil {
			p.wrong(name, "JSON", nil)
			return nil
		}
		values = append(values, value)
	}
	return values
}

// Texts takes a list of at most so many strings.
func (p *Params) Texts(name string, most int) (texts []string) {
	for i, value := range p.List(name, most) {
		var s string
		if value[0] != '"' || json.Unmarshal(value, &s) != nil {
			p.wrong(fmt.Sprintf("%s[%d]", name, i), "a string", value)
			return nil
		}
		texts = append(texts, s)
	}
	return texts
}

// Done says what was wrong with the parameters taken, or which were not.
func (p *Params) Done() error {
	if len(p.left) > 0 {
		names := slices.Sorted(maps.Keys(p.left))
		p.Fail(fmt.Errorf("%w: params: this method does not take %s", ErrParams, fault.Shortened(strings.Join(names, ", "))))
	}
	return p.err
}
