package client_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keytree-bch/keytree/protocol/proof"
	"github.com/keytree-bch/keytree/rpc"
	"github.com/keytree-bch/keytree/rpc/client"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestProve asks for state proofs, and checks them by a policy.
func TestProve(t *testing.T) {
	chain, blocks := rpctest.Family()
	for range 10 {
		blocks = append(blocks, chain.Block())
	}
	log := new(rpctest.StateLog)
	r := rpctest.NewOf(t, rpc.Config{StateLog: log}, blocks...)
	log.Follow(t, r.Graph)
	log.Publish(t, 6)
	c, _ := newClient(t, r.Conn.Target(), client.Options{})
	child, nobody, id := rpctest.Address("child"), rpctest.Address("nobody"), rpctest.HashOf("mcr1")
	for name, test := range map[string]struct {
		ask    func() (*client.StateProof, error)
		height uint32
		want   []proof.StateSubject
	}{
		"one":         {func() (*client.StateProof, error) { return c.Prove(t.Context(), child, false) }, 6, []proof.StateSubject{{Key: rpctest.Key("child")}}},
		"one earlier": {func() (*client.StateProof, error) { return c.At(2).Prove(t.Context(), child, false) }, 2, []proof.StateSubject{{Key: rpctest.Key("child")}}},
		"two": {func() (*client.StateProof, error) { return c.ProveAll(t.Context(), []string{child, nobody}, false) }, 6,
			[]proof.StateSubject{{Key: rpctest.Key("child")}, {Key: rpctest.Key("nobody")}}},
		"an id": {func() (*client.StateProof, error) { return c.At(5).ProveIdentity(t.Context(), id.String()) }, 5, []proof.StateSubject{{IsID: true, ID: id}}},
	} {
		p, err := test.ask()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		proven, err := proof.VerifyState([]byte(p.Proof), log.Policy(t))
		if err != nil || proven.Entry.Height != test.height || len(proven.Subjects) != len(test.want) {
			t.Errorf("%s: %+v, %v", name, proven, err)
			continue
		}
		for i, want := range test.want {
			if proven.Subjects[i].StateSubject != want {
				t.Errorf("%s: about %v, want %v", name, proven.Subjects[i].StateSubject, want)
			}
		}
	}
	if _, err := c.At(7).Prove(t.Context(), child, false); status.Code(err) != codes.OutOfRange {
		t.Errorf("beyond the checkpoint: %v", err)
	}
}
