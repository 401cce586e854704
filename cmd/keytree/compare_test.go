package main

import (
	"testing"

	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestCompare compares servers that agree, one that is behind, one on another branch, and one that is away.
func TestCompare(t *testing.T) {
	c, blocks := rpctest.Family()
	one, two := rpctest.New(t, blocks...).Conn.Target(), rpctest.New(t, blocks[:6]...).Conn.Target()
	c.Salt, c.Next, c.Prev = "fork", 4, blocks[3].Hash
	other := rpctest.New(t, append(blocks[:4:4], c.Block(), c.Block())...).Conn.Target()

	wantParts(t, mustKeytree(t, "compare", one, two), "same up to block  5", "tip 6, block "+blocks[5].Hash.String())
	wantParts(t, mustKeytree(t, "compare", one, one, two, "--json"), `{"same":true,"height":5,"servers":[{"server":"`+one+`","tip_height":6,"hash":"`+blocks[5].Hash.String())
	fails := func(args ...string) outcome {
		o := keytree(t, append([]string{"compare"}, args...)...)
		if o.code != exitFailed {
			t.Errorf("compare %q: exit code %d, want %d", args, o.code, exitFailed)
		}
		return o
	}
	o := fails(one, two, other)
	wantParts(t, o.stdout, "different from block  4", blocks[4].Hash.String())
	wantParts(t, o.stderr, "differ from block 4 on, where they follow different chains", "in the minority: "+other)
	o = fails(one, other, "--json")
	wantParts(t, o.stdout, `{"same":false,"height":4,`, `"minority":false`)
	wantParts(t, o.stderr, "which, a third one may tell")
	o = fails(one, two, nowhere)
	wantParts(t, o.stdout, "same up to block  5", nowhere+"  ", "not asked: server "+nowhere)
	wantParts(t, o.stderr, "is keytree serve running there?")
	keytree(t, "compare", one, nowhere).wantError(t, exitFailed, "fewer than two servers can be compared; server "+nowhere)
	keytree(t, "compare", one).wantError(t, exitUsage, "expected another SERVER")
	keytree(t, "compare", one, "somewhere").wantError(t, exitUsage, "expected HOST:PORT")
}
