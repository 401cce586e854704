package hashchain_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/keyserver/canonical"
	"github.com/keytree-bch/keytree/keyserver/hashchain"
)

// vectors are those of ../testdata.
type vectors struct {
	CKDF []struct {
		Nonce string `json:"nonce_hex"`
		K1    string `json:"k1_hex"`
		K2    string `json:"k2_hex"`
	} `json:"ckdf"`
	Hashchain []struct {
		Identity string `json:"identity"`
		Position uint64 `json:"position"`
		Nonce    string `json:"nonce_hex"`
		IV       string `json:"cbc_iv_hex"`
		UIDHash  string `json:"UIDHash_hex"`
		UIDIndex string `json:"UIDIndex_hex"`
		HashID   string `json:"HashID_hex"`
		Prev     string `json:"prev_hash_hex"`
		Entry    string `json:"entry_base64"`
		Hash     string `json:"entry_hash_hex"`
	} `json:"hashchain"`
}

func readVectors(t testing.TB) (v vectors) {
	t.Helper()
	b, err := os.ReadFile("../testdata/keyserver.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	v := readVectors(t)
	if len(v.CKDF) == 0 || len(v.Hashchain) == 0 {
		t.Fatal("no vectors")
	}
	for _, c := range v.CKDF {
		k1, k2 := hashchain.CKDF(hashchain.Nonce(unhex(t, c.Nonce)))
		if got := fmt.Sprintf("%x %x", k1, k2); got != c.K1+" "+c.K2 {
			t.Errorf("CKDF(%s) = %s", c.Nonce, got)
		}
	}
	var chain hashchain.Chain
	for _, c := range v.Hashchain {
		if got := chain.Head.String(); chain.Size != c.Position || got != c.Prev {
			t.Fatalf("position %d behind %s, want %d behind %s", chain.Size, got, c.Position, c.Prev)
		}
		uidHash := hashchain.Hash(unhex(t, c.UIDHash))
		random := bytes.NewReader(append(unhex(t, c.Nonce), unhex(t, c.IV)...))
		e, err := hashchain.Seal(chain.Head, c.Identity, uidHash, random)
		if err != nil {
			t.Fatal(err)
		}
		if e.String() != c.Entry || len(c.Entry) != hashchain.TextSize {
			t.Errorf("position %d: got %s, want %s", c.Position, e.String(), c.Entry)
		}
		parsed, err := hashchain.Parse(c.Entry)
		if err != nil || parsed != e {
			t.Errorf("position %d: %v", c.Position, err)
		}
		if e.Hash().String() != c.Hash || e.HashID().String() != c.HashID || e.UIDIndex().String() != c.UIDIndex {
			t.Errorf("position %d: fields of %x", c.Position, e)
		}
		if got, ok := e.Open(c.Identity); !ok || got != uidHash {
			t.Errorf("position %d: Open = %s, %v", c.Position, got, ok)
		}
		if _, ok := e.Open("bob@example.org"); ok || e.Matches("bob@example.org") || !e.Matches(c.Identity) {
			t.Errorf("position %d: matches the wrong identity", c.Position)
		}
		if other := (hashchain.Hash{1}); !e.Follows(chain.Head) || e.Follows(other) {
			t.Errorf("position %d: Follows its predecessor %v, another %v", c.Position, e.Follows(chain.Head), e.Follows(other))
		}
		if err := chain.Append([]hashchain.Entry{e}, nil); err != nil {
			t.Error(err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	e := sealed(t, 1)[0]
	text := e.String()
	other := e
	other[32] = 2
	for name, s := range map[string]string{
		"empty":         "",
		"short":         text[4:],
		"long":          text + "AAAA",
		"line break":    text[:200] + "\nAAA",
		"not base64":    "!" + text[1:],
		"unknown type":  other.String(),
		"the 136 bytes": canonical.Encode(e[:136]), // of the public design's text
	} {
		if _, err := hashchain.Parse(s); !errors.Is(err, hashchain.ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// sealed makes a chain of n entries; entry i is of user<i%7>@example.org.
func sealed(t testing.TB, n int) []hashchain.Entry {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	entries := make([]hashchain.Entry, n)
	var head hashchain.Hash
	for i := range entries {
		var err error
		entries[i], err = hashchain.Seal(head, fmt.Sprintf("user%c@example.org", 'a'+i%7), hashchain.Hash{byte(i)}, random)
		if err != nil {
			t.Fatal(err)
		}
		head = entries[i].Hash()
	}
	return entries
}

// A chain that came in any pieces is the same, and every change of it is found
// where it is.
func TestAppend(t *testing.T) {
	entries := sealed(t, 40)
	var whole hashchain.Chain
	if err := whole.Append(entries, nil); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		var c hashchain.Chain
		for rest := entries; len(rest) > 0; {
			n := random.IntN(len(rest) + 1)
			if err := c.Append(rest[:n], nil); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if c.Size != whole.Size || c.Head != whole.Head || c.Root() != whole.Root() {
			t.Fatalf("in pieces: %+v", c)
		}
	}

	broken := func(name string, entries []hashchain.Entry, want int) {
		t.Helper()
		var c hashchain.Chain
		err := c.Append(entries, nil)
		var at *hashchain.BrokenError
		if !errors.As(err, &at) || !errors.Is(err, hashchain.ErrBroken) || at.Position != uint64(want) || c.Size != uint64(want) {
			t.Errorf("%s: got %v with %d entries, want it broken at %d", name, err, c.Size, want)
		}
		// What was before the break still is a chain, and the rest fits to it.
		if err := c.Append(whole40(t)[want:], nil); err != nil || c.Root() != whole.Root() {
			t.Errorf("%s: going on behind the break: %v", name, err)
		}
	}
	for i := range hashchain.EntrySize {
		changed := slices.Clone(entries)
		changed[5][i] ^= 1 << (i % 8)
		broken(fmt.Sprintf("byte %d of entry 5", i), changed, 5)
	}
	broken("entry 7 dropped", slices.Delete(slices.Clone(entries), 7, 8), 7)
	broken("entry 0 dropped", entries[1:], 0)
	broken("entry 9 twice", slices.Insert(slices.Clone(entries), 9, entries[9]), 10)
	swapped := slices.Clone(entries)
	swapped[11], swapped[12] = swapped[12], swapped[11]
	broken("11 and 12 swapped", swapped, 11)

	wrong := hashchain.Chain{Size: 3, Edge: make([]hashchain.Hash, 1)}
	if err := wrong.Append(entries, nil); !errors.Is(err, hashchain.ErrBroken) {
		t.Errorf("a state that cannot be: %v", err)
	}
}

func whole40(t testing.TB) []hashchain.Entry { return sealed(t, 40) }

func TestSearch(t *testing.T) {
	entries := sealed(t, 3000)
	found, err := hashchain.Search(t.Context(), entries, "userc@example.org")
	if err != nil {
		t.Fatal(err)
	}
	for n, i := range found {
		if i != 2+7*n {
			t.Fatalf("got %d, want %d", i, 2+7*n)
		}
	}
	if len(found) != 429 {
		t.Errorf("found %d", len(found))
	}
	if found, err := hashchain.Search(t.Context(), entries, "nobody@example.org"); len(found) > 0 || err != nil {
		t.Errorf("found %v, %v", found, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := hashchain.Search(ended, entries, "userc@example.org"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// tree keeps what Append completes.
type tree struct {
	entries []hashchain.Entry
	nodes   map[hashchain.NodeID]hashchain.Hash
}

func (t tree) Node(id hashchain.NodeID) (hashchain.Hash, error) {
	if id.Level == 0 {
		return hashchain.LeafHash(&t.entries[id.Index]), nil
	}
	h, ok := t.nodes[id]
	if !ok {
		return h, errors.New("never completed")
	}
	return h, nil
}

func TestProofs(t *testing.T) {
	const n = 33
	entries := sealed(t, n)
	nodes := tree{entries, make(map[hashchain.NodeID]hashchain.Hash)}
	roots := make([]hashchain.Hash, n+1)
	var c hashchain.Chain
	roots[0] = c.Root()
	for i := range entries {
		err := c.Append(entries[i:i+1], func(id hashchain.NodeID, h hashchain.Hash) { nodes.nodes[id] = h })
		if err != nil {
			t.Fatal(err)
		}
		roots[i+1] = c.Root()
		loaded, err := hashchain.ChainAt(c.Size, c.Head, nodes)
		if err != nil || loaded.Root() != c.Root() || !slices.Equal(loaded.Edge, c.Edge) {
			t.Fatalf("size %d: %v", c.Size, err)
		}
	}
	if empty := "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; roots[0].String() != empty {
		t.Errorf("root of nothing: %s", roots[0])
	}
	for size := uint64(1); size <= n; size++ {
		for i := range size {
			p, err := hashchain.InclusionProof(i, size, nodes)
			if err != nil {
				t.Fatal(err)
			}
			if err := hashchain.VerifyInclusion(&entries[i], i, size, p, roots[size]); err != nil {
				t.Error(err)
			}
			for name, err := range map[string]error{
				"other entry":     hashchain.VerifyInclusion(&entries[(i+1)%n], i, size, p, roots[size]),
				"other root":      hashchain.VerifyInclusion(&entries[i], i, size, p, roots[size-1]),
				"longer":          hashchain.VerifyInclusion(&entries[i], i, size, append(slices.Clone(p), roots[0]), roots[size]),
				"position beyond": hashchain.VerifyInclusion(&entries[i], size, size, p, roots[size]),
			} {
				if !errors.Is(err, hashchain.ErrProof) {
					t.Errorf("inclusion of %d in %d, %s: %v", i, size, name, err)
				}
			}
		}
		for size1 := range size + 1 {
			p, err := hashchain.ConsistencyProof(size1, size, nodes)
			if err != nil {
				t.Fatal(err)
			}
			if err := hashchain.VerifyConsistency(size1, size, p, roots[size1], roots[size]); err != nil {
				t.Error(err)
			}
			other := hashchain.Hash{1}
			if err := hashchain.VerifyConsistency(size1, size, p, other, roots[size]); !errors.Is(err, hashchain.ErrProof) {
				t.Errorf("from another tree of %d to %d: %v", size1, size, err)
			}
			if err := hashchain.VerifyConsistency(size1, size, p, roots[size1], other); size1 > 0 && !errors.Is(err, hashchain.ErrProof) {
				t.Errorf("from %d to another tree of %d: %v", size1, size, err)
			}
		}
	}
	if _, err := hashchain.InclusionProof(5, 5, nodes); err == nil {
		t.Error("proof of an entry that is not there")
	}
	if _, err := hashchain.ConsistencyProof(6, 5, nodes); err == nil {
		t.Error("proof back in time")
	}
}

func TestSignedHead(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x11}, 32))
	public := key.Public().(ed25519.PublicKey)
	var c hashchain.Chain
	if err := c.Append(sealed(t, 5), nil); err != nil {
		t.Fatal(err)
	}
	h := hashchain.SignHead(&c, "example.org", "", 1700000000, key)
	head, root, err := h.Verify(public)
	if err != nil || head != c.Head || root != c.Root() {
		t.Errorf("%s %s %v", head, root, err)
	}
	want := `{"HEAD":{"DOMAIN":"example.org","ENTRYHASH":"`
	if got := string(canonical.Marshal(h)); !strings.HasPrefix(got, want) {
		t.Errorf("got %s", got)
	}
	const genesis = "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
	anchored := hashchain.SignHead(&c, "example.org", genesis, 1700000000, key)
	if _, _, err := anchored.Verify(public); err != nil {
		t.Error(err)
	}
	want = `{"HEAD":{"ANCHORCHAIN":"` + genesis + `","DOMAIN":"example.org","ENTRYHASH":"`
	if got := string(canonical.Marshal(anchored)); !strings.HasPrefix(got, want) {
		t.Errorf("got %s", got)
	}
	for _, whole := range []hashchain.SignedHead{h, anchored} {
		var read hashchain.SignedHead
		if err := canonical.Unmarshal(canonical.Marshal(whole), &read); err != nil || read != whole {
			t.Errorf("%+v was read as %+v, %v", whole, read, err)
		}
	}
	for name, change := range map[string]func(*hashchain.SignedHead){
		"anchors":   func(h *hashchain.SignedHead) { h.Head.AnchorChain = genesis },
		"domain":    func(h *hashchain.SignedHead) { h.Head.Domain = "example.net" },
		"size":      func(h *hashchain.SignedHead) { h.Head.Size++ },
		"time":      func(h *hashchain.SignedHead) { h.Head.Time++ },
		"root":      func(h *hashchain.SignedHead) { h.Head.TreeRoot = h.Head.EntryHash },
		"entry":     func(h *hashchain.SignedHead) { h.Head.EntryHash = h.Head.TreeRoot },
		"signature": func(h *hashchain.SignedHead) { h.ServerSignature = canonical.Encode(make([]byte, 64)) },
		"short":     func(h *hashchain.SignedHead) { h.ServerSignature = "" },
	} {
		changed := h
		change(&changed)
		if _, _, err := changed.Verify(public); err == nil {
			t.Errorf("%s changed, and it verifies", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range readVectors(f).Hashchain {
		f.Add(c.Entry)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e, err := hashchain.Parse(s)
		if err != nil {
			return
		}
		if e.String() != s {
			t.Errorf("%q became %q", s, e.String())
		}
		var c hashchain.Chain
		if err := c.Append([]hashchain.Entry{e}, nil); err != nil && !errors.Is(err, hashchain.ErrBroken) {
			t.Error(err)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	entries := sealed(b, 4096)
	b.SetBytes(int64(len(entries)) * hashchain.EntrySize)
	for b.Loop() {
		var c hashchain.Chain
		if err := c.Append(entries, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(entries))/b.Elapsed().Seconds(), "entries/s")
}

func BenchmarkMatches(b *testing.B) {
	e := sealed(b, 1)[0]
	for b.Loop() {
		if e.Matches("somebody@example.org") {
			b.Fatal("matches")
		}
	}
}

// TestInForce has one key, and three.
func TestInForce(t *testing.T) {
	for _, test := range []struct {
		named []uint64
		size  uint64
		want  int
	}{
		{[]uint64{0}, 0, 0}, {[]uint64{0}, 100, 0},
		{[]uint64{0, 4, 9}, 0, 0}, {[]uint64{0, 4, 9}, 1, 0}, {[]uint64{0, 4, 9}, 4, 0}, {[]uint64{0, 4, 9}, 5, 1},
		{[]uint64{0, 4, 9}, 9, 1}, {[]uint64{0, 4, 9}, 10, 2}, {[]uint64{0, 4, 9}, 1 << 63, 2},
	} {
		if got := hashchain.InForce(test.size, len(test.named), func(i int) uint64 { return test.named[i] }); got != test.want {
			t.Errorf("of keys named at %v, key %d is in force at %d entries, want %d", test.named, got, test.size, test.want)
		}
	}
}
