package indexer

import (
	"strings"
	"testing"
	"time"

	"github.com/gcash/bchd/chaincfg"

	"github.com/keytree-bch/keytree/indexer/node"
)

// TestStatusAges looks at what becomes of a status when nothing is heard any more.
func TestStatusAges(t *testing.T) {
	heard := time.Unix(1_700_000_000, 0)
	synced := Status{NodeHeight: 7, NodeAnswered: heard, Checked: true, Synced: true}
	behind := Status{NodeHeight: 7, NodeAnswered: heard, Checked: true, Reason: "catching up"}
	for name, test := range map[string]struct {
		status Status
		after  time.Duration // the node was heard
		tip    time.Duration // the tip's time, before it was heard; 0: does not matter
		synced bool
		reason string
	}{
		"just now":                           {synced, 0, 0, true, ""},
		"a moment ago":                       {synced, silence, 0, true, ""},
		"too long ago":                       {synced, silence + time.Second, 0, false, "not answered for 16s"},
		"not synced, and silent":             {behind, time.Hour, 0, false, "catching up"},
		"an old block":                       {synced, 0, maxTipAge, true, ""},
		"too old a block":                    {synced, time.Second, maxTipAge, false, "24h0m0s old"},
		"a block from the future":            {synced, 0, -time.Hour, true, ""},
		"silent, and the last block was old": {synced, time.Minute, maxTipAge, false, "not answered"},
	} {
		t.Run(name, func(t *testing.T) {
			var tipTime time.Time
			if test.tip != 0 {
				tipTime = heard.Add(-test.tip)
			}
			got := test.status.at(heard.Add(test.after), tipTime)
			if got.Synced != test.synced || !strings.Contains(got.Reason, test.reason) || got.Synced != (got.Reason == "") {
				t.Errorf("%+v, want synced %v, reason %q", got, test.synced, test.reason)
			}
		})
	}
}

// TestUnsynced looks at what a node says of itself when the graph ends with its tip.
func TestUnsynced(t *testing.T) {
	for name, test := range map[string]struct {
		ends   bool
		node   node.Tip
		net    *chaincfg.Params
		reason string // "" if it is synced
	}{
		"with peers":                 {true, node.Tip{Peers: 8}, &chaincfg.MainNetParams, ""},
		"one that does not tell":     {true, node.Tip{Peers: node.Untold}, &chaincfg.MainNetParams, ""},
		"alone":                      {true, node.Tip{Peers: 0}, &chaincfg.MainNetParams, "no other node"},
		"alone on a test network":    {true, node.Tip{Peers: 0}, &chaincfg.TestNet4Params, "no other node"},
		"alone on a private network": {true, node.Tip{Peers: 0}, &chaincfg.RegressionNetParams, ""},
		"downloading":                {true, node.Tip{Peers: 8, Height: 5, Headers: 9, Downloading: true}, &chaincfg.MainNetParams, "headers up to 9"},
		"ahead":                      {false, node.Tip{Peers: 8, Height: 5}, &chaincfg.MainNetParams, "catching up"},
	} {
		if got := unsynced(test.ends, test.node, test.net); (got == "") != (test.reason == "") || !strings.Contains(got, test.reason) {
			t.Errorf("%s: %q, want %q", name, got, test.reason)
		}
	}
}
