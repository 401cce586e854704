package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// openReply returns the message in what the keyserver has for an entry, at a
// position, of an identity. Who signed the reply and the message is not checked.
func (c *Client) openReply(identity string, position uint64, entry *hashchain.Entry, reply *uid.Reply) (*uid.Message, error) {
	refuse := func(format string, args ...any) error {
		return c.misbehaves(position, exhibit{theirs: entry, reply: reply}, format, args...)
	}
	if reply.Entry.HashchainPos != position || reply.Entry.HashchainEntry != entry.String() {
		return nil, refuse("the reply is about another entry, at position %d", reply.Entry.HashchainPos)
	}
	uidHash, ok := entry.Open(identity)
	if !ok {
		return nil, refuse("the entry is not of %s, or does not hold the UIDHash of its message", identity)
	}
	m, err := reply.Open(uidHash)
	if err == nil {
		err = m.Check()
	}
	if err != nil {
		return nil, refuse("%v", err)
	}
	if m.Content.Identity != identity {
		return nil, refuse("the entry is of %s, but its message of %s", identity, m.Content.Identity)
	}
	return m, nil
}

// checkReply does what openReply does, for an entry of the copy, and checks that
// the keyserver signed.
func (c *Client) checkReply(identity string, position uint64, reply *uid.Reply) (*uid.Message, error) {
	entry, err := c.chain.at(position)
	if err != nil {
		return nil, err
	}
	m, err := c.openReply(identity, position, &entry, reply)
	if err != nil {
		return nil, err
	}
	if err := reply.Verify(c.signer(position)); err != nil {
		return nil, c.misbehaves(position, exhibit{reply: reply, cause: err}, "%v", err)
	}
	return m, nil
}

// fetchMessage fetches and checks the message of an identity that the entry at a
// position of the copy points to.
func (c *Client) fetchMessage(ctx context.Context, identity string, position uint64) (*uid.Message, *uid.Reply, error) {
	entry, err := c.chain.at(position)
	if err != nil {
		return nil, nil, err
	}
	caps, err := c.online(ctx)
	if err != nil {
		return nil, nil, err
	}
	reply, err := c.wire.reply(ctx, caps, entry.UIDIndex())
	if err != nil {
		if errors.As(err, new(*ServerError)) {
			err = fmt.Errorf("the entry at position %d is in the hashchain, but its message is withheld: %w", position, err)
		}
		return nil, nil, err
	}
	m, err := c.checkReply(identity, position, reply)
	return m, reply, err
}
