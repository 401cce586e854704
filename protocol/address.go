package protocol

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchutil"
	"github.com/gcash/bchutil/base58"
	"github.com/gcash/bchutil/bech32"
)

// ErrAddress is wrapped by every error of ParseAddress. The message says what
// was expected and what came; ask the user for another address.
var ErrAddress = errors.New("invalid address")

const (
	// maxAddress bounds what is looked at and echoed, in bytes. The longest
	// address in use, P2SH32 with the prefix simpleledger, has 74.
	maxAddress = 100
	// maxLegacy is the length of the longest base58 encoding of 25 bytes.
	// Anything longer must be a CashAddr.
	maxLegacy = 35
	// cashAddrKey is the length of a CashAddr without prefix that holds a
	// 20-byte hash: 34 characters for 21 bytes, 8 of checksum.
	cashAddrKey = 42
)

// ParseAddress returns the key that s is the P2PKH address of, on net. It takes
// CashAddr with or without its prefix, plain or token-aware, all in lower or
// all in upper case, and legacy base58. Any other address (another network's,
// a script's, SLP) and anything else gets an error that wraps ErrAddress.
//
// The testnets and regtest share their legacy version byte, testnet3, testnet4
// and chipnet the CashAddr prefix as well: such addresses are good on each.
func ParseAddress(s string, net *chaincfg.Params) (KeyHash, error) {
	var key KeyHash
	var err error
	switch {
	case s == "":
		return KeyHash{}, fmt.Errorf("%w: expected a CashAddr such as %s or a legacy address, got nothing",
			ErrAddress, FormatAddress(KeyHash{}, net))
	case len(s) > maxAddress:
		return KeyHash{}, fmt.Errorf("%w: expected at most %d characters, got %d, starting %.20q", ErrAddress, maxAddress, len(s), s)
	case strings.Contains(s, ":") || len(s) > maxLegacy:
		key, err = parseCashAddr(s, net)
	default:
		key, err = parseLegacy(s, net)
	}
	if err != nil {
		return KeyHash{}, fmt.Errorf("%w %q: %w", ErrAddress, s, err)
	}
	return key, nil
}

// parseCashAddr checks all of the CashAddr specification except for the
// checksum and the alphabet, which bchutil does. bchutil.DecodeAddress is not
// used: it takes mixed case, public keys in hex, SLP, legacy addresses of any
// network, unknown types, the reserved bit, and a size that is not the hash's.
func parseCashAddr(s string, net *chaincfg.Params) (KeyHash, error) {
	prefix, payload, given := strings.Cut(s, ":")
	if !given {
		prefix, payload = net.CashAddressPrefix, s
	}
	if prefix == net.CashAddressPrefix {
		if key, ok := parseKeyAddress(prefix, payload); ok {
			return key, nil
		}
	}
	if i := strings.IndexFunc(s, notCashAddr); i >= 0 {
		return KeyHash{}, fmt.Errorf("expected letters, digits and one colon, got %q", s[i:i+1])
	}
	lower := strings.ToLower(s)
	if s != lower && s != strings.ToUpper(s) {
		return KeyHash{}, errors.New("expected all lower or all upper case, got both")
	}
	prefix, payload = strings.ToLower(prefix), strings.ToLower(payload)
	if prefix != net.CashAddressPrefix {
		return KeyHash{}, fmt.Errorf("expected prefix %q of %s, got %q%s", net.CashAddressPrefix, net.Name, prefix, prefixNote(prefix))
	}
	if len(payload) < cashAddrKey { // DecodeCashAddress relies on 8 at least
		return KeyHash{}, fmt.Errorf("expected %d characters after the prefix, got %d", cashAddrKey, len(payload))
	}
	if key, ok := parseKeyAddress(prefix, payload); ok { // in upper case
		return key, nil
	}
	_, data, err := bchutil.DecodeCashAddress(prefix + ":" + payload)
	if err != nil {
		if other := prefixOf(payload); !given && other != "" {
			return KeyHash{}, fmt.Errorf("expected an address of %s (prefix %q), the checksum is that of prefix %q%s",
				net.Name, net.CashAddressPrefix, other, prefixNote(other))
		}
		if errors.Is(err, bchutil.ErrChecksumMismatch) {
			return KeyHash{}, errors.New("checksum does not match: a character is wrong or missing")
		}
		return KeyHash{}, err
	}
	decoded, err := bech32.ConvertBits(data, 5, 8, false)
	if err != nil {
		return KeyHash{}, fmt.Errorf("padding: %w", err)
	}
	return keyOfPayload(decoded)
}

// The types of CashAddr in the version byte, after its reserved bit.
const (
	typeKey         = 0
	typeScript      = 1
	typeTokenKey    = 2
	typeTokenScript = 3
)

// keyOfPayload reads a decoded CashAddr payload: the version byte (a reserved
// bit, four bits of type, three of size) and a hash.
func keyOfPayload(payload []byte) (KeyHash, error) {
	version, hash := payload[0], payload[1:]
	if version&0x80 != 0 {
		return KeyHash{}, fmt.Errorf("version byte 0x%02x has the reserved bit set", version)
	}
	sizes := [8]int{20, 24, 28, 32, 40, 48, 56, 64}
	if want := sizes[version&7]; want != len(hash) {
		return KeyHash{}, fmt.Errorf("version byte 0x%02x announces a hash of %d bytes, got %d", version, want, len(hash))
	}
	switch version >> 3 {
	case typeKey, typeTokenKey:
	case typeScript, typeTokenScript:
		return KeyHash{}, fmt.Errorf("expected the address of a key (P2PKH), got that of a script (P2SH, %d bytes)", len(hash))
	default:
		return KeyHash{}, fmt.Errorf("expected the address of a key (P2PKH), got one of unknown type %d", version>>3)
	}
	if len(hash) != len(KeyHash{}) {
		return KeyHash{}, fmt.Errorf("expected a hash of %d bytes, got %d", len(KeyHash{}), len(hash))
	}
	return KeyHash(hash), nil
}

func notCashAddr(r rune) bool {
	return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != ':'
}

// prefixOf returns the prefix, of a known network or of SLP, under which the
// checksum of payload is right, "" if there is none.
func prefixOf(payload string) string {
	for _, net := range networks() {
		for _, prefix := range []string{net.CashAddressPrefix, net.SlpAddressPrefix} {
			if _, _, err := bchutil.DecodeCashAddress(prefix + ":" + payload); err == nil {
				return prefix
			}
		}
	}
	return ""
}

// prefixNote says in brackets what a prefix that was not expected stands for.
func prefixNote(prefix string) string {
	var names []string
	for _, net := range networks() {
		switch prefix {
		case net.SlpAddressPrefix:
			return " (SLP)"
		case net.CashAddressPrefix:
			names = append(names, net.Name)
		}
	}
	if names == nil {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}

func parseLegacy(s string, net *chaincfg.Params) (KeyHash, error) {
	hash, version, err := base58.CheckDecode(s)
	if errors.Is(err, base58.ErrChecksum) {
		return KeyHash{}, errors.New("checksum does not match: a character is wrong or missing")
	}
	if err != nil {
		return KeyHash{}, errors.New("neither a CashAddr nor a legacy address")
	}
	switch version {
	case net.LegacyPubKeyHashAddrID:
	case net.LegacyScriptHashAddrID:
		return KeyHash{}, errors.New("expected the address of a key (P2PKH), got that of a script (P2SH)")
	default:
		return KeyHash{}, fmt.Errorf("expected version byte 0x%02x of %s, got 0x%02x", net.LegacyPubKeyHashAddrID, net.Name, version)
	}
	if len(hash) != len(KeyHash{}) {
		return KeyHash{}, fmt.Errorf("expected a hash of %d bytes, got %d", len(KeyHash{}), len(hash))
	}
	return KeyHash(hash), nil
}
