package main

import (
	"os"
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestUnconfirmed asks a server to which a cut and a new link are pending with every command that can ask
// for that.
func TestUnconfirmed(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	ask := func(args ...string) string {
		t.Helper()
		return mustKeytree(t, append(args, "--unconfirmed", "--server", r.Conn.Target())...)
	}
	child, grandchild, parent, lone := rpctest.Address("child"), rpctest.Address("grandchild"), rpctest.Address("parent"), rpctest.Address("lone")
	id := rpctest.HashOf("mlr1").String()
	for _, args := range [][]string{{"resolve", child}, {"tree", child}, {"history", child}, {"history", id}} {
		wantParts(t, ask(args...), "unconfirmed: not known: the node's mempool is not known")
	}
	wantParts(t, keytree(t, "resolve", child, lone, "--unconfirmed", "--server", r.Conn.Target()).stderr, "what is unconfirmed is not known: ")

	cut, request, accept := rpctest.HashOf("cut").String(), rpctest.HashOf("request").String(), rpctest.HashOf("accept").String()
	r.Suppose(t, "cut", nil, rpctest.MCR("cut", "parent", "mla3"), rpctest.MLR("request", "lone", "child", ""), rpctest.MLA("accept", "child", "request"))
	wantParts(t, ask("resolve", grandchild), "main address  "+parent, "unconfirmed: if it were in block 7, because of\n  "+cut+"  DOUBLE SPEND\n", "identity      "+cut, "main address  "+child)
	wantParts(t, ask("resolve", rpctest.Address("stranger")), "unconfirmed: nothing would differ in block 7")
	wantParts(t, ask("resolve", parent, lone), "\n  unconfirmed ", child+"  1      "+cut)
	wantParts(t, ask("resolve", lone, "--json"), `"unconfirmed":{"available":true,`, `"main_address":"`+child+`"`)
	wantParts(t, ask("tree", id), "3 keys, as of block 6", cut+"  DOUBLE SPEND", "1 key, main address "+parent, child+" would have no parent, as identity "+cut)
	wantParts(t, ask("tree", lone), "never linked", request, accept, "child of      "+child)
	wantParts(t, ask("tree", cut), "identity "+cut, lone+" would be below "+child+", in identity "+cut)
	wantParts(t, ask("history", lone), "0 actions as of block 6", "7  MLR  "+request, "USED by "+accept, "7  MLA  "+accept)
	wantParts(t, ask("history", id), "7  MCR  "+cut, "CUT by "+cut)
	if out := mustKeytree(t, "resolve", grandchild, "--server", r.Conn.Target()); strings.Contains(out, "unconfirmed") {
		t.Errorf("nobody asked: %s", out)
	}

	watching, asJSON := startProgram(t, nil, "watch", "--unconfirmed", "--server", r.Conn.Target()), startProgram(t, nil, "watch", "--unconfirmed", "--json", "--server", r.Conn.Target())
	watching.await(&watching.stdout, "? MCR  DONE by "+parent+" child "+child+" parent "+parent+", tx "+cut+"  DOUBLE SPEND\n")
	asJSON.await(&asJSON.stdout, `{"transaction":{"tx_hash":"`+accept)
	r.Suppose(t, "", nil, rpctest.MLR("request", "lone", "child", ""), rpctest.MLA("accept", "child", "request"))
	watching.await(&watching.stdout, "? dropped, tx "+cut)
	asJSON.await(&asJSON.stdout, `{"dropped":"`+cut+`"}`)
	above := startProgram(t, nil, "watch", grandchild, "--from", "5", "--server", r.Conn.Target())
	above.await(&above.stdout, "+ 5  ")
	above.await(&above.stdout, "    * "+grandchild+" resolves otherwise")
	for _, p := range []*program{watching, asJSON, above} {
		if code := p.signal(os.Interrupt); code != exitDone {
			t.Errorf("exit code %d after SIGINT", code)
		}
	}
	keytree(t, "resolve", child, "--at", "5", "--unconfirmed", "--server", r.Conn.Target()).wantError(t, exitUsage, "leave --at out")
}
