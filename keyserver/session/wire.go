package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Where the fields of a message are, in bytes (keyserver/session/SPEC.md, "Messages").
const (
	magic = "KTS1"

	keySize    = 32 // of X25519, public and private
	headerSize = len(magic) + 1 + sha256.Size + keySize
	senderBox  = keySize + tagSize

	// block is what contents are padded to a multiple of, so that the length of a
	// message tells little.
	block = 4096
	// lengthSize is the size of the contents' length, before them.
	lengthSize = 4
)

const (
	// MaxContent is the most bytes that the encrypted contents have, with their
	// padding.
	MaxContent = 64 * block
	// MaxMessage is the most bytes that a message has.
	MaxMessage = headerSize + senderBox + MaxContent + tagSize
	// MaxText is the most bytes that a text has.
	MaxText = 16 * block
)

// Kind tells messages apart.
type Kind byte

// The two kinds of messages.
const (
	First  Kind = 1 // Bob's to Alice
	Answer Kind = 2 // Alice's to Bob
)

// Message is a message as it came: nothing of it is proven.
type Message struct {
	Kind Kind
	// For names what a message is for: of a first one, the KeyInit by its Digest; of
	// an answer, the session by its ID.
	For [sha256.Size]byte

	header  []byte // up to the boxes
	session []byte // the author's public session key
	sender  []byte // box with the sender's identity key; First only
	content []byte // box with the contents
}

// Parse reads a message. canonical.ErrMalformed if it does not have the form of one.
// The message refers to b.
func Parse(b []byte) (*Message, error) {
	wrong := func(format string, args ...any) (*Message, error) {
		return nil, fmt.Errorf("%w: session message: %s", canonical.ErrMalformed, fmt.Sprintf(format, args...))
	}
	if len(b) > MaxMessage {
		return wrong("%d bytes, at most %d are allowed", len(b), MaxMessage)
	}
	if !bytes.HasPrefix(b, []byte(magic)) || len(b) < headerSize {
		return wrong("expected %q and a header of %d bytes in all", magic, headerSize)
	}
	m := &Message{Kind: Kind(b[len(magic)]), header: b[:headerSize], session: b[headerSize-keySize : headerSize]}
	copy(m.For[:], b[len(magic)+1:])
	rest := b[headerSize:]
	switch m.Kind {
	case First:
		if len(rest) < senderBox {
			return wrong("ends in the sender's key")
		}
		m.sender, rest = rest[:senderBox], rest[senderBox:]
	case Answer:
	default:
		return wrong("expected a message of kind %d or %d, got %d", First, Answer, m.Kind)
	}
	if n := len(rest) - tagSize; n < block || n > MaxContent || n%block != 0 {
		return wrong("expected contents of 1 to %d times %d bytes and a tag of %d, got %d bytes",
			MaxContent/block, block, tagSize, len(rest))
	}
	m.content = rest
	return m, nil
}

// newHeader begins a message.
func newHeader(kind Kind, to [sha256.Size]byte, session []byte) []byte {
	b := append([]byte(magic), byte(kind))
	b = append(b, to[:]...)
	return append(b, session...)
}

// pad puts contents into the form that is encrypted.
func pad(content []byte) ([]byte, error) {
	if n := lengthSize + len(content); n > MaxContent {
		return nil, fmt.Errorf("%w: contents of %d bytes, at most %d are allowed; they hold the text and all UID messages of the sender",
			ErrTooLong, n, MaxContent)
	}
	size := (lengthSize + len(content) + block - 1) / block * block
	b := binary.BigEndian.AppendUint32(make([]byte, 0, size), uint32(len(content)))
	return append(b, content...)[:size], nil
}

// unpad undoes pad. What it is given has the size of padded contents.
func unpad(b []byte) ([]byte, error) {
	n := uint64(binary.BigEndian.Uint32(b))
	rest := b[lengthSize:]
	if n > uint64(len(rest)) || uint64(len(rest))-n >= block || len(bytes.Trim(rest[n:], "\x00")) > 0 {
		return nil, fmt.Errorf("%w: contents are not padded as they must be", canonical.ErrMalformed)
	}
	return rest[:n], nil
}

// The contents are canonical JSON: the fields of each type stand in the order of
// their names.

type firstContent struct {
	Message     string        `json:"MESSAGE"`     // the text, base64
	MixAddress  string        `json:"MIXADDRESS"`  // where the answer goes
	NymAddress  string        `json:"NYMADDRESS"`  // for whom it is there, base64
	Recipient   string        `json:"RECIPIENT"`   // whom the sender means, mapped
	UIDMessages []uid.Message `json:"UIDMESSAGES"` // all of the sender, the oldest first
}

type answerContent struct {
	Message    string `json:"MESSAGE"`
	MixAddress string `json:"MIXADDRESS"` // where the session goes on
	NymAddress string `json:"NYMADDRESS"`
}

// readContent undoes pad and reads what is in it, which must be canonical, so that
// there is one way to say something.
func readContent(padded []byte, into any) error {
	b, err := unpad(padded)
	if err != nil {
		return err
	}
	if err := canonical.Unmarshal(b, into); err != nil {
		return err
	}
	if !bytes.Equal(canonical.Marshal(into), b) {
		return fmt.Errorf("%w: contents are not in canonical form", canonical.ErrMalformed)
	}
	return nil
}
