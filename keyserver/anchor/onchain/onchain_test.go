package onchain_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/coins"
	"github.com/keytree-bch/keytree/indexer/node"
	"github.com/keytree-bch/keytree/indexer/node/bchd"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/keyserver/anchor"
	"github.com/keytree-bch/keytree/keyserver/anchor/onchain"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/protocol"
)

// world has one coin of each kind, and fails as it is told.
type world struct {
	coins []coins.Coin
	err   error
}

func (w world) Coins(context.Context, protocol.KeyHash) ([]coins.Coin, error) { return w.coins, w.err }
func (w world) Unspent(context.Context, wire.OutPoint) (bool, error)          { return w.err == nil, w.err }
func (w world) Submit(context.Context, []byte) error                          { return w.err }
func (w world) Transaction(context.Context, chainhash.Hash) ([]byte, error)   { return nil, w.err }

// TestNode asks for coins, and has each error of a source mean what the publisher knows.
func TestNode(t *testing.T) {
	ctx := t.Context()
	n := &onchain.Node{Source: world{coins: []coins.Coin{{}, {Height: 7}, {Height: 7, Immature: true}}}}
	found, err := n.Coins(ctx, protocol.KeyHash{})
	if err != nil || len(found) != 3 || found[0].Confirmed || !found[1].Confirmed || found[2].Confirmed {
		t.Errorf("got %+v, %v; expected that the second alone is confirmed and mature", found, err)
	}
	if unspent, err := n.Unspent(ctx, wire.OutPoint{}); !unspent || err != nil {
		t.Errorf("an output that is there: %v, %v", unspent, err)
	}
	for from, to := range map[error]error{
		node.ErrUnsuitable: anchor.ErrUnsuitable, node.ErrNotFound: anchor.ErrUnknown,
		node.ErrFee: anchor.ErrFee, node.ErrRejected: anchor.ErrRefused, node.ErrUnavailable: node.ErrUnavailable,
	} {
		n := &onchain.Node{Source: world{err: fmt.Errorf("a node: %w", from)}}
		_, coinsErr := n.Coins(ctx, protocol.KeyHash{})
		_, unspentErr := n.Unspent(ctx, wire.OutPoint{})
		_, transactionErr := n.Transaction(ctx, chainhash.Hash{})
		for i, err := range []error{coinsErr, unspentErr, transactionErr, n.Submit(ctx, nil)} {
			if !errors.Is(err, to) || !errors.Is(err, from) {
				t.Errorf("%v, question %d: got %v, expected %v", from, i, err, to)
			}
		}
	}
}

// payTo pays an address, without a block.
func payTo(t *testing.T, n *regtest.Node, address string, value int64) {
	t.Helper()
	to, err := protocol.ParseAddress(address, regtest.Params)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Fund(t.Context(), wire.NewTxOut(value, protocol.P2PKHScript(to), wire.TokenData{})); err != nil {
		t.Fatal(err)
	}
}

// memoryChain is a hashchain that is kept in memory, for more entries than anybody
// would want to register.
type memoryChain struct {
	mu     sync.Mutex
	states []hashchain.Chain // mu; by size
	named  string            // mu
}

func (m *memoryChain) grow(t *testing.T, entries int) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for range entries {
		c := m.states[len(m.states)-1]
		e, err := hashchain.Seal(c.Head, fmt.Sprintf("user%d@example.org", c.Size), hashchain.Hash{byte(c.Size)}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Append([]hashchain.Entry{e}, nil); err != nil {
			t.Fatal(err)
		}
		m.states = append(m.states, c)
	}
}

// Chain implements anchor.Hashchain.
func (m *memoryChain) Chain() hashchain.Chain {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.states[len(m.states)-1]
}

// ChainAt implements anchor.Hashchain.
func (m *memoryChain) ChainAt(_ context.Context, size uint64) (hashchain.Chain, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if size >= uint64(len(m.states)) {
		return hashchain.Chain{}, fmt.Errorf("there are no %d entries", size)
	}
	return m.states[size], nil
}

// SetAnchorChain implements anchor.Hashchain.
func (m *memoryChain) SetAnchorChain(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.named = name
	return nil
}

// AnchorChain implements anchor.Hashchain.
func (m *memoryChain) AnchorChain() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.named
}

// Unanchored implements anchor.Hashchain.
func (m *memoryChain) Unanchored() bool { return false }

// TestAnchorsThroughReorgs publishes many anchors on a real node, while blocks are
// undone, the node is started anew and loses its mempool, and the publisher is
// started anew at any moment. There must be one chain, with every position in its order.
func TestAnchorsThroughReorgs(t *testing.T) {
	const count = 100
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := mathrand.New(mathrand.NewPCG(seed, 0))
	n := regtest.ForTest(t, regtest.Options{Blocks: 110})
	config, err := bchd.ParseURL(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	config.Network, config.Log = regtest.Params, zerolog.Nop()
	client, err := bchd.Dial(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	g, err := graph.Open(filepath.Join(t.TempDir(), "graph"), graph.Params{Network: regtest.Params.Name}, graph.Options{Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	ix := indexer.New(client, g, indexer.Options{Log: zerolog.Nop(), Poll: 20 * time.Millisecond})
	index := onchain.Index{Graph: g, Synced: func() bool { s := ix.Status(); return s.Checked && s.Synced }}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := ix.Run(ctx); err != nil {
			t.Errorf("indexer: %v", err)
		}
	})
	defer running.Wait()
	defer cancel()

	entries := &memoryChain{states: []hashchain.Chain{{}}}
	entries.grow(t, 1)
	dir := t.TempDir()
	start := func() (p *anchor.Publisher, stop func()) {
		p, err := anchor.Open(anchor.Options{
			Domain: "example.org", Network: regtest.Params, KeyFile: filepath.Join(dir, "key"), StateFile: filepath.Join(dir, "state"),
			Hashchain: entries, Chain: index, Node: &onchain.Node{Source: coins.NewBchd(client, regtest.Params)},
			Schedule: schedule.Schedule{Interval: time.Nanosecond, MaxEntries: schedule.DefaultMaxEntries, Heartbeat: schedule.MaxHeartbeat},
			Poll:     10 * time.Millisecond, Log: zerolog.New(zerolog.NewTestWriter(t)),
		})
		if err == nil {
			err = p.Check(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- p.Run(ctx) }()
		return p, func() {
			cancel()
			if err := <-ran; err != nil {
				t.Error(err)
			}
		}
	}
	p, stop := start()
	defer func() { stop() }()
	payTo(t, n, p.Status().Address, 10_000_000)
	if _, err := n.Mine(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	restarts := 2
	for made := 0; made < count; {
		switch random.IntN(20) {
		case 0:
			depth := uint32(1 + random.IntN(3))
			if tip, _, err := n.Tip(t.Context()); err != nil || tip < 112+depth { // the payment stays
				break
			}
			if _, err := n.Reorg(t.Context(), depth, make([][]*wire.MsgTx, depth+1)...); err != nil {
				t.Fatal(err)
			}
		case 1:
			stop()
			p, stop = start()
		case 2:
			if restarts == 0 {
				break
			}
			restarts--
			if err := n.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
		case 3, 4, 5:
			if _, err := n.Mine(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
		default:
			entries.grow(t, 1+random.IntN(3))
		}
		s := p.Status()
		if made = len(s.Pending); s.Last != nil {
			made += int(s.Last.Number) + 1
		}
		for range random.IntN(20) { // some of what comes next comes while the publisher is busy
			if s := p.Status(); s.NotAnchored == 0 || len(s.Pending) == anchor.MaxUnconfirmed {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
	}
	var chain anchors.Chain
	regtest.Await(t, func() string {
		if _, err := n.Mine(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if s := p.Status(); s.NotAnchored > 0 || len(s.Pending) > 0 || s.Last == nil {
			return fmt.Sprintf("not all is anchored: %+v", s)
		}
		v, err := index.View()
		if err != nil {
			return err.Error()
		}
		defer v.Close()
		chains, _, err := v.AnchorChainsOf(t.Context(), "example.org", nil, 10)
		if err != nil || len(chains) != 1 {
			t.Fatalf("there are %d chains of anchors (%v), want 1: %+v", len(chains), err, chains)
		}
		chain = chains[0]
		found, err := v.Anchors(t.Context(), chain.ID, 0, 10*count)
		if err != nil || len(found) < count || chain.Break != protocol.Unbroken {
			return fmt.Sprintf("%d anchors, %v (%v)", len(found), chain.Break, err)
		}
		seen := make(map[chainhash.Hash]bool)
		for i, a := range found {
			then, err := entries.ChainAt(t.Context(), a.Position+1)
			if err != nil || then.Head != a.Head || then.Root() != a.Root || seen[a.Head] || i > 0 && a.Position <= found[i-1].Position {
				t.Fatalf("anchor %d is at position %d: %v", i, a.Position, err)
			}
			seen[a.Head] = true
		}
		return ""
	})
	t.Logf("%d anchors up to position %d, in blocks up to %d", chain.Anchors, chain.Last.Position, chain.Last.Height)
}
