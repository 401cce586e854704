package protocol

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
)

// vector is one transaction of testdata/mip3.json, which the deployed memo
// transaction builder made.
type vector struct {
	Name    string
	TxID    string
	Raw     string
	Author  string `json:"author_hash160"`
	Action  string
	Parent  string `json:"parent_hash160"`
	Request string `json:"request_tx_hash_display"`
	Accept  string `json:"accept_tx_hash_display"`
	Message string
}

func vectors(t testing.TB) []vector {
	t.Helper()
	data, err := os.ReadFile("testdata/mip3.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Transactions []vector }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Transactions) != 3 {
		t.Fatalf("expected three vectors, got %d", len(file.Transactions))
	}
	return file.Transactions
}

// script encodes the vector's action with this package.
func (v vector) script(t testing.TB) []byte {
	t.Helper()
	var script []byte
	var err error
	switch v.Action {
	case "MLR":
		script, err = RequestScript(KeyHash(unhex(t, v.Parent)), []byte(v.Message))
	case "MLA":
		script, err = AcceptScript(parseHash(t, v.Request), []byte(v.Message))
	case "MCR":
		script, err = RevokeScript(parseHash(t, v.Accept), []byte(v.Message))
	default:
		t.Fatalf("unknown action %q", v.Action)
	}
	if err != nil {
		t.Fatal(err)
	}
	return script
}

func TestDeployedBuilder(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			tx, err := ParseTx(unhex(t, v.Raw))
			if err != nil {
				t.Fatal(err)
			}
			if got := tx.TxID().String(); got != v.TxID {
				t.Errorf("txid %s, expected %s", got, v.TxID)
			}
			output, err := SpentOutput(tx, wire.OutPoint{Hash: tx.TxID()})
			if err != nil {
				t.Fatal(err)
			}
			if want := v.script(t); !bytes.Equal(output.Script, want) {
				t.Errorf("builder wrote %x, we write %x", output.Script, want)
			}

			a, ok := tx.Action()
			if !ok || a.Malformed != nil {
				t.Fatalf("not decoded: %v, %v", ok, a.Malformed)
			}
			if a.Kind.String() != v.Action || string(a.Message) != v.Message {
				t.Errorf("got %v %q, expected %s %q", a.Kind, a.Message, v.Action, v.Message)
			}
			if v.Message == "" && a.Message != nil {
				t.Error("absent message is not nil")
			}
			if got := hex.EncodeToString(a.Parent[:]); a.Kind == MLR && got != v.Parent {
				t.Errorf("parent %s, expected %s", got, v.Parent)
			}
			if want := v.Request + v.Accept; want != "" && (a.Ref.String() != want || !a.Ref.Means(parseHash(t, want))) {
				t.Errorf("reference %v, expected %s", a.Ref, want)
			}

			_, unlock := tx.Input0()
			author := KeyHash(unhex(t, v.Author))
			if got, ok := ClaimedAuthor(unlock); !ok || got != author {
				t.Errorf("claimed author %x, %v, expected %x", got, ok, author)
			}
			if got, ok := Author(unlock, P2PKHScript(author)); !ok || got != author {
				t.Errorf("author %x, %v, expected %x", got, ok, author)
			}
		})
	}
}

const (
	key20  = "1414141414141414141414141414141414141414"
	hash32 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

func TestDecodeAction(t *testing.T) {
	tests := []struct {
		name   string
		script string // hex
		// notAction, or what the error of a malformed one contains, or the
		// message of a well-formed one in hex.
		notAction bool
		malformed string
		message   string
	}{
		{name: "MLR", script: "6a026d2014" + key20},
		{name: "MLA", script: "6a026d2120" + hash32},
		{name: "MCR", script: "6a026d2220" + hash32},
		{name: "MLR by PUSHDATA1", script: "6a026d204c14" + key20},
		{name: "MLA by PUSHDATA2", script: "6a026d214d2000" + hash32},
		{name: "MCR by PUSHDATA4", script: "6a026d224e20000000" + hash32},
		{name: "message", script: "6a026d2014" + key20 + "026869", message: "6869"},
		{name: "message not UTF-8", script: "6a026d2014" + key20 + "02fffe", message: "fffe"},
		{name: "message OP_0", script: "6a026d2014" + key20 + "00"},
		{name: "message OP_1NEGATE", script: "6a026d2014" + key20 + "4f", message: "81"},
		{name: "message OP_1", script: "6a026d2014" + key20 + "51", message: "01"},
		{name: "message OP_16", script: "6a026d2014" + key20 + "60", message: "10"},
		{name: "message over the writers' limit", script: "6a026d2014" + key20 + "4d0101" + strings.Repeat("61", 257),
			message: strings.Repeat("61", 257)},
		{name: "message by PUSHDATA4 that is not minimal", script: "6a026d2014" + key20 + "4e0100000061", message: "61"},

		{name: "prefix only", script: "6a026d20", malformed: "ends after the prefix"},
		{name: "MLR with 19 bytes", script: "6a026d2013" + key20[2:], malformed: "expected 20 bytes, got 19"},
		{name: "MLR with 21 bytes", script: "6a026d2015" + key20 + "14", malformed: "expected 20 bytes, got 21"},
		{name: "MLA with 31 bytes", script: "6a026d211f" + hash32[2:], malformed: "expected 32 bytes, got 31"},
		{name: "MLA with 20 bytes", script: "6a026d2114" + key20, malformed: "request tx hash: expected 32 bytes, got 20"},
		{name: "MCR with 33 bytes", script: "6a026d2221" + hash32 + "00", malformed: "accept tx hash: expected 32 bytes, got 33"},
		{name: "first item OP_0", script: "6a026d2000", malformed: "expected 20 bytes, got 0"},
		{name: "first item OP_1NEGATE", script: "6a026d204f", malformed: "expected 20 bytes, got 1"},
		{name: "first item OP_16", script: "6a026d2160", malformed: "expected 32 bytes, got 1"},
		{name: "first item truncated", script: "6a026d2014" + key20[2:], malformed: "truncated push: expected 20 bytes, 19 left"},
		{name: "PUSHDATA1 without length", script: "6a026d204c", malformed: "needs a length of 1 bytes, 0 left"},
		{name: "PUSHDATA2 with half a length", script: "6a026d204d14", malformed: "needs a length of 2 bytes, 1 left"},
		{name: "PUSHDATA4 with part of a length", script: "6a026d204e140000", malformed: "needs a length of 4 bytes, 3 left"},
		{name: "PUSHDATA4 of 4 GB", script: "6a026d204effffffff", malformed: "expected 4294967295 bytes, 0 left"},
		{name: "first item is OP_RESERVED", script: "6a026d2050", malformed: "expected a push, got opcode 0x50"},
		{name: "first item is OP_NOP", script: "6a026d2061", malformed: "expected a push, got opcode 0x61"},
		{name: "message truncated", script: "6a026d2014" + key20 + "0261", malformed: "message: truncated push"},
		{name: "message is OP_DROP", script: "6a026d2014" + key20 + "75", malformed: "message: expected a push, got opcode 0x75"},
		{name: "third item", script: "6a026d2014" + key20 + "01610162", malformed: "2 more bytes after the message"},
		{name: "third item OP_0", script: "6a026d2014" + key20 + "016100", malformed: "at most two items"},
		{name: "third is not a push", script: "6a026d2014" + key20 + "0161ac", malformed: "at most two items"},

		{name: "empty", script: "", notAction: true},
		{name: "OP_RETURN", script: "6a", notAction: true},
		{name: "three bytes", script: "6a026d", notAction: true},
		{name: "memo post", script: "6a026d02026869", notAction: true},
		{name: "code 23", script: "6a026d2314" + key20, notAction: true},
		{name: "code 1f", script: "6a026d1f14" + key20, notAction: true},
		{name: "prefix by PUSHDATA1", script: "6a4c026d2014" + key20, notAction: true},
		{name: "other first byte", script: "6b026d2014" + key20, notAction: true},
		{name: "token prefix is not stripped here", script: "ef" + hash32 + "1001" + "6a026d2014" + key20, notAction: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			script := unhex(t, tt.script)
			a, ok := DecodeAction(script)
			switch {
			case tt.notAction:
				if ok {
					t.Fatalf("taken for an action: %+v", a)
				}
				return
			case !ok:
				t.Fatal("not taken for an action")
			case tt.malformed != "":
				if a.Malformed == nil || !strings.Contains(a.Malformed.Error(), tt.malformed) {
					t.Errorf("malformed: %v, expected it to say %q", a.Malformed, tt.malformed)
				}
				if a.Parent != (KeyHash{}) || a.Ref != (Reference{}) || a.Message != nil {
					t.Errorf("malformed, but has fields: %+v", a)
				}
				return
			case a.Malformed != nil:
				t.Fatal(a.Malformed)
			}
			if got := hex.EncodeToString(a.Message); got != tt.message {
				t.Errorf("message %s, expected %s", got, tt.message)
			}
			if a.Kind == MLR && hex.EncodeToString(a.Parent[:]) != key20 || a.Kind != MLR && a.Ref.String() != hash32 {
				t.Errorf("wrong first item: %+v", a)
			}
			// The action must not change with the block that it came from.
			clear(script)
			if hex.EncodeToString(a.Message) != tt.message {
				t.Error("the message aliases the script")
			}
		})
	}
}

func TestEncodeLimits(t *testing.T) {
	encoders := map[string]struct {
		limit  int
		encode func(message []byte) ([]byte, error)
	}{
		"MLR": {196, func(m []byte) ([]byte, error) { return RequestScript(KeyHash{1}, m) }},
		"MLA": {149, func(m []byte) ([]byte, error) { return AcceptScript(chainhash.Hash{1}, m) }},
		"MCR": {184, func(m []byte) ([]byte, error) { return RevokeScript(chainhash.Hash{1}, m) }},
	}
	for kind, e := range encoders {
		for _, n := range []int{0, 1, 2, 75, 76, e.limit} {
			for _, b := range []byte{0x00, 0x01, 0x10, 0x11, 0x80, 0x81, 'a'} {
				message := bytes.Repeat([]byte{b}, n)
				script, err := e.encode(message)
				if err != nil {
					t.Fatalf("%s with %d bytes: %v", kind, n, err)
				}
				if len(script) > 223 {
					t.Errorf("%s with %d bytes: script of %d bytes is not relayed", kind, n, len(script))
				}
				a, ok := DecodeAction(script)
				if !ok || a.Malformed != nil || a.Kind.String() != kind || !bytes.Equal(a.Message, message) {
					t.Errorf("%s with %d times 0x%02x: decoded as %+v", kind, n, b, a)
				}
				if n == 0 && a.Message != nil {
					t.Errorf("%s: an empty message was pushed", kind)
				}
			}
		}
		_, err := e.encode(make([]byte, e.limit+1))
		if !errors.Is(err, ErrMessageTooLong) || !strings.Contains(err.Error(), kind+" takes at most") {
			t.Errorf("%s over the limit: %v", kind, err)
		}
	}
}

func TestReference(t *testing.T) {
	txid := chainhash.Hash(unhex(t, hash32))
	ref := RefersTo(txid)
	if ref.String() != txid.String() {
		t.Errorf("reference is written %v, the txid %v", ref, txid)
	}
	if !ref.Means(txid) || !Reference(txid).Means(txid) {
		t.Error("both byte orders must mean the transaction")
	}
	if ref.Canonical() != Reference(txid).Canonical() {
		t.Error("canonical spellings differ")
	}
	if other := chainhash.Hash(unhex(t, hash32[2:]+"00")); ref.Means(other) || RefersTo(other).Canonical() == ref.Canonical() {
		t.Error("means another transaction too")
	}
}

// TestFirstAction: a tx carries at most one action, the first (protocol/SPEC.md
// §1), also when it is malformed or behind a token prefix.
func TestFirstAction(t *testing.T) {
	request, malformed, accept := unhex(t, "6a026d2014"+key20), unhex(t, "6a026d2101ff"), unhex(t, "6a026d2120"+hash32)
	token := append(append(unhex(t, "ef"+hash32), 0x10, 0x05), request...)
	badToken := append(append(unhex(t, "ef"+hash32), 0x80, 0x05), request...)
	in := []wire.TxIn{{SignatureScript: []byte{1, 2}}}
	tests := []struct {
		name    string
		outputs [][]byte
		want    Kind // 0: none
		bad     bool
	}{
		{"none", [][]byte{P2PKHScript(KeyHash{})}, 0, false},
		{"no outputs", nil, 0, false},
		{"second output", [][]byte{P2PKHScript(KeyHash{}), request}, MLR, false},
		{"first of two", [][]byte{accept, request}, MLA, false},
		{"malformed first", [][]byte{malformed, request}, MLA, true},
		{"token prefix", [][]byte{token, accept}, MLR, false},
		{"invalid token prefix is none", [][]byte{badToken, accept}, MLA, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			raw := rawTx(in, tt.outputs...)
			block, err := ReadBlock(rawBlock(t, raw))
			if err != nil {
				t.Fatal(err)
			}
			carriers := 0
			for c := range block.Carriers() {
				carriers++
				if c.Action.Kind != tt.want || (c.Action.Malformed != nil) != tt.bad || c.TxID != chainhash.DoubleHashH(raw) {
					t.Errorf("got %+v", c)
				}
			}
			if (carriers == 1) != (tt.want != 0) || carriers > 1 {
				t.Errorf("%d carriers", carriers)
			}
		})
	}
}

func FuzzDecodeAction(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.script(f))
	}
	for _, s := range []string{"", "6a026d20", "6a026d204e14000000" + key20 + "4f", "6a026d2014" + key20 + "0161" + "50", "6a026d2120" + hash32 + "4d0100ff"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		a, ok := DecodeAction(script)
		isAction := len(script) >= 4 && bytes.Equal(script[:3], []byte{0x6a, 0x02, 0x6d}) && script[3] >= 0x20 && script[3] <= 0x22
		if ok != isAction {
			t.Fatalf("taken for an action: %v", ok)
		}
		if !ok || a.Malformed != nil {
			return
		}
		// What is written anew decodes to the same action.
		item := a.Ref[:]
		if a.Kind == MLR {
			item = a.Parent[:]
		}
		again, err := actionScript(script[3], item, a.Message, len(script))
		if len(a.Message) > 255 {
			return // longer than writers can push
		}
		if err != nil {
			t.Fatal(err)
		}
		b, ok := DecodeAction(again)
		if !ok || b.Malformed != nil || b.Kind != a.Kind || b.Parent != a.Parent || b.Ref != a.Ref || !bytes.Equal(b.Message, a.Message) {
			t.Fatalf("%+v became %+v", a, b)
		}
	})
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func parseHash(t testing.TB, display string) chainhash.Hash {
	t.Helper()
	h, err := chainhash.NewHashFromStr(display)
	if err != nil {
		t.Fatal(err)
	}
	return *h
}
