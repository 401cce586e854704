package proof_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/gcash/bchd/chaincfg/chainhash"
	"pgregory.net/rapid"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
)

func drawItem(t *rapid.T) *proof.BundleItem {
	it := &proof.BundleItem{
		Height: rapid.Uint32().Draw(t, "height"),
		Index:  rapid.Uint32().Draw(t, "index"),
		Raw:    rapid.SliceOfN(rapid.Byte(), protocol.MinTxSize, 300).Draw(t, "raw"),
		Branch: []chainhash.Hash{},
	}
	copy(it.Header[:], rapid.SliceOfN(rapid.Byte(), protocol.HeaderSize, protocol.HeaderSize).Draw(t, "header"))
	for range rapid.IntRange(0, protocol.MaxBranch).Draw(t, "hashes") {
		it.Branch = append(it.Branch, chainhash.Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash")))
	}
	return it
}

func write(t rapid.TB, h proof.BundleHeader, items []*proof.BundleItem) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := proof.NewBundleWriter(&out, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range items {
		if err := w.Write(it); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func read(in io.Reader) (h proof.BundleHeader, items []*proof.BundleItem, err error) {
	r, err := proof.NewBundleReader(in)
	if err != nil {
		return h, nil, err
	}
	for it, err := range r.Items() {
		if err != nil {
			return r.BundleHeader, items, err
		}
		items = append(items, it)
	}
	return r.BundleHeader, items, nil
}

func same(a, b *proof.BundleItem) bool {
	if len(a.Branch) != len(b.Branch) {
		return false
	}
	for i := range a.Branch {
		if a.Branch[i] != b.Branch[i] {
			return false
		}
	}
	return a.Height == b.Height && a.Header == b.Header && a.Index == b.Index && bytes.Equal(a.Raw, b.Raw)
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := proof.BundleHeader{
			Network: rapid.StringN(1, -1, 32).Draw(t, "network"),
			Chain:   chainhash.Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "chain")),
			First:   rapid.Uint32().Draw(t, "first"),
		}
		var items []*proof.BundleItem
		for range rapid.IntRange(0, 4).Draw(t, "items") {
			items = append(items, drawItem(t))
		}
		gotHeader, got, err := read(iotest.OneByteReader(bytes.NewReader(write(t, h, items))))
		if err != nil || gotHeader != h || len(got) != len(items) {
			t.Fatalf("read %+v with %d items, %v: expected %+v with %d", gotHeader, len(got), err, h, len(items))
		}
		for i := range got {
			if !same(got[i], items[i]) {
				t.Fatalf("item %d: read %+v, expected %+v", i, got[i], items[i])
			}
		}
	})
}

// sample is a small bundle.
func sample(t *testing.T) []byte {
	t.Helper()
	items := []*proof.BundleItem{
		{Height: 1, Index: 1, Branch: make([]chainhash.Hash, 2), Raw: bytes.Repeat([]byte{7}, 70)},
		{Height: 2, Branch: []chainhash.Hash{}, Raw: bytes.Repeat([]byte{8}, 200)},
	}
	return write(t, proof.BundleHeader{Network: "regtest", Chain: chainhash.Hash{1, 2, 3}}, items)
}

func TestABundleThatEndsAtAnyByteIsCutShort(t *testing.T) {
	whole := sample(t)
	for end := range whole {
		if _, _, err := read(bytes.NewReader(whole[:end])); !errors.Is(err, proof.ErrTruncated) {
			t.Errorf("%d of %d bytes: got %v, expected %v", end, len(whole), err, proof.ErrTruncated)
		}
	}
}

func TestAChangedByteIsNoticed(t *testing.T) {
	whole := sample(t)
	for at := range whole {
		for bit := range 8 {
			changed := bytes.Clone(whole)
			changed[at] ^= 1 << bit
			if _, _, err := read(bytes.NewReader(changed)); err == nil {
				t.Errorf("bit %d of byte %d changed: no error", bit, at)
			}
		}
	}
	if _, _, err := read(bytes.NewReader(append(bytes.Clone(whole), 0))); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("a byte behind the trailer: got %v, expected %v", err, proof.ErrFormat)
	}
}

func TestAFailingReaderIsNamed(t *testing.T) {
	whole, cause := sample(t), errors.New("the disk fell out")
	for end := range whole {
		in := io.MultiReader(bytes.NewReader(whole[:end]), iotest.ErrReader(cause))
		if _, _, err := read(in); !errors.Is(err, cause) || errors.Is(err, proof.ErrTruncated) {
			t.Errorf("failing at byte %d: got %v, expected %v", end, err, cause)
		}
	}
}

func TestWhatCannotBeInABundleIsRefused(t *testing.T) {
	raw := make([]byte, 100)
	for name, it := range map[string]*proof.BundleItem{
		"long branch":       {Raw: raw, Branch: make([]chainhash.Hash, protocol.MaxBranch+1)},
		"small transaction": {Raw: raw[:protocol.MinTxSize-1]},
		"large transaction": {Raw: make([]byte, protocol.MaxTxSize+1)},
	} {
		var out bytes.Buffer
		w, err := proof.NewBundleWriter(&out, proof.BundleHeader{Network: "regtest"})
		if err != nil {
			t.Fatal(err)
		}
		before := out.Len()
		if err := w.Write(it); !errors.Is(err, proof.ErrFormat) || out.Len() != before {
			t.Errorf("%s: got %v, %d bytes written, expected %v and none", name, err, out.Len()-before, proof.ErrFormat)
		}
	}
	for _, network := range []string{"", string(make([]byte, 33))} {
		if _, err := proof.NewBundleWriter(io.Discard, proof.BundleHeader{Network: network}); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("network of %d bytes: got %v, expected %v", len(network), err, proof.ErrFormat)
		}
	}
}

func TestItemsOneBehindTheOther(t *testing.T) {
	_, items, err := read(bytes.NewReader(sample(t)))
	if err != nil {
		t.Fatal(err)
	}
	var file []byte
	for _, it := range items {
		if file, err = it.Append(file); err != nil {
			t.Fatal(err)
		}
	}
	in := bufio.NewReader(bytes.NewReader(file))
	for i, want := range items {
		if got, err := proof.ReadBundleItem(in); err != nil || !same(got, want) {
			t.Fatalf("item %d: got %+v, %v", i, got, err)
		}
	}
	if _, err := proof.ReadBundleItem(in); err != io.EOF {
		t.Errorf("behind the last item: got %v, expected %v", err, io.EOF)
	}
	if _, err := proof.ReadBundleItem(bufio.NewReader(bytes.NewReader(file[:50]))); !errors.Is(err, proof.ErrTruncated) {
		t.Errorf("half an item: got %v, expected %v", err, proof.ErrTruncated)
	}
}

// TestCopyBundle copies a bundle, and says of a torn one that it is.
func TestCopyBundle(t *testing.T) {
	var whole bytes.Buffer
	w, err := proof.NewBundleWriter(&whole, proof.BundleHeader{Network: "regtest"})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Write(&proof.BundleItem{Raw: make([]byte, protocol.MinTxSize)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if n, err := proof.CopyBundle(&out, bytes.NewReader(whole.Bytes())); n != 2 || err != nil || !bytes.Equal(out.Bytes(), whole.Bytes()) {
		t.Errorf("%d items of 2 were copied, %d bytes of %d (%v)", n, out.Len(), whole.Len(), err)
	}
	for _, size := range []int{0, 10, whole.Len() - 1} {
		if _, err := proof.CopyBundle(io.Discard, bytes.NewReader(whole.Bytes()[:size])); !errors.Is(err, proof.ErrTruncated) {
			t.Errorf("%d bytes of it: got %v, want %v", size, err, proof.ErrTruncated)
		}
	}
}
