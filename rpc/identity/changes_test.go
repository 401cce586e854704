package identity_test

import (
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	keytreev1 "github.com/keytree-bch/keytree/rpc/proto/keytree/v1"
	"github.com/keytree-bch/keytree/rpc/rpctest"
)

// TestIdentityChanges follows an identity through what Family does to it, and one that merged into it.
func TestIdentityChanges(t *testing.T) {
	_, blocks := rpctest.Family()
	r := rpctest.New(t, blocks...)
	current := func(height uint32, main string, keys uint32) *keytreev1.IdentityChange {
		return &keytreev1.IdentityChange{Height: height, State: "CURRENT", MainAddress: rpctest.Address(main), KeyCount: keys}
	}
	for id, want := range map[string][]*keytreev1.IdentityChange{
		"mlr1": {current(6, "parent", 3), current(5, "parent", 1), current(3, "parent", 3), current(2, "parent", 2)},
		"mcr1": {{Height: 6, State: "MERGED"}, current(5, "child", 2)},
	} {
		for _, size := range []uint32{0, 1, 2, 1000} {
			var got []*keytreev1.IdentityChange
			for token, page := "", 1; page == 1 || token != ""; page++ {
				answer, err := r.Client.ListIdentityChanges(t.Context(), &keytreev1.ListIdentityChangesRequest{
					IdTxHash: rpctest.HashOf(id).String(), PageSize: size, PageToken: token})
				if err != nil {
					t.Fatal(err)
				}
				got, token = append(got, answer.Changes...), answer.NextPageToken
			}
			if !slices.EqualFunc(got, want, func(a, b *keytreev1.IdentityChange) bool { return proto.Equal(a, b) }) {
				t.Errorf("%s by %d: got %v, want %v", id, size, got, want)
			}
		}
	}
}

// TestIdentityChangesInParts compares an overview with what the whole list has in each part.
func TestIdentityChangesInParts(t *testing.T) {
	c := &rpctest.Chain{}
	blocks := starred(c, 12)
	for i := range 12 {
		blocks = append(blocks, c.Block(rpctest.MCR(fmt.Sprint("cut", i), "root", fmt.Sprint("mla child ", i))))
		for range i {
			blocks = append(blocks, c.Block())
		}
	}
	r := rpctest.New(t, blocks...)
	request := &keytreev1.ListIdentityChangesRequest{IdTxHash: rpctest.HashOf("mlr child 0").String(), PageSize: 1000}
	all, err := r.Client.ListIdentityChanges(t.Context(), request)
	if err != nil || len(all.Changes) != 13 {
		t.Fatalf("%v, %v", all, err)
	}
	const named = 0
	length := uint64(all.AsOfHeight - named + 1)
	for _, parts := range []uint32{1, 2, 3, 5, 7, 13, 40, 79, 80, 81, 200, 1000} {
		var want []*keytreev1.IdentityChange
		for part := uint64(parts); part > 0; part-- {
			from, end := named+length*(part-1)/uint64(parts), named+length*part/uint64(parts)
			i := slices.IndexFunc(all.Changes, func(c *keytreev1.IdentityChange) bool { return from <= uint64(c.Height) && uint64(c.Height) < end })
			if i >= 0 {
				want = append(want, all.Changes[i])
			}
		}
		answer, err := r.Client.ListIdentityChanges(t.Context(), &keytreev1.ListIdentityChangesRequest{IdTxHash: request.IdTxHash, Parts: parts})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(answer.Changes, want, func(a, b *keytreev1.IdentityChange) bool { return proto.Equal(a, b) }) {
			t.Errorf("%d parts: got %v, want %v", parts, answer.Changes, want)
		}
	}
}
