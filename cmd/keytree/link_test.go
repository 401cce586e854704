package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/protocol"
)

// offline are the flags that keep a link command off node and server. The note
// that the server cannot be asked is expected.
func offline(command ...string) []string {
	return append(append([]string{"link"}, command...), "--network", "regtest", "--server", nowhere, "--utxo", someCoin)
}

const notChecked = "keytree: note: not checked whether it would be refused: server " + nowhere

// TestLinkDryRun checks the signed transaction of each command against what it
// was to be, for keys of both kinds.
func TestLinkDryRun(t *testing.T) {
	key, parent := regtest.NewKey(), regtest.NewKey()
	compressed, err := bchutil.NewWIF(key.PrivateKey(), regtest.Params, true)
	if err != nil {
		t.Fatal(err)
	}
	uncompressed, err := bchutil.NewWIF(key.PrivateKey(), regtest.Params, false)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := parseTxID(someTxID)
	if err != nil {
		t.Fatal(err)
	}
	parentKey := protocol.KeyHash(parent.Hash())
	for _, wif := range []*bchutil.WIF{compressed, uncompressed} {
		author := protocol.KeyHash(bchutil.Hash160(wif.SerializePubKey()))
		for _, test := range []struct {
			command []string
			want    protocol.Action
		}{
			{[]string{"request", "--parent", parent.Address()}, protocol.Action{Kind: protocol.MLR, Parent: parentKey}},
			{[]string{"accept", someTxID}, protocol.Action{Kind: protocol.MLA, Ref: protocol.RefersTo(ref)}},
			{[]string{"revoke", strings.ToUpper(someTxID)}, protocol.Action{Kind: protocol.MCR, Ref: protocol.RefersTo(ref)}},
		} {
			command := append(offline(test.command...), "--dry-run", "--json", "--fee-rate", "3", "--message", "hello\x1b[2J")
			byFile := keytree(t, append(command, "--key-file", writeKey(t, wif.String()+"\n"))...)
			byStdin := keytreeWith(t, wif.String(), append(command, "--key-stdin")...)
			if byFile.stdout != byStdin.stdout {
				t.Errorf("%q: the key from a file gives %s, from standard input %s", command, byFile.stdout, byStdin.stdout)
			}
			if byFile.code != exitDone || !strings.HasPrefix(byFile.stderr, notChecked) {
				t.Fatalf("%q: exit code %d, standard error %q", command, byFile.code, byFile.stderr)
			}
			var out published
			if err := json.Unmarshal([]byte(byFile.stdout), &out); err != nil {
				t.Fatal(err)
			}
			link := readLink(t, out.RawTx)
			got, ok := protocol.Tx(link.Raw()).Action()
			if !ok || got.Malformed != nil || got.Kind != test.want.Kind || got.Parent != test.want.Parent || got.Ref != test.want.Ref {
				t.Errorf("%q: action %+v, want %+v", command, got, test.want)
			}
			if string(got.Message) != "hello\x1b[2J" {
				t.Errorf("%q: message %q", command, got.Message)
			}
			if !link.Signed() {
				t.Errorf("%q: not signed", command)
			}
			_, unlock := protocol.Tx(link.Raw()).Input0()
			if by, ok := protocol.Author(unlock, link.Spends[0].Script); !ok || by != author {
				t.Errorf("%q: author %x, %t, want %x", command, by, ok, author)
			}
			if out.AuthorAddress != protocol.FormatAddress(author, regtest.Params) || out.TxHash != link.TxID().String() || out.Sent {
				t.Errorf("%q: it says %+v", command, out)
			}
			if out.FeeSatoshi != link.Fee || out.FeeSatoshi < 3*int64(out.SizeBytes) || out.ChangeSatoshi != 100_000-out.FeeSatoshi {
				t.Errorf("%q: fee %d, change %d, size %d, transaction pays %d", command, out.FeeSatoshi, out.ChangeSatoshi, out.SizeBytes, link.Fee)
			}

			// For people: the same, with nothing that could control the terminal.
			plain := keytreeWith(t, wif.String(), append(offline(test.command...), "--dry-run", "--key-stdin", "--fee-rate", "3", "--message", "hello\x1b[2J")...)
			for _, part := range []string{out.TxHash, out.RawTx, out.AuthorAddress, test.want.Kind.String(), `"hello\x1b[2J"`, "no (--dry-run)"} {
				if !strings.Contains(plain.stdout, part) {
					t.Errorf("%q: %q is not in\n%s", command, part, plain.stdout)
				}
			}
			if strings.Contains(plain.stdout, "\x1b") {
				t.Errorf("%q: a control character is in %q", command, plain.stdout)
			}
		}
	}
}

// readLink takes up a transaction that spends someCoin. Whose the coin is, its
// own change says.
func readLink(t *testing.T, raw string) *protocol.RecordTx {
	t.Helper()
	bytes, err := hex.DecodeString(raw)
	if err != nil {
		t.Fatal(err)
	}
	coin, err := parseCoin(someCoin)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := protocol.ParseTx(bytes)
	if err != nil {
		t.Fatal(err)
	}
	var script []byte
	for i, output := range tx.Outputs() {
		if i == 0 {
			script = output.Script
		}
	}
	link, err := protocol.ReadLinkTx(bytes, []protocol.UTXO{{OutPoint: coin.OutPoint, Value: coin.Value, Script: script}})
	if err != nil {
		t.Fatal(err)
	}
	return link
}

// TestLinkUnsigned signs what --unsigned prints as another program would, with
// nothing but what it printed.
func TestLinkUnsigned(t *testing.T) {
	key, parent := regtest.NewKey(), regtest.NewKey()
	second := strings.Repeat("ab", 32) + ":7:600"
	o := keytree(t, append(offline("request", "--parent", parent.Address()), "--utxo", second, "--unsigned", "--from", key.Address())...)
	if o.code != exitDone || !strings.HasPrefix(o.stderr, notChecked) {
		t.Fatalf("exit code %d, standard error %q", o.code, o.stderr)
	}
	var out unsigned
	if err := json.Unmarshal([]byte(o.stdout), &out); err != nil {
		t.Fatal(err)
	}
	if out.Kind != "MLR" || out.AuthorAddress != key.Address() || len(out.Inputs) == 0 {
		t.Fatalf("it printed %+v", out)
	}
	raw, err := hex.DecodeString(out.UnsignedTx)
	if err != nil {
		t.Fatal(err)
	}
	var spends []protocol.UTXO
	for _, in := range out.Inputs {
		hash, err := chainhash.NewHashFromStr(in.TxHash)
		if err != nil {
			t.Fatal(err)
		}
		script, err := hex.DecodeString(in.Script)
		if err != nil {
			t.Fatal(err)
		}
		spends = append(spends, protocol.UTXO{OutPoint: wire.OutPoint{Hash: *hash, Index: in.OutputIndex}, Value: in.ValueSatoshi, Script: script})
	}
	link, err := protocol.ReadLinkTx(raw, spends)
	if err != nil {
		t.Fatal(err)
	}
	if link.Fee != out.FeeSatoshi || link.Change() != out.ChangeSatoshi {
		t.Errorf("fee %d, change %d, it says %d, %d", link.Fee, link.Change(), out.FeeSatoshi, out.ChangeSatoshi)
	}
	for i, in := range out.Inputs {
		digest, err := hex.DecodeString(in.Sighash)
		if err != nil {
			t.Fatal(err)
		}
		signature, err := key.PrivateKey().SignECDSA(digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := link.Attach(i, append(signature.Serialize(), byte(in.HashType)), key.PublicKey()); err != nil {
			t.Fatal(err)
		}
	}
	if !link.Signed() {
		t.Error("the transaction is not signed")
	}
}

// TestLinkKeepsSecrets gives keys that are refused, and looks for them in what is
// printed.
func TestLinkKeepsSecrets(t *testing.T) {
	key := regtest.NewKey()
	mainnet, err := bchutil.NewWIF(key.PrivateKey(), &chaincfg.MainNetParams, true)
	if err != nil {
		t.Fatal(err)
	}
	wif := key.WIF()
	typo := wif[:51] + map[bool]string{true: "3", false: "4"}[wif[51] != '3']
	for _, test := range []struct {
		name, key, want string
	}{
		{"another network", mainnet.String(), "expected a WIF of regtest, got that of another network"},
		{"one wrong character", typo, "its checksum does not match"},
		{"two lines", wif + "\n" + wif, "expected a WIF"},
		{"in hex", hex.EncodeToString(key.PrivateKey().Serialize()), "expected a WIF"},
		{"cut", wif[:51], "expected a WIF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := writeKey(t, test.key)
			command := append(offline("accept", someTxID), "--dry-run")
			for _, o := range []outcome{
				keytree(t, append(command, "--key-file", file)...),
				keytreeWith(t, test.key, append(command, "--key-stdin")...),
			} {
				o.wantError(t, exitFailed, test.want)
				for _, secret := range []string{test.key, wif[10:30], mainnet.String()[10:30], hex.EncodeToString(key.PrivateKey().Serialize())} {
					if strings.Contains(o.stderr, secret) {
						t.Errorf("standard error holds the key: %q", o.stderr)
					}
				}
			}
		})
	}
	t.Run("as an argument", func(t *testing.T) {
		// There is no flag for it; what somebody tries all the same is not a file.
		o := keytree(t, append(offline("accept", someTxID), "--dry-run", "--key", wif)...)
		o.wantError(t, exitUsage, "unknown flag: --key")
		if strings.Contains(o.stderr, wif) {
			t.Errorf("standard error holds the key: %q", o.stderr)
		}
	})
}

func TestLinkRefusesWithoutServer(t *testing.T) {
	key := regtest.NewKey()
	file := writeKey(t, key.WIF())
	self := append(offline("request", "--parent", key.Address()), "--dry-run", "--key-file", file)
	keytree(t, self...).wantError(t, exitFailed, "it would be refused, SELF_LINK")
	if o := keytree(t, append(self, "--force")...); o.code != exitDone || o.stderr != "" {
		t.Errorf("with --force: exit code %d, standard error %q", o.code, o.stderr)
	}
	poor := []string{"link", "accept", someTxID, "--network", "regtest", "--server", nowhere, "--force", "--dry-run",
		"--key-file", file, "--utxo", someTxID + ":0:600"}
	keytree(t, poor...).wantError(t, exitFailed, key.Address()+": insufficient funds: need ")
	twice := append(offline("accept", someTxID), "--force", "--dry-run", "--key-file", file, "--utxo", someCoin)
	keytree(t, twice...).wantError(t, exitFailed, "is given twice")
}

// TestKeyFromPipe reads a key from something that is no regular file, as shells
// offer it: --key-file <(pass show key).
func TestKeyFromPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := w.WriteString(regtest.NewKey().WIF()); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if _, err := os.Stat("/dev/fd"); err != nil {
		t.Skip("the system has no /dev/fd")
	}
	name := fmt.Sprintf("/dev/fd/%d", r.Fd())
	if o := keytree(t, append(offline("accept", someTxID), "--dry-run", "--key-file", name)...); o.code != exitDone {
		t.Errorf("exit code %d, standard error %q", o.code, o.stderr)
	}
}

func TestParseCoin(t *testing.T) {
	for _, test := range []struct{ text, want string }{ // what is wrong, "" if nothing
		{someTxID + ":0:1000", ""},
		{someTxID + ":4294967295:2100000000000000", ""},
		{someTxID + ":0:0", ""},
		{someTxID + ":0", "expected TXID:VOUT:SATOSHIS"},
		{someTxID + ":0:1:2", "expected TXID:VOUT:SATOSHIS"},
		{someTxID[1:] + ":0:1", "TXID: "},
		{someTxID + ":4294967296:1", "an output number"},
		{someTxID + ":-1:1", "an output number"},
		{someTxID + ":0:2100000000000001", "a number of satoshis"},
		{someTxID + ":0:-1", "a number of satoshis"},
		{someTxID + ":0:1e3", "a number of satoshis"},
	} {
		coin, err := parseCoin(test.text)
		if test.want == "" {
			if got := fmt.Sprintf("%v:%d:%d", coin.OutPoint.Hash, coin.OutPoint.Index, coin.Value); err != nil || got != test.text {
				t.Errorf("%s: got %s, %v", test.text, got, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", test.text, err, test.want)
		}
	}
}
