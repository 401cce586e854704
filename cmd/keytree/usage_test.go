package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
)

const (
	someTxID  = "3f2c00112233445566778899aabbccddeeff00112233445566778899aabbccdd"
	goodURL   = "bchd://127.0.0.1:1"
	nowhere   = "127.0.0.1:1" // nothing can listen there
	someCoin  = someTxID + ":0:100000"
	mainnetA  = "bitcoincash:qr95sy3j9xwd2ap32xkykttr4cvcu7as4y0qverfuy"
	wrongSum  = "bitcoincash:qr95sy3j9xwd2ap32xkykttr4cvcu7as4y0qverfux"
	txid31    = "3f2c00112233445566778899aabbccddeeff00112233445566778899aabbcc"
	noHexTxID = "zf2c00112233445566778899aabbccddeeff00112233445566778899aabbccdd"
)

// TestWrongUsage gives bad input to every flag and argument that this side can
// check. Nothing listens anywhere: whatever gets further fails differently.
func TestWrongUsage(t *testing.T) {
	keyFile := writeKey(t, regtest.NewKey().WIF())
	link := []string{"link", "request", "--network", "regtest", "--parent", regtest.NewKey().Address(), "--server", nowhere}
	with := func(args []string, more ...string) []string { return append(append([]string{}, args...), more...) }

	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"frobnicate"}, `unknown command "frobnicate"`},
		{[]string{"help", "frobnicate"}, `"frobnicate"`},
		{[]string{"--frobnicate"}, "unknown flag: --frobnicate"},
		{[]string{"version", "now"}, `unexpected argument "now"`},

		{[]string{"serve"}, "no node given"},
		{[]string{"serve", "extra", "--node", goodURL}, `unexpected argument "extra"`},
		{[]string{"serve", "--node", "ftp://127.0.0.1:1"}, "--node: node URL begins with none of bchd://, http:// and https://"},
		{[]string{"serve", "--node", "bchd://127.0.0.1"}, "--node: node URL has no host or no port"},
		{[]string{"serve", "--node", "bchd://127.0.0.1:1?certificate=x"}, `--node: node URL has the unknown key "certificate"`},
		{[]string{"serve", "--node", "bchd://127.0.0.1:1?token_file=/nonexistent"}, "--node: node's auth token"},
		{[]string{"serve", "--node", "http://127.0.0.1:8332"}, "--node: node URL has no credentials: expected http://HOST:PORT?cookie=FILE or http://USER:PASS@HOST:PORT"},
		{[]string{"link", "accept", someTxID, "--key-stdin", "--coins", "http://me:secret@127.0.0.1:1"}, "--coins: expected one of node, electrum://HOST:PORT"},
		{[]string{"serve", "--node", goodURL, "--network", "main"}, `--network: unknown network "main": expected one of mainnet`},
		{[]string{"serve", "--node", goodURL, "--data-dir", ""}, "--data-dir DIR"},
		{[]string{"serve", "--node", goodURL, "--grpc-listen", "8434"}, `--grpc-listen: expected HOST:PORT, got "8434"`},
		{[]string{"serve", "--node", goodURL, "--grpc-listen", "127.0.0.1:70000"}, "--grpc-listen: expected a port number up to 65535"},
		{[]string{"serve", "--node", goodURL, "--http-listen", "127.0.0.1:http"}, "--http-listen: expected a port number up to 65535"},
		{[]string{"serve", "--node", goodURL, "--http-host", "keys.example.org:80"}, "--http-host: expected the name of a host, without a port"},
		{[]string{"serve", "--node", goodURL, "--http-host", "a.example,,b.example"}, "--http-host: expected the name of a host"},
		{[]string{"serve", "--node", goodURL, "--cors-origin", "example.org"}, "--cors-origin: expected an origin such as https://example.org"},
		{[]string{"serve", "--node", goodURL, "--cors-origin", "https://example.org/"}, "--cors-origin: expected an origin"},
		{[]string{"serve", "--node", goodURL, "--cors-origin", "https://*.example.org"}, "--cors-origin: expected an origin"},
		{[]string{"serve", "--node", goodURL, "--trusted-proxy", "proxy.example.org"}, "--trusted-proxy: expected an address or a network such as 10.0.0.0/8, got"},
		{[]string{"serve", "--node", goodURL, "--unlimited", "10.0.0.0/33"}, "--unlimited: expected an address or a network"},
		{[]string{"serve", "--node", goodURL, "--limit-connections", "100"}, "--limit-connections: expected ALL/ONE, the second from 1 to 100"},
		{[]string{"serve", "--node", goodURL, "--limit-requests", "10/11"}, "--limit-requests: expected ALL/ONE, the second from 1 to 10"},
		{[]string{"serve", "--node", goodURL, "--mempool-max-actions", "0"}, `--mempool-max-actions: expected a whole number from 1 to 1000000, got "0"`},
		{[]string{"serve", "--node", goodURL, "--walletconnect-project-id", "a b"}, "--walletconnect-project-id: expected the id of a project"},
		{[]string{"serve", "--node", goodURL, "--walletconnect-relay", "ws://relay.example.org"}, "--walletconnect-relay: expected wss://, which is encrypted"},
		{[]string{"serve", "--node", goodURL, "--walletconnect-relay", "https://relay.example.org"}, "--walletconnect-relay: expected the address of a relay such as wss://"},
		{[]string{"serve", "--node", goodURL, "--walletconnect-relay", "wss://relay.example.org; script-src *"}, "--walletconnect-relay: expected the address of a relay"},
		{[]string{"serve", "--node", goodURL, "--walletconnect-relay", "wss://relay.example.org"}, "--walletconnect-relay: goes with --walletconnect-project-id"},
		{[]string{"serve", "--node", goodURL, "--wizardconnect-relay", "wss://relay.example.org/path"}, "--wizardconnect-relay: expected the address of a relay without a path"},
		{[]string{"serve", "--node", goodURL, "--limit-bytes-in", "2/2"}, "--limit-bytes-in: expected ALL/ONE, the first from 4 to"},
		{[]string{"serve", "--node", goodURL, "--limit-connections", "100/10"}, "--limit-connections: expected more of all clients than --limit-requests and --limit-streams have together, 1024, got 100"},
		{[]string{"serve", "--node", goodURL, "--timeout-take", "30"}, "--timeout-take: expected a duration from 1s to 10m0s"},
		{[]string{"serve", "--node", goodURL, "--start-height", "-1"}, "--start-height: expected a block height from 0 to 4294967295"},
		{[]string{"serve", "--node", goodURL, "--start-height", "4294967296"}, "--start-height: expected a block height"},
		{[]string{"serve", "--node", goodURL, "--log-format", "xml"}, `--log-format: expected one of auto, console, json, got "xml"`},
		{[]string{"serve", "--node", goodURL, "--log-level", "loud"}, `--log-level: expected one of debug, info, warn, error, got "loud"`},
		{[]string{"serve", "--node", goodURL, "--config", "/nonexistent/keytree.yaml"}, "config file: open /nonexistent/keytree.yaml"},
		{[]string{"serve", "--json", "--node", goodURL}, "unknown flag: --json"},
		{[]string{"serve", "--node"}, "flag needs an argument: --node"},

		{[]string{"status", "extra"}, `unexpected argument "extra"`},
		{[]string{"status", "--server", "localhost"}, `--server: expected HOST:PORT, got "localhost"`},
		{[]string{"status", "--server", ":8434"}, "--server: expected HOST:PORT, got no host"},
		{[]string{"status", "--server", "localhost:0"}, "--server: expected a port number"},
		{[]string{"status", "--server", "ftp://localhost:8434"}, "--server: expected HOST:PORT, http://HOST:PORT or https://HOST:PORT, got"},
		{[]string{"status", "--server", "http://localhost"}, `--server: expected HOST:PORT, got "localhost"`},
		{[]string{"status", "--json=maybe"}, "--json: "},
		{[]string{"resolve"}, "expected ADDRESS or -, got nothing"},
		{[]string{"resolve", mainnetA, "--at", "tip"}, `--at: expected a block height from 0 to 4294967295, got "tip"`},
		{[]string{"resolve", "-", "--server", nowhere}, "standard input: expected addresses"},
		{[]string{"tree"}, "expected ADDRESS or ID, got nothing"},
		{[]string{"tree", mainnetA, mainnetA}, "unexpected argument"},
		{[]string{"tree", txid31, "--server", nowhere}, "expected 64 hex characters, got 62"},
		{[]string{"tree", mainnetA, "--limit", "0"}, "--limit: expected a whole number from 1 to 1000000"},
		{[]string{"tree", mainnetA, "--at", "1.5"}, "--at: expected a block height"},
		{[]string{"history", txid31, "--server", nowhere}, "expected 64 hex characters, got 62"},
		{[]string{"history", mainnetA, "--limit", "many"}, "--limit: expected a whole number"},
		{[]string{"history", mainnetA, "--at", ""}, "--at: expected a block height"},
		{[]string{"watch", "--from", "now"}, "--from: expected a block height"},

		{[]string{"link"}, "link request, link accept, link revoke, link send"},
		{[]string{"link", "send"}, "expected FILE, got nothing"},
		{[]string{"link", "send", "answer.json"}, "no node to send to"},
		{[]string{"link", "cut"}, `unknown command "cut" for "keytree link"`},
		{[]string{"link", "request"}, "no parent given"},
		{[]string{"link", "request", "--parent", wrongSum}, "--parent: invalid address"},
		{[]string{"link", "request", "--parent", wrongSum}, "checksum does not match"},
		{[]string{"link", "request", "--parent", mainnetA, "--network", "regtest"}, `expected prefix "bchreg" of regtest`},
		{[]string{"link", "accept"}, "expected REQUEST_TXID, got nothing"},
		{[]string{"link", "accept", txid31}, "request txid: expected 64 hex characters, got 62"},
		{[]string{"link", "accept", noHexTxID}, `request txid: expected 64 hex characters, got "z" as character 1`},
		{[]string{"link", "revoke"}, "expected ACCEPT_TXID, got nothing"},
		{[]string{"link", "revoke", txid31}, "accept txid: expected 64 hex characters, got 62"},
		{with(link), "expected the acting key from one of --key-file FILE and --key-stdin"},
		{with(link, "--key-file", keyFile, "--key-stdin"), "expected the acting key from one of"},
		{with(link, "--key-file", keyFile), "no node to send to"},
		{with(link, "--key-file", keyFile, "--dry-run"), "no coins to pay with"},
		{with(link, "--key-file", keyFile, "--dry-run", "--unsigned"), "expected one of --dry-run and --unsigned"},
		{with(link, "--key-file", keyFile, "--unsigned", "--utxo", someCoin), "--unsigned takes no key"},
		{with(link, "--key-stdin", "--unsigned", "--utxo", someCoin), "--unsigned takes no key"},
		{with(link, "--unsigned", "--utxo", someCoin), "expected --from ADDRESS"},
		{with(link, "--key-file", keyFile, "--dry-run", "--from", mainnetA, "--utxo", someCoin), "--from goes with --unsigned"},
		{with(link, "--unsigned", "--from", mainnetA, "--utxo", someCoin), `--from: invalid address`},
		{with(link, "--key-stdin", "--format", "hex"), "--format goes with --unsigned"},
		{with(link, "--unsigned", "--format", "qr"), "--format: expected one of json, walletconnect, wizardconnect, hex"},
		{with(link, "--unsigned", "--format", "wizardconnect", "--from", mainnetA), "--format wizardconnect goes with --key-path"},
		{with(link, "--unsigned", "--key-path", "receive/5", "--from", mainnetA), "--format wizardconnect goes with --key-path"},
		{with(link, "--unsigned", "--key-path", "5"), "--key-path: expected receive, change or defi"},
		{with(link, "--utxo", "abc"), `--utxo: expected TXID:VOUT:SATOSHIS, got "abc"`},
		{with(link, "--utxo", txid31+":0:1"), "--utxo: TXID: expected 64 hex characters, got 62"},
		{with(link, "--utxo", someTxID+":x:1"), "--utxo: expected an output number"},
		{with(link, "--utxo", someTxID+":0:-1"), "--utxo: expected a number of satoshis"},
		{with(link, "--utxo", someTxID+":0:2100000000000001"), "--utxo: expected a number of satoshis"},
		{with(link, "--fee-rate", "0"), "--fee-rate: expected a whole number from 1 to 1000"},
		{with(link, "--fee-rate", "1001"), "--fee-rate: expected a whole number from 1 to 1000"},
		{with(link, "--message", strings.Repeat("x", 197)), "--message: message too long: MLR takes at most 196 bytes, got 197"},

		{[]string{"signin"}, "no app given"},
		{[]string{"signin", "--domain", "memo.cash", "--uri", "https://memo.cash/"}, "expected one of --key-file FILE, and --address ADDRESS"},
		{[]string{"signin", "--domain", "memo.cash", "--uri", "https://memo.cash/", "--address", mainnetA, "--key-file", keyFile}, "expected one of --key-file FILE"},
		{[]string{"signin", "--domain", "memo.cash", "--uri", "https://memo.cash/", "--address", wrongSum}, "--address: invalid address"},

		{[]string{"demo", "now"}, `unexpected argument "now"`},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			o := keytree(t, test.args...)
			o.wantError(t, exitUsage, test.want)
			if !strings.Contains(o.stderr, "--help)") {
				t.Errorf("standard error %q does not point to the help", o.stderr)
			}
		})
	}
}

// TestFailures are good command lines whose job cannot be done.
func TestFailures(t *testing.T) {
	key := regtest.NewKey()
	open := writeKey(t, key.WIF())
	if err := os.Chmod(open, 0o640); err != nil {
		t.Fatal(err)
	}
	occupied := t.TempDir()
	if err := os.WriteFile(filepath.Join(occupied, "graph"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := []string{"link", "request", "--network", "regtest", "--parent", regtest.NewKey().Address(),
		"--server", nowhere, "--dry-run", "--utxo", someCoin, "--key-file"}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"status", "--server", nowhere}, "server 127.0.0.1:1: "},
		{[]string{"status", "--server", nowhere}, "is keytree serve running there?"},
		{[]string{"watch", "--server", nowhere}, "is keytree serve running there?"},
		{[]string{"serve", "--node", goodURL, "--data-dir", occupied}, "making the graph's folder"},
		{[]string{"serve", "--node", goodURL, "--data-dir", t.TempDir(), "--grpc-listen", "192.0.2.1:0", "--plaintext", "--log-level", "error"}, "--grpc-listen: listen tcp 192.0.2.1:0"},
		{append(link, filepath.Join(t.TempDir(), "none")), "no such file"},
		{append(link, open), "can be read by others than its owner (mode 0640): chmod 600 it"},
		{append(link, writeKey(t, "")), "expected a WIF, got nothing"},
		{append(link, writeKey(t, strings.Repeat("x", 2000))), "expected a WIF, got more than 1024 bytes"},
		{append(link, writeKey(t, key.WIF()+"\n"+key.WIF())), "expected a WIF"},
		{[]string{"demo", "--bchd", "/nonexistent/bchd"}, "bchd executable"},
	} {
		t.Run(test.want, func(t *testing.T) {
			keytree(t, test.args...).wantError(t, exitFailed, test.want)
		})
	}
}

// TestFullDisk checks that output that cannot be written is no success.
func TestFullDisk(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("the system has no /dev/full")
	}
	defer full.Close()
	for _, command := range []string{"version", "--help"} {
		var stderr strings.Builder
		if code := run(t.Context(), []string{command}, strings.NewReader(""), full, &stderr); code != exitFailed {
			t.Errorf("%s: exit code %d, want %d", command, code, exitFailed)
		}
		if !strings.Contains(stderr.String(), "writing the output") {
			t.Errorf("%s: standard error %q", command, stderr.String())
		}
	}
}

func TestHelpAndVersion(t *testing.T) {
	for _, args := range [][]string{
		{}, {"help"}, {"--help"}, {"version"}, {"help", "serve"}, {"serve", "--help"}, {"demo", "--help"}, {"status", "--help"},
		{"resolve", "--help"}, {"tree", "--help"}, {"history", "--help"}, {"watch", "--help"}, {"link", "--help"},
		{"link", "request", "--help"}, {"link", "accept", "--help"}, {"link", "revoke", "--help"}, {"link", "send", "--help"}, {"version", "--help"},
	} {
		out := mustKeytree(t, args...)
		if !strings.Contains(out, "keytree") {
			t.Errorf("%q printed %q", args, out)
		}
		if len(args) == 2 && args[1] == "--help" && args[0] != "link" && !strings.Contains(out, "Examples:") {
			t.Errorf("the help of %s has no example", args[0])
		}
	}
}

// writeKey writes a key file as it should be and returns its path.
func writeKey(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key.wif")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
