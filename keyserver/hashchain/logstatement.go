package hashchain

import (
	"crypto/ed25519"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/sigkey"
)

// LogStatement is what a keyserver says of the transparency log that its chain is served as
// (keyserver/TLOG.md §2): whose checkpoints are its own, and where the chain ended when it
// said so.
type LogStatement struct {
	Domain    string `json:"DOMAIN"`
	LogOrigin string `json:"LOGORIGIN"`
	LogVKey   string `json:"LOGVKEY"` // public key of the log, as tlog.ParseLogKey reads it
	Root      string `json:"ROOT"`    // Merkle tree hash over all entries, base64
	Size      uint64 `json:"SIZE"`    // entries
	Time      uint64 `json:"TIME"`    // of the statement, Unix seconds
}

// SignedLogStatement is a LogStatement under the key of the keyserver that is in force at
// its size (InForce).
type SignedLogStatement struct {
	ServerSignature string       `json:"SERVERSIGNATURE"` // over canonical STATEMENT, base64
	Statement       LogStatement `json:"STATEMENT"`
}

// SignLog states, at a time in Unix seconds, which log a domain's chain is served as.
func SignLog(c *Chain, domain, origin, vkey string, time uint64, key ed25519.PrivateKey) *SignedLogStatement {
	root := c.Root()
	s := LogStatement{
		Domain:    domain,
		LogOrigin: origin,
		LogVKey:   vkey,
		Root:      canonical.Encode(root[:]),
		Size:      c.Size,
		Time:      time,
	}
	return &SignedLogStatement{canonical.Encode(ed25519.Sign(key, canonical.Marshal(s))), s}
}

// Verify checks the signature against the keyserver's public key and returns the root.
// canonical.ErrMalformed or ErrProof otherwise.
func (s *SignedLogStatement) Verify(key ed25519.PublicKey) (root Hash, err error) {
	signature, err := canonical.Decode(s.ServerSignature, ed25519.SignatureSize)
	if err != nil {
		return Hash{}, fmt.Errorf("SERVERSIGNATURE: %w", err)
	}
	if !sigkey.Verify(key, canonical.Marshal(s.Statement), signature) {
		return Hash{}, fmt.Errorf("%w: SERVERSIGNATURE of the statement about the log of %d entries is not by the keyserver's key", ErrProof, s.Statement.Size)
	}
	tree, err := canonical.Decode(s.Statement.Root, len(root))
	if err != nil {
		return Hash{}, fmt.Errorf("ROOT: %w", err)
	}
	return Hash(tree), nil
}
