package statelog

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/keytree-bch/keytree/graph/durable"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// AnchorDomain is the domain under which a host's state log is anchored (protocol/STATELOG.md §6), which nobody can
// take for a keyserver's.
func AnchorDomain(host, network string) string { return "state." + network + "." + host }

// Anchored is the log of an epoch as what anchors commit to: it implements keyserver/anchor's Hashchain, for which
// the head is the hash of the newest entry that was signed. Its methods may be called concurrently.
type Anchored struct {
	e    *epoch
	path string // of the file with the name of the chain of anchors

	mu   sync.Mutex
	last hashchain.Chain // mu
	name string          // mu; as in the file
}

// Anchored waits until the log of the present epoch has signed something, and can read it. An error only if ctx has
// ended, or a file cannot be read.
func (p *Publisher) Anchored(ctx context.Context) (*Anchored, error) {
	again := time.NewTicker(p.opt.Every)
	defer again.Stop()
	for {
		e := p.current()
		if e.log != nil && e.log.Status().Signed > 0 && e.Ready() == nil {
			return newAnchored(ctx, e, filepath.Join(p.opt.Dir, fmt.Sprint(e.number), "anchor-chain"))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-again.C:
		}
	}
}

func newAnchored(ctx context.Context, e *epoch, path string) (*Anchored, error) {
	a := &Anchored{e: e, path: path}
	name, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	a.name = strings.TrimSpace(string(name))
	a.last, err = a.ChainAt(ctx, e.log.Status().Signed)
	return a, err
}

// Epoch returns the number of the epoch.
func (a *Anchored) Epoch() uint32 { return a.e.number }

// Frozen returns a channel that is closed when the epoch has ended.
func (a *Anchored) Frozen() <-chan struct{} { return a.e.frozen }

// Chain implements anchor.Hashchain: what was signed last. If the files cannot be read, it is what was read last.
func (a *Anchored) Chain() hashchain.Chain {
	a.mu.Lock()
	defer a.mu.Unlock()
	if size := a.e.log.Status().Signed; size != a.last.Size {
		if c, err := a.ChainAt(context.Background(), size); err == nil {
			a.last = c
		}
	}
	return a.last
}

// ChainAt implements anchor.Hashchain.
func (a *Anchored) ChainAt(ctx context.Context, size uint64) (hashchain.Chain, error) {
	if size == 0 {
		return hashchain.Chain{}, a.e.beyond(size)
	}
	e, err := a.e.entry(size - 1)
	if err != nil {
		return hashchain.Chain{}, err
	}
	b := e.Bytes()
	return hashchain.ChainAt(size, sha256.Sum256(b[:]), nodes{ctx, a.e.tree})
}

// nodes implements hashchain.Nodes.
type nodes struct {
	ctx  context.Context
	tree *tree
}

func (n nodes) Node(id hashchain.NodeID) (hashchain.Hash, error) {
	hashes, err := n.tree.TileHashes(n.ctx, id.Level, id.Index, 1)
	if err != nil {
		return hashchain.Hash{}, err
	}
	return hashchain.Hash(hashes[0]), nil
}

// SetAnchorChain implements anchor.Hashchain.
func (a *Anchored) SetAnchorChain(_ context.Context, name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if name == a.name {
		return nil
	}
	if err := durable.Write(a.path, []byte(name+"\n")); err != nil {
		return err
	}
	a.name = name
	return nil
}

// AnchorChain implements anchor.Hashchain.
func (a *Anchored) AnchorChain() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.name
}

// Unanchored implements anchor.Hashchain. Nobody else's chain of anchors is a state log's: what it signs is in no
// backup, and every index has it.
func (a *Anchored) Unanchored() bool { return true }
