package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/keyserver/audit/bundle"
	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
)

// ErrNoEvidence says that a file does not show what it says it does: the message
// says why. Nobody is convicted by it.
var ErrNoEvidence = errors.New("not evidence of misbehaviour")

// Conviction is what a file of evidence shows.
type Conviction struct {
	// Convicts is whether the keyserver is convicted. Otherwise Compare says what is
	// missing: a statement is not by the key that was in force.
	Convicts bool     `json:"convicts"`
	Shows    []string `json:"shows"`   // what cannot be doubted
	Compare  []string `json:"compare"` // what the reader must compare with what is known from elsewhere
	// Blocks is how many blocks its chain of anchors is in, and Work the binary
	// logarithm of how many hashes it takes on average to make them: what a forger had
	// to spend, if nobody was asked whether they are on the best chain. 0 without
	// anchors.
	Blocks int     `json:"blocks,omitempty"`
	Work   float64 `json:"work_log2,omitempty"`
}

func (c *Conviction) shows(format string, args ...any) {
	c.Shows = append(c.Shows, fmt.Sprintf(format, args...))
}

func (c *Conviction) compare(format string, args ...any) {
	c.Compare = append(c.Compare, fmt.Sprintf(format, args...))
}

// Verify finds out whether evidence convinces. headers, which may be nil, says
// whether the blocks of anchors are on the best chain. The error wraps
// ErrNoEvidence if it does not convince; if headers failed it is not known.
//
// What it shows it shows of whoever holds the keys that the evidence names. That
// these are those of the keyserver that the reader knows must be seen from
// elsewhere: Conviction.Compare says what to compare.
func (e *Evidence) Verify(ctx context.Context, headers Headers) (*Conviction, error) {
	c := &Conviction{Convicts: true}
	if err := e.verify(ctx, headers, c); err != nil {
		p := new(problem)
		if !errors.As(err, &p) || p.kind == Unavailable || p.kind == StaleHeaders {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrNoEvidence, err)
	}
	return c, nil
}

// disproved is why evidence does not convince.
func disproved(format string, args ...any) error { return problemf("", format, args...) }

func (e *Evidence) verify(ctx context.Context, headers Headers, c *Conviction) error {
	if err := uid.CheckDomain(e.Domain); err != nil {
		return disproved("its domain: %w", err)
	}
	var keys serverKeys
	if e.Proof != ByAnchors || len(e.Heads) > 0 {
		var err error
		if keys, err = e.keys(c); err != nil {
			return err
		}
	}
	switch e.Proof {
	case ByHeads:
		return e.byHeads(keys, c)
	case ByReplies:
		return e.byReplies(keys, c)
	case ByReplyAndHead:
		return e.byReplyAndHead(keys, c)
	case ByHeadAndAnchor:
		return e.byHeadAndAnchor(ctx, keys, headers, c)
	case ByReplyAndAnchor:
		return e.byReplyAndAnchor(ctx, keys, headers, c)
	case ByAnchors:
		return e.byAnchors(ctx, keys, headers, c)
	}
	return disproved("it has no proof that is known here: %.100q", string(e.Proof))
}

// keys reads the keyserver's keys.
func (e *Evidence) keys(c *Conviction) (serverKeys, error) {
	keys, err := readKeys(e.Domain, e.Keyserver)
	if err != nil {
		return nil, disproved("the keyserver's keys: %w", err)
	}
	first, err := hashchain.Parse(e.Keyserver[0].Entry.HashchainEntry)
	if err != nil {
		return nil, disproved("the keyserver's first entry: %w", err)
	}
	if !follows(&first, hashchain.Hash{}) {
		return nil, disproved("the keyserver's first entry does not begin a hashchain")
	}
	c.compare("the hashchain of %s begins with entry %s", e.Domain, first.Hash())
	for _, k := range keys {
		c.compare("from position %d on the keyserver's key is %s", k.position, canonical.Encode(k.public))
	}
	return keys, nil
}

// doubts says what is wrong with a statement, unless wrong is "".
func (c *Conviction) doubts(statement, wrong string) {
	if wrong != "" {
		c.Convicts = false
		c.compare("%s: %s", statement, wrong)
	}
}

func (e *Evidence) signedHeads(keys serverKeys, count int, c *Conviction) ([]*signed, error) {
	if len(e.Heads) != count {
		return nil, disproved("it has %d signed heads, expected %d", len(e.Heads), count)
	}
	var heads []*signed
	for _, h := range e.Heads {
		if h == nil {
			return nil, disproved("a signed head is empty")
		}
		s, err := keys.head(e.Domain, h)
		if err != nil {
			return nil, disproved("%w", err)
		}
		c.doubts(fmt.Sprintf("the signed head of %d entries", h.Head.Size), keys.outOfForce(s.by, h.Head.Size))
		heads = append(heads, s)
	}
	return heads, nil
}

func (e *Evidence) signedReplies(keys serverKeys, count int, c *Conviction) ([]hashchain.Entry, error) {
	if len(e.Replies) != count {
		return nil, disproved("it has %d signed replies, expected %d", len(e.Replies), count)
	}
	var entries []hashchain.Entry
	for _, r := range e.Replies {
		if r == nil {
			return nil, disproved("a signed reply is empty")
		}
		entry, by, err := keys.reply(r)
		if err != nil {
			return nil, disproved("%w", err)
		}
		position := r.Entry.HashchainPos
		c.doubts(fmt.Sprintf("the signed reply about position %d", position), keys.outOfForce(by, position))
		entries = append(entries, entry)
	}
	return entries, nil
}

func (s *signed) text() string {
	return fmt.Sprintf("the keyserver signed at %s that its first %d entries end with %s and have the root %s", unixTime(s.Head.Time), s.Head.Size, s.entryHash, s.root)
}

func replyText(position uint64, entry *hashchain.Entry) string {
	return fmt.Sprintf("the keyserver signed that entry %s is at position %d", entry.Hash(), position)
}

// prefix returns the root that a head's first size entries have: R, which the
// evidence joins to the head's root.
func (e *Evidence) prefix(s *signed, size uint64) (hashchain.Hash, error) {
	if len(e.Root) != len(hashchain.Hash{}) {
		return hashchain.Hash{}, disproved("it has a root of %d bytes, expected %d", len(e.Root), len(hashchain.Hash{}))
	}
	consistency, err := toHashes(e.Consistency)
	if err != nil {
		return hashchain.Hash{}, disproved("%w", err)
	}
	root := hashchain.Hash(e.Root)
	if err := hashchain.VerifyConsistency(size, s.Head.Size, consistency, root, s.root); err != nil {
		return hashchain.Hash{}, disproved("its consistency proof: %w", err)
	}
	return root, nil
}

func (e *Evidence) byHeads(keys serverKeys, c *Conviction) error {
	heads, err := e.signedHeads(keys, 2, c)
	if err != nil {
		return err
	}
	one, two := heads[0], heads[1]
	c.shows("%s", one.text())
	c.shows("%s", two.text())
	switch {
	case one.Head.Size > two.Head.Size:
		return disproved("its heads are in the wrong order")
	case one.Head.Size == two.Head.Size && one.root == two.root && one.entryHash == two.entryHash:
		return disproved("its heads say the same")
	case one.Head.Size == two.Head.Size:
		c.shows("both cannot be true: they are of the same number of entries")
		return nil
	}
	root, err := e.prefix(two, one.Head.Size)
	if err != nil {
		return err
	}
	if root == one.root {
		return disproved("its second head continues the first")
	}
	c.shows("both cannot be true: the first %d entries of the second have the root %s", one.Head.Size, root)
	return nil
}

func (e *Evidence) byReplies(keys serverKeys, c *Conviction) error {
	entries, err := e.signedReplies(keys, 2, c)
	if err != nil {
		return err
	}
	one, two := e.Replies[0].Entry.HashchainPos, e.Replies[1].Entry.HashchainPos
	c.shows("%s", replyText(one, &entries[0]))
	c.shows("%s", replyText(two, &entries[1]))
	switch {
	case one == two && entries[0] != entries[1]:
		c.shows("both cannot be true: they are different entries at one position")
	case one+1 == two && !follows(&entries[1], entries[0].Hash()):
		c.shows("both cannot be true: an entry's hash covers the one before it, and the second does not follow the first")
	default:
		return disproved("its replies, about positions %d and %d, can both be true", one, two)
	}
	return nil
}

func (e *Evidence) byReplyAndHead(keys serverKeys, c *Conviction) error {
	heads, err := e.signedHeads(keys, 1, c)
	if err != nil {
		return err
	}
	entries, err := e.signedReplies(keys, 1, c)
	if err != nil {
		return err
	}
	head, entry, position := heads[0], &entries[0], e.Replies[0].Entry.HashchainPos
	c.shows("%s", replyText(position, entry))
	c.shows("%s", head.text())
	if e.Inclusion == nil {
		if position+1 != head.Head.Size || entry.Hash() == head.entryHash {
			return disproved("its reply, about position %d, and its head of %d entries can both be true", position, head.Head.Size)
		}
		c.shows("both cannot be true: that is the position of the head's last entry")
		return nil
	}
	other, err := hashchain.Parse(e.Inclusion.Entry)
	if err != nil {
		return disproved("the entry in the head's tree: %w", err)
	}
	hashes, err := toHashes(e.Inclusion.Hashes)
	if err != nil {
		return disproved("%w", err)
	}
	if err := hashchain.VerifyInclusion(&other, position, head.Head.Size, hashes, head.root); err != nil {
		return disproved("its inclusion proof: %w", err)
	}
	if other == *entry {
		return disproved("its reply is about the entry in the head's tree")
	}
	c.shows("both cannot be true: the head's tree has entry %s at that position", other.Hash())
	return nil
}

// log2 returns the binary logarithm of a positive number.
func log2(n *big.Int) float64 {
	mantissa := new(big.Float)
	exponent := new(big.Float).SetInt(n).MantExp(mantissa)
	f, _ := mantissa.Float64()
	return math.Log2(f) + float64(exponent)
}

// named shows that the chain of anchors is the keyserver's, by a head that names it.
func (e *Evidence) named(keys serverKeys, c *Conviction) error {
	if len(e.Heads) == 0 {
		c.compare("the keyserver of %s anchors in the chain that begins with tx %s: nothing here is signed that says so, and anybody can make one for its domain", e.Domain, e.Genesis)
		return nil
	}
	heads, err := e.signedHeads(keys, 1, c)
	if err != nil {
		return err
	}
	h := &heads[0].Head
	if h.AnchorChain != e.Genesis {
		return disproved("its head names the chain of anchors %.100q, expected %s", h.AnchorChain, e.Genesis)
	}
	c.shows("the keyserver signed at %s that it anchors in the chain that begins with tx %s", unixTime(h.Time), e.Genesis)
	return nil
}

// follow verifies the chain of anchors.
func (e *Evidence) follow(ctx context.Context, keys serverKeys, headers Headers, c *Conviction) (*follower, error) {
	r, err := bundle.NewReader(bytes.NewReader(e.Bundle))
	if err != nil {
		return nil, disproved("its proof bundle: %w", err)
	}
	net, err := protocol.Network(r.Network)
	if err != nil {
		return nil, disproved("its proof bundle: %w", err)
	}
	var genesis chainhash.Hash
	if err := chainhash.Decode(&genesis, e.Genesis); err != nil || len(e.Genesis) != chainhash.MaxHashStringSize {
		return nil, disproved("the txid of its genesis anchor is none: %.100q", e.Genesis)
	}
	if r.First != 0 || r.Chain != genesis {
		return nil, disproved("its proof bundle is of anchor %d on of chain %v, expected the whole of %v", r.First, r.Chain, genesis)
	}
	f := newFollower(net, genesis, headers, nil)
	for it, err := range r.Items() {
		if err != nil {
			return nil, disproved("its proof bundle: %w", err)
		}
		if err := f.next(ctx, it); err != nil {
			return nil, err
		}
	}
	if f.last == nil {
		return nil, disproved("its proof bundle is empty")
	}
	if f.last.Domain != e.Domain {
		return nil, disproved("its anchors are of %s, expected %s", f.last.Domain, e.Domain)
	}
	c.Blocks, c.Work = f.blocks, log2(f.work)
	if headers == nil {
		c.compare("the anchors' blocks, %d in number, the last %v at height %d, are on the best chain of %s: nobody was asked here, they carry the work of 2^%.1f hashes",
			f.blocks, f.block.Hash, f.height, r.Network, c.Work)
	}
	return f, e.named(keys, c)
}

func (a *Anchored) text() string {
	return fmt.Sprintf("anchor %d, tx %v in block %d (%s), commits to entry %x at position %d and to the root %x", a.Number, a.TxID, a.Height, a.Time.Format("2006-01-02 15:04:05 MST"), a.Head, a.Position, a.Root)
}

// anchor is the last of the evidence's anchors.
func (e *Evidence) anchor(ctx context.Context, keys serverKeys, headers Headers, c *Conviction) (*Anchored, error) {
	f, err := e.follow(ctx, keys, headers, c)
	if err != nil {
		return nil, err
	}
	if f.closed != nil {
		return nil, disproved("its chain of anchors is broken: that is evidence of another kind")
	}
	c.shows("%s", f.last.text())
	return f.last, nil
}

func (e *Evidence) byHeadAndAnchor(ctx context.Context, keys serverKeys, headers Headers, c *Conviction) error {
	heads, err := e.signedHeads(keys, 1, c)
	if err != nil {
		return err
	}
	head := heads[0]
	a, err := e.anchor(ctx, keys, headers, c)
	if err != nil {
		return err
	}
	c.shows("%s", head.text())
	size := a.Position + 1
	switch {
	case a.Position >= head.Head.Size:
		return disproved("its head is of %d entries, the anchor of one at position %d: both can be true", head.Head.Size, a.Position)
	case head.Head.Size == size && (head.root != a.Root || head.entryHash != a.Head):
		c.shows("both cannot be true: they are of the same number of entries")
		return nil
	}
	root, err := e.prefix(head, size)
	if err != nil {
		return err
	}
	if root == a.Root {
		return disproved("its head agrees with the anchor")
	}
	c.shows("both cannot be true: the head's first %d entries have the root %s", size, root)
	return nil
}

func (e *Evidence) byReplyAndAnchor(ctx context.Context, keys serverKeys, headers Headers, c *Conviction) error {
	entries, err := e.signedReplies(keys, 1, c)
	if err != nil {
		return err
	}
	a, err := e.anchor(ctx, keys, headers, c)
	if err != nil {
		return err
	}
	position := e.Replies[0].Entry.HashchainPos
	c.shows("%s", replyText(position, &entries[0]))
	if position != a.Position || entries[0].Hash() == a.Head {
		return disproved("its reply, about position %d, and its anchor can both be true", position)
	}
	c.shows("both cannot be true: they are different entries at one position")
	return nil
}

func (e *Evidence) byAnchors(ctx context.Context, keys serverKeys, headers Headers, c *Conviction) error {
	f, err := e.follow(ctx, keys, headers, c)
	if err != nil {
		return err
	}
	if f.closed == nil {
		return disproved("its chain of anchors is not broken")
	}
	c.shows("%s", f.last.text())
	c.shows("%s", f.closed.text(f.last))
	return nil
}
