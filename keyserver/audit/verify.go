package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"

	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// ErrNoEvidence says that a file does not show what it says it does: the message
// says why. Nobody is convicted by it.
var ErrNoEvidence = errors.New("not evidence of misbehaviour")

// The verdicts on evidence that does not convict.
const (
	// OffChain: whether the blocks of its anchors are on the best chain nobody was asked.
	OffChain Verdict = "consistent, but is it on the best chain?"
	// AboutWhom: the reader has not pinned the keyserver, or its chain of anchors.
	AboutWhom Verdict = "consistent, but about whom?"
	// WhichState: what the rules make of the block the reader has not said.
	WhichState Verdict = "consistent, but which state is the block's?"
	// ConvictsNobody: a statement is not by the key that was in force at its size.
	ConvictsNobody Verdict = "convicts nobody"
)

// Pins are what the reader of evidence knows of the keyserver from elsewhere. What is
// left out is not known.
type Pins struct {
	Fingerprint *hashchain.Hash // of the first entry of its hashchain
	Genesis     *chainhash.Hash // txid of the genesis anchor of its chain of anchors
	// Rotations are positions of entries that are known to have replaced its key.
	// Evidence can leave them out, so that an old key seems to be in force.
	Rotations []uint64
	// Asked is how many entries Rotations has all of that replace a key: those of the
	// reader's own copy, or math.MaxUint64 if the keyserver was asked (AskRotations).
	Asked uint64

	StateLog *tlog.PublicKey // of the accused state log
	// State is what the reader's own index, or one that the reader believes, makes of the block that evidence about a
	// state log is about; Height is not looked at.
	State *protocol.StateEntry
}

// Conviction is what a file of evidence shows.
type Conviction struct {
	// Verdict is Misbehaviour, or else what keeps the evidence from convicting: one of
	// OffChain, AboutWhom, WhichState and ConvictsNobody.
	Verdict Verdict  `json:"verdict"`
	Shows   []string `json:"shows"` // what cannot be doubted
	// Compare is what the reader must compare with what is known from elsewhere: empty
	// if the verdict is Misbehaviour.
	Compare []string `json:"compare"`
	// Assumes is what the verdict rests upon and no file can show: that the keyserver has
	// not replaced a key before it signed with it, unless the reader knows better
	// (Pins.Rotations).
	Assumes []string `json:"assumes,omitempty"`
	// Blocks is how many blocks its chain of anchors is in, and Work the binary
	// logarithm of how many hashes it takes on average to make them: what a forger had
	// to spend, if nobody was asked whether they are on the best chain. 0 without
	// anchors.
	Blocks int     `json:"blocks,omitempty"`
	Work   float64 `json:"work_log2,omitempty"`
}

// reading is evidence that is being verified.
type reading struct {
	*Conviction
	pins    Pins
	headers Headers
	keys    serverKeys // of the keyserver, as the evidence has them
}

func (r *reading) shows(format string, args ...any) {
	r.Shows = append(r.Shows, fmt.Sprintf(format, args...))
}

// doubt adds what must be compared, and with it the verdict, unless there is a graver
// one.
func (r *reading) doubt(v Verdict, format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(r.Compare, text) {
		r.Compare = append(r.Compare, text)
	}
	if r.Verdict != ConvictsNobody && (r.Verdict != AboutWhom || v == ConvictsNobody) {
		r.Verdict = v
	}
}

// onChain shows what holds if the blocks of the anchors are on the best chain.
func (r *reading) onChain(format string, args ...any) {
	if r.headers == nil {
		r.doubt(OffChain, "if the anchors' blocks are on the best chain: "+format, args...)
		return
	}
	r.shows(format, args...)
}

// signedBy doubts a statement about a hashchain of some size unless the key that signed
// it was in force then.
func (r *reading) signedBy(statement string, by serverKey, size uint64) {
	wrong := r.keys.outOfForce(by, size)
	for _, position := range r.pins.Rotations {
		if wrong == "" && by.position < position && position < size {
			wrong = fmt.Sprintf("key %s, named by the entry at position %d, signed it, and was replaced by the entry at position %d: who has stolen it can sign this, and it convicts nobody",
				canonical.Encode(by.public), by.position, position)
		}
	}
	if wrong != "" {
		r.doubt(ConvictsNobody, "%s: %s", statement, wrong)
		return
	}
	if size <= r.pins.Asked || size <= by.position+1 {
		return
	}
	assumes := fmt.Sprintf("the entries from position %d to %d do not replace key %s: who has stolen a replaced key can leave that out",
		by.position+1, size-1, canonical.Encode(by.public))
	if !slices.Contains(r.Assumes, assumes) {
		r.Assumes = append(r.Assumes, assumes)
	}
}

// Verify finds out whether evidence convicts the keyserver that the reader has pinned.
// headers, which may be nil, says whether the blocks of anchors are on the best chain;
// without it anchors convict nobody. The error wraps ErrNoEvidence if the evidence is
// not consistent, or about another keyserver than the pinned one; if headers failed
// that is not known.
//
// Anybody can make keys and anchors of his own in the name of a domain. So evidence
// with the keyserver's statements convicts by Pins.Fingerprint, and evidence with
// anchors by Pins.Genesis.
func (e *Evidence) Verify(ctx context.Context, pins Pins, headers Headers) (*Conviction, error) {
	r := &reading{Conviction: &Conviction{Verdict: Misbehaviour}, pins: pins, headers: headers}
	if err := e.verify(ctx, r); err != nil {
		p := new(problem)
		if !errors.As(err, &p) || p.kind == Unavailable || p.kind == StaleHeaders {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrNoEvidence, err)
	}
	return r.Conviction, nil
}

// disproved is why evidence does not convince.
func disproved(format string, args ...any) error { return problemf("", format, args...) }

func (e *Evidence) verify(ctx context.Context, r *reading) error {
	if err := uid.CheckDomain(e.Domain); err != nil {
		return disproved("its domain: %w", err)
	}
	if e.Proof == ByStateEntry {
		return e.byStateEntry(r)
	}
	if e.Proof != ByAnchors || len(e.Heads) > 0 {
		if err := e.readKeys(r); err != nil {
			return err
		}
	}
	switch e.Proof {
	case ByHeads:
		return e.byHeads(r)
	case ByReplies:
		return e.byReplies(r)
	case ByReplyAndHead:
		return e.byReplyAndHead(r)
	case ByHeadAndAnchor:
		return e.byHeadAndAnchor(ctx, r)
	case ByReplyAndAnchor:
		return e.byReplyAndAnchor(ctx, r)
	case ByAnchors:
		return e.byAnchors(ctx, r)
	case ByCheckpoints:
		return e.byCheckpoints(r)
	case ByCheckpointAndHead:
		return e.byCheckpointAndHead(r)
	case ByCheckpointAndAnchor:
		return e.byCheckpointAndAnchor(ctx, r)
	}
	return disproved("it has no proof that is known here: %.100q", string(e.Proof))
}

// readKeys reads the keyserver's keys: the first follows from the fingerprint, and each
// further one from the one before.
func (e *Evidence) readKeys(r *reading) error {
	keys, err := readKeys(e.Domain, e.Keyserver)
	if err != nil {
		return disproved("the keyserver's keys: %w", err)
	}
	first, err := hashchain.Parse(e.Keyserver[0].Entry.HashchainEntry)
	if err != nil {
		return disproved("the keyserver's first entry: %w", err)
	}
	if !first.Follows(hashchain.Hash{}) {
		return disproved("the keyserver's first entry does not begin a hashchain")
	}
	switch pinned := r.pins.Fingerprint; {
	case pinned == nil:
		r.doubt(AboutWhom, "the fingerprint of the keyserver of %s is %s: anybody can begin a hashchain in its name", e.Domain, first.Hash())
	case *pinned != first.Hash():
		return disproved("it is about a keyserver of %s with the fingerprint %s, expected the pinned %s", e.Domain, first.Hash(), *pinned)
	default:
		r.shows("the hashchain of %s begins with entry %s, the pinned fingerprint", e.Domain, first.Hash())
	}
	r.keys = keys
	for i, k := range keys {
		r.shows("the entry at position %d names the key %s", k.position, canonical.Encode(k.public))
		if i > 0 {
			r.signedBy(fmt.Sprintf("the keyserver's message at position %d", k.position), keys[i-1], k.position)
		}
	}
	return nil
}

func (e *Evidence) signedHeads(r *reading, count int) ([]*signed, error) {
	if len(e.Heads) != count {
		return nil, disproved("it has %d signed heads, expected %d", len(e.Heads), count)
	}
	var heads []*signed
	for _, h := range e.Heads {
		if h == nil {
			return nil, disproved("a signed head is empty")
		}
		s, err := r.keys.head(e.Domain, h)
		if err != nil {
			return nil, disproved("%w", err)
		}
		r.signedBy(fmt.Sprintf("the signed head of %d entries", h.Head.Size), s.by, h.Head.Size)
		heads = append(heads, s)
	}
	return heads, nil
}

func (e *Evidence) signedReplies(r *reading, count int) ([]hashchain.Entry, error) {
	if len(e.Replies) != count {
		return nil, disproved("it has %d signed replies, expected %d", len(e.Replies), count)
	}
	var entries []hashchain.Entry
	for _, reply := range e.Replies {
		if reply == nil {
			return nil, disproved("a signed reply is empty")
		}
		entry, by, err := r.keys.reply(reply)
		if err != nil {
			return nil, disproved("%w", err)
		}
		position := reply.Entry.HashchainPos
		r.signedBy(fmt.Sprintf("the signed reply about position %d", position), by, position)
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

// prefix returns the root that the first size entries have of a tree of total entries: R, which
// the evidence joins to the tree's root.
func (e *Evidence) prefix(size, total uint64, of hashchain.Hash) (hashchain.Hash, error) {
	if len(e.Root) != len(hashchain.Hash{}) {
		return hashchain.Hash{}, disproved("it has a root of %d bytes, expected %d", len(e.Root), len(hashchain.Hash{}))
	}
	consistency, err := toHashes(e.Consistency)
	if err != nil {
		return hashchain.Hash{}, disproved("%w", err)
	}
	root := hashchain.Hash(e.Root)
	if err := hashchain.VerifyConsistency(size, total, consistency, root, of); err != nil {
		return hashchain.Hash{}, disproved("its consistency proof: %w", err)
	}
	return root, nil
}

func (e *Evidence) byHeads(r *reading) error {
	heads, err := e.signedHeads(r, 2)
	if err != nil {
		return err
	}
	one, two := heads[0], heads[1]
	r.shows("%s", one.text())
	r.shows("%s", two.text())
	switch {
	case one.Head.Size > two.Head.Size:
		return disproved("its heads are in the wrong order")
	case one.Head.Size == two.Head.Size && one.root == two.root && one.entryHash == two.entryHash:
		return disproved("its heads say the same")
	case one.Head.Size == two.Head.Size:
		r.shows("both cannot be true: they are of the same number of entries")
		return nil
	}
	root, err := e.prefix(one.Head.Size, two.Head.Size, two.root)
	if err != nil {
		return err
	}
	if root == one.root {
		return disproved("its second head continues the first")
	}
	r.shows("both cannot be true: the first %d entries of the second have the root %s", one.Head.Size, root)
	return nil
}

func (e *Evidence) byReplies(r *reading) error {
	entries, err := e.signedReplies(r, 2)
	if err != nil {
		return err
	}
	one, two := e.Replies[0].Entry.HashchainPos, e.Replies[1].Entry.HashchainPos
	r.shows("%s", replyText(one, &entries[0]))
	r.shows("%s", replyText(two, &entries[1]))
	switch {
	case one == two && entries[0] != entries[1]:
		r.shows("both cannot be true: they are different entries at one position")
	case one+1 == two && !entries[1].Follows(entries[0].Hash()):
		r.shows("both cannot be true: an entry's hash covers the one before it, and the second does not follow the first")
	default:
		return disproved("its replies, about positions %d and %d, can both be true", one, two)
	}
	return nil
}

func (e *Evidence) byReplyAndHead(r *reading) error {
	heads, err := e.signedHeads(r, 1)
	if err != nil {
		return err
	}
	entries, err := e.signedReplies(r, 1)
	if err != nil {
		return err
	}
	head, entry, position := heads[0], &entries[0], e.Replies[0].Entry.HashchainPos
	r.shows("%s", replyText(position, entry))
	r.shows("%s", head.text())
	if e.Inclusion == nil {
		if position+1 != head.Head.Size || entry.Hash() == head.entryHash {
			return disproved("its reply, about position %d, and its head of %d entries can both be true", position, head.Head.Size)
		}
		r.shows("both cannot be true: that is the position of the head's last entry")
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
	r.shows("both cannot be true: the head's tree has entry %s at that position", other.Hash())
	return nil
}

// log2 returns the binary logarithm of a positive number.
func log2(n *big.Int) float64 {
	mantissa := new(big.Float)
	exponent := new(big.Float).SetInt(n).MantExp(mantissa)
	f, _ := mantissa.Float64()
	return math.Log2(f) + float64(exponent)
}

// named shows that the chain of anchors is the keyserver's, by a head that names it if
// there is one.
func (e *Evidence) named(r *reading) error {
	if len(e.Heads) == 0 {
		return nil
	}
	heads, err := e.signedHeads(r, 1)
	if err != nil {
		return err
	}
	h := &heads[0].Head
	if h.AnchorChain != e.Genesis {
		return disproved("its head names the chain of anchors %.100q, expected %s", h.AnchorChain, e.Genesis)
	}
	r.shows("the keyserver signed at %s that it anchors in the chain that begins with tx %s", unixTime(h.Time), e.Genesis)
	return nil
}

// follow verifies the chain of anchors.
func (e *Evidence) follow(ctx context.Context, r *reading) (*follower, error) {
	in, err := proof.NewBundleReader(bytes.NewReader(e.Bundle))
	if err != nil {
		return nil, disproved("its proof bundle: %w", err)
	}
	net, err := protocol.Network(in.Network)
	if err != nil {
		return nil, disproved("its proof bundle: %w", err)
	}
	var genesis chainhash.Hash
	if err := chainhash.Decode(&genesis, e.Genesis); err != nil || len(e.Genesis) != chainhash.MaxHashStringSize {
		return nil, disproved("the txid of its genesis anchor is none: %.100q", e.Genesis)
	}
	if in.First != 0 || in.Chain != genesis {
		return nil, disproved("its proof bundle is of anchor %d on of chain %v, expected the whole of %v", in.First, in.Chain, genesis)
	}
	switch pinned := r.pins.Genesis; {
	case pinned == nil:
		r.doubt(AboutWhom, "the keyserver of %s anchors in the chain that begins with tx %s: anybody can make one in its name", e.Domain, e.Genesis)
	case *pinned != genesis:
		return nil, disproved("its anchors are of the chain that begins with tx %v, expected the pinned %v", genesis, *pinned)
	default:
		r.shows("the chain of anchors begins with tx %v, as pinned", genesis)
	}
	f := newFollower(net, genesis, r.headers, nil)
	for it, err := range in.Items() {
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
	r.Blocks, r.Work = f.blocks, log2(f.work)
	if r.headers == nil {
		r.doubt(OffChain, "the anchors' blocks, %d in number, the last %v at height %d, are on the best chain of %s: nobody was asked here, they carry the work of 2^%.1f hashes",
			f.blocks, f.block.Hash, f.height, in.Network, r.Work)
	}
	return f, e.named(r)
}

func (a *Anchored) text() string {
	return fmt.Sprintf("anchor %d, tx %v in block %d (%s), commits to entry %x at position %d and to the root %x", a.Number, a.TxID, a.Height, a.Time.Format("2006-01-02 15:04:05 MST"), a.Head, a.Position, a.Root)
}

// anchor is the last of the evidence's anchors.
func (e *Evidence) anchor(ctx context.Context, r *reading) (*Anchored, error) {
	f, err := e.follow(ctx, r)
	if err != nil {
		return nil, err
	}
	if f.closed != nil {
		return nil, disproved("its chain of anchors is broken: that is evidence of another kind")
	}
	r.onChain("%s", f.last.text())
	return f.last, nil
}

func (e *Evidence) byHeadAndAnchor(ctx context.Context, r *reading) error {
	heads, err := e.signedHeads(r, 1)
	if err != nil {
		return err
	}
	head := heads[0]
	a, err := e.anchor(ctx, r)
	if err != nil {
		return err
	}
	r.shows("%s", head.text())
	size := a.Position + 1
	switch {
	case a.Position >= head.Head.Size:
		return disproved("its head is of %d entries, the anchor of one at position %d: both can be true", head.Head.Size, a.Position)
	case head.Head.Size == size && (head.root != a.Root || head.entryHash != a.Head):
		r.onChain("both cannot be true: they are of the same number of entries")
		return nil
	}
	root, err := e.prefix(size, head.Head.Size, head.root)
	if err != nil {
		return err
	}
	if root == a.Root {
		return disproved("its head agrees with the anchor")
	}
	r.onChain("both cannot be true: the head's first %d entries have the root %s", size, root)
	return nil
}

func (e *Evidence) byReplyAndAnchor(ctx context.Context, r *reading) error {
	entries, err := e.signedReplies(r, 1)
	if err != nil {
		return err
	}
	a, err := e.anchor(ctx, r)
	if err != nil {
		return err
	}
	position := e.Replies[0].Entry.HashchainPos
	r.shows("%s", replyText(position, &entries[0]))
	if position != a.Position || entries[0].Hash() == a.Head {
		return disproved("its reply, about position %d, and its anchor can both be true", position)
	}
	r.onChain("both cannot be true: they are different entries at one position")
	return nil
}

func (e *Evidence) byAnchors(ctx context.Context, r *reading) error {
	f, err := e.follow(ctx, r)
	if err != nil {
		return err
	}
	if f.closed == nil {
		return disproved("its chain of anchors is not broken")
	}
	r.onChain("%s", f.last.text())
	r.onChain("%s", f.closed.text(f.last))
	return nil
}
