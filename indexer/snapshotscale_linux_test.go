package indexer_test

import (
	"encoding/binary"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/gcash/bchutil"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/snapshot"
	"github.com/keytree-bch/keytree/protocol"
)

// made makes a long chain of made-up blocks with actions, as a snapshot has them: nobody has signed their
// transactions, and what else is in the blocks are hashes.
type made struct {
	t     *testing.T
	rng   *rand.Rand
	keys  [][]byte // public keys
	links []madeLink

	prev   chainhash.Hash
	height uint32
}

// madeLink is a request, and what came of it.
type madeLink struct {
	request, accept chainhash.Hash
	parent          int // key
}

func (m *made) random(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], m.rng.Uint64())
		copy(b[i:], word[:])
	}
	return b
}

// tx is a transaction of a key with an action, of some 260 bytes.
func (m *made) tx(key int, script []byte, err error) protocol.Tx {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
	tx := wire.NewMsgTx(2)
	unlock := append(append(append([]byte{65}, m.random(64)...), 0x41, 33), m.keys[key]...)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: chainhash.Hash(m.random(32))}, SignatureScript: unlock, Sequence: 0xffffffff})
	tx.AddTxOut(&wire.TxOut{PkScript: script})
	tx.AddTxOut(&wire.TxOut{Value: 100_000, PkScript: protocol.P2PKHScript(m.hash(key))})
	return serializedTx(tx)
}

func (m *made) hash(key int) protocol.KeyHash { return protocol.KeyHash(bchutil.Hash160(m.keys[key])) }

// action is a transaction with an action: four in ten ask, four accept, one revokes, one accepts what there is not.
func (m *made) action() protocol.Tx {
	switch kind := m.rng.IntN(10); {
	case kind < 4 || len(m.links) < 100:
		child := m.rng.IntN(len(m.keys)-1) + 1
		l := madeLink{parent: m.rng.IntN(child)} // a forest that is as deep as it gets at random
		script, err := protocol.RequestScript(m.hash(l.parent), nil)
		tx := m.tx(child, script, err)
		l.request = tx.TxID()
		m.links = append(m.links, l)
		return tx
	case kind < 8:
		l := &m.links[len(m.links)-1-m.rng.IntN(100)]
		script, err := protocol.AcceptScript(l.request, nil)
		tx := m.tx(l.parent, script, err)
		l.accept = tx.TxID()
		return tx
	case kind < 9:
		l := &m.links[m.rng.IntN(len(m.links))]
		script, err := protocol.RevokeScript(l.accept, nil)
		return m.tx(l.parent, script, err)
	}
	script, err := protocol.AcceptScript(chainhash.Hash(m.random(32)), nil)
	return m.tx(m.rng.IntN(len(m.keys)), script, err)
}

// block is the next block, with so many actions among ten times as many transactions.
func (m *made) block(actions int) *snapshot.Block {
	b := &snapshot.Block{Height: m.height}
	header := wire.BlockHeader{Version: 1, PrevBlock: m.prev, Timestamp: time.Unix(1_600_000_000+int64(m.height), 0), Bits: regtest.Params.PowLimitBits}
	if m.height == 0 {
		header, actions = regtest.Params.GenesisBlock.Header, 0
	}
	var leaves []protocol.MerkleNode
	levels := 0
	for i := range actions {
		tx := snapshot.Tx{Index: uint32(10*i + m.rng.IntN(10)), Acted: true, Raw: m.action()}
		leaves = append(leaves, protocol.MerkleNode{Index: tx.Index, Hash: tx.Raw.TxID()})
		b.Txs = append(b.Txs, tx)
		for 1<<levels <= tx.Index {
			levels++
		}
	}
	if actions > 0 {
		var err error
		b.Merkle, header.MerkleRoot, err = protocol.GrowMerkleTree(leaves, levels, func() (chainhash.Hash, error) { return chainhash.Hash(m.random(32)), nil })
		if err != nil {
			m.t.Fatal(err)
		}
		regtest.Solve(&header)
	}
	b.Header = protocol.Header{
		Hash: header.BlockHash(), Version: header.Version, PrevBlock: header.PrevBlock, MerkleRoot: header.MerkleRoot,
		Time: uint32(header.Timestamp.Unix()), Bits: header.Bits, Nonce: header.Nonce,
	}
	m.prev, m.height = b.Header.Hash, m.height+1
	return b
}

// TestSnapshotScale loads a snapshot of 1,000,000 actions, by 200,000 keys, and tells how long that takes and
// how large it is:
//
//	KEYTREE_EXHAUSTIVE=1 go test ./indexer -run TestSnapshotScale -v -timeout 1h
//
// Otherwise it is one of a hundredth of that, and tells nothing.
func TestSnapshotScale(t *testing.T) {
	if testing.Short() {
		t.Skip("it is about what it takes")
	}
	blocks, perBlock, keys := 100, 100, 2000
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		blocks, keys = 10_000, 200_000
	}
	m := &made{t: t, rng: rand.New(rand.NewPCG(1, 1))}
	for range keys {
		m.keys = append(m.keys, append([]byte{2}, m.random(32)...))
	}
	opt := graph.Options{}
	from := must(graph.Open(t.TempDir(), testParams, opt))(t)
	defer from.Close()
	// The head comes first, and has what comes out at the end: so the blocks are made before.
	var all []*snapshot.Block
	var step []graph.Block
	for height := 0; height <= blocks; height++ {
		b := m.block(perBlock)
		all = append(all, b)
		step = append(step, must(b.Graph(regtest.Params))(t))
		if len(step) < 100 && height < blocks {
			continue
		}
		if err := from.Connect(step...); err != nil {
			t.Fatal(err)
		}
		for i := range step {
			recorded := must(from.Recorded(step[i].Height))(t)
			all[step[i].Height].StateHash = recorded.StateHash
		}
		step = nil
	}
	tip, _ := from.Tip()
	path := filepath.Join(t.TempDir(), "snapshot")
	file := must(os.Create(path))(t)
	defer file.Close()
	w := must(snapshot.NewWriter(file, &snapshot.Head{
		Network: testParams.Network, State: protocol.StateEntry{Height: tip.Height, Block: tip.Hash, StateHash: tip.StateHash, StateRoot: tip.StateRoot},
	}))(t)
	for _, b := range all {
		if err := w.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	size := must(file.Stat())(t).Size()
	all = nil

	began, used := time.Now(), cpuTime()
	g := must(snapshot.Open(t.Context(), snapshot.Config{
		Dir: filepath.Join(t.TempDir(), "graph"), Params: testParams, Graph: opt, From: path, Log: zerolog.Nop(),
		Expected: snapshot.Expected{State: &snapshot.State{Height: tip.Height, Hash: tip.StateHash}},
	}))(t)
	took, cpu := time.Since(began), cpuTime()-used
	defer g.Close()
	wantTip(t, g, tip)
	t.Logf("%d actions in %d blocks, %d keys, %+v: %.1f MB, loaded in %.1f s (%.1f s of processor time)", blocks*perBlock, blocks, g.Keys(), tip.Counts, float64(size)/1e6, took.Seconds(), cpu.Seconds())
}

// cpuTime is what the process has used of the processors.
func cpuTime() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		panic(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
