package rest

import (
	"bytes"
	"encoding/json"
	"io"
	"iter"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
)

// body is what a POST has, as it arrived.
//
// What makes a request long is a list of strings: ten thousand addresses. To check its syntax
// and have protojson read it would be a fifth of the work of the whole call. So a plain
// list is taken out, and protojson reads the short text that is left, and judges it. Where
// there is no plain list, or something is wrong, it reads the whole: what is accepted,
// what it means, and all errors are its own.
type body struct {
	io.Reader        // of the whole text, for the gateway
	text      []byte // the whole
	short     []byte // text with [] in place of the list; text itself if there is none
	name      string // of the member of the object that is the list
	list      []byte // a part of text, brackets included; nil if there is none
}

func newBody(text []byte) *body {
	b := &body{Reader: bytes.NewReader(text), text: text, short: text}
	if name, from, to, ok := findList(text); ok {
		b.name, b.list = string(name), text[from:to]
		b.short = bytes.Join([][]byte{text[:from], text[to:]}, []byte("[]"))
	}
	return b
}

// Close implements io.Closer. The body of the connection was read to its end.
func (*body) Close() error { return nil }

// syntax returns what keeps the text from being JSON, nil if nothing does.
func (b *body) syntax() error {
	if json.Valid(b.short) { // a plain list is JSON as [] is
		return nil
	}
	return json.Unmarshal(b.text, new(json.RawMessage))
}

// read reads the text as a message, as protojson.Unmarshal does.
func (b *body) read(into proto.Message) error {
	if list := addressesOf(into); list != nil && b.list != nil && b.name == "addresses" && protojson.Unmarshal(b.short, into) == nil {
		*list = slices.AppendSeq(make([]string, 0, bytes.Count(b.list, []byte{'"'})/2), quoted(string(b.list)))
		return nil
	}
	return protojson.Unmarshal(b.text, into)
}

// addressesOf returns where a message has a list of addresses, nil if it has none. protoreflect would
// allocate memory for each of them.
func addressesOf(m proto.Message) *[]string {
	switch m := m.(type) {
	case *keytreev1.BatchResolveRequest:
		return &m.Addresses
	case *keytreev1.ResolveChangedRequest:
		return &m.Addresses
	case *keytreev1.ProveAddressesRequest:
		return &m.Addresses
	case *keytreev1.WatchRequest:
		return &m.Addresses
	}
	return nil
}

// quoted yields what is between quotes in a list of plain strings.
func quoted(list string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for {
			_, rest, more := strings.Cut(list, `"`)
			if !more {
				return
			}
			var text string
			if text, list, _ = strings.Cut(rest, `"`); !yield(text) {
				return
			}
		}
	}
}

// findList finds the first list of an object, if it has plain strings, at least one, and what
// is before it is plain strings, numbers and words, too: it is text[from:to], brackets
// included. What is behind it is not looked at.
func findList(text []byte) (name []byte, from, to int, found bool) {
	s := scanner{text: text}
	if !s.skip('{') {
		return nil, 0, 0, false
	}
	for {
		name, ok := s.plain()
		if !ok || !s.skip(':') {
			return nil, 0, 0, false
		}
		if s.skip('[') {
			from := s.at - 1
			for {
				if _, ok := s.plain(); !ok {
					return nil, 0, 0, false
				}
				if s.skip(']') {
					return name, from, s.at, true
				}
				if !s.skip(',') {
					return nil, 0, 0, false
				}
			}
		}
		if _, ok := s.plain(); !ok {
			s.word()
		}
		if !s.skip(',') {
			return nil, 0, 0, false
		}
	}
}

// scanner goes through a text in JSON as far as it is plain. Each step passes over the space before
// it.
type scanner struct {
	text []byte
	at   int
}

func (s *scanner) space() {
	for s.at < len(s.text) && (s.text[s.at] == ' ' || s.text[s.at] == '\n' || s.text[s.at] == '\r' || s.text[s.at] == '\t') {
		s.at++
	}
}

// skip passes over a character, if it is the next one.
func (s *scanner) skip(c byte) bool {
	s.space()
	if s.at == len(s.text) || s.text[s.at] != c {
		return false
	}
	s.at++
	return true
}

// plain passes over a string of printable ASCII that has no escapes, if it is next, and
// returns what is between its quotes.
func (s *scanner) plain() (between []byte, ok bool) {
	s.space()
	for i := s.at + 1; i < len(s.text) && s.text[s.at] == '"'; i++ {
		switch c := s.text[i]; {
		case c == '"':
			between, s.at = s.text[s.at+1:i], i+1
			return between, true
		case c < ' ' || c > '~' || c == '\\':
			return nil, false
		}
	}
	return nil, false
}

// word passes over a number, true, false or null. Others than JSON has are for protojson to
// refuse.
func (s *scanner) word() {
	s.space()
	for s.at < len(s.text) {
		switch c := s.text[s.at]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '+', c == '.', c == 'E':
			s.at++
		default:
			return
		}
	}
}
