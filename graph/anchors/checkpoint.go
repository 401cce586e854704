package anchors

import (
	"bufio"
	"encoding/binary"
	"io"

	"github.com/gcash/bchd/chaincfg/chainhash"
)

// CheckpointSize is how many bytes WriteCheckpoint writes.
func (s *State) CheckpointSize() int { return 4 + chainhash.HashSize*int(s.batons.Len()) }

// WriteCheckpoint writes the state: how many batons there are, in big-endian, and the txids.
func (s *State) WriteCheckpoint(w *bufio.Writer) error {
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(s.batons.Len()))); err != nil {
		return err
	}
	for n := range s.batons.Len() {
		if _, err := w.Write(s.batons.Ref(n)[:]); err != nil {
			return err
		}
	}
	return nil
}

// ReadCheckpoint reads what WriteCheckpoint wrote into a state that was new.
func (s *State) ReadCheckpoint(r *bufio.Reader) error {
	var count [4]byte
	if _, err := io.ReadFull(r, count[:]); err != nil {
		return err
	}
	for range binary.BigEndian.Uint32(count[:]) {
		var txid chainhash.Hash
		if _, err := io.ReadFull(r, txid[:]); err != nil {
			return err
		}
		s.batons.Add(txid)
	}
	return nil
}
