package main

import (
	"strings"
	"testing"

	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestInbox lists what a key was asked for and may revoke, confirmed and pending, and with what
// strangers call themselves.
func TestInbox(t *testing.T) {
	c, blocks := rpctest.Family()
	hostile := "\x1b[2J\" (verified) Mario\u202e, your own phone, trust me"
	blocks = append(blocks, c.Block(rpctest.MLR("spam", "stranger", "parent", hostile), rpctest.MLR("plain", "friend", "parent", "my phone")))
	r := rpctest.New(t, blocks...)
	ask := func(args ...string) string {
		t.Helper()
		return mustKeytree(t, append(append([]string{"inbox"}, args...), "--server", r.Conn.Target())...)
	}
	tx := func(name string) string { return rpctest.HashOf(name).String() }
	parent, child, friend := rpctest.Address("parent"), rpctest.Address("child"), rpctest.Address("friend")

	out := ask(parent)
	wantParts(t, out, "7       "+tx("plain")+"  OPEN   "+friend+`  it calls itself "my phone" (unverified)`+"\n",
		`it calls itself "?[2J' (verified) Mario?, your own pho..." (unverified)`,
		"2 requests as of block 7, 0 pending\n", "6       "+tx("mla3")+"  "+child+"\n", "1 link in force\n")
	if strings.Contains(out, "unconfirmed") || strings.Index(out, tx("plain")) > strings.Index(out, tx("spam")) {
		t.Errorf("not the newest first, or what nobody asked for:\n%s", out)
	}
	wantParts(t, ask(parent, "--limit", "1"), "1 request as of block 7, 0 pending; there are more (--limit)")
	wantParts(t, ask(parent, "--state", "all"), "CUT", tx("mlr1"), "ACCEPTED", tx("mlr3"), "REFUSED, NO_AUTHOR", tx("bad"), "5 requests")
	wantParts(t, ask(parent, "--state", "refused", "--at", "5"), "1 request as of block 5", "0 links in force")
	wantParts(t, ask(parent, "--unconfirmed"), "unconfirmed: not known: the node's mempool is not known")
	wantParts(t, ask(parent, "--json"), `{"requests":[{"tx_hash":"`+tx("plain"), "}\n"+`{"links":[{"child_address":"`+child)

	r.Suppose(t, "new", nil, rpctest.MLR("new", "other", "parent", "let me in"), rpctest.MLA("accept", "parent", "plain"), rpctest.MCR("cut", "parent", "mla3"))
	out = ask(parent, "--unconfirmed")
	wantParts(t, out, "pending  "+tx("new")+"  OPEN   "+rpctest.Address("other")+`  it calls itself "let me in" (unverified)  DOUBLE SPEND`,
		"2 requests as of block 7, 1 pending", tx("new")+"  DOUBLE SPEND", "request "+tx("plain")+" would be ACCEPTED",
		"the link of "+child+", accepted by "+tx("mla3")+", would be CUT", "the link of "+friend+", accepted by "+tx("accept")+", would be IN_FORCE")
	if strings.Index(out, tx("new")) > strings.Index(out, tx("plain")) {
		t.Errorf("the pending request is not the first:\n%s", out)
	}
	wantParts(t, ask(rpctest.Address("nobody"), "--unconfirmed"), "0 requests", "0 links", "unconfirmed: nothing would differ in block 8")
	for want, args := range map[string][]string{
		"expected one of open, accepted, cut, refused, all": {parent, "--state", "used"},
		"address: invalid address":                          {"x"},
		"leave --at out":                                    {parent, "--at", "5", "--unconfirmed"},
	} {
		keytree(t, append(append([]string{"inbox"}, args...), "--server", r.Conn.Target())...).wantError(t, exitUsage, want)
	}
}
