package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/keyserver/chainfile"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// ErrNotProved says that a proof does not show what it should: the message says why.
var ErrNotProved = errors.New("not a proof of the entry")

// EntryProof is what the extra data of a tlog-proof has (keyserver/TLOG.md §10).
type EntryProof struct {
	Entry hashchain.Entry
	// Consistency joins the root of the last anchor of Bundle to that of the checkpoint (RFC 6962
	// §2.1.2).
	Consistency []hashchain.Hash
	// Bundle is the proof bundle from the genesis anchor on, up to the one that covers the entry.
	Bundle []byte
}

// maxConsistency is more hashes than a proof of consistency has.
const maxConsistency = 64

// Marshal returns the extra data.
func (p *EntryProof) Marshal() []byte {
	b := append(bytes.Clone(p.Entry[:]), byte(len(p.Consistency)))
	for i := range p.Consistency {
		b = append(b, p.Consistency[i][:]...)
	}
	return append(b, p.Bundle...)
}

// ParseEntryProof is the inverse of Marshal. It checks the form alone. ErrNotProved otherwise.
func ParseEntryProof(b []byte) (*EntryProof, error) {
	p := new(EntryProof)
	if len(b) < hashchain.EntrySize+1 {
		return nil, fmt.Errorf("%w: its extra data has %d bytes, which is no entry", ErrNotProved, len(b))
	}
	p.Entry, b = hashchain.Entry(b[:hashchain.EntrySize]), b[hashchain.EntrySize:]
	count := int(b[0])
	if b = b[1:]; count > maxConsistency || len(b) < count*len(hashchain.Hash{}) {
		return nil, fmt.Errorf("%w: its extra data says that it has %d hashes, in %d bytes", ErrNotProved, count, len(b))
	}
	for range count {
		p.Consistency = append(p.Consistency, hashchain.Hash(b[:len(hashchain.Hash{})]))
		b = b[len(hashchain.Hash{}):]
	}
	p.Bundle = b
	return p, nil
}

// CoveringBundle reads a proof bundle of a chain of anchors up to the first that covers a position,
// and returns it, and that anchor. What is in it is checked as far as it says nothing of the best
// chain. ErrNotProved if none of its anchors covers it, or it is not one of that chain.
func CoveringBundle(ctx context.Context, net *chaincfg.Params, genesis chainhash.Hash, in io.Reader, position uint64) ([]byte, *Anchored, error) {
	r, err := proof.NewBundleReader(in)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrNotProved, err)
	}
	if r.Network != net.Name || r.Chain != genesis || r.First != 0 {
		return nil, nil, fmt.Errorf("%w: expected the proof bundle of %v on %s from anchor 0 on, got that of %v on %.40q from %d", ErrNotProved, genesis, net.Name, r.Chain, r.Network, r.First)
	}
	var out bytes.Buffer
	w, err := proof.NewBundleWriter(&out, r.BundleHeader)
	if err != nil {
		return nil, nil, err
	}
	f := newFollower(net, genesis, nil, nil)
	for it, err := range r.Items() {
		if err == nil {
			err = f.next(ctx, it)
		}
		if err == nil && f.closed != nil {
			err = errors.New(f.closed.text(f.last))
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrNotProved, err)
		}
		if err := w.Write(it); err != nil {
			return nil, nil, err
		}
		if f.last.Position >= position {
			err := w.Close()
			return out.Bytes(), f.last, err
		}
	}
	return nil, nil, fmt.Errorf("%w: no anchor covers position %d yet: try again after the next one", ErrNotProved, position)
}

// Proven is what a proof of an entry shows.
type Proven struct {
	Entry      hashchain.Entry
	Position   uint64
	Checkpoint tlog.Checkpoint
	Cosigners  []string  // as the policy names them
	Anchor     *Anchored // that covers the entry
	Blocks     int       // that its chain of anchors is in
	Work       float64   // binary logarithm of how many hashes they took
}

// VerifyEntry verifies a proof of an entry: the policy's log has signed its checkpoint, the quorum has
// cosigned it, the entry is in its tree, and that continues what the pinned chain of anchors had
// committed to, in blocks of the best chain. headers says so, or, if it is nil, the block of the last
// anchor has to be the pinned one: that one's transaction spends what is in the blocks before.
// ErrNotProved or an error of headers otherwise.
func VerifyEntry(ctx context.Context, raw []byte, policy *tlog.Policy, net *chaincfg.Params, genesis chainhash.Hash, headers Headers, pinned Checkpoint) (*Proven, error) {
	wrong := func(err error) (*Proven, error) { return nil, fmt.Errorf("%w: %w", ErrNotProved, err) }
	p, err := tlog.ParseProof(raw)
	if err != nil {
		return wrong(err)
	}
	e, err := ParseEntryProof(p.Extra)
	if err != nil {
		return nil, err
	}
	opened, err := p.Verify(e.Entry[:], policy)
	if err != nil {
		return wrong(err)
	}
	f, err := followWhole(ctx, e.Bundle, net, genesis, headers)
	if err != nil {
		return nil, err
	}
	a, c := f.last, opened.Checkpoint
	switch {
	case a.Position < p.Index:
		return wrong(fmt.Errorf("its last anchor is of position %d, the entry is at position %d", a.Position, p.Index))
	case a.Position >= c.Size || a.Position >= chainfile.MaxEntries:
		return wrong(fmt.Errorf("its last anchor is of position %d, the checkpoint of %d entries", a.Position, c.Size))
	case tlogOrigin(a.Domain) != c.Origin:
		return wrong(fmt.Errorf("its anchors are of %s, its checkpoint of %s", a.Domain, c.Origin))
	case headers == nil && (a.Block != pinned.Hash || a.Height != pinned.Height):
		return wrong(fmt.Errorf("%w: its last anchor is in block %d:%v, pinned is %v: pin that, or say where headers are", ErrNoHeader, a.Height, a.Block, pinned))
	}
	if err := hashchain.VerifyConsistency(a.Position+1, c.Size, e.Consistency, a.Root, hashchain.Hash(c.Root)); err != nil {
		return wrong(err)
	}
	return &Proven{Entry: e.Entry, Position: p.Index, Checkpoint: c, Cosigners: opened.Cosigners(), Anchor: a, Blocks: f.blocks, Work: log2(f.work)}, nil
}

// tlogOrigin is the origin of the log of a domain's keyserver (keyserver/TLOG.md §1).
func tlogOrigin(domain string) string { return domain + "/keytree" }

// followWhole verifies a whole chain of anchors, which nothing closes.
func followWhole(ctx context.Context, bundle []byte, net *chaincfg.Params, genesis chainhash.Hash, headers Headers) (*follower, error) {
	wrong := func(err error) (*follower, error) { return nil, fmt.Errorf("%w: its anchors: %w", ErrNotProved, err) }
	r, err := proof.NewBundleReader(bytes.NewReader(bundle))
	if err != nil {
		return wrong(err)
	}
	if r.Network != net.Name || r.Chain != genesis || r.First != 0 {
		return wrong(fmt.Errorf("expected those of %v on %s from 0 on, got those of %v on %.40q from %d", genesis, net.Name, r.Chain, r.Network, r.First))
	}
	f := newFollower(net, genesis, headers, nil)
	for it, err := range r.Items() {
		if err != nil {
			return wrong(err)
		}
		if err := f.next(ctx, it); err != nil {
			p := new(problem)
			if !errors.As(err, &p) || p.kind == Unavailable {
				return nil, err
			}
			return wrong(err)
		}
		if f.closed != nil {
			return wrong(errors.New(f.closed.text(f.last)))
		}
	}
	if f.last == nil {
		return wrong(errors.New("there are none"))
	}
	return f, nil
}
