package linkcheck_test

import (
	"testing"

	"github.com/gcash/bchd/chaincfg"
	"github.com/gcash/bchd/chaincfg/chainhash"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/client/linkcheck"
)

// TestExpect tells what would become of actions, and whom they are about.
func TestExpect(t *testing.T) {
	author := protocol.KeyHash{1}
	child := protocol.FormatAddress(protocol.KeyHash{2}, &chaincfg.RegressionNetParams)
	own := protocol.FormatAddress(author, &chaincfg.RegressionNetParams)
	request := &client.Action{Kind: "MLR", State: "OPEN", ParentAddress: own, ChildAddress: child, Message: "memo.cash"}
	accept := &client.Action{Kind: "MLA", State: "IN_FORCE", AuthorAddress: own, ChildAddress: child, Message: "welcome"}
	used := &client.Action{Kind: "MLR", State: "USED", ParentAddress: own, ChildAddress: child}
	for name, test := range map[string]struct {
		kind protocol.Kind
		to   protocol.KeyHash
		ref  *client.Action
		want linkcheck.Expected
	}{
		"a request":    {protocol.MLR, protocol.KeyHash{2}, nil, linkcheck.Expected{State: "OPEN", Counterpart: child}},
		"to itself":    {protocol.MLR, author, nil, linkcheck.Expected{State: "SELF_LINK", Counterpart: own}},
		"an accept":    {protocol.MLA, protocol.KeyHash{}, request, linkcheck.Expected{State: "IN_FORCE", Counterpart: child, Message: "memo.cash"}},
		"a second one": {protocol.MLA, protocol.KeyHash{}, used, linkcheck.Expected{State: "REQUEST_USED", Counterpart: child}},
		"a revoke":     {protocol.MCR, protocol.KeyHash{}, accept, linkcheck.Expected{State: "DONE", Counterpart: child}},
		"of a request": {protocol.MCR, protocol.KeyHash{}, request, linkcheck.Expected{State: "WRONG_KIND", Counterpart: child}},
		"of nothing":   {protocol.MCR, protocol.KeyHash{}, nil, linkcheck.Expected{}},
	} {
		s := &server{action: test.ref}
		s.status.Network, s.status.Synced = "regtest", true
		c := &linkcheck.Checker{Server: s, Name: "a server", Network: &chaincfg.RegressionNetParams, Note: func(string) {}}
		got, err := c.Expect(t.Context(), linkcheck.Action{Kind: test.kind, Author: author, Parent: test.to, Ref: chainhash.Hash{7}})
		if got != test.want {
			t.Errorf("%s: got %+v (%v), want %+v", name, got, err, test.want)
		}
	}
}
