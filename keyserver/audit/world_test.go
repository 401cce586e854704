package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
	"github.com/keytree-bch/keytree/keyserver/schedule"
	"github.com/keytree-bch/keytree/keyserver/uid"
	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/protocol/tlog"
)

const (
	testDomain = "example.org"
	testTime   = 1_800_000_000
)

var testNet = &chaincfg.RegressionNetParams

func newKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

// inMemory puts the test's folders into memory where the system has such a place.
func inMemory(t testing.TB) {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		t.Setenv("TMPDIR", "/dev/shm")
	}
}

// server is a keyserver that enters whatever it is told to.
type server struct {
	t       testing.TB
	key     ed25519.PrivateKey
	message *uid.Message // its own last
	own     []uint64     // positions of its own
	entries []hashchain.Entry
	replies map[hashchain.Hash]*uid.Reply
	chain   hashchain.Chain

	anchorChain string                // that its heads name
	signs       bool                  // heads
	answers     bool                  // FetchUID, beyond its own messages
	signedHead  *hashchain.SignedHead // to hand out instead
	schedule    *schedule.Schedule    // that it publishes

	fetched int // entries handed out

	log testLog
}

func newServer(t testing.TB, key ed25519.PrivateKey) *server {
	s := &server{t: t, key: key, replies: make(map[hashchain.Hash]*uid.Reply), signs: true, answers: true, schedule: new(schedule.Schedule), log: newTestLog(t)}
	*s.schedule = schedule.Default()
	public := key.Public().(ed25519.PublicKey)
	s.enterOwn(&uid.Message{Content: uid.Content{
		Identity:    "keyserver@" + testDomain,
		NotAfter:    testTime + 365*24*60*60,
		Preferences: uid.Preferences{Ciphersuites: []string{uid.Ciphersuite}, ForwardSec: uid.Strict},
		PubKeys:     uid.KeyList{uid.NewKeyEntry(uid.ECDHE25519, public)},
		RepoURIs:    []string{testDomain},
		SigKey:      uid.NewKeyEntry(uid.Ed25519, public),
		Version:     uid.Version10,
	}}, key)
	return s
}

// enterOwn enters a message of the keyserver's own, whose key is from then on key.
func (s *server) enterOwn(m *uid.Message, key ed25519.PrivateKey) {
	s.t.Helper()
	m.Sign(key)
	sealed, err := m.Seal(rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	s.own = append(s.own, uint64(len(s.entries)))
	s.enter("keyserver@"+testDomain, sealed.Hash, sealed.Encrypted)
	s.message, s.key = m, key
}

// rotate replaces the keyserver's key.
func (s *server) rotate(key ed25519.PrivateKey) {
	m := *s.message
	public := key.Public().(ed25519.PublicKey)
	m.Content.MsgCount++
	m.Content.LastEntry = s.entries[len(s.entries)-1].String()
	m.Content.SigKey = uid.NewKeyEntry(uid.Ed25519, public)
	m.SignUser(s.key)
	s.enterOwn(&m, key)
}

func (s *server) enter(identity string, uidHash hashchain.Hash, encrypted string) {
	s.t.Helper()
	e, err := hashchain.Seal(s.chain.Head, identity, uidHash, rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	s.replies[e.UIDIndex()] = uid.NewReply(encrypted, &e, uint64(len(s.entries)), s.key)
	s.entries = append(s.entries[:len(s.entries):len(s.entries)], e)
	if err := s.chain.Append([]hashchain.Entry{e}, nil); err != nil {
		s.t.Fatal(err)
	}
}

// grow enters messages of users.
func (s *server) grow(n int) {
	s.t.Helper()
	for range n {
		var uidHash hashchain.Hash
		rand.Read(uidHash[:])
		s.enter("somebody@"+testDomain, uidHash, canonical.Encode(uidHash[:]))
	}
}

// twin is the same keyserver as of its first size entries.
func (s *server) twin(size int) *server {
	s.t.Helper()
	other := *s
	other.entries, other.chain = s.entries[:size:size], hashchain.Chain{}
	other.replies = maps.Clone(s.replies)
	other.own = slices.DeleteFunc(slices.Clone(s.own), func(p uint64) bool { return p >= uint64(size) })
	if err := other.chain.Append(other.entries, nil); err != nil {
		s.t.Fatal(err)
	}
	return &other
}

func (s *server) head(time uint64) *hashchain.SignedHead {
	root := s.chain.Root()
	h := hashchain.Head{
		AnchorChain: s.anchorChain, Domain: testDomain, EntryHash: canonical.Encode(s.chain.Head[:]),
		Size: s.chain.Size, Time: time, TreeRoot: canonical.Encode(root[:]),
	}
	return &hashchain.SignedHead{Head: h, ServerSignature: canonical.Encode(ed25519.Sign(s.key, canonical.Marshal(h)))}
}

// Entries implements Keyserver.
func (s *server) Entries(_ context.Context, from uint64) iter.Seq2[[]hashchain.Entry, error] {
	return func(yield func([]hashchain.Entry, error) bool) {
		for from < uint64(len(s.entries)) {
			piece := s.entries[from:min(from+1000, uint64(len(s.entries)))]
			from += uint64(len(piece))
			s.fetched += len(piece)
			if !yield(piece, nil) {
				return
			}
		}
	}
}

// Positions implements Keyserver.
func (s *server) Positions(_ context.Context, identity string) ([]uint64, error) {
	if identity != "keyserver@"+testDomain {
		return nil, errors.New("not asked for in a test")
	}
	return s.own, nil
}

// Reply implements Keyserver.
func (s *server) Reply(_ context.Context, index hashchain.Hash) (*uid.Reply, error) {
	r := s.replies[index]
	if r == nil || !s.answers && !slices.Contains(s.own, r.Entry.HashchainPos) {
		return nil, errors.New("not found")
	}
	return r, nil
}

// Head implements Keyserver.
func (s *server) Head(context.Context) (*hashchain.SignedHead, error) {
	switch {
	case s.signedHead != nil:
		return s.signedHead, nil
	case !s.signs:
		return nil, nil
	}
	return s.head(testTime), nil
}

// Schedule implements Keyserver.
func (s *server) Schedule(context.Context) (*schedule.Schedule, error) { return s.schedule, nil }

// world is a keyserver and a block chain in which it anchors.
type world struct {
	t       testing.TB
	server  *server
	headers []byte // of all blocks, from height 0 on
	tip     protocol.Header
	height  uint32
	items   []*proof.BundleItem // of the chain of anchors
	genesis chainhash.Hash
	baton   wire.OutPoint
	holder  byte // whom batons are paid to
	now     time.Time
	policy  *tlog.Policy // of the auditor; nil: the log is not audited
}

// blockEvery is how much later each block of a world is.
const blockEvery = 10 * time.Minute

func newWorld(t testing.TB) *world {
	inMemory(t)
	w := &world{t: t, server: newServer(t, newKey(1)), now: time.Unix(testTime, 0)}
	w.mine()
	w.server.grow(4)
	w.anchor()
	w.genesis = w.baton.Hash
	w.server.anchorChain = w.genesis.String()
	return w
}

// header is the n-th of the world's, from its first block on.
func (w *world) header(n int) protocol.Header {
	w.t.Helper()
	h, err := protocol.ParseHeader(w.headers[n*protocol.HeaderSize:])
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// filler is a transaction that means nothing.
func (w *world) filler(n int) []byte {
	return w.tx([]wire.OutPoint{{Hash: chainhash.HashH(fmt.Appendf(nil, "%d %d", w.height, n))}}, nil)
}

// tx is a transaction that spends outputs and carries a record, unless it is nil.
func (w *world) tx(spends []wire.OutPoint, record *protocol.Anchor) []byte {
	w.t.Helper()
	tx := wire.NewMsgTx(2)
	for _, out := range spends {
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: out, SignatureScript: make([]byte, 105)})
	}
	tx.AddTxOut(wire.NewTxOut(100_000, bytes.Repeat([]byte{w.holder}, 25), wire.TokenData{}))
	if record != nil {
		script, err := record.Script()
		if err != nil {
			w.t.Fatal(err)
		}
		tx.AddTxOut(wire.NewTxOut(0, script, wire.TokenData{}))
	}
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		w.t.Fatal(err)
	}
	return raw.Bytes()
}

// mine makes the next block, with some transactions, and returns what shows them
// to be in it.
func (w *world) mine(txs ...[]byte) []*proof.BundleItem {
	w.t.Helper()
	if len(w.headers) > 0 {
		w.height++
	}
	all := append([][]byte{w.filler(0), w.filler(1)}, txs...)
	raw := make([]byte, protocol.HeaderSize)
	raw = append(raw, byte(len(all)))
	for _, tx := range all {
		raw = append(raw, tx...)
	}
	w.now = w.now.Add(blockEvery)
	binary.LittleEndian.PutUint32(raw, 0x20000000)
	copy(raw[4:], w.tip.Hash[:])
	binary.LittleEndian.PutUint32(raw[68:], uint32(w.now.Unix()))
	binary.LittleEndian.PutUint32(raw[72:], testNet.PowLimitBits)
	block, err := protocol.ReadBlock(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	root := chainhash.Hash{}
	{ // the merkle root, from the branch of the first transaction
		var first protocol.Tx
		for _, tx := range block.Txs() {
			first = tx
			break
		}
		root = first.TxID()
		for _, beside := range branch(w.t, block, 0) {
			root = chainhash.DoubleHashH(append(bytes.Clone(root[:]), beside[:]...))
		}
	}
	copy(raw[36:], root[:])
	w.tip = solve(w.t, raw[:protocol.HeaderSize])
	w.headers = append(w.headers, raw[:protocol.HeaderSize]...)
	var items []*proof.BundleItem
	for i := range txs {
		n := uint32(i + 2)
		items = append(items, &proof.BundleItem{
			Height: w.height, Header: [protocol.HeaderSize]byte(raw), Index: n, Branch: branch(w.t, block, n), Raw: txs[i],
		})
	}
	return items
}

// branch returns the merkle branch of a transaction.
func branch(t testing.TB, block *protocol.Block, index uint32) []chainhash.Hash {
	t.Helper()
	branch, err := block.PartialMerkleTree(index).Branch(index)
	if err != nil {
		t.Fatal(err)
	}
	return branch
}

// solve finds a nonce.
func solve(t testing.TB, raw []byte) protocol.Header {
	t.Helper()
	for nonce := range uint32(1 << 20) {
		binary.LittleEndian.PutUint32(raw[76:], nonce)
		h, err := protocol.ParseHeader(raw)
		if err != nil {
			t.Fatal(err)
		}
		if h.CheckWork(testNet.PowLimit) == nil {
			return h
		}
	}
	t.Fatal("no nonce")
	return protocol.Header{}
}

// record commits to what the keyserver has.
func (w *world) record() *protocol.Anchor {
	c := &w.server.chain
	return &protocol.Anchor{Domain: testDomain, Position: c.Size - 1, Head: c.Head, Root: c.Root()}
}

// anchor anchors what the keyserver has.
func (w *world) anchor() { w.spend(w.record()) }

// spend spends the baton with a record, or nil, behind other inputs.
func (w *world) spend(record *protocol.Anchor, before ...wire.OutPoint) {
	tx := w.tx(append(before, w.baton), record)
	w.items = append(w.items, w.mine(tx)...)
	w.baton = wire.OutPoint{Hash: chainhash.DoubleHashH(tx)}
}

func (w *world) headerFile() *HeaderFile {
	w.t.Helper()
	f, err := readHeaders(w.headers, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	return f
}

func readHeaders(b []byte, now time.Time) (*HeaderFile, error) {
	first, err := protocol.ParseHeader(b)
	if err != nil {
		return nil, err
	}
	return ReadHeaders(context.Background(), bytes.NewReader(b), int64(len(b)), testNet, Checkpoint{0, first.Hash}, now)
}

// pins are those of who knows the keyserver and its chain of anchors.
func (w *world) pins() Pins {
	first := w.server.entries[0].Hash()
	return Pins{Fingerprint: &first, Genesis: &w.genesis}
}

// bundle is the proof bundle from an anchor on.
func (w *world) bundle(first uint32) []byte {
	return makeBundle(w.t, w.genesis, first, w.items[min(int(first), len(w.items)):])
}

func makeBundle(t testing.TB, chain chainhash.Hash, first uint32, items []*proof.BundleItem) []byte {
	t.Helper()
	var out bytes.Buffer
	b, err := proof.NewBundleWriter(&out, proof.BundleHeader{Network: testNet.Name, Chain: chain, First: first})
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if err := b.Write(it); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func (w *world) sources() Sources {
	return Sources{
		Keyserver: w.server,
		Bundle: func(_ context.Context, first uint32) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(w.bundle(first))), nil
		},
		Headers: w.headerFile(),
		Log:     w.server,
	}
}

// with gives the auditor a bundle of the test's own.
func (s Sources) with(b []byte) Sources {
	s.Bundle = func(context.Context, uint32) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
	return s
}

func (w *world) config(dir string) Config {
	return Config{Dir: dir, Network: testNet, Genesis: w.genesis, Policy: w.policy, Now: func() time.Time { return w.now }}
}

func (w *world) open(dir string) *Auditor {
	w.t.Helper()
	a, err := Open(w.config(dir))
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// audit does one audit with what is in a folder.
func (w *world) audit(dir string) *Report { return w.auditOf(dir, w.sources()) }

func (w *world) auditOf(dir string, from Sources) *Report {
	w.t.Helper()
	a := w.open(dir)
	r, err := a.Audit(w.t.Context(), from)
	if err := errors.Join(err, a.Close()); err != nil {
		w.t.Fatal(err)
	}
	return r
}

// want fails unless a report has a verdict and, if it is not sound, a finding.
func (r *Report) want(t testing.TB, v Verdict, k Kind) *Finding {
	t.Helper()
	if r.Verdict != v {
		t.Fatalf("verdict %q with %+v, %+v, expected %q", r.Verdict, r.Findings, r.Checks, v)
	}
	if k == "" {
		return nil
	}
	for i := range r.Findings {
		if r.Findings[i].Kind == k {
			return &r.Findings[i]
		}
	}
	t.Fatalf("findings %+v, expected %q", r.Findings, k)
	return nil
}
