package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPrecedence looks at the address that status fails to reach: flag before
// environment before config file before default.
func TestPrecedence(t *testing.T) {
	dir := t.TempDir()
	inDir := writeConfig(t, dir, "server: 127.0.0.1:5\n")
	elsewhere := writeConfig(t, t.TempDir(), "server: 127.0.0.1:4\nnode: "+goodURL+"\nstart-height: 7\n")
	for _, test := range []struct {
		name string
		env  map[string]string
		args []string
		want string
	}{
		{"default", nil, nil, defaultGRPC},
		{"file in the data folder", nil, []string{"--data-dir", dir}, "127.0.0.1:5"},
		{"file in the data folder by environment", map[string]string{"KEYTREE_DATA_DIR": dir}, nil, "127.0.0.1:5"},
		{"file", nil, []string{"--config", elsewhere}, "127.0.0.1:4"},
		{"file by environment", map[string]string{"KEYTREE_CONFIG": elsewhere}, nil, "127.0.0.1:4"},
		{"the given file stands in for the one in the data folder", nil, []string{"--config", elsewhere, "--data-dir", dir}, "127.0.0.1:4"},
		{"environment before file", map[string]string{"KEYTREE_SERVER": "127.0.0.1:3"}, []string{"--config", elsewhere}, "127.0.0.1:3"},
		{"an empty variable is none", map[string]string{"KEYTREE_SERVER": ""}, []string{"--config", elsewhere}, "127.0.0.1:4"},
		{"flag before all", map[string]string{"KEYTREE_SERVER": "127.0.0.1:3"}, []string{"--config", inDir, "--server", "127.0.0.1:2"}, "127.0.0.1:2"},
		{"what is about one call is no setting", map[string]string{"KEYTREE_JSON": "maybe"}, []string{"--server", "127.0.0.1:2"}, "127.0.0.1:2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			keytree(t, append([]string{"status"}, test.args...)...).wantError(t, exitFailed, "server "+test.want+": ")
		})
	}
}

func TestBadSettings(t *testing.T) {
	for _, test := range []struct {
		name    string
		content string
		env     map[string]string
		command string
		want    string
	}{
		{name: "unknown key", content: "sever: 127.0.0.1:4\n", want: `unknown key "sever": expected some of bchd`},
		{name: "flags of one call", content: "at: 5\n", want: `unknown key "at"`},
		{name: "config", content: "config: x\n", want: `unknown key "config"`},
		{name: "no value", content: "server:\n", want: "server: expected a value, got nothing"},
		{name: "bad value", content: "server: localhost\n", want: `server: expected HOST:PORT, got "localhost"`},
		{name: "bad height", content: "start-height: 1e3\n", command: "serve", want: `start-height: expected a block height from 0 to 4294967295, got "1e3"`},
		{name: "state root", content: "state-root: maybe\n", command: "serve", want: `state-root: expected on or off, got "maybe"`},
		{name: "twice", content: "server: a:1\nserver: b:2\n", want: "already set"},
		{name: "list", content: "server: [a:1]\n", want: "line 1"},
		{name: "no YAML", content: "\tserver", want: "expected lines of the form"},
		{name: "too long", content: strings.Repeat("#\n", maxConfig), want: "expected at most 1048576 bytes"},
		{name: "environment", env: map[string]string{"KEYTREE_SERVER": "x"}, want: `environment variable KEYTREE_SERVER: expected HOST:PORT, got "x"`},
		{name: "environment of serve", command: "serve", env: map[string]string{"KEYTREE_NODE": "bchd://me:secret@127.0.0.1:1"},
			want: "environment variable KEYTREE_NODE: node URL holds credentials"},
		{name: "password of a node", command: "serve", content: "node: http://me:secret#@127.0.0.1:1\n",
			want: "node: node URL cannot be parsed (in a password, write %40 for @"},
		{name: "network", command: "serve", env: map[string]string{"KEYTREE_NETWORK": "test"}, want: "environment variable KEYTREE_NETWORK: unknown network"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for name, value := range test.env {
				t.Setenv(name, value)
			}
			command := "status"
			if test.command != "" {
				command = test.command
			}
			o := keytree(t, command, "--config", writeConfig(t, t.TempDir(), test.content))
			if test.name == "unknown key" {
				o.wantError(t, exitUsage, "expected some of acme, acme-cache, acme-directory, anchor-chain, anchor-fee-rate, anchor-heartbeat, anchor-interval, anchor-key-file, anchor-max-entries, anchor-state, checkpoint-interval, coins, cors-origin, cosign-key, cosign-logs, cosign-name, data-dir, expect-state, fee-rate, from-snapshot, grpc-listen, http-host, http-listen, keyinit-fetch, keyserver")
				o.wantError(t, exitUsage, "keyserver-domain, keyserver-key-file, keyserver-link-authority, keyserver-listen, keyserver-rate, keyserver-store, keyserver-tls-cert, keyserver-tls-key, keyserver-tokens, keyserver-uri, limit-bytes-in, limit-bytes-out, limit-connections, limit-long-answers, limit-requests, limit-streams, limit-work, log-format, log-level, mail-from, memory, mempool, mempool-max-actions, metrics-listen")
				o.wantError(t, exitUsage, "network, node, passphrase-file, plaintext, proof-memory, proof-rebuild-keys, server, server-ca, signin-key-file, smtp")
				o.wantError(t, exitUsage, "snapshot-policy, standby, start-height, state-log-host, state-log-key, state-root, state-witness-policy")
				o.wantError(t, exitUsage, "tls-cert, tls-key, tokens, trusted-proxy, unlimited, user-dir, verify, walletconnect-project-id, walletconnect-relay, witness-interval, witness-policy, witness-timeout, wizardconnect-relay")
				o.wantError(t, exitUsage, `unknown key "sever"`)
				return
			}
			o.wantError(t, exitUsage, test.want)
			if strings.Contains(o.stderr, "secret") {
				t.Errorf("standard error repeats a secret: %q", o.stderr)
			}
		})
	}
}

// TestDataDirInItsOwnFile is a setting that could only be misunderstood.
func TestDataDirInItsOwnFile(t *testing.T) {
	dir := t.TempDir()
	file := writeConfig(t, dir, "data-dir: /elsewhere\n")
	keytree(t, "status", "--data-dir", dir).wantError(t, exitUsage, "this file was found by the data folder")
	keytree(t, "status", "--config", file, "--server", nowhere).wantError(t, exitFailed, "server "+nowhere)
}

func writeConfig(t *testing.T, dir, content string) string {
	t.Helper()
	file := filepath.Join(dir, configName)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
