package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// signed returns an error unless a reply is about an entry at a position, and signed by
// the key that was in force there.
func (k serverKeys) signed(reply *uid.Reply, position uint64, entry *hashchain.Entry) error {
	if reply.Entry.HashchainPos != position || reply.Entry.HashchainEntry != entry.String() {
		return fmt.Errorf("the reply is about another entry, at position %d", reply.Entry.HashchainPos)
	}
	return reply.Verify(k.inForce(position))
}

// cover fetches the reply that the keyserver, whose keys are known up to there, has
// signed about an entry at a position: as an entry's hash covers the one before it,
// the reply covers all up to there. An honest keyserver has it as soon as it shows the
// entry, and never another. Unproven if there is none.
func (c *Client) cover(ctx context.Context, caps *capabilities, keys serverKeys, position uint64, entry *hashchain.Entry) (*uid.Reply, error) {
	reply, err := c.wire.reply(ctx, caps, entry.UIDIndex())
	if errors.As(err, new(*ServerError)) {
		return nil, unproven(ErrUnsigned, position, "no signed message of the entry is to be had: %v", err)
	}
	if err != nil {
		return nil, fmt.Errorf("the message of position %d: %w", position, err)
	}
	if err := keys.signed(reply, position, entry); err != nil {
		return nil, c.otherReply(position, reply, err)
	}
	return reply, nil
}

// fetchMessage fetches and checks the message of an identity that the entry at a
// position of the copy points to.
func (c *Client) fetchMessage(ctx context.Context, identity string, position uint64) (*uid.Message, *uid.Reply, error) {
	entry, err := c.chain.At(position)
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
	if err := c.state.Keys.signed(reply, position, &entry); err != nil {
		return nil, nil, c.otherReply(position, reply, err)
	}
	m, err := reply.OpenFor(identity, &entry)
	if err != nil {
		return nil, nil, c.misbehaves(position, exhibit{theirs: &entry, reply: reply, cause: err}, "%v", err)
	}
	return m, reply, nil
}
