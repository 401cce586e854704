package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"github.com/klauspost/compress/zstd"

	"github.com/keytree-bch/keytree/graph"
	"github.com/keytree-bch/keytree/protocol"
)

// hostile is a snapshot whose second block begins with what is written, which goes on for long.
func hostile(t *testing.T, write func(w io.Writer)) []byte {
	t.Helper()
	file := bytes.NewBufferString(magic)
	packer, err := zstd.NewWriter(file)
	if err != nil {
		t.Fatal(err)
	}
	net := &chaincfg.RegressionNetParams
	head := append([]byte{byte(len(net.Name))}, net.Name...)
	head = append(head, protocol.RulesVersion)
	head = append(head, make([]byte, 4+32)...)
	head = binary.LittleEndian.AppendUint32(head, 1000)
	head = append(head, make([]byte, 3*32+4)...)
	genesis := serialized(&protocol.Header{
		Version: net.GenesisBlock.Header.Version, MerkleRoot: net.GenesisBlock.Header.MerkleRoot,
		Time: uint32(net.GenesisBlock.Header.Timestamp.Unix()), Bits: net.GenesisBlock.Header.Bits, Nonce: net.GenesisBlock.Header.Nonce,
	})
	head = append(append(head, genesis[:4]...), genesis[36:]...)
	packer.Write(head)
	write(packer)
	if err := packer.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(file.Bytes())
	return append(file.Bytes(), sum[:]...)
}

// TestHostile reads snapshots of a few kilobytes that unpack to much.
func TestHostile(t *testing.T) {
	const memory = 32 << 20
	many := binary.AppendUvarint(nil, 1<<62)
	zeros := make([]byte, protocol.MaxTxSize)
	tx := func(flags byte) []byte {
		b := binary.AppendUvarint([]byte{0, flags}, uint64(len(zeros)))
		return append(b, zeros...)
	}
	for _, test := range []struct {
		name  string
		write func(w io.Writer)
		want  error
	}{
		{"large transactions", func(w io.Writer) {
			w.Write(many)
			for range 10 {
				w.Write(tx(0))
			}
		}, graph.ErrMemory},
		{"small transactions", func(w io.Writer) {
			w.Write(many)
			w.Write(bytes.Repeat([]byte{0, 0, 0}, 100_000))
		}, graph.ErrMemory},
		{"spent outputs", func(w io.Writer) {
			w.Write(binary.AppendUvarint(nil, 1000))
			for range 10 {
				w.Write(tx(flagActed | flagSpent))
				w.Write(binary.AppendUvarint(nil, 20_000))
				w.Write(bytes.Repeat(append(append(make([]byte, 8), 100), make([]byte, 100)...), 20_000))
			}
		}, graph.ErrMemory},
		{"a transaction too large", func(w io.Writer) {
			w.Write(binary.AppendUvarint([]byte{1, 0, 0}, protocol.MaxTxSize+1))
		}, ErrRefused},
		{"a gap too large", func(w io.Writer) {
			w.Write(binary.AppendUvarint([]byte{1}, 1<<32))
		}, ErrRefused},
		{"flags that nobody knows", func(w io.Writer) { w.Write([]byte{1, 0, 8, 0}) }, ErrRefused},
		{"outputs without an author", func(w io.Writer) { w.Write([]byte{1, 0, flagSpent, 0}) }, ErrRefused},
		{"a number that could be shorter", func(w io.Writer) { w.Write([]byte{0x80, 0}) }, ErrRefused},
		{"a number without an end", func(w io.Writer) { w.Write(bytes.Repeat([]byte{0xff}, 100)) }, ErrRefused},
		{"the end", func(w io.Writer) {}, ErrRefused},
	} {
		t.Run(test.name, func(t *testing.T) {
			file := hostile(t, test.write)
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			r, err := NewReader(bytes.NewReader(file), int64(len(file)), memory)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err = r.Next(); !errors.Is(err, test.want) {
				t.Errorf("%v, expected %v", err, test.want)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > memory {
				t.Errorf("%d bytes of %d hold %d of memory", len(file), memory, held)
			}
			t.Logf("%d bytes: %v", len(file), err)
		})
	}
}
