package signing_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/txscript"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/signing"
)

// author is a key of the tests.
func author() (private *bchec.PrivateKey, key protocol.KeyHash) {
	private, public := bchec.PrivKeyFromBytes(bchec.S256(), []byte{1})
	return private, protocol.KeyHash(bchutil.Hash160(public.SerializeCompressed()))
}

// accept is an unsigned MLA of the author.
func accept(t *testing.T) *protocol.RecordTx {
	t.Helper()
	_, key := author()
	script, err := protocol.AcceptScript(chainhash.Hash{31: 0xAB}, nil)
	if err != nil {
		t.Fatal(err)
	}
	coin := protocol.UTXO{OutPoint: wire.OutPoint{Hash: chainhash.Hash{0: 1, 31: 0xCD}, Index: 3}, Value: 10_000, Script: protocol.P2PKHScript(key)}
	tx, err := protocol.NewLinkTx(script, protocol.Funding{Author: key, UTXOs: []protocol.UTXO{coin}, Schnorr: true})
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

const (
	outpoint  = `"outpointTransactionHash":"<Uint8Array: 0xcd00000000000000000000000000000000000000000000000000000000000001>","outpointIndex":3,"sequenceNumber":4294967295,"unlockingBytecode":"<Uint8Array: 0x>"`
	own       = `"lockingBytecode":"<Uint8Array: 0x76a914751e76e8199196d454941c45d1b3a323f1433bd688ac>"`
	sources   = `"sourceOutputs":[{` + outpoint + `,` + own + `,"valueSatoshis":"<bigint: 10000n>"}],"broadcast":false,"userPrompt":"why <&>"}`
	wantPlain = `{"transaction":{"version":2,"inputs":[{` + outpoint + `}],"outputs":[{` + own + `,"valueSatoshis":"<bigint: 9769n>"},` +
		`{"lockingBytecode":"<Uint8Array: 0x6a026d2120ab00000000000000000000000000000000000000000000000000000000000000>","valueSatoshis":"<bigint: 0n>"}],"locktime":0},` + sources
)

// TestRequests looks at what is asked, byte by byte, and reads it again.
func TestRequests(t *testing.T) {
	tx := accept(t)
	for name, test := range map[string]struct {
		request any
		want    string
	}{
		"WalletConnect": {signing.WalletConnect(tx, "why <&>"), wantPlain},
		"WizardConnect": {
			signing.WizardConnect(tx, "why <&>", signing.KeyPath{Name: "change", Index: 5}),
			`{"transaction":{"transaction":"` + hex.EncodeToString(tx.Raw()) + `",` + sources + `,"inputPaths":[[0,"change",5]]}`,
		},
	} {
		got, err := signing.JSON(test.request)
		if err != nil || string(got) != test.want {
			t.Errorf("%s: got %s, %v, want %s", name, got, err, test.want)
		}
		prepared, err := signing.ReadPrepared(got)
		if err != nil || prepared.TxHash() != tx.TxID() {
			t.Errorf("%s: read again, %v, it is %v", name, err, prepared)
		}
	}
	for _, bad := range []string{"", "{}", "[]", `{"transaction":"00"}`, `{"transaction":{"inputs":[{"outpointTransactionHash":"<Uint8Array: 0x00>"}]}}`} {
		if _, err := signing.ReadPrepared([]byte(bad)); err == nil {
			t.Errorf("%q is taken for what was prepared", bad)
		}
	}
}

// TestForms reads what wallets read, and nothing else.
func TestForms(t *testing.T) {
	for text, want := range map[string]string{
		"<Uint8Array: 0x>": "", "<Uint8Array: 0x00ff>": "00ff",
		"<Uint8Array: 0x0>": "?", "<Uint8Array: 0xFF>": "?", "<Uint8Array:0x00>": "?", "00": "?",
	} {
		var b signing.Bytes
		if err := b.UnmarshalText([]byte(text)); (err != nil) != (want == "?") || err == nil && hex.EncodeToString(b) != want {
			t.Errorf("%s: got %x, %v", text, []byte(b), err)
		}
	}
	for text, want := range map[string]int64{
		"<bigint: 0n>": 0, "<bigint: 2100000000000000n>": 21e14,
		"<bigint: -1n>": -1, "<bigint: +1n>": -1, "<bigint: n>": -1, "<bigint: 9223372036854775808n>": -1, "1": -1,
	} {
		var s signing.Satoshis
		if err := s.UnmarshalText([]byte(text)); (err != nil) != (want < 0) || err == nil && int64(s) != want {
			t.Errorf("%s: got %d, %v", text, s, err)
		}
	}
	for text, ok := range map[string]bool{"receive/5": true, "change/0": true, "defi/2147483647": true, "receive": false, "other/5": false, "receive/-1": false, "receive/2147483648": false} {
		if _, err := signing.ParseKeyPath(text); (err == nil) != ok {
			t.Errorf("path %s: %v", text, err)
		}
	}
}

// TestPrompt says what is signed, and lets no stranger say anything else.
func TestPrompt(t *testing.T) {
	for _, test := range []struct {
		subject signing.Subject
		want    string
	}{
		{signing.Subject{Kind: protocol.MLR, Counterpart: "bchtest:qp", Fee: 219}, "Ask bchtest:qp to take this key into its identity (MIP-0003 link request). Fee 219 sat."},
		{
			signing.Subject{Kind: protocol.MLA, Counterpart: "bitcoincash:qp", Message: "memo.cash", Fee: 231},
			`Accept bitcoincash:qp into your identity (MIP-0003 link accept). It calls itself "memo.cash" (unverified). Fee 231 sat.`,
		},
		{signing.Subject{Kind: protocol.MLA, Reference: "ab", Fee: 1}, "Accept the key of request ab into your identity (MIP-0003 link accept). Fee 1 sat."},
		{signing.Subject{Kind: protocol.MCR, Reference: "ab", Fee: 1}, "Remove the key of accept ab from your identity (MIP-0003 link revoke). Fee 1 sat."},
	} {
		if got := test.subject.Prompt(); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
	for message, want := range map[string]string{
		"":                       "",
		"  \x00 ":                "",
		"a\"b\\c\nd\x7f":         `calls itself "a?b?c?d?" (unverified)`,
		"bücher\u202e":           `calls itself "b?cher?" (unverified)`,
		"\xff\xfe":               "",
		strings.Repeat("x", 300): `calls itself "` + strings.Repeat("x", 40) + `" (unverified)`,
	} {
		if got := signing.CallsItself(message); got != want {
			t.Errorf("%q: got %s, want %s", message, got, want)
		}
	}
}

// TestParseSigned reads the answers of wallets.
func TestParseSigned(t *testing.T) {
	tx := accept(t)
	raw, txid := hex.EncodeToString(tx.Raw()), tx.TxID().String()
	for answer, ok := range map[string]bool{
		`{"signedTransaction":"` + raw + `","signedTransactionHash":"` + txid + `"}`:     true,
		`{"signedTransaction":"` + raw + `"}`:                                            true,
		" " + raw + "\n":                                                                 true,
		`{"signedTransaction":"` + raw + `","signedTransactionHash":"` + raw[:64] + `"}`: false,
		`{"error":{"code":7}}`:                                                           false,
		raw + "00":                                                                       false,
		raw[1:]:                                                                          false,
		strings.Repeat("00", signing.MaxSize+1):                                          false,
		"":                                                                               false,
	} {
		if got, err := signing.ParseSigned([]byte(answer)); (err == nil) != ok || ok && got.TxID().String() != txid {
			t.Errorf("%.100q: got %x, %v", answer, []byte(got), err)
		}
	}
}

// TestMined verifies what a BCHN 28.0.1 has mined: transactions that libauth signed with hash
// type 0x61, which is over the outputs that are spent too.
func TestMined(t *testing.T) {
	text, err := os.ReadFile("testdata/bchn-28.0.1.json")
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		Kind, Author, Tx string
		Spent            []struct {
			Value  int64
			Script string
		}
	}
	if err := json.Unmarshal(text, &list); err != nil || len(list) != 12 {
		t.Fatalf("%d transactions, %v", len(list), err)
	}
	several := 0
	for _, m := range list {
		tx, err := signing.ParseSigned([]byte(m.Tx))
		if err != nil {
			t.Fatal(err)
		}
		var spent []protocol.Output
		for _, s := range m.Spent {
			script, err := hex.DecodeString(s.Script)
			if err != nil {
				t.Fatal(err)
			}
			spent = append(spent, protocol.Output{Value: s.Value, Script: script})
		}
		if len(spent) > 1 {
			several++
		}
		key, err := signing.Verify(tx, spent)
		if err != nil || hex.EncodeToString(key[:]) != m.Author {
			t.Errorf("%v: got %x, %v, want %s", tx.TxID(), key, err, m.Author)
		}
		if action, err := signing.Action(tx); err != nil || action.Kind.String() != m.Kind {
			t.Errorf("%v: got %v, %v, want %s", tx.TxID(), action.Kind, err, m.Kind)
		}
		for i := range spent { // each of them is signed for by each input
			spent[i].Value++
			if _, err := signing.Verify(tx, spent); !errors.Is(err, protocol.ErrSignature) {
				t.Errorf("%v with a satoshi more in output %d: got %v, want %v", tx.TxID(), i, err, protocol.ErrSignature)
			}
			spent[i].Value--
		}
	}
	if several == 0 {
		t.Error("no transaction has several inputs")
	}
}

// TestVerify signs in every way in which a transaction must not be signed.
func TestVerify(t *testing.T) {
	private, key := author()
	good := protocol.Output{Value: 10_000, Script: protocol.P2PKHScript(key)}
	token := protocol.Output{Value: 10_000, Script: append(append([]byte{0xef}, make([]byte, 32)...), append([]byte{0x10, 0x07}, good.Script...)...)}
	sign := func(tx *protocol.RecordTx, hashType txscript.SigHashType) protocol.Tx {
		t.Helper()
		signature, err := txscript.RawTxInECDSASignature(tx.Tx, 0, good.Script, hashType, private, good.Value)
		if err != nil {
			t.Fatal(err)
		}
		script, err := txscript.NewScriptBuilder().AddData(signature).AddData(private.PubKey().SerializeCompressed()).Script()
		if err != nil {
			t.Fatal(err)
		}
		tx.Tx.TxIn[0].SignatureScript = script
		return tx.Raw()
	}
	all := txscript.SigHashAll | txscript.SigHashForkID
	for name, test := range map[string]struct {
		tx    protocol.Tx
		spent []protocol.Output
		want  string // "" if it is good
	}{
		"0x41":         {sign(accept(t), all), []protocol.Output{good}, ""},
		"NONE":         {sign(accept(t), txscript.SigHashNone|txscript.SigHashForkID), []protocol.Output{good}, "over all inputs"},
		"SINGLE":       {sign(accept(t), txscript.SigHashSingle|txscript.SigHashForkID), []protocol.Output{good}, "over all inputs"},
		"ANYONECANPAY": {sign(accept(t), all|txscript.SigHashAnyOneCanPay), []protocol.Output{good}, "over all inputs"},
		"no FORKID": {func() protocol.Tx {
			tx := accept(t)
			sign(tx, all)
			unlock := tx.Tx.TxIn[0].SignatureScript
			unlock[unlock[0]] = byte(txscript.SigHashAll) // the last byte of the signature
			return tx.Raw()
		}(), []protocol.Output{good}, "0x41 or 0x61"},
		"another value":  {sign(accept(t), all), []protocol.Output{{Value: 9999, Script: good.Script}}, "signature refused"},
		"another script": {sign(accept(t), all), []protocol.Output{{Value: 10_000, Script: []byte{0x51}}}, "P2PKH"},
		"a token":        {sign(accept(t), all), []protocol.Output{token}, "tokens"},
		"no outputs":     {sign(accept(t), all), nil, "1 inputs"},
		"not signed":     {accept(t).Raw(), []protocol.Output{good}, "over all inputs"},
		"signed, then changed": {func() protocol.Tx {
			tx := accept(t)
			sign(tx, all)
			tx.Tx.TxOut[0].Value--
			return tx.Raw()
		}(), []protocol.Output{good}, "signature refused"},
	} {
		got, err := signing.Verify(test.tx, test.spent)
		switch {
		case test.want == "" && (err != nil || got != key):
			t.Errorf("%s: got %x, %v", name, got, err)
		case test.want != "" && (!errors.Is(err, signing.ErrRefused) || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: got %v, want %v for %q", name, err, signing.ErrRefused, test.want)
		}
	}
}

// TestAction counts actions, and compares with what was prepared.
func TestAction(t *testing.T) {
	one, none, two, malformed, large := accept(t), accept(t), accept(t), accept(t), accept(t)
	none.Tx.TxOut[1].PkScript = []byte{0x6a}
	two.Tx.AddTxOut(two.Tx.TxOut[1])
	malformed.Tx.TxOut[1].PkScript = malformed.Tx.TxOut[1].PkScript[:20]
	large.Tx.TxIn[0].SignatureScript = make([]byte, signing.MaxSize)
	for tx, ok := range map[*protocol.RecordTx]bool{one: true, none: false, two: false, malformed: false, large: false} {
		if _, err := signing.Action(tx.Raw()); (err == nil) != ok || err != nil && !errors.Is(err, signing.ErrRefused) {
			t.Errorf("%x: got %v", tx.Raw(), err)
		}
		if err := signing.Matches(tx.Raw(), one.Tx); (err == nil) != (tx == one || tx == large) {
			t.Errorf("%x: got %v", tx.Raw(), err)
		}
	}
}
