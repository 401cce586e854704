package session

import (
	"crypto/ecdh"
	"crypto/sha256"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/canonical"
)

// Pending is what a sender keeps until the answer comes. It is secret.
type Pending struct {
	ID    [sha256.Size]byte // of the session, as the answer names it
	Peer  string            // the recipient's identity, mapped
	Until uint64            // the first message is taken until then, Unix seconds

	root     []byte
	session  *ecdh.PrivateKey
	identity *ecdh.PublicKey // own
}

// Session is what a recipient keeps of a first message. It is secret.
type Session struct {
	ID       [sha256.Size]byte
	Peer     string            // the sender's identity, mapped and proven
	ReplyTo  Address           // the sender's, for this session
	KeyInit  [sha256.Size]byte // Digest of the KeyInit that the session began on
	Fallback bool              // other sessions may begin on it
	Until    uint64            // until then the KeyInit, and so the record, is needed; Unix seconds

	root         []byte
	peerSession  *ecdh.PublicKey
	peerIdentity *ecdh.PublicKey
}

// The forms in which they are kept. The fields stand in the order of their names.

type pendingState struct {
	ID       string `json:"ID"`
	Identity string `json:"IDENTITY"`
	Peer     string `json:"PEER"`
	Root     string `json:"ROOT"`
	Session  string `json:"SESSION"`
	Until    uint64 `json:"UNTIL"`
}

type sessionState struct {
	Fallback     bool   `json:"FALLBACK"`
	ID           string `json:"ID"`
	KeyInit      string `json:"KEYINIT"`
	MixAddress   string `json:"MIXADDRESS"`
	NymAddress   string `json:"NYMADDRESS"`
	Peer         string `json:"PEER"`
	PeerIdentity string `json:"PEERIDENTITY"`
	PeerSession  string `json:"PEERSESSION"`
	Root         string `json:"ROOT"`
	Until        uint64 `json:"UNTIL"`
}

// MarshalBinary implements encoding.BinaryMarshaler. What it returns is secret.
func (p *Pending) MarshalBinary() ([]byte, error) {
	return canonical.Marshal(pendingState{
		ID: canonical.Encode(p.ID[:]), Identity: canonical.Encode(p.identity.Bytes()), Peer: p.Peer,
		Root: canonical.Encode(p.root), Session: canonical.Encode(p.session.Bytes()), Until: p.Until,
	}), nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. canonical.ErrMalformed if
// it is given something else; the error holds nothing of it.
func (p *Pending) UnmarshalBinary(data []byte) error {
	var s pendingState
	if err := canonical.Unmarshal(data, &s); err != nil {
		return fmt.Errorf("%w: not the state of a session begun", canonical.ErrMalformed)
	}
	f := fields{}
	private, err := ecdh.X25519().NewPrivateKey(f.read(s.Session, keySize))
	f.fail(err)
	*p = Pending{
		ID: [sha256.Size]byte(f.read(s.ID, sha256.Size)), Peer: s.Peer, Until: s.Until,
		root: f.read(s.Root, rootSize), session: private, identity: f.public(s.Identity),
	}
	return f.err
}

// MarshalBinary implements encoding.BinaryMarshaler. What it returns is secret.
func (s *Session) MarshalBinary() ([]byte, error) {
	return canonical.Marshal(sessionState{
		Fallback: s.Fallback, ID: canonical.Encode(s.ID[:]), KeyInit: canonical.Encode(s.KeyInit[:]),
		MixAddress: s.ReplyTo.Mix, NymAddress: canonical.Encode(s.ReplyTo.Nym),
		Peer: s.Peer, PeerIdentity: canonical.Encode(s.peerIdentity.Bytes()), PeerSession: canonical.Encode(s.peerSession.Bytes()),
		Root: canonical.Encode(s.root), Until: s.Until,
	}), nil
}

// UnmarshalBinary implements encoding.BinaryUnmarshaler. canonical.ErrMalformed if
// it is given something else; the error holds nothing of it.
func (s *Session) UnmarshalBinary(data []byte) error {
	var c sessionState
	if err := canonical.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("%w: not the state of a session", canonical.ErrMalformed)
	}
	f := fields{}
	*s = Session{
		ID: [sha256.Size]byte(f.read(c.ID, sha256.Size)), Peer: c.Peer,
		ReplyTo: Address{c.MixAddress, f.read(c.NymAddress, -1)},
		KeyInit: [sha256.Size]byte(f.read(c.KeyInit, sha256.Size)), Fallback: c.Fallback, Until: c.Until,
		root: f.read(c.Root, rootSize), peerSession: f.public(c.PeerSession), peerIdentity: f.public(c.PeerIdentity),
	}
	return f.err
}

// fields reads fields until the first that is wrong, whose error it keeps.
type fields struct{ err error }

// read returns as many bytes as are asked for, whatever it is given.
func (f *fields) read(text string, size int) []byte {
	b, err := canonical.Decode(text, size)
	if f.fail(err); err != nil {
		return make([]byte, max(size, 0))
	}
	return b
}

func (f *fields) public(text string) *ecdh.PublicKey {
	key, err := ecdh.X25519().NewPublicKey(f.read(text, keySize))
	f.fail(err)
	return key
}

func (f *fields) fail(err error) {
	if err != nil && f.err == nil {
		f.err = fmt.Errorf("%w: state of a session: a field does not have the form that was written", canonical.ErrMalformed)
	}
}
