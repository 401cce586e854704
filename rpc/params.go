package rpc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/rpc/fault"
)

// params are the parameters of one call, by name. They are taken one by one, each
// with the form that it must have; done says what is wrong with them, or that there
// are more. What is wrong is canonical.ErrMalformed.
type params struct {
	left map[string]json.RawMessage
	err  error // the first one
}

// readParams reads the params of a call; none are as good as an empty object.
func readParams(text json.RawMessage) (*params, error) {
	if len(text) == 0 || string(text) == "null" {
		return &params{}, nil
	}
	members, err := readObject(text)
	if err != nil {
		return nil, fmt.Errorf("params: %w", err)
	}
	return &params{left: members}, nil
}

// take returns the text of a parameter, nil if it is not there.
func (p *params) take(name string) json.RawMessage {
	text := p.left[name]
	delete(p.left, name)
	return text
}

func (p *params) fail(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *params) wrong(name, expected string, text []byte) {
	p.fail(fmt.Errorf("%w: %s: expected %s, got %s", canonical.ErrMalformed, name, expected, got(text)))
}

func (p *params) text(name string) (s string) {
	text := p.take(name)
	if len(text) == 0 || text[0] != '"' || json.Unmarshal(text, &s) != nil {
		p.wrong(name, "a string", text)
	}
	return s
}

// binary takes base64 of size bytes.
func (p *params) binary(name string, size int) []byte {
	text := p.take(name)
	var s string
	if len(text) == 0 || text[0] != '"' || json.Unmarshal(text, &s) != nil {
		p.wrong(name, "a string", text)
		return nil
	}
	b, err := canonical.Decode(s, size)
	if err != nil {
		p.fail(fmt.Errorf("%s: %w", name, err))
	}
	return b
}

func (p *params) number(name string) uint64 {
	text := p.take(name)
	n, err := strconv.ParseUint(string(text), 10, 64) // takes nothing but digits
	if err != nil {
		p.wrong(name, "a whole number from 0 to 18446744073709551615", text)
	}
	return n
}

// numberOr is number for a parameter that may be absent.
func (p *params) numberOr(name string, absent uint64) uint64 {
	if text, ok := p.left[name]; !ok || string(text) == "null" {
		p.take(name)
		return absent
	}
	return p.number(name)
}

// object takes JSON of any form, for a message's own package to read.
func (p *params) object(name string) json.RawMessage {
	text := p.take(name)
	if len(text) == 0 || text[0] != '{' {
		p.wrong(name, "an object", text)
	}
	return text
}

// list takes a list of at most so many values.
func (p *params) list(name string, most int) (values []json.RawMessage) {
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
			p.fail(fmt.Errorf("%w: %s: expected at most %d, got more", canonical.ErrMalformed, name, most))
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

// texts takes a list of at most so many strings.
func (p *params) texts(name string, most int) (texts []string) {
	for i, value := range p.list(name, most) {
		var s string
		if value[0] != '"' || json.Unmarshal(value, &s) != nil {
			p.wrong(fmt.Sprintf("%s[%d]", name, i), "a string", value)
			return nil
		}
		texts = append(texts, s)
	}
	return texts
}

// done says what was wrong with the parameters taken, or which were not.
func (p *params) done() error {
	if len(p.left) > 0 {
		names := slices.Sorted(maps.Keys(p.left))
		p.fail(fmt.Errorf("%w: params: this method does not take %s", canonical.ErrMalformed, fault.Shortened(strings.Join(names, ", "))))
	}
	return p.err
}
