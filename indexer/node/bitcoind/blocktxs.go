package bitcoind

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/indexer/node"
)

// streamed reads an answer whose result is large, as it arrives. Result takes it off
// the decoder.
func streamed(result func(*json.Decoder) error) reader {
	return func(r *bufio.Reader) error {
		d := json.NewDecoder(r)
		var failed *rpcError
		err := object(d, func(key string) error {
			switch key {
			case "error":
				return d.Decode(&failed)
			case "result":
				return result(d)
			}
			return d.Decode(new(json.RawMessage))
		})
		if err == nil && failed != nil {
			return failed
		}
		return err
	}
}

// blockTxs calls each for the elements of a block's tx, in order, while it
// returns true. Each takes one element off the decoder. The block is never in
// memory as a whole, which in JSON would be many times its size.
func (c *Client) blockTxs(ctx context.Context, block chainhash.Hash, verbosity int, each func(*json.Decoder) (more bool, err error)) error {
	ended, found := false, false
	err := c.post(ctx, streamed(func(d *json.Decoder) error {
		return object(d, func(key string) error {
			if key != "tx" {
				return d.Decode(new(json.RawMessage))
			}
			found = true
			return array(d, func() error {
				more, err := each(d)
				ended = !more
				if err == nil && ended {
					err = errEnded
				}
				return err
			})
		})
	}), "getblock", block.String(), verbosity)
	switch {
	case ended && errors.Is(err, errEnded):
		return nil
	case err == nil && !found:
		return fmt.Errorf("%w: %w: expected tx in the block", node.ErrUnsuitable, errNotRPC)
	}
	return err
}

// errEnded ends the walk over an answer.
var errEnded = errors.New("ended")

// object calls member for each key of an object, null having none. Member takes
// the value off the decoder.
func object(d *json.Decoder, member func(key string) error) error {
	start, err := d.Token()
	if err != nil || start == nil {
		return err
	}
	if start != json.Delim('{') {
		return fmt.Errorf("%w: expected an object, got %.20v", errNotRPC, start)
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return err
		}
		if err := member(key.(string)); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// array calls element for each element of an array, which it takes off the
// decoder.
func array(d *json.Decoder, element func() error) error {
	start, err := d.Token()
	if err != nil {
		return err
	}
	if start != json.Delim('[') {
		return fmt.Errorf("%w: expected an array, got %.20v", errNotRPC, start)
	}
	for d.More() {
		if err := element(); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}
