package keyinit

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// MaxFlushAge is how far the time of a flush may be from that of the keyserver,
// in seconds.
const MaxFlushAge = 300

// SignFlush signs the order to forget all KeyInits of the key, given at a time in
// Unix seconds. The signature is over the 8 bytes of the time, little-endian, and
// returned as base64.
func SignFlush(nonce uint64, key ed25519.PrivateKey) string {
	return canonical.Encode(ed25519.Sign(key, binary.LittleEndian.AppendUint64(nil, nonce)))
}

// VerifyFlush checks such an order: uid.ErrExpired if it is too old or too new,
// uid.ErrSignature if it is not by the key. The repository checks that it is not older
// than the one before.
func VerifyFlush(sigKey ed25519.PublicKey, nonce uint64, signature string, now uint64) error {
	if max(nonce, now)-min(nonce, now) > MaxFlushAge {
		return fmt.Errorf("%w: Nonce %s is more than %d seconds from the keyserver's time, %s", uid.ErrExpired, uid.Date(nonce), MaxFlushAge, uid.Date(now))
	}
	return uid.Verify("Signature", sigKey, binary.LittleEndian.AppendUint64(nil, nonce), signature)
}
