package protocol

import (
	"errors"
	"fmt"

	"github.com/gcash/bchd/bchec"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchutil"
)

// WIF is a private key in wallet import format. It must not be printed.
type WIF struct {
	Key          KeyHash // of the public key that the format names
	Uncompressed bool    // that public key has 65 bytes
	Private      *bchec.PrivateKey
}

// ParseWIF reads a private key of a network, 51 or 52 letters and digits. Errors hold
// nothing of it.
func ParseWIF(text string, net *chaincfg.Params) (WIF, error) {
	if text == "" {
		return WIF{}, errors.New("expected a WIF, got nothing")
	}
	wif, err := bchutil.DecodeWIF(text)
	if errors.Is(err, bchutil.ErrChecksumMismatch) {
		return WIF{}, errors.New("expected a WIF, but its checksum does not match: a character is wrong or missing")
	}
	if err != nil {
		return WIF{}, errors.New("expected a WIF (wallet import format: 51 or 52 letters and digits) and nothing else")
	}
	if !wif.IsForNet(net) {
		return WIF{}, fmt.Errorf("expected a WIF of %s, got that of another network (--network names it)", net.Name)
	}
	return WIF{Key: KeyHash(bchutil.Hash160(wif.SerializePubKey())), Uncompressed: !wif.CompressPubKey, Private: wif.PrivKey}, nil
}
