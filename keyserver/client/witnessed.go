package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// What is cosigned by witnesses that users have in common, they compare without knowing each other
// (keyserver/TLOG.md §9).
var (
	// ErrNoQuorum says that fewer witnesses have cosigned what the keyserver's log shows than the
	// pinned policy demands, and that nothing newer is known. Try again later, or on another network.
	ErrNoQuorum = errors.New("too few of the pinned witnesses have cosigned what the keyserver shows")
	// ErrOldQuorum says that they have, but longer ago than tlog.MaxAge: others may have been shown
	// something else since. Try again later, on another network; or is the clock right?
	ErrOldQuorum = errors.New("the newest cosignatures of the pinned witnesses are too old")
)

// seen is a checkpoint that the copy contains, as the policy demands it.
type seen struct {
	Signed string `json:"signed"` // with cosignatures
	// The copy at its size, from where the next is compared; nothing after a Resync.
	Size uint64   `json:"size"`
	Head []byte   `json:"head"`
	Edge [][]byte `json:"edge"`
}

// chain is the copy at the size of what was seen, if a copy of some size goes so far.
func (s *seen) chain(size uint64) hashchain.Chain {
	if s == nil || s.Size == 0 || s.Size > size || len(s.Head) != len(hashchain.Hash{}) {
		return hashchain.Chain{}
	}
	c := hashchain.Chain{Size: s.Size, Head: hashchain.Hash(s.Head)}
	for _, h := range s.Edge {
		if len(h) != len(hashchain.Hash{}) {
			return hashchain.Chain{}
		}
		c.Edge = append(c.Edge, hashchain.Hash(h))
	}
	return c
}

// Witnessed is how far witnesses have cosigned the copy.
type Witnessed struct {
	Entries uint64   // of the copy; those behind are not witnessed yet
	By      []string // names, as in the policy
}

// Witnessed returns how far the witnesses of the pinned policy have cosigned the copy; nil if no
// policy is pinned.
func (c *Client) Witnessed() (*Witnessed, error) {
	policy, err := c.policy()
	if err != nil || policy == nil {
		return nil, err
	}
	if opened := c.lastWith(policy); opened != nil && c.state.Seen.Size > 0 {
		return &Witnessed{opened.Checkpoint.Size, opened.Cosigners()}, nil
	}
	return new(Witnessed), nil
}

// lastWith opens the checkpoint that was taken last; nil if there is none, or it has not the quorum of a
// policy, which may be another than when it was taken.
func (c *Client) lastWith(policy *tlog.Policy) *tlog.Opened {
	key, err := tlog.ParseLogKey(c.state.LogKey)
	if err != nil || c.state.Seen == nil {
		return nil
	}
	opened, err := policy.OpenOf(key, []byte(c.state.Seen.Signed))
	if err != nil || opened.Quorum(0) != nil {
		return nil
	}
	return opened
}

// Pin makes Sync demand what a policy (C2SP tlog-policy) demands of the checkpoints of the
// keyserver's log; nil: nothing more. tlog.ErrFormat if it is none.
func (c *Client) Pin(policy []byte) error {
	if policy != nil {
		if _, err := tlog.ParsePolicy(policy); err != nil {
			return err
		}
	}
	c.state.Policy = string(policy)
	return c.saveState()
}

// policy is the pinned one; nil if there is none.
func (c *Client) policy() (*tlog.Policy, error) {
	if c.state.Policy == "" {
		return nil, nil
	}
	p, err := tlog.ParsePolicy([]byte(c.state.Policy))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: the pinned policy: %w", ErrDamaged, c.path(stateFile), err)
	}
	return p, nil
}

// shown is the checkpoint that the keyserver's log shows, or why there is none.
type shown struct {
	signed []byte
	err    error
}

// askCheckpoint asks for the checkpoint before the entries, which have to reach it; nil if nobody
// demands one, and the keyserver speaks of no log.
func (c *Client) askCheckpoint(ctx context.Context, caps *capabilities) *shown {
	if c.state.Policy == "" && caps.LogStatement == nil {
		return nil
	}
	signed, err := c.wire.checkpoint(ctx)
	return &shown{signed, err}
}

// compareCheckpoint refuses a copy that does not contain the checkpoint that is shown, or the one
// that was kept; and, if a policy is pinned, one of which no quorum has cosigned anything lately.
// What is behind the newest quorum stays: it is not witnessed yet. before is what to go back to.
func (c *Client) compareCheckpoint(ctx context.Context, caps *capabilities, s *shown, before *snapshot) error {
	if s == nil {
		return nil
	}
	policy, err := c.policy()
	if err != nil {
		return err
	}
	key, problem := c.logKey(policy, caps)
	if problem == nil {
		problem = s.err
	}
	if problem == nil {
		problem, err = c.takeCheckpoint(ctx, policy, key, s.signed)
	}
	if err == nil && c.state.Seen != nil && c.state.Seen.Size == 0 { // the copy was begun again
		_, err = c.contains(ctx, []byte(c.state.Seen.Signed))
	}
	if err != nil {
		return errors.Join(err, c.goBack(before))
	}
	if policy == nil || !policy.Demands() {
		if problem != nil {
			c.opt.Notice(fmt.Sprintf("the copy could not be compared with a checkpoint of the keyserver's log: %v", problem))
		}
		return ctx.Err()
	}
	return c.demandQuorum(policy, problem)
}

// logKey is the key of the keyserver's log: the policy's, if it has one for its origin, or the one
// that the keyserver has named with its own key in force.
func (c *Client) logKey(policy *tlog.Policy, caps *capabilities) (*tlog.PublicKey, error) {
	said := caps.LogStatement
	if policy != nil {
		if pinned := policy.Log(logOrigin(c.state.Domain)); pinned != nil {
			if said != nil && said.Statement.LogVKey != pinned.Key.String() {
				c.opt.Notice(fmt.Sprintf("the keyserver names %.200q as the key of its log, the pinned policy has %s", said.Statement.LogVKey, pinned.Key))
			}
			return pinned.Key, nil
		}
	}
	if said == nil {
		return nil, fmt.Errorf("%w: it names no transparency log", ErrUnsupported)
	}
	return c.statedKey(said)
}

// logOrigin is the name of the log of a domain's keyserver (keyserver/TLOG.md §1).
func logOrigin(domain string) string { return domain + "/keytree" }

// statedKey verifies what the keyserver has said of its log.
func (c *Client) statedKey(said *hashchain.SignedLogStatement) (*tlog.PublicKey, error) {
	st := &said.Statement
	if st.Domain != c.state.Domain {
		return nil, unproven(ErrUnsigned, st.Size, "LOGSTATEMENT is of %.100q", st.Domain)
	}
	if _, err := said.Verify(c.state.Keys.inForce(st.Size)); err != nil {
		return nil, unproven(ErrUnsigned, st.Size, "LOGSTATEMENT: %v", err)
	}
	key, err := tlog.ParseLogKey(st.LogVKey)
	if err != nil {
		return nil, fmt.Errorf("LOGVKEY: %w", err)
	}
	return key, nil
}

// takeCheckpoint compares a checkpoint with the copy, and keeps it if the policy demands no more.
// problem is why it does not do; err that the copy is refused.
func (c *Client) takeCheckpoint(ctx context.Context, policy *tlog.Policy, key *tlog.PublicKey, signed []byte) (problem, err error) {
	if policy == nil {
		policy = new(tlog.Policy)
	}
	opened, problem := policy.OpenOf(key, signed)
	if problem != nil || opened.Checkpoint.Size == 0 {
		return problem, nil
	}
	chain, err := c.contains(ctx, signed)
	if err != nil {
		return nil, err
	}
	if problem := opened.Quorum(0); problem != nil {
		return fmt.Errorf("%w: %w", ErrNoQuorum, problem), nil
	}
	if c.lastWith(policy) != nil && c.state.Seen.Size > opened.Checkpoint.Size {
		return nil, nil // an older one that agrees, too
	}
	s := &seen{Signed: string(signed), Size: chain.Size, Head: bytes.Clone(chain.Head[:])}
	for _, h := range chain.Edge {
		s.Edge = append(s.Edge, bytes.Clone(h[:]))
	}
	c.state.Seen, c.state.LogKey = s, key.String()
	return nil, c.saveState()
}

// contains returns the copy at the size of a checkpoint, or what it means that it has another root
// there, or none.
func (c *Client) contains(ctx context.Context, signed []byte) (hashchain.Chain, error) {
	checkpoint, err := tlog.Stated(signed)
	if err != nil {
		return hashchain.Chain{}, err
	}
	if checkpoint.Size > c.Size() {
		return hashchain.Chain{}, unproven(ErrContradiction, c.Size(), "the hashchain ends before it, the keyserver's log has signed %d entries: entries are withheld", checkpoint.Size)
	}
	var chain hashchain.Chain
	if c.state.Seen != nil && c.state.Seen.Size <= checkpoint.Size {
		chain = c.state.Seen.chain(c.Size())
	}
	if err := c.chain.Advance(&chain, checkpoint.Size); err != nil {
		return chain, err
	}
	if root := chain.Root(); root != hashchain.Hash(checkpoint.Root) {
		return chain, c.otherCheckpoint(ctx, checkpoint, signed, root)
	}
	return chain, nil
}

// otherCheckpoint says what it means that a checkpoint does not have the root of the copy. The
// keyserver has signed a reply that covers the copy: if it vouches for the key of its log at that
// size, it has signed both.
func (c *Client) otherCheckpoint(ctx context.Context, checkpoint tlog.Checkpoint, signed []byte, root hashchain.Hash) error {
	position := checkpoint.Size - 1
	problem := fmt.Sprintf("the keyserver's log has signed that the first %d entries have the root %s; those of the copy have %s", checkpoint.Size, hashchain.Hash(checkpoint.Root), root)
	caps, err := c.wire.capabilities(ctx)
	if err != nil || caps.LogStatement == nil || c.state.Covers == nil || caps.LogStatement.Statement.Size < checkpoint.Size {
		return unproven(ErrContradiction, position, "%s", problem)
	}
	key, err := c.statedKey(caps.LogStatement)
	if err == nil {
		_, err = tlog.Open(signed, key)
	}
	if err != nil {
		return unproven(ErrContradiction, position, "%s", problem)
	}
	return c.misbehaves(position, exhibit{reply: c.state.Covers, checkpoint: string(signed), log: caps.LogStatement}, "%s", problem)
}

// demandQuorum returns nil if the newest checkpoint that was taken had its quorum within tlog.MaxAge.
// problem is why the one that is shown now does not do: who has taken a good one lately is not locked
// out by it.
func (c *Client) demandQuorum(policy *tlog.Policy, problem error) error {
	opened := c.lastWith(policy)
	if opened == nil && problem == nil {
		problem = ErrNoQuorum
	}
	if opened == nil {
		return problem
	}
	if err := opened.Quorum(uint64(max(0, c.opt.Now().Add(-tlog.MaxAge).Unix()))); err != nil {
		return fmt.Errorf("%w: it has to be within %v: %w", ErrOldQuorum, tlog.MaxAge, err)
	}
	if problem != nil {
		c.opt.Notice(fmt.Sprintf("went on with the checkpoint of %d entries, which %s have cosigned: of the one that is shown now: %v", opened.Checkpoint.Size, strings.Join(opened.Cosigners(), ", "), problem))
	}
	return nil
}

// snapshot is a copy's state before a Sync.
type snapshot struct {
	size  uint64
	state state
}

// goBack takes back what a Sync has added that is refused. A copy that had nothing keeps what came, and is refused
// again.
func (c *Client) goBack(before *snapshot) error {
	if before.size == 0 || before.size == c.Size() {
		return nil
	}
	if err := c.cut(before.size); err != nil {
		return err
	}
	policy, last, key := c.state.Policy, c.state.Seen, c.state.LogKey
	c.state = before.state
	c.state.Policy, c.state.Seen, c.state.LogKey = policy, last, key
	return c.saveState()
}

// ErrNotCovered says that the newest checkpoint, or anchor, does not cover an entry yet: sync, and
// try again later.
var ErrNotCovered = errors.New("nothing covers the entry yet")

// Prove shows, by the newest checkpoint that was taken, that an entry is in the log (C2SP
// tlog-proof), and that this continues the first anchored entries. ErrNotCovered if the checkpoint
// has not all of them.
func (c *Client) Prove(position, anchored uint64) (entry hashchain.Entry, p *tlog.Proof, consistency []hashchain.Hash, err error) {
	if c.state.Seen == nil || c.state.Seen.Size == 0 {
		return entry, nil, nil, fmt.Errorf("%w: no checkpoint of the keyserver's log was taken", ErrNotCovered)
	}
	size := c.state.Seen.Size
	if position >= size || anchored > size {
		return entry, nil, nil, fmt.Errorf("%w: the checkpoint is of %d entries, the entry is at position %d, the anchor of %d entries", ErrNotCovered, size, position, anchored)
	}
	if entry, err = c.chain.At(position); err != nil {
		return entry, nil, nil, err
	}
	inclusion, err := hashchain.InclusionProof(position, size, c.chain)
	if err == nil {
		consistency, err = hashchain.ConsistencyProof(anchored, size, c.chain)
	}
	if err != nil {
		return entry, nil, nil, err
	}
	p = &tlog.Proof{Index: position, Checkpoint: []byte(c.state.Seen.Signed)}
	for _, h := range inclusion {
		p.Hashes = append(p.Hashes, tlog.Hash(h))
	}
	return entry, p, consistency, nil
}
