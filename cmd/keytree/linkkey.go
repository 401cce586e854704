package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/gcash/bchd/chaincfg"

	"github.com/keytree-bch/keytree/protocol"
)

// maxKey is more, in bytes, than a WIF with white space around it takes.
const maxKey = 1024

// author reads the acting key, or its address if another program signs: then there is no
// private key.
func (p *publisher) author() (protocol.WIF, error) {
	if *p.unsigned {
		key, err := protocol.ParseAddress(*p.from, p.network.value)
		if err != nil {
			return protocol.WIF{}, usagef("--from: %w", err)
		}
		return protocol.WIF{Key: key}, nil
	}
	if *p.keyFile != "" {
		return parseKeyFile(*p.keyFile, p.network.value)
	}
	text, err := readKey(p.app.stdin)
	return parseKey("standard input", text, err, p.network.value)
}

// parseKeyFile reads a key from a file that only its owner can read.
func parseKeyFile(name string, net *chaincfg.Params) (protocol.WIF, error) {
	text, err := readKeyFile(name)
	return parseKey(name, text, err, net)
}

// parseKey reads a key from what came of reading a source.
func parseKey(source, text string, err error, net *chaincfg.Params) (protocol.WIF, error) {
	if err != nil {
		return protocol.WIF{}, fmt.Errorf("key: %w", err)
	}
	wif, err := protocol.ParseWIF(text, net)
	if err != nil {
		return protocol.WIF{}, fmt.Errorf("key from %s: %w", source, err)
	}
	return wif, nil
}

// readKeyFile reads a file that only its owner can read. A pipe may be given in
// its place.
func readKeyFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	// Windows keeps who may read elsewhere.
	if mode := info.Mode(); mode.IsRegular() && mode.Perm()&0o077 != 0 && runtime.GOOS != "windows" {
		return "", fmt.Errorf("%s can be read by others than its owner (mode %04o): chmod 600 it", name, mode.Perm())
	}
	return readKey(f)
}

func readKey(r io.Reader) (string, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxKey+1))
	if err != nil {
		return "", err
	}
	if len(content) > maxKey {
		return "", fmt.Errorf("expected a WIF, got more than %d bytes", maxKey)
	}
	return strings.TrimSpace(string(content)), nil
}
