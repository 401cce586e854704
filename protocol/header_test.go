package protocol

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/gcash/bchd/blockchain"
	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
	"github.com/gcash/bchd/wire"
)

func headerOf(t *testing.T, h *wire.BlockHeader) Header {
	t.Helper()
	var raw bytes.Buffer
	if err := h.Serialize(&raw); err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseHeader(raw.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// Headers of mainnet, by height.
func mainnetHeaders() map[int]string {
	return map[int]string{
		1: "010000006fe28c0ab6f1b372c1a6a246ae63f74f931e8365e15a089c68d6190000000000" +
			"982051fd1e4ba744bbbe680e1fee14677ba1a3c3540bf7b1cdb606e857233e0e61bc6649ffff001d01e36299",
		125552: "0100000081cd02ab7e569e8bcd9317e2fe99f2de44d49ab2b8851ba4a308000000000000" +
			"e320b6c2fffc8d750423db8b1eb942ae710e951ed797f7affc8892b0f1fc122bc7f5d74df2b9441a42a14695",
	}
}

func TestHeader(t *testing.T) {
	for _, tt := range []struct {
		height             int
		version            int32
		hash, prev, merkle string
		time, bits, nonce  uint32
		work               string
		target             string
	}{
		{1, 1, "00000000839a8e6886ab5951d76f411475428afc90947ee320161bbf18eb6048",
			"000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f",
			"0e3e2357e806b6cdb1f70b54c3a3a17b6714ee1f0e68bebb44a74b1efd512098",
			1231469665, 0x1d00ffff, 2573394689, "100010001", "ffff0000000000000000000000000000000000000000000000000000"},
		{125552, 1, "00000000000000001e8d6829a8a21adc5d38d0a473b144b6765798e61f98bd1d",
			"00000000000008a3a41b85b8b29ad444def299fee21793cd8b9e567eab02cd81",
			"2b12fcf1b09288fcaff797d71e950e71ae42b91e8bdb2304758dfcffc2b620e3",
			1305998791, 0x1a44b9f2, 2504433986, "3b9a0c1a7f4cd", "44b9f20000000000000000000000000000000000000000000000"},
	} {
		raw, err := hex.DecodeString(mainnetHeaders()[tt.height])
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHeader(append(raw, 1, 2, 3))
		if err != nil {
			t.Fatal(err)
		}
		if h.Hash.String() != tt.hash || h.PrevBlock.String() != tt.prev || h.MerkleRoot.String() != tt.merkle ||
			h.Version != tt.version || h.Time != tt.time || h.Bits != tt.bits || h.Nonce != tt.nonce {
			t.Errorf("%d: %+v", tt.height, h)
		}
		target, err := h.Target()
		if err != nil || target.Text(16) != tt.target {
			t.Errorf("%d: target %x, %v", tt.height, target, err)
		}
		work, err := h.Work()
		if err != nil || work.Cmp(blockchain.CalcWork(h.Bits)) != 0 || tt.height == 1 && work.Text(16) != tt.work {
			t.Errorf("%d: work %x, %v; bchd has %x", tt.height, work, err, blockchain.CalcWork(h.Bits))
		}
		if err := h.CheckWork(chaincfg.MainNetParams.PowLimit); err != nil {
			t.Errorf("%d: %v", tt.height, err)
		}
		for i := range HeaderSize {
			changed := bytes.Clone(raw)
			changed[i] ^= 1
			if h, _ := ParseHeader(changed); !errors.Is(h.CheckWork(chaincfg.MainNetParams.PowLimit), ErrWork) {
				t.Errorf("%d: with byte %d changed it still carries work", tt.height, i)
			}
		}
	}
	for _, size := range []int{0, 1, 79} {
		if _, err := ParseHeader(make([]byte, size)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestGenesisHeaders(t *testing.T) {
	for _, net := range networks() {
		h := headerOf(t, &net.GenesisBlock.Header)
		if h.Hash != *net.GenesisHash {
			t.Errorf("%s: hash %v, expected %v", net.Name, h.Hash, net.GenesisHash)
		}
		if err := h.CheckWork(net.PowLimit); err != nil {
			t.Errorf("%s: %v", net.Name, err)
		}
		easier := new(big.Int).Rsh(net.PowLimit, 8)
		if err := h.CheckWork(easier); !errors.Is(err, ErrWork) || !strings.Contains(err.Error(), "easier") {
			t.Errorf("%s: with a harder limit: %v", net.Name, err)
		}
	}
}

func TestTarget(t *testing.T) {
	for _, tt := range []struct {
		bits   uint32
		target string // hex; or, after "!", a part of the error
	}{
		{0x1d00ffff, "ffff" + strings.Repeat("00", 26)},
		{0x207fffff, "7fffff" + strings.Repeat("00", 29)},
		{0x05009234, "92340000"},
		{0x04123456, "12345600"},
		{0x03123456, "123456"},
		{0x02123456, "1234"},
		{0x01123456, "12"},
		{0x2100ffff, "ffff" + strings.Repeat("00", 30)}, // exactly 256 bits
		{0x220000ff, "ff" + strings.Repeat("00", 31)},   // exactly 256 bits
		{0x21010000, "!257 bits"},
		{0x22000100, "!257 bits"},
		{0x23000001, "!257 bits"},
		{0xff7fffff, "!bits"},
		{0, "!zero"},
		{0x00123456, "!zero"},
		{0x01003456, "!zero"},
		{0x04800000, "!zero"}, // minus zero
		{0xff000000, "!zero"},
		{0x04923456, "!negative"},
		{0x1d80ffff, "!negative"},
		{0xffffffff, "!negative"},
	} {
		h := Header{Bits: tt.bits}
		target, err := h.Target()
		_, workErr := h.Work()
		if (err == nil) != (workErr == nil) {
			t.Errorf("%08x: Target says %v, Work %v", tt.bits, err, workErr)
		}
		if part, bad := strings.CutPrefix(tt.target, "!"); bad {
			if !errors.Is(err, ErrWork) || !strings.Contains(err.Error(), part) {
				t.Errorf("%08x: error %v, expected ErrWork with %q", tt.bits, err, part)
			}
			if !errors.Is(h.CheckWork(chaincfg.RegressionNetParams.PowLimit), ErrWork) {
				t.Errorf("%08x carries work", tt.bits)
			}
			continue
		}
		if err != nil || target.Text(16) != tt.target {
			t.Errorf("%08x: target %x, %v; expected %s", tt.bits, target, err, tt.target)
			continue
		}
		// A hash that just meets the target, and one above.
		limit := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 256), big.NewInt(1))
		h.Hash = hashOfNumber(target)
		if err := h.CheckWork(limit); err != nil {
			t.Errorf("%08x: %v", tt.bits, err)
		}
		h.Hash = hashOfNumber(new(big.Int).Add(target, big.NewInt(1)))
		if !errors.Is(h.CheckWork(limit), ErrWork) {
			t.Errorf("%08x: a hash above the target carries work", tt.bits)
		}
	}
}

func hashOfNumber(n *big.Int) chainhash.Hash {
	var h [32]byte
	n.FillBytes(h[:])
	return reversed(h)
}
