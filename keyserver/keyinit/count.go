package keyinit

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Count is how many KeyInits of a key a repository can hand out.
type Count struct {
	Once     uint64 // each once
	Fallback uint64 // more than once
}

// counted is what is signed to ask for a Count at a time in Unix seconds.
func counted(nonce uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte("keytree count KeyInits 1\n"), nonce)
}

// SignCount signs the question how many KeyInits of the key there are, asked at a time in Unix
// seconds; base64. Only their owner is told: others would see how often somebody is written to.
func SignCount(nonce uint64, key ed25519.PrivateKey) string {
	return canonical.Encode(ed25519.Sign(key, counted(nonce)))
}

// VerifyCount checks such a question: uid.ErrExpired if it is more than MaxFlushAge seconds
// from now, uid.ErrSignature if it is not by the key.
func VerifyCount(sigKey ed25519.PublicKey, nonce uint64, signature string, now uint64) error {
	if max(nonce, now)-min(nonce, now) > MaxFlushAge {
		return fmt.Errorf("%w: Nonce %s is more than %d seconds from the keyserver's time, %s", uid.ErrExpired, uid.Date(nonce), MaxFlushAge, uid.Date(now))
	}
	return uid.Verify("Signature", sigKey, counted(nonce), signature)
}
