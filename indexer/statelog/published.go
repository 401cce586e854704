package statelog

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/keytree-bch/keytree/protocol"
	format "github.com/keytree-bch/keytree/protocol/tlog"
)

// Published is a state log as anybody reads it, as of one checkpoint. Who has signed that is for
// those to check who are shown a proof.
type Published struct {
	url        string // of the log, without a slash at its end
	transport  http.RoundTripper
	signed     []byte
	checkpoint format.Checkpoint
}

// ReadPublished reads the newest checkpoint of the log at a URL, such as
// https://keys.example.org/state/mainnet/1/1. transport is http.DefaultTransport if it is nil.
func ReadPublished(ctx context.Context, transport http.RoundTripper, url string) (*Published, error) {
	if transport == nil {
		transport = http.DefaultTransport
	}
	p := &Published{url: strings.TrimSuffix(url, "/"), transport: transport}
	ctx, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()
	var err error
	if p.signed, err = get(ctx, transport, p.url+"/checkpoint"); err != nil {
		return nil, fmt.Errorf("state log: %w", err)
	}
	if p.checkpoint, err = format.Stated(p.signed); err == nil && p.checkpoint.Size == 0 {
		err = errors.New("it has no entry yet")
	}
	if err != nil {
		return nil, fmt.Errorf("state log %s: %w", p.url, err)
	}
	return p, nil
}

// Size is how many entries the checkpoint covers, one at least.
func (p *Published) Size() uint64 { return p.checkpoint.Size }

// Prove returns a proof, as a C2SP tlog-proof, that an entry is in the log at an index below
// Size. It fails if the log has another.
func (p *Published) Prove(ctx context.Context, index uint64, entry protocol.StateEntry) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, searchTimeout)
	defer cancel()
	hashes, err := format.ProveEntry(p.checkpoint, index, func(t format.Tile) ([]byte, error) {
		return get(ctx, p.transport, p.url+"/"+format.Path(t))
	})
	text := entry.Bytes()
	if err == nil {
		if err = format.CheckInclusion(p.checkpoint, index, text[:], hashes); err != nil {
			err = fmt.Errorf("it has another entry for the block at height %d than this index: %w", entry.Height, err)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("state log %s: %w", p.url, err)
	}
	return (&format.Proof{Index: index, Hashes: hashes, Checkpoint: p.signed}).Marshal(), nil
}
