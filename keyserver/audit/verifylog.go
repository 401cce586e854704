package audit

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"github.com/keytree-bch/keytree/keyserver/chainfile"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

// claim is what a statement says of the hashchain, whoever has made it.
type claim struct {
	text string
	size uint64 // entries
	root hashchain.Hash
}

func (s *signed) claim() claim { return claim{s.text(), s.Head.Size, s.root} }

func (a *Anchored) claim() claim { return claim{a.text(), a.Position + 1, a.Root} }

// logKey verifies what a keyserver of a domain says of its log, and returns the log's key, and
// the keyserver's that has signed it, in force or not.
func (k serverKeys) logKey(domain string, s *hashchain.SignedLogStatement) (*tlog.PublicKey, serverKey, error) {
	said := &s.Statement
	if said.Domain != domain {
		return nil, serverKey{}, fmt.Errorf("the statement about the log is of %.100q, expected %q", said.Domain, domain)
	}
	if said.Size == 0 || said.Size > chainfile.MaxEntries {
		return nil, serverKey{}, fmt.Errorf("the statement about the log is of %d entries, which cannot be", said.Size)
	}
	by, err := k.by(said.Size, func(public ed25519.PublicKey) error {
		_, err := s.Verify(public)
		return err
	})
	if err != nil {
		return nil, serverKey{}, err
	}
	key, err := tlog.ParseLogKey(said.LogVKey)
	if err == nil && key.Name() != said.LogOrigin {
		err = fmt.Errorf("the statement about the log names the origin %.100q and a key of %.100q", said.LogOrigin, key.Name())
	}
	return key, by, err
}

// checkpointClaim is what a checkpoint says that a log's key has signed. The keyserver has to
// have said that it is the key of its log when it had as many entries, or more: a log's key that
// was replaced counts for no size after that.
func checkpointClaim(signed string, key *tlog.PublicKey, said *hashchain.LogStatement) (claim, error) {
	c, err := tlog.Open([]byte(signed), key)
	switch {
	case err != nil:
		return claim{}, err
	case c.Size == 0:
		return claim{}, fmt.Errorf("a checkpoint of no entries says nothing")
	case c.Size > said.Size:
		return claim{}, fmt.Errorf("a checkpoint of %d entries, but the keyserver has said whose key signs them for %d only", c.Size, said.Size)
	}
	root := hashchain.Hash(c.Root)
	return claim{fmt.Sprintf("the log of the keyserver signed that its first %d entries have the root %s", c.Size, root), c.Size, root}, nil
}

// checkpoints verifies the evidence's checkpoints, and whose they are.
func (e *Evidence) checkpoints(r *reading, count int) ([]claim, error) {
	if len(e.Checkpoints) != count {
		return nil, disproved("it has %d checkpoints, expected %d", len(e.Checkpoints), count)
	}
	if e.Log == nil {
		return nil, disproved("it has no statement about whose log the checkpoints are of")
	}
	key, by, err := r.keys.logKey(e.Domain, e.Log)
	if err != nil {
		return nil, disproved("%w", err)
	}
	said := &e.Log.Statement
	r.signedBy(fmt.Sprintf("the statement about the log of %d entries", said.Size), by, said.Size)
	r.shows("the keyserver signed at %s that key %s signs for its log of %d entries", unixTime(said.Time), key, said.Size)
	var claims []claim
	for _, signed := range e.Checkpoints {
		c, err := checkpointClaim(signed, key, said)
		if err != nil {
			return nil, disproved("its checkpoint: %w", err)
		}
		claims = append(claims, c)
	}
	return claims, nil
}

// contradict shows that two claims cannot both be true: Consistency joins R at the smaller size to
// the root of the larger one.
func (e *Evidence) contradict(shows func(format string, args ...any), one, two claim) error {
	if one.size > two.size {
		one, two = two, one
	}
	shows("%s", one.text)
	shows("%s", two.text)
	if one.size == two.size {
		if one.root == two.root {
			return disproved("its statements say the same")
		}
		shows("both cannot be true: they are of the same number of entries")
		return nil
	}
	root, err := e.prefix(one.size, two.size, two.root)
	if err != nil {
		return err
	}
	if root == one.root {
		return disproved("the larger of its statements continues the smaller")
	}
	shows("both cannot be true: of the larger, the first %d entries have the root %s", one.size, root)
	return nil
}

func (e *Evidence) byCheckpoints(r *reading) error {
	claims, err := e.checkpoints(r, 2)
	if err != nil {
		return err
	}
	return e.contradict(r.shows, claims[0], claims[1])
}

func (e *Evidence) byCheckpointAndHead(r *reading) error {
	claims, err := e.checkpoints(r, 1)
	if err != nil {
		return err
	}
	heads, err := e.signedHeads(r, 1)
	if err != nil {
		return err
	}
	return e.contradict(r.shows, claims[0], heads[0].claim())
}

func (e *Evidence) byCheckpointAndAnchor(ctx context.Context, r *reading) error {
	claims, err := e.checkpoints(r, 1)
	if err != nil {
		return err
	}
	if len(e.Heads) != 1 {
		return disproved("it has %d signed heads, expected one, which names the chain of anchors: anybody can begin one for a domain", len(e.Heads))
	}
	a, err := e.anchor(ctx, r)
	if err != nil {
		return err
	}
	if a.Position >= chainfile.MaxEntries {
		return disproved("its anchor is of position %d, which cannot be", a.Position)
	}
	return e.contradict(r.onChain, claims[0], a.claim())
}
