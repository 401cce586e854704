package hashchain

import (
	"crypto/ed25519"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/sigkey"
)

// Head is a keyserver's statement of where its chain ends.
type Head struct {
	// AnchorChain is where the keyserver anchors its chain: the txid of the genesis
	// anchor as it is displayed. "" if it does not.
	AnchorChain string `json:"ANCHORCHAIN,omitempty"`
	Domain      string `json:"DOMAIN"`
	EntryHash   string `json:"ENTRYHASH"` // of the last entry, base64
	Size        uint64 `json:"SIZE"`      // entries
	Time        uint64 `json:"TIME"`      // of the statement, Unix seconds
	TreeRoot    string `json:"TREEROOT"`  // Merkle tree hash over all entries, base64
}

// SignedHead is a Head under the keyserver's key: with another one that no
// consistency proof can join to it, evidence that the keyserver has shown two
// histories.
type SignedHead struct {
	Head            Head   `json:"HEAD"`
	ServerSignature string `json:"SERVERSIGNATURE"` // over canonical HEAD, base64
}

// SignHead states, at a time in Unix seconds, where a domain's chain ends, and in
// which chain of anchors it is anchored, "" for none.
func SignHead(c *Chain, domain, anchorChain string, time uint64, key ed25519.PrivateKey) SignedHead {
	root := c.Root()
	h := Head{
		AnchorChain: anchorChain,
		Domain:      domain,
		EntryHash:   canonical.Encode(c.Head[:]),
		Size:        c.Size,
		Time:        time,
		TreeRoot:    canonical.Encode(root[:]),
	}
	return SignedHead{h, canonical.Encode(ed25519.Sign(key, canonical.Marshal(h)))}
}

// Verify checks the signature against the keyserver's public key and returns the
// two hashes. canonical.ErrMalformed or ErrProof otherwise.
func (s *SignedHead) Verify(key ed25519.PublicKey) (entryHash, root Hash, err error) {
	signature, err := canonical.Decode(s.ServerSignature, ed25519.SignatureSize)
	if err != nil {
		return Hash{}, Hash{}, fmt.Errorf("SERVERSIGNATURE: %w", err)
	}
	if !sigkey.Verify(key, canonical.Marshal(s.Head), signature) {
		return Hash{}, Hash{}, fmt.Errorf("%w: SERVERSIGNATURE of the head of %d entries is not by the keyserver's key", ErrProof, s.Head.Size)
	}
	head, err := canonical.Decode(s.Head.EntryHash, len(entryHash))
	if err != nil {
		return Hash{}, Hash{}, fmt.Errorf("ENTRYHASH: %w", err)
	}
	tree, err := canonical.Decode(s.Head.TreeRoot, len(root))
	if err != nil {
		return Hash{}, Hash{}, fmt.Errorf("TREEROOT: %w", err)
	}
	return Hash(head), Hash(tree), nil
}

// InForce returns which of a keyserver's keys signs while its hashchain has a number of
// entries: heads of that size, and the reply about the entry that comes next (keyserver/WIRE.md
// §8). There are n keys, one at least, the oldest first; named returns the position
// of the entry that names key i, which increases from 0 on. The first entry is signed by the
// key that it names, each later one by the key that was named before it.
func InForce(size uint64, n int, named func(i int) uint64) int {
	i := n - 1
	for i > 0 && named(i) >= size {
		i--
	}
	return i
}
