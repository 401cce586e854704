package keyserver

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/store"
	"github.com/keytree-bch/keytree/keyserver/uid"
)

// start makes the first entry, if there is none, and verifies and loads the
// state.
func (s *Service) start(ctx context.Context) error {
	err := s.db.View(ctx, func(view store.Reader) (err error) {
		s.format, err = s.checkFormat(view)
		return err
	})
	if err == nil && s.format == 0 {
		s.format, err = formatVersion, s.first(ctx)
	}
	if err != nil {
		return err
	}
	known := s.writer.state.Load() // by a standby that takes over
	if known == nil {
		known = new(state)
	}
	var state *state
	err = s.db.View(ctx, func(view store.Reader) (err error) {
		if state, err = s.load(ctx, view, known); err != nil {
			return err
		}
		state.keyInits, err = store.Count(view, []byte{prefixKeyInit})
		return err
	})
	if err != nil {
		return err
	}
	public := state.rotations[len(state.rotations)-1].public
	if state.keys, err = s.keysOf(public, state.agree); err != nil {
		return err
	}
	s.writer.state.Store(state)
	if !s.opt.ReadOnly {
		s.acknowledge(&state.chain)
	}
	switch {
	case s.opt.ReadOnly || !s.writes():
		return nil
	case s.format == formatVersion:
		return s.clearEarlier(ctx)
	}
	return s.migrate(ctx)
}

// writes tells whether this service is, or is becoming, the one that writes.
func (s *Service) writes() bool { return !s.opt.Standby || s.tookOver }

// load verifies what was stored behind a state that was verified, from the beginning if that is
// zero, and what is remembered to have been acknowledged.
func (s *Service) load(ctx context.Context, view store.Reader, known *state) (*state, error) {
	next := new(state)
	var err error
	if next.chain, err = verifyChain(ctx, view, known.chain); err != nil {
		return nil, err
	}
	if s.acknowledged != nil {
		if err := s.acknowledged.check(view, &next.chain); err != nil {
			return nil, err
		}
	}
	if next.rotations, next.agree, err = s.readRotations(view); err != nil {
		return nil, err
	}
	return next, s.readMarks(view)
}

// readMarks reads what the store says of anchors.
func (s *Service) readMarks(view store.Getter) error {
	name, ok, err := view.Get([]byte{prefixAnchors})
	if err != nil {
		return err
	}
	if ok {
		name := string(name)
		s.anchorChain.Store(&name)
	}
	_, unanchored, err := view.Get([]byte{prefixNone})
	s.unanchored.Store(unanchored)
	return err
}

// keysOf returns the keys with public keys for signatures and for key agreement; nil for one
// who looks and may not read them. A standby leaves the files as they are.
func (s *Service) keysOf(public ed25519.PublicKey, agree []byte) (*serverKeys, error) {
	if !s.opt.ReadOnly && s.writes() {
		return settleKeys(s.opt.KeyFile, public, agree)
	}
	keys, _, err := findKeys(s.opt.KeyFile, public, agree)
	if errors.Is(err, fs.ErrPermission) {
		s.opt.Log.Warn().Err(err).Msg("the key file was not compared with the hashchain")
		return nil, nil
	}
	return keys, err
}

// first writes position 0: the keyserver's own UID message (keyserver/WIRE.md
// §10). A key file without a database belongs to a chain that is
// elsewhere: to begin another under the same key would be a second history.
func (s *Service) first(ctx context.Context) error {
	if s.opt.ReadOnly {
		return fmt.Errorf("%w: %s holds no database to read", ErrMismatch, s.opt.place())
	}
	if s.opt.Standby {
		return fmt.Errorf("%w: %s holds no keyserver yet to stand by for: start the first server without standby", ErrMismatch, s.opt.place())
	}
	if _, err := os.Stat(s.opt.KeyFile); err == nil {
		return fmt.Errorf("%w: %s is there, but %s is empty: restore the database of this key, or give another key file",
			ErrMismatch, s.opt.KeyFile, s.opt.place())
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	keys, err := readKeys(nextFile(s.opt.KeyFile)) // of a first start that was interrupted
	if err != nil {
		return err
	}
	if keys == nil {
		if keys, err = generateKeys(); err != nil {
			return err
		}
		if err := keys.create(nextFile(s.opt.KeyFile)); err != nil {
			return err
		}
	}
	m := &uid.Message{Content: uid.Content{
		Identity:    s.identity(),
		NotAfter:    s.yearAhead(),
		Preferences: uid.Preferences{Ciphersuites: []string{uid.Ciphersuite}, ForwardSec: uid.Strict},
		PubKeys:     uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, keys.agree.PublicKey().Bytes())},
		RepoURIs:    []string{s.opt.Domain},
		SigKey:      uid.NewKeyEntry(uid.Ed25519, keys.public()),
		Version:     uid.Version10,
	}}
	m.Sign(keys.sign)
	if err := errors.Join(m.Check(), m.VerifyCreation()); err != nil {
		return err
	}
	a, err := prepare(m)
	if err != nil {
		return err
	}
	format, err := json.Marshal(formatRecord{formatVersion, s.opt.Domain})
	if err != nil {
		return err
	}
	t := &tx{now: s.now(), state: state{keys: keys}, messages: make(map[hashchain.Hash]*uid.Message)}
	err = s.db.View(ctx, func(view store.Reader) error {
		t.view = view
		_, err := t.enter(a)
		return err
	})
	if err != nil {
		return err
	}
	t.set([]byte{prefixFormat}, format)
	return s.commitAll(t.writes)
}

// yearAhead is when a message that is made now ends to be valid.
func (s *Service) yearAhead() uint64 { return uint64(s.opt.Now().AddDate(1, 0, 0).Unix()) }

// verifyChain reads and verifies all entries behind a chain that was verified.
func verifyChain(ctx context.Context, view store.Reader, c hashchain.Chain) (hashchain.Chain, error) {
	var piece []hashchain.Entry
	add := func() error {
		if err := ctx.Err(); err != nil || len(piece) == 0 {
			return err
		}
		if err := c.Append(piece, nil); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		piece = piece[:0]
		return nil
	}
	for pair, err := range view.Pairs([]byte{prefixEntry}, entryKey(c.Size)) {
		if err != nil {
			return c, err
		}
		position := c.Size + uint64(len(piece))
		if !bytes.Equal(pair.Key, entryKey(position)) {
			return c, fmt.Errorf("%w: no entry at position %d, but later ones", ErrDamaged, position)
		}
		r, err := decodeEntryRecord(pair.Value)
		if err != nil {
			return c, err
		}
		if piece = append(piece, r.entry); len(piece) == entriesAtOnce {
			if err := add(); err != nil {
				return c, err
			}
		}
	}
	if err := add(); err != nil {
		return c, err
	}
	head, _, err := view.Get([]byte{prefixHead})
	if err != nil {
		return c, err
	}
	if !bytes.Equal(head, headRecord(&c)) {
		return c, fmt.Errorf("%w: the entries end at size %d, the recorded head is %x", ErrDamaged, c.Size, head)
	}
	stored, err := hashchain.ChainAt(c.Size, c.Head, nodes{view})
	if err != nil {
		return c, err
	}
	if !slices.Equal(stored.Edge, c.Edge) {
		return c, fmt.Errorf("%w: the Merkle tree is not that of the entries", ErrDamaged)
	}
	return c, nil
}

// readRotations follows the keyserver's own identity through the chain. agree is the public
// key for key agreement that it names last.
func (s *Service) readRotations(view store.Reader) (rotations []rotation, agree []byte, err error) {
	own, err := positions(view, s.identity())
	if err != nil {
		return nil, nil, err
	}
	var previous *uid.Message
	for _, position := range own {
		m, err := readMessage(view, s.identity(), position)
		if err != nil {
			return nil, nil, err
		}
		if err = m.Check(); err == nil {
			if previous == nil {
				err = m.VerifyCreation()
			} else {
				err = m.VerifyUpdate(previous)
			}
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %s at position %d: %w", ErrDamaged, s.identity(), position, err)
		}
		rotations = append(rotations, rotation{position, m.Content.SigKey.Public(), m.Content.NotAfter})
		previous = m
	}
	if len(rotations) == 0 || rotations[0].position != 0 {
		return nil, nil, fmt.Errorf("%w: position 0 is not of %s", ErrDamaged, s.identity())
	}
	return rotations, previous.Content.PubKeys[0].Public(), nil
}

// positions returns where the entries of an identity are, ascending.
func positions(view store.Reader, identity string) (found []uint64, err error) {
	for key, err := range view.Keys(positionsOf(identity), nil) {
		if err != nil {
			return nil, err
		}
		found = append(found, binary.BigEndian.Uint64(key[len(key)-8:]))
	}
	return found, nil
}

// readMessage returns the message of an identity whose entry is at a position.
func readMessage(view store.Getter, identity string, position uint64) (*uid.Message, error) {
	r, err := readEntry(view, position)
	if err != nil {
		return nil, err
	}
	uidHash, ok := r.entry.Open(identity)
	if !ok {
		return nil, fmt.Errorf("%w: the entry at position %d is not of %s", ErrDamaged, position, identity)
	}
	return readByHash(view, uidHash)
}

// readByHash returns the message with a UIDHash.
func readByHash(view store.Getter, uidHash hashchain.Hash) (*uid.Message, error) {
	b, ok, err := view.Get(replyKey(uid.Index(uidHash)))
	if err == nil && !ok {
		err = fmt.Errorf("%w: no reply with UIDIndex %s", ErrDamaged, uid.Index(uidHash))
	}
	if err != nil {
		return nil, err
	}
	reply, err := uid.ParseReply(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	m, err := reply.Open(uidHash)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return m, nil
}
