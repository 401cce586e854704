package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol/proof"
)

// items reads verified anchors from a place in the file on.
func (a *Auditor) items(from int64) iter.Seq2[*proof.BundleItem, error] {
	return func(yield func(*proof.BundleItem, error) bool) {
		in := bufio.NewReader(io.NewSectionReader(a.anchors, from, a.state.AnchorBytes-from))
		for {
			it, err := proof.ReadBundleItem(in)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				err = fmt.Errorf("%w: %s: %w", ErrDamaged, a.anchors.Name(), err)
			}
			if !yield(it, err) || err != nil {
				return
			}
		}
	}
}

// bundleTo makes a bundle of the first count anchors and, unless it is nil, one more
// item.
func (a *Auditor) bundleTo(count uint32, more *proof.BundleItem) ([]byte, error) {
	var out bytes.Buffer
	w, err := proof.NewBundleWriter(&out, proof.BundleHeader{Network: a.net.Name, Chain: a.genesis})
	if err != nil {
		return nil, err
	}
	n := uint32(0)
	for it, err := range a.items(0) {
		if err != nil {
			return nil, err
		}
		if n++; n > count {
			break
		}
		if err := w.Write(it); err != nil {
			return nil, err
		}
	}
	if more != nil {
		if err := w.Write(more); err != nil {
			return nil, err
		}
	}
	err = w.Close()
	return out.Bytes(), err
}

// compare is check 4, and the roots of check 1.
func (u *run) compare(ctx context.Context) error {
	const name = "anchors and entries"
	compared := u.compareAnchors(ctx)
	if err := u.pinFirst(); err != nil {
		return err
	}
	if compared != nil {
		return u.fails(name, compared)
	}
	switch {
	case u.contradicts != nil:
		u.report.check(name, Failed, "anchor %d commits to another history than the one shown, the %d before it agree", u.contradicts.Number, u.state.Compared)
	case u.state.Compared == 0:
		u.report.check(name, NotDone, "there is no anchor")
	default:
		u.report.check(name, Passed, "%d anchors, the last commits to the first %d entries: position, head and root agree", u.state.Compared, u.chain.Size)
	}
	return nil
}

func (u *run) compareAnchors(ctx context.Context) error {
	if u.copy.Size() > 0 && u.report.Domain != "" {
		first, err := u.copy.At(0)
		if err != nil {
			return err
		}
		if hash, pinned := first.Hash(), u.state.Fingerprint; pinned != nil && hash != hashchain.Hash(pinned) {
			return problemf(OtherServer, "the hashchain that is shown begins with entry %s, that of the keyserver with the pinned %x", hash, pinned)
		}
		identity := uid.KeyserverLocalpart + "@" + u.report.Domain
		if _, ok := first.Open(identity); !ok {
			return problemf(OtherServer, "the hashchain does not begin with the entry of %s: it is not that of the domain that the anchors name", identity)
		}
	}
	for it, err := range u.items(u.state.ComparedBytes) {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		a, err := anchorOf(it, u.state.Compared)
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDamaged, u.anchors.Name(), err)
		}
		if a.Position >= u.copy.Size() && u.fetched {
			if err := u.fetchEntries(ctx); err != nil { // they may have come since
				return err
			}
		}
		if a.Position >= u.copy.Size() {
			return problemf(Behind, "anchor %d, block %d, commits to the entry at position %d, the keyserver shows %d entries: it withholds some, or has lost them", a.Number, a.Height, a.Position, u.copy.Size())
		}
		chain := u.chain
		if err := u.copy.Advance(&chain, a.Position+1); err != nil {
			return err
		}
		if chain.Head != a.Head || chain.Root() != a.Root {
			u.contradicts = a
			return nil
		}
		raw, err := it.Append(nil)
		if err != nil {
			return err
		}
		u.chain = chain
		u.copy.keep(chain.Size, chain.Head)
		u.state.Compared++
		u.state.ComparedBytes += int64(len(raw))
		u.config.Progress("anchors compared", uint64(u.state.Compared), uint64(u.count()))
	}
	return nil
}

// prefixRoot returns the root over the first size entries of a file of entries, and
// the proof that joins it to the root over the first total.
func prefixRoot(e *entryFile, size, total uint64) (root []byte, consistency [][]byte, err error) {
	h, err := e.Root(size)
	if err != nil {
		return nil, nil, err
	}
	proof, err := hashchain.ConsistencyProof(size, total, e)
	if err != nil {
		return nil, nil, err
	}
	return h[:], hashesOf(proof), nil
}
