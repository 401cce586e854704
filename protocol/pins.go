package protocol

import (
	"math"
	"slices"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"
)

// A pin is a block of a network that is known beforehand: a checkpoint (chaincfg), or
// the genesis block. Other coins share the first blocks of a network, and its pins
// tell them apart: on mainnet the last is the first block that is not eCash's.

// LastPin returns the height of the last pin of net.
func LastPin(net *chaincfg.Params) uint32 {
	height, _ := PinBelow(net, math.MaxUint32)
	return height
}

// PinBelow returns the last pin of net at or below a height.
func PinBelow(net *chaincfg.Params, height uint32) (uint32, chainhash.Hash) {
	for _, c := range slices.Backward(net.Checkpoints) {
		if int64(c.Height) <= int64(height) {
			return uint32(c.Height), *c.Hash
		}
	}
	return 0, *net.GenesisHash
}

// ProvenHeight returns up to which height a chain that ends at tip, and that
// HeaderChain has taken from the genesis block or a pin on, is the network's and no
// other coin's: tip if the chain gets to the last pin, else the last pin at or below
// tip. The next pin shows whose the blocks behind that are.
func ProvenHeight(net *chaincfg.Params, tip uint32) uint32 {
	if tip >= LastPin(net) {
		return tip
	}
	height, _ := PinBelow(net, tip)
	return height
}
