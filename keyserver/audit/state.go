package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

const (
	stateFile   = "audit.json"
	entriesFile = "entries"
	anchorsFile = "anchors"
	otherFile   = "other" // another history, while it is compared with the copy
	evidenceDir = "evidence"

	stateVersion = 2
	// takenVersion took all entries that were shown for the keyserver's.
	takenVersion = 1
	// maxState is the most bytes that the state is read of: more than the replies about
	// maxKeys messages, the last entry, and two checkpoints, take.
	maxState = 2*(maxKeys+1)*uid.MaxMessage + 8*tlog.MaxCheckpoint
)

var (
	// ErrLocked says that another process works with the folder.
	ErrLocked = errors.New("another process uses the folder")
	// ErrOtherChain says that a folder belongs to another chain of anchors.
	ErrOtherChain = errors.New("the folder belongs to another chain of anchors")
)

// state is audit.json.
type state struct {
	Version int    `json:"version"`
	Network string `json:"network"`
	Genesis string `json:"genesis"`

	// Size is how many entries of the copy something covers that is signed or anchored,
	// Head the hash of the last.
	Size uint64 `json:"size"`
	Head []byte `json:"head"`
	// Fingerprint is the hash of the first entry, once an anchor has agreed with the
	// copy; it stays. Earlier versions did not write it.
	Fingerprint []byte `json:"fingerprint,omitempty"`

	Last        *Anchored `json:"last"`         // anchor that was verified
	AnchorBytes int64     `json:"anchor_bytes"` // of the anchors up to it

	// How far the anchors agree with the copy.
	Compared      uint32   `json:"compared"`       // anchors
	ComparedBytes int64    `json:"compared_bytes"` // in the file of anchors
	ChainSize     uint64   `json:"chain_size"`     // hashchain.Chain at the last of them
	ChainHead     []byte   `json:"chain_head"`
	ChainEdge     [][]byte `json:"chain_edge"`

	// What freshness is judged by. Earlier versions did not write it.
	Waiting  marks `json:"waiting,omitempty"`   // for entries that no anchor covers
	RunBytes int64 `json:"run_bytes,omitempty"` // in the file of anchors: where the last ones with one record begin, or before

	// What the keyserver signed and the copy agrees with.
	Keyserver []*uid.Reply          `json:"keyserver"`  // to the messages of keyserver@domain
	LastHead  *hashchain.SignedHead `json:"last_head"`  // nil: none yet
	LastReply *uid.Reply            `json:"last_reply"` // about the copy's last entry then

	// What its log signed and the copy agrees with, and up to which size tiles were compared. Earlier
	// versions did not write them.
	LastCheckpoint *witnessed `json:"last_checkpoint,omitempty"`
	TilesChecked   uint64     `json:"tiles_checked,omitempty"`
	// Suspect is the first checkpoint that the copy does not agree with, and that nothing else has
	// convicted yet.
	Suspect *witnessed `json:"suspect,omitempty"`
}

func (s *state) chain() (hashchain.Chain, error) {
	c := hashchain.Chain{Size: s.ChainSize}
	if c.Size > s.Size || c.Size > 0 && len(s.ChainHead) != len(c.Head) {
		return c, errors.New("the recorded chain")
	}
	copy(c.Head[:], s.ChainHead)
	for _, h := range s.ChainEdge {
		if len(h) != len(hashchain.Hash{}) {
			return c, errors.New("the recorded chain")
		}
		c.Edge = append(c.Edge, hashchain.Hash(h))
	}
	return c, nil
}

func (s *state) setChain(c *hashchain.Chain) {
	s.ChainSize, s.ChainHead, s.ChainEdge = c.Size, c.Head[:], nil
	for _, h := range c.Edge {
		s.ChainEdge = append(s.ChainEdge, bytes.Clone(h[:]))
	}
}

// open opens the folder, or makes it.
func (a *Auditor) open() (err error) {
	if err := os.MkdirAll(filepath.Join(a.dir, evidenceDir), 0o700); err != nil {
		return err
	}
	if err := a.lockDir(); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if err := a.readState(); errors.Is(err, fs.ErrNotExist) {
		a.state = a.fresh()
	} else if err != nil {
		return err
	}
	if err := a.openCopy(); err != nil {
		return err
	}
	if a.anchors, err = os.OpenFile(a.path(anchorsFile), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	info, err := a.anchors.Stat()
	if err == nil && (info.Size() < a.state.AnchorBytes || a.state.ComparedBytes > a.state.AnchorBytes) {
		err = fmt.Errorf("%w: %s has %d bytes, expected at least %d", ErrDamaged, a.anchors.Name(), info.Size(), a.state.AnchorBytes)
	}
	return err
}

func (a *Auditor) lockDir() error {
	a.lock = flock.New(a.path(".lock"), flock.SetPermissions(0o600))
	ok, err := a.lock.TryLock()
	if err == nil && !ok {
		err = fmt.Errorf("%w: %s", ErrLocked, a.dir)
	}
	return err
}

// fresh is the state of an auditor who knows nothing but what is pinned.
func (a *Auditor) fresh() state {
	return state{Version: stateVersion, Network: a.net.Name, Genesis: a.genesis.String()}
}

// readState reads the state of this chain of anchors. fs.ErrNotExist if there is none.
func (a *Auditor) readState() error {
	if err := readState(a.path(stateFile), &a.state); err != nil {
		return err
	}
	if v := a.state.Version; v != stateVersion && v != takenVersion {
		return fmt.Errorf("%s: expected version %d, got %d: is this keytree too old?", a.path(stateFile), stateVersion, v)
	}
	if fresh := a.fresh(); a.state.Network != fresh.Network || a.state.Genesis != fresh.Genesis {
		return fmt.Errorf("%w: %s, %s in %s", ErrOtherChain, a.state.Genesis, a.state.Network, a.dir)
	}
	return nil
}

// openCopy opens the copy that the state speaks of.
func (a *Auditor) openCopy() (err error) {
	var head hashchain.Hash
	if a.state.Size > 0 && len(a.state.Head) != len(head) {
		return fmt.Errorf("%w: %s: the hash of the last entry", ErrDamaged, a.path(stateFile))
	}
	copy(head[:], a.state.Head)
	if slices.Contains(a.state.Keyserver, nil) {
		return fmt.Errorf("%w: %s: the keyserver's messages", ErrDamaged, a.path(stateFile))
	}
	for _, w := range []*witnessed{a.state.LastCheckpoint, a.state.Suspect} {
		if w != nil && w.Statement == nil {
			return fmt.Errorf("%w: %s: the statement about the log", ErrDamaged, a.path(stateFile))
		}
	}
	if a.chain, err = a.state.chain(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, a.path(stateFile), err)
	}
	if err := a.state.checkProgress(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, a.path(stateFile), err)
	}
	if a.copy, err = openEntries(a.path(entriesFile), a.state.Size, head); err != nil {
		return err
	}
	if err := a.pinFirst(); err != nil {
		return err
	}
	if n := len(a.state.Fingerprint); n != 0 && n != len(head) {
		return fmt.Errorf("%w: %s: a fingerprint of %d bytes, expected %d", ErrDamaged, a.path(stateFile), n, len(head))
	}
	a.forgetUnpinned()
	if a.state.Version == takenVersion {
		a.state.Version = stateVersion
		if err := a.cover(); err != nil {
			return err
		}
	}
	return a.copy.Extend()
}

// cover finds how far what an earlier version has kept covers the copy, of which that
// took everything. The rest was only shown.
func (a *Auditor) cover() error {
	s := &a.state
	a.copy.kept, a.copy.keptHead = a.chain.Size, a.chain.Head
	if s.Fingerprint == nil || s.Last == nil {
		return nil
	}
	keys, err := readKeys(s.Last.Domain, s.Keyserver)
	if err != nil {
		s.Keyserver = nil // they are learned again
	}
	if head := s.LastHead; head != nil && err == nil {
		signed, err := keys.head(s.Last.Domain, head)
		if err != nil || keys.outOfForce(signed.by, head.Head.Size) != "" {
			s.LastHead = nil
		} else if err := a.coverAs(head.Head.Size, signed.entryHash); err != nil {
			return err
		}
	}
	if reply := s.LastReply; reply != nil && err == nil {
		entry, by, err := keys.reply(reply)
		if err != nil || keys.outOfForce(by, reply.Entry.HashchainPos) != "" {
			s.LastReply = nil
		} else if err := a.coverAs(reply.Entry.HashchainPos+1, entry.Hash()); err != nil {
			return err
		}
	}
	return nil
}

// coverAs keeps the copy up to a size, at which it ends with a hash that is signed.
func (a *Auditor) coverAs(size uint64, head hashchain.Hash) error {
	if size == 0 || size > a.copy.Size() {
		return nil
	}
	last, err := a.copy.At(size - 1)
	if err == nil && last.Hash() == head {
		a.copy.keep(size, head)
	}
	return err
}

// pinFirst takes the first entry of the copy for that of the keyserver if an anchor of
// the pinned chain commits to it.
func (a *Auditor) pinFirst() error {
	if a.state.Compared == 0 || a.state.Fingerprint != nil {
		return nil
	}
	first, err := a.copy.At(0)
	if err != nil {
		return err
	}
	hash := first.Hash()
	a.state.Fingerprint = hash[:]
	return nil
}

// forgetUnpinned takes back what was signed before an anchor has said which hashchain is
// the keyserver's: anybody could have signed it.
func (a *Auditor) forgetUnpinned() {
	if a.state.Fingerprint == nil {
		a.state.Keyserver, a.state.LastHead, a.state.LastReply = nil, nil, nil
		a.state.LastCheckpoint, a.state.Suspect, a.state.TilesChecked = nil, nil, 0
	}
}

// pins are what the auditor knows of the keyserver: its chain of anchors, what that
// commits to, and the keys that the copy names.
func (a *Auditor) pins() Pins {
	p := Pins{Genesis: &a.genesis}
	if a.state.Fingerprint != nil {
		first := hashchain.Hash(a.state.Fingerprint)
		p.Fingerprint = &first
	}
	for i, reply := range a.state.Keyserver {
		if i > 0 {
			p.Rotations = append(p.Rotations, reply.Entry.HashchainPos)
		}
	}
	return p
}

// Close ends the use of the folder.
func (a *Auditor) Close() error {
	var errs []error
	if a.copy != nil {
		errs = append(errs, a.copy.Close())
	}
	if a.anchors != nil {
		errs = append(errs, a.anchors.Close())
	}
	return errors.Join(append(errs, a.lock.Unlock())...)
}

func (a *Auditor) path(parts ...string) string {
	return filepath.Join(append([]string{a.dir}, parts...)...)
}

// save puts everything on disk that the state speaks of, and then the state.
func (a *Auditor) save() error {
	if err := errors.Join(a.copy.Sync(), a.anchors.Sync()); err != nil {
		return err
	}
	a.state.Size, a.state.Head = a.copy.kept, a.copy.keptHead[:]
	a.state.setChain(&a.chain)
	a.forgetUnpinned()
	content, err := json.Marshal(&a.state)
	if err != nil {
		return err
	}
	return durable.Write(a.path(stateFile), append(content, '\n'))
}

// forgetAnchors takes back all anchors: a reorganisation has undone the last.
func (a *Auditor) forgetAnchors() error {
	s := &a.state
	s.Last, s.AnchorBytes, s.Compared, s.ComparedBytes, s.RunBytes = nil, 0, 0, 0, 0
	a.chain = hashchain.Chain{}
	return a.save()
}

// keep writes an anchor, which follows the last, behind it. It counts when the
// state is saved.
func (a *Auditor) keep(it *proof.BundleItem, last *Anchored) error {
	b, err := it.Append(nil)
	if err != nil {
		return err
	}
	if _, err := a.anchors.WriteAt(b, a.state.AnchorBytes); err != nil {
		return err
	}
	if before := a.state.Last; before == nil || before.Position != last.Position {
		a.state.RunBytes = a.state.AnchorBytes
	}
	a.state.Last, a.state.AnchorBytes = last, a.state.AnchorBytes+int64(len(b))
	return nil
}

func readState(path string, into *state) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	d := json.NewDecoder(io.LimitReader(f, maxState))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	return nil
}
