package tlog_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	xtlog "golang.org/x/mod/sumdb/tlog"

	"github.com/keytree-bch/keytree/protocol/tlog"
)

// tree is a log of n entries whose hashes are all at hand.
type tree struct {
	entries [][]byte
	hashes  []tlog.Hash
}

func (t *tree) ReadHashes(indexes []int64) (hashes []tlog.Hash, err error) {
	for _, i := range indexes {
		hashes = append(hashes, t.hashes[i])
	}
	return hashes, nil
}

// newTree makes entries that another salt makes others.
func newTree(tb testing.TB, n int, salt string) *tree {
	tb.Helper()
	t := new(tree)
	for i := range n {
		entry := fmt.Appendf(nil, "entry %d %s", i, salt)
		more, err := xtlog.StoredHashes(int64(i), entry, t)
		if err != nil {
			tb.Fatal(err)
		}
		t.entries, t.hashes = append(t.entries, entry), append(t.hashes, more...)
	}
	return t
}

func (t *tree) checkpoint(tb testing.TB, size uint64) tlog.Checkpoint {
	tb.Helper()
	root, err := xtlog.TreeHash(int64(size), t)
	if err != nil {
		tb.Fatal(err)
	}
	return tlog.Checkpoint{Origin: origin, Size: size, Root: root}
}

const origin = "example.org/keytree"

func newKey(tb testing.TB, name string) *tlog.Key {
	tb.Helper()
	k, err := tlog.GenerateKey(name)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func TestPath(t *testing.T) {
	for _, test := range []struct {
		tile tlog.Tile
		path string
	}{
		{tlog.NewTile(0, 0, 256), "tile/0/000"},
		{tlog.NewTile(0, 1234067, 256), "tile/0/x001/x234/067"},
		{tlog.NewTile(2, 1000, 7), "tile/2/x001/000.p/7"},
		{tlog.NewTile(-1, 3, 255), "tile/entries/003.p/255"},
		{tlog.NewTile(-1, 999999, 256), "tile/entries/x999/999"},
	} {
		if got := tlog.Path(test.tile); got != test.path {
			t.Errorf("tile %v is at %q, want %q", test.tile, got, test.path)
		}
		if got, err := tlog.ParsePath(test.path); err != nil || got != test.tile {
			t.Errorf("%q is tile %v (%v), want %v", test.path, got, err, test.tile)
		}
	}
	for _, path := range []string{
		"", "tile", "tile/", "tile/0", "tile/0/", "tile/0/0", "tile/0/0000", "tile/00/000", "tile/-1/000", "tile/data/000", "tile/8/0/000", "tile/8/000",
		"tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/07", "tile/0/x000/001", "tile/0/001/001", "tile/0/000/", "/tile/0/000", "tile/0/../000",
		"tile/entries/-01", "0/000", "tile/0/" + strings.Repeat("x999/", 20) + "999",
	} {
		if got, err := tlog.ParsePath(path); !errors.Is(err, tlog.ErrFormat) {
			t.Errorf("%q is tile %v (%v), want ErrFormat", path, got, err)
		}
	}
}

func TestWithin(t *testing.T) {
	for _, test := range []struct {
		path string
		from uint64 // the smallest size that has it
	}{
		{"tile/0/000.p/1", 1}, {"tile/entries/000.p/1", 1}, {"tile/0/000", 256}, {"tile/entries/001", 512}, {"tile/0/001.p/3", 259},
		{"tile/1/000.p/1", 256}, {"tile/1/000.p/2", 512}, {"tile/1/000", 65536}, {"tile/2/000.p/1", 65536},
	} {
		tile, err := tlog.ParsePath(test.path)
		if err != nil || !tlog.Within(tile, test.from) || tlog.Within(tile, test.from-1) {
			t.Errorf("%s (%v) is within %d: %v, within %d: %v", test.path, err, test.from, tlog.Within(tile, test.from), test.from-1, tlog.Within(tile, test.from-1))
		}
	}
	if tlog.Within(tlog.NewTile(0, 1<<62, 256), 10) {
		t.Error("a tile far behind the end is within")
	}
}

// TestTiles follows a log that grows: what it says is new is all that a reader lacks.
func TestTiles(t *testing.T) {
	have := make(map[string]bool)
	before := uint64(0)
	for _, size := range []uint64{1, 255, 256, 257, 513, 70_000} {
		for _, tile := range tlog.Tiles(before, size) {
			if !tlog.Within(tile, size) {
				t.Errorf("%s is not within %d", tlog.Path(tile), size)
			}
			have[tlog.Path(tile)] = true
		}
		for n := uint64(0); n < size; n += 256 {
			for _, level := range []int{-1, 0} {
				if tile := tlog.NewTile(level, int64(n/256), int(min(256, size-n))); !have[tlog.Path(tile)] {
					t.Fatalf("%s is missing at size %d", tlog.Path(tile), size)
				}
			}
		}
		before = size
	}
	if !have["tile/2/000.p/1"] || !have["tile/1/001.p/17"] {
		t.Error("tiles of higher levels are missing")
	}
}

func TestBundle(t *testing.T) {
	var bundle []byte
	want := [][]byte{[]byte("one"), {}, bytes.Repeat([]byte{7}, 65535)}
	for _, entry := range want {
		bundle = tlog.AppendEntry(bundle, entry)
	}
	got, err := tlog.ParseBundle(bundle, 3)
	if err != nil || !slices.EqualFunc(got, want, bytes.Equal) {
		t.Errorf("the bundle has %d entries (%v)", len(got), err)
	}
	for _, width := range []int{0, 2, 4} {
		if _, err := tlog.ParseBundle(bundle, width); !errors.Is(err, tlog.ErrFormat) {
			t.Errorf("as %d entries: %v", width, err)
		}
	}
	if _, err := tlog.ParseBundle(bundle[:len(bundle)-1], 3); !errors.Is(err, tlog.ErrFormat) {
		t.Errorf("cut short: %v", err)
	}
}

func TestCheckpoint(t *testing.T) {
	key, other := newKey(t, origin), newKey(t, origin)
	c := newTree(t, 300, "").checkpoint(t, 300)
	signed := key.Sign(c)
	if !bytes.Equal(signed, key.Sign(c)) {
		t.Error("two signatures of one checkpoint differ")
	}
	if got, err := tlog.Open(signed, key.Log()); err != nil || got != c {
		t.Errorf("got %v (%v), want %v", got, err, c)
	}
	if _, err := tlog.Open(signed, other.Log()); !errors.Is(err, tlog.ErrSignature) {
		t.Errorf("by another key: %v", err)
	}
	if _, err := tlog.Open(bytes.Replace(signed, []byte("\n300\n"), []byte("\n301\n"), 1), key.Log()); !errors.Is(err, tlog.ErrSignature) {
		t.Errorf("with another size: %v", err)
	}
	elsewhere := c
	elsewhere.Origin = "example.net/keytree"
	if _, err := tlog.Open(key.Sign(elsewhere), key.Log()); !errors.Is(err, tlog.ErrFormat) {
		t.Errorf("of another origin: %v", err)
	}
	// What somebody else reads.
	verifier, err := note.NewVerifier(key.Log().String())
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open(signed, note.VerifierList(verifier)); err != nil || n.Text != c.Text() {
		t.Errorf("note opens %+v (%v)", n, err)
	}
	root := c.Root.String()
	for _, text := range []string{
		"", "a\n1\n" + root, "\n1\n" + root + "\n", "a\n01\n" + root + "\n", "a\n-1\n" + root + "\n", "a\n1\n" + root[1:] + "\n", "a\n1\n\n" + root + "\n",
		"a\n1\n" + root + "\n\n", "a\n18446744073709551615\n" + root + "\n", "a\n0\n" + root + "\n", "a\n1\n" + root + "\n" + strings.Repeat("x", tlog.MaxCheckpoint) + "\n",
	} {
		if _, err := tlog.ParseCheckpoint(text); !errors.Is(err, tlog.ErrFormat) {
			t.Errorf("%.80q: got %v, want ErrFormat", text, err)
		}
	}
	if got, err := tlog.ParseCheckpoint(c.Text() + "an extension\n"); err != nil || got != c {
		t.Errorf("with an extension: %v (%v)", got, err)
	}
}

// TestConsistency compares a log with itself, and with one that differs from entry 4 on.
func TestConsistency(t *testing.T) {
	log, fork := newTree(t, 40, ""), newTree(t, 40, "fork")
	copy(fork.entries, log.entries[:4])
	fork.hashes = nil
	for i, entry := range fork.entries {
		more, err := xtlog.StoredHashes(int64(i), entry, fork)
		if err != nil {
			t.Fatal(err)
		}
		fork.hashes = append(fork.hashes, more...)
	}
	for newer := uint64(1); newer <= 40; newer++ {
		for older := uint64(0); older <= newer; older++ {
			var proof []tlog.Hash
			if older > 0 && older < newer {
				var err error
				if proof, err = xtlog.ProveTree(int64(newer), int64(older), log); err != nil {
					t.Fatal(err)
				}
			}
			before := tlog.Checkpoint{Origin: origin, Root: tlog.EmptyRoot}
			if older > 0 {
				before = log.checkpoint(t, older)
			}
			if err := tlog.CheckConsistency(before, log.checkpoint(t, newer), proof); err != nil {
				t.Errorf("%d to %d: %v", older, newer, err)
			}
			if newer > 4 && older > 4 {
				if err := tlog.CheckConsistency(fork.checkpoint(t, older), log.checkpoint(t, newer), proof); !errors.Is(err, tlog.ErrProof) {
					t.Errorf("a fork, %d to %d: %v", older, newer, err)
				}
			}
			if err := tlog.CheckConsistency(before, log.checkpoint(t, newer), append(proof, tlog.Hash{})); !errors.Is(err, tlog.ErrProof) {
				t.Errorf("%d to %d with a hash too many: %v", older, newer, err)
			}
		}
	}
	if err := tlog.CheckConsistency(log.checkpoint(t, 5), log.checkpoint(t, 4), nil); !errors.Is(err, tlog.ErrProof) {
		t.Errorf("a smaller one: %v", err)
	}
	if err := tlog.CheckConsistency(tlog.Checkpoint{Root: tlog.Hash{1}}, log.checkpoint(t, 4), nil); !errors.Is(err, tlog.ErrProof) {
		t.Errorf("from an empty tree with entries: %v", err)
	}
}

func TestKey(t *testing.T) {
	key := newKey(t, "witness.example/w1")
	again, err := tlog.ParseKey(key.Text())
	if err != nil || again.Witness().String() != key.Witness().String() || again.Name() != key.Name() {
		t.Errorf("read again: %v (%v)", again, err)
	}
	if v, err := tlog.ParseWitnessKey(key.Witness().String()); err != nil || v.KeyHash() != key.Witness().KeyHash() || v.Name() != key.Name() {
		t.Errorf("the witness's key: %v (%v)", v, err)
	}
	if v, err := tlog.ParseLogKey(key.Log().String()); err != nil || v.KeyHash() != key.Log().KeyHash() {
		t.Errorf("the log's key: %v (%v)", v, err)
	}
	for _, text := range []string{
		"", "a", "a+b+c", key.Witness().String(), key.Log().String() + "=", strings.ToUpper(key.Log().String()),
		strings.Replace(key.Log().String(), "example", "Example", 1), strings.Replace(key.Log().String(), "witness", "wit ness", 1),
	} {
		if v, err := tlog.ParseLogKey(text); !errors.Is(err, tlog.ErrFormat) {
			t.Errorf("%q: got %v (%v), want ErrFormat", text, v, err)
		}
	}
	if _, err := tlog.ParseWitnessKey(key.Log().String()); !errors.Is(err, tlog.ErrFormat) {
		t.Errorf("a log's key as a witness's: %v", err)
	}
	for _, name := range []string{"", "a b", "a+b", "a\nb"} {
		if _, err := tlog.GenerateKey(name); !errors.Is(err, tlog.ErrFormat) {
			t.Errorf("a key of %q: %v", name, err)
		}
	}
	secret := strings.Split(key.Text(), "+")[4]
	if _, err := tlog.ParseKey(key.Text() + "x"); !errors.Is(err, tlog.ErrFormat) || strings.Contains(err.Error(), secret) {
		t.Errorf("a wrong private key: %v", err)
	}
}

func TestCosign(t *testing.T) {
	log, witness := newKey(t, origin), newKey(t, "witness.example")
	signed := log.Sign(newTree(t, 3, "").checkpoint(t, 3))
	at := time.Unix(1_700_000_000, 5)
	line := witness.Cosign(signed, at)
	got, when, err := tlog.ParseCosignatures(signed, line, witness.Witness())
	if err != nil || !bytes.Equal(got, line) || when != 1_700_000_000 {
		t.Errorf("got %q at %d (%v)", got, when, err)
	}
	if again := witness.Cosign(append(bytes.Clone(signed), line...), at); !bytes.Equal(again, line) {
		t.Error("a cosignature changes what others sign")
	}
	other := newKey(t, "other.example")
	if got, _, err := tlog.ParseCosignatures(signed, append(other.Cosign(signed, at), line...), witness.Witness()); err != nil || !bytes.Equal(got, line) {
		t.Errorf("beside another's: %q (%v)", got, err)
	}
	elsewhere := log.Sign(newTree(t, 4, "").checkpoint(t, 4))
	for name, answer := range map[string][]byte{
		"of another checkpoint": witness.Cosign(elsewhere, at),
		"by another witness":    other.Cosign(signed, at),
		"with another time":     bytes.Replace(line, line[len(line)-100:], line[len(line)-100:len(line)-1], 1),
		"nothing":               nil,
		"nonsense":              []byte("<html>\n"),
		"too long":              bytes.Repeat(line, 100),
		"a whole note":          append(bytes.Clone(signed), line...),
	} {
		if got, _, err := tlog.ParseCosignatures(signed, answer, witness.Witness()); err == nil {
			t.Errorf("%s: got %q", name, got)
		} else if !errors.Is(err, tlog.ErrSignature) && !errors.Is(err, tlog.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSubmission(t *testing.T) {
	signed := newKey(t, origin).Sign(newTree(t, 3, "").checkpoint(t, 3))
	s := &tlog.Submission{Old: 2, Proof: []tlog.Hash{{1}, {2}}, Checkpoint: signed}
	got, err := tlog.ParseSubmission(s.Marshal())
	if err != nil || got.Old != 2 || !slices.Equal(got.Proof, s.Proof) || !bytes.Equal(got.Checkpoint, signed) {
		t.Errorf("got %+v (%v)", got, err)
	}
	line := tlog.Hash{1}.String() + "\n"
	for _, text := range []string{
		"", "old 1", "old 01\n\n", "old -1\n\n", "Old 1\n\n", "old 1\nxx\n\n", "old 1\n" + line, "old 1\n" + strings.Repeat(line, 64) + "\n",
		"old 1\n" + line[:43] + "\n\n", "old 1\n\n" + strings.Repeat("x", tlog.MaxSubmission),
	} {
		if _, err := tlog.ParseSubmission([]byte(text)); !errors.Is(err, tlog.ErrFormat) {
			t.Errorf("%.80q: %v", text, err)
		}
	}
	if n, err := tlog.ParseSize(tlog.FormatSize(17)); err != nil || n != 17 {
		t.Errorf("a size: %d (%v)", n, err)
	}
	for _, text := range []string{"", "17", "017\n", "17\n\n", "-1\n", "99999999999999999999\n", "9223372036854775807\n", "<html>\n"} {
		if n, err := tlog.ParseSize([]byte(text)); !errors.Is(err, tlog.ErrFormat) {
			t.Errorf("%q is size %d (%v)", text, n, err)
		}
	}
}

// policyOf is a policy of one log and witnesses w0, w1, …, with more lines.
func policyOf(tb testing.TB, log *tlog.Key, witnesses []*tlog.Key, lines string) *tlog.Policy {
	tb.Helper()
	text := "log " + log.Log().String() + " https://example.org/keytree/\n"
	for i, w := range witnesses {
		text += fmt.Sprintf("witness w%d %s\n", i, w.Witness())
	}
	p, err := tlog.ParsePolicy([]byte(text + lines))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func TestPolicy(t *testing.T) {
	log := newKey(t, origin)
	var keys []*tlog.Key
	for i := range 5 {
		keys = append(keys, newKey(t, fmt.Sprintf("witness%d.example", i)))
	}
	signed := log.Sign(newTree(t, 3, "").checkpoint(t, 3))
	for _, test := range []struct {
		lines   string
		enough  []string // sets of witnesses, by their numbers
		not     []string
		demands bool
	}{
		{"quorum none\n", []string{"", "0"}, nil, false},
		{"quorum w1\n", []string{"1", "01"}, []string{"", "0"}, true},
		{"group g 2 w0 w1 w2\n  quorum\tg # not a comment\n", nil, nil, true},
		{"# two of three\ngroup g 2 w0 w1 w2\nquorum g\n", []string{"01", "02", "0124"}, []string{"", "0", "034"}, true},
		{"group x 2 w0 w1 w2\ngroup y any w3 w4\ngroup all-of all x y\nquorum all-of", []string{"013", "01234"}, []string{"012", "034"}, true},
	} {
		if strings.Contains(test.lines, "not a comment") {
			if _, err := tlog.ParsePolicy([]byte(test.lines)); !errors.Is(err, tlog.ErrFormat) {
				t.Errorf("words behind a line: %v", err)
			}
			continue
		}
		p := policyOf(t, log, keys, test.lines)
		if p.Demands() != test.demands {
			t.Errorf("%q demands cosignatures: %v", test.lines, p.Demands())
		}
		for i, set := range append(slices.Clone(test.enough), test.not...) {
			b := bytes.Clone(signed)
			for _, n := range set {
				b = append(b, keys[n-'0'].Cosign(signed, time.Unix(1000, 0))...)
			}
			o, err := p.Open(b)
			if err != nil {
				t.Fatal(err)
			}
			if err := o.Quorum(1000); (err == nil) != (i < len(test.enough)) || err != nil && !errors.Is(err, tlog.ErrQuorum) {
				t.Errorf("%q with %q: %v", test.lines, set, err)
			}
			if err := o.Quorum(1001); test.demands && !errors.Is(err, tlog.ErrQuorum) {
				t.Errorf("%q with %q, cosigned too early: %v", test.lines, set, err)
			}
			if len(o.Cosigners()) != len(set) || o.Checkpoint.Size != 3 || o.Log.URL != "https://example.org/keytree" {
				t.Errorf("%q with %q: cosigned by %q, %+v", test.lines, set, o.Cosigners(), o)
			}
		}
	}
	p := policyOf(t, log, keys, "quorum none")
	if _, err := p.Open(newKey(t, origin).Sign(newTree(t, 3, "").checkpoint(t, 3))); !errors.Is(err, tlog.ErrSignature) {
		t.Errorf("another log of the same name: %v", err)
	}
	if p.Log(origin) == nil || p.Log("example.net/keytree") != nil {
		t.Error("logs are not found by their origin")
	}
	l, w := log.Log().String(), keys[0].Witness().String()
	for _, text := range []string{
		"", "log " + l, "quorum", "quorum g", "quorum none\nquorum none", "log " + w + "\nquorum none", "witness w " + l + "\nquorum none",
		"log " + l + "\nlog " + l + "\nquorum none", "witness a " + w + "\nwitness b " + w + "\nquorum none", "witness none " + w + "\nquorum none",
		"witness a " + w + "\ngroup a all a\nquorum none", "witness a " + w + "\ngroup g 0 a\nquorum g", "witness a " + w + "\ngroup g 2 a\nquorum g",
		"witness a " + w + "\ngroup g 01 a\nquorum g", "witness a " + w + "\ngroup g any a a\nquorum g", "witness a " + w + "\ngroup g any a\ngroup h any a\nquorum g",
		"quorum a\nwitness a " + w, "group g any g\nquorum g", "log " + l + " ftp://x/\nquorum none", "log " + l + " https:///\nquorum none", "log\x00\nquorum none",
		"unknown\nquorum none", strings.Repeat("#", tlog.MaxPolicy+1),
	} {
		if _, err := tlog.ParsePolicy([]byte(text)); !errors.Is(err, tlog.ErrFormat) {
			t.Errorf("%.100q: got %v, want ErrFormat", text, err)
		}
	}
}

func TestProof(t *testing.T) {
	log, witness := newKey(t, origin), newKey(t, "witness.example")
	p := policyOf(t, log, []*tlog.Key{witness}, "quorum w0")
	tree := newTree(t, 300, "")
	signed := log.Sign(tree.checkpoint(t, 300))
	cosigned := append(bytes.Clone(signed), witness.Cosign(signed, time.Unix(1000, 0))...)
	hashes, err := xtlog.ProveRecord(300, 77, tree)
	if err != nil {
		t.Fatal(err)
	}
	for _, extra := range [][]byte{nil, {}, []byte("more"), bytes.Repeat([]byte{1}, 1<<20)} {
		proof := &tlog.Proof{Extra: extra, Index: 77, Hashes: hashes, Checkpoint: cosigned}
		got, err := tlog.ParseProof(proof.Marshal())
		if err != nil || !bytes.Equal(got.Marshal(), proof.Marshal()) || (got.Extra == nil) != (extra == nil) {
			t.Fatalf("extra data of %d bytes: %+v (%v)", len(extra), got, err)
		}
		if o, err := got.Verify(tree.entries[77], p); err != nil || o.Checkpoint.Size != 300 {
			t.Errorf("extra data of %d bytes: %v", len(extra), err)
		}
	}
	for name, test := range map[string]struct {
		proof tlog.Proof
		entry []byte
		want  error
	}{
		"another entry":        {tlog.Proof{Index: 77, Hashes: hashes, Checkpoint: cosigned}, tree.entries[78], tlog.ErrProof},
		"another place":        {tlog.Proof{Index: 78, Hashes: hashes, Checkpoint: cosigned}, tree.entries[77], tlog.ErrProof},
		"behind the end":       {tlog.Proof{Index: 300, Hashes: hashes, Checkpoint: cosigned}, tree.entries[77], tlog.ErrProof},
		"a hash too few":       {tlog.Proof{Index: 77, Hashes: hashes[1:], Checkpoint: cosigned}, tree.entries[77], tlog.ErrProof},
		"no quorum":            {tlog.Proof{Index: 77, Hashes: hashes, Checkpoint: signed}, tree.entries[77], tlog.ErrQuorum},
		"a log that is not in": {tlog.Proof{Index: 77, Hashes: hashes, Checkpoint: newKey(t, origin).Sign(tree.checkpoint(t, 300))}, tree.entries[77], tlog.ErrSignature},
		"no checkpoint":        {tlog.Proof{Index: 77, Hashes: hashes}, tree.entries[77], tlog.ErrFormat},
	} {
		if _, err := test.proof.Verify(test.entry, p); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
	good := string((&tlog.Proof{Index: 7, Hashes: hashes[:1], Checkpoint: signed}).Marshal())
	for _, text := range []string{
		"", "c2sp.org/tlog-proof@v2\n", strings.Replace(good, "index 7", "index 07", 1), strings.Replace(good, "index 7", "extra x\nindex 7", 1),
		strings.Replace(good, "index 7", "extra eA==\nextra eA==\nindex 7", 1), strings.Replace(good, "index 7", "index", 1), good[:60],
	} {
		if _, err := tlog.ParseProof([]byte(text)); !errors.Is(err, tlog.ErrFormat) {
			t.Errorf("%.80q: %v", text, err)
		}
	}
}

// TestProve joins every size to a tree by its tiles, of which one that is changed is noticed.
func TestProve(t *testing.T) {
	const size = 700
	whole := newTree(t, size, "")
	c := whole.checkpoint(t, size)
	read := func(tile tlog.Tile) ([]byte, error) { return xtlog.ReadTileData(tile, whole) }
	for _, n := range []uint64{1, 2, 255, 256, 257, 511, 512, 513, 699, 700} {
		root, proof, err := tlog.Prove(c, n, read)
		if err != nil || root != whole.checkpoint(t, n).Root {
			t.Fatalf("%d entries: %v, %v", n, root, err)
		}
		if err := tlog.CheckConsistency(whole.checkpoint(t, n), c, proof); err != nil {
			t.Error(err)
		}
		if n == size {
			continue
		}
		_, _, err = tlog.Prove(c, n, func(tile tlog.Tile) ([]byte, error) {
			content, err := read(tile)
			content[0] ^= 1
			return content, err
		})
		if !errors.Is(err, tlog.ErrProof) {
			t.Errorf("%d entries, changed tiles: %v", n, err)
		}
		if _, _, err := tlog.Prove(c, n, func(tlog.Tile) ([]byte, error) { return nil, io.EOF }); !errors.Is(err, io.EOF) {
			t.Errorf("%d entries, no tiles: %v", n, err)
		}
	}
	for _, n := range []uint64{0, size + 1} {
		if _, _, err := tlog.Prove(c, n, read); !errors.Is(err, tlog.ErrProof) {
			t.Errorf("%d entries: %v", n, err)
		}
	}
}

// TestEveryFlippedBit has nobody change a proof without being noticed, but for its extra data.
func TestEveryFlippedBit(t *testing.T) {
	log, witness := newKey(t, origin), newKey(t, "witness.example")
	p := policyOf(t, log, []*tlog.Key{witness}, "quorum w0")
	tree := newTree(t, 20, "")
	signed := log.Sign(tree.checkpoint(t, 20))
	hashes, err := xtlog.ProveRecord(20, 7, tree)
	if err != nil {
		t.Fatal(err)
	}
	good := (&tlog.Proof{Index: 7, Hashes: hashes, Checkpoint: append(bytes.Clone(signed), witness.Cosign(signed, time.Unix(1000, 0))...)}).Marshal()
	random := rand.New(rand.NewPCG(1, 2))
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 1 << random.IntN(8)
		proof, err := tlog.ParseProof(bad)
		if err != nil {
			continue
		}
		if unused := i+1 < len(good) && good[i+1] == '='; unused {
			continue // base64 has bits there that golang.org/x/mod does not look at
		}
		if _, err := proof.Verify(tree.entries[7], p); err == nil {
			t.Errorf("with byte %d, %q, changed to %q the proof holds", i, good[i], bad[i])
		}
	}
}

// FuzzFormats has every parser read anything: what it accepts is written in one way only.
func FuzzFormats(f *testing.F) {
	log, witness := newKey(f, origin), newKey(f, "witness.example")
	signed := log.Sign(newTree(f, 3, "").checkpoint(f, 3))
	f.Add([]byte("tile/0/x001/234.p/7"))
	f.Add([]byte(newTree(f, 3, "").checkpoint(f, 3).Text()))
	f.Add(tlog.AppendEntry(nil, []byte("entry")))
	f.Add((&tlog.Submission{Old: 2, Proof: []tlog.Hash{{1}}, Checkpoint: signed}).Marshal())
	f.Add((&tlog.Proof{Extra: []byte("x"), Index: 2, Hashes: []tlog.Hash{{1}}, Checkpoint: signed}).Marshal())
	f.Add(fmt.Appendf(nil, "log %s https://x\nwitness w %s\ngroup g 1 w\nquorum g", log.Log(), witness.Witness()))
	f.Add([]byte(log.Log().String()))
	f.Add(witness.Cosign(signed, time.Unix(1000, 0)))
	f.Add([]byte("17\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(what string, got []byte) {
			if !bytes.Equal(got, b) {
				t.Errorf("%s %q is written %q", what, b, got)
			}
		}
		if tile, err := tlog.ParsePath(string(b)); err == nil {
			same("path", []byte(tlog.Path(tile)))
		}
		if s, err := tlog.ParseSubmission(b); err == nil {
			same("submission", s.Marshal())
		}
		if p, err := tlog.ParseProof(b); err == nil {
			same("proof", p.Marshal())
		}
		if n, err := tlog.ParseSize(b); err == nil {
			same("size", tlog.FormatSize(n))
		}
		if k, err := tlog.ParseLogKey(string(b)); err == nil {
			same("key", []byte(k.String()))
		}
		if c, err := tlog.ParseCheckpoint(string(b)); err == nil && !strings.HasPrefix(string(b), c.Text()) {
			t.Errorf("checkpoint %q is written %q", b, c.Text())
		}
		if entries, err := tlog.ParseBundle(b, 1); err == nil {
			same("bundle", tlog.AppendEntry(nil, entries[0]))
		}
		if p, err := tlog.ParsePolicy(b); err == nil {
			if _, err := p.Open(b); err == nil {
				t.Error("a policy is a checkpoint")
			}
		}
		tlog.ParseCosignatures(signed, b, witness.Witness())
		tlog.Open(b, log.Log())
	})
}

// TestVectors reads what github.com/transparency-dev/formats and golang.org/x/mod have written.
func TestVectors(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	p, err := tlog.ParsePolicy(read("policy"))
	if err != nil {
		t.Fatal(err)
	}
	proof, err := tlog.ParseProof(read("entry.tlog-proof"))
	if err != nil {
		t.Fatal(err)
	}
	if o, err := proof.Verify(read("entry"), p); err != nil || o.Checkpoint.Size != 300 || o.Quorum(1_700_000_000) != nil {
		t.Errorf("got %+v (%v)", o, err)
	}
}

// TestOpened tells how old a quorum is, and who has signed twice.
func TestOpened(t *testing.T) {
	log := newKey(t, origin)
	keys := []*tlog.Key{newKey(t, "a.example"), newKey(t, "b.example"), newKey(t, "c.example")}
	signed := log.Sign(newTree(t, 3, "").checkpoint(t, 3))
	cosigned := bytes.Clone(signed)
	for i, key := range keys {
		cosigned = append(cosigned, key.Cosign(signed, time.Unix([]int64{3000, 1000, 2000}[i], 0))...)
	}
	for lines, want := range map[string]uint64{
		"quorum none":                              0,
		"quorum w0":                                3000,
		"group g any w0 w1 w2\nquorum g":           3000,
		"group g 2 w0 w1 w2\nquorum g":             2000,
		"group g all w0 w1 w2\nquorum g":           1000,
		"group g any w1\nquorum g":                 1000,
		"group g 1 w2\ngroup h all g w0\nquorum h": 2000,
	} {
		o, err := policyOf(t, log, keys, lines).Open(cosigned)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.CosignedSince(); got != want || o.Quorum(want) != nil || want > 0 && o.Quorum(want+1) == nil {
			t.Errorf("%q: cosigned since %d, expected %d", lines, got, want)
		}
		if err := o.SignedOnce(); err != nil {
			t.Errorf("%q: %v", lines, err)
		}
	}
	p := policyOf(t, log, keys, "quorum none")
	unknown := newKey(t, "a.example").Cosign(signed, time.Unix(1, 0))
	for _, test := range []struct {
		about string
		more  []byte
		once  bool
	}{
		{"by one whom the policy does not name", append(bytes.Clone(unknown), unknown...), true},
		{"by a witness", keys[0].Cosign(signed, time.Unix(3001, 0)), false},
		{"by the log", signed[bytes.LastIndexByte(signed[:len(signed)-1], '\n')+1:], false},
	} {
		o, err := p.Open(append(bytes.Clone(cosigned), test.more...))
		if err != nil {
			t.Fatalf("again %s: %v", test.about, err)
		}
		if err := o.SignedOnce(); (err == nil) != test.once {
			t.Errorf("again %s: %v", test.about, err)
		}
	}
	// Another last digit of base64, whose bits are not used.
	last := bytes.LastIndexByte(cosigned, '=') - 2
	if cosigned[last+1] != '=' || cosigned[last] == 'B' {
		t.Fatalf("the last signature ends in %q", cosigned[last:])
	}
	cosigned[last]++
	if _, err := p.Open(cosigned); !errors.Is(err, tlog.ErrFormat) {
		t.Errorf("bits that are not used: %v", err)
	}
	late := keys[0].Cosign(signed, time.Unix(1<<62, 0))
	if _, err := p.Open(append(bytes.Clone(signed), late...)); err != nil {
		t.Errorf("a time that is late: %v", err)
	}
}
