package signin

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/protocol/signin"
)

// keyMark begins the file of a key; the key in hex follows.
const keyMark = "keytree sign-in key 1 "

// OpenKey reads the key for Config from a file that its owner alone can read, or makes one
// there. The errors are those of durable.ReadSecret and durable.CreateSecret, and hold nothing
// of the file.
func OpenKey(path string) ([]byte, error) {
	content, err := durable.ReadSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		key := newKey()
		return key, durable.CreateSecret(path, fmt.Appendf(nil, "%s%x\n", keyMark, key))
	}
	if err != nil {
		return nil, err
	}
	text, ok := strings.CutPrefix(strings.TrimSuffix(string(content), "\n"), keyMark)
	key, err := hex.DecodeString(text)
	if !ok || err != nil || len(key) != signin.NonceKeySize {
		return nil, fmt.Errorf("%s: not the file of a key for signing in", path)
	}
	return key, nil
}

// newKey makes a key.
func newKey() []byte {
	key := make([]byte, signin.NonceKeySize)
	rand.Read(key) // which never fails
	return key
}
