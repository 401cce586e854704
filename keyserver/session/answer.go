package session

import (
	"crypto/ecdh"
	"fmt"
	"io"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// Answer answers the first message of a session. reply is the answering side's
// address for what follows. It reads 32 random bytes, for a session key that is
// forgotten at once. The sender takes one answer.
func (s *Session) Answer(reply Address, text []byte, random io.Reader) (*Letter, error) {
	if err := checkText(text); err != nil {
		return nil, err
	}
	if err := reply.Check(); err != nil {
		return nil, fmt.Errorf("own address: %w", err)
	}
	content, err := pad(canonical.Marshal(answerContent{canonical.Encode(text), reply.Mix, canonical.Encode(reply.Nym)}))
	if err != nil {
		return nil, err
	}
	session, err := newKey(random)
	if err != nil {
		return nil, err
	}
	secret, err := agree(pair{session, s.peerSession}, pair{session, s.peerIdentity})
	if err != nil {
		return nil, err
	}
	header := newHeader(Answer, s.ID, session.PublicKey().Bytes())
	return &Letter{s.ReplyTo, append(header, seal(answerKey(s.root, header, secret), content)...)}, nil
}

// Open opens the answer to a first message, at a time in Unix seconds. keys are those
// of the identity that sent that one (see Self). It changes nothing: the caller must delete what is pending before
// showing the text, or a replay would open again.
func (p *Pending) Open(m *Message, keys []*ecdh.PrivateKey, now uint64) (reply Address, text []byte, err error) {
	if m.Kind != Answer || m.For != p.ID {
		return Address{}, nil, fmt.Errorf("%w: expected the answer in session %x", ErrUnknown, p.ID[:4])
	}
	if until := p.Until + MaxDelay; now > until {
		return Address{}, nil, fmt.Errorf("session %x: %w: answers are taken until %s", p.ID[:4], uid.ErrExpired, uid.Date(until))
	}
	identity := private(keys, p.identity.Bytes())
	if identity == nil {
		return Address{}, nil, fmt.Errorf("%w: session %x: the identity key that began it is gone", ErrUnknown, p.ID[:4])
	}
	peer, err := ecdh.X25519().NewPublicKey(m.session)
	if err != nil {
		return Address{}, nil, fmt.Errorf("%w: %w", ErrForged, err)
	}
	secret, err := agree(pair{p.session, peer}, pair{identity, peer})
	if err != nil {
		return Address{}, nil, fmt.Errorf("%w: %w", ErrForged, err)
	}
	padded, err := open(answerKey(p.root, m.header, secret), m.content)
	if err != nil {
		return Address{}, nil, err
	}
	var c answerContent
	if err := readContent(padded, &c); err != nil {
		return Address{}, nil, err
	}
	text, reply, err = readTextAndAddress(c.Message, c.MixAddress, c.NymAddress)
	return reply, text, err
}
