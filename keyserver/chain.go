package keyserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// entriesAtOnce is how many entries are read in one go.
const entriesAtOnce = 1024

// Capabilities is what clients ask first. METHODS is for the wire to fill in.
type Capabilities struct {
	Methods               []string `json:"METHODS"`
	Domains               []string `json:"DOMAINS"`
	KeyRepositoryURIs     []string `json:"KEYREPOSITORYURIS"`
	KeyInitRepositoryURIs []string `json:"KEYINITREPOSITORYURIS"`
	KeyHashchainURIs      []string `json:"KEYHASHCHAINURIS"`
	// KeyHashchainEntry is the last entry, base64.
	KeyHashchainEntry string `json:"KEYHASHCHAINENTRY"`
	TknPubKey         string `json:"TKNPUBKEY"` // Tokens.PublicKey
	// KeyInitFetch is "token" if FetchKeyInit takes one (Options.PaidFetch), else "".
	KeyInitFetch string `json:"KEYINITFETCH,omitempty"`
	// SigPubKeys are the server's public signature keys, base64: the present one
	// first, then those before it, which older replies are signed by.
	SigPubKeys []string `json:"SIGPUBKEYS"`
	// AnchorChain is hashchain.Head.AnchorChain.
	AnchorChain string `json:"ANCHORCHAIN,omitempty"`
	// How often the hashchain is anchored (schedule.Schedule), the times in seconds; 0
	// if it is not.
	AnchorInterval   uint32 `json:"ANCHORINTERVAL,omitempty"`
	AnchorHeartbeat  uint32 `json:"ANCHORHEARTBEAT,omitempty"`
	AnchorMaxEntries uint32 `json:"ANCHORMAXENTRIES,omitempty"`
	// LogVKey is the public key of the transparency log that the hashchain is served as, and
	// LogStatement says so under the server's key; absent if it is not (keyserver/TLOG.md §2).
	LogStatement *hashchain.SignedLogStatement `json:"LOGSTATEMENT,omitempty"`
	LogVKey      string                        `json:"LOGVKEY,omitempty"`
}

// Capabilities returns what this keyserver is and where its chain ends.
func (s *Service) Capabilities(ctx context.Context) (*Capabilities, error) {
	entry, _, err := s.LastEntry(ctx)
	if err != nil {
		return nil, err
	}
	c := &Capabilities{
		Domains:               []string{s.opt.Domain},
		KeyRepositoryURIs:     s.opt.URIs,
		KeyInitRepositoryURIs: s.opt.URIs,
		KeyHashchainURIs:      s.opt.URIs,
		KeyHashchainEntry:     entry.String(),
		TknPubKey:             s.opt.Tokens.PublicKey(),
		AnchorChain:           s.AnchorChain(),
	}
	if s.opt.PaidFetch {
		c.KeyInitFetch = "token"
	}
	if anchors := s.opt.Anchors; anchors != nil {
		c.AnchorInterval, c.AnchorHeartbeat, c.AnchorMaxEntries = seconds(anchors.Interval), seconds(anchors.Heartbeat), uint32(anchors.MaxEntries)
	}
	state := s.writer.state.Load()
	if log := s.log.Load(); log != nil && state.keys != nil {
		c.LogVKey = log.vkey
		c.LogStatement = hashchain.SignLog(&state.chain, s.opt.Domain, log.origin, log.vkey, s.now(), state.keys.sign)
	}
	rotations := state.rotations
	for i := len(rotations) - 1; i >= 0; i-- {
		c.SigPubKeys = append(c.SigPubKeys, canonical.Encode(rotations[i].public))
	}
	return c, nil
}

// announcedLog is what AnnounceLog was told.
type announcedLog struct{ origin, vkey string }

// AnnounceLog says as which transparency log the hashchain is served from now on, for
// Capabilities: its origin and public key.
func (s *Service) AnnounceLog(origin, vkey string) { s.log.Store(&announcedLog{origin, vkey}) }

// seconds rounds a part of a schedule, which is within its bounds, up to whole seconds.
func seconds(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }

// Chain returns the chain's present state. Its Edge must not be changed. It answers also
// while the service is held, to whoever compares it with anchors: it is not for clients
// unless a call that is refused then goes with it.
func (s *Service) Chain() hashchain.Chain { return s.writer.state.Load().chain }

// KeyInits returns how many KeyInits are stored, expired ones included that are yet to be
// removed.
func (s *Service) KeyInits() uint64 { return s.writer.state.Load().keyInits }

// ChainAt returns the chain's state as it was after its first size entries.
// ErrRange unless there are so many, and at least one. It answers as Chain does.
func (s *Service) ChainAt(ctx context.Context, size uint64) (c hashchain.Chain, err error) {
	if have := s.Chain().Size; size == 0 || size > have {
		return hashchain.Chain{}, fmt.Errorf("%w: expected 1 to %d entries, got %d", ErrRange, have, size)
	}
	err = s.viewHeld(ctx, func(view store.Reader) error {
		last, err := readEntry(view, size-1)
		if err == nil {
			c, err = hashchain.ChainAt(size, last.entry.Hash(), nodes{view})
		}
		return err
	})
	return c, err
}

// SetAnchorChain says in which chain of anchors the hashchain is anchored from now
// on (hashchain.Head.AnchorChain). When it returns, that is on disk, and so in every
// backup that is made later. It is for one goroutine at a time, and works while the
// service is held: it is not history, and what holds the service calls it.
func (s *Service) SetAnchorChain(ctx context.Context, name string) error {
	if s.AnchorChain() == name {
		return nil
	}
	err := s.writer.do(ctx, func(t *tx) error {
		t.set([]byte{prefixAnchors}, []byte(name))
		return nil
	})
	if err == nil {
		s.anchorChain.Store(&name)
	}
	return err
}

// AnchorChain returns what SetAnchorChain was told last, by whichever process; "" if
// it never was.
func (s *Service) AnchorChain() string {
	if name := s.anchorChain.Load(); name != nil {
		return *name
	}
	return ""
}

// SetUnanchored says that none of the chains of anchors that name the domain is this
// hashchain's, now or later, but those that SetAnchorChain names: anybody can begin one,
// and none is to stop the keyserver again. When it returns, that is on disk. It is not in
// backups: whoever restores one has to be asked again, since the hashchain may have been
// anchored in between. As SetAnchorChain, it works while the service is held.
func (s *Service) SetUnanchored(ctx context.Context) error {
	err := s.writer.do(ctx, func(t *tx) error {
		t.set([]byte{prefixNone}, nil)
		return nil
	})
	if err == nil {
		s.unanchored.Store(true)
	}
	return err
}

// Unanchored reports whether SetUnanchored was called, by whichever process.
func (s *Service) Unanchored() bool { return s.unanchored.Load() }

// SignedHead states where the chain ends now.
func (s *Service) SignedHead(ctx context.Context) (hashchain.SignedHead, error) {
	if err := s.view(ctx, func(store.Reader) error { return nil }); err != nil {
		return hashchain.SignedHead{}, err
	}
	state := s.writer.state.Load()
	return hashchain.SignHead(&state.chain, s.opt.Domain, s.AnchorChain(), s.now(), state.keys.sign), nil
}

// LastEntry returns the last entry and its position.
func (s *Service) LastEntry(ctx context.Context) (hashchain.Entry, uint64, error) {
	if err := s.current(ctx); err != nil {
		return hashchain.Entry{}, 0, err
	}
	position := s.Chain().Size - 1
	var r entryRecord
	err := s.view(ctx, func(view store.Reader) (err error) {
		r, err = readEntry(view, position)
		return err
	})
	return r.entry, position, err
}

// Entries returns the entries at first…last, both included, in their order. A last
// behind the end of the chain means its end; a first behind it means the last
// entry. from is the position of the first one returned. ErrRange if last < first.
//
// The sequence reads as it is consumed, holding about a thousand entries; it ends
// with an error if one occurs or ctx ends.
func (s *Service) Entries(ctx context.Context, first, last uint64) (from uint64, entries iter.Seq2[hashchain.Entry, error], err error) {
	if err := s.current(ctx); err != nil {
		return 0, nil, err
	}
	if last < first {
		return 0, nil, fmt.Errorf("%w: first position %d is behind the last, %d", ErrRange, first, last)
	}
	end := s.Chain().Size - 1
	from, last = min(first, end), min(last, end)
	return from, func(yield func(hashchain.Entry, error) bool) {
		for at := from; at <= last; {
			piece, err := s.readEntries(ctx, at, min(last-at+1, entriesAtOnce))
			for _, e := range piece {
				if !yield(e, nil) {
					return
				}
			}
			if err != nil {
				yield(hashchain.Entry{}, err)
				return
			}
			at += uint64(len(piece))
		}
	}, nil
}

func (s *Service) readEntries(ctx context.Context, from, count uint64) ([]hashchain.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries := make([]hashchain.Entry, 0, count)
	err := s.view(ctx, func(view store.Reader) error {
		for pair, err := range view.Pairs([]byte{prefixEntry}, entryKey(from)) {
			position := from + uint64(len(entries))
			if err == nil && !bytes.Equal(pair.Key, entryKey(position)) {
				break
			}
			var r entryRecord
			if err == nil {
				r, err = decodeEntryRecord(pair.Value)
			}
			if err != nil {
				return err
			}
			if entries = append(entries, r.entry); uint64(len(entries)) == count {
				return nil
			}
		}
		return fmt.Errorf("%w: no entry at position %d", ErrDamaged, from+uint64(len(entries)))
	})
	return entries, err
}

// MaxPositions is how many positions LookupUID returns at most.
const MaxPositions = 10_000

// LookupUID returns the positions of the entries of an identity (mapped), up to the position
// last, ascending; none if nobody has registered it. Of more than MaxPositions it returns the
// latest, and that there are earlier ones: they are up to the one before the first of these.
func (s *Service) LookupUID(ctx context.Context, identity string, last uint64) (found []uint64, earlier bool, err error) {
	if err := uid.CheckMapped(identity); err != nil {
		return nil, false, err
	}
	err = s.view(ctx, func(view store.Reader) error {
		found, earlier, err = lastPositions(view, identity, last)
		return err
	})
	return found, earlier, err
}

// lastPositions is LookupUID in a view.
func lastPositions(view store.Reader, identity string, last uint64) (found []uint64, earlier bool, err error) {
	of := positionsOf(identity)
	behind := slices.Concat(of, number(last), []byte{0}) // the key of last, and before that of the next position
	for key, err := range view.KeysBackward(of, behind) {
		if err != nil {
			return nil, false, err
		}
		if len(found) == MaxPositions {
			earlier = true
			break
		}
		found = append(found, binary.BigEndian.Uint64(key[len(of):]))
	}
	slices.Reverse(found)
	return found, earlier, nil
}

// FetchUID returns the canonical uid.Reply under a UIDIndex, exactly as it was
// first returned. ErrUnknown if there is none.
func (s *Service) FetchUID(ctx context.Context, index hashchain.Hash) (reply []byte, err error) {
	err = s.view(ctx, func(view store.Reader) (err error) {
		var ok bool
		if reply, ok, err = view.Get(replyKey(index)); err == nil && !ok {
			err = fmt.Errorf("%w: UIDIndex %s", ErrUnknown, index)
		}
		return err
	})
	return reply, err
}

// GetLink returns the identity and position of the first authoritative link for a
// domain. ErrUnknown if there is none.
func (s *Service) GetLink(ctx context.Context, domain string) (identity string, position uint64, err error) {
	if err := uid.CheckDomain(domain); err != nil {
		return "", 0, err
	}
	err = s.view(ctx, func(view store.Reader) error {
		b, ok, err := view.Get(linkKey(domain))
		if err == nil && !ok {
			err = fmt.Errorf("%w: link for %s", ErrUnknown, domain)
		}
		if err != nil {
			return err
		}
		if len(b) < 8 {
			return fmt.Errorf("%w: link record of %d bytes", ErrDamaged, len(b))
		}
		identity, position = string(b[8:]), binary.BigEndian.Uint64(b)
		return nil
	})
	return identity, position, err
}

// InclusionProof proves that the entry at a position is in the tree of the first
// size entries. ErrRange unless position < size and size is within the chain.
func (s *Service) InclusionProof(ctx context.Context, position, size uint64) ([]hashchain.Hash, error) {
	return s.prove(ctx, size, position < size, func(n hashchain.Nodes) ([]hashchain.Hash, error) {
		return hashchain.InclusionProof(position, size, n)
	})
}

// ConsistencyProof proves that the tree of the first size1 entries is the
// beginning of that of the first size2. ErrRange unless size1 <= size2 and size2 is
// within the chain.
func (s *Service) ConsistencyProof(ctx context.Context, size1, size2 uint64) ([]hashchain.Hash, error) {
	return s.prove(ctx, size2, size1 <= size2, func(n hashchain.Nodes) ([]hashchain.Hash, error) {
		return hashchain.ConsistencyProof(size1, size2, n)
	})
}

func (s *Service) prove(ctx context.Context, size uint64, sensible bool, build func(hashchain.Nodes) ([]hashchain.Hash, error)) (proof []hashchain.Hash, err error) {
	if err := s.current(ctx); err != nil {
		return nil, err
	}
	if have := s.Chain().Size; !sensible || size > have {
		return nil, fmt.Errorf("%w: the chain has %d entries", ErrRange, have)
	}
	err = s.view(ctx, func(view store.Reader) (err error) {
		proof, err = build(nodes{view})
		return err
	})
	return proof, err
}

// TreeHashes returns count hashes of a level of the Merkle tree, from index first on: each is
// the root of the perfect subtree over 1<<level entries; at level 0, the hash of an entry as a
// leaf. ErrRange unless the chain has all of these entries.
func (s *Service) TreeHashes(ctx context.Context, level uint, first, count uint64) ([]hashchain.Hash, error) {
	if have := s.Chain().Size >> level; count == 0 || count > have || first > have-count {
		return nil, fmt.Errorf("%w: level %d of the tree has %d hashes, not %d from %d on", ErrRange, level, have, count, first)
	}
	hashes := make([]hashchain.Hash, 0, count)
	if level == 0 {
		entries, err := s.readEntries(ctx, first, count)
		for i := range entries {
			hashes = append(hashes, hashchain.LeafHash(&entries[i]))
		}
		return hashes, err
	}
	err := s.view(ctx, func(view store.Reader) error {
		for pair, err := range view.Pairs(nodesOf(level), nodeKey(hashchain.NodeID{Level: level, Index: first})) {
			if err != nil {
				return err
			}
			at := hashchain.NodeID{Level: level, Index: first + uint64(len(hashes))}
			if uint64(len(hashes)) == count {
				return nil
			}
			if !bytes.Equal(pair.Key, nodeKey(at)) || len(pair.Value) != len(hashchain.Hash{}) {
				break
			}
			hashes = append(hashes, hashchain.Hash(pair.Value))
		}
		if uint64(len(hashes)) < count {
			return fmt.Errorf("%w: no node %d at level %d", ErrDamaged, first+uint64(len(hashes)), level)
		}
		return nil
	})
	return hashes, err
}

// nodes is the Merkle tree as it is stored.
type nodes struct{ view store.Getter }

// Node implements hashchain.Nodes.
func (n nodes) Node(id hashchain.NodeID) (hashchain.Hash, error) {
	if id.Level == 0 {
		r, err := readEntry(n.view, id.Index)
		return hashchain.LeafHash(&r.entry), err
	}
	b, ok, err := n.view.Get(nodeKey(id))
	if err == nil && (!ok || len(b) != len(hashchain.Hash{})) {
		err = fmt.Errorf("%w: missing in the database", ErrDamaged)
	}
	if err != nil {
		return hashchain.Hash{}, err
	}
	return hashchain.Hash(b), nil
}
