package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/protocol"
)

// maxKey is more, in bytes, than a WIF with white space around it takes.
const maxKey = 1024

// author is the acting key of a link command.
type author struct {
	key          protocol.KeyHash
	private      *bchec.PrivateKey // nil with --unsigned
	uncompressed bool              // key is the hash of the uncompressed public key
}

// author reads the acting key, or its address if another program signs.
func (p *publisher) author() (author, error) {
	if *p.unsigned {
		key, err := protocol.ParseAddress(*p.from, p.network.value)
		if err != nil {
			return author{}, usagef("--from: %w", err)
		}
		return author{key: key}, nil
	}
	source := "standard input"
	text, err := readKey(p.app.stdin)
	if *p.keyFile != "" {
		source = *p.keyFile
		text, err = readKeyFile(*p.keyFile)
	}
	if err != nil {
		return author{}, fmt.Errorf("key: %w", err)
	}
	a, err := parseWIF(text, p.network.value)
	if err != nil {
		return author{}, fmt.Errorf("key from %s: %w", source, err)
	}
	return a, nil
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

// parseWIF reads a private key. Its errors hold nothing of it.
func parseWIF(text string, net *chaincfg.Params) (author, error) {
	if text == "" {
		return author{}, errors.New("expected a WIF, got nothing")
	}
	wif, err := bchutil.DecodeWIF(text)
	if errors.Is(err, bchutil.ErrChecksumMismatch) {
		return author{}, errors.New("expected a WIF, but its checksum does not match: a character is wrong or missing")
	}
	if err != nil {
		return author{}, errors.New("expected a WIF (wallet import format: 51 or 52 letters and digits) and nothing else")
	}
	if !wif.IsForNet(net) {
		return author{}, fmt.Errorf("expected a WIF of %s, got that of another network (--network names it)", net.Name)
	}
	public := wif.SerializePubKey()
	return author{
		key: protocol.KeyHash(bchutil.Hash160(public)), private: wif.PrivKey, uncompressed: !wif.CompressPubKey,
	}, nil
}
