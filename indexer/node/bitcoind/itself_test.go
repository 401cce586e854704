package bitcoind_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/indexer/node"
)

// TestNodeTellsOfItself asks nodes what they call themselves and how many peers they have,
// of which some tell nothing.
func TestNodeTellsOfItself(t *testing.T) {
	const version = "/Bitcoin Cash Node:28.0.1(EB32.0)/"
	for name, test := range map[string]struct {
		calls    string // what it calls itself
		refuses  []string
		wantName string
		peers    int
	}{
		"all":                {version, nil, version, 3},
		"peers alone":        {version, []string{"getnetworkinfo"}, "", 3},
		"nothing":            {version, []string{"getnetworkinfo", "getconnectioncount"}, "", node.Untold},
		"too long a version": {strings.Repeat("ä", node.MaxVersion), nil, strings.Repeat("ä", node.MaxVersion/2), 3},
	} {
		t.Run(name, func(t *testing.T) {
			n := newBCHN(t)
			n.set(func() {
				n.peers, n.version = 3, test.calls
				n.instead = func(w http.ResponseWriter, question string) bool {
					method, _, _ := strings.Cut(question, " ")
					refused := slices.Contains(test.refuses, method)
					if refused {
						w.WriteHeader(http.StatusNotFound)
					}
					return refused
				}
			})
			tip := must[node.Tip](t)(dial(t, n.config()).Tip(t.Context()))
			if tip.Version != test.wantName || tip.Peers != test.peers {
				t.Errorf("%q with %d peers, want %q with %d", tip.Version, tip.Peers, test.wantName, test.peers)
			}
		})
	}
}
