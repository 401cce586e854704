package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strconv"

	"google.golang.org/protobuf/proto"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rest"
)

// The messages that answers have by the thousand, in the JSON that rest.JSON has for
// them, a fifth as slow. Every field is there, in the order of the .proto file.

// jsonObject appends the members of an object, the first of which follows its brace.
type jsonObject []byte

func (o *jsonObject) name(name string) {
	if last := (*o)[len(*o)-1]; last != '{' {
		*o = append(*o, ',')
	}
	*o = append(append(append(*o, '"'), name...), `":`...)
}

func (o *jsonObject) text(name, value string) {
	o.name(name)
	*o = appendJSONString(*o, value)
}

func (o *jsonObject) number(name string, value uint32) {
	o.name(name)
	*o = strconv.AppendUint(*o, uint64(value), 10)
}

func (o *jsonObject) bool(name string, value bool) {
	o.name(name)
	*o = strconv.AppendBool(*o, value)
}

func (o *jsonObject) bytes(name string, value []byte) {
	o.name(name)
	*o = append(base64.StdEncoding.AppendEncode(append(*o, '"'), value), '"')
}

// message writes one that few answers have.
func (o *jsonObject) message(name string, value proto.Message) {
	o.name(name)
	text, _ := rest.JSON.MarshalAppend(nil, value) // what is made of valid UTF-8 always marshals
	*o = append(*o, text...)
}

// appendJSONString appends a string that is valid UTF-8, as all are that a message can
// have.
func appendJSONString(b []byte, s string) []byte {
	start := len(b)
	b = append(append(b, '"'), s...)
	if !isPlain(b[start+1:]) {
		return appendRareString(b[:start], s)
	}
	return append(b, '"')
}

// isPlain tells whether a text is printable ASCII without quotes and backslashes. It looks at eight
// bytes at once: an answer consists of addresses and hashes.
func isPlain(text []byte) bool {
	const each = 0x0101010101010101 // times a byte: eight of it
	const high = 0x80 * each
	for ; len(text) >= 8; text = text[8:] {
		word := binary.LittleEndian.Uint64(text)
		quote, backslash := word^'"'*each, word^'\\'*each // where one is, is a zero
		// This sets the high bit of the lowest byte that is at least 0x7f, below a space, or zero. Nothing
		// is carried or borrowed but by such a byte, so without one no high bit is set.
		if (word|(word+each)|(word-' '*each)|(quote-each)|(backslash-each))&high != 0 {
			return false
		}
	}
	for _, c := range text {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			return false
		}
	}
	return true
}

// appendRareString appends a string that has to be escaped, or is not ASCII.
func appendRareString(b []byte, s string) []byte {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.Encode(s) // a string always encodes
	return append(b, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}

func appendResolution(b []byte, r *keytreev1.Resolution) []byte {
	o := jsonObject(append(b, '{'))
	o.text("address", r.Address)
	o.text("id_tx_hash", r.IdTxHash)
	o.text("main_address", r.MainAddress)
	o.text("parent_address", r.ParentAddress)
	o.name("path")
	o = append(o, '[')
	for i, address := range r.Path {
		if i > 0 {
			o = append(o, ',')
		}
		o = appendJSONString(o, address)
	}
	o = append(o, ']')
	o.bool("path_truncated", r.PathTruncated)
	o.number("depth", r.Depth)
	o.text("accept_tx_hash", r.AcceptTxHash)
	o.number("as_of_height", r.AsOfHeight)
	o.text("as_of_hash", r.AsOfHash)
	if r.Unconfirmed != nil {
		o.message("unconfirmed", r.Unconfirmed)
	}
	return append(o, '}')
}

// appendBlockStart appends a block's events up to the bracket that begins their list.
func appendBlockStart(b []byte, block *keytreev1.BlockEvents) []byte {
	o := blockHead(b, block)
	o.text("state_root", block.StateRoot)
	o.number("time", block.Time)
	o.name("events")
	return append(o, '[')
}

// appendLineStart is appendBlockStart of a line of an export. It leaves out the state root, which depends on whether
// the server keeps it: a line has the same bytes from every server.
func appendLineStart(b []byte, block *keytreev1.BlockEvents) []byte {
	o := blockHead(b, block)
	o.number("time", block.Time)
	o.name("events")
	return append(o, '[')
}

func blockHead(b []byte, block *keytreev1.BlockEvents) jsonObject {
	o := jsonObject(append(b, '{'))
	o.text("type", block.Type)
	o.number("height", block.Height)
	o.text("hash", block.Hash)
	o.text("prev_hash", block.PrevHash)
	o.text("state_hash", block.StateHash)
	return o
}

// appendBlockEnd appends what follows the events.
func appendBlockEnd(b []byte, more bool) []byte {
	o := jsonObject(append(b, ']'))
	o.bool("more", more)
	return append(o, '}')
}

func appendEvent(b []byte, e *keytreev1.Event) []byte {
	o := jsonObject(append(b, '{'))
	o.text("type", e.Type)
	o.text("kind", e.Kind)
	o.text("reason", e.Reason)
	o.text("tx_hash", e.TxHash)
	o.text("ref_tx_hash", e.RefTxHash)
	o.text("reference", e.Reference)
	o.text("child_address", e.ChildAddress)
	o.text("parent_address", e.ParentAddress)
	o.text("author_address", e.AuthorAddress)
	o.text("id_tx_hash", e.IdTxHash)
	o.text("merged_into", e.MergedInto)
	o.text("main_address", e.MainAddress)
	o.name("anchor")
	if e.Anchor == nil {
		return append(o, "null}"...)
	}
	return append(appendAnchorEvent(o, e.Anchor), '}')
}

func appendAnchorEvent(b []byte, e *keytreev1.AnchorEvent) []byte {
	o := jsonObject(append(b, '{'))
	o.text("chain_tx_hash", e.ChainTxHash)
	o.text("domain", e.Domain)
	o.text("position", strconv.FormatUint(e.Position, 10))
	o.bytes("head", e.Head)
	o.bytes("root", e.Root)
	o.text("break_reason", e.BreakReason)
	return append(o, '}')
}
