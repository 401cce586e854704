package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// Log is the keyserver's transparency log (keyserver/TLOG.md). Nothing of the answers is believed.
type Log interface {
	// Checkpoint returns the checkpoint that it shows, signed and cosigned.
	Checkpoint(ctx context.Context) ([]byte, error)
	// LogStatement returns what the keyserver says now of whose log it is; nil if it says nothing.
	LogStatement(ctx context.Context) (*hashchain.SignedLogStatement, error)
	// Tile returns a tile or an entry bundle.
	Tile(ctx context.Context, t tlog.Tile) ([]byte, error)
}

// witnessed is a checkpoint, and what the keyserver has signed of whose it is.
type witnessed struct {
	Signed    string                        `json:"signed"`
	Statement *hashchain.SignedLogStatement `json:"statement"`
}

// hasLog tells whether the log is audited.
func (u *run) hasLog() bool { return u.config.Policy != nil && u.from.Log != nil }

// askLog asks for a checkpoint, and then whose it is: the keyserver's statement is of no smaller a
// size. Both are asked for before the entries, which must reach them.
func (u *run) askLog(ctx context.Context) error {
	if !u.hasLog() {
		return nil
	}
	signed, err := u.from.Log.Checkpoint(ctx)
	if err != nil {
		return u.fails(checkpointCheck, unavailable(ctx, "the checkpoint of the keyserver's log", err))
	}
	statement, err := u.from.Log.LogStatement(ctx)
	if err == nil && statement == nil {
		err = errors.New("it says nothing of a log")
	}
	if err != nil {
		return u.fails(checkpointCheck, unavailable(ctx, "the keyserver's statement about its log", err))
	}
	u.checkpoint = &witnessed{string(signed), statement}
	return nil
}

const checkpointCheck = "checkpoint"

// checkLog compares the log with the copy, beyond the five checks (protocol/ANCHORS.md §5): that
// the keyserver's log has signed the checkpoint, that enough witnesses have cosigned it, lately,
// and that the copy has its root, so that the anchors that agree with the copy agree with it; and
// what tiles there are against the entries.
func (u *run) checkLog(ctx context.Context) error {
	if !u.hasLog() || u.report.Domain == "" {
		return nil
	}
	if s := u.state.Suspect; s != nil && u.state.Fingerprint != nil {
		contradicts, err := u.contradicting(ctx, s, "of an earlier audit")
		if err == nil && !contradicts { // it was the copy that somebody between had made up
			u.state.Suspect = nil
		}
		if err := u.report.note(err); err != nil {
			return err
		}
	}
	if u.checkpoint == nil {
		return nil
	}
	detail, err := u.verifyLog(ctx)
	if err != nil {
		return u.fails(checkpointCheck, err)
	}
	if detail == "" {
		u.report.check(checkpointCheck, Failed, "the log has signed another history than the one shown")
		return nil
	}
	u.report.check(checkpointCheck, Passed, "%s", detail)
	return nil
}

// verifyLog returns what was verified; "" if the checkpoint contradicts the copy, of which there is
// a finding then.
func (u *run) verifyLog(ctx context.Context) (detail string, err error) {
	opened, err := u.openCheckpoint(ctx)
	if err != nil {
		return "", err
	}
	c := opened.Checkpoint
	contradicts, err := u.contradicting(ctx, u.checkpoint, "that is shown now")
	if err != nil || contradicts {
		return "", err
	}
	if last := u.state.LastCheckpoint; last == nil || c.Size >= sizeOf(last) {
		u.state.LastCheckpoint = u.checkpoint
	}
	last, err := u.copy.At(c.Size - 1)
	if err != nil {
		return "", err
	}
	u.covers(c.Size-1, &last)
	if err := u.checkTiles(ctx, c); err != nil {
		return "", err
	}
	if err := opened.Quorum(0); err != nil {
		return "", problemf(NoQuorum, "%w", err)
	}
	if err := opened.Quorum(uint64(max(0, u.now().Add(-tlog.MaxAge).Unix()))); err != nil {
		return "", problemf(OldQuorum, "%w: cosignatures are older than %v: what the log has now, nobody has seen", err, tlog.MaxAge)
	}
	cosigners := "no witness, as the policy has it"
	if names := opened.Cosigners(); len(names) > 0 {
		cosigners = strings.Join(names, ", ")
	}
	return fmt.Sprintf("of %d entries, cosigned by %s; its root, its tiles and the %d anchors compared agree with the entries", c.Size, cosigners, u.state.Compared), nil
}

func sizeOf(w *witnessed) uint64 {
	c, err := tlog.Stated([]byte(w.Signed))
	if err != nil {
		return 0
	}
	return c.Size
}

// openCheckpoint opens the checkpoint that is shown: it is signed with the log's key, which the
// keyserver has named, and the policy, too, if it names one for that origin.
func (u *run) openCheckpoint(ctx context.Context) (*tlog.Opened, error) {
	keys, err := u.keys(ctx)
	if err != nil {
		return nil, err
	}
	said := u.checkpoint.Statement
	key, by, err := keys.logKey(u.report.Domain, said)
	if err != nil {
		return nil, problemf(OtherLog, "%w", err)
	}
	if wrong := keys.outOfForce(by, said.Statement.Size); wrong != "" {
		return nil, problemf(OutOfForce, "the statement about the log is not by the key that was in force: %s", wrong)
	}
	if pinned := u.config.Policy.Log(key.Name()); pinned != nil && pinned.Key.String() != key.String() {
		return nil, problemf(OtherLog, "the keyserver says that %s signs for its log, the policy has %s: if it has lost its key and made a new one, its operator says so elsewhere, too", key, pinned.Key)
	}
	opened, err := u.config.Policy.OpenOf(key, []byte(u.checkpoint.Signed))
	if err != nil {
		return nil, problemf(OtherLog, "the checkpoint: %w", err)
	}
	if opened.Checkpoint.Size == 0 {
		return nil, problemf(OtherLog, "the checkpoint is of no entries")
	}
	if _, err := checkpointClaim(u.checkpoint.Signed, key, &said.Statement); err != nil {
		return nil, problemf(OtherLog, "%w", err)
	}
	return opened, nil
}

// contradicting compares a checkpoint with the copy, and tells whether it has another root. Then
// there is a finding, with evidence if there is any yet: else the checkpoint is kept, for the next
// signed head, checkpoint or anchor to convict.
func (u *run) contradicting(ctx context.Context, w *witnessed, which string) (bool, error) {
	c, err := tlog.Stated([]byte(w.Signed))
	if err != nil || c.Size == 0 {
		return false, problemf(OtherLog, "the checkpoint: %w", err)
	}
	size, theirs := c.Size, hashchain.Hash(c.Root)
	if have := u.copy.Size(); size > have {
		if have == 0 {
			return false, problemf(Behind, "the log has signed %d entries, the keyserver shows none", size)
		}
		root, _, err := u.fromTiles(ctx, c, have)
		if err != nil {
			return false, problemf(Behind, "the log has signed %d entries, the keyserver shows %d: %w", c.Size, have, err)
		}
		size, theirs = have, root
	}
	root, err := u.rootAt(size)
	if err != nil {
		return false, err
	}
	if root == theirs {
		if size < c.Size {
			return false, problemf(Behind, "the log has signed %d entries, the keyserver shows the first %d of them", c.Size, size)
		}
		return false, nil
	}
	findings := len(u.report.Findings)
	err = u.convict(ctx, OtherCheckpoint,
		fmt.Sprintf("the log has signed, in the checkpoint of %d entries %s, that the first %d have the root %s; of those that the keyserver shows it is %s", c.Size, which, size, theirs, root),
		u.byCheckpoint(ctx, w, c)...)
	if err != nil {
		return true, err
	}
	switch convicted := u.report.Findings[findings].Evidence != ""; {
	case convicted && u.state.Suspect == w:
		u.state.Suspect = nil // the evidence stays
	case !convicted && u.state.Suspect == nil:
		u.state.Suspect = w
	}
	return true, nil
}

// fromTiles returns the root that a checkpoint gives to its first size entries, and the proof that
// joins them, by the log's tiles.
func (u *run) fromTiles(ctx context.Context, c tlog.Checkpoint, size uint64) (hashchain.Hash, []hashchain.Hash, error) {
	root, hashes, err := tlog.Prove(c, size, func(t tlog.Tile) ([]byte, error) { return u.from.Log.Tile(ctx, t) })
	if err != nil {
		return hashchain.Hash{}, nil, unavailable(ctx, "tiles of the log", err)
	}
	joined := make([]hashchain.Hash, len(hashes))
	for i := range hashes {
		joined[i] = hashchain.Hash(hashes[i])
	}
	return hashchain.Hash(root), joined, nil
}

// byCheckpoint makes evidence of a checkpoint that contradicts the copy, and of what was signed or
// anchored that agrees with the copy. The log's tiles join it to what is smaller, the copy to what
// is larger.
func (u *run) byCheckpoint(ctx context.Context, w *witnessed, c tlog.Checkpoint) []func() (*Evidence, error) {
	with := func(e *Evidence, size uint64) (*Evidence, error) {
		e.Log = w.Statement
		if e.Checkpoints == nil {
			e.Checkpoints = []string{w.Signed}
		}
		switch {
		case size < c.Size:
			root, consistency, err := u.fromTiles(ctx, c, size)
			if err != nil {
				return nil, err
			}
			e.Root, e.Consistency = root[:], hashesOf(consistency)
		case size > c.Size:
			if size > u.copy.Size() {
				return nil, nil
			}
			var err error
			if e.Root, e.Consistency, err = prefixRoot(u.copy, c.Size, size); err != nil {
				return nil, err
			}
		}
		return e, nil
	}
	attempts := []func() (*Evidence, error){func() (*Evidence, error) {
		last := u.state.LastCheckpoint
		if last == nil {
			return nil, nil
		}
		e, err := with(&Evidence{Proof: ByCheckpoints, Checkpoints: []string{last.Signed, w.Signed}}, sizeOf(last))
		if e != nil && last.Statement.Statement.Size > e.Log.Statement.Size {
			e.Log = last.Statement
		}
		return e, err
	}}
	for _, head := range []*hashchain.SignedHead{u.state.LastHead, u.head} {
		attempts = append(attempts, func() (*Evidence, error) {
			if head == nil || head.Head.Size == 0 {
				return nil, nil
			}
			return with(&Evidence{Proof: ByCheckpointAndHead, Heads: []*hashchain.SignedHead{head}}, head.Head.Size)
		})
	}
	for _, within := range []bool{true, false} { // of what the checkpoint covers
		attempts = append(attempts, func() (*Evidence, error) {
			a, err := u.anchorBeside(c.Size, within)
			if err != nil || a == nil {
				return nil, err
			}
			e := &Evidence{Proof: ByCheckpointAndAnchor, Genesis: u.genesis.String()}
			if e, err = with(e, a.Position+1); err != nil || e == nil {
				return nil, err
			}
			e.Bundle, err = u.bundleTo(a.Number+1, nil)
			return e, err
		})
	}
	return attempts
}

// anchorBeside returns, of the anchors that agree with the copy, the last that commits to at most
// size entries, or else the first that commits to more; nil if there is none.
func (u *run) anchorBeside(size uint64, within bool) (last *Anchored, err error) {
	n := uint32(0)
	for it, err := range u.items(0) {
		if err != nil {
			return nil, err
		}
		if n >= u.state.Compared {
			break
		}
		a, err := anchorOf(it, n)
		if err != nil {
			return nil, err
		}
		if a.Position >= size {
			if !within {
				last = a
			}
			break
		}
		if within {
			last = a
		}
		n++
	}
	return last, nil
}

// checkpointOf returns the newest checkpoint that is signed of a history with at least size
// entries, which the history has, and its root; nil if there is none.
func (u *run) checkpointOf(history *entryFile, size uint64) (*witnessed, uint64, error) {
	for _, w := range []*witnessed{u.checkpoint, u.state.LastCheckpoint, u.state.Suspect} {
		if w == nil {
			continue
		}
		c, err := tlog.Stated([]byte(w.Signed))
		if err != nil || c.Size < size || c.Size > history.Size() {
			continue
		}
		root, err := history.Root(c.Size)
		if err != nil {
			return nil, 0, err
		}
		if root == hashchain.Hash(c.Root) {
			return w, c.Size, nil
		}
	}
	return nil, 0, nil
}

// checkTiles compares the tiles and bundles that were not before with the entries.
func (u *run) checkTiles(ctx context.Context, c tlog.Checkpoint) error {
	checked := min(u.state.TilesChecked, c.Size)
	tiles := tlog.Tiles(checked, c.Size)
	for i, t := range tiles {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		theirs, err := u.from.Log.Tile(ctx, t)
		if err != nil {
			return unavailable(ctx, "the log", err)
		}
		mine, err := u.tile(t)
		if err != nil {
			return err
		}
		if !bytes.Equal(mine, theirs) {
			return problemf(OtherTiles, "%s of the log is not made of the entries that the keyserver shows", tlog.Path(t))
		}
		u.config.Progress("tiles", uint64(i+1), uint64(len(tiles)))
	}
	u.state.TilesChecked = max(u.state.TilesChecked, c.Size)
	return nil
}

// tile makes a tile or a bundle of the copy.
func (u *run) tile(t tlog.Tile) (content []byte, err error) {
	first, width := uint64(t.N)*tlog.TileWidth, uint64(t.W)
	if t.L < 0 {
		entries, err := u.copy.Read(first, width)
		for i := range entries {
			content = tlog.AppendEntry(content, entries[i][:])
		}
		return content, err
	}
	for i := range width {
		h, err := u.copy.Node(hashchain.NodeID{Level: uint(tlog.TileHeight * t.L), Index: first + i})
		if err != nil {
			return nil, err
		}
		content = append(content, h[:]...)
	}
	return content, nil
}
