package anchor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
	"github.com/rs/zerolog"

	"github.com/keytree-bch/keytree/graph/anchors"
	"github.com/keytree-bch/keytree/graph/store"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/protocol"
)

const testDomain = "example.org"

// world is a node with its chain and mempool, and the index of that chain. It knows as
// much of transactions as anchors need: what is spent, by whom, and what they pay.
type world struct {
	mu       sync.Mutex
	blocks   [][]*wire.MsgTx // mu; from height 1 on
	times    []time.Time     // mu; of blocks
	clock    time.Time       // mu; of the miners: ten minutes on with each block
	salt     []byte          // mu; of blocks that a reorganisation made
	mempool  []*wire.MsgTx   // mu
	away     bool            // mu; the node does not answer
	behind   bool            // mu; the index is not at the end of the chain
	minRate  int64           // mu; satoshi per byte
	payments uint32          // mu; payments made
	taken    int             // mu; transactions that Submit has taken anew
	refuse   func(*wire.MsgTx) error
}

var errAway = errors.New("the node is away")

func txOf(raw []byte) *wire.MsgTx {
	tx := new(wire.MsgTx)
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		panic(err)
	}
	return tx
}

func rawOf(tx *wire.MsgTx) []byte {
	var b bytes.Buffer
	if err := tx.Serialize(&b); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// find returns a transaction of chain or mempool, and whether it is confirmed.
func (w *world) find(txid chainhash.Hash) (tx *wire.MsgTx, confirmed bool) {
	for _, block := range w.blocks {
		for _, tx := range block {
			if tx.TxHash() == txid {
				return tx, true
			}
		}
	}
	for _, tx := range w.mempool {
		if tx.TxHash() == txid {
			return tx, false
		}
	}
	return nil, false
}

// spender returns the transaction that spends an output.
func (w *world) spender(out wire.OutPoint) *wire.MsgTx {
	for _, txs := range append(slices.Clone(w.blocks), w.mempool) {
		for _, tx := range txs {
			for _, in := range tx.TxIn {
				if in.PreviousOutPoint == out {
					return tx
				}
			}
		}
	}
	return nil
}

func (w *world) Coins(_ context.Context, key protocol.KeyHash) (coins []Coin, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, errAway
	}
	for i, txs := range append(slices.Clone(w.blocks), w.mempool) {
		for _, tx := range txs {
			for n, o := range tx.TxOut {
				out := wire.OutPoint{Hash: tx.TxHash(), Index: uint32(n)}
				if holder, ok := protocol.P2PKHKey(o.PkScript); ok && holder == key && w.spender(out) == nil {
					coins = append(coins, Coin{protocol.UTXO{OutPoint: out, Value: o.Value, Script: o.PkScript}, i < len(w.blocks)})
				}
			}
		}
	}
	return coins, nil
}

func (w *world) Unspent(_ context.Context, out wire.OutPoint) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return false, errAway
	}
	tx, _ := w.find(out.Hash)
	return tx != nil && w.spender(out) == nil, nil
}

func (w *world) Transaction(_ context.Context, txid chainhash.Hash) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return nil, errAway
	}
	tx, _ := w.find(txid)
	if tx == nil {
		return nil, fmt.Errorf("%w: %v", ErrUnknown, txid)
	}
	return rawOf(tx), nil
}

func (w *world) Submit(_ context.Context, raw []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.away {
		return errAway
	}
	tx := txOf(raw)
	if have, _ := w.find(tx.TxHash()); have != nil {
		return nil
	}
	if w.refuse != nil {
		if err := w.refuse(tx); err != nil {
			return err
		}
	}
	var fee int64
	for _, in := range tx.TxIn {
		out := in.PreviousOutPoint
		from, _ := w.find(out.Hash)
		if from == nil {
			return fmt.Errorf("%w: no such output %v", ErrRefused, out)
		}
		if w.spender(out) != nil {
			return fmt.Errorf("%w: %v is spent", ErrRefused, out)
		}
		fee += from.TxOut[out.Index].Value
	}
	for _, o := range tx.TxOut {
		fee -= o.Value
	}
	if fee < w.minRate*int64(len(raw)) {
		return fmt.Errorf("%w: %d", ErrFee, fee)
	}
	w.mempool = append(w.mempool, tx)
	w.taken++
	return nil
}

// pay makes an unconfirmed payment to a key out of nothing, as output n.
func (w *world) pay(key protocol.KeyHash, value int64, n int) wire.OutPoint {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.payments++
	tx := wire.NewMsgTx(2)
	for range n {
		tx.AddTxOut(wire.NewTxOut(int64(w.payments), []byte{0x51}, wire.TokenData{}))
	}
	tx.AddTxOut(wire.NewTxOut(value, protocol.P2PKHScript(key), wire.TokenData{}))
	tx.LockTime = w.payments
	w.mempool = append(w.mempool, tx)
	return wire.OutPoint{Hash: tx.TxHash(), Index: uint32(n)}
}

// mine confirms the whole mempool.
func (w *world) mine(blocks int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range blocks {
		w.append(w.mempool)
		w.mempool = nil
	}
}

func (w *world) append(block []*wire.MsgTx) {
	w.clock = w.clock.Add(10 * time.Minute)
	w.blocks, w.times = append(w.blocks, block), append(w.times, w.clock)
}

// reorg replaces the last blocks by as many and one empty ones. If keep, what was in
// them goes back to the mempool.
func (w *world) reorg(depth int, keep bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var gone []*wire.MsgTx
	for _, block := range w.blocks[len(w.blocks)-depth:] {
		gone = append(gone, block...)
	}
	w.blocks, w.times = w.blocks[:len(w.blocks)-depth], w.times[:len(w.blocks)-depth]
	for range depth + 1 {
		w.append(nil)
	}
	w.salt = append(w.salt, byte(len(w.blocks)), byte(len(w.blocks)>>8), 1)
	if keep {
		w.mempool = append(gone, w.mempool...)
	} else {
		w.mempool = nil
	}
}

// View opens the index.
func (w *world) View() (View, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.behind {
		return nil, ErrBehind
	}
	v := &index{height: uint32(len(w.blocks)), hash: chainhash.HashH(append(binary.LittleEndian.AppendUint32(nil, uint32(len(w.blocks))), w.salt...)),
		times: slices.Clone(w.times), txs: make(map[chainhash.Hash]anchors.Status), raw: make(map[chainhash.Hash][]byte)}
	for i, block := range w.blocks {
		for n, tx := range block {
			v.add(w, uint32(i+1), uint32(n), tx)
		}
	}
	return v, nil
}

// Changed never says so: the tests make each step.
func (w *world) Changed() <-chan struct{} { return nil }

// index judges anchors by protocol.Anchor.Follow, as the graph does.
type index struct {
	height uint32
	hash   chainhash.Hash
	times  []time.Time
	chains []*chain
	txs    map[chainhash.Hash]anchors.Status
	raw    map[chainhash.Hash][]byte
}

type chain struct {
	anchors.Chain
	anchors []anchors.Status
}

func (v *index) add(w *world, height, n uint32, tx *wire.MsgTx) {
	raw := rawOf(tx)
	parsed := protocol.Tx(raw)
	record, ok := parsed.Anchor()
	var next *protocol.Anchor
	status := anchors.Status{TxID: tx.TxHash(), Height: height, Index: n}
	if ok {
		next, status.Anchor = &record, record
		out, unlock := parsed.Input0()
		if from, _ := w.find(out.Hash); from != nil {
			if author, ok := protocol.Author(unlock, from.TxOut[out.Index].PkScript); ok {
				status.Author = &author
			}
		}
	}
	var of *chain
	for _, c := range v.chains {
		for i, in := range tx.TxIn {
			if c.Break != protocol.Unbroken || in.PreviousOutPoint != (wire.OutPoint{Hash: c.Last.TxID}) {
				continue
			}
			how := c.Last.Follow(next, uint32(i))
			if how == protocol.Unbroken || how.BelongsToChain() {
				of = c
			}
			if how != protocol.Unbroken {
				c.Break, c.BrokenBy, c.BrokenAt = how, tx.TxHash(), height
			}
		}
	}
	if next == nil {
		return
	}
	if of == nil {
		of = &chain{Chain: anchors.Chain{ID: tx.TxHash(), Domain: record.Domain}}
		v.chains = append(v.chains, of)
		of.Genesis = status
		of.Genesis.Chain = of.ID
	}
	status.Chain, status.Number = of.ID, of.Anchors
	of.Last = status
	of.Anchors++
	of.anchors = append(of.anchors, status)
	v.txs[status.TxID], v.raw[status.TxID] = status, raw
}

func (v *index) Height() uint32       { return v.height }
func (v *index) Hash() chainhash.Hash { return v.hash }
func (v *index) Time() time.Time      { return v.times[v.height-1] }
func (v *index) Close()               {}

func (v *index) AnchorChain(id chainhash.Hash) (anchors.Chain, error) {
	for _, c := range v.chains {
		if c.ID == id {
			return c.Chain, nil
		}
	}
	return anchors.Chain{}, store.ErrNotFound
}

func (v *index) AnchorChainsOf(_ context.Context, domain string, _ *store.Position, _ int) (chains []anchors.Chain, _ *store.Position, _ error) {
	for _, c := range v.chains {
		if c.Domain == domain {
			chains = append(chains, c.Chain)
		}
	}
	return chains, nil, nil
}

func (v *index) Anchors(_ context.Context, id chainhash.Hash, from uint32, limit int) ([]anchors.Status, error) {
	for _, c := range v.chains {
		if c.ID == id {
			rest := c.anchors[min(int(from), len(c.anchors)):]
			return rest[:min(limit, len(rest))], nil
		}
	}
	return nil, nil
}

func (v *index) Anchor(txid chainhash.Hash) (anchors.Status, error) {
	a, ok := v.txs[txid]
	if !ok {
		return a, store.ErrNotFound
	}
	return a, nil
}

func (v *index) AnchorProof(txid chainhash.Hash) (anchors.Proof, error) {
	a, err := v.Anchor(txid)
	proof := anchors.Proof{Height: a.Height, Index: a.Index, Raw: v.raw[txid]}
	if err == nil {
		binary.LittleEndian.PutUint32(proof.Header[68:], uint32(v.times[a.Height-1].Unix()))
	}
	return proof, err
}

// keyserver is a hashchain that is kept in memory.
type keyserver struct {
	mu     sync.Mutex
	states []hashchain.Chain // mu; by size
	named  string            // mu; what SetAnchorChain said
	denied bool              // mu; that it is anchored
}

// newKeyserver returns a hashchain with one entry, which depends on the seed.
func newKeyserver(t *testing.T, seed byte) *keyserver {
	k := &keyserver{states: []hashchain.Chain{{}}}
	k.grow(t, 1, seed)
	return k
}

// grow appends entries that depend on the seed.
func (k *keyserver) grow(t *testing.T, entries int, seed byte) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	for range entries {
		c := k.states[len(k.states)-1]
		e, err := hashchain.Seal(c.Head, fmt.Sprintf("user%d@%s", c.Size, testDomain), hashchain.Hash{seed, byte(c.Size)}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Append([]hashchain.Entry{e}, nil); err != nil {
			t.Fatal(err)
		}
		k.states = append(k.states, c)
	}
}

// backup returns the hashchain as it is now.
func (k *keyserver) backup() *keyserver {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &keyserver{states: slices.Clone(k.states), named: k.named}
}

func (k *keyserver) Chain() hashchain.Chain {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.states[len(k.states)-1]
}

func (k *keyserver) ChainAt(_ context.Context, size uint64) (hashchain.Chain, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if size >= uint64(len(k.states)) {
		return hashchain.Chain{}, errors.New("no such entry")
	}
	return k.states[size], nil
}

func (k *keyserver) SetAnchorChain(_ context.Context, name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.named = name
	return nil
}

func (k *keyserver) AnchorChain() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.named
}

func (k *keyserver) Unanchored() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.denied
}

// rig is a publisher in a world.
type rig struct {
	t    *testing.T
	w    *world
	ks   *keyserver
	of   Hashchain // in place of ks, if not nil
	dir  string
	now  time.Time
	node Node // w, unless a test puts something before it
	p    *Publisher
	uris []string // that asked for funds
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, w: &world{minRate: 1, clock: time.Unix(1_700_000_000, 0)}, ks: newKeyserver(t, 0), dir: t.TempDir(), now: time.Unix(1_800_000_000, 0)}
	r.node = r.w
	r.w.mine(1)
	return r
}

func (r *rig) open() error {
	var err error
	of := r.of
	if of == nil {
		of = r.ks
	}
	r.p, err = Open(Options{
		Domain: testDomain, Network: &chaincfg.RegressionNetParams,
		KeyFile: filepath.Join(r.dir, "anchor.key"), StateFile: filepath.Join(r.dir, "anchor.json"),
		Hashchain: of, Chain: r.w, Node: r.node,
		Schedule:  schedule.Schedule{Interval: time.Hour, MaxEntries: 10, Heartbeat: 24 * time.Hour},
		NeedFunds: func(uri string) { r.uris = append(r.uris, uri) },
		Now:       func() time.Time { return r.now }, Log: zerolog.New(zerolog.NewTestWriter(r.t)),
	})
	return err
}

// start starts the publisher anew, as after a kill.
func (r *rig) start() {
	r.t.Helper()
	if err := r.open(); err != nil {
		r.t.Fatal(err)
	}
	if err := r.p.check(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) step() {
	r.t.Helper()
	if err := r.p.step(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

// wantStep makes a step that fails.
func (r *rig) wantStep(want error) {
	r.t.Helper()
	if err := r.p.step(r.t.Context()); !errors.Is(err, want) {
		r.t.Fatalf("got %v, want %v", err, want)
	}
}

// fund pays for anchors, and starts the chain.
func (r *rig) fund(value int64) {
	r.t.Helper()
	r.w.pay(r.p.keys.current.hash, value, 0)
	r.w.mine(1)
}

// anchor lets the head move and anchors it.
func (r *rig) anchor() {
	r.t.Helper()
	r.ks.grow(r.t, 1, 0)
	r.now = r.now.Add(time.Hour)
	r.step()
}

// wantOne checks that there is one chain by this key, unbroken, with so many confirmed
// anchors whose positions never decrease, and returns it.
func (r *rig) wantOne(anchors int) *chain {
	r.t.Helper()
	v, err := r.w.View()
	if err != nil {
		r.t.Fatal(err)
	}
	chains := v.(*index).chains
	if len(chains) != 1 {
		r.t.Fatalf("there are %d chains of anchors, want 1", len(chains))
	}
	c := chains[0]
	if c.Break != protocol.Unbroken || len(c.anchors) != anchors {
		r.t.Fatalf("the chain has %d anchors, want %d: %v", len(c.anchors), anchors, c.Break)
	}
	for i, a := range c.anchors {
		state, err := r.ks.ChainAt(r.t.Context(), a.Position+1)
		if err != nil || state.Head != a.Head || state.Root() != a.Root {
			r.t.Errorf("anchor %d is not of the hashchain: %v", i, err)
		}
		if i > 0 && a.Position < c.anchors[i-1].Position {
			r.t.Errorf("anchor %d goes back from position %d to %d", i, c.anchors[i-1].Position, a.Position)
		}
	}
	return c
}

// set changes the world while others look at it.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}
