package anchor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchutil"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/protocol"
)

// key is one that can hold the baton.
type key struct {
	private *bchec.PrivateKey
	hash    protocol.KeyHash // of the compressed public key
}

func newKey(private *bchec.PrivateKey) *key {
	return &key{private, protocol.KeyHash(bchutil.Hash160(private.PubKey().SerializeCompressed()))}
}

// keyring is the key file and, while the baton goes from one key to another, its
// siblings. Each file holds a private key as WIF, which any wallet can import.
//
// A key takes three steps: it is made in FILE.next; once a transaction that pays the
// baton to it is on disk, FILE is copied to FILE.previous and replaced; FILE.previous is
// removed when it cannot be needed any more. After a crash in between, the next
// observation shows where the baton is, and what is missing is made up for.
type keyring struct {
	path string
	net  *chaincfg.Params

	current  *key
	next     *key // nil if there is none
	previous *key // nil if there is none
}

func nextFile(path string) string     { return path + ".next" }
func previousFile(path string) string { return path + ".previous" }

// openKeyring reads the keys. If there is no key file it makes one, provided that fresh
// says that there can be no anchor by a key before.
func openKeyring(path string, net *chaincfg.Params, fresh bool) (*keyring, error) {
	r := &keyring{path: path, net: net}
	for _, file := range []struct {
		path string
		to   **key
	}{{path, &r.current}, {nextFile(path), &r.next}, {previousFile(path), &r.previous}} {
		k, err := r.read(file.path)
		if err != nil {
			return nil, err
		}
		*file.to = k
	}
	if r.current != nil {
		return r, nil
	}
	if !fresh {
		return nil, fmt.Errorf("%w: %s is missing, and anchors have been made already: restore the anchor key", ErrMismatch, path)
	}
	if r.next != nil || r.previous != nil {
		return nil, fmt.Errorf("%w: %s is missing, but %s or %s is there: restore the anchor key", ErrMismatch, path, nextFile(path), previousFile(path))
	}
	var err error
	r.current, err = r.create(path)
	return r, err
}

// create makes a key in a new file.
func (r *keyring) create(path string) (*key, error) {
	private, err := bchec.NewPrivateKey(bchec.S256())
	if err != nil {
		return nil, err
	}
	return newKey(private), r.write(path, private)
}

func (r *keyring) write(path string, private *bchec.PrivateKey) error {
	wif, err := bchutil.NewWIF(private, r.net, true)
	if err == nil {
		err = durable.CreateSecret(path, []byte(wif.String()+"\n"))
	}
	if err != nil {
		return fmt.Errorf("anchor key: %w", err)
	}
	return nil
}

// read returns the key in a file, nil if there is no file. Errors hold nothing of it.
func (r *keyring) read(path string) (*key, error) {
	content, err := durable.ReadSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("anchor key: %w", err)
	}
	wif, err := bchutil.DecodeWIF(string(bytes.TrimSpace(content)))
	if err != nil || !wif.CompressPubKey {
		return nil, fmt.Errorf("%w: %s: expected a private key as WIF, for a compressed public key", ErrMismatch, path)
	}
	if !wif.IsForNet(r.net) {
		return nil, fmt.Errorf("%w: %s: expected a key of %s, got that of another network", ErrMismatch, path, r.net.Name)
	}
	return newKey(wif.PrivKey), nil
}

// private returns the private keys.
func (r *keyring) private() (keys []*bchec.PrivateKey) {
	for _, k := range []*key{r.current, r.next, r.previous} {
		if k != nil {
			keys = append(keys, k.private)
		}
	}
	return keys
}

// holders are the hashes of the keys; nil where there is none.
type holders struct{ current, next, previous *protocol.KeyHash }

func (r *keyring) holders() holders {
	of := func(k *key) *protocol.KeyHash {
		if k == nil {
			return nil
		}
		return &k.hash
	}
	return holders{of(r.current), of(r.next), of(r.previous)}
}

// all returns those that there are, the current one first.
func (h *holders) all() (hashes []protocol.KeyHash) {
	for _, hash := range []*protocol.KeyHash{h.current, h.next, h.previous} {
		if hash != nil {
			hashes = append(hashes, *hash)
		}
	}
	return hashes
}

// owns reports whether one of the keys is the author.
func (h *holders) owns(author *protocol.KeyHash) bool {
	return author != nil && slices.Contains(h.all(), *author)
}

// prepare makes the key that the baton is to go to next.
func (r *keyring) prepare() (err error) {
	r.next, err = r.create(nextFile(r.path))
	return err
}

// promote puts the next key in the place of the current one, which is kept.
func (r *keyring) promote() error {
	// After a crash right here it is kept already.
	if r.previous == nil {
		if err := r.write(previousFile(r.path), r.current.private); err != nil {
			return err
		}
	}
	if err := durable.Rename(nextFile(r.path), r.path); err != nil {
		return fmt.Errorf("anchor key: %w", err)
	}
	r.previous, r.current, r.next = r.current, r.next, nil
	return nil
}

// forget removes the previous key.
func (r *keyring) forget() error {
	if err := durable.Remove(previousFile(r.path)); err != nil {
		return fmt.Errorf("anchor key: %w", err)
	}
	r.previous = nil
	return nil
}
