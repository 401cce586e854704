package client

import (
	"errors"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/protocol"
	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

func TestParse(t *testing.T) {
	for address, want := range map[string]struct {
		hostPort string
		secure   bool
	}{
		"keys.example.org:8434":         {"keys.example.org:8434", true},
		"https://keys.example.org:8434": {"keys.example.org:8434", true},
		"http://keys.example.org:8434":  {"keys.example.org:8434", false},
		"192.0.2.1:8434":                {"192.0.2.1:8434", true},
		"[2001:db8::1]:8434":            {"[2001:db8::1]:8434", true},
		"localhost.example.org:8434":    {"localhost.example.org:8434", true},
		"127.0.0.1.example.org:8434":    {"127.0.0.1.example.org:8434", true},
		"0.0.0.0:8434":                  {"0.0.0.0:8434", true},
		"127.0.0.1:8434":                {"127.0.0.1:8434", false},
		"127.1.2.3:8434":                {"127.1.2.3:8434", false},
		"[::1]:8434":                    {"[::1]:8434", false},
		"Localhost:8434":                {"Localhost:8434", false},
		"https://127.0.0.1:8434":        {"127.0.0.1:8434", true},

		"":                           {},
		"keys.example.org":           {},
		":8434":                      {},
		"keys.example.org:":          {},
		"https://keys.example.org":   {},
		"https://http://a:1":         {},
		"http://https://a:1":         {},
		"https://a:1/path":           {},
		"dns:///keys.example.org:84": {},
	} {
		hostPort, secure, err := parse(address)
		if hostPort != want.hostPort || secure != want.secure || (err == nil) != (want.hostPort != "") {
			t.Errorf("%q: %q, TLS %v, %v; want %q, %v", address, hostPort, secure, err, want.hostPort, want.secure)
		}
		if err != nil && !strings.Contains(err.Error(), "expected HOST:PORT") {
			t.Errorf("%q: %v", address, err)
		}
	}
}

// TestCheck changes each part of a proof that holds.
func TestCheck(t *testing.T) {
	c := &rpctest.Chain{}
	txs := []rpctest.AnchorTx{rpctest.AnchorOf(t, "a", rpctest.Record("example.org", 1)), rpctest.AnchorOf(t, "b", rpctest.Record("example.org", 2))}
	block := c.Anchored(t, nil, txs...)
	proven := func() *proof.BundleItem {
		tx := block.Anchors.Txs[0]
		branch, err := block.Anchors.Merkle.Branch(tx.Index)
		if err != nil {
			t.Fatal(err)
		}
		return &proof.BundleItem{Height: block.Height, Header: block.Anchors.Header, Index: tx.Index, Branch: branch, Raw: append([]byte(nil), tx.Raw...)}
	}
	if err := check(proven(), rpctest.Net); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*proof.BundleItem){
		"transaction": func(it *proof.BundleItem) { it.Raw[len(it.Raw)-5]++ },
		"index":       func(it *proof.BundleItem) { it.Index++ },
		"branch":      func(it *proof.BundleItem) { it.Branch[0][0]++ },
		"root":        func(it *proof.BundleItem) { it.Header[40]++ },
		"work":        func(it *proof.BundleItem) { it.Header[protocol.HeaderSize-5] = 0x1d }, // of its target
	} {
		it := proven()
		if change(it); !errors.Is(check(it, rpctest.Net), ErrProof) {
			t.Errorf("%s: %v, want ErrProof", name, check(it, rpctest.Net))
		}
	}
}
