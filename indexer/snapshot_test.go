package indexer_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/klauspost/compress/zstd"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/indexer"
	"github.com/keytree-bch/keytree/indexer/node/bchd/regtest"
	"github.com/keytree-bch/keytree/indexer/snapshot"
	"github.com/keytree-bch/keytree/protocol"
)

// snapshotOf is an index of a ledger's chain, and a snapshot of it.
type snapshotOf struct {
	t     *testing.T
	chain *ledger
	graph *graph.Graph
	head  *snapshot.Head
	file  []byte
}

func newSnapshot(t *testing.T, l *ledger, opt snapshot.CreateOptions) *snapshotOf {
	t.Helper()
	s := &snapshotOf{t: t, chain: l, graph: newGraph(t)}
	must(catchUp(t.Context(), l.node, s.graph, indexer.Options{Log: zerolog.Nop()}))(t)
	var file bytes.Buffer
	s.head = must(snapshot.Create(t.Context(), &file, s.graph, l.node, opt))(t)
	s.file = file.Bytes()
	return s
}

// expected is what somebody knows who has been told the state.
func (s *snapshotOf) expected() snapshot.Expected {
	return snapshot.Expected{State: &snapshot.State{Height: s.head.State.Height, Hash: s.head.State.StateHash}}
}

// read reads a snapshot to its end, without the rules.
func (s *snapshotOf) read(file []byte) (snapshot.Head, []*snapshot.Block, error) {
	r, err := snapshot.NewReader(bytes.NewReader(file), int64(len(file)), graph.DefaultMemory)
	if err != nil {
		return snapshot.Head{}, nil, err
	}
	defer r.Close()
	var blocks []*snapshot.Block
	for {
		b, err := r.Next()
		if err == io.EOF {
			return r.Head(), blocks, nil
		}
		if err != nil {
			return r.Head(), blocks, err
		}
		for i := range b.Txs {
			b.Txs[i].Raw = bytes.Clone(b.Txs[i].Raw)
		}
		blocks = append(blocks, b)
	}
}

// load does what a server does that begins with a snapshot.
func (s *snapshotOf) load(g *graph.Graph, file []byte) error {
	r, err := snapshot.NewReader(bytes.NewReader(file), int64(len(file)), graph.DefaultMemory)
	if err != nil {
		return err
	}
	defer r.Close()
	head := r.Head()
	if err := s.expected().Check(&head, testParams.Network, 0); err != nil {
		return err
	}
	return snapshot.Load(s.t.Context(), r, g, snapshot.LoadOptions{})
}

// wantRefused checks that a snapshot is refused, and whether the error names what it has to.
func (s *snapshotOf) wantRefused(what string, file []byte, names ...string) {
	s.t.Helper()
	g := newGraph(s.t)
	err := errors.Join(s.load(g, file), g.Close())
	if !errors.Is(err, snapshot.ErrRefused) {
		s.t.Errorf("%s: %v, expected that it is refused", what, err)
		return
	}
	for _, name := range names {
		if !strings.Contains(err.Error(), name) {
			s.t.Errorf("%s: refused with %q, expected it to name %q", what, err, name)
		}
	}
}

// written is the file of a snapshot that says and has this.
func (s *snapshotOf) written(head snapshot.Head, blocks []*snapshot.Block) []byte {
	s.t.Helper()
	var file bytes.Buffer
	w := must(snapshot.NewWriter(&file, &head))(s.t)
	for _, b := range blocks {
		if err := w.Add(b); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	return file.Bytes()
}

// TestSnapshot makes snapshots of chains with links and anchors, and indexes of them, which have to be the
// same, down to what proves the anchors, and follow the chain like any other.
func TestSnapshot(t *testing.T) {
	noLeaks(t)
	for name, l := range map[string]*ledger{"links": mineLinks(t, 120), "anchors": anchorStory(t, 80)} {
		t.Run(name, func(t *testing.T) {
			for _, opt := range []snapshot.CreateOptions{{}, {Spent: true}, {Height: new(uint32)}} {
				if opt.Height != nil {
					*opt.Height = 30
				}
				s := newSnapshot(t, l, opt)
				want := must(s.graph.At(&s.head.State.Height))(t)
				at, _ := want.Block()
				if at.StateHash != s.head.State.StateHash || opt.Height == nil && at.Height+snapshot.Depth != uint32(len(l.node.chain)-1) {
					t.Errorf("a snapshot of %+v, expected of %+v", s.head.State, at)
				}
				g := newGraph(t)
				if err := s.load(g, s.file); err != nil {
					t.Fatal(err)
				}
				wantTip(t, g, at)
				got := must(g.At(nil))(t)
				proofs := 0
				_, blocks, err := s.read(s.file)
				if err != nil {
					t.Fatal(err)
				}
				spent := 0
				for _, b := range blocks {
					for i := range b.Txs {
						txid := b.Txs[i].Raw.TxID()
						if b.Txs[i].Spent != nil {
							spent++
						}
						proof, err := got.AnchorProof(txid)
						if _, isAnchor := b.Txs[i].Raw.Anchor(); err != nil && isAnchor {
							t.Error(err)
						} else if err == nil {
							proofs++
							if want := must(want.AnchorProof(txid))(t); fmt.Sprint(proof) != fmt.Sprint(want) {
								t.Errorf("anchor %v is shown by %+v, expected %+v", txid, proof, want)
							}
						}
					}
				}
				if name == "anchors" && proofs < 20 {
					t.Errorf("%d anchors, too few", proofs)
				}
				if (spent > 0) != opt.Spent {
					t.Errorf("%d transactions with the outputs that they spend", spent)
				}
				t.Logf("%d blocks, %d bytes, %d anchors, %d with spent outputs", len(blocks), len(s.file), proofs, spent)
				got.Close()
				want.Close()
				tip, _ := s.graph.Tip()
				must(catchUp(t.Context(), l.node, g, indexer.Options{Log: zerolog.Nop()}))(t)
				wantTip(t, g, tip)
			}
		})
	}
}

// packed splits a snapshot into what stands before the packed part, and what is packed.
func unpacked(t *testing.T, file []byte) (begin, content []byte) {
	t.Helper()
	const begins, ends = 8, sha256.Size
	d := must(zstd.NewReader(nil))(t)
	defer d.Close()
	return file[:begins], must(d.DecodeAll(file[begins:len(file)-ends], nil))(t)
}

// packer packs contents, with a checksum that is right.
type packer struct {
	begin []byte
	zstd  *zstd.Encoder
}

func newPacker(t *testing.T, begin []byte) *packer {
	return &packer{begin, must(zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20)))(t)}
}

func (p *packer) pack(content []byte) []byte {
	file := p.zstd.EncodeAll(content, bytes.Clone(p.begin))
	sum := sha256.Sum256(file)
	return append(file, sum[:]...)
}

// behindHead is where the first block of the file begins.
func (s *snapshotOf) behindHead() int {
	s.t.Helper()
	head, _, err := s.read(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	var file bytes.Buffer
	w, err := snapshot.NewWriter(&file, &head)
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Abandon()
	if !bytes.HasPrefix(s.file, file.Bytes()) {
		s.t.Fatal("the snapshot does not begin with its head")
	}
	return file.Len()
}

// TestSnapshotDamaged changes bytes of a snapshot, as they are in the file and as they are packed there, with the
// checksum made right again: each of them with
//
//	KEYTREE_EXHAUSTIVE=1 go test ./indexer -run TestSnapshotDamaged -v
func TestSnapshotDamaged(t *testing.T) {
	if testing.Short() {
		t.Skip("it reads thousands of snapshots, each in a database of its own where the rules tell")
	}
	noLeaks(t)
	l := anchorStory(t, 24)
	s := newSnapshot(t, l, snapshot.CreateOptions{})
	stride := 13 // of the bytes; all of them take minutes
	if os.Getenv("KEYTREE_EXHAUSTIVE") != "" {
		stride = 1
	}
	blocks := s.behindHead()
	named := regexp.MustCompile(`block (behind )?[0-9a-f]{64},? at height \d+`)
	for i := 0; i < len(s.file); i += stride {
		file := bytes.Clone(s.file)
		file[i] ^= byte(1 << (i % 8))
		switch _, _, err := s.read(file); {
		case !errors.Is(err, snapshot.ErrRefused):
			t.Errorf("byte %d of %d of the file: %v, expected that it is refused", i, len(s.file), err)
		case i >= blocks && !named.MatchString(err.Error()):
			t.Errorf("byte %d of %d of the file: %v, expected that it names the block", i, len(s.file), err)
		}
	}
	for size := 0; size < len(s.file); size += stride {
		if _, _, err := s.read(s.file[:size]); !errors.Is(err, snapshot.ErrRefused) {
			t.Errorf("cut off behind %d bytes: %v, expected that it is refused", size, err)
		}
	}
	if _, _, err := s.read(append(bytes.Clone(s.file), 0)); !errors.Is(err, snapshot.ErrRefused) {
		t.Errorf("a byte more: %v", err)
	}

	begin, content := unpacked(t, s.file)
	p := newPacker(t, begin)
	s.wantRefused("a byte more", p.pack(append(bytes.Clone(content), 0)), "expected the end")
	byRules := 0
	for i := 0; i < len(content); i += stride {
		changed := bytes.Clone(content)
		changed[i] ^= byte(1 << (i % 8))
		file := p.pack(changed)
		head, _, err := s.read(file)
		if err == nil {
			err = s.expected().Check(&head, testParams.Network, 0)
		}
		if err == nil { // only the rules tell
			if byRules++; stride > 1 && byRules%3 != 0 {
				continue
			}
			g := newGraph(t)
			err = s.load(g, file)
			g.Close()
		}
		if !errors.Is(err, snapshot.ErrRefused) {
			t.Errorf("byte %d of %d that are packed: %v, expected that it is refused", i, len(content), err)
		}
	}
	t.Logf("%d bytes in the file, %d packed, of which the rules tell %d", len(s.file), len(content), byRules)
}

// real is the block of the chain.
func (s *snapshotOf) real(height uint32) *protocol.Block {
	s.t.Helper()
	return must(protocol.ReadBlock(s.chain.raw()[height]))(s.t)
}

// TestSnapshotForged changes what a snapshot says, as who knows the format and the chain can.
func TestSnapshotForged(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes a database for each forgery")
	}
	noLeaks(t)
	s := newSnapshot(t, anchorStory(t, 30), snapshot.CreateOptions{})
	head, _, err := s.read(s.file)
	if err != nil {
		t.Fatal(err)
	}
	var at uint32 // a block with several transactions, the first of them without an anchor
	for _, b := range must2(s.read(s.file))(t) {
		if len(b.Txs) > 3 && !b.Txs[0].Anchors {
			at = b.Height
		}
	}
	if at == 0 {
		t.Fatal("no such block")
	}
	recomputed := 0
	for _, test := range []struct {
		what   string
		change func(b []*snapshot.Block)
		names  uint32 // height of the block that the error names
	}{
		{"an action left out", func(b []*snapshot.Block) {
			b[at].Txs = slices.Delete(b[at].Txs, 0, 1)
			b[at].Merkle = s.real(at).PartialMerkleTree(indicesOf(b[at])...)
		}, at},
		{"all of a block left out", func(b []*snapshot.Block) { b[at].Txs, b[at].Merkle = nil, nil }, at},
		{"actions that changed places", func(b []*snapshot.Block) {
			txs := b[at].Txs
			txs[0].Raw, txs[1].Raw = txs[1].Raw, txs[0].Raw
		}, at},
		{"an action at another index", func(b []*snapshot.Block) {
			b[at].Txs = b[at].Txs[:1]
			b[at].Txs[0].Index ^= 1
			b[at].Merkle = s.real(at).PartialMerkleTree(b[at].Txs[0].Index)
		}, at},
		{"an action in another block", func(b []*snapshot.Block) {
			b[at-1].Txs = append(b[at-1].Txs, b[at].Txs[0])
			b[at-1].Txs[len(b[at-1].Txs)-1].Index = 1 << 10
			b[at-1].Merkle = wide(b[at-1].Merkle, indicesOf(b[at-1]))
		}, at - 1},
		{"a transaction that does not matter", func(b []*snapshot.Block) {
			b[at].Txs = slices.Insert(b[at].Txs, 0, snapshot.Tx{Raw: s.tx(at, 0)})
			b[at].Merkle = s.real(at).PartialMerkleTree(indicesOf(b[at])...)
		}, at},
		{"a transaction that is said to spend a baton", func(b []*snapshot.Block) {
			b[at].Txs = slices.Insert(b[at].Txs, 0, snapshot.Tx{Raw: s.tx(at, 0), Anchors: true})
			b[at].Merkle = s.real(at).PartialMerkleTree(indicesOf(b[at])...)
		}, at},
		{"an action that is said to spend a baton", func(b []*snapshot.Block) { b[at].Txs[0].Anchors = true }, at},
		{"an author taken away", func(b []*snapshot.Block) { b[at].Txs[0].Acted = !b[at].Txs[0].Acted }, at},
		{"blocks that changed places", func(b []*snapshot.Block) { b[at], b[at+1] = b[at+1], b[at] }, at},
		{"another state hash", func(b []*snapshot.Block) { b[at].StateHash[0]++ }, at},
		{"another state hash of a block without anything", func(b []*snapshot.Block) { b[1].StateHash[5]++ }, 1},
		{"another time", func(b []*snapshot.Block) { b[at].Header.Time++ }, at},
		{"another output that is spent", func(b []*snapshot.Block) {
			b[at].Txs[0].Spent = []protocol.Output{{Value: 12345, Script: protocol.P2PKHScript(protocol.KeyHash{1})}}
		}, at},
	} {
		blocks := must2(s.read(s.file))(t)
		test.change(blocks)
		file := s.written(head, blocks)
		s.wantRefused(test.what, file, fmt.Sprintf("at height %d", test.names))
		// Who recomputes all state hashes is refused by the state that is expected.
		_, _, err := s.read(file)
		if err != nil {
			continue
		}
		forged := head
		var ok bool
		if forged.State.StateHash, ok = s.recompute(blocks); !ok || forged.State.StateHash == head.State.StateHash {
			continue // no state hash is asked: it was refused before
		}
		recomputed++
		s.wantRefused(test.what+", state hashes recomputed", s.written(forged, blocks), "expected state")
		s.wantRefused(test.what+", but the last", s.written(head, blocks))
	}
	if recomputed < 3 {
		t.Errorf("%d forgeries with state hashes that are right, too few", recomputed)
	}
}

// recompute sets the state hashes of the blocks to what the rules make of them, and returns the last one. ok is
// false if the blocks are not of the form that the rules are asked about.
func (s *snapshotOf) recompute(blocks []*snapshot.Block) (last [32]byte, ok bool) {
	s.t.Helper()
	g := newGraph(s.t)
	defer g.Close()
	for _, b := range blocks {
		block, err := b.Graph(regtest.Params)
		if err != nil {
			return last, false
		}
		if err := g.Connect(block); err != nil {
			s.t.Fatal(err)
		}
		tip, _ := g.Tip()
		b.StateHash = tip.StateHash
		last = tip.StateHash
	}
	return last, true
}

func (s *snapshotOf) tx(height, index uint32) protocol.Tx {
	for i, tx := range s.real(height).Txs() {
		if i == index {
			return bytes.Clone(tx)
		}
	}
	s.t.Fatalf("block %d has no transaction %d", height, index)
	return nil
}

func indicesOf(b *snapshot.Block) (indices []uint32) {
	for i := range b.Txs {
		indices = append(indices, b.Txs[i].Index)
	}
	return indices
}

// wide is a tree with room for these indices, which leads nowhere.
func wide(t protocol.PartialMerkleTree, indices []uint32) protocol.PartialMerkleTree {
	leaves := make([]protocol.MerkleNode, len(indices))
	for i, index := range indices {
		leaves[i] = protocol.MerkleNode{Index: index, Hash: chainhash.HashH([]byte{byte(i)})}
	}
	tree, _, err := protocol.GrowMerkleTree(leaves, 11, func() (chainhash.Hash, error) { return chainhash.HashH([]byte("made up")), nil })
	if err != nil {
		panic(err)
	}
	return tree
}

func must2(_ snapshot.Head, blocks []*snapshot.Block, err error) func(*testing.T) []*snapshot.Block {
	return func(t *testing.T) []*snapshot.Block {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return blocks
	}
}

// TestSnapshotOfANode makes a snapshot of what a real node's chain has, with anchors in blocks that are ordered
// by txid; the index that begins with it follows that node, through a reorganisation.
func TestSnapshotOfANode(t *testing.T) {
	w := newWorld(t, 1005, "K", "L", "A", "B")
	w.link("B", "A")
	genesis := w.anchor("K", 0)
	w.mine(genesis, w.request("A", "B"))
	second, third := w.anchor("K", 7), w.anchor("K", 9)
	w.mine(second, third)
	gone := w.spend("K")
	w.mine(gone, w.anchor("L", 1))
	must(w.node.Mine(t.Context(), snapshot.Depth))(t)
	w.follow(w.graph)
	var graphs []*graph.Graph
	var dirs []string
	var stops []func() error
	for _, spent := range []bool{false, true} {
		var file bytes.Buffer
		head := must(snapshot.Create(t.Context(), &file, w.graph, w.client, snapshot.CreateOptions{Spent: spent}))(t)
		dir := filepath.Join(t.TempDir(), "graph")
		path := filepath.Join(t.TempDir(), "snapshot")
		if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		g := must(snapshot.Open(t.Context(), snapshot.Config{
			Dir: dir, Params: testParams, Graph: testOptions(), From: path, Log: zerolog.Nop(),
			Expected: snapshot.Expected{State: &snapshot.State{Height: head.State.Height, Hash: head.State.StateHash}},
		}))(t)
		t.Cleanup(func() { g.Close() })
		v := must(g.At(nil))(t)
		for _, tx := range []*wire.MsgTx{genesis, second, third} {
			got, want := must(v.AnchorProof(tx.TxHash()))(t), must(w.view(nil).AnchorProof(tx.TxHash()))(t)
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("anchor %v is shown by %+v, expected %+v", tx.TxHash(), got, want)
			}
		}
		if chain := must(v.AnchorChain(genesis.TxHash()))(t); chain.Anchors != 3 || chain.BrokenBy != gone.TxHash() {
			t.Errorf("chain %+v", chain)
		}
		v.Close()
		_, stop := w.run(g)
		stops = append(stops, stop)
		w.follow(g)
		graphs, dirs = append(graphs, g), append(dirs, dir)
	}
	// The blocks of the last anchors are taken back.
	must(w.node.Reorg(t.Context(), snapshot.Depth+2, make([][]*wire.MsgTx, snapshot.Depth+3)...))(t)
	want := w.follow(w.graph)
	for i, g := range graphs {
		if got := w.follow(g); got != want {
			t.Errorf("after a reorganisation: tip %+v, expected %+v", got, want)
		}
		if err := stops[i](); err != nil {
			t.Error(err)
		}
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		// What is only read of a folder says the same as an open graph.
		archive := must(graph.OpenArchive(t.Context(), dirs[i], testParams, testOptions()))(t)
		if tip, ok := archive.Tip(); !ok || tip != want {
			t.Errorf("read from the folder: tip %+v, expected %+v", tip, want)
		}
		for height := range want.Height + 1 {
			got, want := must(archive.Recorded(height))(t), must(w.graph.Recorded(height))(t)
			if !reflect.DeepEqual(got, want) {
				t.Errorf("read from the folder: block %+v, expected %+v", got, want)
			}
		}
		if _, err := archive.Recorded(want.Height + 1); !errors.Is(err, graph.ErrHeight) {
			t.Errorf("a block above the tip: %v", err)
		}
		if err := archive.Close(); err != nil {
			t.Error(err)
		}
	}
}

// asLoader, in the environment, makes the test executable a process that opens the graph in the folder that it
// names, with the snapshot in the file, which comes to the state.
const asLoader = "KEYTREE_TEST_LOADER"

// TestSnapshotLoader is not a test but the process that TestSnapshotKilled kills.
func TestSnapshotLoader(t *testing.T) {
	args := strings.Split(os.Getenv(asLoader), "\n")
	if len(args) != 3 {
		t.Skip("part of TestSnapshotKilled")
	}
	fmt.Println("begin")
	state := must(snapshot.ParseState(args[2]))(t)
	g := must(snapshot.Open(t.Context(), snapshot.Config{
		Dir: args[0], Params: testParams, Graph: testOptions(), From: args[1], Log: zerolog.Nop(), Expected: snapshot.Expected{State: &state},
	}))(t)
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("done")
}

// TestSnapshotKilled kills processes that load a snapshot with SIGKILL until one gets to the end. After each
// there is no index, or a whole one.
func TestSnapshotKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts a process for each kill")
	}
	s := newSnapshot(t, anchorStory(t, 150), snapshot.CreateOptions{})
	path, dir := filepath.Join(t.TempDir(), "snapshot"), filepath.Join(t.TempDir(), "graph")
	if err := os.WriteFile(path, s.file, 0o600); err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	killed, amid := 0, 0
	for done := false; !done; {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSnapshotLoader$", "-test.v")
		cmd.Env = append(os.Environ(), asLoader+"="+dir+"\n"+path+"\n"+s.expected().State.String())
		// The time that it may have grows by a third with each kill, so that a slow machine comes to the end.
		said, ended, err := killedAfter(t, cmd, time.Duration(random.Float64()*30*math.Pow(1.3, float64(killed))*float64(time.Millisecond)))
		done = ended && err == nil
		if err != nil && strings.Contains(said, "FAIL") {
			t.Fatal(said)
		}
		if err != nil {
			killed++
		}
		if _, err := os.Stat(dir + ".loading"); err == nil {
			amid++
		}
		if _, err := os.Stat(dir); err == nil { // then it is whole
			g := must(graph.Open(dir, testParams, testOptions()))(t)
			tip, _ := g.Tip()
			if tip.Height != s.head.State.Height || tip.StateHash != s.head.State.StateHash {
				t.Errorf("after %d kills there is an index of block %d, expected none, or one of %d", killed, tip.Height, s.head.State.Height)
			}
			if err := g.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d kills, %d of them while the index was being made", killed, amid)
	if amid < 2 {
		t.Errorf("only %d kills hit amid: this shows too little", amid)
	}
	if left := must(filepath.Glob(dir + ".*"))(t); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
