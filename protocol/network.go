package protocol

import (
	"fmt"
	"strings"

	"github.com/gcash/bchd/chaincfg"
)

// mainnetStart is days before MIP-0003 was created.
const mainnetStart = 547_000

// networks lists the networks that keytree knows.
func networks() []*chaincfg.Params {
	return []*chaincfg.Params{
		&chaincfg.MainNetParams,
		&chaincfg.TestNet3Params,
		&chaincfg.TestNet4Params,
		&chaincfg.ChipNetParams,
		&chaincfg.RegressionNetParams,
	}
}

// Network returns the parameters of the network called name: mainnet, testnet3,
// testnet4, chipnet or regtest, exactly as in chaincfg.Params.Name. The error
// for any other name lists the allowed ones.
func Network(name string) (*chaincfg.Params, error) {
	var known []string
	for _, net := range networks() {
		if net.Name == name {
			return net, nil
		}
		known = append(known, net.Name)
	}
	return nil, fmt.Errorf("unknown network %.40q: expected one of %s", name, strings.Join(known, ", "))
}

// StartHeight returns the height of the first block that an index of net
// applies (protocol/SPEC.md §9). Indexers that start elsewhere cannot agree on a
// state hash.
func StartHeight(net *chaincfg.Params) uint32 {
	if net.Net == chaincfg.MainNetParams.Net {
		return mainnetStart
	}
	return 0
}
