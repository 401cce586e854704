package signin

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gcash/bchd/chaincfg"

	"github.com/keytree-bch/keytree/protocol"
)

const (
	// MaxText is how many bytes a text may have that every wallet signs rightly. From 253
	// on its length takes three bytes in what is hashed, and deployed wallets write others
	// (protocol/SIGNIN.md §2).
	MaxText = 252
	// MaxLongText is how many bytes a text may have at all.
	MaxLongText = 1024
)

var (
	// ErrText is wrapped by the errors about a text that is not of the form. The message
	// names the line. Ask for another challenge, and sign it as it comes.
	ErrText = errors.New("not a text to sign in with")
	// ErrTooLong is wrapped by the errors about a text of more than MaxText bytes, or of
	// more than MaxLongText where long ones are allowed. Use a shorter URI.
	ErrTooLong = errors.New("text too long")
	// ErrNoNonce is wrapped by the errors about a text without a nonce. Ask for a challenge,
	// and sign it as it comes.
	ErrNoNonce = errors.New("no nonce")
	// ErrDomain is wrapped by the errors about a text for another domain than the
	// verifier's, and about a URI of another host than the domain. Somebody may be passing
	// on what was signed for another service.
	ErrDomain = errors.New("another domain")
	// ErrChain is wrapped by the errors about a text for another chain than the
	// verifier's. Sign in with an address of the right one.
	ErrChain = errors.New("another chain")
)

const (
	wants      = " wants you to sign in with your Bitcoin Cash account:"
	timeLayout = "2006-01-02T15:04:05Z"
)

// Message is what a key signs to sign in. It is good if Parse takes its Text.
type Message struct {
	// Domain is the host name of the service, with its port if that is not the scheme's
	// own, as browsers write location.host.
	Domain string
	// URI is where the service lets people sign in, on the host Domain.
	URI      string
	Key      protocol.KeyHash // that signs
	Network  *chaincfg.Params // of the key's address
	Nonce    Nonce
	IssuedAt time.Time // UTC, whole seconds
}

// Nonce is what makes a challenge one of a Verifier's. In the text it has 16 lower-case
// hex digits.
type Nonce [8]byte

func (n Nonce) String() string { return hex.EncodeToString(n[:]) }

// Address returns the key's address as the text has it: CashAddr with its prefix.
func (m Message) Address() string { return protocol.FormatAddress(m.Key, m.Network) }

// ChainID returns the name of the network in WalletConnect's namespace for Bitcoin Cash:
// bch:bitcoincash, bch:bchtest for all test networks, bch:bchreg.
func (m Message) ChainID() string { return "bch:" + m.Network.CashAddressPrefix }

// Text returns the text to sign: eight lines, without a line feed behind the last.
func (m Message) Text() string {
	return m.Domain + wants +
		"\n" + m.Address() +
		"\n" +
		"\nURI: " + m.URI +
		"\nVersion: 1" +
		"\nChain ID: " + m.ChainID() +
		"\nNonce: " + m.Nonce.String() +
		"\nIssued At: " + m.IssuedAt.UTC().Format(timeLayout)
}

// Parse reads a text, up to MaxLongText bytes, for an address of net. Each message has
// one text, so whatever differs from it is refused. The error wraps ErrTooLong, or
// ErrText. It wraps ErrDomain as well if the URI is of another host than the domain,
// ErrChain if the text is for another network, protocol.ErrAddress if there is no
// address of a key, and ErrNoNonce if there is no nonce.
func Parse(text string, net *chaincfg.Params) (Message, error) {
	if len(text) > MaxLongText {
		return Message{}, fmt.Errorf("%w: expected up to %d bytes, got %d", ErrTooLong, MaxLongText, len(text))
	}
	m := Message{Network: net}
	form := []struct {
		before, after string // what stands around the value
		read          func(value string) error
	}{
		{after: wants, read: m.readDomain},
		{read: m.readAddress},
		{read: exactly("")},
		{before: "URI: ", read: m.readURI},
		{before: "Version: ", read: exactly("1")},
		{before: "Chain ID: ", read: m.readChainID},
		{read: m.readNonce},
		{before: "Issued At: ", read: m.readIssuedAt},
	}
	lines := strings.Split(text, "\n")
	for i, part := range form {
		if i == len(lines) {
			return Message{}, fmt.Errorf("%w: line %d: expected %q, got the end", ErrText, i+1, part.before+"…")
		}
		value, begins := strings.CutPrefix(lines[i], part.before)
		value, ends := strings.CutSuffix(value, part.after)
		if !begins || !ends {
			return Message{}, fmt.Errorf("%w: line %d: expected %q, got %.80q", ErrText, i+1, part.before+"…"+part.after, lines[i])
		}
		if err := part.read(value); err != nil {
			return Message{}, fmt.Errorf("%w: line %d: %w", ErrText, i+1, err)
		}
	}
	if len(lines) > len(form) {
		return Message{}, fmt.Errorf("%w: line %d: expected the end, got %.80q", ErrText, len(form)+1, lines[len(form)])
	}
	return m, nil
}

func exactly(want string) func(string) error {
	return func(value string) error {
		if value != want {
			return fmt.Errorf("expected %q, got %.80q", want, value)
		}
		return nil
	}
}

func (m *Message) readDomain(value string) error {
	m.Domain = value
	return checkDomain(value)
}

func (m *Message) readURI(value string) error {
	m.URI = value
	return checkURI(value, m.Domain)
}

func (m *Message) readAddress(value string) error {
	if prefix, _, ok := strings.Cut(value, ":"); ok && !strings.EqualFold(prefix, m.Network.CashAddressPrefix) {
		return fmt.Errorf("%w: expected an address that begins with %s:, of %s, got %.80q", ErrChain, m.Network.CashAddressPrefix, m.Network.Name, value)
	}
	key, err := protocol.ParseAddress(value, m.Network)
	if err != nil {
		return err
	}
	m.Key = key
	if value != m.Address() {
		return fmt.Errorf("%w: expected %s, got the same key as %q", protocol.ErrAddress, m.Address(), value)
	}
	return nil
}

func (m *Message) readChainID(value string) error {
	if value != m.ChainID() {
		return fmt.Errorf("%w: expected %s, of %s, got %.80q", ErrChain, m.ChainID(), m.Network.Name, value)
	}
	return nil
}

func (m *Message) readNonce(line string) error {
	value, ok := strings.CutPrefix(line, "Nonce: ")
	n, err := hex.DecodeString(value)
	if !ok || err != nil || len(n) != len(m.Nonce) || hex.EncodeToString(n) != value {
		return fmt.Errorf("%w: expected \"Nonce: \" and %d lower-case hex digits, got %.80q", ErrNoNonce, 2*len(m.Nonce), line)
	}
	m.Nonce = Nonce(n)
	return nil
}

func (m *Message) readIssuedAt(value string) error {
	t, err := time.Parse(timeLayout, value)
	if err != nil || t.Format(timeLayout) != value { // Parse takes fractions of a second
		return fmt.Errorf("expected a time in UTC such as 2026-11-26T20:00:00Z, got %.80q", value)
	}
	m.IssuedAt = t
	return nil
}
