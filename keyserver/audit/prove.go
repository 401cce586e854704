package audit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// prove makes evidence of what was found.
func (u *run) prove(ctx context.Context) error {
	if u.closed != nil {
		err := u.convict(ctx, breakKinds[u.closed.Break], u.closed.text(u.state.Last), func() (*Evidence, error) {
			b, err := u.bundleTo(u.count(), u.closing)
			return &Evidence{Proof: ByAnchors, Genesis: u.genesis.String(), Bundle: b}, err
		})
		if err != nil {
			return err
		}
	}
	if u.broken != nil {
		if err := u.proveBroken(ctx); err != nil {
			return err
		}
	}
	if u.forked {
		if err := u.proveFork(ctx); err != nil {
			if err := u.report.note(err); err != nil {
				return err
			}
		}
	}
	if a := u.contradicts; a != nil {
		entry, err := u.copy.At(a.Position)
		if err != nil {
			return err
		}
		kind, text := RewrittenEntry, fmt.Sprintf("the keyserver shows entry %s at position %d: an entry up to there was rewritten", entry.Hash(), a.Position)
		if entry.Hash() == a.Head {
			kind, text = OtherRoot, fmt.Sprintf("the keyserver shows entry %s at position %d, but the entries up to there have another root", entry.Hash(), a.Position)
		}
		if u.state.Compared > 0 {
			text += fmt.Sprintf(", after position %d", u.chain.Size-1)
		}
		return u.convict(ctx, kind, a.text()+"; "+text, u.byAnchor(ctx, u.copy, a)...)
	}
	return nil
}

// convict adds a finding with the first evidence that can be made and convinces.
func (u *run) convict(ctx context.Context, kind Kind, text string, attempts ...func() (*Evidence, error)) error {
	f := Finding{Kind: kind, Text: text}
	for _, attempt := range attempts {
		e, err := attempt()
		if p := new(problem); errors.As(err, &p) {
			continue // the keyserver does not help
		}
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		e.Version, e.Finding, e.Text, e.Domain = e.version(), kind, text, u.report.Domain
		if e.Genesis != "" && len(e.Heads) == 0 {
			e.Heads = u.naming()
		}
		if e.Proof != ByAnchors || len(e.Heads) > 0 {
			e.Keyserver = u.state.Keyserver
		}
		pins, err := u.pinsFor(ctx, e)
		if err != nil {
			return err
		}
		c, err := e.Verify(ctx, pins, u.from.Headers)
		if err != nil {
			continue
		}
		if c.Verdict != Misbehaviour {
			f.Compare = c.Compare
			continue
		}
		f.Assumes = c.Assumes
		f.Evidence, err = u.keepEvidence(ctx, e)
		if err := u.report.note(err); err != nil {
			return err
		}
		break
	}
	switch {
	case f.Evidence != "":
		f.Compare = nil
	case f.Compare == nil:
		f.Text += " (nothing of it is signed: it may be somebody's between, and nobody else can be convinced)"
	}
	u.report.Findings = append(u.report.Findings, f)
	return nil
}

// naming returns a signed head that names the pinned chain of anchors, if there is one.
func (u *run) naming() []*hashchain.SignedHead {
	keys, err := readKeys(u.report.Domain, u.state.Keyserver)
	if err != nil || u.state.Fingerprint == nil {
		return nil
	}
	for _, h := range []*hashchain.SignedHead{u.head, u.state.LastHead} {
		if h == nil || h.Head.AnchorChain != u.genesis.String() {
			continue
		}
		if s, err := keys.head(u.report.Domain, h); err == nil && keys.outOfForce(s.by, h.Head.Size) == "" {
			return []*hashchain.SignedHead{h}
		}
	}
	return nil
}

// earlier adds what earlier audits have found, and this one has not: who has shown two
// histories has, whatever he shows now. Only a reorganisation can undo evidence.
func (u *run) earlier(ctx context.Context) error {
	files, err := os.ReadDir(u.path(evidenceDir))
	if err != nil {
		return err
	}
	for _, file := range files {
		path := u.path(evidenceDir, file.Name())
		if filepath.Ext(path) != ".json" || slices.ContainsFunc(u.report.Findings, func(f Finding) bool { return f.Evidence == path }) {
			continue
		}
		e, err := u.verifyKept(ctx, path)
		switch {
		case err == nil:
			u.report.Findings = append(u.report.Findings, Finding{Kind: e.Finding, Text: "found by an earlier audit: " + e.Text, Evidence: path})
		case errors.Is(err, ErrNoEvidence):
			u.report.Notes = append(u.report.Notes, fmt.Sprintf("%s, which an earlier audit found, does not hold any more: %v", path, err))
		default:
			if err := u.report.note(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// byHeads makes evidence of the head that was kept, with which the copy agrees, and
// the present one, with which the other history agrees; nil if that is not known.
func (u *run) byHeads(mine, other *entryFile) (*Evidence, error) {
	one, two := u.state.LastHead, u.head
	if one == nil || two == nil {
		return nil, nil
	}
	e := &Evidence{Proof: ByHeads, Heads: []*hashchain.SignedHead{one, two}}
	var err error
	switch n, m := one.Head.Size, two.Head.Size; {
	case n == m:
	case m < n:
		e.Heads[0], e.Heads[1] = two, one
		e.Root, e.Consistency, err = prefixRoot(mine, m, n)
	case other == nil || other.Size() < m:
		return nil, nil
	default:
		e.Root, e.Consistency, err = prefixRoot(other, n, m)
	}
	return e, err
}

// byReplies makes evidence of two replies about one position.
func (u *run) byReplies(ctx context.Context, mine *uid.Reply, other *entryFile) (*Evidence, error) {
	if mine == nil || mine.Entry.HashchainPos >= other.Size() {
		return nil, nil
	}
	theirs, err := u.fetchReply(ctx, other, mine.Entry.HashchainPos)
	return &Evidence{Proof: ByReplies, Replies: []*uid.Reply{mine, theirs}}, err
}

// byCheckpoints makes evidence of the checkpoint that was kept, with which the copy agrees, and
// one of the other history; nil if there are none.
func (u *run) byCheckpoints(other *entryFile) (*Evidence, error) {
	last := u.state.LastCheckpoint
	if last == nil {
		return nil, nil
	}
	w, size, err := u.checkpointOf(other, 1)
	if err != nil || w == nil || w == last {
		return nil, err
	}
	e := &Evidence{Proof: ByCheckpoints, Checkpoints: []string{last.Signed, w.Signed}, Log: w.Statement}
	if last.Statement.Statement.Size > w.Statement.Statement.Size {
		e.Log = last.Statement
	}
	switch n := sizeOf(last); {
	case n < size:
		e.Root, e.Consistency, err = prefixRoot(other, n, size)
	case n > size:
		e.Root, e.Consistency, err = prefixRoot(u.copy, size, n)
	}
	return e, err
}

// byAnchor makes evidence of an anchor and what was signed of a history that it
// contradicts.
func (u *run) byAnchor(ctx context.Context, history *entryFile, a *Anchored) []func() (*Evidence, error) {
	with := func(e *Evidence) (*Evidence, error) {
		var err error
		e.Genesis = u.genesis.String()
		e.Bundle, err = u.bundleTo(a.Number+1, nil)
		return e, err
	}
	return []func() (*Evidence, error){
		func() (*Evidence, error) {
			if u.head == nil || u.head.Head.Size > history.Size() || a.Position >= u.head.Head.Size {
				return nil, nil
			}
			e := &Evidence{Proof: ByHeadAndAnchor, Heads: []*hashchain.SignedHead{u.head}}
			var err error
			if e.Root, e.Consistency, err = prefixRoot(history, a.Position+1, u.head.Head.Size); err != nil {
				return nil, err
			}
			return with(e)
		},
		func() (*Evidence, error) {
			if a.Position >= history.Size() {
				return nil, nil
			}
			reply, err := u.fetchReply(ctx, history, a.Position)
			if err != nil {
				return nil, err
			}
			return with(&Evidence{Proof: ByReplyAndAnchor, Replies: []*uid.Reply{reply}})
		},
		func() (*Evidence, error) {
			w, size, err := u.checkpointOf(history, a.Position+1)
			if err != nil || w == nil {
				return nil, err
			}
			e := &Evidence{Proof: ByCheckpointAndAnchor, Checkpoints: []string{w.Signed}, Log: w.Statement}
			if size > a.Position+1 {
				if e.Root, e.Consistency, err = prefixRoot(history, a.Position+1, size); err != nil {
					return nil, err
				}
			}
			return with(e)
		},
	}
}

// proveBroken makes evidence of an entry that does not follow the copy.
func (u *run) proveBroken(ctx context.Context) error {
	position := u.copy.Size()
	text := fmt.Sprintf("the entry at position %d does not follow the one before it: one of them was changed, or one between them is missing", position)
	return u.convict(ctx, BrokenLink, text, func() (*Evidence, error) {
		if position == 0 {
			return nil, nil
		}
		before, err := u.fetchReply(ctx, u.copy, position-1)
		if err != nil {
			return nil, err
		}
		reply, err := u.fetchReplyOf(ctx, u.broken, position)
		return &Evidence{Proof: ByReplies, Replies: []*uid.Reply{before, reply}}, err
	})
}

// proveFork downloads the other history, finds where it begins, and makes evidence
// of it.
func (u *run) proveFork(ctx context.Context) error {
	path := u.path(otherFile)
	defer os.Remove(path)
	other, err := openEntries(path, 0, hashchain.Hash{})
	if err != nil {
		return err
	}
	defer other.Close()
	for entries, err := range u.from.Keyserver.Entries(ctx, 0) {
		if err != nil {
			return unavailable(ctx, "the keyserver's other history", err)
		}
		added, err := other.add(entries)
		if err != nil {
			return err
		}
		if added < len(entries) {
			return problemf(BrokenLink, "the other history is none: its entry at position %d does not follow the one before it", other.Size())
		}
		u.config.Progress("entries of another history", other.Size(), 0)
	}
	fork, err := forkOf(u.copy, other)
	if err != nil {
		return err
	}
	if fork == 0 {
		return problemf(OtherServer, "the hashchain that is shown begins with another entry: it is another keyserver's, or begun anew")
	}
	if fork == other.Size() {
		return problemf(Behind, "the keyserver shows the first %d entries of a history of which it has shown %d", other.Size(), u.copy.Size())
	}
	mine, err := u.copy.At(fork)
	if err != nil {
		return err
	}
	theirs, err := other.At(fork)
	if err != nil {
		return err
	}
	kind := TwoEntries
	if fork < u.chain.Size {
		kind = RewrittenEntry
	}
	attempts := []func() (*Evidence, error){
		func() (*Evidence, error) { return u.byHeads(u.copy, other) },
		func() (*Evidence, error) { return u.byReplies(ctx, u.state.LastReply, other) },
		func() (*Evidence, error) {
			reply, err := u.fetchReply(ctx, u.copy, fork)
			if err != nil {
				return nil, err
			}
			return u.byReplies(ctx, reply, other)
		},
		func() (*Evidence, error) { return u.byCheckpoints(other) },
	}
	a, err := u.anchorFrom(fork)
	if err != nil {
		return err
	}
	if a != nil {
		attempts = append(attempts, u.byAnchor(ctx, other, a)...)
	}
	return u.convict(ctx, kind, fmt.Sprintf("the keyserver has shown entry %s at position %d, and shows %s there now", mine.Hash(), fork, theirs.Hash()), attempts...)
}

// forkOf returns the first position at which two histories differ, or the size of
// the shorter.
func forkOf(one, two *entryFile) (uint64, error) {
	var failed error
	n := sort.Search(int(min(one.Size(), two.Size())), func(i int) bool {
		a, err1 := one.At(uint64(i))
		b, err2 := two.At(uint64(i))
		failed = errors.Join(failed, err1, err2)
		return a != b
	})
	return uint64(n), failed
}

// anchorFrom returns the first anchor that agrees with the copy and commits to a
// position; nil if none does.
func (u *run) anchorFrom(position uint64) (*Anchored, error) {
	n := uint32(0)
	for it, err := range u.items(0) {
		if err != nil {
			return nil, err
		}
		if n >= u.state.Compared {
			break
		}
		a, err := anchorOf(it, n)
		if err != nil || a.Position >= position {
			return a, err
		}
		n++
	}
	return nil, nil
}
